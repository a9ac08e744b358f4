"""Samples training examples in an order that depends on the seed, and records where a training stopped.

Orders depend only on seed, task and epoch, so all processes, and a resumed training, sample the same batches. A model
folder's `stream.json` says how far each task's examples were used; the next training continues there: {"steps": 120,
"dealt": {"nq": {"examples": "0123456789abcdef", "size": 34, ...}}}. Vectors do not depend on it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import read_json, write_json
from taco_ir.core.hashes import fingerprint, generator
from taco_ir.data.examples import TrainExample

if TYPE_CHECKING:
    from taco_ir.negatives.file import Negatives

STREAM_FILE = "stream.json"
Sampled = tuple[TrainExample, int]  # an example and its epoch


class StreamPosition(NamedTuple):
    """The position in a task's examples after all trainings that led to a model.

    Attributes:
        examples: fingerprint of the examples and of the seed; if it changes, a new epoch begins.
        size: number of examples.
        first: number of the first epoch with these examples.
        parts: (number of batches, examples in a batch) for each training since epoch `first` began.
        batches: number of batches in all trainings, also with other examples.
        negatives: fingerprint of the mined negatives; "" if there are none.
        since: when these negatives were first used: (epoch, number of examples sampled before in this epoch).
    """

    examples: str = ""
    size: Annotated[int, 1] = 0
    first: Annotated[int, 0] = 0
    parts: tuple[tuple[Annotated[int, 0], Annotated[int, 1]], ...] = ()
    batches: Annotated[int, 0] = 0
    negatives: str = ""
    since: tuple[Annotated[int, 0], Annotated[int, 0]] = (0, 0)

    def continue_with(self, examples: str, size: int, negatives: str) -> StreamPosition:
        """Returns this position for new data, given by fingerprints. With new negatives, it starts with the hardest."""
        now, sampled = self, sum(batches * share for batches, share in self.parts)
        if (examples, size) != (self.examples, self.size):
            begun = -(-sampled // max(self.size, 1))
            now, sampled = self._replace(examples=examples, size=size, first=self.first + begun, parts=()), 0
        if negatives != self.negatives:
            epoch, place = divmod(sampled, size)
            now = now._replace(negatives=negatives, since=(now.first + epoch, place))
        return now

    def advance(self, batches: int, share: int) -> StreamPosition:
        """Returns the position after `batches` more batches of `share` examples each."""
        *earlier, (done, last_share) = self.parts or ((0, share),)
        if last_share != share:
            earlier, done = [*self.parts], 0
        parts = (*earlier, (done + batches, share)) if done + batches else tuple(earlier)
        return self._replace(parts=parts, batches=self.batches + batches)


class Stream(NamedTuple):
    """The content of `stream.json`: all steps trained so far, and each task's position in its examples."""

    steps: Annotated[int, 0] = 0
    dealt: Mapping[str, StreamPosition] = {}

    def position(self, task: str) -> StreamPosition:
        return self.dealt.get(task, StreamPosition())

    def advance(self, steps: int, positions: Mapping[str, StreamPosition]) -> Stream:
        """Returns the content of `stream.json` after another training, with the new positions of its tasks."""
        return Stream(self.steps + steps, {**self.dealt, **positions})

    def __str__(self) -> str:
        counts = (f"{task} {position.batches:,} batches" for task, position in self.dealt.items())
        return f"{self.steps:,} steps: {', '.join(counts)}"


def read_stream(folder: Path) -> Stream:
    """Reads `stream.json` of a model folder. If there is none, all tasks start with their first examples.

    Raises:
        InputError: if the file has other content.
    """
    path = folder / STREAM_FILE
    return read_json(path, Stream, "remove the file to start with the first examples") if path.is_file() else Stream()


def write_stream(folder: Path, stream: Stream) -> None:
    positions = {task: position._asdict() for task, position in stream.dealt.items()}
    write_json(folder / STREAM_FILE, {"steps": stream.steps, "dealt": positions})


