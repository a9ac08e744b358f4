"""InfoNCE over the passages of a batch (van den Oord et al., 2018; DPR: Karpukhin et al., EMNLP 2020, eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def contrastive_loss(
    query_BD: Tensor, passage_ND: Tensor, positives: Sequence[Sequence[int]], blocked_BN: Tensor, temperature: float = 1.0
) -> Tensor:
    """Mean over queries of -log p(positive | query), a scalar.

    Each positive of a query is one against all that are neither blocked nor positives of it, so several positives do not
    compete; their losses are averaged. A passage that is gold for a query but was brought by another is blocked: masked,
    not sampled away.

    Args:
        positives: columns of each query's positives, at least one each.
        blocked_BN: True where a passage is no negative for a query.
        temperature: scores are divided by it.
    """
    scores_BN = query_BD.float() @ passage_ND.float().T / temperature
    owner = torch.tensor([row for row, columns in enumerate(positives) for _ in columns], device=scores_BN.device)
    column = torch.tensor([column for columns in positives for column in columns], device=scores_BN.device)
    share = torch.tensor([1 / len(columns) for columns in positives for _ in columns], device=scores_BN.device)
    excluded_BN = blocked_BN.clone()
    excluded_BN[owner, column] = True
    lowest = torch.finfo(scores_BN.dtype).min / 2  # not -inf: a query without any negative has loss 0 and gradient 0
    negatives_B = scores_BN.masked_fill(excluded_BN, lowest).logsumexp(1)
    losses = torch.nn.functional.softplus(negatives_B[owner] - scores_BN[owner, column])  # log(1 + sum exp(negative - positive))
    return (losses * share).sum() / len(positives)


def span_contrast_loss(span_ND: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over spans of -log p(its partner | span) against all other spans, a scalar (Gao and Callan, coCondenser, ACL 2022).

    Args:
        span_ND: spans 2i and 2i + 1 are partners.
    """
    own_NN = torch.eye(len(span_ND), dtype=torch.bool, device=span_ND.device)
    return contrastive_loss(span_ND, span_ND, [[row ^ 1] for row in range(len(span_ND))], own_NN, temperature)
