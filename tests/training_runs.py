"""What tests of training share: small settings, an episode on the sample, a step whose results are written by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from taco_ir.data.collection import Collection, open_collection
from taco_ir.data.examples import read_examples
from taco_ir.training.backward import Arithmetic
from taco_ir.training.base_model import start_encoder
from taco_ir.training.checkpoint import find_latest
from taco_ir.training.data import TrainingData
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.log import Reporter
from taco_ir.training.loop import Loop
from taco_ir.training.objectives.base import LossSettings, Means, Texts, Work, loss_temperature
from taco_ir.training.objectives.contrastive import Contrastive
from taco_ir.training.processes import Processes
from taco_ir.training.sampling import TaskSampler
from taco_ir.training.schedules import Plan
from taco_ir.training.settings import TrainSettings
from taco_ir.training.step import MultiTaskStep, StepResult, make_weighting
from taco_ir.training.validation import PoolValidation, build_pool, sample_queries
from taco_ir.weighting.base import StepReport

TASKS = ("fever", "nq", "wow")
SMALL: dict[str, Any] = {
    **{"pooling": "mean", "passage_length": 40, "query_length": 24, "negatives": "none", "steps": 6},
    **{"learning_rate": 1e-3, "batch_size": 6, "shares": "uniform", "checkpoint_every": 2},
    **{"validate_every": 3, "pool_queries": 4, "pool_hard": 0, "pool_random": 20, "tasks": TASKS},
}


class Stopped(Exception):
    """Stands for the end of a process that is killed."""


class StopAfter(Reporter):
    """Ends a training after a step, which is logged but not in a checkpoint."""

    def __init__(self, step: int) -> None:
        self._step = step

    def progress(self, step: int, note: str) -> None:
        if step == self._step:
            raise Stopped


@contextmanager
def stopped_after(step: int, of_steps: int = 0) -> Iterator[None]:
    """The training inside ends after a step of an episode of so many steps (0: of any), as `StopAfter` ends one."""

    def reporter(steps: int, *_: Any) -> Reporter:
        return StopAfter(step) if of_steps in (0, steps) else Reporter()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("taco_ir.training.run.ConsoleReporter", reporter)
        yield


@contextmanager
def stopped_at(method: str) -> Iterator[None]:
    """The training inside ends when it calls this method of its loop."""

    def stop(*_: Any) -> None:
        raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Loop, method, stop)
        yield


def small(model: Path, output: Path, /, **changes: Any) -> TrainSettings:
    return TrainSettings(**SMALL).replace(model=str(model), output=str(output), **changes)


def data_of(config: TrainSettings, folder: Path) -> TrainingData:
    """The data of a training in `folder`, in one process."""
    own = (config.run, config.encoder, config.objectives.reading, config.validation)
    return TrainingData(*own, folder, Processes(torch.device("cpu")), config.task_tables)


def work_of(config: TrainSettings, model: DualEncoder, data: TrainingData, **more: Any) -> Work:
    """What the tasks of a training with these settings are made of."""
    held_out = config.validation.held_out
    return Work(config.run, config.batch, config.objectives, config.optimiser, model, data, held_out, **more)


@cache
def sample() -> Collection:
    return open_collection("sample")


def encoder_of(config: TrainSettings, folder: Path) -> DualEncoder:
    """The encoder that an episode in `folder` starts or goes on with."""
    found = find_latest(folder)
    return start_encoder(config, found / "model" if found else Path(config.run.model), config.run.tasks)


def real_step(config: TrainSettings, model: DualEncoder, passages: Sequence[str] = ()) -> MultiTaskStep:
    """A step on the sample's train topics, without hard negatives; `passages` are those that validation needs."""
    share = config.batch.batch_size // len(config.run.tasks)
    samplers = [TaskSampler(read_examples(sample(), task), share, config.run.seed, task) for task in config.run.tasks]
    wanted = [
        docid for each in samplers for example in each.examples for docids in example.positives for docid in docids
    ]
    found = sample().passages.get(list(dict.fromkeys([*wanted, *passages])))
    texts = Texts(found, {docid: passage.page for docid, passage in found.items()})
    settings = LossSettings(temperature=loss_temperature(config.batch.temperature, model.config), seed=config.run.seed)
    means = Means(texts, settings, Arithmetic(), Processes(torch.device("cpu")))
    objectives = [Contrastive(model, sampler, means) for sampler in samplers]
    return MultiTaskStep(
        model,
        objectives,
        make_weighting(config.weighting, model, [each.task for each in samplers]),
        None,
        config.validation.log_cosines,
        config.validation.log_dose,
    )


