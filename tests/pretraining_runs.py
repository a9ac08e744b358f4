"""What tests of pre-training share: a small configuration, and a run that is stopped in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import training_runs

from taco_ir.encoders.config import EncoderConfig
from taco_ir.training.pretraining_encoder import PretrainModel
from taco_ir.training.run import train as pretrain
from taco_ir.training.settings import TrainSettings

ALL_PARTS = ("mlm", "span_contrast", "condenser")
SMALL: dict[str, Any] = {
    **{"tasks": ("none",), "negatives": "none"},
    **{"objective": ALL_PARTS, "pooling": "first", "length": 24, "batch_size": 8, "held_out": 12, "steps": 6},
    **{"learning_rate": 1e-3, "validate_every": 3, "checkpoint_every": 2},
}


def small(model: Path, output: Path, /, **changes: Any) -> TrainSettings:
    return TrainSettings(**SMALL).replace(model=str(model), output=str(output), **changes)


def stopped(config: TrainSettings, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until a step is done and logged, but not in a checkpoint; a process begun anew goes on."""
    with monkeypatch.context() as patch, pytest.raises(training_runs.Stopped):
        patch.setattr("taco_ir.training.run.ConsoleReporter", lambda *_: training_runs.StopAfter(step))
        pretrain(config)


def loaded(model: Path, **changes: Any) -> PretrainModel:
    """The model of a small run, in float64, without dropout."""
    config = small(model, Path("unused"), **changes)
    return PretrainModel(model, EncoderConfig(config.encoder.pooling or "mean"), config.objectives).double().eval()
