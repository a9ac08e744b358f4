"""The output folder of a training: its settings, its inputs, and whether it may be resumed or replaced.

Fingerprints of passages, topics, base model and negatives are stored, so that a training never resumes with others.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, discard, is_leftover, read_json, write_json
from taco_ir.core.hashes import fingerprint, sha256_once
from taco_ir.core.tasks import TopicsName
from taco_ir.data.collection import Collection
from taco_ir.encoders.names import INPUTS_FILE
from taco_ir.training.settings import KEYS, TrainSettings, checked_keys, drop_idle

CONFIG_FILE = "config.json"
OWN = re.compile(  # names of the files and folders that a training writes
    r"(config|inputs|parameters)\.json|log\.jsonl|curves\.html|trackers\.json|mlflow\.db|wandb|(bm25-\d+-\d+-\d+|ance|validation)\.(jsonl|runs)"
    r"|model|best|checkpoints|vectors|index|tensorboard|corpus-\d+|episode-\d+"
)
MAY_DIFFER = ("device", "output", "track", "log_cosines", "log_dose")  # resuming may change these
READ = ("*.safetensors", "*.json", "*.txt", "*.model")  # files of a model folder whose content matters
CARD = "card.json"  # may be added to a model later


def save_settings(settings: TrainSettings, folder: Path) -> None:
    write_json(folder / CONFIG_FILE, settings.flat())


def load_settings(folder: Path) -> TrainSettings:
    """Reads the settings of the training in `folder`. Raises InputError if they are missing or damaged."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a folder that taco_ir.train wrote")
    checked = checked_keys(read_json(path, dict[str, Any]), (*KEYS, "episodes", "task_tables"), f"{path}: ")
    try:
        return TrainSettings(**drop_idle(checked))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def begun(output: Path) -> bool:
    """Returns whether the training in `output` has made a step; before the first step, settings may change."""
    return any(
        next((folder / "checkpoints").glob("step-*"), None)
        or (folder / "model").is_dir()
        or _has_logged_step(folder / "log.jsonl")
        for folder in (output, *output.glob("episode-*"))
    )


def _has_logged_step(log: Path) -> bool:
    """Returns whether a log has a line of a training step; the validation before the first step does not count."""
    return log.is_file() and any('"learning_rate"' in line for line in log.read_text(encoding="utf-8").splitlines())


