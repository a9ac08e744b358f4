"""Vectors of an encoder that trains, and queries to compare them on."""

from __future__ import annotations

from typing import Any

import numpy as np
from small_steps import PASSAGES

from taco_ir.core.types import Passage
from taco_ir.encoders.text_encoder import TextEncoder

QUERIES = [
    "who was Bach",
    "",
    "a composer of the Baroque era who was born in Eisenach, in Thuringia, and had many sons",
]


SHORT = [*PASSAGES[:6], Passage("e#0", "e", "", "")]


def vectors(made: TextEncoder) -> np.ndarray[Any, Any]:
    return np.concatenate([made.encode_queries(QUERIES, "wow"), made.encode_passages(SHORT)])
