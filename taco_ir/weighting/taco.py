"""TACO: weights task gradients per parameter, by how sensitive each task is to that parameter."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.core.files import InputError
from taco_ir.weighting.base import Gradients, StepReport, TaskWeighting, require
from taco_ir.weighting.blocks import Block, Layout
from taco_ir.weighting.median import Sensitivities, median
from taco_ir.weighting.rounding import StochasticRounding
from taco_ir.weighting.rows import TableGradients
from taco_ir.weighting.softmax import OnlineSoftmax

SMALLEST_MEDIAN = 1e-30  # below it, sensitivities in float32 are noise, and dividing by it overflows
SMALLEST_DECAY = 1e-4
LARGEST_ADDEND = (
    1e28  # to U, of a sensitivity that is so far above the median: sums of them stay finite in float32 and bfloat16
)
REPORTED = 4096


class Taco(TaskWeighting):
    """Task weights per parameter: the softmax over tasks of a moving average of sensitivities.

    Of task k, per parameter: s = |g_k theta|; S_k <- beta S_k + (1 - beta) s / median(s); q = softmax_k(S / tau); the
    update is sum_k q_k g_k. Until `burn_in` of the training the weights are uniform, while S gathers.
    Paper: Zhang, Xiong, Stratos, Overwijk 2023, algorithm 1.
    Differs: S is corrected for its start at 0 as Adam's moments are; the median is over entries that are not zero but for rounding; the
    weights sum to 1 before and after burn-in. Each has an option that gives the released code's behaviour. A task
    whose gradient times parameters is zero everywhere leaves its S as it was.

    Memory: T P numbers of S, 2 P floats for a step; of embedding tables, the touched rows of every task until `combine`.
    decay_k and the count of updates stay in the host's memory, so that reading them waits for no accelerator.
    S is held as U with S_k = decay_k U_k, decay_k = beta^(updates), so that entries without gradient (the rows that a
    task did not touch) decay exactly without being visited.
    The weights reported are means of q over evenly spaced entries that any task was ever sensitive to.

    Args:
        tau: temperature; below 0, sensitive tasks are discouraged.
        discourage: the softmax of -S / tau.
        beta: share of S kept by an update.
        burn_in: share of the training with uniform weights.
        bias_correction: divide S_k by 1 - beta^(updates of task k).
        active_only: leave what is zero, but for rounding, out of the median.
        importance: number format of S; "bf16" halves its memory (rounded stochastically), "fp32" is at least float32.
        released_scaling: divide the update by T once more after burn-in.
    """

    importance: Tensor  # T x P, U above, in the order of the layout
    decay: Tensor
    updates: Tensor
    _values: list[Tensor]
    _running: list[OnlineSoftmax | Tensor]
    _tables: list[TableGradients]

    def __init__(
        self,
        params: Sequence[Parameter],
        tasks: int,
        embeddings: Collection[int] = (),
        *,
        tau: float = 2.0,
        discourage: bool = False,
        beta: float = 0.999,
        burn_in: float = 0.1,
        bias_correction: bool = True,
        active_only: bool = True,
        importance: Literal["fp32", "bf16"] = "fp32",
        released_scaling: bool = False,
    ) -> None:
        require("tau", tau, tau != 0 and not math.isnan(tau), "a number other than 0")
        require("beta", beta, 0 <= beta < 1, "0 <= beta < 1")
        require("burn_in", burn_in, 0 <= burn_in <= 1, "a share from 0 to 1")
        require("importance", importance, importance in ("fp32", "bf16"), "'fp32' or 'bf16'")
        super().__init__(params, tasks, embeddings)
        self.inverse_tau = (-1 if discourage else 1) / tau
        self.beta = beta
        self.burn_in = burn_in
        self.bias_correction = bias_correction
        self.active_only = active_only
        self.released_scaling = released_scaling
        self.layout = layout = Layout(params, self.embeddings)
        stored = torch.bfloat16 if importance == "bf16" else layout.dtype
        self._round = StochasticRounding(layout.chunk, layout.device) if importance == "bf16" else None
        self.register_buffer("importance", torch.zeros(tasks, layout.size, dtype=stored, device=layout.device))
        self.register_buffer("decay", torch.ones(tasks, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros(tasks, dtype=torch.int64))
        self._scratch = torch.empty(layout.chunk, dtype=layout.dtype, device=layout.device)
        self._forget()

    @classmethod
    def extra_bytes(cls, parameters: int, tasks: int, **options: Any) -> int:
        return parameters * (tasks * (2 if options.get("importance") == "bf16" else 4) + 8)

    @property
    def adaptive(self) -> bool:
        """Whether burn-in is over."""
        return self.progress >= self.burn_in

    def task_weights(self, position: int) -> Tensor:
        """q as it stands for the parameter at `position`, T x its shape, whether or not burn-in is over."""
        for block in (*self.layout.blocks, *self.layout.tables):
            if position in block.positions:
                number = block.positions.index(position)
                start = block.start + sum(block.sizes[:number])
                logits = self.importance[:, start : start + block.sizes[number]].to(self.layout.dtype) * self._scales()
                return torch.softmax(logits, 0).view(self.tasks, *self.layout.shapes[position])
        raise IndexError(f"no parameter at position {position}")

    def _fold(self, task: int, gradients: Gradients) -> None:
        grads = [self.layout.gather(block, gradients) for block in self.layout.blocks]
        if not self._values:
            detached = [param.detach() for param in self._params]
            self._values = [self.layout.gather(block, detached) for block in self.layout.blocks]
        pairs = list(zip(grads, self._values, strict=True))
        touched = []
        for block, table in zip(self.layout.tables, self._tables, strict=True):
            kept = table.add(task, gradients[block.positions[0]])
            if kept is not None:
                values = self._params[block.positions[0]].detach().index_select(0, kept.rows).to(self.layout.dtype)
                touched.append((block, kept.rows, kept.values, values))
                pairs.append((kept.values.flatten(), values.flatten()))
        rate = self._count_update(task, self._median(task, pairs))
        for block, rows, row_grads, values in touched:
            if rate:
                self._add_rows(task, block, rows, (row_grads * values).abs_().mul_(rate).clamp_(max=LARGEST_ADDEND))
        scale = float(self._scales_T()[task])
        for number, (grad, values) in enumerate(pairs[: len(grads)]):
            self._fold_block(task, number, grad, values, rate, scale)

    def _median(self, task: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
        untouched = self.layout.size - sum(len(grad) for grad, _ in pairs)
        middle = median(Sensitivities(pairs, self.layout.chunk, untouched), self.active_only)
        if math.isnan(middle):
            raise FloatingPointError(f"the gradient of task {task} is not finite")
        if middle == 0 and not self.active_only:
            raise InputError(
                f"task weighting option active_only: False; the median sensitivity of task {task} is 0, as more than half of its "
                "gradient is; True is allowed here"
            )
        return middle

    def _count_update(self, task: int, middle: float) -> float:
        """Count an update of U and return the factor for its sensitivities: 0, and no update, if there is no median."""
        if middle < SMALLEST_MEDIAN:
            return 0.0
        decays = self.decay.numpy()
        decay = float(decays[task]) * self.beta
        if decay < SMALLEST_DECAY:
            self.importance[task].mul_(decay)
            decay = 1.0
        decays[task] = decay
        self.updates.numpy()[task] += 1
        return (1 - self.beta) / (middle * decay)

    def _scales_T(self) -> npt.NDArray[np.float64]:
        """What U is multiplied by to give the logits, for each task."""
        updates_T, decay_T = self.updates.numpy(), self.decay.numpy()
        corrections_T = 1 - self.beta**updates_T if self.bias_correction else np.ones_like(decay_T)
        scales_T: npt.NDArray[np.float64] = decay_T * self.inverse_tau / np.where(updates_T > 0, corrections_T, np.inf)
        return scales_T

    def _scales(self) -> Tensor:
        """As `_scales_T`, where U is, T x 1."""
        return torch.from_numpy(self._scales_T()).to(self.layout.device, self.layout.dtype)[:, None]

    def _add_rows(self, task: int, block: Block, rows: Tensor, addends: Tensor) -> None:
        """Add n x D numbers to rows of a table's U."""
        table_VD = self._table(task, block)
        moved = addends.add_(table_VD.index_select(0, rows))
        if self._round:
            moved = moved.float()
            flat = moved.view(-1)
            for span in self.layout.spans(len(flat)):
                self._round(flat[span], self._turn(task, block.start + span.start))
        table_VD.index_copy_(0, rows, moved.to(table_VD.dtype))

    def _table(self, task: int, block: Block) -> Tensor:
        """U of task `task` on a table, V x D."""
        return self.importance[task, block.start : block.start + block.size].view(
            self.layout.shapes[block.positions[0]]
        )

    def _turn(self, task: int, place: int) -> int:
        return int(self.updates.numpy()[task]) * self.tasks + task + place

    def _fold_block(self, task: int, number: int, grad: Tensor, values: Tensor, rate: float, scale: float) -> None:
        """Update U of one dense block, and fold the task's gradient into the running mean, chunk by chunk."""
        block = self.layout.blocks[number]
        uniform = 1 / self.tasks
        first = not self._losses
        if first:
            self._running.append(OnlineSoftmax(grad) if self.adaptive else grad)
        running = self._running[number]
        for span in self.layout.spans(block.size):
            sensitivity = torch.mul(grad[span], values[span], out=self._scratch[: span.stop - span.start]).abs_()
            if rate:
                sensitivity.clamp_(max=min(LARGEST_ADDEND / rate, LARGEST_ADDEND))
            stored = self.importance[task, block.start + span.start : block.start + span.stop]
            current = self._move(stored, sensitivity, rate, self._turn(task, block.start + span.start))
            if isinstance(running, OnlineSoftmax):
                if first:
                    running.start(span, current, scale)
                else:
                    running.fold(span, current, scale, grad[span], sensitivity)
            elif first:
                running[span].mul_(uniform)
            else:
                running[span].add_(grad[span], alpha=uniform)

    def _move(self, stored: Tensor, sensitivity: Tensor, rate: float, turn: int) -> Tensor:
        """U <- U + rate * s on one chunk; the new U in the layout's dtype."""
        if self._round is None:
            return stored.add_(sensitivity, alpha=rate) if rate else stored
        current = stored.float()
        if rate:
            self._round(current.add_(sensitivity, alpha=rate), turn)
            stored.copy_(current)
        return current.to(self.layout.dtype)

    def _update(self) -> tuple[Gradients, StepReport]:
        factor = 1 / self.tasks if self.released_scaling and self.adaptive else 1.0
        update: Gradients = [None] * len(self.layout.shapes)
        for block, running in zip(self.layout.blocks, self._running, strict=True):
            vector = running.mean(self.layout.spans(block.size)) if isinstance(running, OnlineSoftmax) else running
            for position, part in self.layout.scatter(block, vector):
                update[position] = part if factor == 1 else part.mul_(factor)
        for block, table in zip(self.layout.tables, self._tables, strict=True):
            dense_VD = table.dense()
            for rows, mean_RD in self._table_means(block, table):
                dense_VD.index_copy_(0, rows, mean_RD.mul_(factor))
            update[block.positions[0]] = dense_VD
        return update, self._report()

    def _table_means(self, block: Block, table: TableGradients) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of an embedding table that any task touched, with their update, R x D."""
        scales = self._scales_T().tolist()
        for rows, grads_TRD in table.chunks(self.layout.chunk):
            if not self.adaptive:
                yield rows, grads_TRD.mean(0)
                continue
            grads_TN = grads_TRD.flatten(1)
            running = OnlineSoftmax(grads_TN[0])
            everything = slice(0, grads_TN.shape[1])
            for task, scale in enumerate(scales):
                moving_N = self._table(task, block).index_select(0, rows).to(self.layout.dtype).flatten()
                if task == 0:
                    running.start(everything, moving_N, scale)
                else:
                    running.fold(everything, moving_N, scale, grads_TN[task], torch.empty_like(moving_N))
            yield rows, running.mean([everything]).view(len(rows), -1)

    def _report(self) -> StepReport:
        uniform = (1 / self.tasks,) * self.tasks
        if not self.adaptive:
            return StepReport(uniform, {"weight_entropy": math.log(self.tasks)})
        size = self.layout.dense or self.layout.size
        sample_TN = self.importance[:, : size : max(1, size // REPORTED)].double()
        known_N = (sample_TN > 0).any(0).double()
        q_TN = torch.softmax(sample_TN * self._scales().double(), 0)
        sums = torch.cat(
            [(q_TN * known_N).sum(1), (torch.special.entr(q_TN).sum(0) * known_N).sum()[None], known_N.sum()[None]]
        )
        *weights, entropy, known = sums.tolist()
        if not known:
            return StepReport(uniform, {"weight_entropy": math.log(self.tasks)})
        return StepReport(tuple(weight / known for weight in weights), {"weight_entropy": entropy / known})

    def _forget(self) -> None:
        layout = self.layout
        self._values = []
        self._running = []
        self._tables = [
            TableGradients(layout.shapes[table.positions[0]], self.tasks, layout.dtype, layout.device)
            for table in layout.tables
        ]
