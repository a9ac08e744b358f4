"""Online softmax: TACO's softmax over tasks whose gradients come one after the other."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from taco_ir.weighting import blocks

HEADROOM = 30.0  # exp(30) = 1e13 leaves room for T terms and large gradients in float32
NEGLIGIBLE = -50.0  # exp(-50) = 2e-22 beside 1 is lost in float64 as well; smaller ones are subnormal, which is slow


class OnlineSoftmax:
    """For each of n entries, sum_k softmax_k(x) g_k over the tasks folded in so far. Memory: 3 n floats.

    The running maximum of online softmax is updated lazily: an entry's reference is the first task's logit, and moves
    only where a later logit exceeds it by more than `HEADROOM`, which few do. The result is the same up to rounding.
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
        """Fold in a later task's logits and gradient in the entries `span`."""
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
        """The weighted mean, in the memory of the weighted sum."""
        for span in spans:
            self.weighted[span].div_(self._total[span])
        return self.weighted
