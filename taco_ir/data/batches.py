"""Examples -> the batch of one task and one step, the same in every process for one seed, and its contiguous parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.data.examples import TrainExample
from taco_ir.data.seeds import generator, number_of

Drawn = tuple[TrainExample, int]


class Dealer:
    """Deals out the numbers 0..count-1, `share` a step, in a new order every epoch.

    Every number comes once per epoch; a step may end one epoch and begin the next, and then too no number comes twice in
    it unless `share` exceeds `count`. The order depends on seed, name, share and count.
    """

    def __init__(self, count: int, share: int, seed: int, name: str) -> None:
        self.count = count
        self.share = share
        self.seed = seed
        self.name = name
        self._epoch = -1
        self._orders: list[npt.NDArray[np.int64]] = []  # of the last two epochs dealt

    def step(self, step: int) -> list[tuple[int, int]]:
        """The numbers of global step `step`, from 0, each with its epoch. Costs what was skipped: about 10 ns a number."""
        drawn: list[tuple[int, int]] = []
        position, end = step * self.share, (step + 1) * self.share
        while position < end:
            epoch, first = divmod(position, self.count)
            rows = self._order(epoch)[first : first + end - position].tolist()
            drawn += [(row, epoch) for row in rows]
            position += len(rows)
        return drawn

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The order of an epoch. It depends on the epoch before, whose last examples must not come again in the same step."""
        if epoch <= self._epoch - len(self._orders):  # dealt before these: begin again
            self._epoch, self._orders = -1, []
        while self._epoch < epoch:
            self._epoch += 1
            order = generator(self.seed, self.name, self._epoch).permutation(self.count)
            dealt = self._epoch * self.count % self.share
            if self._orders and dealt and self.share <= len(order):
                _keep_apart(order, self._orders[-1][-dealt:], self.share - dealt)
            self._orders = [*self._orders[-1:], order]
        return self._orders[epoch - self._epoch - 1]


class TaskSampler:
    """Deals out a task's examples, `share` a step, in a new order every epoch (one pass over this task), as a `Dealer`."""

    def __init__(self, examples: Sequence[TrainExample], share: int, seed: int, task: str) -> None:
        self.examples = examples
        self.share = share
        self.seed = seed
        self.task = task
        self._dealer = Dealer(len(examples), share, seed, task)

    def step(self, step: int) -> list[Drawn]:
        """The examples of global step `step`, from 0, each with its epoch."""
        return [(self.examples[row], epoch) for row, epoch in self._dealer.step(step)]


def _keep_apart(order: npt.NDArray[np.int64], last: npt.NDArray[np.int64], head: int) -> None:
    """Swap what `last` holds out of the first `head` places of `order`, in place."""
    repeats = np.zeros(len(order), dtype=bool)
    repeats[last] = True
    clashes = np.flatnonzero(repeats[order[:head]])
    free = head + np.flatnonzero(~repeats[order[head:]])[: len(clashes)]
    order[clashes], order[free] = order[free], order[clashes]


class TaskBatch(NamedTuple):
    """One task's queries (B) and passages (N columns) of one step, or a part of them.

    Attributes:
        queries: texts without prompt.
        passages: docid of each column: each query's positives, then its negatives, query after query.
        positives: each query's own positive columns.
        blocked_BN: True where a passage is no negative for a query: it is gold for it or lies on one of its gold pages. A
            query's own positive columns are never blocked; the same passage in another query's columns is.
        starts: query b brought columns starts[b] : starts[b + 1]; B + 1 numbers.
    """

    task: str
    queries: list[str]
    passages: list[str]
    positives: list[tuple[int, ...]]
    blocked_BN: npt.NDArray[np.bool_]
    starts: tuple[int, ...]


