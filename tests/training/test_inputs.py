"""A training is resumed only with the passages, topics, negatives and base weights that it began with."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pretraining_runs
import pytest
from cities import write_cities
from training_runs import contents, differing, small, stopped_after, stopped_at

from taco_ir.core.files import InputError, read_json
from taco_ir.training.folder import begun
from taco_ir.training.run import train
from taco_ir.training.settings import TrainSettings

MINED = {"negatives": "bm25", "mine_depth": 10, "mine_keep": 2, "pool_hard": 2}
KINDS = ("retrieval", "reading", "pre-training")


def config(folder: Path, kind: str = "retrieval", **changes: Any) -> TrainSettings:
    """A small training of one kind in `folder`."""
    models, collection = (folder / "base", folder / "run"), str(folder / "cities")
    if kind == "pre-training":
        own = {"objective": ("mlm",), "length": 16, "held_out": 2, "batch_size": 2}
        return pretraining_runs.small(*models, collection=collection, **own, **changes)
    negatives = str(folder / "cities" / "negatives.jsonl")
    found = small(*models, collection=collection, tasks=("nq",), batch_size=2, **{"negatives": negatives, **changes})
    return found.replace(tasks=("none",), reading=("nq",), reading_batch=2) if kind == "reading" else found


@pytest.fixture
def folder(tiny_mlm: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_mlm, tmp_path / "base")
    write_cities(tmp_path / "cities")
    return tmp_path


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
@pytest.mark.parametrize("kind", ["retrieval", "reading"])
def test_a_stopped_training_goes_on_with_what_it_was_begun_with(kind: str, name: str, folder: Path) -> None:
    run = config(folder, kind)
    with stopped_after(3):
        train(run)
    before, kept = contents(folder / "run"), (folder / name).read_bytes()
    another(folder / name)
    said = f"--output {re.escape(run.run.output)}: inputs have changed since this training began: {CHANGED[name]};"
    with pytest.raises(InputError, match=f"{said} restore them, or give another folder"):
        train(run)
    assert contents(folder / "run") == before
    (folder / name).write_bytes(kept)
    assert train(run).is_dir()


@pytest.mark.parametrize("name", ["cities/passages.jsonl", "base/model.safetensors"])
def test_nor_does_pre_training(name: str, folder: Path) -> None:
    run = config(folder, "pre-training")
    with stopped_after(3):
        train(run)
    another(folder / name)
    with pytest.raises(InputError, match=f": inputs have changed since this training began: {CHANGED[name]}; restore"):
        train(run)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_made_no_step_is_begun_anew_with_other_settings_and_content(kind: str, folder: Path) -> None:
    """...also where it had mined, and measured the model before the first step."""
    run = config(folder, kind, **(MINED if kind != "pre-training" else {}))
    with stopped_at("_apply"):
        train(run)
    assert (folder / "run" / "config.json").is_file() and (
        kind == "reading" or (folder / "run" / "log.jsonl").is_file()
    )
    another(folder / "cities" / "passages.jsonl")
    other = run.replace(seed=1, steps=1)
    assert train(other).is_dir()
    alone = other.replace(output=str(folder / "alone"))
    train(alone)
    made, wanted = contents(folder / "run"), contents(folder / "alone")
    assert {name for name in wanted if made.get(name) != wanted[name]} == {"config.json"}  # which names the folder
    with pytest.raises(InputError, match="is a training with other settings: seed was 1, is 0, steps was 1, is 6"):
        train(run)


@pytest.mark.parametrize("kind", KINDS)
def test_overwrite_begins_anew_and_removes_no_file_of_anything_else(kind: str, folder: Path) -> None:
    run = config(folder, kind, steps=1)
    train(run)
    other, before = run.replace(seed=1, output=str(folder / "run")), contents(folder / "run")
    with pytest.raises(InputError, match="is a training with other settings: seed was 0, is 1"):
        train(other)
    (folder / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(
        InputError, match=r"^--overwrite: .*run/thesis.txt was not written by a training; move it away, or give another"
    ):
        train(other, overwrite=True)
    (folder / "run" / "thesis.txt").unlink()
    with pytest.raises(
        InputError,
        match=r"^--overwrite: the training starts from .*run/model, which would be removed; give another --output",
    ):
        train(other.replace(model=str(folder / "run" / "model")), overwrite=True)
    with pytest.raises(InputError, match="nowhere"):
        train(other.replace(collection="./nowhere"), overwrite=True)
    assert contents(folder / "run") == before
    train(other, overwrite=True)
    train(other.replace(output=str(folder / "alone")))
    assert differing(folder / "run", folder / "alone") == ["config.json"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_overwritten_stays_until_the_first_step(kind: str, folder: Path) -> None:
    """A base without weights leaves the old run as it was, whole or stopped; the first step of a new run removes it."""
    run = config(folder, kind, **(MINED | {"steps": 3} if kind != "pre-training" else {}))
    with stopped_after(3):
        train(run)
    shutil.copytree(folder / "base", folder / "broken")
    (folder / "broken" / "model.safetensors").unlink()
    before = contents(folder / "run")
    for _ in ("stopped", "whole"):
        with pytest.raises(InputError, match="broken"):
            train(run.replace(model=str(folder / "broken"), seed=1), overwrite=True)
        assert contents(folder / "run") == before
        train(run)
        before = contents(folder / "run")
    other = run.replace(seed=1)
    with stopped_at("_apply"):
        train(other, overwrite=True)
    assert not begun(folder / "run") and read_json(folder / "run" / "config.json")["seed"] == 1
    train(other)
    train(other.replace(output=str(folder / "alone")))
    assert differing(folder / "run", folder / "alone") == ["config.json"]


def test_a_run_that_left_nothing_begins_with_what_is_there(folder: Path) -> None:
    run = config(folder)
    (folder / "cities" / "negatives.jsonl").rename(folder / "kept")
    with pytest.raises(InputError, match="no such file"):
        train(run)
    (folder / "kept").rename(folder / "cities" / "negatives.jsonl")
    another(folder / "cities" / "passages.jsonl")
    write_cities(folder / "cities")
    assert train(run).is_dir()
