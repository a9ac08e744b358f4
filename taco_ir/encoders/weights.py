"""Reads and writes the weights of model folders: plain, in half precision, or in 8 bits in a separate file.

In 8 bits, a matrix is stored as integers from -127 to 127 with a scale for each row (symmetric weights of Jacob et al.,
Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018), but
computations use float32. Scales are bfloat16, so their product with 127 is exact in float32, and weights that were
loaded are stored again identically. Vectors (biases, norms) stay float32. The 8-bit file has a name that transformers
does not look for; under the usual name, transformers would silently use random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.typed import abbreviate

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"
KEY = "taco_ir_weights"  # a key of config.json, absent with plain weights
INT8 = "int8"
PLAIN_FILE, INT8_FILE = "model.safetensors", "model.int8.safetensors"
NUMBERS, SCALES = ".int8", ".scale"  # suffixes of a matrix's two tensors
MOST = 127
FEW = 16  # rows; smaller tables (token types) stay as they are, since their error would be in every token


def halve(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


def quantize(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert matrices of more than FEW rows to two tensors, int8 and scales; return all other tensors unchanged."""
    stored = {}
    for name, value in weights.items():
        if value.ndim == 2 and len(value) > FEW and value.is_floating_point():
            stored[name + NUMBERS], stored[name + SCALES] = to_int8(value.float())
        else:
            stored[name] = value
    return stored


def to_int8(value_NM: Tensor) -> tuple[Tensor, Tensor]:
    """Convert a matrix to int8 [N, M] with bfloat16 scales [N], one per row; the error is at most half a scale."""
    import torch

    scales_N = (value_NM.abs().amax(1) / MOST).bfloat16()
    steps_NM = value_NM / scales_N.float().masked_fill(scales_N == 0, 1)[:, None]  # 0: a row of zeros
    return steps_NM.round().to(torch.int8), scales_N


STORES: dict[str, tuple[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]] = {
    "float16": (PLAIN_FILE, halve),
    INT8: (INT8_FILE, quantize),
}


def describe_weights(config: Mapping[str, Any], how: str) -> dict[str, Any]:
    """Return the content of `config.json` for weights in the format `how`, one of STORES or float32."""
    plain = {key: value for key, value in config.items() if key not in (KEY, "torch_dtype")}
    return plain | ({"dtype": "float32", KEY: INT8} if how == INT8 else {"dtype": how})


def is_int8(folder: Path) -> bool:
    """Whether a model folder stores its weights in 8 bits. Raises: InputError for an unknown format."""
    how = read_json(folder / CONFIG, dict[str, Any]).get(KEY)
    if how not in (None, INT8):
        raise InputError(
            f"{folder / CONFIG}: {KEY} is {abbreviate(how)}; valid: {INT8!r}, or no such key for plain weights"
        )
    return how is not None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, by name. Raises: InputError if it is missing or broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights in a folder's only weight file, as float32. Raises: InputError if it cannot be read."""
    int8 = is_int8(folder)
    path = folder / (INT8_FILE if int8 else PLAIN_FILE)
    tensors = read_safetensors(path)
    weights = _restored(tensors, path) if int8 else tensors
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def _restored(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Undo `quantize`. Raises: InputError if numbers or scales of a matrix are missing."""
    import torch

    matrices = {name.removesuffix(NUMBERS).removesuffix(SCALES) for name in tensors if name.endswith((NUMBERS, SCALES))}
    if not matrices:
        raise InputError(f"{path}: it has no matrix in 8 bits, although {CONFIG} says so; export the model again")
    weights = {name: value for name, value in tensors.items() if not name.endswith((NUMBERS, SCALES))}
    for name in sorted(matrices):
        numbers, scales = tensors.get(name + NUMBERS), tensors.get(name + SCALES)
        matrix = numbers is not None and numbers.dtype == torch.int8 and numbers.ndim == 2
        if numbers is None or scales is None or not matrix or scales.shape != numbers.shape[:1]:
            raise InputError(
                f"{path}: {name} needs {name}{NUMBERS}, an int8 matrix, and {name}{SCALES}, with a scale for each row"
            )
        weights[name] = numbers.float() * scales.float()[:, None]
    return weights


def write_plain(source: Path, target: Path) -> None:
    """Convert the 8-bit weights and configuration in `source` to a plain float32 model in `target`."""
    from safetensors.torch import save_file

    save_file(read_weights(source), target / PLAIN_FILE, {"format": "pt"})
    write_json(target / CONFIG, describe_weights(read_json(source / CONFIG, dict[str, Any]), "float32"))
