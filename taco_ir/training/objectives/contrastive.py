"""InfoNCE loss over the passages of a batch (van den Oord et al., 2018; DPR: Karpukhin et al., EMNLP 2020, eq. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from taco_ir.core.types import Passage
from taco_ir.training.backward import backward
from taco_ir.training.batches import TaskBatch, divide_batch, make_batch, slice_batch
from taco_ir.training.objectives.base import Objective, Work
from taco_ir.training.sampling import TaskSampler
from taco_ir.training.schedules import RETRIEVAL


def contrastive_loss(
    query_BD: Tensor,
    passage_ND: Tensor,
    positives: Sequence[Sequence[int]],
    blocked_BN: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Returns the mean over queries of -log p(positive | query), a scalar.

    Each positive competes with all passages that are neither blocked nor positives of the same query. The losses of
    several positives are averaged. A passage is blocked if it is gold for the query but came with another query.

    Args:
        positives: for each query, the columns (rows of `passage_ND`) of its positives, at least one.
        blocked_BN: True where a passage must not be a negative of a query.
        temperature: scores are divided by this number.
    """
    scores_BN = query_BD.float() @ passage_ND.float().T / temperature
    owner = torch.tensor([row for row, columns in enumerate(positives) for _ in columns], device=scores_BN.device)
    column = torch.tensor([column for columns in positives for column in columns], device=scores_BN.device)
    share = torch.tensor([1 / len(columns) for columns in positives for _ in columns], device=scores_BN.device)
    excluded_BN = blocked_BN.clone()
    excluded_BN[owner, column] = True
    lowest = torch.finfo(scores_BN.dtype).min / 2  # not -inf: a query without any negative has loss 0 and gradient 0
    negatives_B = scores_BN.masked_fill(excluded_BN, lowest).logsumexp(1)
    losses = torch.nn.functional.softplus(
        negatives_B[owner] - scores_BN[owner, column]
    )  # log(1 + sum exp(negative - positive))
    return (losses * share).sum() / len(positives)


def span_contrast_loss(span_ND: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns the mean over spans of -log p(partner | span), a scalar. Each partner competes with all other spans.

    Gao and Callan, coCondenser, ACL 2022.

    Args:
        span_ND: vectors of spans; spans 2i and 2i + 1 are partners.
    """
    own_NN = torch.eye(len(span_ND), dtype=torch.bool, device=span_ND.device)
    return contrastive_loss(span_ND, span_ND, [[row ^ 1] for row in range(len(span_ND))], own_NN, temperature)


class Contrast(NamedTuple):
    """A retrieval batch: its number, its queries, and the passages by docid."""

    number: int
    queries: TaskBatch
    passages: Mapping[str, Passage]


class Contrastive(Objective):
    """Trains retrieval: each query has to find its positive among the passages of the batch.

    A batch is split into processes x accumulate slices. In-batch negatives come from the same slice or, with
    `cross_device`, from the slices of all processes. Without `cross_device`, two processes equal one process that
    accumulates twice; with `cross_device`, they equal one process that does not accumulate.
    """

    phase = RETRIEVAL
    examples = "queries"
    sampler: TaskSampler

    @classmethod
    def of(cls, work: Work) -> Sequence[Contrastive]:
        data, batch = work.data, work.batch
        if not data.tasks:
            return []
        examples = [data.examples(task, work.negatives.get(task)) for task in data.tasks]
        shares = divide_batch(batch, [len(each) for each in examples], data.given_shares)
        return [cls.make(work, sampler) for sampler in work.samplers(data.tasks, examples, shares, data.tasks)]

    @classmethod
    def make(cls, work: Work, sampler: TaskSampler) -> Contrastive:
        """Makes the task whose examples `sampler` samples, with the task's own settings if it has any."""
        own = work.data.places[sampler.task].own
        hard = work.batch.hard_negatives if own.hard_negatives is None else own.hard_negatives
        return cls(work.encoder, sampler, work.means(hard, work.batch.multi_positive, sampler.task), own.weight)

    @property
    def passage_length(self) -> int:
        """Maximum number of tokens of a passage in a batch."""
        longest = self.model.config.passage_length
        return min(self.means.settings.passage_length or longest, longest)

    def activation_bytes(self, token_bytes: float) -> float:
        settings, config = self.means.settings, self.model.config
        queries = self.slice_size
        texts = queries * (2 + settings.negatives)
        tokens = queries * (config.max_query_tokens(self.task) + (1 + settings.negatives) * self.passage_length)
        if gradcache := self.means.arithmetic.gradcache:
            tokens = min(tokens, tokens * gradcache // texts)
        return tokens * token_bytes

    def batch(self, number: int) -> Contrast:
        settings, texts = self.means.settings, self.means.texts
        drawn = self.sampler.sample(number)
        queries = make_batch(drawn, texts.page_of, settings.negatives, settings.multi_positive, settings.seed)
        return Contrast(number, queries, texts.passages)

    def add_gradient(self, batch: Contrast, turn: int) -> Tensor:
        settings, processes = self.means.settings, self.means.processes
        here = slice_batch(batch.queries, turn, settings.accumulate)
        parts = [slice_batch(here, rank, processes.world) for rank in range(processes.world)]
        own = parts[processes.rank]
        texts = self.model.tokenize_queries(own.queries, own.task)
        texts += self.model.tokenize_passages([batch.passages[docid] for docid in own.passages], self.passage_length)

        def loss_of(vectors_ND: Tensor) -> Tensor:
            query_BD, passage_ND = vectors_ND[: len(own.queries)], vectors_ND[len(own.queries) :]
            if settings.cross_device:
                query_BD = processes.gather(query_BD, [len(each.queries) for each in parts])
                passage_ND = processes.gather(passage_ND, [len(each.passages) for each in parts])
            counted = here if settings.cross_device else own
            return self._loss(query_BD, passage_ND, counted) * len(counted.queries) / len(batch.queries.queries)

        seed = (settings.seed, own.task, batch.number, turn, processes.rank)
        loss = backward(self.model, texts, loss_of, self.means.arithmetic, seed)
        return loss / processes.world if settings.cross_device else loss  # each process computes the loss of all

    def _loss(self, query_BD: Tensor, passage_ND: Tensor, batch: TaskBatch) -> Tensor:
        if not batch.queries:  # there are fewer queries than slices
            return (query_BD.sum() + passage_ND.sum()) * 0
        blocked_BN = torch.from_numpy(batch.blocked_BN).to(query_BD.device)
        return contrastive_loss(query_BD, passage_ND, batch.positives, blocked_BN, self.means.settings.temperature)
