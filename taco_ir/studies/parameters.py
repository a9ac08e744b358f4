"""How many parameters a system needs when it answers: those of every model that its commands name, each model once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.weights import SCALES
from taco_ir.training.settings import MLM

MODELS = ("--model", "--reader")
TRAINING_ONLY = (MLM, "condenser")  # heads, by how their files' names begin
UNUSED = ("pooler.", "cls.")  # tensors of base models that no vector depends on


def parameters(commands: Iterable[Sequence[str]]) -> int:
    """Of the folders behind --model and --reader; adapters count with their backbone. Hub names count nothing."""
    named = {Path(value).resolve() for words in commands for flag, value in pairwise(words) if flag in MODELS}
    based = {(folder / record.base).resolve() for folder in named if (record := ModelFolder(folder).record) is not None}
    return sum(map(_numbers, {path for folder in named | based for path in folder.rglob("*.safetensors")}))


def _numbers(path: Path) -> int:
    from safetensors import safe_open

    if path.name.startswith(TRAINING_ONLY):
        return 0
    with safe_open(path, "pt") as source:
        kept = [name for name in source.keys() if not any(part in name for part in UNUSED) and not name.endswith(SCALES)]  # noqa: SIM118
        return sum(math.prod(source.get_slice(name).get_shape()) for name in kept)
