"""Measures how sensitive each parameter of a model is to each task, on batches of training data.

Any model can be measured, however it was trained. Zhang, Xiong, Stratos, Overwijk, TACL 11, 2023, algorithm 1, with the
medians of `weighting.taco`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.analysis.summary import (
    DENSITY_EDGES,
    NOT_ACTIVATED,
    Counts,
    Measurement,
    Sensitivity,
    bin_edges,
    merge_counts,
)
from taco_ir.core.files import InputError
from taco_ir.core.hashes import generator
from taco_ir.training.cosines import GradientSketch, compute_cosines
from taco_ir.training.objectives.base import Objective
from taco_ir.weighting.blocks import Layout
from taco_ir.weighting.median import Sensitivities, median
from taco_ir.weighting.taco import SMALLEST_MEDIAN

Batch = tuple[Objective, int]  # a task's batch, by its number
SKETCH_WIDTH = 1_048_573  # a prime: cosines to within 0.0014


def measure(
    objectives: Sequence[Objective], batches: int, tau: float, done: Callable[[], None], seed: int = 0
) -> Measurement:
    """Measure how evenly the tasks share each parameter, as the entropy of the softmax over tasks of S / tau.

    S is the mean over batches of |g theta|, divided by its median. A batch with a zero gradient does not count for S.
    Memory: nine numbers for each parameter besides its gradient. This does not grow with the number of tasks, since
    the softmax over tasks is kept as running sums.

    Args:
        objectives: one for each task.
        batches: how many batches of each task to use: the batches of steps 0 to `batches` - 1.
        done: called after each batch. With several batches and tasks, each batch is used twice, once to measure chance.
        seed: random seed for the assignment of batches to tasks that measures chance.

    Raises:
        InputError: for a task with a gradient that is infinite or NaN, or zero in every batch.
    """
    own = [[(each, batch) for batch in range(batches)] for each in objectives]
    parameters, sensitivities, sketches = _measure_groups(own, tau, done)
    chance = None
    if batches > 1 and len(own) > 1:
        chance = merge_counts("all", _measure_groups(shuffle(own, seed), tau, done, strict=False)[0]).specific
    return Measurement(parameters, sensitivities, compute_cosines(sketches), chance)


def shuffle(own: Sequence[Sequence[Batch]], seed: int) -> list[list[Batch]]:
    """Reassign the tasks' batches `own` at random, so that tasks differ only by chance; numbers of batches stay."""
    every = [batch for batches in own for batch in batches]
    order = iter(generator(seed, "tasks of batches").permutation(len(every)).tolist())
    return [[every[next(order)] for _ in batches] for batches in own]


def _measure_groups(
    groups: Sequence[Sequence[Batch]], tau: float, done: Callable[[], None], strict: bool = True
) -> tuple[list[Counts], list[Sensitivity], list[Tensor]]:
    """Measures groups of batches that stand for tasks: counts, sensitivities, and sketches of the groups' gradients.

    Args:
        strict: True if a group with only zero gradients is an error; otherwise no parameter is sensitive to it.
    """
    first, _ = groups[0][0]
    params = first.params
    softmaxes = [OnlineEntropy(param) for param in params]
    active = [torch.zeros(param.numel(), dtype=torch.bool, device=param.device) for param in params]
    sketch = GradientSketch(params, SKETCH_WIDTH)
    sensitivities, sketches = [], []
    for number, group in enumerate(groups):
        sums = TaskSums(params, sketch)
        for objective, batch in group:
            objective.backward(objective.batch(batch))
            if not sums.add([param.grad for param in params]):
                raise InputError(
                    f"task {objective.task}: the gradient of batch {batch + 1} contains infinite numbers or NaN; "
                    "the model's weights may be too large"
                )
            for param in params:
                param.grad = None
            done()
        if not sums.used and strict:
            raise InputError(
                f"task {objective.task}: the gradient of every batch is zero; "
                "larger batches (--batch-size) or hard negatives may help"
            )
        for place, (scaled, plain) in enumerate(zip(sums.scaled, sums.plain, strict=True)):
            softmaxes[place].fold(number, scaled.div_(max(sums.used, 1) * tau))
            active[place] |= plain.div_(len(group)) >= NOT_ACTIVATED
        sensitivities.append(Sensitivity(sums.medians / max(sums.used, 1), *count_densities(sums.plain)))
        sketches.append(sums.gradient)
    edges = bin_edges(len(groups))
    named = zip((name for name, _ in first.model.trained_parameters()), softmaxes, active, strict=True)
    counts = [count_parameters(name, softmax, mask, len(groups), edges) for name, softmax, mask in named]
    return counts, sensitivities, sketches