def differing_keys(saved: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Returns the settings whose values differ although they must be the same when a training is resumed."""
    return [key for key, value in saved.items() if key not in MAY_DIFFER and value != given.get(key)]


def refuse_other_run(settings: TrainSettings, output: Path, overwrite: bool = False) -> None:
    """Raises InputError if `output` contains something else than a training with these settings.

    Args:
        overwrite: allow a training with other settings; other files, and the model to start from, are still refused.
    """
    if not (output / CONFIG_FILE).is_file():
        files = (path for path in output.rglob("*") if path.is_file() and not is_leftover(path))
        if output.is_file() or any(path != output / INPUTS_FILE for path in files):
            raise InputError(f"--output {output} exists and is not a training; give another folder")
        return
    _refuse_other_kind(output)
    if overwrite:
        tables = (table.get("negatives", "") for table in settings.episodes)
        own = (each.negatives or "" for each in settings.task_tables.values())
        _refuse_overwriting(output, [settings.run.model, *sorted({settings.negatives.negatives, *tables, *own})])
        return
    saved, given = load_settings(output).flat(), settings.flat()
    old = {key: saved[key] for key in read_json(output / CONFIG_FILE, dict[str, Any])}  # without newer settings
    if "task_tables" in given:
        old.setdefault("task_tables", None)
    if (keys := differing_keys(old, given)) and begun(output):
        changes = ", ".join(f"{key} was {saved.get(key)!r}, is {given.get(key)!r}" for key in keys)
        raise InputError(
            f"--output {output} is a training with other settings: {changes}; use the same settings, give "
            "another folder, or replace the training with --overwrite"
        )


def _refuse_overwriting(output: Path, starts: Iterable[str]) -> None:
    """Raises InputError if `output` has files of something else, or what the new training starts from."""
    for path in (path for folder in (output, *_episodes(output)) for path in _parts(folder)):
        if not OWN.fullmatch(path.name):
            raise InputError(
                f"--overwrite: {path} was not written by a training; move it away, or give another --output"
            )
    for given in starts:
        if given and Path(given).resolve().is_relative_to(output.resolve()) and Path(given).exists():
            raise InputError(
                f"--overwrite: the training starts from {given}, which would be removed; give another --output"
            )


def remove_run(output: Path, kept: Container[Path] = ()) -> None:
    """Removes the training in `output` except its settings, which the next training replaces. Call it under a lock.

    The newest files are removed first, so that a killed process leaves an unfinished training.

    Args:
        kept: files that the new training needs.
    """
    episodes, order = _episodes(output), []
    for folder in reversed(episodes):
        parts = _parts(folder)
        order += [path for path in parts if path not in kept] if any(path in kept for path in parts) else [folder]
    order += [path for path in _parts(output) if path not in kept and path not in (*episodes, output / CONFIG_FILE)]
    discard(order, output / "run")


def _episodes(output: Path) -> list[Path]:
    """Returns the folders of a training's episodes, in order."""
    return sorted(filter(Path.is_dir, output.glob("episode-*")), key=lambda path: (len(path.name), path.name))


def _parts(folder: Path) -> list[Path]:
    """Returns the files and folders that a training wrote to a folder, the last first."""
    parts = [path for path in folder.iterdir() if not is_leftover(path)]
    return sorted(parts, key=lambda path: (path.name != "model", path.name != "checkpoints", path.name))


def _refuse_other_kind(output: Path) -> None:
    """Raises InputError if the settings file in `output` belongs to another program."""
    values = read_json(output / CONFIG_FILE, dict[str, Any])
    foreign = [key for key in values if key not in (*KEYS, "episodes", "task_tables")]
    missing = [key for key in KEYS if key not in values]
    if foreign and missing:
        raise InputError(
            f"--output {output} is not a training: its {CONFIG_FILE} has {foreign[0]!r} and lacks {missing[0]!r}; "
            "give another folder"
        )


def inputs_of(
    corpora: Sequence[tuple[Collection, Iterable[TopicsName]]], model: Path, negatives: Iterable[str] = ()
) -> dict[str, str]:
    """Returns fingerprints (hashes) of a training's inputs by name, without topics that a collection does not have.

    Args:
        corpora: the collections, each with the topics to use.
        model: the folder of the base model.
        negatives: files of negatives that the user gave.
    """
    found: dict[str, str] = {}
    for number, (collection, topics) in enumerate(corpora, 1):
        of = f" of corpus-{number}" if len(corpora) > 1 else ""
        found[f"passages{of} of {collection.name}"] = collection.passages.fingerprint
        found |= {
            f"topics {name}{of}": sha256_once(collection.topics_path(str(name)))
            for name in dict.fromkeys(topics)
            if name in collection.topics_names
        }
    found |= {f"negatives {name}": sha256_once(Path(name)) for name in dict.fromkeys(negatives) if Path(name).is_file()}
    return found | {"the base model": hash_model(model)}


def hash_model(folder: Path) -> str:
    """Returns a hash of the files in a model folder that affect the model: weights, configuration and tokenizer."""
    files = sorted({path for pattern in READ for path in folder.rglob(pattern) if path.name != CARD and path.is_file()})
    return fingerprint([[str(path.relative_to(folder)), sha256_once(path)] for path in files])


def refuse_other_inputs(output: Path, inputs: Mapping[str, str]) -> None:
    """Saves the fingerprints of a new training's inputs. If the training has begun, raises InputError for changes."""
    path = output / INPUTS_FILE
    if not begun(output) or not path.is_file():
        write_json(path, dict(inputs))
        return
    found = read_json(path, dict[str, str])
    if differing := [name for name in {**found, **inputs} if found.get(name) != inputs.get(name)]:
        raise InputError(
            f"--output {output}: inputs have changed since this training began: {', '.join(differing)}; restore "
            "them, or give another folder"
        )