def make_batch(drawn: Sequence[Drawn], page_of: Mapping[str, str], negatives: int, multi_positive: bool, seed: int) -> TaskBatch:
    """Choose each example's positives and negatives for its epoch and lay them out as columns.

    Args:
        drawn: examples of one task, each with its epoch; at least one.
        page_of: page of every docid that can become a column.
        negatives: columns of negatives per query, fewer where it has fewer: no passage is twice among its own columns.
        multi_positive: all passages of the chosen evidence set are positives, else one of them.
        seed: of the choice of positives.
    """
    examples = [example for example, _ in drawn]
    gold = [choose_set(*each, seed) if multi_positive else (choose_positive(*each, seed),) for each in drawn]
    hard = [
        [docid for docid in choose_negatives(example, negatives, epoch) if docid not in own]
        for (example, epoch), own in zip(drawn, gold, strict=True)
    ]
    starts = tuple(accumulate((len(own) + len(others) for own, others in zip(gold, hard, strict=True)), initial=0))
    positives = [tuple(range(start, start + len(own))) for start, own in zip(starts, gold, strict=False)]
    passages = [docid for own, others in zip(gold, hard, strict=True) for docid in (*own, *others)]
    blocked_BN = _on_gold(examples, passages, page_of)
    for row, columns in enumerate(positives):
        blocked_BN[row, columns] = False
    return TaskBatch(examples[0].task, [example.text for example in examples], passages, positives, blocked_BN, starts)


def part(batch: TaskBatch, index: int, of: int) -> TaskBatch:
    """The `index`-th of `of` contiguous parts of the queries, sized as by np.array_split, with their own columns only."""
    small, larger = divmod(len(batch.queries), of)
    first = index * small + min(index, larger)
    stop = first + small + (index < larger)
    start, end = batch.starts[first], batch.starts[stop]
    return TaskBatch(
        batch.task,
        batch.queries[first:stop],
        batch.passages[start:end],
        [tuple(column - start for column in columns) for columns in batch.positives[first:stop]],
        batch.blocked_BN[first:stop, start:end],
        tuple(column - start for column in batch.starts[first : stop + 1]),
    )


def choose_set(example: TrainExample, epoch: int, seed: int) -> tuple[str, ...]:
    """The passages of one evidence set, each set equally likely, new every epoch."""
    return example.positives[number_of(seed, example.qid, epoch, "set") % len(example.positives)]


def choose_positive(example: TrainExample, epoch: int, seed: int) -> str:
    """One passage of the chosen evidence set, each equally likely."""
    docids = choose_set(example, epoch, seed)
    return docids[number_of(seed, example.qid, epoch, "passage") % len(docids)]


def choose_negatives(example: TrainExample, k: int, epoch: int) -> list[str]:
    """k of the example's negatives, or all where it has fewer: the hardest in epoch 0, the next k in epoch 1, around and around."""
    available = example.negatives
    taken = min(k, len(available))
    return [available[(epoch * taken + place) % len(available)] for place in range(taken)]


def _on_gold(examples: Sequence[TrainExample], passages: Sequence[str], page_of: Mapping[str, str]) -> npt.NDArray[np.bool_]:
    """[B, N]: the column's docid is a positive of the query or its page is one of the query's gold pages."""
    docid_code = {docid: code for code, docid in enumerate(dict.fromkeys(passages))}
    page_code = {page: code for code, page in enumerate(dict.fromkeys(page_of[docid] for docid in docid_code), len(docid_code))}
    gold_BU = np.zeros((len(examples), len(docid_code) + len(page_code)), dtype=bool)  # U: distinct docids, then distinct pages
    for row, example in enumerate(examples):
        codes = [page_code[page] for page in example.pages if page in page_code]
        codes += [docid_code[docid] for docids in example.positives for docid in docids if docid in docid_code]
        gold_BU[row, codes] = True
    docids_N = [docid_code[docid] for docid in passages]
    pages_N = [page_code[page_of[docid]] for docid in passages]
    return gold_BU[:, docids_N] | gold_BU[:, pages_N]
