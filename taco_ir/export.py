"""`python -m taco_ir.export`: export a model and its vectors, for Pyserini, other libraries and vector stores."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from taco_ir.cli import MODEL_FLAGS, Parser, command, model_choice, run_verb
from taco_ir.core.files import InputError
from taco_ir.core.outputs import claim_output
from taco_ir.release.exports import KINDS, WEIGHTS, ExportRequest, write_exports
from taco_ir.release.stores import FORMATS, KEY, StoreRequest, read_made_of

VECTORS = "vectors"


def parser() -> Parser:
    flags = Parser(
        "export",
        "Export a model, or its encoded queries, for Pyserini's own commands and other libraries, or encoded "
        "passages for vector stores. Folders in "
        "--output:\n  queries/<topics>/       encoded queries for the unmodified Pyserini CLI "
        "(--encoded-queries)\n  huggingface/            a plain model folder, with the exact Pyserini flags in "
        "pyserini-flags.txt\n  sentence-transformers/  a folder for sentence-transformers\n  compact/             "
        "   a small model folder: half precision or 8 bits and, if need be, only the\n                          "
        "tokens that the collection's texts use most; adapters that cannot be\n                          merged "
        "stay beside their backbone\n  parquet/, qdrant/, lucene-json/  passages with their vectors (--what vectors)\n"
        "Formats that do not fit the model are skipped with a message, but a format "
        "that --what names must fit.",
        ("--collection", "--topics", *MODEL_FLAGS, "--overwrite"),
        "python -m taco_ir.export --model my-checkpoint --collection my-wiki --topics all-dev --output exported\n"
        "  python -m taco_ir.export --model my-checkpoint --collection my-wiki --what compact --megabytes 29.9 \\\n"
        "      --output small\n"
        "  python -m taco_ir.export --what vectors --vectors vectors/my-wiki --collection my-wiki --format parquet \\\n"
        "      --output store",
    )
    flags.flag("--output", "folder to write the exports to", required=True, metavar="FOLDER")
    what = (
        "what to write. queries needs --topics; compact needs --megabytes; vectors needs --vectors, and cannot be "
        "combined with others [default: everything that is possible for the model]"
    )
    flags.flag("--what", what, nargs="+", choices=(*KINDS, VECTORS))
    flags.flag("--vectors", "vectors to export, from `python -m taco_ir.encode`", metavar="FOLDER")
    form = (
        "format of the vectors. parquet: files for LanceDB and others. qdrant: the server at --url or, without --url, "
        "a local store for small collections. lucene-json: for Lucene's HNSW index [default: parquet]"
    )
    flags.flag("--format", form, choices=tuple(FORMATS), default="parquet")
    flags.flag("--url", f"a Qdrant server, such as http://localhost:6333; its key is read from {KEY}", metavar="URL")
    flags.flag("--megabytes", "largest size of the compact folder, in 10^6 bytes", type=float, metavar="X")
    weights = "number format of weights in the compact folder; int8 has a scale for each row [default: float16]"
    flags.flag("--weights", weights, choices=WEIGHTS)
    flags.flag(
        "--prompt-of",
        "for tasks the model was not trained on: take the prompt and adapter of another task. trex=zsre: trex "
        "takes them from zsre. *=nq: all other tasks take them from nq. *=none: all other tasks use the backbone "
        "without adapters",
        nargs="+",
        default=[],
        metavar="TASK=TASK",
    )
    flags.only(("--vectors", "--format", "--url"), _is_of_vectors, f"--what {VECTORS}")
    of_models = (*MODEL_FLAGS, "--megabytes", "--weights", "--prompt-of")
    flags.only(of_models, lambda options: not _is_of_vectors(options), f"exports of models, not --what {VECTORS}")
    flags.only(("--url",), lambda options: options.format == "qdrant", "--format qdrant")
    flags.only(("--topics",), lambda options: not options.what or "queries" in options.what, "--what queries")
    encodes = "--topics or --megabytes, which encode"
    flags.only(("--precision", "--batch-size"), _encodes, encodes)
    of_texts = f"{encodes}, or --what {VECTORS}"
    flags.only(("--collection",), lambda options: _encodes(options) or _is_of_vectors(options), of_texts)
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    output = Path(options.output)
    if output.is_file():
        raise InputError(f"--output {output} is a file; give a folder")
    if VECTORS in (options.what or ()):
        export_vectors(options, output)
        return
    request = ExportRequest(
        options.collection,
        tuple(options.what or ()),
        tuple(options.topics or ()),
        options.megabytes,
        options.weights,
        tuple(options.prompt_of),
    )
    with claim_output(output, command(options), options.overwrite, resume=True):
        write_exports(request, model_choice(options), output)


def export_vectors(options: Namespace, output: Path) -> None:
    """Write passages with their vectors in the format that the options name."""
    if len(options.what) > 1 or options.vectors is None:
        raise InputError(f"--what {VECTORS} cannot be combined, and needs --vectors FOLDER, written by taco_ir.encode")
    request = StoreRequest(options.vectors, options.collection, options.format, options.url)
    record = partial(read_made_of, output)
    with claim_output(output, request.made_of, options.overwrite, resume=True, record=record) as finished:
        if not finished:
            request.write(output)
    print(options.url or output / options.format)


def _encodes(options: Namespace) -> bool:
    return bool(options.topics or options.megabytes)


def _is_of_vectors(options: Namespace) -> bool:
    return bool(options.what) and VECTORS in options.what


if __name__ == "__main__":
    run_verb(main)
