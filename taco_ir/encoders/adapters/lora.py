"""Low-rank changes of the projections to queries and values, by peft.

Hu et al., LoRA, ICLR 2022.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from torch.nn import Parameter

from taco_ir.core.files import InputError
from taco_ir.encoders.adapters.base import Part
from taco_ir.encoders.adapters.hook_points import Sites
from taco_ir.encoders.adapters.sizes import METHODS, Shape, parameters

SCALE = 2  # alpha / rank, a common choice; the comparison's papers name none


class Lora(Part):
    """W + 2 B A with B zero at the start. The tensors live in the backbone, where peft puts them."""

    def __init__(self, backbone: nn.Module, sites: Sites, shape: Shape, rank: int) -> None:
        super().__init__()
        if not sites.linears:
            kind = backbone.config.model_type  # type: ignore[union-attr]
            other = ", ".join(method for method in METHODS if method != "lora" and parameters(method, shape, 1))
            raise InputError(
                f"tune: lora changes the projections to queries and to values; a backbone of type {kind!r} has one for both and keys;"
                f" supported: {other}"
            )
        self._backbone = [backbone]  # a list: no part of the module tree
        self._targets = list(sites.linears)
        self._rank = rank
        self._names: list[str] = []

    def add(self, name: str) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(r=self._rank, lora_alpha=SCALE * self._rank, target_modules=self._targets, lora_dropout=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are several is meant
            inject_adapter_in_model(config, self._backbone[0], name)
        self._names.append(name)
        for layer in self.layers():
            layer.set_requires_grad(self._names)
        self.use(self.active)

    def tensors(self, name: str) -> dict[str, Parameter]:
        return {
            f"{target}.{part}": getattr(layer, f"lora_{part}")[name].weight
            for target, layer in zip(self._targets, self.layers(), strict=True)
            for part in ("A", "B")
        }

    def use(self, name: str | None) -> None:
        super().use(name)
        tensors = [tensor for each in self._names for tensor in self.tensors(each).values()]
        trained = [tensor.requires_grad for tensor in tensors]
        for layer in self.layers():
            layer.set_adapter([] if name is None else name)
        for tensor, trains in zip(tensors, trained, strict=True):
            tensor.requires_grad_(trains)  # peft lets the one in use train, and no other

    def layers(self) -> list[Any]:
        """peft's layers, in the order of the targets."""
        return [self._backbone[0].get_submodule(target) for target in self._targets]
