"""`python -m taco_ir.pyserini MODULE ARGS...`: run a Pyserini command with our encoders (--encoder-class taco)."""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.cli import Parser, run_verb


def parser() -> Parser:
    flags = Parser(
        "pyserini",
        "Run any Pyserini command, as `python -m MODULE ARGS...` would, with Java found (no JDK is needed) and with "
        "the encoders of taco_ir under --encoder-class taco. --query-prefix takes a task of the checkpoint or a text.",
        example="python -m taco_ir.pyserini pyserini.search.faiss --encoder my-checkpoint --encoder-class taco \\\n"
        "      --index indexes/my-wiki --topics my-wiki/nq-dev.jsonl --topics-format kilt --output nq-dev.trec",
    )
    flags.flag("module", "such as pyserini.search.faiss; `pyserini.` may be left out", metavar="MODULE")
    return flags


def main(argv: Sequence[str]) -> None:
    module = parser().parse_args(argv[:1]).module
    from taco_ir.retrieval.pyserini_bridge import run_pyserini

    run_pyserini(module if module.startswith("pyserini.") else f"pyserini.{module}", argv[1:])


if __name__ == "__main__":
    run_verb(main)
