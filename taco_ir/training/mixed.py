"""A step of several kinds of tasks on one encoder, all of them or some, as a schedule says.

ROM (Fun, Gandhi, Ravi, 2021) trains self-supervised tasks, retrieval and reading on one encoder, its schedule exchangeable; what
a task is made of, and the schedules, are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from taco_ir.training.backward import Arithmetic
from taco_ir.training.batches import Dealt, TaskSampler
from taco_ir.training.distributed import Processes
from taco_ir.training.loop import Plan
from taco_ir.training.objectives.reading import ReadingGradient, Spans
from taco_ir.training.objectives.self_supervised import MaskedGradient, cloze_gradient
from taco_ir.training.schedules import READING, RETRIEVAL, SELF_SUPERVISED, Schedule, Scheduled, active, epoch_steps, last_phase
from taco_ir.training.settings import INVERSE_CLOZE, TrainSettings
from taco_ir.training.setup import batch_settings, weighting_of
from taco_ir.training.shared import SharedEncoder
from taco_ir.training.step import BatchSettings, MultiTaskStep, StepResult, Texts
from taco_ir.weighting.base import TaskWeighting
from taco_ir.weighting.naive import Naive

Gradient = Callable[[MultiTaskStep, TaskSampler, int], Tensor]


class Task(NamedTuple):
    """A task of the training: who deals its examples, what makes inputs, loss and gradient of them, and what it weighs.

    Attributes:
        phase: one of `schedules.PHASES`.
        gradient: leaves the gradient of the sampler's batch of a number, summed over processes, in .grad, and gives its loss.
        weight: what loss and gradient are multiplied by.
        what: of an example, for people.
    """

    phase: str
    sampler: TaskSampler
    gradient: Gradient
    weight: float
    what: str


class Samplers(NamedTuple):
    """Who deals the examples of each kind of task; `spans` are those of each reading task."""

    retrieval: Sequence[TaskSampler]
    reading: Sequence[TaskSampler]
    passages: Sequence[TaskSampler]
    spans: Sequence[Spans]


class MixedStep(MultiTaskStep):
    """As the step of retrieval, with tasks of other kinds beside it.

    Args:
        weighting: for steps that take all tasks; those that take some take the mean of their gradients.
    """

    def __init__(
        self,
        model: SharedEncoder,
        tasks: Sequence[Task],
        schedule: Schedule,
        texts: Texts,
        weighting: TaskWeighting,
        settings: BatchSettings,
        arithmetic: Arithmetic,
        processes: Processes,
        log_cosines: int = 0,
    ) -> None:
        super().__init__(model, [task.sampler for task in tasks], texts, weighting, settings, arithmetic, processes, log_cosines)
        self.tasks = {task.sampler.task: task for task in tasks}
        self._schedule = schedule
        self._of_all = weighting

    def __call__(self, step: int, progress: float) -> StepResult:
        taken = len(self._schedule.turns(step))
        self.weighting = self._of_all if taken == len(self.samplers) else Naive(self.params, taken)
        return super().__call__(step, progress)

    def of_phase(self, phase: str) -> list[TaskSampler]:
        return [task.sampler for task in self.tasks.values() if task.phase == phase]

    def turns(self, step: int) -> list[tuple[TaskSampler, int]]:
        return [(self.samplers[task], self.samplers[task].first + batch) for task, batch in self._schedule.turns(step)]

    def dealt(self, steps: int) -> dict[str, Dealt]:
        batches = self._schedule.batches(steps)
        return {sampler.task: sampler.dealt(own) for sampler, own in zip(self.samplers, batches, strict=True)}

    def task_gradient(self, sampler: TaskSampler, step: int) -> Tensor:
        task = self.tasks[sampler.task]
        loss = task.gradient(self, sampler, step)
        if task.weight == 1:
            return loss
        for param in self.params:
            if param.grad is not None:
                scaled = param.grad * task.weight
                param.grad = scaled.coalesce() if scaled.is_sparse else scaled
        return loss * task.weight


def mixed_step(
    config: TrainSettings, model: SharedEncoder, samplers: Samplers, texts: Texts, processes: Processes, before: int = 0
) -> tuple[MixedStep, Plan]:
    """The step that `config` describes, and the plan; an epoch is over when every query of retrieval and reading was dealt once.

    Args:
        before: steps of the trainings before, after which the schedule's draws go on.
    """
    tasks = _tasks(config, model, samplers, texts, processes)
    scheduled = [Scheduled(task.phase, len(task.sampler.examples)) for task in tasks]
    shares = [task.sampler.share for task in tasks]
    epoch = epoch_steps(config.objectives, scheduled, shares)
    steps = config.optimiser.steps or max(1, round(config.optimiser.epochs * epoch))
    schedule = Schedule(active(config.objectives, config.run.seed, scheduled, steps, before))
    plan = Plan(steps, config.validation.validate_every or epoch, last_phase(config.objectives, scheduled, steps))
    arithmetic = Arithmetic(config.optimiser.precision == "bf16", config.optimiser.gradcache)
    weighting = weighting_of(config.weighting, model, len(tasks))
    settings = batch_settings(config, model)
    return MixedStep(model, tasks, schedule, texts, weighting, settings, arithmetic, processes, config.validation.log_cosines), plan


def _tasks(config: TrainSettings, model: SharedEncoder, samplers: Samplers, texts: Texts, processes: Processes) -> list[Task]:
    arithmetic = Arithmetic(config.optimiser.precision == "bf16", config.optimiser.gradcache)
    settings = BatchSettings(config.objectives.reading_negatives, accumulate=config.optimiser.accumulate, seed=config.run.seed)
    spans = {sampler.task: own for sampler, own in zip(samplers.reading, samplers.spans, strict=True)}
    read = ReadingGradient(model, texts, spans, settings, arithmetic, processes)
    fill_in = MaskedGradient(model, texts, settings, arithmetic, processes)
    tasks = [Task(RETRIEVAL, sampler, MultiTaskStep.task_gradient, 1.0, "queries") for sampler in samplers.retrieval]
    for sampler in samplers.reading:
        tasks.append(Task(READING, sampler, lambda _, own, number: read(own, number), config.objectives.reading_weight, "questions"))
    for sampler in samplers.passages:
        gradient: Gradient = cloze_gradient if sampler.task == INVERSE_CLOZE else lambda _, own, number: fill_in(own, number)
        tasks.append(Task(SELF_SUPERVISED, sampler, gradient, config.objectives.passage_weight, "passages"))
    return tasks


def describe_tasks(config: TrainSettings, step: MixedStep) -> str:
    """Lines for the announcement: the schedule, and the tasks beside retrieval."""
    lines = [f"schedule: {config.objectives.schedule}; beside retrieval:"]
    for name, task in step.tasks.items():
        if task.phase != RETRIEVAL:
            lines.append(f"  {name}: {len(task.sampler.examples):,} {task.what}, {task.sampler.share} in a batch, weight {task.weight:g}")
    return "\n".join(lines)
