"""`python -m taco_ir.export`: export a model, or its encoded queries, for Pyserini's own commands and other
libraries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import MODEL_FLAGS, Parser, command, model_choice, run_verb
from taco_ir.core.files import InputError
from taco_ir.core.outputs import claim_output
from taco_ir.release.exports import KINDS, WEIGHTS, ExportRequest, write_exports


def parser() -> Parser:
    flags = Parser(
        "export",
        "Export a model, or its encoded queries, for Pyserini's own commands and other libraries. Folders in "
        "--output:\n  queries/<topics>/       encoded queries for the unmodified Pyserini CLI "
        "(--encoded-queries)\n  huggingface/            a plain model folder, with the exact Pyserini flags in "
        "pyserini-flags.txt\n  sentence-transformers/  a folder for sentence-transformers\n  compact/             "
        "   a small model folder: half precision or 8 bits and, if need be, only the\n                          "
        "tokens that the collection's texts use most; adapters that cannot be\n                          merged "
        "stay beside their backbone\nFormats that the model cannot be exported to are named and skipped; asking "
        "for one of them by --what is an error.",
        ("--collection", "--topics", *MODEL_FLAGS, "--overwrite"),
        "python -m taco_ir.export --model my-checkpoint --collection my-wiki --topics all-dev --output exported\n"
        "  python -m taco_ir.export --model my-checkpoint --collection my-wiki --what compact --megabytes 29.9 \\\n"
        "      --output small",
    )
    flags.flag("--output", "folder to write the exports to", required=True, metavar="FOLDER")
    what = "what to write; queries needs --topics, compact needs --megabytes [default: everything possible]"
    flags.flag("--what", what, nargs="+", choices=KINDS)
    flags.flag("--megabytes", "largest size of the compact folder, in 10^6 bytes", type=float, metavar="X")
    weights = "number format of the compact folder; int8 has a scale for each row [default: float16]"
    flags.flag("--weights", weights, choices=WEIGHTS)
    flags.flag(
        "--prompt-of",
        "for tasks the model was not trained on: take the prompt and adapter of another task. trex=zsre: trex "
        "uses those of zsre; *=nq: all other tasks use those of nq; *=none: all other tasks use the backbone "
        "without adapters",
        nargs="+",
        default=[],
        metavar="TASK=TASK",
    )
    of_encoding = ("--collection", "--precision", "--batch-size")
    flags.only(("--topics",), lambda options: not options.what or "queries" in options.what, "--what queries")
    flags.only(
        of_encoding, lambda options: bool(options.topics or options.megabytes), "--topics or --megabytes, which encode"
    )
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    output = Path(options.output)
    request = ExportRequest(
        options.collection,
        tuple(options.what or ()),
        tuple(options.topics or ()),
        options.megabytes,
        options.weights,
        tuple(options.prompt_of),
    )
    if output.is_file():
        raise InputError(f"--output {output} is a file; give a folder")
    with claim_output(output, command(options), options.overwrite, resume=True):
        write_exports(request, model_choice(options), output)


if __name__ == "__main__":
    run_verb(main)
