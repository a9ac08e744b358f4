"""`python -m taco_ir.export`: a checkpoint and its queries for Pyserini's own command line and for other libraries."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from taco_ir.cli import MODEL_FLAGS, Parser, command, run_verb
from taco_ir.core.files import InputError, claimed, is_leftover, named, writing_folder
from taco_ir.core.tasks import canonical_task
from taco_ir.core.types import Vectors
from taco_ir.data.collection import Collection, open_collection
from taco_ir.retrieval.encoding import encode_topics

if TYPE_CHECKING:
    from taco_ir.encoders.adapters.encoder import TunedEncoder
    from taco_ir.encoders.text_encoder import TextEncoder

KINDS = ("queries", "huggingface", "sentence-transformers", "compact")
WEIGHTS = ("float16", "int8")
COMPARED = 1000  # passages that a compact folder's vectors are compared on


def parser() -> Parser:
    flags = Parser(
        "export",
        "Write what others read, in folders of --output:\n"
        "  queries/<topics>/       encoded queries, for the unmodified Pyserini CLI (--encoded-queries)\n"
        "  huggingface/            a plain model folder, with the exact Pyserini flags in pyserini-flags.txt\n"
        "  sentence-transformers/  a folder for sentence-transformers\n"
        "  compact/                a small model folder: half precision or 8 bits, and, as far as these fit, the tokens that the collection's\n"
        "                          texts need most; modules that cannot be merged stay apart, with their backbone beside them\n"
        "What an encoder cannot be is named and left out; asked for by --what, it is an error.",
        ("--collection", "--topics", *MODEL_FLAGS, "--overwrite"),
        "python -m taco_ir.export --model my-checkpoint --collection my-wiki --topics all-dev --output exported\n"
        "  python -m taco_ir.export --model my-checkpoint --collection my-wiki --what compact --megabytes 29.9 --output small",
    )
    flags.flag("--output", required=True, metavar="DIR", help="folder of the exported folders")
    flags.add_argument("--what", nargs="+", choices=KINDS, help="[default: all that apply; queries need --topics, compact --megabytes]")
    flags.add_argument("--megabytes", type=float, metavar="X", help="of the compact folder, at most (10^6 bytes each)")
    flags.add_argument("--weights", choices=WEIGHTS, help="of the compact folder; int8 has a scale for each row [default: float16]")
    flags.add_argument(
        "--prompt-of",
        nargs="+",
        default=[],
        metavar="TASK=TASK",
        help="tasks that the model has no prompt for take that of another, as in trex=zsre; *=nq is for all others. The same for modules "
        "of tasks; *=none is the backbone without any",
    )
    flags.only(("--topics",), lambda options: not options.what or "queries" in options.what, "--what queries")
    flags.only(("--collection",), lambda options: bool(options.topics or options.megabytes), "--topics or --megabytes")
    flags.only(
        ("--precision", "--batch-size"), lambda options: bool(options.topics or options.megabytes), "--topics or --megabytes, which encode"
    )
    return flags


def lenders(options: Namespace) -> dict[str, str]:
    """--prompt-of, by task. Raises: InputError."""
    found = {}
    for text in options.prompt_of:
        task, _, lender = text.partition("=")
        if not (task and lender):
            raise InputError(f"--prompt-of {text!r} is not TASK=TASK")
        found[canonical_task(task)] = canonical_task(lender)
    return found


@contextmanager
def whole_model(encoder: TextEncoder, base: str | None) -> Iterator[Path]:
    """The folder of the encoder's model; a tuned one is merged into a folder of its own meanwhile. Raises: InputError where it cannot be."""
    from taco_ir.encoders.adapters.folder import base_folder, is_tuned

    if not is_tuned(encoder.folder):
        yield encoder.folder
        return
    from taco_ir.encoders.adapters.encoder import TunedEncoder
    from taco_ir.encoders.adapters.merging import write_merged

    if not isinstance(encoder, TunedEncoder):
        raise TypeError(f"{encoder.folder} is a tuned model; its encoder is a {type(encoder).__name__}")
    with TemporaryDirectory() as folder:
        with named(Path(folder)):
            write_merged(encoder, base_folder(encoder.folder, base), Path(folder))
        yield Path(folder)


def source_of(kind: str, encoder: TextEncoder, base: str | None) -> AbstractContextManager[Path]:
    """The folder that `kind` is made from: the whole model's, or the backbone's where modules stay. Raises: InputError where there is none."""
    from taco_ir.encoders.adapters.folder import base_folder

    if kind == "compact" and with_modules(encoder):
        return nullcontext(base_folder(encoder.folder, base))
    return whole_model(encoder, base)


def texts_of(collection: Collection) -> Iterator[str]:
    """What a model reads of a collection: its passages, and its train queries."""
    for passage in collection.passages.read():
        yield f"{passage.title} {passage.text}"
    for name in collection.topics_names:
        if name.split == "train":
            yield from (query.text for query in collection.load_topics(str(name)).queries)


