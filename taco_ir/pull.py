"""`python -m taco_ir.pull`: download a model from a Hugging Face hub into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import Parser, run_verb


def parser() -> Parser:
    flags = Parser(
        "pull",
        "Download a model from a Hugging Face hub: safetensors, configurations, tokenizer and texts, but no "
        "pickles and no code. Sizes and hashes are checked, and the folder appears only when it is complete. The "
        "hub's cache keeps complete files, so an interrupted pull continues with the next file. With "
        "HF_HUB_OFFLINE=1 only that cache is used.\nHF_ENDPOINT names the hub. For private models, the token is "
        "taken from HF_TOKEN, or from `hf auth login`.",
        ("--overwrite",),
        "python -m taco_ir.pull you/my-model --output my-model\n"
        "  python -m taco_ir.search --topics nq-dev --model my-model",
    )
    flags.flag("name", "the model's name on the hub", metavar="ORG/NAME")
    flags.flag("--revision", "a branch, tag or commit [default: main]", metavar="REVISION")
    cache = "[default: keep it only in the hub's cache, where --model ORG/NAME finds it]"
    flags.flag("--output", f"folder to write the model to {cache}", metavar="FOLDER")
    flags.only(("--overwrite",), lambda options: options.output is not None, "--output")
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    from taco_ir.release.hub import pull

    print(pull(options.name, options.revision, options.output and Path(options.output), options.overwrite))


if __name__ == "__main__":
    run_verb(main)
