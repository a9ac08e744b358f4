"""Constant task weights: naive multi-task training, and weights that are given or drawn at random."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from torch.nn import Parameter

from taco_ir.core.errors import InputError
from taco_ir.core.hashes import generator
from taco_ir.core.settings import check_value
from taco_ir.core.tasks import resolve_task
from taco_ir.weighting.accumulation import StreamingSum
from taco_ir.weighting.base import Gradients, StepReport, require

DRAW = "draw"
WIDEST = 4.0  # a drawn weight lies between 1 / WIDEST and WIDEST before they are scaled to sum to 1


class Naive(StreamingSum):
    """Naive multi-task training, the mean of the tasks' gradients: every task has weight 1/T. No state, no options."""

    linear = True

    def __init__(self, params: Iterable[Parameter], tasks: int, embeddings: Collection[int] = ()) -> None:
        super().__init__(params, tasks, embeddings)
        self.task_weights: tuple[float, ...] = (1 / tasks,) * tasks

    def _fold(self, task: int, gradients: Gradients) -> None:
        self._accumulate(gradients, self.task_weights[task])

    def _update(self) -> tuple[Gradients, StepReport]:
        return self._sum, StepReport(self.task_weights, {})


class Static(Naive):
    """Constant weights, chosen by the user or found by a search on held-out queries. Equal weights give naive training.

    If they are chosen well, they do as well as methods that change weights: Kurin, De Palma, Kostrikov, Whiteson, Kumar
    2022, and Xin, Ghorbani, Garg, Firat, Gilmer 2022. These papers also search at random. The option `draw` is the
    number of a random set of weights, log-uniform between 1/4 and 4; it depends only on this number and the task names.

    Args:
        weights: a number above 0 for each task, scaled to sum to 1; empty: all equal.
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        tasks: int,
        embeddings: Collection[int] = (),
        *,
        weights: tuple[float, ...] = (),
    ) -> None:
        super().__init__(params, tasks, embeddings)
        given = weights or (1.0,) * tasks
        allowed = len(given) == tasks and all(0 < weight < float("inf") for weight in given)
        require("weights", weights, allowed, f"{tasks} finite numbers above 0")
        whole = sum(map(Fraction, given))  # exact, so that equal weights are 1/T to the bit
        self.task_weights = tuple(float(Fraction(weight) / whole) for weight in given)

    @classmethod
    def read_options(cls, given: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
        """Read weights by task name (1 if a task has none), or `draw`: which random set of weights to use."""
        options, weights = dict(given), dict.fromkeys(tasks, 1.0)
        if DRAW in options and DRAW not in tasks:
            number = check_value(f"weighting_options: {DRAW}", options.pop(DRAW), int, {"min": 0})
            weights = {task: WIDEST ** generator(number, "static weights", task).uniform(-1, 1) for task in tasks}
        spelled: dict[str, str] = {}
        for word, value in options.items():
            try:
                task = resolve_task(word, tasks)
            except InputError as error:
                raise InputError(f"weighting_options: {error}") from error
            if (other := spelled.setdefault(task, word)) != word:
                raise InputError(f"weighting_options: {other} and {word} are one task, {task}; leave one of them out")
            weights[task] = check_value(f"weighting_options: {word}", value, float, {"above": 0})
        return {"weights": tuple(weights.values())}