def loop_of(
    config: TrainSettings,
    step: MultiTaskStep,
    folder: Path,
    reporter: Reporter | None,
    validation: PoolValidation | None = None,
) -> Loop:
    """The loop of an episode's steps, in one process."""
    plan = Plan(config.optimiser.steps, config.validation.validate_every)
    processes = Processes(torch.device("cpu"))
    sections = (config.optimiser, config.weighting, config.validation)
    return Loop(*sections, step, plan, folder, processes, reporter or Reporter(), validation)


def episode(config: TrainSettings, folder: Path, reporter: Reporter | None = None, validated: bool = True) -> Loop:
    """An episode as a process begins it anew, or goes on with it."""
    folder.mkdir(parents=True, exist_ok=True)
    pools = []
    if validated:
        drawn = [
            sample_queries(sample(), task, "dev", config.validation.pool_queries, config.run.seed)
            for task in config.run.tasks
        ]
        pools = [
            build_pool(sample(), topics, {}, config.validation.pool_random, config.run.seed)
            for topics in drawn
            if topics is not None
        ]
        assert len(pools) == len(config.run.tasks)
    step = real_step(config, encoder_of(config, folder), [docid for pool in pools for docid in pool.docids])
    validation = PoolValidation(step.model, [(pools, step.objectives[0].means.texts.passages)]) if pools else None
    return loop_of(config, step, folder, reporter, validation)


class ScriptedStep(MultiTaskStep):
    """Computes no loss: gradients are drawn from the step's number, and some steps are said to be not finite.

    Attributes:
        seen: (step, progress) of every call.
    """

    def __init__(
        self, config: TrainSettings, model: DualEncoder, bad: Callable[[int], Sequence[str]] = lambda _: ()
    ) -> None:
        real = real_step(config, model)
        self.__dict__.update(real.__dict__)
        self._bad = bad
        self.seen: list[tuple[int, float]] = []

    def __call__(self, step: int, progress: float) -> StepResult:
        self.seen.append((step, progress))
        tasks = [objective.task for objective in self.objectives]
        if bad := list(self._bad(step)):
            losses = {task: math.nan if task in bad else 1.0 for task in tasks}
            return StepResult(losses, losses, None, bad)
        generator = torch.Generator().manual_seed(step)
        for param in self.params:
            param.grad = torch.randn(param.shape, generator=generator)
        norm = float(torch.nn.utils.get_total_norm([param.grad for param in self.params if param.grad is not None]))
        return StepResult(
            dict.fromkeys(tasks, 1.0),
            dict.fromkeys(tasks, 1.0),
            StepReport((1 / len(tasks),) * len(tasks), {}, norm),
            [],
        )


def scripted(
    config: TrainSettings,
    folder: Path,
    bad: Callable[[int], Sequence[str]] = lambda _: (),
    reporter: Reporter | None = None,
) -> Loop:
    """An episode of scripted steps, without validation."""
    folder.mkdir(parents=True, exist_ok=True)
    step = ScriptedStep(config, encoder_of(config, folder), bad)
    return loop_of(config, step, folder, reporter)


def logged(folder: Path) -> list[dict[str, Any]]:
    """An episode's log without what depends on the clock."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def last_checkpoint(folder: Path) -> Path:
    found = find_latest(folder)
    assert found is not None
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but locks and logs."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = [path for path in paths if path.suffix != ".lock" and path.name != "log.jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def differing(made: Path, wanted: Path) -> list[str]:
    """Names of the files in which two folders differ, or that one of them lacks, but for locks and logs."""
    ours, theirs = contents(made), contents(wanted)
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