def with_modules(encoder: TextEncoder) -> TunedEncoder | None:
    """The encoder, if it has modules that stay modules in a small folder."""
    from taco_ir.encoders.adapters.encoder import TunedEncoder
    from taco_ir.encoders.adapters.merging import mergeable

    return encoder if isinstance(encoder, TunedEncoder) and not mergeable(encoder.record) else None


def write_compact(encoder: TextEncoder, model: Path, folder: Path, collection: Collection, limit: int, weights: str) -> None:
    """Write the small folder, and print what it cost: bytes, tokens, and the least cosine of its passages' vectors to those of before.

    Args:
        model: the folder of the whole model, or of the backbone of one whose modules stay.
    """
    from taco_ir.encoders.text_encoder import load_encoder
    from taco_ir.release.compact import compact
    from taco_ir.release.compact_adapters import compact_tuned

    texts, tuned = texts_of(collection), with_modules(encoder)
    if tuned:
        made = compact_tuned(tuned, model, folder, texts, limit, weights)
    else:
        made = compact(model, folder, encoder.config, texts, limit, weights)
    passages = list(islice(collection.passages.read(), 0, None, max(1, collection.passages.count // COMPARED)))[:COMPARED]
    cosines_N = _cosines(encoder.encode_passages(passages), load_encoder(str(folder)).encode_passages(passages))
    print(
        f"{made.size / 1e6:.2f} MB, {made.tokens:,} of {made.of:,} tokens kept; cosine to the vectors of before on {len(passages)} passages: "
        f"least {cosines_N.min():.4f}, mean {cosines_N.mean():.6f}"
    )


def _cosines(a_ND: Vectors, b_ND: Vectors) -> Vectors:
    """Row by row [N]."""
    dots_N: Vectors = (a_ND * b_ND).sum(1) / ((a_ND**2).sum(1) * (b_ND**2).sum(1)) ** 0.5
    return dots_N


def check_flags(options: Namespace) -> None:
    """Raise InputError for flags that do not go together, and for a file as the output."""
    output = Path(options.output)
    if options.what and "queries" in options.what and not options.topics:
        raise InputError("--what queries needs --topics")
    if options.what and ("compact" in options.what) != (options.megabytes is not None):
        raise InputError("--what compact and --megabytes go together")
    if options.megabytes is not None and not options.megabytes > 0:
        raise InputError(f"--megabytes {options.megabytes}: a number above 0 is needed")
    if options.weights and options.megabytes is None:
        raise InputError("--weights are those of a compact folder, which --megabytes asks for")
    if output.is_file():
        raise InputError(f"--output {output} is a file; give a folder")


def refuse_existing(options: Namespace) -> None:
    """Raise InputError for an output that is there, without --overwrite."""
    output = Path(options.output)
    if not options.overwrite and output.is_dir() and not all(map(is_leftover, output.iterdir())):
        raise InputError(f"--output {output} exists; give another folder or --overwrite")


def writers_of(options: Namespace, encoder: TextEncoder) -> dict[str, Callable[[Path, Path], object]]:
    """What writes each folder that can be asked for, from a model's into an empty one."""
    from taco_ir.encoders.exports import write_huggingface, write_sentence_transformers

    named = str(Path(options.output) / "huggingface")
    writers: dict[str, Callable[[Path, Path], object]] = {
        "huggingface": lambda model, folder: write_huggingface(model, encoder.config, folder, named),
        "sentence-transformers": lambda model, folder: write_sentence_transformers(model, encoder.config, folder),
    }
    if options.megabytes:
        read, limit, weights = open_collection(options.collection), int(options.megabytes * 1_000_000), options.weights or WEIGHTS[0]
        writers["compact"] = lambda model, folder: write_compact(encoder, model, folder, read, limit, weights)
    return writers


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    check_flags(options)
    with claimed(Path(options.output) / "export", command(options), partial(refuse_existing, options)):
        write_all(options)


def write_all(options: Namespace) -> None:
    """Write each folder that is asked for, or can be made of the model."""
    output, wanted = Path(options.output), options.what or KINDS
    from taco_ir.retrieval.systems import encoder_of

    encoder = encoder_of(options)
    encoder.borrow(lenders(options))
    writers = writers_of(options, encoder)
    for kind, write in writers.items():
        if kind in wanted:
            try:
                with source_of(kind, encoder, options.base) as model, writing_folder(output / kind) as folder:
                    write(model, folder)
            except InputError as reason:
                if options.what:
                    raise
                print(f"left out {kind}: {reason}")
            else:
                print(output / kind)
    if "queries" in wanted and options.topics:
        from taco_ir.retrieval.pyserini_bridge import write_encoded_queries

        collection = open_collection(options.collection)
        for name in collection.expand(options.topics):
            topics = collection.topics(name)
            vectors_BD = encode_topics(collection, encoder, topics.queries)
            write_encoded_queries(topics.queries, vectors_BD, output / "queries" / topics.name)
            print(output / "queries" / topics.name)


if __name__ == "__main__":
    run_verb(main)
