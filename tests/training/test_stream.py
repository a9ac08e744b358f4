"""Trainings one after the other go on with one stream: of queries, passages, negatives, dropout, and of whose turn it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pretraining_runs
import pytest
from cities import write_cities
from training_runs import StopAfter, Stopped, contents, logged, small

from taco_ir.core.files import InputError
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.training import batches
from taco_ir.training.batches import Dealt, TaskSampler
from taco_ir.training.objectives.spans import SpanTexts
from taco_ir.training.run import train
from taco_ir.training.run import train as pretrain
from taco_ir.training.stream import STREAM_FILE, Stream, read_stream, write_stream

NQ = 34  # train queries of the sample
Batches = list[tuple[str, int, list[tuple[str, int]]]]  # task, number, (qid, epoch) of each query


def config(model: Path, output: Path, /, **changes: Any) -> Any:
    return small(model, output, tasks=("nq", "fever"), batch_size=8, steps=4, validate_every=4, pool_queries=2).replace(
        **changes
    )


@pytest.fixture
def dealt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Batches]:
    """Every batch that a training takes."""
    found: Batches = []
    step = TaskSampler.step

    def noted(self: TaskSampler, number: int) -> list[batches.Drawn]:
        drawn = step(self, number)
        found.append((self.task, number, [(each.qid, epoch) for each, epoch in drawn]))
        return drawn

    monkeypatch.setattr(TaskSampler, "step", noted)
    yield found


def of(task: str, dealt: Batches) -> list[tuple[str, int]]:
    return [each for name, _, drawn in dealt if name == task for each in drawn]


def taken(dealt: Batches) -> Batches:
    """What was dealt up to now; the list is empty afterwards."""
    found = list(dealt)
    dealt.clear()
    return found


def test_three_episodes_of_four_steps_see_all_queries(tiny_bert: Path, tmp_path: Path, dealt: Batches) -> None:
    train(config(tiny_bert, tmp_path / "three", episodes=({"repeat": 3},)))
    episodes = taken(dealt)
    counts = Counter(qid for qid, _ in of("nq", episodes))
    assert len(counts) == NQ and sum(counts.values()) == 48 and max(counts.values()) == 2
    train(config(tiny_bert, tmp_path / "one", steps=12))
    assert taken(dealt) == episodes


def test_episodes_of_other_shares_go_on(tiny_bert: Path, tmp_path: Path, dealt: Batches) -> None:
    train(
        config(
            tiny_bert, tmp_path / "run", episodes=({"shares": "4,2"}, {"shares": "7,3"}, {"shares": "4,2", "steps": 2})
        )
    )
    stream = of("nq", taken(dealt))
    assert [epoch for _, epoch in stream] == [place // NQ for place in range(16 + 28 + 8)]
    assert len({qid for qid, _ in stream[:NQ]}) == NQ


def test_a_training_from_a_trained_model_goes_on_wherever_it_is(
    tiny_bert: Path, tmp_path: Path, dealt: Batches
) -> None:
    """...and systems that start from one model share their batches."""
    train(config(tiny_bert, tmp_path / "whole", steps=12))
    whole = taken(dealt)
    first = train(config(tiny_bert, tmp_path / "first", steps=4))
    before = taken(dealt)
    for name, weighting in (("second", "naive"), ("other", "pcgrad")):
        second = train(config(first, tmp_path / name, steps=8, pooling=None, weighting=weighting))
        assert before + taken(dealt) == whole
        assert read_stream(second).steps == 12 and read_stream(second).of("nq").batches == 12


def test_a_task_left_out_for_a_while_goes_on_where_it_was(tiny_bert: Path, tmp_path: Path, dealt: Batches) -> None:
    models = [tiny_bert]
    for number, tasks in enumerate((("nq",), ("fever",), ("nq",))):
        own = {"batch_size": 8, "steps": 3, "pooling": None if number else "mean"}
        models.append(train(config(models[-1], tmp_path / str(number), tasks=tasks, **own)))
    assert len({qid for qid, _ in of("nq", dealt)}) == NQ
    assert [number for task, number, _ in dealt if task == "nq"] == [0, 1, 2, 3, 4, 5]


def test_dropout_goes_on(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[tuple[Any, ...]] = []
    from taco_ir.training.objectives import contrastive as module

    real = module.backward
    monkeypatch.setattr(module, "backward", lambda *args: (seeds.append(tuple(args[4])), real(*args))[1])
    train(config(tiny_bert, tmp_path / "run", episodes=({"repeat": 2},)))
    assert len(seeds) == len(set(seeds)) == 16 and {seed[2] for seed in seeds} == set(range(8))


def test_stopped_in_a_later_episode_goes_on_bit_for_bit(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = ({}, {"steps": 6, "weighting": "pcgrad", "shares": "5,2"})
    first = train(config(tiny_bert, tmp_path / "first"))
    for name in ("whole", "parts"):
        run = config(first, tmp_path / name, pooling=None, episodes=tables)
        if name == "parts":
            with monkeypatch.context() as patch, pytest.raises(Stopped):
                patch.setattr(
                    "taco_ir.training.run.ConsoleReporter", lambda steps, *_: StopAfter(3 if steps == 6 else 99)
                )
                train(run)
            assert (tmp_path / "parts" / "episode-1" / "model").is_dir()
        train(run)
    whole, parts = (contents(tmp_path / name) for name in ("whole", "parts"))
    assert [name for name in whole if whole[name] != parts[name]] == ["config.json"] and whole.keys() == parts.keys()
    assert logged(tmp_path / "whole" / "episode-2") == logged(tmp_path / "parts" / "episode-2")


def test_the_best_model_goes_on_from_what_was_dealt(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.0, 0.5, 0.1, 0.1])
    monkeypatch.setattr("taco_ir.training.validation.PoolValidation.__call__", lambda _: {"macro": next(scores)})
    model = train(config(tiny_bert, tmp_path / "run", steps=6, validate_every=2))
    assert read_stream(model).of("nq").batches == 6
    assert read_stream(tmp_path / "run" / "best").of("nq").batches == 2
    assert (model / "model.safetensors").read_bytes() == (tmp_path / "run" / "best" / "model.safetensors").read_bytes()


def test_pre_training_goes_on(tiny_mlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[int, Any]] = []
    texts = SpanTexts.texts
    monkeypatch.setattr(SpanTexts, "texts", lambda self, *drawn: (found.append(drawn), texts(self, *drawn))[1])

    def trained(steps: int, model: Path, name: str) -> tuple[Path, list[tuple[int, Any]]]:
        found.clear()
        output = pretrain(pretraining_runs.small(model, tmp_path / name, steps=steps))
        return output, [drawn for drawn in found if drawn[1] != "held out"]

    _, whole = trained(6, tiny_mlm, "whole")
    first, before = trained(4, tiny_mlm, "first")
    second, after = trained(2, first, "second")
    assert len(before) == 2 * len(after) and before + after == whole
    assert read_stream(second).steps == 6


def test_readers_and_mixed_trainings_go_on(tiny_mlm: Path, tmp_path: Path, dealt: Batches) -> None:
    cities = write_cities(tmp_path / "cities", ". It has many fish in it. Nobody lives there now")
    shared = {
        "collection": str(cities),
        "tasks": ("nq",),
        "negatives": str(cities / "negatives.jsonl"),
        "query_length": 16,
    }
    mixed = {"reading": ("nq",), "reading_batch": 3, "self_supervised": ("mlm", "inverse_cloze"), "passage_batch": 2}
    both = {**shared, **mixed, "batch_size": 4, "schedule": "alternating", "validate_on": "train", "steps": 12}
    train(config(tiny_mlm, tmp_path / "whole", **both))
    whole = taken(dealt)
    model = train(config(tiny_mlm, tmp_path / "first", **both | {"steps": 5}))
    train(config(model, tmp_path / "second", **both | {"steps": 7, "pooling": None}))
    assert taken(dealt) == whole and len({task for task, *_ in whole}) == 4
    alone = {"tasks": ("none",), "reading": ("nq",), "reading_batch": 2, "pooling": None, "steps": 3}
    train(config(model, tmp_path / "reader", **shared | alone))
    assert [number for _, number, _ in taken(dealt)] == [
        read_stream(model).of("nq").batches + step for step in range(3)
    ]


# the file


def test_no_vector_depends_on_it(tiny_bert: Path, tmp_path: Path) -> None:
    model = train(config(tiny_bert, tmp_path / "run", steps=1))
    before = load_encoder(str(model)).fingerprint
    (model / STREAM_FILE).unlink()
    assert load_encoder(str(model)).fingerprint == before and read_stream(model) == Stream()


def test_it_comes_back(tmp_path: Path) -> None:
    stream = Stream(7, {"nq": Dealt("0f", 34, 2, ((3, 4), (1, 9)), 7, "a1", (2, 5)), "a task": Dealt("", 1)})
    write_stream(tmp_path, stream)
    assert read_stream(tmp_path) == stream


@pytest.mark.parametrize(
    "change",
    [
        {"steps": -1},
        {"steps": "x"},
        {"dealt": []},
        {"dealt": {"nq": {"parts": [[1, 0]]}}},
        {"dealt": {"nq": {"unknown": 1}}},
        {"dealt": {"nq": 3}},
    ],
)
def test_another_file_of_its_name_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / STREAM_FILE).write_text(json.dumps({"steps": 1, "dealt": {}} | change))
    with pytest.raises(InputError, match=rf"^{tmp_path / STREAM_FILE}: .*{min(change)}.*; remove it to begin anew"):
        read_stream(tmp_path)
