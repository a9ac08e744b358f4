"""Batches: how many queries each task has in a step, and which queries and passages are in the batch of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError
from taco_ir.core.hashes import hash_names
from taco_ir.data.examples import TrainExample
from taco_ir.training.sampling import Sampled
from taco_ir.training.settings import BatchSettings


def divide_batch(settings: BatchSettings, sizes: Sequence[int], given: Sequence[int | None] = ()) -> list[int]:
    """Divides the queries of a batch among tasks: task k gets batch * N_k^(1/c) / sum_j N_j^(1/c) queries, at least 1.

    The setting `shares` determines c: 1 for `proportional`, the setting `share_temperature` for `temperature`, infinity
    for `uniform`. Results are rounded by largest remainders. Numbers in `shares` are returned unchanged. With c = 4 the
    results are the batch sizes of TACO (Zhang et al., TACL 2023). Differs: we normalise the powers to sum to 1; the
    paper's formula does not, but its batch sizes need it.

    Args:
        sizes: N_k, the number of examples of each task.
        given: fixed number of queries of each task, or None; tasks with None divide the rest of the batch.

    Raises:
        InputError: if the batch is smaller than the number of tasks, or `shares` has a wrong number of numbers.
    """
    batch, shares = settings.batch_size, settings.shares
    if any(given):
        return _divide_rest(settings, sizes, given)
    if not shares.isalpha():
        if (count := shares.count(",") + 1) != len(sizes):
            raise InputError(f"shares is {shares!r} ({count} numbers); give {len(sizes)}, one for each task")
        return list(map(int, shares.split(",")))
    if batch < len(sizes):
        raise InputError(
            f"batch_size is {batch}, but each of the {len(sizes)} tasks needs a query in every step; give at least "
            f"{len(sizes)}"
        )
    power = {"proportional": 1.0, "temperature": 1 / settings.share_temperature, "uniform": 0.0}[shares]
    largest = max(sizes)
    weights = [(size / largest) ** power for size in sizes]
    return _round([batch * weight / sum(weights) for weight in weights], batch)


def _divide_rest(settings: BatchSettings, sizes: Sequence[int], given: Sequence[int | None]) -> list[int]:
    """Returns the fixed numbers in `given`, and divides the rest of the batch among the other tasks."""
    taken, others = (
        sum(share or 0 for share in given),
        [size for size, share in zip(sizes, given, strict=True) if not share],
    )
    if not others:
        if settings.batch_size not in (BatchSettings().batch_size, taken):
            raise InputError(
                f"batch_size is {settings.batch_size}, but the tasks' shares sum to {taken}; leave batch_size out"
            )
        return [share or 0 for share in given]
    if (rest := settings.batch_size - taken) < len(others):
        raise InputError(
            f"batch_size is {settings.batch_size}, but tasks with a share use {taken} queries, and the other "
            f"{len(others)} tasks need at least one each; give at least {taken + len(others)}"
        )
    divided = iter(divide_batch(replace(settings, batch_size=rest), others))
    return [share or next(divided) for share in given]


def _round(quotas: Sequence[float], total: int) -> list[int]:
    """Rounds to whole numbers >= 1 that sum to `total`; the number that is furthest from its quota changes first."""
    shares = [max(1, int(quota)) for quota in quotas]
    while sum(shares) < total:
        short = max(range(len(shares)), key=lambda task: quotas[task] - shares[task])
        shares[short] += 1
    while sum(shares) > total:
        able = [task for task, share in enumerate(shares) if share > 1]
        shares[min(reversed(able), key=lambda task: quotas[task] - shares[task])] -= 1
    return shares


class TaskBatch(NamedTuple):
    """The B queries and N passages of one task in a step, or a slice of them. Passages are columns of a score matrix.

    Attributes:
        queries: texts of the queries, without prompt.
        passages: docid of each column. The positives of the first query come first, then its negatives, and so on.
        positives: for each query, the columns of its positives.
        blocked_BN: True where a passage must not be a negative of a query, because it is gold for the query or lies on
            one of its gold pages. The columns in `positives` are False; the same passage in another column is True.
        starts: B + 1 numbers; query b has the columns starts[b] to starts[b + 1] - 1.
    """

    task: str
    queries: list[str]
    passages: list[str]
    positives: list[tuple[int, ...]]
    blocked_BN: npt.NDArray[np.bool_]
    starts: tuple[int, ...]


def make_batch(
    sampled: Sequence[Sampled], page_of: Mapping[str, str], negatives: int, multi_positive: bool, seed: int
) -> TaskBatch:
    """Makes a batch: chooses positives and negatives for each example's epoch, and arranges the passages as columns.

    Args:
        sampled: examples of one task with their epochs; at least one.
        page_of: the page of every docid that can become a column.
        negatives: maximum number of negatives for each query; no query gets the same negative twice.
        multi_positive: use all passages of an evidence set as positives, instead of one.
        seed: random seed for choosing positives.
    """
    examples = [example for example, _ in sampled]
    gold = [choose_set(*each, seed) if multi_positive else (choose_positive(*each, seed),) for each in sampled]
    hard = [
        [docid for docid in choose_negatives(example, negatives, epoch) if docid not in own]
        for (example, epoch), own in zip(sampled, gold, strict=True)
    ]
    starts = tuple(accumulate((len(own) + len(others) for own, others in zip(gold, hard, strict=True)), initial=0))
    positives = [tuple(range(start, start + len(own))) for start, own in zip(starts, gold, strict=False)]
    passages = [docid for own, others in zip(gold, hard, strict=True) for docid in (*own, *others)]
    blocked_BN = _find_gold(examples, passages, page_of)
    for row, columns in enumerate(positives):
        blocked_BN[row, columns] = False
    return TaskBatch(examples[0].task, [example.text for example in examples], passages, positives, blocked_BN, starts)


def slice_batch(batch: TaskBatch, index: int, of: int) -> TaskBatch:
    """Cuts a batch into `of` slices of neighbouring queries, sized as by np.array_split; returns slice `index`."""
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
    """Returns the docids of one of the query's evidence sets, which is chosen at random for each epoch."""
    return example.positives[hash_names(seed, example.qid, epoch, "set") % len(example.positives)]


