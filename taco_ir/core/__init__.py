"""The foundation: values, files, settings and processes. It imports neither torch nor other packages of taco_ir."""

from importlib import import_module
from typing import Any


def resolve(place: str) -> Any:
    """Import an object by its place, "module:name", such as "taco_ir.weighting.taco:Taco".

    Registries list places as strings, so `--help` can show their names without importing torch.
    """
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
