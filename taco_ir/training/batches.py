"""Examples -> the batch of one task and one step, the same in every process for one seed, and its contiguous parts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.hashes import fingerprint, generator, hash_names
from taco_ir.data.examples import TrainExample

if TYPE_CHECKING:
    from taco_ir.negatives.file import Negatives

Drawn = tuple[TrainExample, int]


class Dealt(NamedTuple):
    """How far a stream of examples was dealt, by all trainings that led to a model.

    Attributes:
        examples: fingerprint of the examples and of the seed that orders them; others begin a new epoch.
        size: how many these are.
        first: the first epoch that dealt them.
        parts: batches and examples of a batch, as one training after another dealt them since that epoch began.
        batches: of this stream in all, whatever the examples.
        negatives: how the examples' negatives were mined; "" where they have none.
        since: the epoch in which these negatives were first taken, and the examples that it had dealt by then.
    """

    examples: str = ""
    size: Annotated[int, 1] = 0
    first: Annotated[int, 0] = 0
    parts: tuple[tuple[Annotated[int, 0], Annotated[int, 1]], ...] = ()
    batches: Annotated[int, 0] = 0
    negatives: str = ""
    since: tuple[Annotated[int, 0], Annotated[int, 0]] = (0, 0)

    @property
    def position(self) -> int:
        """Examples dealt since the first epoch of these examples began."""
        return sum(batches * share for batches, share in self.parts)

    def of(self, examples: str, size: int, negatives: str) -> Dealt:
        """Where the stream goes on for these examples with these negatives: other negatives are taken from the hardest on."""
        now = self
        if (examples, size) != (self.examples, self.size):
            begun = -(-self.position // max(self.size, 1))
            now = self._replace(examples=examples, size=size, first=self.first + begun, parts=())
        if negatives != self.negatives:
            epoch, place = divmod(now.position, size)
            now = now._replace(negatives=negatives, since=(now.first + epoch, place))
        return now

    def after(self, batches: int, share: int) -> Dealt:
        """When `batches` more were dealt, of `share` examples each."""
        parts = self.parts
        if parts and parts[-1][1] == share:
            parts, batches_before = parts[:-1], parts[-1][0]
        else:
            batches_before = 0
        grown = (*parts, (batches_before + batches, share)) if batches_before + batches else parts
        return self._replace(parts=grown, batches=self.batches + batches)


class Dealer:
    """Deals out the numbers 0..count-1, `share` a batch, in a new order every epoch.

    Every number comes once per epoch; a batch may end one epoch and begin the next, and then too no number comes twice in
    it unless `share` exceeds `count`. The order depends on seed, name, count, and the batches before: their numbers and shares.

    Args:
        before: what trainings before this one dealt; batches are counted on from there.
    """

    def __init__(self, count: int, share: int, seed: int, name: str, before: Dealt = Dealt()) -> None:  # noqa: B008  (a tuple)
        self.count = count
        self.share = share
        self.seed = seed
        self.name = name
        self.before = before
        self._starts = [0, *accumulate(batches * own for batches, own in before.parts)]  # of each training's part
        self._shares = [*(own for _, own in before.parts), share]
        self._epoch = -1
        self._orders: list[npt.NDArray[np.int64]] = []  # of the last two epochs dealt

    def step(self, number: int) -> list[tuple[int, int]]:
        """The numbers of batch `number`, each with its epoch. Costs what was skipped: about 10 ns a number."""
        drawn: list[tuple[int, int]] = []
        position = self._starts[-1] + (number - self.before.batches) * self.share
        end = position + self.share
        while position < end:
            epoch, first = divmod(position, self.count)
            rows = self.order(epoch)[first : first + end - position].tolist()
            drawn += [(row, self.before.first + epoch) for row in rows]
            position += len(rows)
        return drawn

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The order of an epoch, counted from `before.first`. The last examples of the one before must not come again in the same batch."""
        if epoch <= self._epoch - len(self._orders):  # dealt before these: begin again
            self._epoch, self._orders = -1, []
        while self._epoch < epoch:
            self._epoch += 1
            order = generator(self.seed, self.name, self.before.first + self._epoch).permutation(self.count)
            dealt, share = self._batch_at(self._epoch * self.count)
            if self._orders and dealt and share <= len(order):
                _keep_apart(order, self._orders[-1][-dealt:], share - dealt)
            self._orders = [*self._orders[-1:], order]
        return self._orders[epoch - self._epoch - 1]

    def _batch_at(self, position: int) -> tuple[int, int]:
        """Of the batch that deals this position: how much of it comes before, and all of it."""
        part = bisect_right(self._starts, position) - 1
        return (position - self._starts[part]) % self._shares[part], self._shares[part]


