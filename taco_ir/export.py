"""`python -m taco_ir.export`: a checkpoint and its queries for Pyserini's own command line and for other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from taco_ir.console import MODEL_FLAGS, Parser, positive, run_verb
from taco_ir.data.collections import Collection, open_collection
from taco_ir.files import InputError, writing_folder

if TYPE_CHECKING:
    from taco_ir.models.encoder import TextEncoder

KINDS = ("queries", "huggingface", "sentence-transformers", "compact")


def parser() -> Parser:
    flags = Parser(
        "export",
        "Write what others read, in folders of --output:\n"
        "  queries/<topics>/       encoded queries, for the unmodified Pyserini CLI (--encoded-queries)\n"
        "  huggingface/            a plain model folder, with the exact Pyserini flags in pyserini-flags.txt\n"
        "  sentence-transformers/  a folder for sentence-transformers\n"
        "  compact/                a small model folder: half precision, and the tokens that the collection's texts need most\n"
        "What an encoder cannot be is named and left out; asked for by --what, it is an error.",
        ("--collection", "--topics", *MODEL_FLAGS, "--overwrite"),
        "python -m taco_ir.export --model my-checkpoint --collection my-wiki --topics all-dev --output exported\n"
        "  python -m taco_ir.export --model my-checkpoint --collection my-wiki --what compact --megabytes 30 --output small",
    )
    flags.flag("--output", required=True, metavar="DIR", help="folder of the exported folders")
    flags.add_argument("--what", nargs="+", choices=KINDS, help="[default: all that apply; queries need --topics, compact --megabytes]")
    flags.add_argument("--megabytes", type=positive, metavar="N", help="of the compact folder, at most (10^6 bytes each)")
    return flags


@contextmanager
def whole_model(encoder: TextEncoder, base: str | None) -> Iterator[Path]:
    """The folder of the encoder's model; a tuned one is merged into a folder of its own meanwhile. Raises: InputError where it cannot be."""
    from taco_ir.models.tuning.folder import base_folder, is_tuned

    if not is_tuned(encoder.folder):
        yield encoder.folder
        return
    from taco_ir.models.tuning.encoder import TunedEncoder
    from taco_ir.models.tuning.merging import write_merged

    if not isinstance(encoder, TunedEncoder):
        raise TypeError(f"{encoder.folder} is a tuned model; its encoder is a {type(encoder).__name__}")
    with TemporaryDirectory() as folder:
        write_merged(encoder, base_folder(encoder.folder, base), Path(folder))
        yield Path(folder)


def texts_of(collection: Collection) -> Iterator[str]:
    """What a model reads of a collection: its passages, and its train queries."""
    for passage in collection.passages.read():
        yield f"{passage.title} {passage.text}"
    for name in collection.topics_names:
        if name.split == "train":
            yield from (query.text for query in collection.load_topics(str(name)).queries)


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    output, wanted = Path(options.output), options.what or KINDS
    if options.what and "queries" in options.what and not options.topics:
        raise InputError("--what queries needs --topics")
    if options.what and ("compact" in options.what) != (options.megabytes is not None):
        raise InputError("--what compact and --megabytes go together")
    if output.is_file():
        raise InputError(f"--output {output} is a file; give a folder")
    if output.is_dir() and any(output.iterdir()) and not options.overwrite:
        raise InputError(f"--output {output} exists; give another folder or --overwrite")
    from taco_ir.models.compact import compact
    from taco_ir.models.export import write_huggingface, write_sentence_transformers
    from taco_ir.systems import encoder_of

    encoder = encoder_of(options)
    writers: dict[str, Callable[[Path, Path], object]] = {
        "huggingface": lambda model, folder: write_huggingface(model, encoder.config, folder, str(output / "huggingface")),
        "sentence-transformers": lambda model, folder: write_sentence_transformers(model, encoder.config, folder),
    }
    if options.megabytes:
        texts = texts_of(open_collection(options.collection))
        writers["compact"] = lambda model, folder: compact(model, folder, encoder.config, texts, options.megabytes * 1_000_000)
    for kind, write in writers.items():
        if kind in wanted:
            try:
                with whole_model(encoder, options.base) as model, writing_folder(output / kind) as folder:
                    write(model, folder)
            except InputError as reason:
                if options.what:
                    raise
                print(f"left out {kind}: {reason}")
            else:
                print(output / kind)
    if "queries" in wanted and options.topics:
        from taco_ir.retrieval.pyserini import write_encoded_queries

        collection = open_collection(options.collection)
        for name in collection.expand(options.topics):
            topics = collection.topics(name)
            vectors_BD = encoder.encode_queries([query.text for query in topics.queries], topics.task)
            write_encoded_queries(topics.queries, vectors_BD, output / "queries" / topics.name)
            print(output / "queries" / topics.name)


if __name__ == "__main__":
    run_verb(main)
