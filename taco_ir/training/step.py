"""One step of multi-task training: a batch of every task, its gradient, and what the weighting makes of them all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.core.settings import Settings
from taco_ir.core.types import Passage
from taco_ir.training.backward import Arithmetic, backward
from taco_ir.training.batches import Dealt, TaskBatch, TaskSampler, make_batch, part
from taco_ir.training.distributed import Processes
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.objectives.contrastive import contrastive_loss
from taco_ir.training.sketch import Cosines, GradientSketch, pairs
from taco_ir.weighting.base import StepReport, TaskWeighting


class Texts(NamedTuple):
    """The passages that batches draw from, and their pages, by docid."""

    passages: Mapping[str, Passage]
    page_of: Mapping[str, str]


@dataclass(frozen=True)
class BatchSettings(Settings):
    """What a task's batch is made of and how its loss is computed.

    Attributes:
        negatives: hard negatives of a query.
        temperature: scores are divided by it.
        cross_device: passages of all processes are negatives, not only one's own.
        accumulate: parts that a process computes one after another.
    """

    negatives: int = field(default=1, metadata={"min": 0})
    multi_positive: bool = False
    temperature: float = field(default=1.0, metadata={"above": 0})
    cross_device: bool = True
    accumulate: int = field(default=1, metadata={"min": 1})
    seed: int = field(default=0, metadata={"min": 0})


class StepResult(NamedTuple):
    """What a step saw; `report` is None where it was skipped, because of the tasks in `not_finite`.

    `cosines` of the tasks' gradients are None where they were not asked for.
    """

    losses: dict[str, float]
    norms: dict[str, float]
    report: StepReport | None
    not_finite: list[str]
    cosines: Cosines | None = None


class MultiTaskStep:
    """Computes gradients of a global step; the same numbers for one process and many, up to rounding.

    The queries of a task are dealt to processes x accumulate parts. In-batch negatives come from one's own part, or, with
    `cross_device`, from the parts of all processes. So two processes without it equal one that accumulates twice, and two
    processes with it equal one that does not.

    Args:
        log_cosines: steps from one whose tasks' gradients are compared to the next; 0: none are.
    """

    def __init__(
        self,
        model: DualEncoder,
        samplers: Sequence[TaskSampler],
        texts: Texts,
        weighting: TaskWeighting,
        settings: BatchSettings,
        arithmetic: Arithmetic,
        processes: Processes,
        log_cosines: int = 0,
    ) -> None:
        self.model = model
        self.params: list[Parameter] = [param for _, param in model.trained()]
        self.samplers = samplers
        self.weighting = weighting
        self.texts = texts
        self._settings = settings
        self._arithmetic = arithmetic
        self._processes = processes
        self._log_cosines = log_cosines
        self._sketch = GradientSketch(self.params)

    def __call__(self, step: int, progress: float) -> StepResult:
        """Leave the combined gradient of global step `step` in .grad of the parameters, or none where a task's is not finite."""
        losses, norms, not_finite = {}, {}, []
        compared = self._log_cosines > 0 and step % self._log_cosines == 0
        sketches: list[Tensor] = []
        self.weighting.begin(progress)
        for number, (sampler, turn) in enumerate(self.turns(step)):
            task_loss = self.task_gradient(sampler, turn)
            grads = [param.grad for param in self.params if param.grad is not None]
            task_norm = torch.nn.utils.get_total_norm([grad.values() if grad.is_sparse else grad for grad in grads])
            loss, norm = torch.stack([task_loss.to(task_norm), task_norm]).tolist()  # an accelerator is waited for once
            losses[sampler.task], norms[sampler.task] = loss, norm
            if not math.isfinite(norm + loss):
                not_finite.append(sampler.task)
            if not_finite:
                for param in self.params:
                    param.grad = None
            else:
                if compared:
                    sketches.append(self._sketch([param.grad for param in self.params]))
                try:
                    self.weighting.add(number, loss, self.params)
                except FloatingPointError:  # finite, but its products are not
                    not_finite.append(sampler.task)
        report = None
        if not not_finite:
            try:
                report = self.weighting.combine(self.params)
            except FloatingPointError:
                not_finite = list(losses)
        if report is None:
            self.weighting.drop()
        cosines = pairs(list(losses), sketches) if compared and report is not None else None
        return StepResult(losses, norms, report, not_finite, cosines)

    def turns(self, step: int) -> list[tuple[TaskSampler, int]]:
        """The tasks of global step `step`, each with the number of the batch that it deals."""
        return [(sampler, sampler.first + step) for sampler in self.samplers]

    def dealt(self, steps: int) -> dict[str, Dealt]:
        """How far each task's stream was dealt after so many steps."""
        return {sampler.task: sampler.dealt(steps) for sampler in self.samplers}

    def task_gradient(self, sampler: TaskSampler, step: int) -> Tensor:
        """Leave the gradient of a task's batch `step`, summed over processes, in .grad; its loss, a scalar."""
        settings = self._settings
        batch = make_batch(sampler.step(step), self.texts.page_of, settings.negatives, settings.multi_positive, settings.seed)
        return self.contrast(batch, self.texts.passages, step)

    def contrast(self, batch: TaskBatch, passages: Mapping[str, Passage], step: int) -> Tensor:
        """As `task_gradient`, of InfoNCE over a batch whose passages are looked up in `passages`."""
        settings = self._settings
        loss = torch.zeros((), device=self.model.device)
        for turn in range(settings.accumulate):
            seed = (settings.seed, batch.task, step, turn, self._processes.rank)
            loss += self._turn(part(batch, turn, settings.accumulate), passages, len(batch.queries), seed)
        for param in self.params:
            if param.grad is not None and param.grad.is_sparse:
                param.grad = param.grad.coalesce()
        return self._processes.sum_gradients(self.params, loss)

    def _turn(self, batch: TaskBatch, passages: Mapping[str, Passage], queries: int, seed: Sequence[int | str]) -> Tensor:
        """Add the gradient of this process' part of `batch`, weighted by the batch's share of all `queries`; its part of the loss."""
        processes, across = self._processes, self._settings.cross_device
        parts = [part(batch, rank, processes.world) for rank in range(processes.world)]
        own = parts[processes.rank]
        texts = self.model.queries(own.queries, own.task)
        texts += self.model.passages([passages[docid] for docid in own.passages])

        def loss_of(vectors_ND: Tensor) -> Tensor:
            query_BD, passage_ND = vectors_ND[: len(own.queries)], vectors_ND[len(own.queries) :]
            if across:
                query_BD = processes.gather(query_BD, [len(each.queries) for each in parts])
                passage_ND = processes.gather(passage_ND, [len(each.passages) for each in parts])
                return self._loss(query_BD, passage_ND, batch) * len(batch.queries) / queries
            return self._loss(query_BD, passage_ND, own) * len(own.queries) / queries

        loss = backward(self.model, texts, loss_of, self._arithmetic, seed)
        return loss / processes.world if across else loss  # across processes, each computes the loss of all

    def _loss(self, query_BD: Tensor, passage_ND: Tensor, batch: TaskBatch) -> Tensor:
        if not batch.queries:  # fewer queries than parts
            return (query_BD.sum() + passage_ND.sum()) * 0
        blocked_BN = torch.from_numpy(batch.blocked_BN).to(query_BD.device)
        return contrastive_loss(query_BD, passage_ND, batch.positives, blocked_BN, self._settings.temperature)