def choose_positive(example: TrainExample, epoch: int, seed: int) -> str:
    """Returns the docid of one positive, chosen at random for each epoch from the set that `choose_set` returns."""
    docids = choose_set(example, epoch, seed)
    return docids[hash_names(seed, example.qid, epoch, "passage") % len(docids)]


def choose_negatives(example: TrainExample, k: int, epoch: int) -> list[str]:
    """Returns k negatives, or all if fewer: the hardest in the first epoch, then the next k each epoch, in a cycle."""
    available = example.negatives
    taken, turn = min(k, len(available)), epoch - example.since
    return [available[(turn * taken + place) % len(available)] for place in range(taken)]


def _find_gold(
    examples: Sequence[TrainExample], passages: Sequence[str], page_of: Mapping[str, str]
) -> npt.NDArray[np.bool_]:
    """Returns [B, N]: whether a column's passage is a positive of the query or lies on one of its gold pages."""
    docid_code = {docid: code for code, docid in enumerate(dict.fromkeys(passages))}
    pages = dict.fromkeys(page_of[docid] for docid in docid_code)
    page_code = {page: code for code, page in enumerate(pages, len(docid_code))}
    gold_BU = np.zeros((len(examples), len(docid_code) + len(page_code)), dtype=bool)  # U: docids, then pages
    for row, example in enumerate(examples):
        codes = [page_code[page] for page in example.pages if page in page_code]
        codes += [docid_code[docid] for docids in example.positives for docid in docids if docid in docid_code]
        gold_BU[row, codes] = True
    docids_N = [docid_code[docid] for docid in passages]
    pages_N = [page_code[page_of[docid]] for docid in passages]
    return gold_BU[:, docids_N] | gold_BU[:, pages_N]
