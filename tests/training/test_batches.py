"""The order of examples, the columns of a batch and what they block, against plain definitions of each."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taco_ir.data.examples import TrainExample
from taco_ir.training.batches import (
    Dealt,
    TaskBatch,
    TaskSampler,
    choose_negatives,
    choose_positive,
    choose_set,
    make_batch,
    part,
)

LAW = settings(deadline=None, max_examples=60)
DOCIDS = [f"{page}#{place}" for page in range(6) for place in range(3)]
PAGE_OF = {docid: docid.partition("#")[0] for docid in DOCIDS}


def example(
    qid: str, positives: tuple[tuple[str, ...], ...] = (("0#0",),), negatives: tuple[str, ...] = ()
) -> TrainExample:
    pages = frozenset(PAGE_OF[docid] for docids in positives for docid in docids)
    return TrainExample(qid, f"text of {qid}", "nq", positives, pages, negatives)


def examples(count: int) -> list[TrainExample]:
    return [example(str(row)) for row in range(count)]


def dealt(sampler: TaskSampler, steps: int) -> list[tuple[str, int]]:
    return [(each.qid, epoch) for step in range(steps) for each, epoch in sampler.step(step)]


COUNTS, SHARES, STEPS = st.integers(1, 30), st.integers(1, 40), st.integers(0, 40)


@LAW
@given(COUNTS, SHARES, st.integers(0, 5))
def test_every_example_once_an_epoch(count: int, share: int, seed: int) -> None:
    stream = dealt(TaskSampler(examples(count), share, seed, "nq"), -(-4 * count // share))
    for epoch in range(4):
        mine = stream[epoch * count : (epoch + 1) * count]
        assert sorted(qid for qid, _ in mine) == sorted(map(str, range(count)))
        assert {of for _, of in mine} == {epoch}


@LAW
@given(COUNTS, SHARES, st.integers(0, 5))
def test_no_example_twice_in_a_step(count: int, share: int, seed: int) -> None:
    sampler = TaskSampler(examples(count), share, seed, "nq")
    for step in range(12):
        counts = Counter(each.qid for each, _ in sampler.step(step))
        assert counts.total() == share
        assert share > count or max(counts.values()) == 1


@LAW
@given(COUNTS, SHARES, st.lists(STEPS, min_size=1, max_size=8))
def test_a_step_is_the_same_however_one_comes_to_it(count: int, share: int, wanted: list[int]) -> None:
    everything = examples(count)
    jumping, walking = TaskSampler(everything, share, 1, "nq"), TaskSampler(everything, share, 1, "nq")
    walked = [walking.step(step) for step in range(41)]
    for step in wanted:
        assert jumping.step(step) == walked[step]
        assert TaskSampler(everything, share, 1, "nq").step(step) == walked[step]


def test_the_order_is_new_for_every_epoch_seed_and_task() -> None:
    stream = dealt(TaskSampler(examples(50), 10, 1, "nq"), 10)
    first, second = [qid for qid, epoch in stream if epoch == 0], [qid for qid, epoch in stream if epoch == 1]
    orders = {tuple(first), tuple(second)}
    for seed, task in ((2, "nq"), (1, "wow")):
        orders.add(tuple(qid for qid, _ in dealt(TaskSampler(examples(50), 10, seed, task), 5)))
    assert len(orders) == 4


def test_every_place_is_equally_likely() -> None:
    """Keeping repeats out of a step leaves no example with a fixed place."""
    firsts = Counter(TaskSampler(examples(5), 4, seed, "nq").step(2)[0][0].qid for seed in range(1000))
    assert len(firsts) == 5 and 150 < min(firsts.values()) <= max(firsts.values()) < 250


def test_a_resume_is_cheap() -> None:
    sampler = TaskSampler(examples(100), 16, 0, "nq")
    began = time.perf_counter()
    sampler.step(10_000)  # the 1600th epoch
    assert time.perf_counter() - began < 2


# trainings one after the other

PARTS = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), min_size=1, max_size=4)


def one_after_the_other(count: int, parts: Sequence[tuple[int, int]], seed: int = 0) -> list[list[tuple[str, int]]]:
    """The batches of trainings of so many batches of so many examples, each of which goes on where the one before ended."""
    before, batches = Dealt(), []
    for number, share in parts:
        sampler = TaskSampler(examples(count), share, seed, "nq", before)
        batches += [
            [(each.qid, epoch) for each, epoch in sampler.step(sampler.first + batch)] for batch in range(number)
        ]
        before = sampler.dealt(number)
        assert before.batches == sampler.first + number
    return batches


@LAW
@given(COUNTS, PARTS, st.integers(0, 5))
def test_trainings_together_deal_every_example_once_an_epoch(
    count: int, parts: list[tuple[int, int]], seed: int
) -> None:
    stream = one_after_the_other(count, parts, seed)
    for batch in stream:
        qids = [qid for qid, _ in batch]
        assert len(qids) > count or len(set(qids)) == len(qids)
    flat = [each for batch in stream for each in batch]
    assert [epoch for _, epoch in flat] == [place // count for place in range(len(flat))]
    for start in range(0, len(flat) - count + 1, count):
        assert len({qid for qid, _ in flat[start : start + count]}) == count


@LAW
@given(COUNTS, SHARES, st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_trainings_of_one_share_are_one_training(count: int, share: int, lengths: list[int]) -> None:
    whole = TaskSampler(examples(count), share, 3, "nq")
    expected = [[(each.qid, epoch) for each, epoch in whole.step(step)] for step in range(sum(lengths))]
    assert one_after_the_other(count, [(length, share) for length in lengths], 3) == expected


def test_other_examples_or_another_seed_begin_a_new_epoch() -> None:
    before = TaskSampler(examples(10), 4, 0, "nq").dealt(3)  # 12 of 10: two epochs are begun
    for count, seed, share, epochs in ((10, 0, 5, [1, 2]), (9, 0, 3, [2]), (10, 1, 5, [2])):
        sampler = TaskSampler(examples(count), share, seed, "nq", before)
        dealt = [each for batch in range(2) for each in sampler.step(sampler.first + batch)]
        assert sorted({epoch for _, epoch in dealt}) == epochs and len(dealt) == 2 * share
    assert TaskSampler(examples(9), 3, 0, "nq", before).dealt(1).batches == 4


def test_negatives_go_round_where_they_are_the_same_and_begin_anew_where_they_are_others() -> None:
    """...each query with the hardest, also where its epoch had begun with others."""
    mined = [example(str(row), negatives=tuple(f"{row}.{place}" for place in range(9))) for row in range(6)]

    def taken(sampler: TaskSampler, batches: int) -> dict[str, list[int]]:
        """Places of the negatives that each query takes, one a turn."""
        found: dict[str, list[int]] = {str(row): [] for row in range(6)}
        for batch in range(batches):
            for each, epoch in sampler.step(sampler.first + batch):
                found[each.qid] += [int(docid.partition(".")[2]) for docid in choose_negatives(each, 1, epoch)]
        return found

    first = TaskSampler(mined, 4, 0, "nq", Dealt(), "bm25")
    assert all(places == list(range(len(places))) for places in taken(first, 4).values())
    before = first.dealt(4)  # 16 of 6: into the third epoch
    same = TaskSampler(mined, 4, 0, "nq", before, "bm25")
    whole = taken(TaskSampler(mined, 4, 0, "nq", Dealt(), "bm25"), 8)
    assert {qid: taken(first, 4)[qid] + places for qid, places in taken(same, 4).items()} == whole
    other = TaskSampler(mined, 4, 0, "nq", before, "ance")
    assert all(places == list(range(len(places))) for places in taken(other, 5).values())
    again = TaskSampler(mined, 3, 0, "nq", other.dealt(5), "ance")
    for places, more in zip(taken(other, 5).values(), taken(again, 4).values(), strict=True):
        assert places + more == list(range(len(places + more)))


POSITIVES = st.lists(
    st.lists(st.sampled_from(DOCIDS), min_size=1, max_size=3, unique=True).map(tuple), min_size=1, max_size=3
).map(tuple)
NEGATIVES = st.lists(st.sampled_from(DOCIDS), max_size=4, unique=True).map(tuple)
EXAMPLES = st.builds(example, st.sampled_from("abcdefgh"), POSITIVES, NEGATIVES)
DRAWN = st.lists(st.tuples(EXAMPLES, st.integers(0, 3)), min_size=1, max_size=6)


@LAW
@given(DRAWN, st.integers(0, 3), st.booleans())
def test_columns_are_each_query_s_positives_then_its_negatives(
    drawn: list[tuple[TrainExample, int]], k: int, multi: bool
) -> None:
    batch = make_batch(drawn, PAGE_OF, k, multi, 5)
    assert batch.task == "nq" and batch.queries == [each.text for each, _ in drawn]
    assert batch.starts[0] == 0 and batch.starts[-1] == len(batch.passages) and len(batch.starts) == len(drawn) + 1
    for row, (each, epoch) in enumerate(drawn):
        own = list(choose_set(each, epoch, 5)) if multi else [choose_positive(each, epoch, 5)]
        first = batch.starts[row]
        assert batch.positives[row] == tuple(range(first, first + len(own)))
        assert batch.passages[first : batch.starts[row + 1]] == own + [
            docid for docid in choose_negatives(each, k, epoch) if docid not in own
        ]


@LAW
@given(DRAWN, st.integers(0, 9), st.booleans())
def test_no_passage_is_twice_among_a_query_s_columns(
    drawn: list[tuple[TrainExample, int]], k: int, multi: bool
) -> None:
    """It would count twice: a query that has fewer negatives than are asked for has fewer columns."""
    batch = make_batch(drawn, PAGE_OF, k, multi, 5)
    for row, (each, _) in enumerate(drawn):
        own = batch.passages[batch.starts[row] : batch.starts[row + 1]]
        assert len(set(own)) == len(own)
        gold = own[: len(batch.positives[row])]
        assert len(own) >= len(gold) + min(k, len(each.negatives)) - len(set(gold) & set(each.negatives))


@LAW
@given(DRAWN, st.integers(0, 3), st.booleans())
def test_blocked_as_by_brute_force(drawn: list[tuple[TrainExample, int]], k: int, multi: bool) -> None:
    batch = make_batch(drawn, PAGE_OF, k, multi, 5)
    assert batch.blocked_BN.shape == (len(drawn), len(batch.passages)) and batch.blocked_BN.dtype == bool
    for row, (each, _) in enumerate(drawn):
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
@given(DRAWN, st.integers(0, 3), st.booleans(), st.integers(1, 8))
def test_parts_together_are_the_whole(drawn: list[tuple[TrainExample, int]], k: int, multi: bool, of: int) -> None:
    batch = make_batch(drawn, PAGE_OF, k, multi, 5)
    parts = [part(batch, index, of) for index in range(of)]
    assert joined(parts) == (batch.queries, batch.passages, batch.positives, list(batch.starts))
    assert [len(each.queries) for each in parts] == [len(rows) for rows in np.array_split(np.arange(len(drawn)), of)]
    first = 0
    for each in parts:
        stop = first + len(each.queries)
        np.testing.assert_array_equal(
            each.blocked_BN, batch.blocked_BN[first:stop, batch.starts[first] : batch.starts[stop]]
        )
        first = stop


@LAW
@given(DRAWN, st.integers(0, 3), st.booleans(), st.integers(1, 8), st.data())
def test_a_part_is_the_batch_of_its_queries(
    drawn: list[tuple[TrainExample, int]], k: int, multi: bool, of: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, of - 1))
    rows = np.array_split(np.arange(len(drawn)), of)[index]
    assume(len(rows))
    taken, alone = (
        part(make_batch(drawn, PAGE_OF, k, multi, 5), index, of),
        make_batch([drawn[row] for row in rows], PAGE_OF, k, multi, 5),
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


def test_positives_are_drawn_evenly_over_sets_then_passages() -> None:
    each = example("a", positives=(("0#0",), ("1#0", "1#1")))
    counts = Counter(choose_positive(each, epoch, 0) for epoch in range(2000))
    assert abs(counts["0#0"] - 1000) < 150 and abs(counts["1#0"] - 500) < 120 and abs(counts["1#1"] - 500) < 120
    assert Counter(choose_set(each, 0, seed) for seed in range(2000))[("0#0",)] == pytest.approx(1000, abs=150)


def test_draws_are_the_same_in_every_process() -> None:
    code = (
        "from taco_ir.training.batches import TaskSampler, choose_positive\nfrom taco_ir.data.examples import TrainExample\n"
        "each = TrainExample('a', 'a', 'nq', (tuple('0123456789'),), frozenset(), ())\n"
        "rows = [TrainExample(str(row), '', 'nq', (('0',),), frozenset(), ()) for row in range(10)]\n"
        "print(*[choose_positive(each, epoch, 7) for epoch in range(10)], *[row.qid for row, _ in TaskSampler(rows, 4, 7, 'nq').step(3)])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] and len(runs[0].split()) == 14


def test_a_batch_takes_a_millisecond() -> None:
    """64 queries x 3 columns; the bound is generous for a busy machine."""
    turned = [DOCIDS[row % 18 :] + DOCIDS[: row % 18] for row in range(64)]
    drawn = [
        (example(str(row), ((docids[0],), (docids[5],)), tuple(docids[6:14])), row % 3)
        for row, docids in enumerate(turned)
    ]
    times = []
    for seed in range(20):
        began = time.perf_counter()
        batch = make_batch(drawn, PAGE_OF, 2, False, seed)
        times.append(time.perf_counter() - began)
    assert batch.blocked_BN.shape == (64, 192)
    assert min(times) < 0.005