class TaskSampler:
    """Deals out a task's examples, `share` a batch, in a new order every epoch (one pass over this task), as a `Dealer`.

    Attributes:
        first: the number of the first batch of this training; those before were dealt by trainings before it.

    Args:
        before: how far these dealt the stream.
        negatives: how the examples' negatives were mined (`Negatives.fingerprint`), "" where they have none.
    """

    def __init__(
        self,
        examples: Sequence[TrainExample],
        share: int,
        seed: int,
        task: str,
        before: Dealt = Dealt(),  # noqa: B008  (a tuple)
        negatives: str = "",
    ) -> None:
        self.share = share
        self.seed = seed
        self.task = task
        self.first = before.batches
        self._before = before.of(fingerprint([seed, [example.qid for example in examples]]), len(examples), negatives)
        self._dealer = Dealer(len(examples), share, seed, task, self._before)
        self.examples = self._turned(examples)

    def __len__(self) -> int:
        return len(self.examples)

    def step(self, number: int) -> list[Drawn]:
        """The examples of batch `number`, each with its epoch."""
        return [(self.examples[row], epoch) for row, epoch in self._dealer.step(number)]

    def dealt(self, batches: int) -> Dealt:
        """How far the stream was dealt after so many batches of this training."""
        return self._before.after(batches, self.share)

    def _turned(self, examples: Sequence[TrainExample]) -> Sequence[TrainExample]:
        """The examples with the epoch in which their negatives' turns began."""
        epoch, place = self._before.since
        if not epoch and not place:
            return examples
        since = np.full(len(examples), epoch)
        if place and epoch >= self._before.first:
            since[self._dealer.order(epoch - self._before.first)[:place]] += 1  # they had had other ones in that epoch
        return [example._replace(since=own) for example, own in zip(examples, since.tolist(), strict=True)]


def samplers_of(
    names: Sequence[str],
    examples: Sequence[Sequence[TrainExample]],
    shares: Sequence[int],
    seed: int,
    negatives: Negatives | None = None,
    before: Mapping[str, Dealt] = {},
) -> list[TaskSampler]:
    """A sampler under each name, which continues where `before`, by name, says."""
    mined = negatives.fingerprint if negatives else ""
    dealt = [before.get(name, Dealt()) for name in names]
    return [
        TaskSampler(own, share, seed, name, far, mined)
        for name, own, share, far in zip(names, examples, shares, dealt, strict=True)
    ]


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


def make_batch(
    drawn: Sequence[Drawn], page_of: Mapping[str, str], negatives: int, multi_positive: bool, seed: int
) -> TaskBatch:
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
    return example.positives[hash_names(seed, example.qid, epoch, "set") % len(example.positives)]


def choose_positive(example: TrainExample, epoch: int, seed: int) -> str:
    """One passage of the chosen evidence set, each equally likely."""
    docids = choose_set(example, epoch, seed)
    return docids[hash_names(seed, example.qid, epoch, "passage") % len(docids)]


def choose_negatives(example: TrainExample, k: int, epoch: int) -> list[str]:
    """k of the example's negatives, or all where it has fewer: the hardest in its first epoch, then the next k, around and around."""
    available = example.negatives
    taken, turn = min(k, len(available)), epoch - example.since
    return [available[(turn * taken + place) % len(available)] for place in range(taken)]


def _on_gold(
    examples: Sequence[TrainExample], passages: Sequence[str], page_of: Mapping[str, str]
) -> npt.NDArray[np.bool_]:
    """[B, N]: the column's docid is a positive of the query or its page is one of the query's gold pages."""
    docid_code = {docid: code for code, docid in enumerate(dict.fromkeys(passages))}
    page_code = {
        page: code for code, page in enumerate(dict.fromkeys(page_of[docid] for docid in docid_code), len(docid_code))
    }
    gold_BU = np.zeros(
        (len(examples), len(docid_code) + len(page_code)), dtype=bool
    )  # U: distinct docids, then distinct pages
    for row, example in enumerate(examples):
        codes = [page_code[page] for page in example.pages if page in page_code]
        codes += [docid_code[docid] for docids in example.positives for docid in docids if docid in docid_code]
        gold_BU[row, codes] = True
    docids_N = [docid_code[docid] for docid in passages]
    pages_N = [page_code[page_of[docid]] for docid in passages]
    return gold_BU[:, docids_N] | gold_BU[:, pages_N]
