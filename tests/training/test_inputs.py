"""A stopped training does not go on with other passages, topics, negatives or base weights than it was begun with: one line says which."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pretraining_runs
import pytest
from cities import write_cities
from training_runs import StopAfter, Stopped, contents, small

from taco_ir.core.files import InputError, read_json
from taco_ir.training.folder import begun
from taco_ir.training.loop import Loop
from taco_ir.training.run import train
from taco_ir.training.run import train as pretrain
from taco_ir.training.settings import TrainSettings


def config(folder: Path) -> TrainSettings:
    return small(
        folder / "base",
        folder / "run",
        collection=str(folder / "cities"),
        tasks=("nq",),
        negatives=str(folder / "cities" / "negatives.jsonl"),
        batch_size=2,
    )


def read(settings: TrainSettings, overwrite: bool = False) -> Path:
    """Train a reader alone."""
    return train(settings.replace(tasks=("none",), reading=("nq",), reading_batch=2), overwrite)


@pytest.fixture
def folder(tiny_mlm: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_mlm, tmp_path / "base")
    write_cities(tmp_path / "cities")
    return tmp_path


def stopped(begin: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("taco_ir.training.run.ConsoleReporter", lambda *_: StopAfter(3))
        begin()


def another(path: Path) -> None:
    """A file of other content, if as good as before."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        path.write_bytes(
            data.replace(b"house number 5", b"house numero 5")
            .replace(b'"depth":1', b'"depth":2')
            .replace(b'"depth": 1', b'"depth": 2')
        )
    assert path.read_bytes() != data


