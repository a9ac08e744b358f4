"""Settings check themselves when they are made, from a notebook as from a file or flag."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from taco_ir.analysis.specialisation import AnalysisSettings
from taco_ir.core.files import InputError
from taco_ir.encoders.config import EncoderConfig
from taco_ir.negatives.filters import MiningSettings
from taco_ir.training.backward import Arithmetic
from taco_ir.training.objectives.base import LossSettings
from taco_ir.training.run import train
from taco_ir.training.settings import TrainSettings


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (
            TrainSettings,
            {"precision": "fp16"},
            "precision is 'fp16'; it must be one of float32, bf16 (did you mean bf16?)",
        ),
        (TrainSettings, {"learning_rate": -1}, "learning_rate is -1; it must be a number, above 0"),
        (TrainSettings, {"steps": "100"}, "steps is '100'; it must be a whole number, at least 1, or auto"),
        (TrainSettings, {"tasks": "nq"}, "tasks is 'nq'; it must be a list of one text or more"),
        (TrainSettings, {"prompts": 1}, "prompts is 1; it must be true or false"),
        (TrainSettings, {"mine_skip": 200}, "mine_depth 200, mine_skip 200 and mine_keep 32 leave 0 negatives"),
        (TrainSettings, {"episodes": ({}, {"epoch": 1})}, "episode 2: unknown key 'epoch'; did you mean epochs?"),
        (
            TrainSettings,
            {"episodes": ({"repeat": 3}, {"warmup": 2})},
            "episode 2: warmup is 2; it must be a number, at least 0, at most 1",
        ),
        (
            TrainSettings,
            {"episodes": ({"repeat": 3}, {"mine_keep": 1, "hard_negatives": 2})},
            "episode 4: mine_depth 200, ",
        ),
        (TrainSettings, {"objective": ("mlm", "clm")}, "objective: 'clm' is unknown; did you mean mlm?"),
        (TrainSettings, {"mask_share": 0.6}, "mask_share is 0.6; it must be a number, at most 0.5, above 0"),
        (
            TrainSettings,
            {"objective": ("mlm",), "span_from": "page"},
            "span_from is 'page'; it has an effect only with objective span_contrast",
        ),
        (MiningSettings, {"drop_answers": "no"}, "drop_answers is 'no'; it must be true or false"),
        (LossSettings, {"negatives": -1}, "negatives is -1; it must be a whole number, at least 0"),
        (LossSettings, {"temperature": 0}, "temperature is 0; it must be a number, above 0"),
        (LossSettings, {"accumulate": 1.5}, "accumulate is 1.5; it must be a whole number, at least 1"),
        (Arithmetic, {"bf16": "float32"}, "bf16 is 'float32'; it must be true or false"),
        (Arithmetic, {"gradcache": -1}, "gradcache is -1; it must be a whole number, at least 0"),
        (AnalysisSettings, {"tau": 0}, "tau is 0; it must be a number, above 0"),
        (AnalysisSettings, {"keys": {"batchsize": 1}}, "unknown key 'batchsize'; did you mean batch_size?"),
        (EncoderConfig, {"pooling": "cls"}, "pooling is 'cls'; it must be one of first, mean, decoder"),
        (EncoderConfig, {"query_length": 0}, "query_length is 0; it must be a whole number, at least 1"),
        (
            EncoderConfig,
            {"query_lengths": {"nq": -1}},
            "query_lengths is {'nq': -1}; it must be an object of tasks and whole numbers",
        ),
        (EncoderConfig, {"prompts": {"nq": None}}, "prompts is {'nq': None}; it must be an object of tasks and texts"),
        (
            EncoderConfig,
            {"passage_template": "{body}"},
            "passage_template is '{body}'; it must be a text whose fields are {title} and {text}",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_when_made(kind: type, values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        kind(**values)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind", [TrainSettings, MiningSettings, LossSettings, Arithmetic, AnalysisSettings, EncoderConfig]
)
def test_defaults_are_allowed_and_values_are_kept_in_their_type(kind: type) -> None:
    assert kind() == kind()
    assert type(TrainSettings(epochs=2).optimiser.epochs) is float and TrainSettings(tasks=["nq"]).run.tasks == ("nq",)


@pytest.mark.parametrize(
    "more", [{}, {"tasks": ("none",), "reading": ("nq",)}, {"tasks": ("none",), "objective": ("mlm",)}]
)
def test_a_tracker_is_missed_before_anything_is_written(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match="--track tensorboard needs the package tensorboard"):
        train(TrainSettings(model="none", output=str(tmp_path / "out"), track=("tensorboard",), **more))
    assert not (tmp_path / "out").exists()
