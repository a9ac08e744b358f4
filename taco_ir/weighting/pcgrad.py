"""PCGrad: when two task gradients conflict, each is projected to remove the component that opposes the other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.weighting.accumulation import GramianWeighting
from taco_ir.weighting.base import Gradients, StepReport, require

SEED_STRIDE = 1_000_003


class PCGrad(GramianWeighting):
    """Projects each gradient onto the normal planes of the gradients that it conflicts with, and takes the mean.

    Paper: Yu, Kumar, Gupta, Levine, Hausman, Finn 2020, algorithm 1.
    Differs: the sum of the projected gradients is divided by T. The projections are computed on T x T coefficients
    through the Gramian, and the gradients are combined once, at the end. The reported weights are the weights of this
    combination; their sum is more than 1 if tasks conflict. Memory: T P floats, for the gradients of a step.

    Args:
        seed: random seed of the order of the projections. The order of a step depends only on the seed and the number
            of all steps before it, so it is the same in every process and in a resumed training.
    """

    steps: Tensor

    def __init__(
        self, params: Iterable[Parameter], tasks: int, embeddings: Collection[int] = (), *, seed: int = 0
    ) -> None:
        require("seed", seed, 0 <= seed < 1 << 31, "an integer from 0 to 2147483647")
        super().__init__(params, tasks, embeddings)
        self.seed = seed
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def skip_steps(self, steps: int) -> None:
        self.steps.fill_(steps)

    def _update(self) -> tuple[Gradients, StepReport]:
        gramian = self._gramian().tolist()
        generator = torch.Generator().manual_seed(self.seed * SEED_STRIDE + int(self.steps))
        self.steps += 1
        orders = [torch.randperm(self.tasks, generator=generator).tolist() for _ in range(self.tasks)]
        coefficients, conflicts = project(gramian, orders)
        weights = tuple(sum(row[task] for row in coefficients) / self.tasks for task in range(self.tasks))
        pairs = max(1, self.tasks * (self.tasks - 1))
        return self._combination(weights), StepReport(weights, {"conflicts": conflicts / pairs})


def project(gramian: Sequence[Sequence[float]], orders: Sequence[Sequence[int]]) -> tuple[list[list[float]], int]:
    """Project gradients: row i of the T x T result combines them to task i's. Also returns the number of projections.

    Args:
        gramian: inner products of the gradients, T x T.
        orders: for each task, the order in which its gradient is compared with the others.
    """
    tasks = range(len(gramian))
    coefficients = [[float(i == k) for k in tasks] for i in tasks]
    conflicts = 0
    for i in tasks:
        for j in orders[i]:
            product = sum(coefficients[i][k] * gramian[k][j] for k in tasks)
            if j != i and product < 0 < gramian[j][j]:
                coefficients[i][j] -= product / gramian[j][j]
                conflicts += 1
    return coefficients, conflicts
