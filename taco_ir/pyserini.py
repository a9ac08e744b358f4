"""`python -m taco_ir.pyserini MODULE ARGS...`: run a Pyserini command with our encoders (--encoder-class taco)."""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.cli import Parser, run_verb


def parser() -> Parser:
    flags = Parser(
        "pyserini",
        "Run any Pyserini command, like `python -m MODULE ARGS...`. Java is found automatically (no JDK is needed), "
        "and --encoder-class taco loads encoders of taco_ir. For --query-prefix give a task of the model, or a "
        "text to put before every query.",
        example="python -m taco_ir.pyserini pyserini.search.faiss --encoder my-checkpoint --encoder-class taco \\\n"
        "      --index indexes/my-wiki --topics my-wiki/nq-dev.jsonl --topics-format kilt --output nq-dev.trec",
    )
    flags.flag(
        "module", "the Pyserini command, such as pyserini.search.faiss; you can leave out `pyserini.`", metavar="MODULE"
    )
    return flags


def main(argv: Sequence[str]) -> None:
    module = parser().parse_args(argv[:1]).module
    from taco_ir.retrieval.pyserini_bridge import run_pyserini

    run_pyserini(module if module.startswith("pyserini.") else f"pyserini.{module}", argv[1:])


if __name__ == "__main__":
    run_verb(main)
