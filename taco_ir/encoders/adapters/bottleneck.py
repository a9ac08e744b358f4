"""Bottleneck modules inside and beside a backbone's layers: adapters, parallel adapters, and IAA's three forms.

Houlsby et al., ICML 2019; He et al. (parallel, MAM), ICLR 2022; Ma et al. (IAA), CIKM 2022, section 4.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter, functional

from taco_ir.encoders.adapters.base import Part
from taco_ir.encoders.adapters.hook_points import Sites, Span
from taco_ir.encoders.adapters.sizes import aside_width

INSIDE = ("inside_attention", "inside_ffn")
PLACES = {
    "adapter": INSIDE,
    "parallel": ("parallel_ffn",),
    "mam": ("parallel_ffn",),
    "iaa-s": (*INSIDE, "beside_attention", "beside_ffn"),
    "iaa-l": (*INSIDE, "beside_layer"),
    "iaa-m": (*INSIDE, "beside_encoder"),
}
PARALLEL_SCALE = 4.0  # He et al., table 6
DOWN_DEVIATION = 1e-2


class Bottleneck(nn.Module):
    """B(x) = scale W_up gelu(W_down x + b) + c, zero at the start. Differs: GELU, which IAA's text leaves open."""

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


class Bottlenecks(Part):
    """Bottlenecks at the places of one method, by forward hooks on the backbone."""

    def __init__(self, sites: Sites, method: str, hidden: int, width: int) -> None:
        super().__init__()
        self._hidden = hidden
        self._widths = {place: aside_width(width) if place == "beside_encoder" else width for place in PLACES[method]}
        self._counts = {place: len(sites.places[place]) for place in PLACES[method]}
        self._entered: dict[tuple[int, str, int], Tensor] = {}  # by thread: search encodes batches side by side
        self.sets = nn.ModuleDict()
        for place in PLACES[method]:
            for number, span in enumerate(sites.places[place]):
                self._hook(place, number, span)

    def add(self, name: str) -> None:
        kinds = nn.ModuleDict()
        for place, count in self._counts.items():
            scale = PARALLEL_SCALE if place == "parallel_ffn" else 1.0
            kinds[place] = nn.ModuleList(Bottleneck(self._hidden, self._widths[place], scale) for _ in range(count))
        self.sets[name] = kinds

    def tensors(self, name: str) -> dict[str, Parameter]:
        return dict(self.sets[name].named_parameters())

    def _hook(self, place: str, number: int, span: Span) -> None:
        if span.entry is not None and span.entry is not span.exit:
            span.entry.register_forward_pre_hook(partial(self._enter, place, number), with_kwargs=True)
            span.exit.register_forward_hook(partial(self._leave, place, number))
        else:
            span.exit.register_forward_hook(partial(self._at, place, number, span.entry is None), with_kwargs=True)

    def _enter(self, place: str, number: int, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self.active is not None:
            self._entered[threading.get_ident(), place, number] = _states(args, kwargs)

    def _leave(self, place: str, number: int, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if self.active is None:
            return output
        return _plus(output, self._added(place, number, self._entered.pop((threading.get_ident(), place, number))))

    def _at(
        self, place: str, number: int, inside: bool, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Any:
        if self.active is None:
            return output
        return _plus(output, self._added(place, number, output if inside else _states(args, kwargs)))

    def _added(self, place: str, number: int, states_BLH: Tensor) -> Tensor:
        added_BLH: Tensor = self.sets[self.active][place][number](states_BLH)  # type: ignore[index]
        return added_BLH


def _states(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Hidden states that a module is called with."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states


def _plus(output: Any, added_BLH: Tensor) -> Any:
    """What a module gives, with its hidden states changed."""
    if isinstance(output, torch.Tensor):
        return output + added_BLH
    if isinstance(output, tuple):
        return (output[0] + added_BLH, *output[1:])
    output.last_hidden_state = output.last_hidden_state + added_BLH
    return output
