"""InfoNCE loss over all passages of an index: exact with bounded memory, or sampled if there are too many passages.

The loss is that of van den Oord et al. (2018) with the whole index as negatives. The index is read block by block;
running sums of exponentials (online softmax; Milakov and Gimelshein, 2018) give the loss, and the running
softmax-weighted sum of vectors gives the gradient. So one pass over the index is enough, and only one block is in
memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from taco_ir.core.types import Vectors

ROWS = 8192  # passages scored at once

Rows = npt.NDArray[np.int64]


class Passages(Protocol):
    """The interface of passage vectors that are read by row, such as a `FrozenIndex`."""

    def __len__(self) -> int: ...
    def block(self, start: int, stop: int) -> Vectors: ...
    def at(self, rows: Rows) -> Vectors: ...
    def search(self, queries_BD: Vectors, hits: int) -> Rows: ...


class Gold(NamedTuple):
    """The gold passages of a query, as rows of the index.

    Attributes:
        positives: rows of the relevant passages, at least one, without repeats.
        weights: the weight of each positive; they sum to 1.
        others: rows of the other passages on gold pages, which are not used as negatives.
    """

    positives: Rows
    weights: npt.NDArray[np.float64]
    others: Rows


class Targets(NamedTuple):
    """The gold of B queries as (query, row) pairs, sorted by row.

    Attributes:
        query_P, row_P, weight_P: the positives.
        query_X, row_X: passages excluded from the query's negatives: its positives, and others on its gold pages.
    """

    query_P: Tensor
    row_P: Tensor
    weight_P: Tensor
    query_X: Tensor
    row_X: Tensor

    @classmethod
    def of(cls, golds: Sequence[Gold]) -> Targets:
        def pairs(rows: Sequence[Rows]) -> tuple[npt.NDArray[np.intp], Rows, npt.NDArray[np.intp]]:
            query = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
            row = np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64)
            order = np.argsort(row, kind="stable")
            return query[order], row[order], order

        query_P, row_P, order = pairs([gold.positives for gold in golds])
        weight_P = np.concatenate([*(gold.weights for gold in golds), np.empty(0)])[order]
        query_X, row_X, _ = pairs([np.concatenate([gold.positives, gold.others]) for gold in golds])
        return cls(*map(torch.from_numpy, (query_P, row_P, weight_P, query_X, row_X)))

    def to(self, device: torch.device) -> Targets:
        return Targets(*(each.to(device) for each in self))


def whole_losses(queries_BD: Tensor, passages: Passages, targets: Targets, temperature: float) -> Tensor:
    """Returns the loss [B] of each query against all passages of an index; gradients flow only to the queries.

    Each positive competes with all passages except other positives and excluded passages, as in `contrastive_loss`.
    The losses of several positives are averaged with their weights. A query without negatives has loss 0.
    """
    losses_B: Tensor = _WholeLosses.apply(queries_BD, passages, targets.to(queries_BD.device), temperature)  # type: ignore[no-untyped-call]
    return losses_B


class _WholeLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries_BD: Tensor, passages: Passages, targets: Targets, temperature: float) -> Tensor:
        scaled_BD = queries_BD / temperature
        lowest = torch.finfo(queries_BD.dtype).min / 2  # not -inf, because -inf - (-inf) is NaN
        best_B = queries_BD.new_full((len(queries_BD),), lowest)
        total_B, weighted_BD = torch.zeros_like(best_B), torch.zeros_like(queries_BD)
        score_P = queries_BD.new_zeros(len(targets.row_P))
        vector_PD = queries_BD.new_zeros(len(targets.row_P), queries_BD.shape[1])
        for start in range(0, len(passages), ROWS):
            stop = min(start + ROWS, len(passages))
            block_ND = _tensor(passages.block(start, stop)).to(queries_BD)
            scores_BN = scaled_BD @ block_ND.T
            here = _within(targets.row_P, start, stop)
            row_p = targets.row_P[here] - start
            score_P[here], vector_PD[here] = scores_BN[targets.query_P[here], row_p], block_ND[row_p]
            out = _within(targets.row_X, start, stop)
            scores_BN[targets.query_X[out], targets.row_X[out] - start] = lowest
            before_B, best_B = best_B, torch.maximum(best_B, scores_BN.amax(1))
            weights_BN = scores_BN.sub_(best_B[:, None]).exp_()
            kept_B = (before_B - best_B).exp()
            total_B = total_B * kept_B + weights_BN.sum(1)
            weighted_BD = torch.addmm(weighted_BD * kept_B[:, None], weights_BN, block_ND)
        negatives_B = best_B + total_B.log()
        margin_P = negatives_B[targets.query_P] - score_P
        weight_P = targets.weight_P.to(queries_BD)
        pull_P = weight_P * margin_P.sigmoid()
        push_B = torch.zeros_like(best_B).index_add_(0, targets.query_P, pull_P)
        gradient_BD = weighted_BD * (push_B / total_B)[:, None]
        gradient_BD.index_add_(0, targets.query_P, pull_P[:, None] * vector_PD, alpha=-1)
        ctx.save_for_backward(gradient_BD / temperature)
        return torch.zeros_like(best_B).index_add_(0, targets.query_P, -weight_P * functional.logsigmoid(-margin_P))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (gradient_BD,) = ctx.saved_tensors
        return grads[0][:, None] * gradient_BD, None, None, None


def sampled_losses(
    queries_BD: Tensor, passages: Passages, targets: Targets, temperature: float, hits: int, random_M: Rows
) -> Tensor:
    """Returns the loss [B] of each query against its hits and random passages, which stand for all other passages.

    The sum of exponentials over negatives is exact for the `hits` passages that a search with the query vectors finds.
    For all other passages it is estimated from the random passages that are not hits, scaled up by the number of
    passages. The estimate is unbiased, and exact if all passages are sampled. A query's loss does not depend on other
    queries.

    Args:
        random_M: rows of the random passages, without repeats.
    """
    targets = targets.to(queries_BD.device)
    found_BK = torch.from_numpy(passages.search(queries_BD.detach().float().cpu().numpy(), hits)).to(queries_BD.device)
    random = torch.from_numpy(random_M).to(queries_BD.device)
    rows_U = torch.unique(torch.cat([found_BK[found_BK >= 0], random, targets.row_P]))
    scores_BU = queries_BD @ _tensor(passages.at(rows_U.cpu().numpy())).to(queries_BD).T / temperature
    hit_BU, out_BU = (torch.zeros_like(scores_BU, dtype=torch.bool) for _ in range(2))
    there = found_BK >= 0
    hit_BU[there.nonzero()[:, 0], torch.searchsorted(rows_U, found_BK[there])] = True
    drawn = torch.isin(targets.row_X, rows_U)
    out_BU[targets.query_X[drawn], torch.searchsorted(rows_U, targets.row_X[drawn])] = True
    rest_BU = torch.isin(rows_U, random) & ~hit_BU & ~out_BU
    excluded_B = torch.bincount(targets.query_X, minlength=len(queries_BD))
    rest_B = len(passages) - there.sum(1) - excluded_B + (hit_BU & out_BU).sum(1)
    each_B = (rest_B / rest_BU.sum(1).clamp(min=1)).to(queries_BD).log()
    lowest = torch.finfo(queries_BD.dtype).min / 2
    negatives_BU = torch.where(rest_BU, scores_BU + each_B[:, None], scores_BU)
    negatives_B = negatives_BU.masked_fill(~(rest_BU | (hit_BU & ~out_BU)), lowest).logsumexp(1)
    scores_P = scores_BU[targets.query_P, torch.searchsorted(rows_U, targets.row_P)]
    losses_P = targets.weight_P.to(queries_BD) * -functional.logsigmoid(scores_P - negatives_B[targets.query_P])
    return torch.zeros_like(negatives_B).index_add(0, targets.query_P, losses_P)


def _within(rows: Tensor, start: int, stop: int) -> slice:
    """Returns the slice of sorted rows that are in start..stop-1."""
    ends = torch.searchsorted(rows, torch.tensor([start, stop], device=rows.device)).tolist()
    return slice(*ends)


def _tensor(vectors_ND: Vectors) -> Tensor:
    """Returns the vectors as a tensor without a copy, even of a file that is mapped for reading; never write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(vectors_ND)
