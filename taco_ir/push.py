"""`python -m taco_ir.push`: upload a trained model to a Hugging Face hub, with a model card."""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.cli import Parser, run_verb


def parser() -> Parser:
    flags = Parser(
        "push",
        "Push a trained model to a Hugging Face hub, where pull and --model ORG/NAME find it. One commit holds "
        "everything: safetensors, configurations, tokenizer, and README.md, the model card. Pickles and code are "
        "left out. For adapters, the backbone is pushed too if it is a local folder.\n"
        "A README.md in the folder is kept: write the licence into its front matter; tags, base model, tasks and "
        "prompts are added there.\n"
        "HF_ENDPOINT names the hub (if it does not support xet, set HF_HUB_DISABLE_XET=1). The token is taken "
        "from HF_TOKEN, or from `hf auth login`.",
        example="python -m taco_ir.push my-run you/my-model --dry-run\n"
        "  python -m taco_ir.push my-run you/my-model --private --message 'Three epochs more'",
    )
    flags.flag("model", "a trained model, the folder of a training, or taco-mini", metavar="MODEL_FOLDER")
    flags.flag(
        "name", "the model's name on the hub; the repository is created if it does not exist", metavar="ORG/NAME"
    )
    flags.flag("--private", "if the repository is created, make it private", action="store_true")
    flags.flag("--revision", "the branch to push to, created if it does not exist [default: main]", metavar="REVISION")
    flags.flag("--message", "commit message", metavar="TEXT")
    flags.flag("--dry-run", "list the files and print the model card, without sending anything", action="store_true")
    flags.flag("--overwrite", "replace a model that was not pushed by taco_ir")
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
