"""The order of examples: every example once an epoch, and trainings that continue each other's stream as one would."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pretraining_runs
import pytest
from cities import write_cities
from hypothesis import given, settings
from hypothesis import strategies as st
from training_runs import differing, logged, small, stopped_after

from taco_ir.core.files import InputError
from taco_ir.data.examples import TrainExample
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.training.batches import choose_negatives
from taco_ir.training.objectives.spans import SpanTexts
from taco_ir.training.run import train
from taco_ir.training.sampling import (
    STREAM_FILE,
    Sampled,
    Stream,
    StreamPosition,
    TaskSampler,
    read_stream,
    write_stream,
)

LAW = settings(deadline=None, max_examples=60)
NQ = 34  # train queries of the sample
Batches = list[tuple[str, int, list[tuple[str, int]]]]  # task, number, (qid, epoch) of each query


def examples(count: int, negatives: int = 0) -> list[TrainExample]:
    """Negatives of query 3 are 3.0, 3.1, ..."""
    return [
        TrainExample(
            str(row), "", "nq", (("0#0",),), frozenset(), tuple(f"{row}.{place}" for place in range(negatives))
        )
        for row in range(count)
    ]


def stream_of(sampler: TaskSampler, steps: int) -> list[tuple[str, int]]:
    return [(each.qid, epoch) for step in range(steps) for each, epoch in sampler.sample(step)]


COUNTS, SHARES, STEPS = st.integers(1, 30), st.integers(1, 40), st.integers(0, 40)


@LAW
@given(COUNTS, SHARES, st.integers(0, 5))
def test_every_example_once_an_epoch(count: int, share: int, seed: int) -> None:
    stream = stream_of(TaskSampler(examples(count), share, seed, "nq"), -(-4 * count // share))
    for epoch in range(4):
        mine = stream[epoch * count : (epoch + 1) * count]
        assert sorted(qid for qid, _ in mine) == sorted(map(str, range(count)))
        assert {of for _, of in mine} == {epoch}


@LAW
@given(COUNTS, SHARES, st.integers(0, 5))
def test_no_example_twice_in_a_step(count: int, share: int, seed: int) -> None:
    sampler = TaskSampler(examples(count), share, seed, "nq")
    for step in range(12):
        counts = Counter(each.qid for each, _ in sampler.sample(step))
        assert counts.total() == share
        assert share > count or max(counts.values()) == 1


@LAW
@given(COUNTS, SHARES, st.lists(STEPS, min_size=1, max_size=8))
def test_a_step_is_the_same_however_one_comes_to_it(count: int, share: int, wanted: list[int]) -> None:
    everything = examples(count)
    jumping, walking = TaskSampler(everything, share, 1, "nq"), TaskSampler(everything, share, 1, "nq")
    walked = [walking.sample(step) for step in range(41)]
    for step in wanted:
        assert jumping.sample(step) == walked[step]
        assert TaskSampler(everything, share, 1, "nq").sample(step) == walked[step]


def test_the_order_is_new_for_every_epoch_seed_and_task() -> None:
    stream = stream_of(TaskSampler(examples(50), 10, 1, "nq"), 10)
    first, second = [qid for qid, epoch in stream if epoch == 0], [qid for qid, epoch in stream if epoch == 1]
    orders = {tuple(first), tuple(second)}
    for seed, task in ((2, "nq"), (1, "wow")):
        orders.add(tuple(qid for qid, _ in stream_of(TaskSampler(examples(50), 10, seed, task), 5)))
    assert len(orders) == 4


def test_every_place_is_equally_likely() -> None:
    """Keeping repeats out of a step leaves no example with a fixed place."""
    firsts = Counter(TaskSampler(examples(5), 4, seed, "nq").sample(2)[0][0].qid for seed in range(1000))
    assert len(firsts) == 5 and 150 < min(firsts.values()) <= max(firsts.values()) < 250


def test_a_resume_is_cheap() -> None:
    sampler = TaskSampler(examples(100), 16, 0, "nq")
    began = time.perf_counter()
    sampler.sample(10_000)  # the 1600th epoch
    assert time.perf_counter() - began < 2


# trainings one after the other

PARTS = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), min_size=1, max_size=4)


def one_after_the_other(count: int, parts: Sequence[tuple[int, int]], seed: int = 0) -> list[list[tuple[str, int]]]:
    """The batches of trainings that continue each other; each has so many batches of so many examples."""
    before, batches = StreamPosition(), []
    for number, share in parts:
        sampler = TaskSampler(examples(count), share, seed, "nq", before)
        batches += [
            [(each.qid, epoch) for each, epoch in sampler.sample(sampler.first + batch)] for batch in range(number)
        ]
        before = sampler.position_after(number)
        assert before.batches == sampler.first + number
    return batches


@LAW
@given(COUNTS, PARTS, st.integers(0, 5))
def test_trainings_together_sample_every_example_once_an_epoch(
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
    expected = [[(each.qid, epoch) for each, epoch in whole.sample(step)] for step in range(sum(lengths))]
    assert one_after_the_other(count, [(length, share) for length in lengths], 3) == expected


def test_other_examples_or_another_seed_begin_a_new_epoch() -> None:
    before = TaskSampler(examples(10), 4, 0, "nq").position_after(3)  # 12 of 10: two epochs are begun
    for count, seed, share, epochs in ((10, 0, 5, [1, 2]), (9, 0, 3, [2]), (10, 1, 5, [2])):
        sampler = TaskSampler(examples(count), share, seed, "nq", before)
        found = [each for batch in range(2) for each in sampler.sample(sampler.first + batch)]
        assert sorted({epoch for _, epoch in found}) == epochs and len(found) == 2 * share
    assert TaskSampler(examples(9), 3, 0, "nq", before).position_after(1).batches == 4


def test_negatives_go_round_where_they_are_the_same_and_begin_anew_where_they_are_others() -> None:
    """...each query with the hardest, also where its epoch had begun with others."""
    mined = examples(6, negatives=9)

    def taken(sampler: TaskSampler, batches: int) -> dict[str, list[int]]:
        """Places of the negatives that each query takes, one a turn."""
        found: dict[str, list[int]] = {str(row): [] for row in range(6)}
        for batch in range(batches):
            for each, epoch in sampler.sample(sampler.first + batch):
                found[each.qid] += [int(docid.partition(".")[2]) for docid in choose_negatives(each, 1, epoch)]
        return found

    first = TaskSampler(mined, 4, 0, "nq", StreamPosition(), "bm25")
    assert all(places == list(range(len(places))) for places in taken(first, 4).values())
    before = first.position_after(4)  # 16 of 6: into the third epoch
    same = TaskSampler(mined, 4, 0, "nq", before, "bm25")
    whole = taken(TaskSampler(mined, 4, 0, "nq", StreamPosition(), "bm25"), 8)
    assert {qid: taken(first, 4)[qid] + places for qid, places in taken(same, 4).items()} == whole
    other = TaskSampler(mined, 4, 0, "nq", before, "ance")
    assert all(places == list(range(len(places))) for places in taken(other, 5).values())
    again = TaskSampler(mined, 3, 0, "nq", other.position_after(5), "ance")
    for places, more in zip(taken(other, 5).values(), taken(again, 4).values(), strict=True):
        assert places + more == list(range(len(places + more)))


def config(model: Path, output: Path, /, **changes: Any) -> Any:
    return small(model, output, tasks=("nq", "fever"), batch_size=8, steps=4, validate_every=4, pool_queries=2).replace(
        **changes
    )


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Batches]:
    """Every batch that a training takes."""
    found: Batches = []
    sample = TaskSampler.sample

    def noted(self: TaskSampler, number: int) -> list[Sampled]:
        batch = sample(self, number)
        found.append((self.task, number, [(each.qid, epoch) for each, epoch in batch]))
        return batch

    monkeypatch.setattr(TaskSampler, "sample", noted)
    yield found


def of(task: str, sampled: Batches) -> list[tuple[str, int]]:
    return [each for name, _, batch in sampled if name == task for each in batch]


def taken(sampled: Batches) -> Batches:
    """Batches sampled so far; the list is empty afterwards."""
    found = list(sampled)
    sampled.clear()
    return found


def test_three_episodes_of_four_steps_see_all_queries(tiny_bert: Path, tmp_path: Path, sampled: Batches) -> None:
    train(config(tiny_bert, tmp_path / "three", episodes=({"repeat": 3},)))
    episodes = taken(sampled)
    counts = Counter(qid for qid, _ in of("nq", episodes))
    assert len(counts) == NQ and sum(counts.values()) == 48 and max(counts.values()) == 2
    train(config(tiny_bert, tmp_path / "one", steps=12))
    assert taken(sampled) == episodes


def test_episodes_of_other_shares_go_on(tiny_bert: Path, tmp_path: Path, sampled: Batches) -> None:
    tables = ({"shares": "4,2"}, {"shares": "7,3"}, {"shares": "4,2", "steps": 2})
    train(config(tiny_bert, tmp_path / "run", episodes=tables))
    stream = of("nq", taken(sampled))
    assert [epoch for _, epoch in stream] == [place // NQ for place in range(16 + 28 + 8)]
    assert len({qid for qid, _ in stream[:NQ]}) == NQ


def test_a_training_from_a_trained_model_goes_on_wherever_it_is(
    tiny_bert: Path, tmp_path: Path, sampled: Batches
) -> None:
    """...and systems that start from one model share their batches."""
    train(config(tiny_bert, tmp_path / "whole", steps=12))
    whole = taken(sampled)
    first = train(config(tiny_bert, tmp_path / "first", steps=4))
    before = taken(sampled)
    for name, weighting in (("second", "naive"), ("other", "pcgrad")):
        second = train(config(first, tmp_path / name, steps=8, pooling=None, weighting=weighting))
        assert before + taken(sampled) == whole
        assert read_stream(second).steps == 12 and read_stream(second).position("nq").batches == 12


def test_a_task_left_out_for_a_while_goes_on_where_it_was(tiny_bert: Path, tmp_path: Path, sampled: Batches) -> None:
    model = tiny_bert
    for number, task in enumerate(("nq", "fever", "nq")):
        pooling = None if number else "mean"  # a trained model says itself how it pools
        model = train(config(model, tmp_path / str(number), tasks=(task,), steps=3, pooling=pooling))
    assert len({qid for qid, _ in of("nq", sampled)}) == NQ
    assert [number for task, number, _ in sampled if task == "nq"] == [0, 1, 2, 3, 4, 5]


def test_dropout_goes_on(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[tuple[Any, ...]] = []
    from taco_ir.training.objectives import contrastive as module

    real = module.backward
    monkeypatch.setattr(module, "backward", lambda *args: (seeds.append(tuple(args[4])), real(*args))[1])
    train(config(tiny_bert, tmp_path / "run", episodes=({"repeat": 2},)))
    assert len(seeds) == len(set(seeds)) == 16 and {seed[2] for seed in seeds} == set(range(8))


def test_stopped_in_a_later_episode_goes_on_bit_for_bit(tiny_bert: Path, tmp_path: Path) -> None:
    tables = ({}, {"steps": 6, "weighting": "pcgrad", "shares": "5,2"})
    first = train(config(tiny_bert, tmp_path / "first"))
    for name in ("whole", "parts"):
        run = config(first, tmp_path / name, pooling=None, episodes=tables)
        if name == "parts":
            with stopped_after(3, of_steps=6):
                train(run)
            assert (tmp_path / "parts" / "episode-1" / "model").is_dir()
        train(run)
    assert differing(tmp_path / "whole", tmp_path / "parts") == ["config.json"]
    assert logged(tmp_path / "whole" / "episode-2") == logged(tmp_path / "parts" / "episode-2")


def test_the_best_model_goes_on_from_all_that_was_sampled(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.0, 0.5, 0.1, 0.1])
    monkeypatch.setattr("taco_ir.training.validation.PoolValidation.__call__", lambda _: {"macro": next(scores)})
    model = train(config(tiny_bert, tmp_path / "run", steps=6, validate_every=2))
    assert read_stream(model).position("nq").batches == 6
    assert read_stream(tmp_path / "run" / "best").position("nq").batches == 2
    assert (model / "model.safetensors").samefile(tmp_path / "run" / "best" / "model.safetensors")  # no second copy


def test_pre_training_goes_on(tiny_mlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[int, Any]] = []
    texts = SpanTexts.texts
    monkeypatch.setattr(SpanTexts, "texts", lambda self, *given: (found.append(given), texts(self, *given))[1])

    def trained(steps: int, model: Path, name: str) -> tuple[Path, list[tuple[int, Any]]]:
        found.clear()
        output = train(pretraining_runs.small(model, tmp_path / name, steps=steps))
        return output, [given for given in found if given[1] != "held out"]

    _, whole = trained(6, tiny_mlm, "whole")
    first, before = trained(4, tiny_mlm, "first")
    second, after = trained(2, first, "second")
    assert len(before) == 2 * len(after) and before + after == whole
    assert read_stream(second).steps == 6


def test_readers_and_mixed_trainings_go_on(tiny_mlm: Path, tmp_path: Path, sampled: Batches) -> None:
    cities = write_cities(tmp_path / "cities", ". It has many fish in it. Nobody lives there now")
    mined = {"collection": str(cities), "negatives": str(cities / "negatives.jsonl")}
    shared = {**mined, "tasks": ("nq",), "query_length": 16}
    mixed = {"reading": ("nq",), "reading_batch": 3, "self_supervised": ("mlm", "inverse_cloze"), "passage_batch": 2}
    both = {**shared, **mixed, "batch_size": 4, "schedule": "alternating", "validate_on": "train", "steps": 12}
    train(config(tiny_mlm, tmp_path / "whole", **both))
    whole = taken(sampled)
    model = train(config(tiny_mlm, tmp_path / "first", **both | {"steps": 5}))
    train(config(model, tmp_path / "second", **both | {"steps": 7, "pooling": None}))
    assert taken(sampled) == whole and len({task for task, *_ in whole}) == 4
    alone = {"tasks": ("none",), "reading": ("nq",), "reading_batch": 2, "pooling": None, "steps": 3}
    train(config(model, tmp_path / "reader", **shared | alone))
    first = read_stream(model).position("nq").batches
    assert [number for _, number, _ in taken(sampled)] == [first, first + 1, first + 2]


# the file


def test_no_vector_depends_on_it(tiny_bert: Path, tmp_path: Path) -> None:
    model = train(config(tiny_bert, tmp_path / "run", steps=1))
    before = load_encoder(str(model)).fingerprint
    (model / STREAM_FILE).unlink()
    assert load_encoder(str(model)).fingerprint == before and read_stream(model) == Stream()


def test_it_comes_back(tmp_path: Path) -> None:
    whole, bare = StreamPosition("0f", 34, 2, ((3, 4), (1, 9)), 7, "a1", (2, 5)), StreamPosition("", 1)
    stream = Stream(7, {"nq": whole, "a task": bare})
    write_stream(tmp_path, stream)
    assert read_stream(tmp_path) == stream


@pytest.mark.parametrize(
    "change",
    [
        *({"steps": steps} for steps in (-1, "x")),
        *({"dealt": dealt} for dealt in ([], {"nq": {"parts": [[1, 0]]}}, {"nq": {"unknown": 1}}, {"nq": 3})),
    ],
)
def test_another_file_of_its_name_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / STREAM_FILE).write_text(json.dumps({"steps": 1, "dealt": {}} | change))
    with pytest.raises(InputError, match=rf"^{tmp_path / STREAM_FILE}: .*{min(change)}.*; remove the file to start"):
        read_stream(tmp_path)
