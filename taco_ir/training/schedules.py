"""Task schedules: which tasks each step trains on.

Everything is sampled from the seed, so a resumed training continues exactly as if it had not stopped.
"""

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


class ScheduledTask(NamedTuple):
    """What a schedule needs to know of a task: its phase, one of PHASES, and its number of examples."""

    phase: str
    size: int


class Plan(NamedTuple):
    """The length of an episode, and when to validate.

    Attributes:
        steps: number of steps in the episode.
        validate_every: number of steps between validations.
        choose_after: validations up to this step neither choose the best model nor count for patience.
    """

    steps: int
    validate_every: int
    choose_after: int = 0

    @property
    def when_validated(self) -> str:
        """A phrase that says when validations take place."""
        if self.validate_every >= self.steps:
            return "validated after the last step"
        return f"validated every {self.validate_every:,} steps and after the last"


class Schedule:
    """Tells for each step which tasks it trains on, and which batch of each task.

    Args:
        active_ST: boolean [S, T]: whether step s trains on task t.
    """

    def __init__(self, active_ST: Active) -> None:
        self._active_ST = active_ST
        self._before_ST: npt.NDArray[np.int64] = np.cumsum(active_ST, axis=0) - active_ST

    def turns(self, step: int) -> list[tuple[int, int]]:
        """Returns (task, batch number) for each task of a step. A task's batches are numbered from 0 without gaps."""
        return [(task, int(self._before_ST[step, task])) for task in np.flatnonzero(self._active_ST[step]).tolist()]

    def count_batches(self, steps: int) -> list[int]:
        """Returns the number of batches of each task in the first `steps` steps."""
        counts: list[int] = self._active_ST[:steps].sum(axis=0).tolist()
        return counts


def plan_steps(
    settings: ObjectiveSettings, seed: int, tasks: Sequence[ScheduledTask], steps: int, before: int = 0
) -> Active:
    """Returns which tasks each step trains on, boolean [S, T], for the schedule in the settings.

    Args:
        before: number of steps of earlier trainings; their random numbers are skipped.
    """
    if settings.schedule == "alternating":
        return alternate(tasks, steps, settings.schedule_alpha, seed, before)
    if settings.schedule == "sequential":
        return sequence_phases(tasks, steps, parse_shares(settings), settings.rehearsal, seed, before)
    return np.ones((steps, len(tasks)), dtype=np.bool_)


def compute_odds(tasks: Sequence[ScheduledTask], alpha: float) -> npt.NDArray[np.float64]:
    """Returns the probability [T] that a step trains on each task: size^alpha, normalised to sum to 1."""
    weights_T = np.array([task.size for task in tasks], dtype=np.float64) ** alpha
    odds_T: npt.NDArray[np.float64] = weights_T / weights_T.sum()
    return odds_T


def alternate(tasks: Sequence[ScheduledTask], steps: int, alpha: float, seed: int, before: int = 0) -> Active:
    """Returns a schedule, boolean [S, T], in which each step trains on one task, chosen from the seed and the step."""
    random_S = generator(seed, "alternating").random(before + steps)[before:]
    task_S = np.searchsorted(compute_odds(tasks, alpha).cumsum()[:-1], random_S, side="right")
    active_ST: Active = task_S[:, None] == np.arange(len(tasks))
    return active_ST


def sequence_phases(
    tasks: Sequence[ScheduledTask], steps: int, shares: Sequence[float], rehearsal: float, seed: int, before: int = 0
) -> Active:
    """Returns a schedule, boolean [S, T]: all tasks of the first phase, then all tasks of the next, and so on.

    `shares` are the relative lengths of the phases. With probability `rehearsal`, a step trains on an earlier phase
    instead; all earlier phases are equally likely.
    """
    random_S2 = generator(seed, "sequential").random((before + steps, 2))[before:]
    active_ST = np.zeros((steps, len(tasks)), dtype=np.bool_)
    phases = bound_phases(tasks, steps, shares)
    for number, (start, stop) in enumerate(phases.values()):
        phase_S = np.full(stop - start, number)
        again_S = (random_S2[start:stop, 0] < rehearsal) & (number > 0)
        phase_S[again_S] = (random_S2[start:stop, 1] * number).astype(np.int64)[again_S]
        for task, (phase, _) in enumerate(tasks):
            active_ST[start:stop, task] = phase_S == list(phases).index(phase)
    return active_ST


def bound_phases(tasks: Sequence[ScheduledTask], steps: int, shares: Sequence[float]) -> dict[str, tuple[int, int]]:
    """Returns {phase: (first step, step after the last)} for phases with tasks. `shares`: relative lengths."""
    present = _present_phases(tasks, shares)
    whole = sum(present.values())
    ends = [round(steps * sum_ / whole) for sum_ in accumulate(present.values())]
    return dict(zip(present, zip([0, *ends], ends, strict=False), strict=True))


def find_last_phase(settings: ObjectiveSettings, tasks: Sequence[ScheduledTask], steps: int) -> int:
    """Returns the first step of the last phase with tasks; 0 if the schedule has no phases."""
    if settings.schedule != "sequential":
        return 0
    return max(start for start, stop in bound_phases(tasks, steps, parse_shares(settings)).values() if start < stop)


def count_epoch_steps(settings: ObjectiveSettings, tasks: Sequence[ScheduledTask], batches: Sequence[int]) -> int:
    """Returns the number of steps in which every query is sampled once or, without queries, every passage.

    Args:
        batches: number of examples in a batch of each task.
    """
    rates = [1.0] * len(tasks)  # fraction of the steps that train on each task
    if settings.schedule == "alternating":
        rates = compute_odds(tasks, settings.schedule_alpha).tolist()
    elif settings.schedule == "sequential":
        present = _present_phases(tasks, parse_shares(settings))
        rates = [present[task.phase] / sum(present.values()) for task in tasks]
    needed = [
        (task.phase, -(-task.size // batch) / rate) for task, batch, rate in zip(tasks, batches, rates, strict=True)
    ]
    labelled = [steps for phase, steps in needed if phase != SELF_SUPERVISED]
    return math.ceil(max(labelled or [steps for _, steps in needed]))


def parse_shares(settings: ObjectiveSettings) -> list[float]:
    """Returns the relative lengths of the three phases, from the text of the setting `phase_shares`."""
    return [float(share) for share in settings.phase_shares.split(",")]


def learning_rate(settings: OptimiserSettings, step: int, steps: int) -> float:
    """Returns the learning rate of a step, counted from 0: it rises linearly in the warm-up, then falls to 0."""
    rising = round(settings.warmup * steps)
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    return settings.learning_rate * (steps - step) / max(steps - rising, 1)


def _present_phases(tasks: Sequence[ScheduledTask], shares: Sequence[float]) -> dict[str, float]:
    """Returns the relative lengths of the phases that have a task."""
    found = {task.phase for task in tasks}
    return {phase: share for phase, share in zip(PHASES, shares, strict=True) if phase in found}
