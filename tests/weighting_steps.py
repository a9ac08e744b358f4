"""Shared by tests of task weightings: random gradients, a step, and TACO's T x P formula written out from the paper."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.weighting import WEIGHTINGS, blocks
from taco_ir.weighting.base import StepReport, TaskWeighting

# a table, a block of several chunks (see `small_blocks`), two packed parameters, a table
SHAPES = [(40, 8), (60, 40), (7,), (900,), (30, 4)]
TABLES = (0, 4)
OWN = [name for name in WEIGHTINGS if not name.startswith("jd:")]
TORCHJD = find_spec("torchjd") is not None
# what is trained with: TorchJD's differ in what they make of a Gramian alone
TRAINED = [*OWN, *(["jd:aligned"] if TORCHJD else [])]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in models of a hundred times the size: blocks of one parameter and of several, with several chunks each."""
    monkeypatch.setattr(blocks, "PACKED_BELOW", 2000)
    monkeypatch.setattr(blocks, "CHUNK_BYTES", {"cpu": 4096})


def parameters(
    shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [Parameter(torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)) for shape in shapes]


def vector(dtype: torch.dtype = torch.float64, size: int = 3) -> list[Parameter]:
    """One parameter, for gradients written by hand."""
    return [Parameter(torch.ones(size, dtype=dtype))]


def split(flat: Tensor, params: Sequence[Parameter]) -> list[Tensor]:
    parts = flat.split([param.numel() for param in params])
    return [part.view(param.shape) for part, param in zip(parts, params, strict=True)]


def flat(tensors: Sequence[Tensor | None], params: Sequence[Parameter]) -> Tensor:
    filled = [
        torch.zeros_like(param) if tensor is None else tensor for tensor, param in zip(tensors, params, strict=True)
    ]
    return torch.cat([tensor.detach().flatten() for tensor in filled])


def step(
    weighting: TaskWeighting,
    params: Sequence[Parameter],
    grads_TP: Tensor | Sequence[Sequence[Tensor | None]],
    progress: float = 1.0,
    losses: Sequence[float] | None = None,
    order: Sequence[int] | None = None,
) -> tuple[Tensor, StepReport]:
    """One step: the update as one vector, and the report. Rows of `grads_TP` are flat gradients, or lists of them."""
    weighting.begin(progress)
    for task in order or range(len(grads_TP)):
        row = grads_TP[task]
        for param, grad in zip(params, split(row, params) if isinstance(row, Tensor) else row, strict=True):
            param.grad = None if grad is None else grad.to(param.dtype).clone()
        weighting.add(task, torch.tensor(losses[task] if losses else 1.0), params)
    report = weighting.combine(params)
    return flat([param.grad for param in params], params), report


def random_gradients(
    params: Sequence[Parameter], tasks: int, seed: int, spread: float = 1.0
) -> list[list[Tensor | None]]:
    """Gradients over several orders of magnitude, mostly zero rows in tables, and a parameter that some tasks lack."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[Tensor | None]] = []
    for task in range(tasks):
        row: list[Tensor | None] = []
        for position, param in enumerate(params):
            size = torch.randn(param.shape, dtype=torch.float64, generator=generator)
            grad = size * 10 ** (spread * torch.randn(param.shape, dtype=torch.float64, generator=generator))
            if position in TABLES:
                grad = grad * (torch.rand(len(param), 1, generator=generator) < 0.2)
            row.append(None if position == 2 and (task + seed) % 3 == 0 else grad)
        rows.append(row)
    return rows


class Oracle:
    """TACO's update rule as the paper gives it, on T x P matrices in float64."""

    def __init__(
        self, tasks: int, size: int, tau: float = 2.0, beta: float = 0.999, bias_correction: bool = True
    ) -> None:
        self.moving_TP = torch.zeros(tasks, size, dtype=torch.float64)
        self.updates = [0] * tasks
        self.tau, self.beta, self.bias_correction = tau, beta, bias_correction

    def see(self, task: int, grad_P: Tensor, theta_P: Tensor) -> None:
        sensitivity_P = (grad_P.double() * theta_P.double()).abs()
        noise = torch.finfo(grad_P.dtype).eps * sensitivity_P[sensitivity_P > 0].mean()  # NaN: no entry is above it
        active = sensitivity_P[sensitivity_P > noise].sort().values
        if len(active):
            normal_P = sensitivity_P / active[(len(active) - 1) // 2]
            self.moving_TP[task] = self.beta * self.moving_TP[task] + (1 - self.beta) * normal_P
            self.updates[task] += 1

    def weights(self) -> Tensor:
        corrected = [
            row / (1 - self.beta**count) if self.bias_correction and count else row
            for row, count in zip(self.moving_TP, self.updates, strict=True)
        ]
        return torch.softmax(torch.stack(corrected) / self.tau, dim=0)

    def step(self, grads_TP: Tensor, theta_P: Tensor, adaptive: bool) -> Tensor:
        for task, grad_P in enumerate(grads_TP):
            self.see(task, grad_P, theta_P)
        return (self.weights() * grads_TP.double()).sum(0) if adaptive else grads_TP.double().mean(0)
