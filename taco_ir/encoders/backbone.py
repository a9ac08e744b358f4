"""Loads backbones by transformers, from local files only: in float32, or with linear layers in int8."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco_ir.core.files import QUOTED_UP_TO, InputError, read_json
from taco_ir.core.typed import shown
from taco_ir.encoders.config import EncoderConfig
from taco_ir.encoders.model_folder import HEAD_FILE, ModelFolder
from taco_ir.encoders.weights import KEY, is_int8, read_weights

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer


def usable_device(name: str) -> torch.device:
    """The device of --device. Raises: InputError for one that torch cannot use."""
    import torch

    try:
        device = torch.device(name)
        if (
            device.type != "cuda" or not 0 <= (device.index or 0) < torch.cuda.device_count()
        ):  # else nothing is put on one of several
            torch.empty(0, device=device)
        return device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name!r}: torch cannot use it here ({str(error).splitlines()[0]})") from error


def load_backbone(
    folder: ModelFolder, config: EncoderConfig
) -> tuple[torch.nn.Module, Tokenizer, torch.nn.Module | None]:
    """Backbone in float32, its fast tokenizer, and the linear head where `config` has one; from local files only.

    Raises:
        InputError: for a model that transformers cannot load, that lacks weights, or that cannot pool as `config` says.
    """
    import torch
    import transformers

    folder.require_weights()
    path = folder.path
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = read_json(path / "config.json", dict[str, Any]).get("model_type")
    if config.pooling == "decoder" and kind != "t5":
        raise InputError(f"--model {folder}: pooling 'decoder' needs a T5 model, this is {shown(kind)}")
    loader = transformers.T5EncoderModel if kind == "t5" and config.pooling != "decoder" else transformers.AutoModel
    try:
        if is_int8(path):
            backbone, report = _from_8_bits(loader, path)
        else:
            backbone, report = loader.from_pretrained(
                path,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, use_fast=True
        )
        fast: Tokenizer = tokenizer.backend_tokenizer
        fast.no_padding()
    except InputError:
        raise
    except (
        Exception
    ) as error:  # of any class: values in config.json and the tokenizer's files end up anywhere in transformers
        reason = [*filter(None, str(error).strip().splitlines()), type(error).__name__][0]
        raise InputError(f"--model {folder}: transformers cannot load it ({reason[:QUOTED_UP_TO]})") from error
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    if missing:
        raise InputError(
            f"--model {folder}: weights lack {len(missing)} tensors of a {kind} model, first {sorted(missing)[0]!r}"
        )
    head = _load_head(path, backbone.config.hidden_size, config.head) if config.head else None
    return backbone, fast, head


def _from_8_bits(loader: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model and transformers' report, from weights that we restore."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    delattr(config, KEY)  # what is loaded, and saved again, is plain
    if loader is transformers.AutoModel:  # it has no class for weights without files
        with torch.device("meta"):
            loader = type(loader.from_config(config))
    found: tuple[Any, dict[str, Any]] = loader.from_pretrained(
        None, config=config, state_dict=read_weights(folder), dtype=torch.float32, output_loading_info=True
    )
    return found


def _load_head(folder: Path, inputs: int, outputs: int) -> torch.nn.Module:
    """The linear layer behind the pooling. Raises: InputError where its file is missing or has another shape."""
    import torch
    from safetensors.torch import load_file

    path = folder / HEAD_FILE
    found = load_file(path) if path.is_file() else {}
    if set(found) != {"weight"} or found["weight"].shape != (outputs, inputs):
        raise InputError(f"{path}: a head of {outputs} x {inputs} numbers named 'weight' is needed")
    head = torch.nn.Linear(inputs, outputs, bias=False)
    head.load_state_dict(found)
    return head


def in_int8(backbone: torch.nn.Module) -> torch.nn.Module:
    """Linear layers in int8 with a scale per output channel; activations are scaled per batch."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of this interface, in two ways
        quantized: torch.nn.Module = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            backbone, {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}, dtype=torch.qint8
        )
    return quantized
