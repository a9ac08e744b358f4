"""Trackers get what the log has, continue their runs, and never stop a training; each real one is read back offline."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from page_samples import log_lines
from training_runs import StopAfter

from taco_ir.core.files import InputError
from taco_ir.training import TRACKERS
from taco_ir.training.log import TrainingLog
from taco_ir.training.logged import LOG_FILE
from taco_ir.training.trackers import TRACKERS_FILE, follow, numbers, require_packages

LINES = log_lines(6, ["nq", "wow to see"])
BLOCK = 1 << 15  # bytes, in LevelDB's log format
Points = dict[str, dict[int, float]]  # by name and step


class Toy:
    """A tracker that keeps what it gets, and fails where it is told to."""

    sent: list[tuple[str, int, float]] = []  # noqa: RUF012
    calls: list[Any] = []  # noqa: RUF012
    fails = ""

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        pass

    def open(self, run: str | None) -> str:
        self._note("open", run)
        return run or "the run"

    def send(self, step: int, values: Mapping[str, float]) -> None:
        self._note("send", step)
        self.sent.extend((name, step, value) for name, value in values.items())

    def flush(self) -> None:
        self._note("flush")

    def close(self) -> None:
        self._note("close")

    def _note(self, what: str, *more: Any) -> None:
        self.calls.append((what, *more))
        if self.fails == what:
            raise ConnectionError("no route to it\nand more")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Toy]:
    monkeypatch.setitem(TRACKERS, "wandb", f"{__name__}:Toy")
    for name, value in (("sent", []), ("calls", []), ("fails", "")):
        monkeypatch.setattr(Toy, name, value)
    return Toy


def track(folder: Path, name: str, first: int, last: int, settings: Mapping[str, Any] | None = None) -> None:
    """What a training does that begins after step `first`, which its log has, and ends with step `last`."""
    folder.mkdir(exist_ok=True)
    watchers = follow(folder, (name,), settings or {"seed": 1})
    TrainingLog(folder, StopAfter(99), first, watchers)
    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        for line in LINES:
            if (first < line["step"] or not first) and line["step"] <= last:
                log.write(json.dumps(line) + "\n")
                watchers.line(line)
    watchers.pause()
    watchers.close()


def logged(last: int) -> Points:
    found: Points = {}
    for line in LINES:
        for name, value in numbers(line) if line["step"] <= last else ():
            found.setdefault(name, {})[line["step"]] = value
    return found


def test_numbers_have_names_that_say_of_which_tasks() -> None:
    line = {"step": 3, "loss": {"nq": 1}, "cosine": {"nq": {"wow": 0.5, "fever": None}}, "skipped": ["nq"], "on": True}
    assert dict(numbers(line)) == {"loss/nq": 1.0, "cosine/nq/wow": 0.5}


def test_a_tracker_gets_the_whole_log(toy: type[Toy], tmp_path: Path) -> None:
    track(tmp_path / "run", "wandb", 0, 6)
    assert toy.sent == [(name, line["step"], value) for line in LINES for name, value in numbers(line)]
    assert toy.calls[0] == ("open", None) and toy.calls[-2:] == [("flush",), ("close",)]
    assert json.loads((tmp_path / "run" / TRACKERS_FILE).read_text()) == {"wandb": "the run"}


def test_a_resumed_training_continues_its_run(toy: type[Toy], tmp_path: Path) -> None:
    """Only with the steps that follow."""
    track(tmp_path / "run", "wandb", 0, 5)
    toy.calls.clear()
    track(tmp_path / "run", "wandb", 4, 6)
    assert toy.calls == [("open", "the run"), ("send", 5), ("send", 5), ("send", 6), ("flush",), ("close",)]


def test_a_tracker_that_is_added_later_is_told_what_was(toy: type[Toy], tmp_path: Path) -> None:
    track(tmp_path / "run", "none", 0, 4)
    assert toy.calls == [] and not (tmp_path / "run" / TRACKERS_FILE).exists()
    track(tmp_path / "run", "wandb", 4, 6)
    assert toy.sent == [(name, line["step"], value) for line in LINES for name, value in numbers(line)]


@pytest.mark.parametrize("what", ["send", "flush", "close"])
def test_a_tracker_that_fails_is_told_once_and_left(
    toy: type[Toy], tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "fails", what)
    track(tmp_path / "run", "wandb", 0, 6)
    said = "--track wandb: ConnectionError: no route to it; training goes on without it"
    assert [record.getMessage() for record in caplog.records] == [said]
    assert len(toy.calls) == {"send": 2, "flush": 10, "close": 11}[what]


def test_a_tracker_that_does_not_open_ends_a_training_before_its_first_step(
    toy: type[Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "fails", "open")
    with pytest.raises(InputError, match="^--track wandb: ConnectionError: no route to it; correct this, or leave"):
        track(tmp_path / "run", "wandb", 0, 6)
    assert not (tmp_path / "run" / TRACKERS_FILE).exists()


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_missing_is_told_with_what_to_type(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_packages(["none"])
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"^--track {name} needs the package {name}; run `pip install {name}`$"):
        require_packages([name])


# real ones, offline


def read_tensorboard(folder: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: {each.step: each.value for each in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def read_wandb(folder: Path) -> Points:
    """Of the files that `wandb sync` would upload, which all belong to one run."""
    from wandb.proto import wandb_internal_pb2

    found: Points = {}
    runs = set()
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in read_leveldb(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                runs.add(record.run.run_id)
            values = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            for name, value in values.items():
                if not name.startswith("_") and name != "step":
                    found.setdefault(name, {})[int(values["step"])] = float(value)
    assert len(runs) == 1
    return found


def read_leveldb(file: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format: pieces with checksum, length and type (1 whole, 2 first, 3 middle, 4 last)."""
    at, whole = 7, b""  # behind the header of such a file
    while at + 7 <= len(file):
        if BLOCK - at % BLOCK < 7:  # no room for the head of a piece
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", file, at + 4)
        whole += file[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def read_mlflow(folder: Path) -> Points:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert run.info.status == "FINISHED" and run.data.params == {"seed": "1"}
    found = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: {each.step: each.value for each in points} for name, points in found.items()}


def read_trackio(folder: Path) -> Points:
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("taco-ir")
    found: Points = {}
    for line in SQLiteStorage.get_logs("taco-ir", run):
        for name, value in line.items():
            if name not in ("timestamp", "step"):
                found.setdefault(name, {})[line["step"]] = value
    return found


READ: dict[str, Callable[[Path], Points]] = {
    "tensorboard": read_tensorboard,
    "wandb": read_wandb,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_real_tracker_has_what_the_log_has(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stop and a resume too: one run, with every value once at its step."""
    for key, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("TRACKIO_DIR", str(tmp_path / "trackio"))):
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    pytest.importorskip(name, reason=f"needs the package {name} (pip install {name})")
    folder = tmp_path / "run"
    track(folder, name, 0, 5)
    track(folder, name, 4, 6)
    found = READ[name](folder)
    expected = logged(6)
    assert found.keys() == expected.keys()
    for key, points in expected.items():
        assert found[key] == pytest.approx(points, rel=1e-6), key
