"""A sample of a topics file is the one of the whole file in memory, and memory does not grow with the file."""

from __future__ import annotations

import logging
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from verbs import Record, passage, query, write_collection, write_lines

from taco_ir.core.files import InputError
from taco_ir.core.hashes import generator
from taco_ir.data import outline
from taco_ir.data.collection import Collection, Topics, open_collection
from taco_ir.data.examples import read_examples, read_sampled_examples, sample_examples
from taco_ir.data.gold import find_positives
from taco_ir.data.topics import plain_text
from taco_ir.training.validation import sample_queries

DOCIDS = [f"{page}#{place}" for page in range(20) for place in range(2)]


def some_record(draw: random.Random, qid: int) -> Record:
    """Evidence of passages, of pages, of pages that the collection lacks, or none; texts may be shared."""
    sets = [
        [f"{draw.randrange(35)}#{draw.randrange(3)}" for _ in range(draw.choice((1, 1, 2)))]
        for _ in range(draw.choice((0, 1, 1, 2)))
    ]
    record = query(f"q{qid}", f"{'  ' * (qid % 3)}Question {qid % 40}", *sets)
    for output in record["output"]:
        if draw.random() < 0.4:
            for each in output["provenance"]:
                del each["passage_id"]
    return record


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """150 train queries in 200 records; some records repeat an id, far from the first that has it."""
    draw = random.Random(3)
    records = [some_record(draw, qid) for qid in range(150)]
    records += [some_record(draw, draw.randrange(150)) for _ in range(50)]
    topics = {"nq-train": records, "nq-dev": records[:40]}
    return open_collection(str(write_collection(tmp_path / "c", [passage(docid, "x") for docid in DOCIDS], topics)))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outline, "CHUNK", 32)


@pytest.mark.parametrize(
    ("most", "share"), [(7, 1.0), (1, 1.0), (0, 0.2), (0, 0.001), (9, 0.5), (10_000, 1.0), (0, 1.0), (0, 0.9999)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_drawn_is_drawn_of_all(collection: Collection, most: int, share: float, seed: int) -> None:
    for without in (
        set(),
        {"question 3", "question 17"},
        {plain_text(example.text) for example in read_examples(collection, "nq")},
    ):
        every = [example for example in read_examples(collection, "nq") if plain_text(example.text) not in without]
        assert read_sampled_examples(collection, "nq", most, seed, share, without) == sample_examples(
            every, most, seed, "nq", share
        )


@pytest.mark.parametrize("split", ["train", "dev"])
def test_what_is_validated_on_is_drawn_of_all(collection: Collection, split: str) -> None:
    topics = collection.load_topics(f"nq-{split}")
    usable = [
        each
        for each, sets in zip(topics.queries, find_positives(collection.passages, topics.queries), strict=True)
        if sets
    ]
    size = min(9, len(usable) // 5 if split == "train" else len(usable))
    rows = generator(2, topics.name).choice(len(usable), size=size, replace=False)
    expected = Topics(topics.name, "nq", [usable[row] for row in sorted(rows.tolist())])
    assert sample_queries(collection, "nq", split, 9, 2) == expected


def test_what_is_said_of_a_file_is_said_of_all_of_it(collection: Collection, caplog: pytest.LogCaptureFixture) -> None:
    said = []
    for read in (lambda: read_examples(collection, "nq"), lambda: read_sampled_examples(collection, "nq", 3, 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "taco_ir"):
            read()
        said.append([record.getMessage() for record in caplog.records])
    assert said[0] == said[1] and len(said[0]) == 2
    assert said[0][0] == "nq-train.jsonl: 50 records repeat an earlier id and text; their evidence was merged"


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ([query("q5", "Another text", ["1#0"])], r"line 201: id 'q5' has another text on line 6; ids must be unique"),
        ([query("q1", " ")], r"line 201: query 'q1' has input ' '"),
        (None, "it is empty; a topics file has one KILT record per line"),
    ],
)
def test_a_file_that_is_wrong_is_refused_as_ever(
    collection: Collection, extra: list[Record] | None, fault: str
) -> None:
    path = collection.topics_path("nq-train")
    lines = path.read_text().splitlines(keepends=True) if extra else []
    write_lines(path, extra or [])
    path.write_text("".join(lines) + path.read_text())
    for read in (lambda: read_examples(collection, "nq"), lambda: read_sampled_examples(collection, "nq", 3, 0)):
        with pytest.raises(InputError, match=fault):
            read()


def test_queries_without_a_positive_are_refused_as_ever(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "c", [passage("1#0", "x")], {"nq-train": [query("a", "first", ["9#9"])]})
    with pytest.raises(InputError, match=r"nq-train: none of its 1 queries has a positive passage in collection c"):
        read_sampled_examples(open_collection(str(folder)), "nq", 3, 0)


@pytest.mark.parametrize(
    "draw", [lambda own: read_sampled_examples(own, "nq", 5, 0), lambda own: sample_queries(own, "nq", "train", 5, 0)]
)
def test_memory_follows_what_is_drawn(tmp_path: Path, draw: Callable[[Collection], object]) -> None:
    """Of 3,000 records of 2 kB those that are drawn are kept; of the others few bytes each."""
    records = [query(f"q{row}", f"question {row} " + "word " * 400, ["1#0"]) for row in range(3000)]
    own = open_collection(str(write_collection(tmp_path / "c", [passage("1#0", "x")], {"nq-train": records})))
    assert own.passages.count == 1
    tracemalloc.start()
    try:
        draw(own)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 500 * len(records)
