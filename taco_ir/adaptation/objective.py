"""The training objective of an adaptation: a task's queries against all passages of an index with fixed vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from taco_ir.adaptation.queries import Example
from taco_ir.adaptation.softmax import ROWS, Passages, Targets, sampled_losses, whole_losses
from taco_ir.core.hashes import generator
from taco_ir.training.backward import backward
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.objectives.base import Means, Objective
from taco_ir.training.sampling import EpochSampler
from taco_ir.training.schedules import RETRIEVAL

FLOAT = 4  # bytes


class Draw(NamedTuple):
    """Batch `number` of a task: its examples, as rows of the sampler."""

    number: int
    rows: list[int]


class Sampling(NamedTuple):
    """The sizes of a sampled softmax: how many hits of each query, and how many random passages."""

    hits: int
    random: int


class WholeIndex(Objective):
    """Trains queries with the whole index as negatives. Queries are tokenised once; no passage is read or encoded.

    Each batch is split into processes x accumulate parts. A query's loss does not depend on other queries, so the
    gradient does not depend on the number of parts.

    Args:
        passages: the vectors of the index.
        examples: the task's examples, in the order of the sampler's rows.
        sampling: how many hits and random passages represent the index; None: use all passages.
    """

    phase = RETRIEVAL
    examples = "queries"

    def __init__(
        self,
        model: DualEncoder,
        sampler: EpochSampler,
        means: Means,
        passages: Passages,
        examples: Sequence[Example],
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__(model, sampler, means)
        self._passages = passages
        self._sampling = sampling
        self._texts = model.tokenize_queries([example.query.text for example in examples], sampler.task)
        self._golds = [example.gold for example in examples]

    @property
    def longest(self) -> int:
        """The number of tokens of the longest query."""
        return max(len(text.ids) for text in self._texts)

    def activation_bytes(self, token_bytes: float) -> float:
        queries = self.slice_size
        encoded = min(queries, self.means.arithmetic.gradcache or queries)
        scores = 2 * ROWS * (queries + self.model.dim) * FLOAT
        return encoded * self.longest * token_bytes + scores

    def batch(self, number: int) -> Draw:
        return Draw(number, [row for row, _ in self.sampler.sample_rows(number)])

    def add_gradient(self, batch: Draw, turn: int) -> Tensor:
        settings = self.means.settings
        own = self.slice_of(batch.rows, turn)
        targets = Targets.of([self._golds[row] for row in own])

        def loss_of(vectors_BD: Tensor) -> Tensor:
            if not own:  # fewer queries than parts
                return vectors_BD.sum()
            against = (self._passages, targets, settings.temperature)
            if self._sampling is None:
                return whole_losses(vectors_BD, *against).sum() / len(batch.rows)
            every, random = len(self._passages), min(self._sampling.random, len(self._passages))
            drawn = generator(settings.seed, self.task, batch.number, "passages").choice(every, random, replace=False)
            return sampled_losses(vectors_BD, *against, self._sampling.hits, drawn).sum() / len(batch.rows)

        seed = (settings.seed, self.task, batch.number, turn, self.means.processes.rank)
        return backward(self.model, [self._texts[row] for row in own], loss_of, self.means.arithmetic, seed)
