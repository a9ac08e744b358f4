"""The keys of a pre-training run: those that it shares with a training mean the same there; put together and checked as those."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, cast

from taco_ir.core.files import InputError
from taco_ir.core.settings import Settings, Values, rules_of
from taco_ir.training.config import add_flag_groups, from_values, needed, read_file
from taco_ir.training.keys import KEYS, TrainConfig

PARTS = ("mlm", "span_contrast", "condenser")
MIN_SPAN = 8  # tokens of a span, its special tokens left out
GROUPS = ("what is trained", "encoder", "documents and spans", "optimisation", "validation, checkpoints and logs")


def _key(group: str, help: str, **rules: Any) -> Values:
    return {"group": group, "help": help, **rules}


_what, _encoder, _spans, _optimiser, _checks = (partial(_key, group) for group in GROUPS)


def _shared(key: str, **changes: Any) -> Any:
    """A key of a training, with its default and meaning but for what changes."""
    entry = KEYS[key]
    default = changes.pop("default", entry.default)
    return field(default=default, metadata={**entry.metadata, **changes})


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """A pre-training run. A key's metadata say what it means and which values it takes: help, ranges and choices.

    Raises:
        InputError: for a value that is not allowed, or spans of pages where no part of the loss takes two.
    """

    objective: tuple[str, ...] = field(
        default=("mlm", "span_contrast"),
        metadata=_what(
            f"parts of the loss, which are summed: some of {', '.join(PARTS)}",
            metavar="PART",
            words=PARTS,
        ),
    )
    collection: str = _shared("collection")
    model: str = _shared("model")
    output: str = _shared("output")
    seed: int = _shared("seed")
    device: str = _shared("device")
    max_passages: int = field(
        default=0,
        metadata=_what(
            "passages read into memory, at most, drawn by the seed in runs of neighbours; 0: all, about 1.5 GB a million", min=0
        ),
    )

    pooling: str | None = _shared("pooling")
    normalize: bool = _shared("normalize")
    dropout: float = _shared("dropout")

    span_from: str = field(
        default="passage",
        metadata=_spans(
            "what two spans that attract are taken from: one passage, where they do not overlap, or two passages of one page",
            choices=("passage", "page"),
        ),
    )
    length: int = field(default=128, metadata=_spans("most tokens of a span, special tokens included", min=2 * MIN_SPAN))
    batch_size: int = field(default=64, metadata=_spans("documents of a step; each brings two spans, or one without span_contrast", min=2))
    mask_share: float = field(default=0.15, metadata=_spans("share of the tokens that mlm and condenser fill in again", above=0, max=0.5))
    temperature: float = _shared("temperature", group=GROUPS[2])

    learning_rate: float = _shared("learning_rate", default=1e-4)
    weight_decay: float = _shared("weight_decay")
    warmup: float = _shared("warmup")
    clip: float = _shared("clip")
    epochs: float = _shared("epochs", help="passes over the documents")
    steps: int = _shared("steps", help="steps in all; 0: by epochs")
    gradcache: int = _shared("gradcache", help="spans encoded at once, so that large batches fit (GradCache); 0: off")
    precision: str = _shared("precision")
    gradient_checkpointing: bool = _shared("gradient_checkpointing")

    held_out: int = field(
        default=128, metadata=_checks("documents that are never trained on; the loss is measured on them; 0: none", min=0)
    )
    validate_every: int = _shared("validate_every", help="steps between measurements of the held-out loss; 0: at the end of each epoch")
    checkpoint_every: int = _shared("checkpoint_every")
    keep_checkpoints: int = _shared("keep_checkpoints")
    tensorboard: bool = _shared("tensorboard")

    def check(self) -> None:
        object.__setattr__(self, "objective", tuple(part for part in PARTS if part in self.objective))
        if self.span_from == "page" and not self.contrasted:
            raise InputError(f"span_from is page; only span_contrast takes two spans; objective is {','.join(self.objective)}")

    @property
    def masked(self) -> bool:
        """Whether any part fills in masked tokens."""
        return "mlm" in self.objective or "condenser" in self.objective

    @property
    def contrasted(self) -> bool:
        return "span_contrast" in self.objective


PRETRAIN_KEYS = {entry.name: entry for entry in fields(PretrainConfig)}
PRETRAIN_RULES = rules_of(PretrainConfig)


def add_pretrain_flags(parser: argparse.ArgumentParser) -> None:
    """Add --config and a flag for every key; a flag that is not given leaves no trace (see `given_flags`)."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with keys as below, `_` for `-`; flags override it")
    add_flag_groups(parser, GROUPS, PRETRAIN_KEYS, PRETRAIN_RULES)


def read_pretrain_config(path: Path | None, flags: Mapping[str, Any]) -> PretrainConfig:
    """Defaults, then a file, then flags.

    Raises:
        InputError: naming file or flag, key, value and what is allowed.
    """
    values: Values = {}
    if path is not None:
        if not path.is_file():
            raise InputError(f"--config {path}: no such file")
        values = read_file(path, PRETRAIN_KEYS, PRETRAIN_RULES)
        if "epochs" in flags and "steps" not in flags:
            values.pop("steps", None)
    config = from_values({**values, **flags}, "", PretrainConfig)
    needed({"model": config.model, "output": config.output}, PRETRAIN_KEYS)
    return config


def loop_config(config: PretrainConfig) -> TrainConfig:
    """The keys that a training's loop, optimiser and encoder read; all others as they are by default."""
    shared = cast("dict[str, Any]", {key: getattr(config, key) for key in KEYS if key in PRETRAIN_KEYS})
    return TrainConfig(**shared)
