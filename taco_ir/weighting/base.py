"""The interface of task weightings, and the bookkeeping of a step that all of them share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from taco_ir.core.errors import InputError

Gradients = list[Tensor | None]


class StepReport(NamedTuple):
    """Facts about an update: the mean weight of each task, other numbers to log by name, and the Euclidean norm."""

    weights: tuple[float, ...]
    details: Mapping[str, float]
    norm: float = math.nan


class TaskWeighting(nn.Module):
    """Combines the gradients of T tasks, given one at a time, into one update.

    In your own training loop, call `backward` instead of `loss.backward()`. If the graphs of all tasks do not fit into
    memory together, call its parts: `begin`; for every task, in any order, the backward pass of its loss and `add`;
    then `combine` (or `drop`). Always give `add` and `combine` the parameters in the same order. The update is a
    weighted mean of the gradients: the weights sum to 1, so a learning rate means the same with every weighting. A
    class says so if its method is different. The state is in buffers, so checkpoints contain it, without an unfinished
    step.

    A subclass implements `_fold` and `_update`, and `_forget` if it collects data in a step.

    Args:
        params: the trainable parameters that the tasks share, P numbers in all; an iterator such as
            `model.parameters()` is read once. Other parameters, such as the head of a single task, keep the gradients
            that a backward pass adds to their `.grad`.
        tasks: number of tasks, T.
        embeddings: positions in `params` of embedding tables, V x D; a batch uses few rows of such a table.

    Attributes:
        params: the parameters, in order.
        linear: whether the update is a sum of the gradients with weights that do not depend on these gradients.
        total: a function that sums `.grad` of the parameters over all processes, called at the end of a step. It is for
            a linear weighting to which each process adds the gradients of its part of the batches. None: not needed.

    Raises:
        InputError: if there are no tasks or no parameters, or `params` contains something else.

    Examples:
        >>> import torch
        >>> shared, head_a, head_b = torch.nn.Linear(4, 8), torch.nn.Linear(8, 1), torch.nn.Linear(8, 1)
        >>> weighting = taco_ir.Taco(shared.parameters(), tasks=2)
        >>> features = shared(torch.ones(3, 4)).relu()
        >>> losses = [head_a(features).square().mean(), head_b(features).exp().mean()]
        >>> report = weighting.backward(losses, progress=0.5)
        >>> f"{sum(report.weights):.2f}"
        '1.00'
    """

    linear: ClassVar[bool] = False

    def __init__(self, params: Iterable[Parameter], tasks: int, embeddings: Collection[int] = ()) -> None:
        super().__init__()
        if tasks < 1:
            raise InputError(f"task weighting: {tasks} tasks; at least 1 is needed")
        self.params = params = _parameters(params)
        wrong = [position for position in embeddings if not 0 <= position < len(params) or params[position].dim() != 2]
        if wrong:
            raise ValueError(f"embeddings: {wrong} are not positions of V x D tables among {len(params)} parameters")
        self.tasks = tasks
        self.embeddings = tuple(sorted(embeddings))
        self.progress = 0.0
        self.total: Callable[[Sequence[Parameter]], object] | None = None
        self._losses: dict[int, float] = {}
        self._touched = [False] * len(params)
        self._params: Sequence[Parameter] = ()  # of a step

    def backward(self, losses: Iterable[Tensor], progress: float) -> StepReport:
        """Run the backward pass of every task's loss, and leave the update in `.grad` for an optimiser's step.

        The update replaces the `.grad` of `params`; other parameters keep the gradients that the passes add. Losses may
        share a graph. Give them in the same order of tasks in every step.

        Args:
            losses: T scalars.
            progress: the fraction of the training that is done, from 0 to 1, such as `step / steps`.

        Raises:
            InputError: for a wrong number of losses, or a loss that does not depend on the parameters.
            FloatingPointError: if a loss, a gradient or the update is infinite or NaN. Skip the optimiser's step.
        """
        losses = list(losses)
        if len(losses) != self.tasks:
            raise InputError(f"task weighting: {len(losses)} losses; one for each of {self.tasks} tasks is needed")
        for task, loss in enumerate(losses):
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
                raise InputError(
                    f"task weighting: the loss of task {task} is {_describe(loss)}; it must be a scalar with a "
                    "graph, neither detached nor computed under no_grad"
                )
        self.begin(progress)
        self._clear()
        try:
            for task, loss in enumerate(losses):
                loss.backward(retain_graph=task + 1 < self.tasks)  # type: ignore[no-untyped-call]
                if all(param.grad is None for param in self.params):
                    raise InputError(
                        f"task weighting: the loss of task {task} does not depend on any of the {len(self.params)} "
                        "parameters; give the parameters that the tasks share"
                    )
                self.add(task, loss.detach(), self.params)
            return self.combine(self.params)
        except BaseException:
            self._clear()
            self.drop()
            raise

    def _clear(self) -> None:
        for param in self.params:
            param.grad = None

    def begin(self, progress: float) -> None:
        """Start a step; `progress` is the fraction of the training that is done, from 0 to 1."""
        self.drop()
        self.progress = progress

    def skip_steps(self, steps: int) -> None:
        """Continue random choices as if `steps` steps had been taken before."""

    def add(self, task: int, loss: Tensor | float, params: Iterable[Parameter]) -> None:
        """Take the gradient of a task from `params`; afterwards every `.grad` is None, and its memory may be reused.

        A `.grad` that is None counts as zeros. Reading `loss` from a tensor waits for its device.

        Raises:
            InputError: if no parameter has a gradient, because the backward pass was forgotten.
            FloatingPointError: if the loss is not finite, or a gradient that would change the state. The state has not
                changed; call `drop`.
        """
        if task in self._losses or not 0 <= task < self.tasks:
            raise ValueError(
                f"task {task} of {self.tasks} does not exist or was added before; added so far: {sorted(self._losses)}"
            )
        value = float(loss)
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss of task {task} is {value}")
        params = tuple(params)
        if self.total is None and all(param.grad is None for param in params):
            raise InputError(f"task weighting: task {task} has no gradient; call backward() on its loss before add()")
        gradients: Gradients = []
        for position, param in enumerate(params):
            grad, param.grad = param.grad, None
            if grad is not None and grad.is_sparse and position not in self.embeddings:
                grad = grad.to_dense()
            gradients.append(grad)
        self._params = params
        with torch.no_grad():
            self._fold(task, gradients)
        self._losses[task] = value
        self._touched = [known or grad is not None for known, grad in zip(self._touched, gradients, strict=True)]

    def combine(self, params: Iterable[Parameter]) -> StepReport:
        """End the step: write the update to every parameter's `.grad`; None if no task had a gradient for it.

        Raises:
            FloatingPointError: if the update is not finite. Every `.grad` is None; the state is finite. Call `drop`.
        """
        if len(self._losses) < self.tasks:
            raise ValueError(f"only tasks {sorted(self._losses)} of {self.tasks} were added to this step")
        with torch.no_grad():
            update, report = self._update()
        params = tuple(params)
        for param, grad, touched in zip(params, update, self._touched, strict=True):
            param.grad = grad.to(param.dtype) if touched and grad is not None else None
        if self.total is not None:
            self.total(params)
        norm = float(torch.nn.utils.get_total_norm([param.grad for param in params if param.grad is not None]))
        if not math.isfinite(norm):
            for param in params:
                param.grad = None
            raise FloatingPointError(f"the update has the norm {norm}")
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
        """Returns how many bytes this weighting needs at most, in addition to one gradient of `parameters` numbers."""
        return 0

    def specific_share(self) -> float | None:
        """Returns the share of parameters with nearly all weight on one task; None if all have the same weights."""
        return None

    @classmethod
    def read_options(cls, given: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:  # noqa: ARG003
        """Turn a user's options into arguments of the constructor; some weightings accept task names as options.

        Raises:
            InputError: for an unknown task name.
        """
        return dict(given)

    @abstractmethod
    def _fold(self, task: int, gradients: Gradients) -> None:
        """Add the gradients of one task to the step; the strategy now owns them."""

    @abstractmethod
    def _update(self) -> tuple[Gradients, StepReport]:
        """Returns the update (for each parameter a tensor of its shape, or None) and its report."""

    def _forget(self) -> None:
        """Clear the data that `_fold` collected."""


def require(option: str, value: Any, allowed: bool, what: str) -> None:
    """Raise InputError if `allowed` is False; the error names the option, its value, and the allowed values `what`."""
    if not allowed:
        raise InputError(f"task weighting option {option}: it is {value!r}, but must be {what}")


def _parameters(params: Iterable[Parameter]) -> tuple[Parameter, ...]:
    """Returns the parameters in order. Raises: InputError if there are none, or for something else."""
    found = () if isinstance(params, Tensor | nn.Module) else tuple(params)
    wrong = (each for each in found if not (isinstance(each, Tensor) and each.is_leaf))
    other = params if isinstance(params, Tensor | nn.Module) else next(wrong, None)
    if other is not None:
        raise InputError(
            "task weighting: params must be a list of the parameters that the tasks share, or an iterator such as "
            f"model.parameters(); found a {type(other).__name__}"
        )
    if not found:
        raise InputError(
            "task weighting: there is no trainable parameter; at least 1 is needed (was the iterator already used up?)"
        )
    return found


def _describe(loss: object) -> str:
    if not isinstance(loss, Tensor):
        return f"no tensor but {type(loss).__name__}"
    return f"a tensor of shape {list(loss.shape)}{' without a graph' * (not loss.requires_grad)}"
