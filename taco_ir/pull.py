"""`python -m taco_ir.pull`: a model from a Hugging Face hub into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import Parser, run_verb


def parser() -> Parser:
    flags = Parser(
        "pull",
        "Download a model from a Hugging Face hub: safetensors, configurations, tokenizer and texts, no pickles\n"
        "and no code. Sizes and hashes are checked. The folder appears whole; an interrupted pull continues\n"
        "behind the last whole file, which the hub's cache keeps. With HF_HUB_OFFLINE=1 only that cache is asked.\n"
        "The hub is HF_ENDPOINT; the token, for private models, is HF_TOKEN, or what `hf auth login` keeps.",
        ("--overwrite",),
        "python -m taco_ir.pull you/my-model --output my-model\n"
        "  python -m taco_ir.search --topics nq-dev --model my-model",
    )
    flags.add_argument("name", metavar="ORG/NAME", help="its name at the hub")
    flags.add_argument("--revision", metavar="R", help="a branch, a tag or a commit [default: main]")
    flags.flag(
        "--output", metavar="FOLDER", help="[default: it stays in the hub's cache, where --model ORG/NAME finds it]"
    )
    flags.only(("--overwrite",), lambda options: options.output is not None, "--output")
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    from taco_ir.release.hub import pull

    print(pull(options.name, options.revision, options.output and Path(options.output), options.overwrite))


if __name__ == "__main__":
    run_verb(main)
