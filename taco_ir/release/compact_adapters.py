"""Adapters made small, with their backbone in the same folder: the adapters in half precision, the backbone as `compact` writes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from taco_ir.encoders.adapters.folder import TENSORS_FILE
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.names import BACKBONE
from taco_ir.encoders.text_encoder import TextEncoder
from taco_ir.release.compact import Compacted, compact, finite, size_of

RECORD_BYTES = 4096  # what tuning.json takes, at most


def compact_adapters(encoder: TextEncoder, base: Path, target: Path, texts: Iterable[str], limit: int, stored: str) -> Compacted:
    """Write `encoder` to `target` in at most `limit` bytes.

    Args:
        base: the folder of the backbone.
        texts, stored: as those of `compact`.

    Raises:
        InputError: as `compact` does.
    """
    from safetensors.torch import save_file

    if encoder.adapters is None or encoder.record is None:
        raise TypeError(f"{encoder.folder} has no adapters")
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in encoder.adapters.stored().items()}
    save_file(finite(tensors, encoder.folder), target / TENSORS_FILE)
    encoder.config.save(target)
    inside = target / BACKBONE
    inside.mkdir()
    alone = replace(encoder.config, prompts={}, query_lengths={})
    made = compact(base, inside, alone, texts, limit - size_of(target) - RECORD_BYTES, stored)
    replace(encoder.record, base=BACKBONE, digest=ModelFolder(inside).fingerprint).save(target)
    return made._replace(size=size_of(target))
