"""`python -m taco_ir.push`: upload a trained model to a Hugging Face hub, with a model card."""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.cli import Parser, run_verb


def parser() -> Parser:
    flags = Parser(
        "push",
        "Push a trained model to a Hugging Face hub, where pull and --model ORG/NAME find it. One commit has all of "
        "it: safetensors, configurations, tokenizer, and README.md, the model card. Pickles and code stay. The "
        "backbone of adapters goes along if it is a local folder.\n"
        "A README.md in the folder is kept; its front matter, where you say the licence, gains tags, base model, "
        "tasks and prompts.\n"
        "The hub is HF_ENDPOINT (if it does not know xet, set HF_HUB_DISABLE_XET=1). The token is HF_TOKEN, or the one "
        "that hf auth login keeps.",
        example="python -m taco_ir.push my-run you/my-model --dry-run\n"
        "  python -m taco_ir.push my-run you/my-model --private --message 'Three epochs more'",
    )
    flags.flag("model", "a trained model or the folder of a training; or taco-mini", metavar="MODEL_FOLDER")
    flags.flag("name", "its name at the hub; the repository is made if there is none", metavar="ORG/NAME")
    flags.flag("--private", "make a new repository private", action="store_true")
    flags.flag("--revision", "the branch, made if there is none [default: main]", metavar="REVISION")
    flags.flag("--message", "message of the commit", metavar="TEXT")
    flags.flag("--dry-run", "list the files and print the card; nothing is sent", action="store_true")
    flags.flag("--overwrite", "replace a model that taco_ir did not push")
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    from taco_ir.release.hub import gather, push, require_access

    if not options.dry_run:
        require_access()
    shipment = gather(options.model, options.name)
    for path, size in shipment.sizes().items():
        print(f"{size:>15,} bytes  {path}")
    if shipment.left_out:
        print(f"left out: {', '.join(shipment.left_out)}")
    if options.dry_run:
        print(f"\n{shipment.card}", end="")
        return
    print(push(shipment, options.name, options.private, options.revision, options.message, options.overwrite))


if __name__ == "__main__":
    run_verb(main)
