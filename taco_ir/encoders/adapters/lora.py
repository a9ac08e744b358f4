"""LoRA: low-rank changes of the query and value projections, with the library peft.

Hu et al., ICLR 2022.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from taco_ir.core.files import InputError
from taco_ir.core.typed import abbreviate
from taco_ir.encoders.adapters.base import Insert, Method, Target
from taco_ir.encoders.weights import read_safetensors

SCALE = 2  # alpha / rank, a common choice; the papers name none


class Lora(Insert):
    """Low-rank changes of projections, W + 2 B A, with B zero at the start. peft keeps the tensors in the backbone."""

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
        """Return peft's layers, in the order of the linear layers."""
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


def merge_peft(backbone: nn.Module, file: Path) -> nn.Module:
    """Merge an adapter saved by peft into the backbone's weights. Raises: InputError for tensors that do not fit.

    Args:
        file: the file of the adapter's tensors, with adapter_config.json beside it.
    """
    import peft

    settings = peft.PeftConfig.from_pretrained(str(file.parent))
    settings.task_type = None  # the model that it was trained on may have had a head
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its base may have moved
        model = peft.get_peft_model(backbone, settings)  # type: ignore[arg-type]
    tensors = read_safetensors(file)
    if not hasattr(backbone, "model"):  # the adapter was trained with a head, which the encoder lacks
        tensors = {name.replace(".model.model.", ".model.", 1): value for name, value in tensors.items()}
    wanted = peft.get_peft_model_state_dict(model)
    if other := sorted(set(wanted) ^ set(tensors)):
        fault = "lacks" if other[0] in wanted else "should not have"
        raise InputError(f"{file}: it {fault} {len(other)} tensors, such as {abbreviate(other[0])}")
    peft.set_peft_model_state_dict(model, tensors)
    merged: nn.Module = model.merge_and_unload()  # type: ignore[operator]
    return merged.requires_grad_(True)


LORA = Method(
    lambda target: [Lora(target)],
    lambda shape, width: 2 * shape.layers * width * (shape.hidden + shape.inner),
    16,
    refuse=_refuse,
    merge=_merge,
)
