"""LoRA: low-rank changes of the projections to queries and values, by peft.

Hu et al., ICLR 2022.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from taco_ir.encoders.adapters.base import Insert, Method, Target

SCALE = 2  # alpha / rank, a common choice; the papers name none


class Lora(Insert):
    """W + 2 B A with B zero at the start. The tensors live in the backbone, where peft puts them."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._backbone = [target.backbone]  # in a list, so that it is not a submodule
        self._linears = target.sites.linears
        self._rank = target.width
        self._names: list[str] = []

    def add(self, name: str) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=self._rank, lora_alpha=SCALE * self._rank, target_modules=list(self._linears), lora_dropout=0.0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # several adapters are intended
            inject_adapter_in_model(config, self._backbone[0], name)
        self._names.append(name)
        for layer in self._layers():
            layer.set_requires_grad(self._names)
        self.use(self.active)

    def tensors(self, name: str) -> dict[str, Parameter]:
        return {
            f"{linear}.{side}": getattr(layer, f"lora_{side}")[name].weight
            for linear, layer in zip(self._linears, self._layers(), strict=True)
            for side in ("A", "B")
        }

    def use(self, name: str | None) -> None:
        super().use(name)
        tensors = [tensor for each in self._names for tensor in self.tensors(each).values()]
        trained = [tensor.requires_grad for tensor in tensors]
        for layer in self._layers():
            layer.set_adapter([] if name is None else name)
        for tensor, trains in zip(tensors, trained, strict=True):
            tensor.requires_grad_(trains)  # peft lets only the adapter in use train

    def _layers(self) -> list[Any]:
        """peft's layers, in the order of the linears."""
        return [self._backbone[0].get_submodule(linear) for linear in self._linears]


def _refuse(target: Target) -> str:
    if target.sites.linears:
        return ""
    return (
        f"lora changes the projections to queries and to values; a backbone of type {target.kind!r} has one for both"
        " and keys; supported: {supported}"
    )


def _merge(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, up_HR in tensors.items():
            if name.endswith(".B"):
                place = name.removesuffix(".B")
                backbone.get_parameter(f"{place}.weight").add_((up_HR @ tensors[f"{place}.A"]).cpu(), alpha=SCALE)


LORA = Method(
    lambda target: [Lora(target)],
    lambda shape, width: 2 * shape.layers * width * (shape.hidden + shape.inner),
    16,
    refuse=_refuse,
    merge=_merge,
)
