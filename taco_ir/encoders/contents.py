"""What a model folder holds: every file that its vectors can depend on, by rule, and no weights but safetensors.

Pickled weights run whatever code is in them, and a PEFT adapter is applied by transformers unasked; folders whose files name either are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, read_json
from taco_ir.core.hashes import sha256_once

WEIGHTS = ".safetensors"
INDEX = f"{WEIGHTS}.index.json"
ADAPTER_FILE = "adapter_config.json"
NAMES_WEIGHTS = "transformers_weights"  # a key of config.json that sends transformers to another file
# Files of a folder that no vector depends on: texts for people, code and other libraries' weights, which nothing here reads;
# what is read into EncoderConfig or a tuned model's record, which are part of fingerprints themselves; and what is written about weights.
UNREAD = (
    ".md",
    ".py",
    ".bin",
    ".bin.index.json",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".ot",
    ".onnx",
    ".gguf",
    ".png",
    ".jpg",
    ".pdf",
    ".toml",
)
DESCRIBED = ("taco_ir.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
ABOUT = ("card.json", "pyserini-flags.txt", "state.json", "stream.json")
NO_TOKENIZER = ("config.json", "generation_config.json", *DESCRIBED, *ABOUT)


def vector_files(folder: Path) -> list[Path]:
    """The files of a model folder by which vectors can differ, by name: all but those that are known to change nothing.

    Raises:
        InputError: as `refuse_other_weights` does.
    """
    refuse_other_weights(folder)
    left_out = (*DESCRIBED, *ABOUT)
    return [path for path in _files(folder) if not path.name.endswith(UNREAD) and path.name not in left_out]


def tokenizer_files(folder: Path) -> list[Path]:
    """Those that only a tokenizer can read, by name."""
    return [path for path in _files(folder) if not path.name.endswith((*UNREAD, WEIGHTS, INDEX)) and path.name not in NO_TOKENIZER]


def contents_hashes(folder: Path) -> dict[str, str]:
    """Hashes of `vector_files` by name. Raises: InputError as that does."""
    return {path.name: sha256_once(path) for path in vector_files(folder)}


def refuse_other_weights(folder: Path) -> None:
    """Raise InputError for a folder whose files send a loader to weights that are no safetensors beside them."""
    if (folder / ADAPTER_FILE).is_file():
        raise InputError(
            f"--model {folder}: {ADAPTER_FILE} makes it an adapter of PEFT; merge it into its base (merge_and_unload), save that, and give the result"
        )
    config = folder / "config.json"
    named = _object(config).get(NAMES_WEIGHTS) if config.is_file() else None
    if named is not None:
        raise InputError(f"{config}: {NAMES_WEIGHTS} is {named!r}; weights are model{WEIGHTS} or the shards of model{INDEX}, no others")
    for index in sorted(folder.glob(f"*{INDEX}")):
        _check_index(index)


def _check_index(path: Path) -> None:
    """Raise InputError where an index of shards names anything but safetensors files beside it."""
    shards = _object(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{path}: no weight_map, which says what shard each tensor is in")
    for name in sorted(set(map(str, shards.values()))):
        if not name.endswith(WEIGHTS):
            raise InputError(f"{path}: names {name!r}; pickled weights are not read, only {WEIGHTS} files are")
        if Path(name).name != name or not (path.parent / name).is_file():
            raise InputError(f"{path}: names {name!r}, which is no file beside it")


def _object(path: Path) -> dict[str, Any]:
    """Raises: InputError for a file that holds no JSON object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: a JSON object is expected, this is {str(found)[:60]!r}")
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
