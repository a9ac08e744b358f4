"""Random numbers derived from names, identical in every process and on every machine, unlike Python's hash."""

from __future__ import annotations

import hashlib

import numpy as np


def number_of(*names: str | int) -> int:
    """A number in [0, 2^64) that depends on every one of `names` and their order."""
    spelled = "\0".join(map(str, names)).encode()
    return int.from_bytes(hashlib.blake2b(spelled, digest_size=8).digest(), "little")


def generator(*names: str | int) -> np.random.Generator:
    """A random generator seeded by `names`, such as a seed, a task and an epoch."""
    return np.random.default_rng(number_of(*names))
