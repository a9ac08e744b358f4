"""Shares of a batch, its columns and what they block, against plain definitions of each."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.data.examples import TrainExample
from taco_ir.training.batches import (
    TaskBatch,
    choose_negatives,
    choose_positive,
    choose_set,
    divide_batch,
    make_batch,
    slice_batch,
)
from taco_ir.training.settings import BatchSettings

LAW = settings(deadline=None, max_examples=60)
DOCIDS = [f"{page}#{place}" for page in range(6) for place in range(3)]
PAGE_OF = {docid: docid.partition("#")[0] for docid in DOCIDS}


def example(
    qid: str, positives: tuple[tuple[str, ...], ...] = (("0#0",),), negatives: tuple[str, ...] = ()
) -> TrainExample:
    pages = frozenset(PAGE_OF[docid] for docids in positives for docid in docids)
    return TrainExample(qid, f"text of {qid}", "nq", positives, pages, negatives)


SIZES = st.lists(st.integers(1, 10**6), min_size=1, max_size=12)
HOW = ("proportional", "temperature", "uniform")
TACO_SIZES = [76_000, 53_000, 69_000, 80_000, 95_000, 71_000, 100_000, 18_000]


def batch_shares(sizes: list[int], batch: int, how: str, temperature: float = 4.0) -> list[int]:
    return divide_batch(BatchSettings(batch_size=batch, shares=how, share_temperature=temperature), sizes)


@given(SIZES, st.integers(0, 500), st.sampled_from(HOW), st.floats(0.5, 20))
def test_shares_sum_to_the_batch_and_follow_the_sizes(
    sizes: list[int], spare: int, how: str, temperature: float
) -> None:
    batch = len(sizes) + spare
    shares = batch_shares(sizes, batch, how, temperature)
    assert sum(shares) == batch and min(shares) >= 1
    by_size = sorted(zip(sizes, shares, strict=True), key=lambda pair: pair[0])
    for (size, share), (larger, larger_share) in pairwise(by_size):
        assert share <= larger_share + (size == larger or how == "uniform")


@given(SIZES, st.integers(0, 500), st.floats(0.5, 20))
def test_a_share_is_its_quota_rounded_down_or_up(sizes: list[int], spare: int, temperature: float) -> None:
    batch = len(sizes) + spare
    weights = [size ** (1 / temperature) for size in sizes]
    quotas = [batch * weight / math.fsum(weights) for weight in weights]
    if min(quotas) >= 1:
        for share, quota in zip(batch_shares(sizes, batch, "temperature", temperature), quotas, strict=True):
            assert quota - 1 - 1e-6 < share < quota + 1 + 1e-6


def test_a_higher_temperature_is_more_even() -> None:
    spreads = [
        max(shares) - min(shares) for c in (1, 2, 4, 64) if (shares := batch_shares(TACO_SIZES, 120, "temperature", c))
    ]
    assert spreads == sorted(spreads, reverse=True) and spreads[0] > spreads[-1]
    assert batch_shares(TACO_SIZES, 120, "proportional") == batch_shares(TACO_SIZES, 120, "temperature", 1)


def test_shares_of_taco() -> None:
    assert batch_shares(TACO_SIZES, 120, "temperature") == [16, 14, 15, 16, 16, 15, 17, 11]
    assert batch_shares(TACO_SIZES, 120, "uniform") == [15] * 8


def test_small_tasks_keep_one_at_the_cost_of_the_large() -> None:
    assert batch_shares([1_000_000, 1, 1], 6, "proportional") == [4, 1, 1]
    assert batch_shares([1_000_000, 1_000_000, 1, 1, 1], 6, "proportional") == [2, 1, 1, 1, 1]


def test_explicit_shares_set_the_batch() -> None:
    assert batch_shares([10, 20], 999, "3,1") == [3, 1]


@pytest.mark.parametrize("shares", ["3", "3,1,1", "3,0", "3,-1", ""])
def test_explicit_shares_are_checked(shares: str) -> None:
    message = (
        "give 2, one for each task" if shares in ("3", "3,1,1") else f"shares is {shares!r}; it must be .*whole numbers"
    )
    with pytest.raises(InputError, match=message):
        batch_shares([10, 20], 8, shares)


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match="batch_size is 1, but each of the 2 tasks .*at least 2"):
        batch_shares([10, 20], 1, "uniform")
    with pytest.raises(InputError, match="shares is 'even'; it must be proportional, temperature, uniform"):
        batch_shares([10, 20], 8, "even")
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="share_temperature"):
            batch_shares([10, 20], 8, "temperature", temperature)


POSITIVES = st.lists(
    st.lists(st.sampled_from(DOCIDS), min_size=1, max_size=3, unique=True).map(tuple), min_size=1, max_size=3
).map(tuple)
NEGATIVES = st.lists(st.sampled_from(DOCIDS), max_size=4, unique=True).map(tuple)
EXAMPLES = st.builds(example, st.sampled_from("abcdefgh"), POSITIVES, NEGATIVES)
SAMPLED = st.lists(st.tuples(EXAMPLES, st.integers(0, 3)), min_size=1, max_size=6)


@LAW
@given(SAMPLED, st.integers(0, 3), st.booleans())
def test_columns_are_each_query_s_positives_then_its_negatives(
    sampled: list[tuple[TrainExample, int]], k: int, multi: bool
) -> None:
    batch = make_batch(sampled, PAGE_OF, k, multi, 5)
    assert batch.task == "nq" and batch.queries == [each.text for each, _ in sampled]
    assert batch.starts[0] == 0 and batch.starts[-1] == len(batch.passages) and len(batch.starts) == len(sampled) + 1
    for row, (each, epoch) in enumerate(sampled):
        own = list(choose_set(each, epoch, 5)) if multi else [choose_positive(each, epoch, 5)]
        first = batch.starts[row]
        assert batch.positives[row] == tuple(range(first, first + len(own)))
        assert batch.passages[first : batch.starts[row + 1]] == own + [
            docid for docid in choose_negatives(each, k, epoch) if docid not in own
        ]


@LAW
@given(SAMPLED, st.integers(0, 9), st.booleans())
def test_no_passage_is_twice_among_a_query_s_columns(
    sampled: list[tuple[TrainExample, int]], k: int, multi: bool
) -> None:
    """It would count twice: a query that has fewer negatives than are asked for has fewer columns."""
    batch = make_batch(sampled, PAGE_OF, k, multi, 5)
    for row, (each, _) in enumerate(sampled):
        own = batch.passages[batch.starts[row] : batch.starts[row + 1]]
        assert len(set(own)) == len(own)
        gold = own[: len(batch.positives[row])]
        assert len(own) >= len(gold) + min(k, len(each.negatives)) - len(set(gold) & set(each.negatives))


@LAW
@given(SAMPLED, st.integers(0, 3), st.booleans())
def test_blocked_as_by_brute_force(sampled: list[tuple[TrainExample, int]], k: int, multi: bool) -> None:
    batch = make_batch(sampled, PAGE_OF, k, multi, 5)
    assert batch.blocked_BN.shape == (len(sampled), len(batch.passages)) and batch.blocked_BN.dtype == bool
    for row, (each, _) in enumerate(sampled):
        gold = {docid for docids in each.positives for docid in docids}
        for column, docid in enumerate(batch.passages):
            expected = column not in batch.positives[row] and (docid in gold or PAGE_OF[docid] in each.pages)
            assert batch.blocked_BN[row, column] == expected


def test_gold_on_a_page_that_the_example_does_not_list() -> None:
    """The docid alone blocks; so does the page alone."""
    one = TrainExample("a", "a", "nq", (("0#0",), ("1#0",)), frozenset(), ())
    other = TrainExample("b", "b", "nq", (("2#0",),), frozenset(["4"]), ("1#0", "1#1", "4#0"))
    batch = make_batch([(one, 0), (other, 0)], PAGE_OF, 3, True, 0)
    column = {docid: place for place, docid in enumerate(batch.passages)}
    assert batch.blocked_BN[0, column["1#1"]] == np.False_
    assert batch.blocked_BN[0, column["1#0"]] == np.True_
    assert batch.blocked_BN[1].tolist() == [False, False, False, False, True]


def joined(parts: list[TaskBatch]) -> tuple[list[str], list[str], list[tuple[int, ...]], list[int]]:
    """What the parts hold together, columns counted through."""
    queries: list[str] = []
    passages: list[str] = []
    positives: list[tuple[int, ...]] = []
    starts = [0]
    for each in parts:
        positives += [tuple(column + len(passages) for column in columns) for columns in each.positives]
        starts += [len(passages) + start for start in each.starts[1:]]
        queries += each.queries
        passages += each.passages
    return queries, passages, positives, starts


@LAW
@given(SAMPLED, st.integers(0, 3), st.booleans(), st.integers(1, 8))
def test_parts_together_are_the_whole(sampled: list[tuple[TrainExample, int]], k: int, multi: bool, of: int) -> None:
    batch = make_batch(sampled, PAGE_OF, k, multi, 5)
    parts = [slice_batch(batch, index, of) for index in range(of)]
    assert joined(parts) == (batch.queries, batch.passages, batch.positives, list(batch.starts))
    assert [len(each.queries) for each in parts] == [len(rows) for rows in np.array_split(np.arange(len(sampled)), of)]
    first = 0
    for each in parts:
        stop = first + len(each.queries)
        np.testing.assert_array_equal(
            each.blocked_BN, batch.blocked_BN[first:stop, batch.starts[first] : batch.starts[stop]]
        )
        first = stop


@LAW
@given(SAMPLED, st.integers(0, 3), st.booleans(), st.integers(1, 8), st.data())
def test_a_part_is_the_batch_of_its_queries(
    sampled: list[tuple[TrainExample, int]], k: int, multi: bool, of: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, of - 1))
    rows = np.array_split(np.arange(len(sampled)), of)[index]
    assume(len(rows))
    taken, alone = (
        slice_batch(make_batch(sampled, PAGE_OF, k, multi, 5), index, of),
        make_batch([sampled[row] for row in rows], PAGE_OF, k, multi, 5),
    )
    np.testing.assert_array_equal(taken.blocked_BN, alone.blocked_BN)
    assert taken._replace(blocked_BN=alone.blocked_BN) == alone


@LAW
@given(st.integers(1, 12), st.integers(1, 12))
def test_windows_of_negatives_go_round(available: int, k: int) -> None:
    negatives = tuple(map(str, range(available)))
    each = example("a", negatives=negatives)
    taken = [choose_negatives(each, k, epoch) for epoch in range(2 * available)]
    assert all(len(set(docids)) == len(docids) == min(k, available) for docids in taken)
    assert [docid for docids in taken for docid in docids] == [
        negatives[place % available] for place in range(2 * available * min(k, available))
    ]
    assert choose_negatives(each, 0, 1) == [] and choose_negatives(example("a"), k, 1) == []


def test_positives_are_chosen_evenly_over_sets_then_passages() -> None:
    each = example("a", positives=(("0#0",), ("1#0", "1#1")))
    counts = Counter(choose_positive(each, epoch, 0) for epoch in range(2000))
    assert abs(counts["0#0"] - 1000) < 150 and abs(counts["1#0"] - 500) < 120 and abs(counts["1#1"] - 500) < 120
    assert Counter(choose_set(each, 0, seed) for seed in range(2000))[("0#0",)] == pytest.approx(1000, abs=150)


def test_samples_are_the_same_in_every_process() -> None:
    code = (
        "from taco_ir.training.batches import choose_positive\nfrom taco_ir.data.examples import TrainExample\n"
        "from taco_ir.training.sampling import TaskSampler\n"
        "each = TrainExample('a', 'a', 'nq', (tuple('0123456789'),), frozenset(), ())\n"
        "rows = [TrainExample(str(row), '', 'nq', (('0',),), frozenset(), ()) for row in range(10)]\n"
        "print(*[choose_positive(each, epoch, 7) for epoch in range(10)])\n"
        "print(*[row.qid for row, _ in TaskSampler(rows, 4, 7, 'nq').sample(3)])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] and len(runs[0].split()) == 14


def test_a_batch_takes_a_millisecond() -> None:
    """64 queries x 3 columns; the bound is generous for a busy machine."""
    turned = [DOCIDS[row % 18 :] + DOCIDS[: row % 18] for row in range(64)]
    sampled = [
        (example(str(row), ((docids[0],), (docids[5],)), tuple(docids[6:14])), row % 3)
        for row, docids in enumerate(turned)
    ]
    times = []
    for seed in range(20):
        began = time.perf_counter()
        batch = make_batch(sampled, PAGE_OF, 2, False, seed)
        times.append(time.perf_counter() - began)
    assert batch.blocked_BN.shape == (64, 192)
    assert min(times) < 0.005
