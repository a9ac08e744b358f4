"""How a model folder keeps its weights: plainly, in half precision or, in a file of another name, in 8 bits.

There a matrix is whole numbers of -127 to 127 with a scale for each row (symmetric weights of Jacob et al., Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018; arithmetic stays float32). A scale is bfloat16: so short a number
times 127 is a float32 without rounding, so what was stored and loaded is stored alike again. Vectors (biases, norms) stay float32. The name of
the file is not one that transformers looks for: it would take new, random weights for those that it does not find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.typed import shown

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"
KEY = "taco_ir_weights"  # of config.json; plain weights have none
INT8 = "int8"
PLAIN_FILE, INT8_FILE = "model.safetensors", "model.int8.safetensors"
NUMBERS, SCALES = ".int8", ".scale"  # what tensors of a matrix add to its name
MOST = 127
FEW = 16  # rows of a table whose error every token has (token types): they cost nothing, and were a third of the loss


def halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


def quantized(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices of more than FEW rows in steps, by two tensors each; other tensors as they are."""
    stored = {}
    for name, value in weights.items():
        if value.ndim == 2 and len(value) > FEW and value.is_floating_point():
            stored[name + NUMBERS], stored[name + SCALES] = in_steps(value.float())
        else:
            stored[name] = value
    return stored


def in_steps(value_NM: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix as int8 [N, M] times bfloat16 scales [N]: at most half a scale from what it was."""
    import torch

    scales_N = (value_NM.abs().amax(1) / MOST).bfloat16()
    steps_NM = value_NM / scales_N.float().masked_fill(scales_N == 0, 1)[:, None]  # 0: a row of zeros
    return steps_NM.round().to(torch.int8), scales_N


STORES: dict[str, tuple[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]] = {
    "float16": (PLAIN_FILE, halved),
    INT8: (INT8_FILE, quantized),
}


def described(config: Mapping[str, Any], how: str) -> dict[str, Any]:
    """`config.json` of weights that are stored as `how` says, one of STORES or float32."""
    plain = {key: value for key, value in config.items() if key not in (KEY, "torch_dtype")}
    return plain | ({"dtype": "float32", KEY: INT8} if how == INT8 else {"dtype": how})


def is_int8(folder: Path) -> bool:
    """Whether a model folder keeps its weights in 8 bits. Raises: InputError where it says that it keeps them in a way not known here."""
    how = read_json(folder / CONFIG, dict[str, Any]).get(KEY)
    if how not in (None, INT8):
        raise InputError(f"{folder / CONFIG}: {KEY} is {shown(how)}; valid: {INT8!r}, or no such key for plain weights")
    return how is not None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of a folder that keeps them in one file, in float32.

    Raises:
        InputError: for a file that is missing, damaged, or not what config.json says.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    int8 = is_int8(folder)
    path = folder / (INT8_FILE if int8 else PLAIN_FILE)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    weights = _restored(tensors, path) if int8 else tensors
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def _restored(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """What was quantized. Raises: InputError for numbers without their scales, or the reverse."""
    import torch

    bare = {name.removesuffix(NUMBERS).removesuffix(SCALES) for name in tensors if name.endswith((NUMBERS, SCALES))}
    weights = {name: value for name, value in tensors.items() if not name.endswith((NUMBERS, SCALES))}
    for name in sorted(bare):
        numbers, scales = tensors.get(name + NUMBERS), tensors.get(name + SCALES)
        if (
            numbers is None
            or scales is None
            or numbers.dtype != torch.int8
            or numbers.ndim != 2
            or scales.shape != numbers.shape[:1]
        ):
            raise InputError(
                f"{path}: {name} needs {name}{NUMBERS}, int8 of two dimensions, and {name}{SCALES}, a number for each of its rows"
            )
        weights[name] = numbers.float() * scales.float()[:, None]
    if not bare:
        raise InputError(f"{path}: no matrix in 8 bits in it; {CONFIG} says that there are")
    return weights


def write_plain(source: Path, target: Path) -> None:
    """Write weights that are kept in 8 bits, and their configuration, as a plain float32 model."""
    from safetensors.torch import save_file

    save_file(read_weights(source), target / PLAIN_FILE, {"format": "pt"})
    write_json(target / CONFIG, described(read_json(source / CONFIG, dict[str, Any]), "float32"))
