"""Sends the curves of trainings to experiment trackers. Each tracker is a class, listed in `TRACKERS`.

Trackers get the lines of a training's log. If a tracker fails, this is reported, and training goes on without it.
`trackers.json` in the training's folder has the training's name in each tracker, so that a resumed training continues
there. Steps since the last checkpoint are then sent again, with the same values. A new tracker first gets all lines.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from taco_ir.core import resolve
from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.processes import log
from taco_ir.training import TRACKERS
from taco_ir.training.curves import CurvesPage
from taco_ir.training.logged import Record, Watcher, Watchers

TRACKERS_FILE = "trackers.json"
PROJECT = "taco-ir"
Values = Mapping[str, float]


class Tracker(Protocol):
    """Interface of experiment trackers.

    Args:
        output: folder of the training; its name is the name of the run.
        settings: the training's settings, which the tracker shows with the curves.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None: ...

    def open(self, run: str | None) -> str:
        """Begins a new run if `run` is None, otherwise continues the run of this name; returns the run's name."""

    def send(self, step: int, values: Values) -> None:
        """Sends numbers of a step by name, such as loss/nq."""

    def flush(self) -> None:
        """Makes sure that all numbers sent so far are stored."""

    def close(self) -> None:
        """Called when the training ends or is stopped."""


class TensorBoard:
    """Writes event files to `tensorboard/` in the training's folder."""

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self._folder, self._settings = output / "tensorboard", settings
        self._writer: Any = None
        self._resumed = False

    def open(self, run: str | None) -> str:
        self._resumed = run is not None
        return self._folder.name

    def send(self, step: int, values: Values) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            again = step if self._resumed else None  # steps from this one on were sent before
            self._writer = SummaryWriter(str(self._folder), purge_step=again)  # type: ignore[no-untyped-call]
            self._writer.add_text(
                "settings", "\n".join(f"    {name}: {value}" for name, value in self._settings.items())
            )
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        if self._writer:
            self._writer.close()


class WeightsAndBiases:
    """Sends curves to Weights & Biases. With WANDB_MODE=offline, they stay in the training's folder."""

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self._output, self._settings = output, settings

    def open(self, run: str | None) -> str:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self._output.resolve().name,
            dir=str(self._output),
            config=dict(self._settings),
            id=run,
            resume="allow" if run else None,
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return str(self._run.id)

    def send(self, step: int, values: Values) -> None:
        self._run.log({**values, "step": step})

    def flush(self) -> None:
        pass  # W&B's own process writes

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """Sends curves to MLflow: to MLFLOW_TRACKING_URI or, if it is not set, to `mlflow.db` in the training's folder.

    Each message takes longer than a small step, so several lines are sent together.
    """

    NAMES = re.compile(r"[^\w\-. :/]")  # characters that names must not have
    EVERY = 5.0  # seconds between messages
    MOST = 1000  # maximum of numbers in a message

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self._output, self._settings = output, settings
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    def open(self, run: str | None) -> str:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        own = f"sqlite:///{self._output.resolve() / 'mlflow.db'}"
        self._client: Any = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or own)
        if run:
            self._client.update_run(run, status="RUNNING")
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            run = str(self._client.create_run(experiment, run_name=self._output.resolve().name).info.run_id)
            params = [Param(key, str(value)[:500]) for key, value in self._settings.items()]
            self._client.log_batch(run, params=params)
        self._run = run
        return run

    def send(self, step: int, values: Values) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(self.NAMES.sub("_", name), value, now, step) for name, value in values.items()]
        if time.monotonic() - self._sent > self.EVERY:
            self.flush()

    def flush(self) -> None:
        while self._waiting:
            self._client.log_batch(self._run, metrics=self._waiting[: self.MOST])
            del self._waiting[: self.MOST]
        self._sent = time.monotonic()

    def close(self) -> None:
        self.flush()
        self._client.set_terminated(self._run)


class Trackio:
    """Sends curves to trackio, which stores them in its own folder (TRACKIO_DIR)."""

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self._output, self._settings = output, settings

    def open(self, run: str | None) -> str:
        import trackio

        name = run or f"{self._output.resolve().name}-{secrets.token_hex(3)}"
        config = {key: value for key, value in self._settings.items() if not key.startswith("_")}
        self._run: Any = trackio.init(project=PROJECT, name=name, config=config, resume="allow")
        return name

    def send(self, step: int, values: Values) -> None:
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        pass  # trackio's own thread writes

    def close(self) -> None:
        self._run.finish()


class Tracked(Watcher):
    """Passes the lines of a training's log to a tracker. After an error of the tracker, no more lines are passed."""

    def __init__(self, name: str, output: Path, settings: Mapping[str, Any]) -> None:
        self._name, self._file = name, output / TRACKERS_FILE
        self._tracker: Tracker = resolve(TRACKERS[name])(output, settings)
        self._known: str | None = None  # the name of the run to continue
        self._new, self._open, self._failed = False, False, False

    def episode(self) -> None:
        if not self._open:
            self._known = read_runs(self._file).get(self._name)

    def line(self, step: int, record: Record) -> None:
        if self._new or self._known is None:
            self._begin()
            self._try(lambda: self._tracker.send(step, dict(numbers(record))))

    def begin(self) -> None:
        self._begin()
        self._new = True

    def pause(self) -> None:
        if self._open:
            self._try(self._tracker.flush)

    def close(self) -> None:
        if self._open:
            self._try(self._tracker.close)
        self._open = False

    def _begin(self) -> None:
        """Opens the run. Raises InputError if this fails, so that no step is made."""
        if self._open:
            return
        try:
            run = self._tracker.open(self._known)
        except Exception as error:
            raise InputError(
                f"--track {self._name}: {_first_line(error)}; correct this, or leave out this tracker"
            ) from error
        write_json(self._file, read_runs(self._file) | {self._name: run})
        self._open = True

    def _try(self, action: Callable[[], None]) -> None:
        """Reports the first error of a tracker; an error never ends the training."""
        if self._failed:
            return
        try:
            action()
        except Exception as error:
            self._failed = True
            log.warning("--track %s: %s; training goes on without it", self._name, _first_line(error))


def follow(output: Path, names: Sequence[str], settings: Mapping[str, Any]) -> Watchers:
    """Returns the watchers of the training in `output`: its page of learning curves, and the named trackers."""
    return Watchers(output, [CurvesPage(output), *(Tracked(name, output, settings) for name in named(names))])


def named(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name in TRACKERS]


def require_packages(names: Sequence[str]) -> None:
    """Raises InputError if a tracker is not installed. Called at the start, before anything is mined."""
    for name in named(names):
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--track {name} needs the package {name}; run `pip install {name}`")


def read_runs(path: Path) -> dict[str, str]:
    """Reads the name of a training's run in each tracker; empty if the file is missing."""
    return read_json(path, dict[str, str], f"remove {path}, and new runs begin") if path.is_file() else {}


def numbers(record: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Yields (`before` + name, number) for each number in a log line, such as loss/nq, or cosine/nq/fever for two."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{before}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and before + key != "step":
            yield before + key, float(value)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
