"""Lists the adapter methods, counts the parameters that each trains, and finds the width that a budget allows.

A new method is a file with a `Method` and a line in METHODS. Ma et al. compare them in Scattered or Connected? An
Optimized Parameter-efficient Tuning Approach for Information Retrieval (IAA), CIKM 2022.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

from taco_ir.core import resolve
from taco_ir.core.files import InputError

if TYPE_CHECKING:
    from taco_ir.encoders.adapters.base import Method
    from taco_ir.encoders.adapters.hook_points import Shape

METHODS = {
    "bitfit": "taco_ir.encoders.adapters.bitfit:BITFIT",
    "lora": "taco_ir.encoders.adapters.lora:LORA",
    "prefix": "taco_ir.encoders.adapters.deep_prompts:PREFIX",
    "prompt": "taco_ir.encoders.adapters.deep_prompts:PROMPT",
    "adapter": "taco_ir.encoders.adapters.bottleneck:HOULSBY",
    "parallel": "taco_ir.encoders.adapters.bottleneck:PARALLEL",
    "mam": "taco_ir.encoders.adapters.deep_prompts:MAM",
    "iaa-s": "taco_ir.encoders.adapters.bottleneck:IAA_S",
    "iaa-l": "taco_ir.encoders.adapters.bottleneck:IAA_L",
    "iaa-m": "taco_ir.encoders.adapters.bottleneck:IAA_M",
}
FULL = "full"
SHIFTED, PLAIN = "shifted", "plain"
BUDGET = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?%")


def method_of(name: str) -> Method:
    """Return the adapter method with this name, one of METHODS; its file is imported on first use."""
    found: Method = resolve(METHODS[name])
    return found


def with_prompts() -> list[str]:
    """Return the names of the methods that train prompts."""
    return [name for name in METHODS if method_of(name).positions]


def mergeable() -> list[str]:
    """Return the names of the methods whose adapters can be merged into the weights of a backbone."""
    return [name for name in METHODS if method_of(name).merge]


def positions_of(method: str, said: str = "") -> str:
    """Return where texts' position ids start: after a prompt (`shifted`) or at 0 (`plain`); `said` has precedence."""
    return said or (method_of(method).positions if method in METHODS else "")


def is_shifted(method: str, positions: str) -> bool:
    """Whether position ids of texts start after an adapter's prompt; empty `positions`: the method's default."""
    return positions_of(method, positions) == SHIFTED


def parameters(method: str, shape: Shape, width: int) -> int:
    """Return the number of parameters that one adapter of `method` trains."""
    return method_of(method).numbers(shape, width)


def share(method: str, shape: Shape, width: int) -> str:
    """Return the number of an adapter's parameters as a percentage of the backbone's parameters, such as "0.5 %"."""
    return f"{100 * parameters(method, shape, width) / shape.total:.4g} %"


def width_of(method: str, shape: Shape, width: int, budget: str) -> int:
    """Return the user's `width` or the largest width within the `budget`, such as 0.5%; without both, the default.

    Raises:
        InputError: if both are given, for a width that the method does not allow, or a budget that it cannot meet.
    """
    own = method_of(method).width
    if width and budget:
        raise InputError(f"tune_width is {width} and tune_budget is {budget!r}; give one of them")
    if not own and (width or budget):
        given = f"tune_width is {width}" if width else f"tune_budget is {budget!r}"
        raise InputError(
            f"{given}; {method} has only one possible size for this backbone, {_size(method, shape, 0)}; leave it out"
        )
    if budget:
        return _widest(method, shape, budget)
    if width > shape.hidden:
        raise InputError(f"tune_width is {width}; {method} allows 1 to {shape.hidden}, the backbone's width")
    return min(width or own, shape.hidden)


def _size(method: str, shape: Shape, width: int) -> str:
    return f"{parameters(method, shape, width):,} numbers ({share(method, shape, width)})"


def _widest(method: str, shape: Shape, budget: str) -> int:
    """Return the largest width with a number of parameters within the budget."""
    found = BUDGET.fullmatch(budget)
    if not found:
        raise InputError(f"tune_budget is {budget!r}; it must be a percentage of the backbone such as 0.5%")
    allowed = Fraction(found[1]) * shape.total / 100
    widest = sum(parameters(method, shape, width) <= allowed for width in range(1, shape.hidden + 1))
    nearest = max(1, widest)
    if widest in (0, shape.hidden) and parameters(method, shape, nearest) != allowed:
        raise InputError(
            f"tune_budget is {budget!r}, which is {int(allowed):,} parameters of this backbone; the nearest "
            f"possible size of {method} is width {nearest}: {_size(method, shape, nearest)}"
        )
    return widest
