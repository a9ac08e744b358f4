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
KEY = "taco_ir_weights"  # of config.json; plain weights have none
INT8 = "int8"
PLAIN_FILE, INT8_FILE = "model.safetensors", "model.int8.safetensors"
NUMBERS, SCALES = ".int8", ".scale"  # what tensors of a matrix add to its name
MOST = 127
FEW = 16  # rows of small tables (token types), whose error every token would have; kept whole, they cost nothing


def halve(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


def quantize(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert matrices of more than FEW rows to int8 with scales, two tensors each; other tensors are kept."""
    stored = {}
    for name, value in weights.items():
        if value.ndim == 2 and len(value) > FEW and value.is_floating_point():
            stored[name + NUMBERS], stored[name + SCALES] = to_int8(value.float())
        else:
            stored[name] = value
    return stored


def to_int8(value_NM: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix as int8 [N, M] with bfloat16 scales [N]; the error is at most half a scale."""
    import torch

    scales_N = (value_NM.abs().amax(1) / MOST).bfloat16()
    steps_NM = value_NM / scales_N.float().masked_fill(scales_N == 0, 1)[:, None]  # 0: a row of zeros
    return steps_NM.round().to(torch.int8), scales_N


STORES: dict[str, tuple[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]] = {
    "float16": (PLAIN_FILE, halve),
    INT8: (INT8_FILE, quantize),
}


def describe_weights(config: Mapping[str, Any], how: str) -> dict[str, Any]:
    """The `config.json` for weights stored in the format `how`, one of STORES or float32."""
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
    """The tensors of a file. Raises: InputError for a file that is missing or broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder that has them in one file, in float32. Raises: InputError for an unreadable file."""
    int8 = is_int8(folder)
    path = folder / (INT8_FILE if int8 else PLAIN_FILE)
    tensors = read_safetensors(path)
    weights = _restored(tensors, path) if int8 else tensors
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def _restored(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Undo `quantize`. Raises: InputError for numbers without their scales, or the reverse."""
    import torch

    matrices = {name.removesuffix(NUMBERS).removesuffix(SCALES) for name in tensors if name.endswith((NUMBERS, SCALES))}
    if not matrices:
        raise InputError(f"{path}: it has no matrix in 8 bits, although {CONFIG} says so")
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
    """Convert 8-bit weights, and their configuration, to a plain float32 model."""
    from safetensors.torch import save_file

    save_file(read_weights(source), target / PLAIN_FILE, {"format": "pt"})
    write_json(target / CONFIG, describe_weights(read_json(source / CONFIG, dict[str, Any]), "float32"))
