"""`python -m taco_ir.pretrain`: prepare a backbone for retrieval with passages alone, without queries."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import get_args

from taco_ir.cli import Parser, run_verb
from taco_ir.encoders.config import Pooling
from taco_ir.training.flags import PRETRAIN, add_flags, given_flags, read_settings
from taco_ir.training.settings import EncoderSettings

FIRST = (
    *("--collection", "--model", "--pooling", "--output", "--overwrite", "--config", "--device"),
    *("--seed", "--objective", "--span-from", "--length", "--max-passages", "--batch-size", "--temperature"),
    *("--learning-rate", "--epochs", "--steps", "--precision", "--gradcache", "--held-out"),
)


def parser() -> Parser:
    flags = Parser(
        "pretrain",
        "Pre-train a whole backbone on a collection's passages; no queries are needed. Parts of the loss, summed:\n"
        "  mlm            fill in masked tokens, by a head tied to the word embeddings\n"
        "  span_contrast  two spans of one document attract each other, and repel all other spans of the batch\n"
        "  condenser      two more layers fill in tokens from the middle layer and the last layer's first token,\n"
        "                 which must therefore sum up the text; they are dropped in the end.\n"
        "                 For --pooling first and BERT-type models only\n"
        "A pre-training that was stopped continues from its last checkpoint with the same command. OUTPUT/model is a "
        "plain Hugging Face folder for taco_ir.train. All keys can stand in a TOML file (--config); flags override it.",
        ("--overwrite",),
        example="python -m taco_ir.pretrain --objective mlm,span_contrast --collection my-wiki --model bert-base"
        " --pooling first --output my-base\n"
        "  python -m taco_ir.pretrain --objective mlm,span_contrast,condenser --span-from page --batch-size 1024"
        " --gradcache 32 --collection my-wiki --model bert-base --pooling first --output my-base",
        first=FIRST,
    )
    add_flags(flags, PRETRAIN)
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    settings = read_settings(options.config, given_flags(options, PRETRAIN.keys), verb=PRETRAIN)
    from taco_ir.training.run import train

    model = train(settings, options.overwrite)
    pooling = pooling_flags(settings.run.model, settings.encoder)
    where = f"--model {quote(str(model))} {pooling} --collection {quote(settings.run.collection)}"
    print(f"{model}\nnext: python -m taco_ir.train {where} --output ...")


def pooling_flags(name: str, settings: EncoderSettings) -> str:
    """Flags with which the pre-trained model, which does not describe itself, pools as its base or as in training."""
    from taco_ir.encoders.model_folder import ModelFolder

    base = ModelFolder.find(name)
    if not base.describes_itself:
        return f"--pooling {settings.pooling or '|'.join(get_args(Pooling))}{' --normalize' * settings.normalize}"
    own = base.trained_config
    return f"--pooling {own.pooling}{' --normalize' * (own.normalize or settings.normalize)}"


if __name__ == "__main__":
    run_verb(main)
