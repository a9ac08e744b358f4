"""TACO: weights task gradients per parameter, by how sensitive each task is to that parameter."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.core.errors import InputError
from taco_ir.weighting import blocks, specific_entropy
from taco_ir.weighting.base import Gradients, StepReport, TaskWeighting, require
from taco_ir.weighting.blocks import Block, Layout, StochasticRounding, TableGradients
from taco_ir.weighting.median import Sensitivities, median

SMALLEST_MEDIAN = 1e-30  # below it, sensitivities in float32 are noise, and dividing by it overflows
SMALLEST_DECAY = 1e-4
LARGEST_ADDEND = 1e28  # most that a sensitivity far above the median adds to U, so that sums stay finite
REPORTED = 4096
SAMPLED = 1 << 17  # entries in which shares are counted: to within .3 %, if half of them are known
BY_SHARE = re.compile(r"share:(0?\.\d+)")
HALVINGS = 60  # of the interval of 2^-30 to 2^30 for tau
HEADROOM = 30.0  # exp(30) = 1e13 leaves room for T terms and large gradients in float32
NEGLIGIBLE = -50.0  # 1 + exp(-50) = 1 even in float64; smaller exponentials are subnormal numbers, which are slow


class Taco(TaskWeighting):
    """Weights the tasks separately for each parameter: a softmax over tasks of a moving average of sensitivities.

    For task k and each parameter theta, with s = |g_k theta|: S_k <- beta S_k + (1 - beta) s / median(s), and
    q = softmax_k(S / tau). The update is sum_k q_k g_k. During burn-in, q is uniform, and S is collected.
    Paper: Zhang, Xiong, Stratos, Overwijk 2023, algorithm 1.
    Differs: S is corrected for its start at 0, as Adam's moments are; the median leaves out entries that are zero
    except for rounding; the weights sum to 1 before and after burn-in. An option for each gives the behaviour of the
    released code. If |g_k theta| is zero everywhere, S_k does not change.

    Memory: T P numbers for S, 2 P floats for a step, and all tasks' used rows of embedding tables until `combine`.
    S is stored as U, with S_k = decay_k U_k and decay_k = beta^(updates), so entries without gradient (rows that a task
    did not use) decay exactly without being visited. decay_k and the count of updates stay in the host's memory, so
    reading them does not wait for an accelerator. The reported weights are means of q over evenly spaced entries,
    without entries that no task was ever sensitive to.

    Tau by share is chosen at the end of burn-in: the largest tau with which this share of the parameters is
    task-specific (the entropy of q is below `specific_entropy`). S is then an average of few steps; its noise makes
    parameters look more specific than they are, so the share falls later, but less after a longer burn-in. Tau is part
    of the state: a resumed training, and a later episode that keeps the state, continue with it.

    Args:
        tau: temperature; below 0, sensitive tasks are discouraged. "share:0.2" chooses tau so that this share of the
            parameters is task-specific, since one number means different things for different backbones.
        discourage: use the softmax of -S / tau.
        beta: decay rate of the moving average S.
        burn_in: fraction of the training with uniform weights.
        bias_correction: divide S_k by 1 - beta^(updates of task k).
        active_only: leave entries that are zero except for rounding out of the median.
        importance: number format of S; "bf16" halves its memory (rounded stochastically), "fp32" is at least float32.
        released_scaling: divide the update by T once more after burn-in.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> weighting = taco_ir.Taco(model.parameters(), tasks=2)
        >>> report = weighting.backward(model(torch.ones(3)).square(), progress=0.5)
    """

    importance: Tensor  # T x P, U above, in the order of the layout
    decay: Tensor
    updates: Tensor
    inverse_tau: Tensor  # negative to discourage
    _values: list[Tensor]
    _running: list[OnlineSoftmax | Tensor]
    _tables: list[TableGradients]

    def __init__(
        self,
        params: Iterable[Parameter],
        tasks: int,
        embeddings: Collection[int] = (),
        *,
        tau: float | str = 2.0,
        discourage: bool = False,
        beta: float = 0.999,
        burn_in: float = 0.1,
        bias_correction: bool = True,
        active_only: bool = True,
        importance: Literal["fp32", "bf16"] = "fp32",
        released_scaling: bool = False,
    ) -> None:
        share = BY_SHARE.fullmatch(tau) if isinstance(tau, str) else None
        usable = share is not None or (not isinstance(tau, str) and tau != 0 and not math.isnan(tau))
        require("tau", tau, usable, "a number other than 0, or share:S with S between 0 and 1, such as share:0.2")
        require("beta", beta, 0 <= beta < 1, "0 <= beta < 1")
        require("burn_in", burn_in, 0 <= burn_in <= 1, "a share from 0 to 1")
        require("importance", importance, importance in ("fp32", "bf16"), "'fp32' or 'bf16'")
        super().__init__(params, tasks, embeddings)
        self.share = float(share[1]) if share else None
        self._sign = -1 if discourage else 1
        if self.share is not None:
            require("burn_in", burn_in, burn_in > 0, "a share of the training above 0, since tau is given by share")
            self.register_buffer("inverse_tau", torch.zeros(1, dtype=torch.float64))  # 0: not chosen yet
        else:
            self.inverse_tau = torch.tensor([self._sign / float(tau)], dtype=torch.float64)
        self.beta = beta
        self.burn_in = burn_in
        self.bias_correction = bias_correction
        self.active_only = active_only
        self.released_scaling = released_scaling
        self.layout = layout = Layout(self.params, self.embeddings)
        stored = torch.bfloat16 if importance == "bf16" else layout.dtype
        self._round = StochasticRounding(layout.chunk, layout.device) if importance == "bf16" else None
        self.register_buffer("importance", torch.zeros(tasks, layout.size, dtype=stored, device=layout.device))
        self.register_buffer("decay", torch.ones(tasks, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros(tasks, dtype=torch.int64))
        self._scratch = torch.empty(layout.chunk, dtype=layout.dtype, device=layout.device)
        self._forget()

    @classmethod
    def extra_bytes(cls, parameters: int, tasks: int, /, **options: Any) -> int:
        return parameters * (tasks * (2 if options.get("importance") == "bf16" else 4) + 8)

    @property
    def adaptive(self) -> bool:
        """True if burn-in is over and tau is known."""
        return self.progress >= self.burn_in and bool(self.inverse_tau.numpy()[0])

    def begin(self, progress: float) -> None:
        super().begin(progress)
        if progress >= self.burn_in and not self.adaptive:
            self._choose_tau()

    def task_weights(self, position: int) -> Tensor:
        """Returns the current q of the parameter at `position`, shaped [T, *shape of the parameter]."""
        for block in (*self.layout.blocks, *self.layout.tables):
            if position in block.positions:
                number = block.positions.index(position)
                start = block.start + sum(block.sizes[:number])
                logits = self.importance[:, start : start + block.sizes[number]].to(self.layout.dtype) * self._scales()
                return torch.softmax(logits, 0).view(self.tasks, *self.layout.shapes[position])
        raise IndexError(f"no parameter at position {position}")

    def specific_share(self) -> float | None:
        """Returns the share of task-specific parameters among all parameters that any task was sensitive to.

        None during burn-in, and with one task. Counted in a sample of at most `SAMPLED` entries.
        """
        known_TN = self._sample()
        if not self.adaptive or self.tasks == 1 or not known_TN.shape[1]:
            return None
        return round(self._count_specific(known_TN, float(self.inverse_tau.numpy()[0])) / known_TN.shape[1], 6)

    def _sample(self) -> Tensor:
        """Returns U [T, N] of a fixed sample of entries, without entries that no task was ever sensitive to."""
        sample_TN = self.importance
        if self.layout.size > SAMPLED:
            drawn = torch.randint(self.layout.size, (SAMPLED,), generator=torch.Generator().manual_seed(SAMPLED))
            sample_TN = sample_TN.index_select(1, drawn.to(sample_TN.device))
        return sample_TN[:, (sample_TN > 0).any(0)].double()

    def _count_specific(self, sample_TN: Tensor, inverse_tau: float) -> int:
        """Returns how many entries of a sample are task-specific at a temperature."""
        scales_T1 = torch.from_numpy(self._scales_T(inverse_tau)).to(sample_TN.device)[:, None]
        entropy_N = torch.special.entr(torch.softmax(sample_TN * scales_T1, 0)).sum(0)
        return int((entropy_N < specific_entropy(self.tasks)).sum())

    def _choose_tau(self) -> None:
        """Choose the largest tau with which the share is reached; if no sensitivity is known yet, choose nothing.

        The entropy of a softmax falls with its temperature, so bisection finds tau.
        """
        sample_TN = self._sample()
        if self.share is None or not sample_TN.shape[1]:
            return
        low, high = -HALVINGS / 2.0, HALVINGS / 2.0  # of log2(1 / tau)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            enough = self._count_specific(sample_TN, self._sign * 2**middle) >= self.share * sample_TN.shape[1]
            low, high = (low, middle) if enough else (middle, high)
        self.inverse_tau.fill_(self._sign * 2**high)

    def _fold(self, task: int, gradients: Gradients) -> None:
        grads = [self.layout.gather(block, gradients) for block in self.layout.blocks]
        if not self._values:
            detached = [param.detach() for param in self._params]
            self._values = [self.layout.gather(block, detached) for block in self.layout.blocks]
        pairs = list(zip(grads, self._values, strict=True))
        touched = []
        for table in self._tables:
            if (kept := table.add(task, gradients)) is not None:
                values = self._params[table.position].detach().index_select(0, kept.rows).to(self.layout.dtype)
                touched.append((table.block, kept.rows, kept.values, values))
                pairs.append((kept.values.flatten(), values.flatten()))
        untouched = self.layout.size - sum(len(grad) for grad, _ in pairs)
        middle = median(Sensitivities(pairs, self.layout.chunk, untouched), self.active_only)
        if math.isnan(middle):
            raise FloatingPointError(f"the gradient of task {task} is not finite")
        if middle == 0 and not self.active_only:
            raise InputError(
                "task weighting option active_only: it is False, but must be True, because the median sensitivity "
                f"of task {task} is 0"
            )
        rate = self._count_update(task, middle)
        for block, rows, grads_RD, values_RD in touched if rate else ():
            self._add_rows(task, block, rows, (grads_RD * values_RD).abs_().mul_(rate).clamp_(max=LARGEST_ADDEND))
        scale = float(self._scales_T()[task])
        for number, (grad, values) in enumerate(pairs[: len(grads)]):
            self._fold_block(task, number, grad, values, rate, scale)

    def _count_update(self, task: int, middle: float) -> float:
        """Count an update of U and return the factor for its sensitivities; if the median is 0, only return 0."""
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

    def _scales_T(self, inverse_tau: float | None = None) -> npt.NDArray[np.float64]:
        """Returns the factor for each task's U that gives the logits, for the chosen tau or another one."""
        chosen = float(self.inverse_tau.numpy()[0]) if inverse_tau is None else inverse_tau
        updates_T, decay_T = self.updates.numpy(), self.decay.numpy()
        corrections_T = 1 - self.beta**updates_T if self.bias_correction else np.ones_like(decay_T)
        scales_T: npt.NDArray[np.float64] = decay_T * chosen / np.where(updates_T > 0, corrections_T, np.inf)
        return scales_T

    def _scales(self) -> Tensor:
        """Returns `_scales_T` on the device of U, T x 1."""
        return torch.from_numpy(self._scales_T()).to(self.layout.device, self.layout.dtype)[:, None]

    def _add_rows(self, task: int, block: Block, rows: Tensor, addends_RD: Tensor) -> None:
        """Add to rows of a table's U."""
        table_VD = self._table(task, block)
        moved_RD = addends_RD.add_(table_VD.index_select(0, rows))
        if self._round:
            moved_RD = moved_RD.float()
            flat = moved_RD.view(-1)
            for span in self.layout.spans(len(flat)):
                self._round(flat[span], self._turn(task, block.start + span.start))
        table_VD.index_copy_(0, rows, moved_RD.to(table_VD.dtype))

    def _table(self, task: int, block: Block) -> Tensor:
        """Returns a task's U for an embedding table, V x D."""
        flat = self.importance[task, block.start : block.start + block.size]
        return flat.view(self.layout.shapes[block.positions[0]])

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
            stored = self.importance[task, block.start + span.start : block.start + span.stop]
            current = stored if self._round is None else stored.float()
            if rate:
                current.add_(sensitivity.clamp_(max=min(LARGEST_ADDEND / rate, LARGEST_ADDEND)), alpha=rate)
                if self._round is not None:
                    stored.copy_(self._round(current, self._turn(task, block.start + span.start)))
            current = current.to(self.layout.dtype)
            if isinstance(running, OnlineSoftmax):
                if first:
                    running.start(span, current, scale)
                else:
                    running.fold(span, current, scale, grad[span], sensitivity)
            elif first:
                running[span].mul_(uniform)
            else:
                running[span].add_(grad[span], alpha=uniform)

    def _update(self) -> tuple[Gradients, StepReport]:
        factor = 1 / self.tasks if self.released_scaling and self.adaptive else 1.0
        vectors = [
            running.mean(self.layout.spans(len(running.weighted))) if isinstance(running, OnlineSoftmax) else running
            for running in self._running
        ]
        tables = [table.filled(self._table_means(table)) for table in self._tables]
        for dense in (*vectors, *tables) if factor != 1 else ():
            dense.mul_(factor)
        return self.layout.scatter(vectors, tables), self._report()

    def _table_means(self, table: TableGradients) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield row numbers [R] of an embedding table that any task used, and their update [R, D]."""
        scales = self._scales_T().tolist()
        for rows, grads_TRD in table.chunks():
            if not self.adaptive:
                yield rows, grads_TRD.mean(0)
                continue
            grads_TN = grads_TRD.flatten(1)
            running = OnlineSoftmax(grads_TN[0])
            everything = slice(0, grads_TN.shape[1])
            for task, scale in enumerate(scales):
                moving_N = self._table(task, table.block).index_select(0, rows).to(self.layout.dtype).flatten()
                if task == 0:
                    running.start(everything, moving_N, scale)
                else:
                    running.fold(everything, moving_N, scale, grads_TN[task], torch.empty_like(moving_N))
            yield rows, running.mean([everything]).view(len(rows), -1)

    def _report(self) -> StepReport:
        even = StepReport((1 / self.tasks,) * self.tasks, {"weight_entropy": math.log(self.tasks)})
        if not self.adaptive:
            return even
        size = self.layout.dense or self.layout.size
        sample_TN = self.importance[:, : size : max(1, size // REPORTED)].double()
        known_N = (sample_TN > 0).any(0).double()
        q_TN = torch.softmax(sample_TN * self._scales().double(), 0)
        sums = [(q_TN * known_N).sum(1), (torch.special.entr(q_TN).sum(0) * known_N).sum()[None], known_N.sum()[None]]
        *weights, entropy, known = torch.cat(sums).tolist()
        if not known:
            return even
        details = {"weight_entropy": entropy / known}
        if self.share is not None:
            details["tau"] = self._sign / float(self.inverse_tau.numpy()[0])
        return StepReport(tuple(weight / known for weight in weights), details)

    def _forget(self) -> None:
        self._values = []
        self._running = []
        self._tables = self.layout.table_gradients(self.tasks)


class OnlineSoftmax:
    """Computes sum_k softmax_k(x) g_k for n entries, one task k after the other. Memory: 3 n floats.

    The running maximum of online softmax is updated lazily: an entry's reference is the first task's logit, and changes
    only if a later logit exceeds it by more than `HEADROOM`, which is rare. The result is the same up to rounding.
    The first task's gradient is overwritten by the weighted sum.
    """

    def __init__(self, first_grad: Tensor) -> None:
        self.weighted = first_grad
        self._reference = torch.empty_like(first_grad)  # minus the logit that counts as exp(0)
        self._total = torch.ones_like(first_grad)

    def start(self, span: slice, importance: Tensor, scale: float) -> None:
        """Set the first task's logits, `scale * importance`, in the entries `span`."""
        torch.mul(importance, -scale, out=self._reference[span])

    def fold(self, span: slice, importance: Tensor, scale: float, grad: Tensor, scratch: Tensor) -> None:
        """Add a later task's logits and gradient in the entries `span`; `scratch` is memory that may be overwritten."""
        reference, total, weighted = self._reference[span], self._total[span], self.weighted[span]
        logits = torch.add(reference, importance, alpha=scale, out=scratch)
        if not blocks.read_at_once(logits.device):
            excess = torch.where(logits > HEADROOM, logits, 0)
            shrink = torch.exp(-excess)
            total.mul_(shrink)
            weighted.mul_(shrink)
            reference.sub_(excess)
            logits.sub_(excess)
        elif float(logits.max()) > HEADROOM:  # numpy finds the places several times faster than torch
            above = torch.from_numpy(np.flatnonzero(logits.numpy() > logits.numpy().dtype.type(HEADROOM)))
            excess = logits[above]
            shrink = torch.exp(-excess)
            total[above] *= shrink
            weighted[above] *= shrink
            reference[above] -= excess
            logits[above] = 0
        share = logits.clamp_(min=NEGLIGIBLE).exp_()
        total.add_(share)
        weighted.addcmul_(share, grad)

    def mean(self, spans: Iterable[slice]) -> Tensor:
        """Returns the weighted mean, which replaces the weighted sum."""
        for span in spans:
            self.weighted[span].div_(self._total[span])
        return self.weighted
