"""The interface of task weightings, and the bookkeeping of a step that all of them share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from taco_ir.core.files import InputError

Gradients = list[Tensor | None]


class StepReport(NamedTuple):
    """The mean weight of each task in an update, scalars worth logging, and the update's Euclidean norm."""

    weights: tuple[float, ...]
    details: Mapping[str, float]
    norm: float = math.nan


class TaskWeighting(nn.Module):
    """Combines T task gradients, given one at a time, into one update.

    A step is `begin`, then `add` once for every task in any order, then `combine` (or `drop`). The update is a weighted
    mean of the gradients: the weights sum to 1, so a learning rate means the same under every strategy. Where a
    paper's method departs from that, its class says so. State is in buffers, so checkpoints include it; the sums of an
    unfinished step are no state. Parameters are passed again each time, always in one order.

    A strategy implements `_fold` and `_update`, and `_forget` where it gathers anything in a step.

    Args:
        params: the trainable parameters, P numbers in all.
        tasks: T.
        embeddings: positions in `params` of embedding tables, V x D, of which a batch touches few rows.
    """

    def __init__(self, params: Sequence[Parameter], tasks: int, embeddings: Collection[int] = ()) -> None:
        super().__init__()
        if tasks < 1:
            raise InputError(f"task weighting: {tasks} tasks; at least 1 is needed")
        if not params:
            raise InputError("task weighting: no trainable parameter; at least 1 is needed")
        wrong = [position for position in embeddings if not 0 <= position < len(params) or params[position].dim() != 2]
        if wrong:
            raise ValueError(f"embeddings: {wrong} are not positions of V x D tables among {len(params)} parameters")
        self.tasks = tasks
        self.embeddings = tuple(sorted(embeddings))
        self.progress = 0.0
        self._losses: dict[int, float] = {}
        self._touched = [False] * len(params)
        self._params: Sequence[Parameter] = ()

    def begin(self, progress: float) -> None:
        """Start a step; `progress` is the share of training done, in [0, 1]."""
        self.drop()
        self.progress = progress

    def skip_steps(self, steps: int) -> None:
        """Continue random choices as if `steps` steps had been taken before."""

    def add(self, task: int, loss: Tensor | float, params: Sequence[Parameter]) -> None:
        """Take the gradient of a task from `params`; afterwards every `.grad` is None, and its memory may be reused.

        A `.grad` that is None counts as zeros. Reading `loss` from a tensor waits for its device.

        Raises:
            FloatingPointError: the loss is not finite, or the gradient is not and would reach the state. The state is
                unchanged; `drop` the step.
        """
        if task in self._losses or not 0 <= task < self.tasks:
            raise ValueError(
                f"task {task} of {self.tasks} does not exist or was added before; added so far: {sorted(self._losses)}"
            )
        value = float(loss)
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss of task {task} is {value}")
        gradients: Gradients = []
        for position, param in enumerate(params):
            grad, param.grad = param.grad, None
            if grad is not None and grad.is_sparse and position not in self.embeddings:
                grad = grad.to_dense()
            gradients.append(grad)
        self._params = tuple(params)
        with torch.no_grad():
            self._fold(task, gradients)
        self._losses[task] = value
        self._touched = [known or grad is not None for known, grad in zip(self._touched, gradients, strict=True)]

    def combine(self, params: Sequence[Parameter]) -> StepReport:
        """End the step: write the update to the `.grad` of every parameter, None where no task had one.

        Raises:
            FloatingPointError: the update is not finite. No `.grad` is written, the state is finite; `drop` the step.
        """
        if len(self._losses) < self.tasks:
            raise ValueError(f"only tasks {sorted(self._losses)} of {self.tasks} were added to this step")
        with torch.no_grad():
            update, report = self._update()
        grads = [
            grad.to(param.dtype) if touched and grad is not None else None
            for param, grad, touched in zip(params, update, self._touched, strict=True)
        ]
        norm = float(torch.nn.utils.get_total_norm([grad for grad in grads if grad is not None]))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the update has the norm {norm}")
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        self.drop()
        return report._replace(norm=norm)

    def drop(self) -> None:
        """Abandon the current step without an update; its memory is freed, and the state of earlier steps is kept."""
        self._losses.clear()
        self._params = ()
        self._touched = [False] * len(self._touched)
        self._forget()

    @classmethod
    def extra_bytes(cls, parameters: int, tasks: int, /, **_options: Any) -> int:  # noqa: ARG003  (subclasses use them)
        """Upper bound of the bytes needed above those of T backward passes that sum into one gradient, at float32."""
        return 0

    def specific_share(self) -> float | None:
        """Share of the parameters with nearly all weight on one task; None where all have the same weights."""
        return None

    @classmethod
    def read_options(cls, given: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:  # noqa: ARG003
        """Arguments of the constructor, of what a user gave as options; some weightings take the tasks' names as such.

        Raises:
            InputError: for a name that is no task's.
        """
        return dict(given)

    @abstractmethod
    def _fold(self, task: int, gradients: Gradients) -> None:
        """Add the gradients of one task to the step; the strategy now owns them."""

    @abstractmethod
    def _update(self) -> tuple[Gradients, StepReport]:
        """The update, a tensor shaped like each parameter or None, and its report."""

    def _forget(self) -> None:
        """Clear what `_fold` gathered."""


def require(option: str, value: Any, allowed: bool, what: str) -> None:
    """Raise InputError, naming option, value and what is allowed, unless `allowed`."""
    if not allowed:
        raise InputError(f"task weighting option {option}: {value!r}; {what} is allowed")