class TaskSums:
    """Sums of sensitivities over the batches of one task. Memory: two numbers for each parameter.

    Attributes:
        plain: for each tensor, the sums of |g theta|, flattened.
        scaled: for each tensor, the sums of |g theta| / median.
        medians: sum of the medians.
        used: number of batches that have a median.
        gradient: sum of the gradients' sketches (random projections).
    """

    def __init__(self, params: Sequence[Parameter], sketch: GradientSketch) -> None:
        self._params = [param.detach() for param in params]
        self._chunk = Layout(self._params).chunk
        self._sketch = sketch
        self.plain = [torch.zeros_like(param).flatten() for param in self._params]
        self.scaled = [torch.zeros_like(param).flatten() for param in self._params]
        self.medians = 0.0
        self.used = 0
        self.gradient = sketch([None for _ in params])

    def add(self, gradients: Sequence[Tensor | None]) -> bool:
        """Add a batch's gradients, dense or sparse; returns False if they are infinite or NaN."""
        found = [(place, *self._pair(place, grad)) for place, grad in enumerate(gradients) if grad is not None]
        pairs = [(grad, values) for _, _, grad, values in found]
        middle = median(Sensitivities(pairs, self._chunk), active_only=True) if pairs else 0.0
        if math.isnan(middle):
            return False
        self.gradient += self._sketch(gradients)
        usable = middle >= SMALLEST_MEDIAN
        self.used += usable
        self.medians += middle if usable else 0.0
        for place, rows, grad, values in found:
            sensitivity = (grad * values).abs_()
            self._add(self.plain[place], place, rows, sensitivity)
            if usable:
                self._add(self.scaled[place], place, rows, sensitivity.div_(middle))
        return True

    def _pair(self, place: int, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Returns the rows of a sparse gradient (None: all rows), and the flat gradient and parameter values."""
        param = self._params[place]
        if not grad.is_sparse:
            return None, grad.flatten(), param.flatten()
        grad = grad.coalesce()
        rows = grad.indices()[0]
        return rows, grad.values().flatten(), param.index_select(0, rows).flatten()

    def _add(self, total: Tensor, place: int, rows: Tensor | None, addend: Tensor) -> None:
        if rows is None:
            total += addend
        else:
            total.view_as(self._params[place]).index_add_(0, rows, addend.view(len(rows), -1))


class OnlineEntropy:
    """Computes the entropy of a softmax over tasks, task after task. Memory: three numbers and a byte for each entry.

    With m the largest logit so far, Z = sum_k e^(x_k - m) and M = sum_k (x_k - m) e^(x_k - m), the entropy is
    ln Z - M / Z. This never subtracts large numbers, however large the logits are.

    Attributes:
        leader: for each entry, the task with the largest logit (the first of equal tasks).
    """

    def __init__(self, like: Tensor) -> None:
        flat = like.detach().flatten()
        self._top = torch.empty_like(flat)
        self._total = torch.zeros_like(flat)
        self._moment = torch.zeros_like(flat)
        self.leader = torch.zeros(len(flat), dtype=torch.uint8, device=flat.device)
        self._tasks = 0

    def fold(self, task: int, logits: Tensor) -> None:
        """Add the finite, flattened logits of `task`."""
        if self._tasks == 0:
            self._top.copy_(logits)
            self.leader.fill_(task)
        self.leader[logits > self._top] = task
        top = torch.maximum(self._top, logits)
        fall = self._top - top
        shrink = fall.exp()
        self._moment.addcmul_(fall, self._total).mul_(shrink)
        self._total.mul_(shrink)
        rise = logits - top
        share = rise.exp()
        self._moment.addcmul_(rise, share)
        self._total += share
        self._top = top
        self._tasks += 1

    def entropy(self) -> Tensor:
        """Returns the entropy of each entry in nats, from 0 to ln T."""
        return (self._total.log() - self._moment / self._total).clamp_(min=0)


def count_parameters(name: str, softmax: OnlineEntropy, active: Tensor, tasks: int, edges: Sequence[float]) -> Counts:
    """Count the parameters of one tensor, where the mask `active` is True, by entropy bin and by the leading task."""
    entropy = softmax.entropy()[active]
    inner = torch.tensor(edges[1:-1], dtype=entropy.dtype, device=entropy.device)
    bins = torch.bucketize(entropy, inner, right=True)
    counts = torch.bincount(bins * tasks + softmax.leader[active], minlength=(len(edges) - 1) * tasks)
    rows = counts.view(len(edges) - 1, tasks).tolist()
    return Counts(name, len(active), tuple(map(tuple, rows)), float(entropy.sum(dtype=torch.float64)))


def count_densities(sensitivities: Sequence[Tensor]) -> tuple[tuple[int, ...], int]:
    """Returns a histogram of log10 sensitivities over DENSITY_EDGES, with open outer bins, and the number of zeros."""
    counts = torch.zeros(len(DENSITY_EDGES) - 1, dtype=torch.long)
    zeros = 0
    for values in sensitivities:
        positive = values[values > 0]
        zeros += len(values) - len(positive)
        inner = torch.tensor(DENSITY_EDGES[1:-1], dtype=values.dtype, device=values.device)
        counts += torch.bincount(torch.bucketize(positive.log10(), inner, right=True), minlength=len(counts)).cpu()
    return tuple(counts.tolist()), zeros