CHANGED = {
    "cities/passages.jsonl": "passages of cities",
    "cities/nq-train.jsonl": "topics nq-train",
    "cities/nq-dev.jsonl": "topics nq-dev",
    "cities/negatives.jsonl": r"negatives \S+negatives.jsonl",
    "base/model.safetensors": "the base model",
}


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("verb", [train, read])
def test_a_stopped_training_goes_on_with_what_it_was_begun_with(
    verb: Callable[[TrainSettings], Path], name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(folder)
    stopped(lambda: verb(run), monkeypatch)
    before, kept = contents(folder / "run"), (folder / name).read_bytes()
    another(folder / name)
    said = f"--output {re.escape(run.run.output)} was begun with other content of: {CHANGED[name]}; go on with what it was begun with, or give another folder"
    with pytest.raises(InputError, match=said):
        verb(run)
    assert contents(folder / "run") == before
    (folder / name).write_bytes(kept)
    assert verb(run).is_dir()


@pytest.mark.parametrize("name", ["cities/passages.jsonl", "base/model.safetensors"])
def test_nor_does_pre_training(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pretraining_runs.small(
        folder / "base",
        folder / "run",
        collection=str(folder / "cities"),
        objective=("mlm",),
        length=16,
        held_out=2,
        batch_size=2,
    )
    stopped(lambda: pretrain(run), monkeypatch)
    another(folder / name)
    with pytest.raises(InputError, match=f"was begun with other content of: {CHANGED[name]}; go on"):
        pretrain(run)


@pytest.mark.parametrize("verb", [train, read, pretrain])
def test_a_run_that_made_no_step_is_begun_anew_with_other_settings_and_content(
    verb: Callable[[Any], Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """...also where it had mined, and measured the model before the first step."""
    run: TrainSettings | TrainSettings = config(folder).replace(
        negatives="bm25", mine_depth=10, mine_keep=2, pool_hard=2
    )
    if verb is pretrain:
        run = pretraining_runs.small(
            folder / "base",
            folder / "run",
            collection=str(folder / "cities"),
            objective=("mlm",),
            length=16,
            held_out=2,
            batch_size=2,
        )
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Loop, "_apply", stop)
        verb(run)
    assert (folder / "run" / "config.json").is_file() and (verb is read or (folder / "run" / "log.jsonl").is_file())
    another(folder / "cities" / "passages.jsonl")
    other = run.replace(seed=1, steps=1)
    assert verb(other).is_dir()
    alone = other.replace(output=str(folder / "alone"))
    verb(alone)
    made, wanted = contents(folder / "run"), contents(folder / "alone")
    assert {name for name in wanted if made.get(name) != wanted[name]} == {"config.json"}  # which names the folder
    with pytest.raises(InputError, match="is a run with another configuration: seed was 1, is 0, steps was 1, is 6"):
        verb(run)


@pytest.mark.parametrize("verb", [train, read, pretrain])
def test_overwrite_begins_anew_and_removes_no_file_of_anything_else(verb: Any, folder: Path) -> None:
    run: TrainSettings | TrainSettings = config(folder).replace(steps=1)
    if verb is pretrain:
        run = pretraining_runs.small(
            folder / "base",
            folder / "run",
            collection=str(folder / "cities"),
            objective=("mlm",),
            length=16,
            held_out=2,
            batch_size=2,
            steps=1,
        )
    verb(run)
    other, before = run.replace(seed=1, output=str(folder / "run")), contents(folder / "run")
    with pytest.raises(InputError, match="is a run with another configuration: seed was 0, is 1"):
        verb(other)
    (folder / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(
        InputError, match=r"^--overwrite: .*run/thesis.txt is no part of a training run; move it away, or give another"
    ):
        verb(other, overwrite=True)
    (folder / "run" / "thesis.txt").unlink()
    with pytest.raises(
        InputError, match=r"^--overwrite: the run starts from .*run/model, which it would remove; give another --output"
    ):
        verb(other.replace(model=str(folder / "run" / "model")), overwrite=True)
    with pytest.raises(InputError, match="nowhere"):
        verb(other.replace(collection="./nowhere"), overwrite=True)
    assert contents(folder / "run") == before
    verb(other, overwrite=True)
    verb(other.replace(output=str(folder / "alone")))
    made, wanted = contents(folder / "run"), contents(folder / "alone")
    assert made.keys() == wanted.keys() and {name for name in wanted if made[name] != wanted[name]} == {"config.json"}


@pytest.mark.parametrize("verb", [train, read, pretrain])
def test_what_is_overwritten_stays_until_the_first_step(
    verb: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base without weights leaves the old run as it was, whole or stopped; from the first step on only the new one is there."""
    run = config(folder).replace(steps=3, negatives="bm25", mine_depth=10, mine_keep=2, pool_hard=2)
    if verb is pretrain:
        run = pretraining_runs.small(
            folder / "base",
            folder / "run",
            collection=str(folder / "cities"),
            objective=("mlm",),
            length=16,
            held_out=2,
            batch_size=2,
        )
    stopped(lambda: verb(run), monkeypatch)
    shutil.copytree(folder / "base", folder / "broken")
    (folder / "broken" / "model.safetensors").unlink()
    before = contents(folder / "run")
    for _ in ("stopped", "whole"):
        with pytest.raises(InputError, match="broken"):
            verb(run.replace(model=str(folder / "broken"), seed=1), overwrite=True)
        assert contents(folder / "run") == before
        verb(run)
        before = contents(folder / "run")
    other = run.replace(seed=1)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Loop, "_apply", stop)
        verb(other, overwrite=True)
    assert not begun(folder / "run") and read_json(folder / "run" / "config.json")["seed"] == 1
    verb(other)
    verb(other.replace(output=str(folder / "alone")))
    made, wanted = contents(folder / "run"), contents(folder / "alone")
    assert made.keys() == wanted.keys() and {name for name in wanted if made[name] != wanted[name]} == {"config.json"}


def stop(*_: Any) -> None:
    raise Stopped


def test_a_run_that_left_nothing_begins_with_what_is_there(folder: Path) -> None:
    run = config(folder)
    (folder / "cities" / "negatives.jsonl").rename(folder / "kept")
    with pytest.raises(InputError, match="no such file"):
        train(run)
    (folder / "kept").rename(folder / "cities" / "negatives.jsonl")
    another(folder / "cities" / "passages.jsonl")
    write_cities(folder / "cities")
    assert train(run).is_dir()
