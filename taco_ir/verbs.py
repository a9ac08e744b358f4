"""What several verbs do with the same flags: load the encoder that they name."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taco_ir.models.encoder import TextEncoder

DEFAULT_NAME = "minilm-l6"


def encoder_of(options: Namespace) -> TextEncoder:
    """The encoder that --model and its companions name. Raises: InputError."""
    from taco_ir.models.encoder import load_encoder

    return load_encoder(
        options.model, pooling=options.pooling, normalize=options.normalize, prompt=options.prompt,
        precision=options.precision, device=options.device, batch_size=options.batch_size,
    )


def model_name(options: Namespace) -> str:
    """A short name for files and tables."""
    return DEFAULT_NAME if options.model is None else Path(options.model).resolve().name if Path(options.model).is_dir() else options.model.replace("/", "--")
