"""Biases alone: Ben Zaken, Ravfogel, Goldberg, BitFit, ACL 2022."""

from __future__ import annotations

from torch import nn
from torch.nn import Parameter

from taco_ir.core.files import InputError
from taco_ir.encoders.adapters.base import Part
from taco_ir.encoders.adapters.hook_points import biases


class Biases(Part):
    """A copy of all biases for each set; the one in use is put in the place of the backbone's."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        found = biases(backbone)
        if not found:
            raise InputError(f"tune: bitfit trains biases; a backbone of type {backbone.config.model_type!r} has none")  # type: ignore[union-attr]
        self._places = {name: backbone.get_submodule(name) for name in found}
        self._frozen = list(found.values())
        self.sets = nn.ModuleDict()

    def add(self, name: str) -> None:
        self.sets[name] = nn.ParameterList(bias.detach().clone() for bias in self._frozen)

    def tensors(self, name: str) -> dict[str, Parameter]:
        kept = list(self.sets[name].parameters())
        return {f"{place}.bias": bias for place, bias in zip(self._places, kept, strict=True)}

    def use(self, name: str | None) -> None:
        super().use(name)
        chosen = self._frozen if name is None else list(self.sets[name].parameters())
        for module, bias in zip(self._places.values(), chosen, strict=True):
            module.bias = bias
