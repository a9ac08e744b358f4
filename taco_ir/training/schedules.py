"""Which tasks a step takes, and the how-manieth batch of each: all of it drawn from the seed, so that a training that was stopped goes on alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.hashes import generator
from taco_ir.training.settings import ObjectiveSettings, OptimiserSettings

SELF_SUPERVISED, RETRIEVAL, READING = PHASES = ("self-supervised", "retrieval", "reading")
Active = npt.NDArray[np.bool_]


class Scheduled(NamedTuple):
    """What a schedule knows of a task: its phase, and how many examples it has."""

    phase: str
    size: int


class Plan(NamedTuple):
    """How long an episode is.

    Attributes:
        steps: all steps of the episode.
        validate_every: steps between validations.
        choose_after: validations up to this step neither choose the best model nor count for patience.
    """

    steps: int
    validate_every: int
    choose_after: int = 0


class Schedule:
    """Args: active_ST: whether step s takes task t."""

    def __init__(self, active_ST: Active) -> None:
        self._active_ST = active_ST
        self._before_ST: npt.NDArray[np.int64] = np.cumsum(active_ST, axis=0) - active_ST

    def turns(self, step: int) -> list[tuple[int, int]]:
        """The tasks of a step, and the number of the batch of each, from 0: no task leaves one out."""
        return [(task, int(self._before_ST[step, task])) for task in np.flatnonzero(self._active_ST[step]).tolist()]

    def batches(self, steps: int) -> list[int]:
        """Of each task in the first `steps` steps."""
        counts: list[int] = self._active_ST[:steps].sum(axis=0).tolist()
        return counts


def joint(tasks: Sequence[Scheduled], steps: int) -> Active:
    """Every task in every step."""
    return np.ones((steps, len(tasks)), dtype=np.bool_)


def odds(tasks: Sequence[Scheduled], alpha: float) -> npt.NDArray[np.float64]:
    """Of each task to be a step's: size^alpha, divided by their sum."""
    weights_T = np.array([task.size for task in tasks], dtype=np.float64) ** alpha
    shares_T: npt.NDArray[np.float64] = weights_T / weights_T.sum()
    return shares_T


def alternating(tasks: Sequence[Scheduled], steps: int, alpha: float, seed: int, before: int = 0) -> Active:
    """One task a step. A step's draw depends on the seed and the step alone, however many steps there are; `before` were drawn already."""
    draws_S = generator(seed, "alternating").random(before + steps)[before:]
    drawn_S = np.searchsorted(odds(tasks, alpha).cumsum()[:-1], draws_S, side="right")
    active_ST: Active = drawn_S[:, None] == np.arange(len(tasks))
    return active_ST


def phase_bounds(tasks: Sequence[Scheduled], steps: int, shares: Sequence[float]) -> dict[str, tuple[int, int]]:
    """First step of each phase that has a task, and the one behind its last."""
    there = [
        (phase, share)
        for phase, share in zip(PHASES, shares, strict=True)
        if any(task.phase == phase for task in tasks)
    ]
    whole = sum(share for _, share in there)
    ends = [round(steps * part / whole) for part in accumulate(share for _, share in there)]
    return {phase: bounds for (phase, _), bounds in zip(there, zip([0, *ends], ends, strict=False), strict=True)}


def last_phase(settings: ObjectiveSettings, tasks: Sequence[Scheduled], steps: int) -> int:
    """First step of the last phase that has any, where phases are in sequence; else 0."""
    if settings.schedule != "sequential":
        return 0
    return max(start for start, stop in phase_bounds(tasks, steps, phase_shares(settings)).values() if start < stop)


def sequential(
    tasks: Sequence[Scheduled], steps: int, shares: Sequence[float], rehearsal: float, seed: int, before: int = 0
) -> Active:
    """The tasks of one phase after those of another; a step is one of an earlier phase, each equally likely, with probability `rehearsal`."""
    draws_S2 = generator(seed, "sequential").random((before + steps, 2))[before:]
    active_ST = np.zeros((steps, len(tasks)), dtype=np.bool_)
    phases = phase_bounds(tasks, steps, shares)
    for number, (start, stop) in enumerate(phases.values()):
        of_phase_S = np.full(stop - start, number)
        again_S = (draws_S2[start:stop, 0] < rehearsal) & (number > 0)
        of_phase_S[again_S] = (draws_S2[start:stop, 1] * number).astype(np.int64)[again_S]
        for task, (phase, _) in enumerate(tasks):
            active_ST[start:stop, task] = of_phase_S == list(phases).index(phase)
    return active_ST


def active(settings: ObjectiveSettings, seed: int, tasks: Sequence[Scheduled], steps: int, before: int = 0) -> Active:
    """Which tasks each step takes, [S, T], by the schedule that `settings` name, whose draws go on after `before` steps of trainings before."""
    if settings.schedule == "alternating":
        return alternating(tasks, steps, settings.schedule_alpha, seed, before)
    if settings.schedule == "sequential":
        return sequential(tasks, steps, phase_shares(settings), settings.rehearsal, seed, before)
    return joint(tasks, steps)


def epoch_steps(settings: ObjectiveSettings, tasks: Sequence[Scheduled], batches: Sequence[int]) -> int:
    """Steps in which every task of retrieval and reading, or every task where there are none, has dealt all its examples.

    Args:
        batches: examples of each task in a batch of it.
    """
    rates = [1.0] * len(tasks)  # of the steps that take a task
    if settings.schedule == "alternating":
        rates = odds(tasks, settings.schedule_alpha).tolist()
    elif settings.schedule == "sequential":
        there = {
            phase: share
            for phase, share in zip(PHASES, phase_shares(settings), strict=True)
            if any(task.phase == phase for task in tasks)
        }
        rates = [there[task.phase] / sum(there.values()) for task in tasks]
    whole = [
        (task.phase, -(-task.size // batch) / rate) for task, batch, rate in zip(tasks, batches, rates, strict=True)
    ]
    labelled = [steps for phase, steps in whole if phase != SELF_SUPERVISED]
    return math.ceil(max(labelled or [steps for _, steps in whole]))


def phase_shares(settings: ObjectiveSettings) -> list[float]:
    return [float(share) for share in settings.phase_shares.split(",")]


def learning_rate(settings: OptimiserSettings, step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0: linear up during the warm-up, then linear down to 0."""
    rising = round(settings.warmup * steps)
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    return settings.learning_rate * (steps - step) / max(steps - rising, 1)
