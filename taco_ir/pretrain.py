"""`python -m taco_ir.pretrain`: prepare a backbone for retrieval on the passages of a collection, without queries."""

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
        "Pre-train a whole backbone on a collection's passages; no queries are needed. The loss is the sum of the "
        "parts that --objective names:\n"
        "  mlm            predict masked tokens, with a head tied to the word embeddings\n"
        "  span_contrast  contrastive loss: two spans of one document are a positive pair, and all other\n"
        "                 spans of the batch are negatives\n"
        "  condenser      predict masked tokens with two extra layers, which see only the middle layer and the\n"
        "                 last layer's first token, so this token must summarise the text. The extra layers\n"
        "                 are discarded after pre-training. Needs --pooling first and a BERT-type model\n"
        "If you stop a pre-training, the same command continues from its last checkpoint. The result, "
        "OUTPUT/model, is a plain Hugging Face folder to start taco_ir.train from. All settings can also be given "
        "in a TOML file (--config); flags override it.",
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
    """Returns flags to load the pre-trained model with, such as `--pooling mean --normalize`.

    The values are from the folder of the base model `name`, or from `settings` if the folder does not record them.
    """
    from taco_ir.encoders.model_folder import ModelFolder

    base = ModelFolder.find(name)
    if not base.describes_itself:
        return f"--pooling {settings.pooling or '|'.join(get_args(Pooling))}{' --normalize' * settings.normalize}"
    own = base.trained_config
    return f"--pooling {own.pooling}{' --normalize' * (own.normalize or settings.normalize)}"


if __name__ == "__main__":
    run_verb(main)
