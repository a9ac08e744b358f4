"""Writes and reads checkpoints: the model, the state of optimiser and weighting, and the progress of the training.

A checkpoint is a folder such as `step-00000120`, and search can load its model. It is complete if it has `state.json`,
which is written last. No random state is saved, because data order and dropout depend only on seed and step.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from taco_ir.core.files import InputError, is_leftover, read_json, write_json, writing_folder
from taco_ir.encoders.weights import read_safetensors
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.sampling import Stream, write_stream
from taco_ir.training.settings import WeightingSettings
from taco_ir.weighting.base import TaskWeighting

STATE_FILE = "state.json"
OPTIMIZER_FILE, WEIGHTING_FILE = "optimizer.safetensors", "weighting.safetensors"


@dataclass
class TrainState:
    """The progress of a training.

    Attributes:
        step: number of steps done.
        best: macro average of the best validation; None if no validation has counted yet.
        best_step: step of the best validation.
        worse: number of validations since the best one.
        skipped: by task, number of steps that were skipped because the task's gradient was infinite or NaN.
        in_a_row: number of steps skipped in a row, up to the last step.
    """

    step: Annotated[int, 0] = 0
    best: float | None = None
    best_step: Annotated[int, 0] = 0
    worse: Annotated[int, 0] = 0
    skipped: dict[str, Annotated[int, 0]] = field(default_factory=dict)
    in_a_row: Annotated[int, 0] = 0


def write_checkpoint(
    folder: Path,
    model: DualEncoder,
    optimizer: Optimizer,
    weighting: TaskWeighting,
    state: TrainState,
    keep: int,
    stream: Stream,
) -> None:
    """Writes a checkpoint into a subfolder of `folder`, then removes all checkpoints except the latest `keep`."""
    with writing_folder(folder / f"step-{state.step:08d}") as part:
        model.save(part / "model")
        write_stream(part / "model", stream)
        if model.adapters is not None:
            model.adapters.save_training(part / "model")
        save_file(_optimizer_tensors(optimizer), part / OPTIMIZER_FILE)
        save_file({name: value.contiguous() for name, value in weighting.state_dict().items()}, part / WEIGHTING_FILE)
        write_json(part / STATE_FILE, asdict(state))
    remove_checkpoints(folder, keep)


def remove_checkpoints(folder: Path, keep: int) -> None:
    """Removes all checkpoints except the latest `keep`; incomplete ones, left by a killed process, are removed too."""
    kept = list_checkpoints(folder)[-keep:]
    for old in folder.glob("step-*"):
        if old not in kept:
            shutil.rmtree(old) if old.is_dir() else old.unlink()


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the folders of the complete checkpoints in `folder`, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{STATE_FILE}") if not is_leftover(path.parent))


def find_latest(folder: Path) -> Path | None:
    """Returns the latest complete checkpoint of the episode in `folder`; None if there is none."""
    found = list_checkpoints(folder / "checkpoints")
    return found[-1] if found else None


def read_state(checkpoint: Path) -> TrainState:
    return read_json(checkpoint / STATE_FILE, TrainState, f"remove {checkpoint} to resume from an older one")


def load_optimizer(checkpoint: Path, optimizer: Optimizer) -> None:
    """Loads the optimiser's state. Raises InputError if it does not fit the model, or has infinite or NaN values."""
    found = _tensors(checkpoint / OPTIMIZER_FILE)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in found.items():
        number, _, key = name.partition(".")
        place = int(number)
        if place >= len(params) or (value.dim() and value.shape != params[place].shape):
            raise InputError(
                f"{checkpoint / OPTIMIZER_FILE}: {name} has the shape {list(value.shape)}, so the file belongs to "
                "another model; restore the right file, or start the training again"
            )
        state.setdefault(place, {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def load_weighting(checkpoint: Path, weighting: TaskWeighting) -> None:
    """Loads the state of the task weighting from a checkpoint.

    Raises:
        InputError: if the state was saved with another weighting, tasks or architecture, or is infinite or NaN.
    """
    path = checkpoint / WEIGHTING_FILE
    found, wanted = _tensors(path), weighting.state_dict()
    for name in sorted(set(found) | set(wanted)):
        if name not in found or name not in wanted or found[name].shape != wanted[name].shape:
            raise InputError(
                f"{path}: {name} does not fit; the file is of another weighting, tasks or architecture; use the "
                "same settings, or start the training again"
            )
    weighting.load_state_dict(found)


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{number}.{key}": value.contiguous() for number, entry in state.items() for key, value in entry.items()}


def _tensors(path: Path) -> dict[str, Tensor]:
    found = read_safetensors(path)
    if wrong := [name for name, value in found.items() if not all_finite([value])]:
        raise InputError(
            f"{path}: {wrong[0]} contains infinite numbers or NaN; resume from an older checkpoint, or start the "
            "training again"
        )
    return found


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Returns whether all tensors have only finite numbers; waits for the device only once."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all()) if tensors else True


def resume(
    folder: Path, warm: Path | None, settings: WeightingSettings, optimizer: Optimizer, weighting: TaskWeighting
) -> TrainState:
    """Loads optimiser and weighting from the latest checkpoint in `folder`; returns the progress of the training.

    Without a checkpoint, `settings` say what to load from `warm`, a checkpoint of the previous episode.
    """
    found = find_latest(folder)
    source = found or warm
    if source and (found or settings.keep_optimizer):
        load_optimizer(source, optimizer)
    if source and (found or settings.keep_importance):
        load_weighting(source, weighting)
    return read_state(found) if found else TrainState()