class EpochSampler:
    """Samples rows 0 to count - 1 in a new random order in every epoch; a batch has `share` rows.

    Every row occurs once in each epoch. A batch may end one epoch and begin the next. It repeats a row only if `share`
    is larger than `count`. The order depends on seed, task, count, and the numbers and sizes of earlier batches.

    Args:
        before: the position where earlier trainings stopped.

    Attributes:
        first: number of this training's first batch; earlier trainings sampled the batches before it.
    """

    def __init__(self, count: int, share: int, seed: int, task: str, before: StreamPosition) -> None:
        self.count = count
        self.share = share
        self.seed = seed
        self.task = task
        self.first = before.batches
        self._before = before
        self._starts = [0, *accumulate(batches * own for batches, own in before.parts)]  # of each training
        self._shares = [*(own for _, own in before.parts), share]
        self._epoch = -1
        self._orders: list[npt.NDArray[np.int64]] = []  # of the last two epochs

    def __len__(self) -> int:
        return self.count

    def sample_rows(self, number: int) -> list[tuple[int, int]]:
        """Returns (row, epoch) for each row of batch `number`. Skipping batches costs about 10 ns a row."""
        sampled: list[tuple[int, int]] = []
        position = self._starts[-1] + (number - self.first) * self.share
        end = position + self.share
        while position < end:
            epoch, first = divmod(position, self.count)
            rows = self._order(epoch)[first : first + end - position].tolist()
            sampled += [(row, self._before.first + epoch) for row in rows]
            position += len(rows)
        return sampled

    def position_after(self, batches: int) -> StreamPosition:
        """Returns the position after `batches` batches of this training."""
        return self._before.advance(batches, self.share)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Returns the row order of an epoch, counted from `before.first`; no batch across two epochs repeats a row."""
        if epoch <= self._epoch - len(self._orders):  # earlier than the two kept
            self._epoch, self._orders = -1, []
        while self._epoch < epoch:
            self._epoch += 1
            order = generator(self.seed, self.task, self._before.first + self._epoch).permutation(self.count)
            begun, share = self._batch_at(self._epoch * self.count)
            if self._orders and begun and share <= len(order):
                _keep_apart(order, self._orders[-1][-begun:], share - begun)
            self._orders = [*self._orders[-1:], order]
        return self._orders[epoch - self._epoch - 1]

    def _batch_at(self, position: int) -> tuple[int, int]:
        """Returns how many rows of the batch at this position come before it, and how many rows the batch has."""
        training = bisect_right(self._starts, position) - 1
        return (position - self._starts[training]) % self._shares[training], self._shares[training]


def _keep_apart(order: npt.NDArray[np.int64], last: npt.NDArray[np.int64], head: int) -> None:
    """Swaps the rows of `last` out of the first `head` places of `order`, in place."""
    repeats = np.zeros(len(order), dtype=bool)
    repeats[last] = True
    clashes = np.flatnonzero(repeats[order[:head]])
    free = head + np.flatnonzero(~repeats[order[head:]])[: len(clashes)]
    order[clashes], order[free] = order[free], order[clashes]


class TaskSampler(EpochSampler):
    """Samples the examples of a task in a new random order in every epoch; a batch has `share` examples.

    Args:
        before: the position where earlier trainings stopped.
        negatives: fingerprint of the examples' mined negatives; "" if there are none.
    """

    def __init__(
        self,
        examples: Sequence[TrainExample],
        share: int,
        seed: int,
        task: str,
        before: StreamPosition = StreamPosition(),  # noqa: B008  (a tuple)
        negatives: str = "",
    ) -> None:
        source = fingerprint([seed, [example.qid for example in examples]])
        super().__init__(len(examples), share, seed, task, before.continue_with(source, len(examples), negatives))
        self.examples = self._with_first_epochs(examples)

    def sample(self, number: int) -> list[Sampled]:
        """Returns (example, epoch) for each example of batch `number`."""
        return [(self.examples[row], epoch) for row, epoch in self.sample_rows(number)]

    def _with_first_epochs(self, examples: Sequence[TrainExample]) -> Sequence[TrainExample]:
        """Returns the examples with the first epoch in which each meets the current negatives."""
        epoch, place = self._before.since
        if not epoch and not place:
            return examples
        since = np.full(len(examples), epoch)
        if place and epoch >= self._before.first:  # examples that this epoch has used with other negatives
            since[self._order(epoch - self._before.first)[:place]] += 1
        return [example._replace(since=own) for example, own in zip(examples, since.tolist(), strict=True)]


def build_samplers(
    tasks: Sequence[str],
    examples: Sequence[Sequence[TrainExample]],
    shares: Sequence[int],
    seed: int,
    negatives: Sequence[Negatives | None] = (),
    before: Stream = Stream(),  # noqa: B008  (a tuple)
) -> list[TaskSampler]:
    """Returns a sampler for each task, which continues where earlier trainings stopped (`before`).

    Args:
        shares: number of examples of each task in a batch.
        negatives: the mined negatives of each task; empty: no task has any.
    """
    mined = [each.fingerprint if each else "" for each in negatives] or [""] * len(tasks)
    return [
        TaskSampler(own, share, seed, task, before.position(task), source)
        for task, own, share, source in zip(tasks, examples, shares, mined, strict=True)
    ]
