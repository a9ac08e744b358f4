"""Bottleneck adapters in a backbone's layers or parallel to them: Houlsby's, parallel adapters, and three forms of IAA.

Houlsby et al., ICML 2019; He et al. (parallel, MAM), ICLR 2022; Ma et al. (IAA), CIKM 2022, section 4.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from taco_ir.encoders.adapters.base import Insert, Method, Target
from taco_ir.encoders.adapters.hook_points import Shape, Span

INSIDE = ("inside_attention", "inside_ffn")
PARALLEL_FFN, BESIDE_ENCODER = "parallel_ffn", "beside_encoder"
PARALLEL_SCALE = 4.0  # He et al., table 6
DOWN_DEVIATION = 1e-2


class Bottleneck(nn.Module):
    """A bottleneck, zero at the start: B(x) = scale (W_up gelu(W_down x + b) + c). Differs: IAA names no GELU."""

    def __init__(self, hidden: int, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.down = nn.Linear(hidden, width)
        self.up = nn.Linear(width, hidden)
        nn.init.normal_(self.down.weight, std=DOWN_DEVIATION)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, states_BLH: Tensor) -> Tensor:
        added_BLH: Tensor = self.up(functional.gelu(self.down(states_BLH)))
        return self.scale * added_BLH


class Bottlenecks(Insert):
    """Bottlenecks in every layer, or parallel to the whole encoder, attached by forward hooks."""

    def __init__(self, target: Target, places: Sequence[str]) -> None:
        super().__init__()
        self._hidden, self._width = target.shape.hidden, target.width
        self._counts = {place: len(target.sites.places[place]) for place in places}
        self._entered: dict[tuple[int, str, int], Tensor] = {}  # by thread: threads encode at the same time
        for place in places:
            for number, span in enumerate(target.sites.places[place]):
                if span.entry not in (None, span.exit):
                    span.entry.register_forward_pre_hook(partial(self._enter, place, number), with_kwargs=True)
                span.exit.register_forward_hook(partial(self._leave, place, number, span), with_kwargs=True)

    def add(self, name: str) -> None:
        self.sets[name] = nn.ModuleDict()
        for place, count in self._counts.items():
            width = aside_width(self._width) if place == BESIDE_ENCODER else self._width
            scale = PARALLEL_SCALE if place == PARALLEL_FFN else 1.0
            made = nn.ModuleList(Bottleneck(self._hidden, width, scale) for _ in range(count))
            self.sets[name][place] = made  # type: ignore[operator]

    def _enter(
        self, place: str, number: int, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        if self.active is not None:
            self._entered[threading.get_ident(), place, number] = _states(args, kwargs)

    def _leave(
        self, place: str, number: int, span: Span, _: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any
    ) -> Any:
        """Return a module's output with the bottleneck's result added to the hidden states."""
        if self.active is None:
            return output
        if span.entry is None:
            read_BLH = output
        elif span.entry is span.exit:
            read_BLH = _states(args, kwargs)
        else:
            read_BLH = self._entered.pop((threading.get_ident(), place, number))
        added_BLH = self.sets[self.active][place][number](read_BLH)  # type: ignore[index]
        if isinstance(output, torch.Tensor):
            return output + added_BLH
        if isinstance(output, tuple):
            return (output[0] + added_BLH, *output[1:])
        output.last_hidden_state = output.last_hidden_state + added_BLH
        return output


def _states(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the hidden states that a module is called with."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states


def aside_width(width: int) -> int:
    """Return the width of IAA-M's bottleneck parallel to the encoder: 8/5 of `width`, as 24 to 15 in the paper."""
    return width * 8 // 5


def _numbers(shape: Shape, width: int) -> int:
    """Return the number of parameters of one bottleneck: H -> width -> H with biases."""
    return 2 * shape.hidden * width + width + shape.hidden


def _method(width: int, *places: str) -> Method:
    """Make a method with bottlenecks at these places: one in every layer, or only one if parallel to the encoder."""

    def count(shape: Shape, width: int) -> int:
        aside = _numbers(shape, aside_width(width)) if BESIDE_ENCODER in places else 0
        return sum(place != BESIDE_ENCODER for place in places) * shape.layers * _numbers(shape, width) + aside

    return Method(lambda target: [Bottlenecks(target, places)], count, width)


HOULSBY = _method(16, *INSIDE)
PARALLEL = _method(32, PARALLEL_FFN)
IAA_S = _method(8, *INSIDE, "beside_attention", "beside_ffn")
IAA_L = _method(12, *INSIDE, "beside_layer")
IAA_M = _method(15, *INSIDE, BESIDE_ENCODER)
