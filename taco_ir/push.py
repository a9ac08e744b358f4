"""`python -m taco_ir.push`: a trained model to a Hugging Face hub, with its model card."""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.cli import Parser, run_verb


def parser() -> Parser:
    flags = Parser(
        "push",
        "Push a trained model to a Hugging Face hub, where --model ORG/NAME and `pull` find it. One commit has\n"
        "all of it: weights as safetensors, configurations, tokenizer, and README.md, a model card. A README.md\n"
        "of the folder is kept; its front matter, where you say the licence, gains tags, base model, tasks and\n"
        "prompts. Pickles and code stay. The backbone of adapters goes along where it is a folder elsewhere. The\n"
        "hub is HF_ENDPOINT, and one that does not know xet needs HF_HUB_DISABLE_XET=1. The token is HF_TOKEN, or\n"
        "what `hf auth login` keeps.",
        (),
        "python -m taco_ir.push my-run you/my-model --dry-run\n"
        "  python -m taco_ir.push my-run you/my-model --private --message 'Three epochs more'",
    )
    flags.add_argument(
        "model",
        metavar="MODEL_FOLDER",
        help="a trained model, the folder of a training, or taco-mini, which comes with the package",
    )
    flags.add_argument("name", metavar="ORG/NAME", help="its name at the hub; a repository that is not there is made")
    flags.add_argument("--private", action="store_true", help="make a new repository private")
    flags.add_argument("--revision", metavar="BRANCH", help="the branch, made if it is not there [default: main]")
    flags.add_argument("--message", metavar="TEXT", help="message of the commit")
    flags.add_argument("--dry-run", action="store_true", help="list the files and print the card; nothing is sent")
    flags.flag("--overwrite", help="replace a model in the repository that taco_ir did not push")
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
