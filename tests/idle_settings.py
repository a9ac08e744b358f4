"""Settings that do nothing beside some others."""

from __future__ import annotations

from typing import Any

from taco_ir.training.flags import PRETRAIN as PRETRAINING
from taco_ir.training.flags import TRAIN as TRAINING
from taco_ir.training.flags import Verb

# key -> a value, settings beside which it does nothing, and some beside which it does
TRAIN: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "tune_width": (8, {}, {"tune": "lora"}),
    "tune_budget": ("1%", {}, {"tune": "adapter"}),
    "tune_roles": ("tower", {}, {"tune": "lora"}),
    "tune_positions": ("plain", {}, {"tune": "prompt"}),
    "tune_reparameterise": (True, {}, {"tune": "prefix"}),
    "batch_size": (20, {"shares": "16,8"}, {"shares": "uniform"}),
    "multi_positive": (True, {"tasks": ["none"], "reading": ["nq"]}, {}),
    "share_temperature": (2.0, {"shares": "uniform"}, {"shares": "temperature"}),
    "hard_negatives": (2, {"negatives": "none"}, {"negatives": "mine.jsonl"}),
    "schedule": ("alternating", {}, {"self_supervised": ["mlm"]}),
    "schedule_alpha": (
        0.1,
        {"reading": ["nq"], "schedule": "sequential"},
        {"reading": ["nq"], "schedule": "alternating"},
    ),
    "phase_shares": ("1,2,1", {"reading": ["nq"]}, {"reading": ["nq"], "schedule": "sequential"}),
    "rehearsal": (0.1, {"reading": ["nq"], "schedule": "alternating"}, {"reading": ["nq"], "schedule": "sequential"}),
    "reading_batch": (8, {"self_supervised": ["mlm"]}, {"reading": ["nq"]}),
    "reading_negatives": (3, {}, {"reading": ["nq"]}),
    "reading_weight": (2.0, {}, {"reading": ["all"]}),
    "passage_batch": (8, {"reading": ["nq"]}, {"self_supervised": ["inverse_cloze"]}),
    "passage_weight": (2.0, {}, {"self_supervised": ["mlm"]}),
    "max_passages": (9, {}, {"self_supervised": ["mlm"]}),
    "epochs": (2.0, {"steps": 10}, {"steps": 0}),
    "keep_importance": (True, {"weighting": "naive"}, {"weighting": "taco"}),
    "mine_depth": (100, {"negatives": "mine.jsonl"}, {"negatives": "ance"}),
    "mine_skip": (5, {"negatives": "none"}, {"negatives": "bm25"}),
    "mine_keep": (16, {"negatives": "none"}, {"negatives": "bm25"}),
}
PRETRAIN: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "span_from": ("page", {"objective": ["mlm"]}, {"objective": ["span_contrast"]}),
    "mask_share": (0.3, {"objective": ["span_contrast"]}, {"objective": ["condenser"]}),
    "temperature": (2.0, {"objective": ["mlm"]}, {}),
    "epochs": (2.0, {"steps": 10}, {}),
    "validate_every": (7, {"held_out": 0}, {"held_out": 9}),
}
VERBS: list[tuple[Verb, dict[str, tuple[Any, dict[str, Any], dict[str, Any]]]]] = [
    (TRAINING, TRAIN),
    (PRETRAINING, PRETRAIN),
]
