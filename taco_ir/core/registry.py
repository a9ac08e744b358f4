"""Registries: each is a dict of names and places, such as "taco_ir.weighting.taco:Taco", which are imported when they are used.

So a list of names exists once, and `--help` can show it without importing torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def resolve(place: str) -> Any:
    """What stands at "module:name"."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
