"""The foundation: values, files, settings and processes. Imports neither torch nor any other package of taco_ir."""

from importlib import import_module
from typing import Any


def resolve(place: str) -> Any:
    """Import what a registry names as "module:name", such as "taco_ir.weighting.taco:Taco".

    Registries list such places as strings, so that each list exists once and `--help` shows it without importing torch.
    """
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
