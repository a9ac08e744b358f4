"""GradNorm: equalises the tasks' gradient norms, with larger weights for tasks that learn slowly."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.weighting.accumulation import StreamingSum
from taco_ir.weighting.base import Gradients, StepReport, require

SMALLEST_WEIGHT = 1e-3


class GradNorm(StreamingSum):
    """Changes the task weights so that tasks which learn slowly have larger gradient norms.

    w_k follows the negative gradient of sum_k |G_k - mean(G) r_k^alpha|, with a constant target mean(G) r_k^alpha.
    G_k = |w_k g_k|, and r_k = L_k / L_k(0), divided by its mean. Then the weights are scaled to sum to T.
    Paper: Chen, Badrinarayanan, Lee, Rabinovich 2018, equation 2 and algorithm 1.
    Differs: norms are taken over all parameters given, not over the last shared layer; norms are divided by their mean,
    so `rate` does not depend on the scale of the losses; a weight stays above 0.001 (the paper does not say what
    keeps it positive). L_k(0) is the first loss seen. The update is the mean over tasks of w_k g_k, with the weights
    after the previous step.

    Args:
        alpha: how strongly slow tasks are favoured; the paper uses 1.5 for different and 0.12 for similar tasks.
        rate: step size of w_k.
    """

    task_weights: Tensor
    first_losses: Tensor

    def __init__(
        self,
        params: Iterable[Parameter],
        tasks: int,
        embeddings: Collection[int] = (),
        *,
        alpha: float = 1.5,
        rate: float = 0.025,
    ) -> None:
        require("alpha", alpha, 0 <= alpha < float("inf"), "a finite number that is not negative")
        require("rate", rate, 0 <= rate < float("inf"), "a finite number that is not negative")
        super().__init__(params, tasks, embeddings)
        self.alpha = alpha
        self.rate = rate
        self._norms: dict[int, float] = {}
        self.register_buffer("task_weights", torch.ones(tasks, dtype=torch.float64))
        self.register_buffer("first_losses", torch.zeros(tasks, dtype=torch.float64))  # 0: none seen

    def _fold(self, task: int, gradients: Gradients) -> None:
        parts = [
            torch.linalg.vector_norm(grad.coalesce().values() if grad.is_sparse else grad)
            for grad in gradients
            if grad is not None
        ]
        norm = float(torch.linalg.vector_norm(torch.stack(parts).double())) if parts else 0.0
        if not norm < float("inf"):
            raise FloatingPointError(f"the gradient of task {task} is not finite")
        self._norms[task] = norm
        self._accumulate(gradients, float(self.task_weights.numpy()[task]) / self.tasks)

    def _update(self) -> tuple[Gradients, StepReport]:
        used = tuple((self.task_weights / self.tasks).tolist())
        losses_T = self.task_weights.new_tensor([self._losses[task] for task in range(self.tasks)])
        norms_T = self.task_weights.new_tensor([self._norms[task] for task in range(self.tasks)])
        self.first_losses.copy_(torch.where(self.first_losses == 0, losses_T, self.first_losses))
        shares_T = torch.where(self.first_losses == 0, torch.ones_like(losses_T), losses_T / self.first_losses)
        progress_T = shares_T.clamp(min=0)
        weighted_T = self.task_weights * norms_T
        mean = weighted_T.mean()
        if mean > 0 and progress_T.mean() > 0:
            target_T = mean * (progress_T / progress_T.mean()) ** self.alpha
            step_T = torch.sign(weighted_T - target_T) * norms_T / norms_T.mean()
            moved_T = (self.task_weights - self.rate * step_T).clamp(min=SMALLEST_WEIGHT)
            self.task_weights.copy_(moved_T * self.tasks / moved_T.sum())
        return self._sum, StepReport(used, {"mean_gradient_norm": float(mean)})

    def _forget(self) -> None:
        super()._forget()
        self._norms = {}
