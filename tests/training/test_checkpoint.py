"""Checkpoints: everything comes back bit for bit, old and incomplete ones go, and foreign ones are refused by name."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import Parameter
from training_runs import TASKS, small
from weighting_steps import TRAINED

from taco_ir.core.files import InputError
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.training.base_model import start_encoder
from taco_ir.training.checkpoint import (
    OPTIMIZER_FILE,
    STATE_FILE,
    WEIGHTING_FILE,
    TrainState,
    list_checkpoints,
    load_optimizer,
    load_weighting,
    read_state,
    write_checkpoint,
)
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.loop import adamw
from taco_ir.training.sampling import Stream
from taco_ir.training.step import make_weighting
from taco_ir.weighting.base import TaskWeighting

TENSORS = (OPTIMIZER_FILE, WEIGHTING_FILE)


@cache
def base_model(base: Path) -> DualEncoder:
    return start_encoder(small(base, base), base, TASKS)


class Training:
    """A model, its optimiser and its weighting after some steps of random gradients."""

    def __init__(self, base: Path, weighting: str = "naive", steps: int = 3, tasks: int = 3) -> None:
        self.config = small(base, base, weighting=weighting)
        self.model = copy.deepcopy(base_model(base))
        self.params: list[Parameter] = [param for _, param in self.model.trained_parameters()]
        self.optimizer = adamw(self.model, self.config.optimiser)
        self.weighting: TaskWeighting = make_weighting(self.config.weighting, self.model, "abcd"[:tasks])
        self.generator = torch.Generator().manual_seed(1)
        for step in range(steps):
            self.step(step)

    def step(self, number: int) -> None:
        self.weighting.begin(number / 4)
        for task in range(self.weighting.tasks):
            for param in self.params:
                param.grad = torch.randn(param.shape, generator=self.generator)
            self.weighting.add(task, torch.tensor(1.0 + task), self.params)
        self.weighting.combine(self.params)
        self.optimizer.step()

    def read(self, found: Path, file: str) -> None:
        """Load the tensors of one file of a checkpoint."""
        if file == OPTIMIZER_FILE:
            load_optimizer(found, self.optimizer)
        else:
            load_weighting(found, self.weighting)

    def write(self, folder: Path, state: TrainState, keep: int = 9) -> Path:
        write_checkpoint(folder, self.model, self.optimizer, self.weighting, state, keep, Stream())
        return folder / f"step-{state.step:08d}"


@pytest.fixture(scope="module")
def trained(tiny_bert: Path) -> Training:
    return Training(tiny_bert, "taco")


@pytest.mark.parametrize("name", TRAINED)
def test_what_was_written_comes_back(tiny_bert: Path, tmp_path: Path, name: str) -> None:
    """...and the next step is the one that would have come without the checkpoint."""
    ours = Training(tiny_bert, name)
    found = ours.write(tmp_path, TrainState(3))
    again = Training(found / "model", name, steps=0)
    load_optimizer(found, again.optimizer)
    load_weighting(found, again.weighting)
    again.generator.set_state(ours.generator.get_state())
    for _ in range(2):
        assert again.optimizer.state_dict().keys() == ours.optimizer.state_dict().keys()
        states = [each.optimizer.state_dict()["state"] for each in (ours, again)]
        assert states[0].keys() == states[1].keys() == set(range(len(ours.params)))
        for number, entry in states[0].items():
            assert entry.keys() == states[1][number].keys() >= {"exp_avg", "exp_avg_sq", "step"}
            assert all(torch.equal(value, states[1][number][key]) for key, value in entry.items())
        kept = [each.weighting.state_dict() for each in (ours, again)]
        assert kept[0].keys() == kept[1].keys() and all(
            torch.equal(value, kept[1][key]) for key, value in kept[0].items()
        )
        assert all(torch.equal(a, b) for a, b in zip(ours.params, again.params, strict=True))
        ours.step(3)
        again.step(3)


def test_the_optimisers_groups_stay_ours(trained: Training, tiny_bert: Path, tmp_path: Path) -> None:
    """A checkpoint brings moments, not learning rates: the configuration says those."""
    found = trained.write(tmp_path, TrainState(1))
    fresh = Training(tiny_bert, "taco", steps=0)
    for group in fresh.optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.25, 0.5
    load_optimizer(found, fresh.optimizer)
    assert [(group["lr"], group["weight_decay"]) for group in fresh.optimizer.param_groups] == [(0.25, 0.5)] * 2


@pytest.mark.parametrize(
    "state", [TrainState(), TrainState(7, 0.1 + 0.2, 5, 2, {"nq": 3, "zsre é": 1}, 4), TrainState(12, 0.0, 12)]
)
def test_state_comes_back(trained: Training, tmp_path: Path, state: TrainState) -> None:
    assert read_state(trained.write(tmp_path, state)) == state


def test_a_checkpoint_is_a_model_that_searches(trained: Training, tmp_path: Path) -> None:
    vectors_BD = load_encoder(str(trained.write(tmp_path, TrainState(1)) / "model")).encode_queries(["who"], "nq")
    trained.model.eval()
    with torch.no_grad():
        assert torch.allclose(
            torch.tensor(vectors_BD), trained.model(trained.model.tokenize_queries(["who"], "nq")), atol=1e-6
        )


# which ones are there


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_last_are_kept(trained: Training, tmp_path: Path, keep: int) -> None:
    steps = [2, 4, 9, 10, 100]
    for number, step in enumerate(steps, 1):
        trained.write(tmp_path, TrainState(step), keep)
        assert [read_state(path).step for path in list_checkpoints(tmp_path)] == steps[max(0, number - keep) : number]
    assert sorted(tmp_path.iterdir()) == list_checkpoints(tmp_path)


def test_no_folder_no_checkpoints(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "none") == []


def test_incomplete_ones_are_none(trained: Training, tmp_path: Path) -> None:
    """What a killed process leaves is not found, and goes when the next one is written."""
    whole = trained.write(tmp_path, TrainState(4))
    shutil.copytree(whole, tmp_path / "step-00000006.0123abcd.part")
    (tmp_path / "step-00000005.lock").touch()
    shutil.copytree(whole, tmp_path / "step-00000002")
    (tmp_path / "step-00000002" / STATE_FILE).unlink()
    assert list_checkpoints(tmp_path) == [whole]
    latest = trained.write(tmp_path, TrainState(6))
    assert list_checkpoints(tmp_path) == sorted(tmp_path.iterdir()) == [whole, latest]


def test_a_checkpoint_that_fails_leaves_the_last(
    trained: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained.write(tmp_path, TrainState(4), keep=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("taco_ir.training.checkpoint.write_json", full)
    with pytest.raises(OSError, match="No space"):
        trained.write(tmp_path, TrainState(6), keep=1)
    assert list(tmp_path.iterdir()) == list_checkpoints(tmp_path) == [whole]


# foreign and broken ones


def narrower(model: DualEncoder) -> None:
    """Make one matrix another shape."""
    layer = model.towers["passage"]["backbone"].encoder.layer[1].output.dense  # type: ignore[index]
    layer.weight = Parameter(torch.zeros(16, 64))


def shorter(model: DualEncoder) -> None:
    """Take a layer away."""
    del model.towers["passage"]["backbone"].encoder.layer[1]  # type: ignore[index]


@pytest.mark.parametrize("change", [narrower, shorter])
def test_optimiser_of_another_architecture(
    trained: Training, tiny_bert: Path, tmp_path: Path, change: Callable[[DualEncoder], None]
) -> None:
    found = trained.write(tmp_path, TrainState(3))
    other = Training(tiny_bert, steps=0)
    change(other.model)
    optimizer = adamw(other.model, other.config.optimiser)
    with pytest.raises(InputError, match=rf"{OPTIMIZER_FILE}: \d+\.exp_avg\w* has the shape \[\d+(, \d+)*\]") as error:
        load_optimizer(found, optimizer)
    name = str(error.value).split()[1]
    assert str(list(load_file(found / OPTIMIZER_FILE)[name].shape)) in str(error.value)
    assert not optimizer.state_dict()["state"]


@pytest.mark.parametrize(
    ("written", "read", "tasks", "tensor"),
    [
        *(("taco", "naive", 3, "decay"), ("naive", "taco", 3, "decay"), ("cgd", "gradnorm", 3, "first_losses")),
        *(("uw", "cgd", 3, "log_variance"), ("taco", "taco", 2, "decay"), ("uw", "uw", 2, "log_variance")),
        ("gradnorm", "gradnorm", 4, "first_losses"),
    ],
)
def test_state_of_another_weighting_or_other_tasks(
    tiny_bert: Path, tmp_path: Path, written: str, read: str, tasks: int, tensor: str
) -> None:
    found = Training(tiny_bert, written, steps=1).write(tmp_path, TrainState(1))
    weighting = Training(tiny_bert, read, steps=0, tasks=tasks).weighting
    before = {name: value.clone() for name, value in weighting.state_dict().items()}
    with pytest.raises(InputError, match=rf"{re.escape(str(found / WEIGHTING_FILE))}: {tensor} does not fit"):
        load_weighting(found, weighting)
    assert all(torch.equal(value, weighting.state_dict()[name]) for name, value in before.items())


def test_importance_of_another_architecture(trained: Training, tiny_bert: Path, tmp_path: Path) -> None:
    other = Training(tiny_bert, steps=0)
    shorter(other.model)
    weighting = make_weighting(trained.config.weighting, other.model, "abc")
    with pytest.raises(InputError, match="importance does not fit"):
        load_weighting(trained.write(tmp_path, TrainState(3)), weighting)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scribble(path: Path) -> None:
    path.write_bytes(b"\xff" * 64)


@pytest.mark.parametrize("damage", [cut, empty, scribble, Path.unlink])
@pytest.mark.parametrize("file", TENSORS)
def test_broken_tensors_are_named(
    trained: Training, tiny_bert: Path, tmp_path: Path, damage: Callable[[Path], None], file: str
) -> None:
    found = trained.write(tmp_path, TrainState(3))
    damage(found / file)
    fresh = Training(tiny_bert, "taco", steps=0)
    with pytest.raises(InputError, match=rf"^{re.escape(str(found / file))}: cannot be read"):
        fresh.read(found, file)


@pytest.mark.parametrize("file", TENSORS)
def test_numbers_that_are_not_finite_are_refused(trained: Training, tiny_bert: Path, tmp_path: Path, file: str) -> None:
    found = trained.write(tmp_path, TrainState(3))
    tensors = load_file(found / file)
    name = next(name for name, value in tensors.items() if value.is_floating_point() and value.dim())
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, found / file)
    fresh = Training(tiny_bert, "taco", steps=0)
    with pytest.raises(
        InputError, match=rf"^{re.escape(str(found / file))}: {re.escape(name)} contains infinite numbers or NaN"
    ):
        fresh.read(found, file)


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
def test_a_broken_model_is_named(trained: Training, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    found = trained.write(tmp_path, TrainState(3))
    damage(found / "model" / "model.safetensors")
    with pytest.raises(InputError, match=re.escape(str(found / "model"))):
        start_encoder(trained.config, found / "model", TASKS)
