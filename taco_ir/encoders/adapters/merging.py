"""A tuned model as a whole one, where a method only changes weights that the backbone has: LoRA and BitFit."""

from __future__ import annotations

from pathlib import Path

import torch

from taco_ir.core.files import InputError
from taco_ir.encoders.adapters.encoder import TunedEncoder
from taco_ir.encoders.adapters.folder import TuningRecord
from taco_ir.encoders.adapters.lora import SCALE
from taco_ir.encoders.exports import copy_backbone
from taco_ir.encoders.text_encoder import load_backbone

MERGED = ("bitfit", "lora")


def mergeable(record: TuningRecord) -> bool:
    """Whether a model is one change of the backbone's weights."""
    return record.method in MERGED and record.roles == "shared"


def write_merged(encoder: TunedEncoder, base: Path, target: Path) -> None:
    """Write a model folder that encodes as `encoder` does, without modules.

    Args:
        base: the folder of the backbone.

    Raises:
        InputError: for modules that are no change of weights, or several of them.
    """
    record = encoder.record
    if record.method not in MERGED:
        raise InputError(
            f"modules of {record.method} cannot be merged into plain weights (those of {', '.join(MERGED)} can); use the exported queries"
        )
    if record.roles != "shared":
        raise InputError(f"tune_roles {record.roles} is several models on one backbone, a plain folder is one; use the exported queries")
    backbone, _, _ = load_backbone(base, encoder.config)
    tensors = encoder.tuning.tensors("shared")
    with torch.no_grad():
        if record.method == "bitfit":
            for name, bias in tensors.items():
                backbone.get_parameter(name).copy_(bias)
        else:
            for name, up_HR in tensors.items():
                if name.endswith(".B"):
                    place = name.removesuffix(".B")
                    backbone.get_parameter(f"{place}.weight").add_((up_HR @ tensors[f"{place}.A"]).cpu(), alpha=SCALE)
    config = encoder.config
    copy_backbone(base, target, max(config.query_length, config.passage_length, *config.query_lengths.values()))
    for weights in target.glob("*.safetensors*"):
        weights.unlink()
    backbone.save_pretrained(target)  # type: ignore[operator]
    config.save(target)
