"""The head of an encoder, which is linear layers after pooling: one without bias, or several with activations.

A checkpoint keeps them in `head.safetensors`. sentence-transformers has a `Dense` module for each layer, and DPR's
projection is one layer with a bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.core.files import InputError
from taco_ir.encoders.config import EncoderConfig
from taco_ir.encoders.weights import read_safetensors

if TYPE_CHECKING:
    from torch import Tensor, nn

HEAD_FILE = "head.safetensors"


def new_head(config: EncoderConfig, inputs: int) -> nn.Module:
    """Create the head of a new training: a linear layer without bias, from `inputs` to `config.head` numbers."""
    import torch

    return torch.nn.Linear(inputs, config.head, bias=False)


def dense_tensors(files: list[Path]) -> dict[str, Tensor]:
    """Read the tensors of sentence-transformers' Dense modules, named by layer: 0.weight, 0.bias, 2.weight, ..."""
    return {
        f"{2 * place}.{name.removeprefix('linear.')}": value
        for place, path in enumerate(files)
        for name, value in read_safetensors(path).items()
    }


def read_head(config: EncoderConfig, inputs: int, tensors: Mapping[str, Tensor], where: Path) -> nn.Module:
    """Build the head from its tensors. Raises: InputError if the tensors do not fit `config` and the width `inputs`."""
    import torch

    if not config.head_layers:
        if set(tensors) != {"weight"} or tensors["weight"].shape != (config.head, inputs):
            raise InputError(f"{where}: it must hold one tensor, 'weight', of shape [{config.head}, {inputs}]")
        head: nn.Module = new_head(config, inputs)
        head.load_state_dict(tensors)
        return head
    parts: list[nn.Module] = []
    width = inputs
    for place, activation in enumerate(config.head_layers.split()):
        weight = tensors.get(f"{2 * place}.weight")
        if weight is None or weight.ndim != 2 or weight.shape[1] != width:
            raise InputError(f"{where}: layer {place} of the head needs a weight matrix with {width} columns")
        width = len(weight)
        linear = torch.nn.Linear(weight.shape[1], width, bias=f"{2 * place}.bias" in tensors)
        parts += [linear, getattr(torch.nn, activation)()]
    head = torch.nn.Sequential(*parts)
    if width != config.head or {name: value.shape for name, value in head.state_dict().items()} != {
        name: value.shape for name, value in tensors.items()
    }:
        raise InputError(
            f"{where}: its tensors do not fit the head in the configuration: width {config.head}, layers "
            f"{config.head_layers}"
        )
    head.load_state_dict(tensors)
    return head


def save_head(head: nn.Module, folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    save_file(tensors, folder / HEAD_FILE)
