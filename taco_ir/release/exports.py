"""Exports models: folders for Hugging Face and sentence-transformers, encoded queries for Pyserini, small models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from taco_ir.core.files import InputError, named, writing_folder
from taco_ir.core.tasks import canonical_task
from taco_ir.data.collection import Collection, open_collection
from taco_ir.encoders.exports import write_huggingface, write_merged, write_sentence_transformers
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.text_encoder import TextEncoder, load_encoder
from taco_ir.release.compact import compact, compact_adapters
from taco_ir.retrieval.choices import ModelChoice
from taco_ir.retrieval.encoding import encode_topics

KINDS = ("queries", "huggingface", "sentence-transformers", "compact")
WEIGHTS = ("float16", "int8")
COMPARED = 1000  # passages on which the vectors of a compact folder are compared with the original


@dataclass(frozen=True)
class ExportRequest:
    """A request to export a model: the formats and their settings.

    Attributes:
        collection: provides topics to encode, and texts that show which tokens a compact folder needs.
        what: some of KINDS; empty: everything that is possible.
        megabytes, weights: size and format of the compact folder.
        prompt_of: texts `task=lender`, for tasks that borrow the prompt, length and adapter of another task.

    Raises:
        InputError: for attributes that do not go together.
    """

    collection: str
    what: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    megabytes: float | None = None
    weights: str | None = None
    prompt_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "queries" in self.what and not self.topics:
            raise InputError("--what queries needs --topics")
        if self.what and ("compact" in self.what) != (self.megabytes is not None):
            raise InputError("--what compact and --megabytes must be given together")
        if self.megabytes is not None and not self.megabytes > 0:
            raise InputError(f"--megabytes is {self.megabytes}; it must be a number above 0")
        if self.weights and self.megabytes is None:
            raise InputError("--weights has an effect only with --megabytes")

    @property
    def lenders(self) -> dict[str, str]:
        """Returns {task: task that it borrows from}. Raises: InputError for a text that is not TASK=TASK."""
        found = {}
        for text in self.prompt_of:
            task, _, lender = text.partition("=")
            if not (task and lender):
                raise InputError(f"--prompt-of {text!r} is not TASK=TASK, such as trex=zsre")
            found[canonical_task(task)] = canonical_task(lender)
        return found


def write_exports(request: ExportRequest, model: ModelChoice, output: Path) -> None:
    """Write the requested exports, or all possible exports, into `output`, and print the paths.

    Raises:
        InputError: for a requested kind that the model cannot be exported as.
    """
    wanted = request.what or KINDS
    lenders = request.lenders
    collection = open_collection(request.collection)
    names = collection.expand(request.topics) if "queries" in wanted and request.topics else []
    topics = [collection.topics(name) for name in names]
    encoder = model.load()
    encoder.borrow(lenders)
    of_passages = ""
    if encoder.record is not None and encoder.record.merges_queries:
        of_passages = str(ModelFolder(encoder.folder).backbone(model.base))
        print(f"merged models encode only queries; encode passages with {of_passages}")
    for kind, write in _writers(request, encoder, output, collection, (model.base, of_passages)).items():
        if kind in wanted:
            try:
                with open_source(kind, encoder, model.base) as source, writing_folder(output / kind) as folder:
                    write(source, folder)
            except InputError as reason:
                if request.what:
                    raise
                print(f"left out {kind}: {reason}")
            else:
                print(output / kind)
    if topics:
        from taco_ir.retrieval.pyserini_bridge import write_encoded_queries
    for topic in topics:
        vectors_BD = encode_topics(collection, encoder, topic.queries)
        write_encoded_queries(topic.queries, vectors_BD, output / "queries" / topic.name)
        print(output / "queries" / topic.name)


def _writers(
    request: ExportRequest, encoder: TextEncoder, output: Path, collection: Collection, places: tuple[str | None, str]
) -> dict[str, Callable[[Path, Path], object]]:
    """Returns, for each kind of export, a function that writes a model's folder as this kind into an empty folder.

    Args:
        places: the base that the user gave, and the encoder of passages if it is another one.
    """
    writers: dict[str, Callable[[Path, Path], object]] = {
        "huggingface": lambda model, folder: write_huggingface(
            model, encoder.config, folder, str(output / "huggingface"), *places
        ),
        "sentence-transformers": lambda model, folder: write_sentence_transformers(
            model, encoder.config, folder, *places
        ),
    }
    if request.megabytes:
        limit, weights = int(request.megabytes * 1_000_000), request.weights or WEIGHTS[0]
        writers["compact"] = lambda model, folder: write_compact(encoder, model, folder, collection, limit, weights)
    return writers


@contextmanager
def open_merged(encoder: TextEncoder, base: str | None) -> Iterator[Path]:
    """Yield a folder with the encoder's model and its adapters merged. Raises: InputError if they cannot be merged."""
    if encoder.record is None:
        yield encoder.folder
        return
    with TemporaryDirectory() as folder:
        with named(Path(folder)):
            write_merged(encoder, ModelFolder(encoder.folder).backbone(base), Path(folder))
        yield Path(folder)


def open_source(kind: str, encoder: TextEncoder, base: str | None) -> AbstractContextManager[Path]:
    """Open the folder to export `kind` from: as `open_merged`, or the backbone if a compact folder keeps adapters."""
    if kind == "compact" and keeps_adapters(encoder):
        return nullcontext(ModelFolder(encoder.folder).backbone(base).path)
    return open_merged(encoder, base)


def read_texts(collection: Collection) -> Iterator[str]:
    """Yield the texts of a collection that a model reads: passages and train queries."""
    for passage in collection.passages.read():
        yield f"{passage.title} {passage.text}"
    for name in collection.topics_names:
        if name.split == "train":
            yield from (query.text for query in collection.load_topics(str(name)).queries)


def keeps_adapters(encoder: TextEncoder) -> bool:
    """True if the encoder has adapters that cannot be merged, so that a compact folder must keep them."""
    return encoder.record is not None and not encoder.record.mergeable


def write_compact(
    encoder: TextEncoder, model: Path, folder: Path, collection: Collection, limit: int, weights: str
) -> None:
    """Write the compact folder, and print its size, its tokens, and the cosines between old and new vectors.

    Args:
        model: the folder of the merged model, or of the backbone if adapters stay separate.
        limit: largest size in bytes.
        weights: number format of the weights, one of WEIGHTS.
    """
    texts = read_texts(collection)
    if keeps_adapters(encoder):
        made = compact_adapters(encoder, model, folder, texts, limit, weights)
    else:
        made = compact(model, folder, encoder.config, texts, limit, weights)
    every = max(1, collection.passages.count // COMPARED)
    passages = list(islice(collection.passages.read(), 0, every * COMPARED, every))
    old_ND, new_ND = (each.encode_passages(passages) for each in (encoder, load_encoder(str(folder))))
    cosines_N = (old_ND * new_ND).sum(1) / ((old_ND**2).sum(1) * (new_ND**2).sum(1)) ** 0.5
    print(
        f"{made.size / 1e6:.2f} MB, {made.tokens:,} of {made.of:,} tokens kept; cosine to the original vectors on "
        f"{len(passages)} passages: least {cosines_N.min():.4f}, mean {cosines_N.mean():.6f}"
    )
