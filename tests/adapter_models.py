"""Small models with adapters, in memory and in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from small_steps import encoder

from taco_ir.encoders.adapters.methods import method_of
from taco_ir.training.encoder import DualEncoder


def made(base: Path, method: str = "iaa-l", roles: str = "task", **values: Any) -> DualEncoder:
    """An encoder whose adapters have other numbers than at the start, as after a training."""
    width = 4 if method_of(method).width else 0
    model = encoder(base, tune=method, tune_width=width, tune_roles=roles, **values)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, param in model.trained_parameters():
            param.add_(torch.randn(param.shape, generator=generator), alpha=0.1)
    return model


def saved(folder: Path, base: Path, method: str = "iaa-l", roles: str = "task") -> Path:
    made(base, method, roles).save(folder)
    return folder
