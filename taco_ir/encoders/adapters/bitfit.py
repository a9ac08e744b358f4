"""BitFit: trains only the biases. Ben Zaken, Ravfogel, Goldberg, ACL 2022."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from taco_ir.encoders.adapters.base import Insert, Method, Target
from taco_ir.encoders.adapters.hook_points import biases


class Biases(Insert):
    """Holds a copy of all biases for each adapter; the active adapter's copy replaces the backbone's biases."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        found = biases(backbone)
        self._places = {name: backbone.get_submodule(name) for name in found}
        self._frozen = list(found.values())

    def add(self, name: str) -> None:
        self.sets[name] = nn.ParameterList(bias.detach().clone() for bias in self._frozen)

    def tensors(self, name: str) -> dict[str, Parameter]:
        own = self.sets[name].parameters()
        return {f"{place}.bias": bias for place, bias in zip(self._places, own, strict=True)}

    def use(self, name: str | None) -> None:
        super().use(name)
        used = self._frozen if name is None else self.sets[name].parameters()
        for module, bias in zip(self._places.values(), used, strict=True):
            module.bias = bias


def _refuse(target: Target) -> str:
    return "" if target.shape.biases else f"bitfit trains biases; a backbone of type {target.kind!r} has none"


def _merge(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, bias in tensors.items():
            backbone.get_parameter(name).copy_(bias)


BITFIT = Method(lambda target: [Biases(target.backbone)], lambda shape, _: shape.biases, refuse=_refuse, merge=_merge)
