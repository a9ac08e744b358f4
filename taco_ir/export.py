"""`python -m taco_ir.export`: a checkpoint and its queries for Pyserini's own command line and for other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import MODEL_FLAGS, Parser, command, model_choice, run_verb
from taco_ir.core.files import InputError, claim_output
from taco_ir.release.exports import KINDS, WEIGHTS, ExportRequest, write_exports


def parser() -> Parser:
    flags = Parser(
        "export",
        "Write what others read, in folders of --output:\n"
        "  queries/<topics>/       encoded queries, for the unmodified Pyserini CLI (--encoded-queries)\n"
        "  huggingface/            a plain model folder, with the exact Pyserini flags in pyserini-flags.txt\n"
        "  sentence-transformers/  a folder for sentence-transformers\n"
        "  compact/                a small model folder: half precision or 8 bits, and, as far as these fit, the tokens that the collection's\n"
        "                          texts need most; adapters that cannot be merged stay apart, with their backbone beside them\n"
        "What an encoder cannot be is named and left out; asked for by --what, it is an error.",
        ("--collection", "--topics", *MODEL_FLAGS, "--overwrite"),
        "python -m taco_ir.export --model my-checkpoint --collection my-wiki --topics all-dev --output exported\n"
        "  python -m taco_ir.export --model my-checkpoint --collection my-wiki --what compact --megabytes 29.9 --output small",
    )
    flags.flag("--output", required=True, metavar="DIR", help="folder of the exported folders")
    flags.add_argument(
        "--what", nargs="+", choices=KINDS, help="[default: all that apply; queries need --topics, compact --megabytes]"
    )
    flags.add_argument("--megabytes", type=float, metavar="X", help="of the compact folder, at most (10^6 bytes each)")
    flags.add_argument(
        "--weights", choices=WEIGHTS, help="of the compact folder; int8 has a scale for each row [default: float16]"
    )
    flags.add_argument(
        "--prompt-of",
        nargs="+",
        default=[],
        metavar="TASK=TASK",
        help="tasks that the model has no prompt for take that of another, as in trex=zsre; *=nq is for all others. The same for adapters "
        "of tasks; *=none is the backbone without any",
    )
    flags.only(("--topics",), lambda options: not options.what or "queries" in options.what, "--what queries")
    flags.only(("--collection",), lambda options: bool(options.topics or options.megabytes), "--topics or --megabytes")
    flags.only(
        ("--precision", "--batch-size"),
        lambda options: bool(options.topics or options.megabytes),
        "--topics or --megabytes, which encode",
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
