"""Checkpoints: the model as search loads it, the optimiser's and the weighting's tensors, and where the training stands.

A checkpoint is a folder `step-00000120` that appears whole; `state.json`, written last, marks it complete. No random
state is kept: data order and dropout are functions of seed and step.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from taco_ir.core.files import InputError, is_leftover, read_json, write_json, writing_folder
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.settings import WeightingSettings
from taco_ir.training.stream import Stream, write_stream
from taco_ir.weighting.base import TaskWeighting

STATE_FILE = "state.json"
OPTIMIZER_FILE, WEIGHTING_FILE = "optimizer.safetensors", "weighting.safetensors"


@dataclass
class TrainState:
    """Where a training stands.

    Attributes:
        step: steps done.
        best: macro page R-precision of the best validation; None before the first.
        best_step: when that was.
        worse: validations since then.
        skipped: steps skipped for a gradient that was not finite, by task.
        in_a_row: skipped steps since the last good one.
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
    """Write one more checkpoint into `folder`, then remove all but the last `keep`; its model says how far `stream` was read."""
    with writing_folder(folder / f"step-{state.step:08d}") as part:
        model.save(part / "model")
        write_stream(part / "model", stream)
        if model.tuning is not None:
            model.tuning.save_training(part / "model")
        save_file(_optimizer_tensors(optimizer), part / OPTIMIZER_FILE)
        save_file({name: value.contiguous() for name, value in weighting.state_dict().items()}, part / WEIGHTING_FILE)
        write_json(part / STATE_FILE, asdict(state))
    kept = checkpoints(folder)[-keep:]
    for old in folder.glob("step-*"):
        if old not in kept:  # incomplete ones too: what a process that was killed had begun to write or to remove
            shutil.rmtree(old) if old.is_dir() else old.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{STATE_FILE}") if not is_leftover(path.parent))


def latest(folder: Path) -> Path | None:
    """The last complete checkpoint of an episode's folder."""
    found = checkpoints(folder / "checkpoints")
    return found[-1] if found else None


def read_state(checkpoint: Path) -> TrainState:
    return read_json(checkpoint / STATE_FILE, TrainState, f"remove {checkpoint} to go on from an older one")


def load_optimizer(checkpoint: Path, optimizer: Optimizer) -> None:
    """Raises: InputError for a checkpoint of another architecture, or numbers that are not finite."""
    found = _tensors(checkpoint / OPTIMIZER_FILE)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in found.items():
        number, _, key = name.partition(".")
        place = int(number)
        if place >= len(params) or (value.dim() and value.shape != params[place].shape):
            raise InputError(
                f"{checkpoint / OPTIMIZER_FILE}: {name} has the shape {list(value.shape)}; the model trained is another one"
            )
        state.setdefault(place, {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def load_weighting(checkpoint: Path, weighting: TaskWeighting) -> None:
    """Raises: InputError for the state of another weighting, other tasks or another architecture, or numbers that are not finite."""
    path = checkpoint / WEIGHTING_FILE
    found, wanted = _tensors(path), weighting.state_dict()
    for name in sorted(set(found) | set(wanted)):
        if name not in found or name not in wanted or found[name].shape != wanted[name].shape:
            raise InputError(
                f"{path}: {name} does not fit; the state is another weighting's, of other tasks or another architecture"
            )
    weighting.load_state_dict(found)


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{number}.{key}": value.contiguous() for number, entry in state.items() for key, value in entry.items()}


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if wrong := [name for name, value in found.items() if not all_finite([value])]:
        raise InputError(
            f"{path}: {wrong[0]} holds numbers that are not finite; go on from an older checkpoint, or train anew"
        )
    return found


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every number is; by one reading of the device."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all()) if tensors else True


def resume(
    folder: Path, warm: Path | None, settings: WeightingSettings, optimizer: Optimizer, weighting: TaskWeighting
) -> TrainState:
    """Load optimiser and weighting of the last checkpoint under `folder` (the model was loaded from it), and say where it was.

    Where there is none, take from the checkpoint `warm` what `settings` say, and begin.
    """
    found = latest(folder)
    source = found or warm
    if source and (found or settings.keep_optimizer):
        load_optimizer(source, optimizer)
    if source and (found or settings.keep_importance):
        load_weighting(source, weighting)
    return read_state(found) if found else TrainState()
