"""Methods of TorchJD, a library for Jacobian descent. They find weights from inner products of the tasks' gradients.

Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024 (arXiv 2406.16232). Install the library
separately.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.core.errors import InputError
from taco_ir.weighting.accumulation import GramianWeighting
from taco_ir.weighting.base import Gradients, StepReport, require


class JacobianDescent(GramianWeighting):
    """Base class of weightings that pass the T x T Gramian of a step to an aggregator of TorchJD and use its weights.

    The update equals the aggregator's result for the T x P matrix of gradients; weights need not sum to 1. A step is
    skipped if the aggregator finds no weights. Memory: T P floats, for the gradients of a step.

    Attributes:
        aggregator: the aggregator's class in `torchjd.aggregation`.
    """

    aggregator: ClassVar[str]
    weigher: Any  # finds the aggregator's weights

    def __init__(
        self, params: Iterable[Parameter], tasks: int, embeddings: Collection[int] = (), **options: Any
    ) -> None:
        super().__init__(params, tasks, embeddings)
        try:
            from torchjd import aggregation

            made = getattr(aggregation, self.aggregator)(**options)
        except ImportError as error:
            raise InputError(
                f"{self.aggregator} needs TorchJD and its dependencies; install them with `pip install 'torchjd[full]'`"
            ) from error
        self.weigher = getattr(made, "gramian_weighting", made.weighting)

    def _update(self) -> tuple[Gradients, StepReport]:
        gramian_TT = self._gramian()
        if not bool(torch.isfinite(gramian_TT).all()):
            raise FloatingPointError("the gradient of a task is not finite")
        try:
            weights_T = self._weigh(gramian_TT)
        except Exception as error:  # solvers raise various errors
            raise FloatingPointError(f"{self.aggregator} found no weights: {error}") from error
        weights = tuple(weights_T.tolist())
        return self._combination(weights), StepReport(weights, {"weight_sum": sum(weights)})

    def _weigh(self, gramian_TT: Tensor) -> Tensor:
        weights_T: Tensor = self.weigher(gramian_TT)
        return weights_T


class UPGrad(JacobianDescent):
    """Projects each gradient onto the dual cone of all gradients, and takes the mean: to first order, no loss rises.

    Quinton and Rey 2024. If the squares of all gradients sum to less than 1e-4, TorchJD assumes no conflict.
    """

    aggregator = "UPGrad"


class DualProj(JacobianDescent):
    """Projects the mean gradient onto the dual cone of all gradients: Lopez-Paz and Ranzato 2017, equation 11."""

    aggregator = "DualProj"


class MGDA(JacobianDescent):
    """Takes the shortest vector in the gradients' convex hull: Désidéri 2012, solved as in Sener and Koltun 2018."""

    aggregator = "MGDA"


class IMTLG(JacobianDescent):
    """Takes the direction with equal projections onto all gradients: Liu et al. 2021, Impartial Multi-Task Learning."""

    aggregator = "IMTLG"


class AlignedMTL(JacobianDescent):
    """Rotates and scales the gradients to be orthogonal and equally long: Senushkin et al. 2023, algorithm 1."""

    aggregator = "AlignedMTL"


class CAGrad(JacobianDescent):
    """Takes the direction near the mean gradient with the largest gain of the worst task: Liu et al. 2021, algorithm 1.

    Args:
        c: maximum distance from the mean, relative to the mean's length; the paper uses 0.4.
    """

    aggregator = "CAGrad"

    def __init__(
        self, params: Iterable[Parameter], tasks: int, embeddings: Collection[int] = (), *, c: float = 0.4
    ) -> None:
        require("c", c, 0 <= c < float("inf"), "a finite number that is not negative")
        super().__init__(params, tasks, embeddings, c=c)


class FairGrad(JacobianDescent):
    """Weights tasks so that their shares of the loss decrease are alpha-fair: Ban and Ji 2024, equation 4.

    Args:
        alpha: 0 gives the mean of the gradients, 1 proportional fairness; larger values approach max-min fairness.
    """

    aggregator = "FairGrad"

    def __init__(
        self, params: Iterable[Parameter], tasks: int, embeddings: Collection[int] = (), *, alpha: float = 1.0
    ) -> None:
        require("alpha", alpha, 0 <= alpha < float("inf"), "a finite number that is not negative")
        super().__init__(params, tasks, embeddings, alpha=alpha)


class NashMTL(JacobianDescent):
    """Weights tasks by Nash bargaining: Navon et al. 2022, algorithm 1. Each step starts from the last weights.

    Args:
        max_norm: scale longer updates down to this length; 0: no limit.
    """

    aggregator = "NashMTL"
    last_weights: Tensor

    def __init__(
        self, params: Iterable[Parameter], tasks: int, embeddings: Collection[int] = (), *, max_norm: float = 1.0
    ) -> None:
        require("max_norm", max_norm, 0 <= max_norm < float("inf"), "a finite number that is not negative")
        super().__init__(params, tasks, embeddings, n_tasks=tasks, max_norm=max_norm)
        self.register_buffer("last_weights", torch.ones(tasks, dtype=torch.float64))

    def _weigh(self, gramian_TT: Tensor) -> Tensor:
        """Nash-MTL needs gradients: any root of the Gramian has the same inner products and lengths."""
        if self.tasks == 1:  # there is nothing to bargain about
            return torch.ones(1)
        squares_T, vectors_TT = torch.linalg.eigh(gramian_TT)
        self.weigher.prvs_alpha = self.last_weights.numpy().copy()
        weights_T: Tensor = self.weigher(vectors_TT * squares_T.clamp(min=0).sqrt())
        if bool(torch.isfinite(found := torch.from_numpy(self.weigher.prvs_alpha)).all()):
            self.last_weights.copy_(found)
        return weights_T
