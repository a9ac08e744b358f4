"""Which methods tune a small part of a backbone, how many numbers each trains, and the width that a budget allows.

Compared in Ma et al., Scattered or Connected? An Optimized Parameter-efficient Tuning Approach for Information Retrieval (IAA), CIKM 2022.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from taco_ir.core.files import InputError

FULL = "full"
SHIFTED, PLAIN = "shifted", "plain"
# methods with prompts, and whether their texts' positions begin behind the prompt or at 0, where nothing else is said
POSITIONS = {"prefix": PLAIN, "prompt": SHIFTED, "mam": PLAIN}
BUDGET = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?%")


@dataclass(frozen=True)
class Shape:
    """What the counts of a backbone's tuned parts depend on.

    Attributes:
        layers, hidden: L and H, of the encoder.
        inner: width of its keys and values; H for most.
        biases: numbers in all biases that vectors depend on (not a pooler's).
        total: P, all parameters of the backbone.
    """

    layers: int
    hidden: int
    inner: int
    biases: int
    total: int


class Method(NamedTuple):
    """A method's default width (0: it has none) and the numbers that it trains, by the backbone's shape and the width."""

    width: int
    numbers: Callable[[Shape, int], int]


def bottleneck(shape: Shape, width: int) -> int:
    """H -> width -> H with biases."""
    return 2 * shape.hidden * width + width + shape.hidden


def aside_width(width: int) -> int:
    """Width of IAA-M's one module beside the encoder: 24 for the paper's 15."""
    return width * 8 // 5


def _prompt(shape: Shape, width: int) -> int:
    return 2 * shape.layers * width * shape.inner


METHODS = {
    "bitfit": Method(0, lambda shape, _: shape.biases),
    "lora": Method(16, lambda shape, width: 2 * shape.layers * width * (shape.hidden + shape.inner)),
    "prefix": Method(32, _prompt),
    "prompt": Method(32, _prompt),
    "adapter": Method(16, lambda shape, width: 2 * shape.layers * bottleneck(shape, width)),
    "parallel": Method(32, lambda shape, width: shape.layers * bottleneck(shape, width)),
    "mam": Method(16, lambda shape, width: _prompt(shape, width) + shape.layers * bottleneck(shape, width)),
    "iaa-s": Method(8, lambda shape, width: 4 * shape.layers * bottleneck(shape, width)),
    "iaa-l": Method(12, lambda shape, width: 3 * shape.layers * bottleneck(shape, width)),
    "iaa-m": Method(15, lambda shape, width: 2 * shape.layers * bottleneck(shape, width) + bottleneck(shape, aside_width(width))),
}


def is_shifted(method: str, positions: str) -> bool:
    """Whether texts' positions begin behind a module's prompt; `positions` is what was said of them, if anything."""
    return (positions or POSITIONS.get(method)) == SHIFTED


def parameters(method: str, shape: Shape, width: int) -> int:
    """The numbers that one module of `method` trains."""
    return METHODS[method].numbers(shape, width)


def share(method: str, shape: Shape, width: int) -> str:
    """The same as a share of the backbone, in per cent."""
    return f"{100 * parameters(method, shape, width) / shape.total:.4g} %"


def width_of(method: str, shape: Shape, width: int, budget: str) -> int:
    """The width that is meant by `width` (0: the method's own) or else by `budget`, such as 0.5%.

    Raises:
        InputError: for both at once, a width that the method does not take, or a budget that it cannot meet.
    """
    own = METHODS[method].width
    if width and budget:
        raise InputError(f"tune_width is {width} and tune_budget is {budget!r}; give one of them")
    if not own and (width or budget):
        given = f"tune_width is {width}" if width else f"tune_budget is {budget!r}"
        raise InputError(
            f"{given}; {method} has one size here, {parameters(method, shape, 0):,} numbers ({share(method, shape, 0)}); leave it out"
        )
    if budget:
        return _widest(method, shape, budget)
    if width > shape.hidden:
        raise InputError(f"tune_width is {width}; {method} takes 1 to {shape.hidden}, the backbone's own width")
    return min(width or own, shape.hidden)


def _widest(method: str, shape: Shape, budget: str) -> int:
    """The largest width whose count is within the budget."""
    found = BUDGET.fullmatch(budget)
    if not found:
        raise InputError(f"tune_budget is {budget!r}; it must be a share of the backbone such as 0.5%")
    allowed = Fraction(found[1]) * shape.total / 100
    fitting = [width for width in range(1, shape.hidden + 1) if parameters(method, shape, width) <= allowed]
    nearest = 1 if not fitting else shape.hidden if len(fitting) == shape.hidden else 0
    if nearest and parameters(method, shape, nearest) != allowed:
        raise InputError(
            f"tune_budget is {budget!r}, {int(allowed):,} numbers of this backbone; the nearest that {method} can be is width {nearest}:"
            f" {parameters(method, shape, nearest):,} numbers ({share(method, shape, nearest)})"
        )
    return fitting[-1]
