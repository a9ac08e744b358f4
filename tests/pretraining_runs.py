"""What tests of pre-training share: small settings, and the model of a small training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taco_ir.encoders.config import EncoderConfig
from taco_ir.training.pretraining_encoder import PretrainModel
from taco_ir.training.settings import TrainSettings

ALL_PARTS = ("mlm", "span_contrast", "condenser")
SMALL: dict[str, Any] = {
    **{"tasks": ("none",), "negatives": "none"},
    **{"objective": ALL_PARTS, "pooling": "first", "length": 24, "batch_size": 8, "held_out": 12, "steps": 6},
    **{"learning_rate": 1e-3, "validate_every": 3, "checkpoint_every": 2},
}


def small(model: Path, output: Path, /, **changes: Any) -> TrainSettings:
    return TrainSettings(**SMALL).replace(model=str(model), output=str(output), **changes)


def loaded(model: Path, **changes: Any) -> PretrainModel:
    """The model of a small training, in float64, without dropout."""
    config = small(model, Path("unused"), **changes)
    return PretrainModel(model, EncoderConfig(config.encoder.pooling or "mean"), config.objectives).double().eval()
