"""Laws of a subset: no evidence is lost, the seed decides the rest, and equal input gives equal bytes."""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verbs import Record, call, module_of, passage, query, write_collection

from taco_ir.core.files import InputError
from taco_ir.core.types import Passage
from taco_ir.data.__main__ import main
from taco_ir.data.collection import Collection, open_collection
from taco_ir.data.gold import find_positives
from taco_ir.data.passage_store import PassageStore
from taco_ir.data.subsets import Subset, make_subset

search = module_of("search")

PASSAGES = [passage(f"{page}#{n}", f"text {n} of {page}") for page in range(8) for n in range(3)]
PAGES_ONLY: Record = {
    "id": "q3",
    "input": "three",
    "output": [{"provenance": [{"wikipedia_id": "5"}, {"wikipedia_id": "gone"}]}],
}
MIXED: Record = {
    "id": "f1",
    "input": "one",
    "output": [{"provenance": [{"wikipedia_id": "6", "passage_id": "6#0"}, {"wikipedia_id": "7"}]}],
}
NQ = [query("q1", "one", ["0#1"], ["1#2"]), query("q2", "two", ["0#1", "2#0"]), PAGES_ONLY]
GOLD = {"0#1", "1#2", "2#0", "5#0", "5#1", "5#2", "6#0", "7#0", "7#1", "7#2"}  # of nq-dev and fever-dev


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    bare: list[Record] = [{"id": "t1", "input": "one"}]
    lost = [query("l1", "one", ["99#0"])]
    write_collection(tmp_path / "c", PASSAGES, {"nq-dev": NQ, "fever-dev": [MIXED], "nq-test": bare, "wow-dev": lost})
    return tmp_path


def made_subset(
    output: str, distractors: int = 5, seed: int = 0, topics: tuple[str, ...] = ("nq-dev", "fever-dev")
) -> Subset:
    return make_subset(open_collection("c"), topics, distractors, seed, Path(output))


def docids(name: str) -> list[str]:
    return [passage.docid for passage in open_collection(name).passages.read()]


def contents(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(name).iterdir()}


def test_every_gold_passage_is_in_and_as_many_distractors_as_asked() -> None:
    """The passages of an evidence set; of a page without a judged passage, all."""
    assert made_subset("p") == Subset(passages=15, gold=10, distractors=5)
    found = docids("p")
    assert set(found) > GOLD and len(found) == 15
    assert found == [docid for docid in docids("c") if docid in found]
    whole = {each.docid: each for each in open_collection("c").passages.read()}
    assert all(each == whole[each.docid] for each in open_collection("p").passages.read())
    assert json.loads(Path("p/part.json").read_text()) == {
        "source": open_collection("c").passages.fingerprint,
        "topics": json.loads(Path("p/part.json").read_text())["topics"],
        "distractors": 5,
        "seed": 0,
        "max_queries": 0,
        "name": "c",
        "passages": 15,
        "gold": 10,
    }


def test_topics_are_copied_as_they_are_and_keep_their_evidence() -> None:
    made_subset("p")
    assert [str(name) for name in open_collection("p").topics_names] == ["fever-dev", "nq-dev"]
    for name in ("fever-dev", "nq-dev"):
        assert Path(f"p/{name}.jsonl").read_bytes() == Path(f"c/{name}.jsonl").read_bytes()
        sets = [
            find_positives(each.passages, each.load_topics(name).queries) for each in map(open_collection, ("c", "p"))
        ]
        assert sets[0] == sets[1]


def test_the_seed_decides_the_distractors_and_nothing_else() -> None:
    for name, distractors, seed in (("a", 5, 0), ("b", 5, 0), ("c5", 5, 1), ("more", 9, 0)):
        made_subset(name, distractors, seed)
    assert contents("a") == contents("b")
    assert set(docids("a")) != set(docids("c5")) and set(docids("a")) & set(docids("c5")) >= GOLD
    assert set(docids("a")) < set(docids("more"))


def test_all_distractors_make_the_whole_collection() -> None:
    made_subset("p", len(PASSAGES) - len(GOLD))
    assert docids("p") == docids("c")


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 4), st.booleans())
def test_no_evidence_is_lost_whatever_it_names(random: random.Random, distractors: int, tsv: bool) -> None:
    """Every evidence passage, and a passage of every evidence page, that the collection has is in the subset."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "s"
        records = [
            passage(f"{page}#{n}" if not tsv else f"{10 * page + n}", "text") for page in range(4) for n in range(2)
        ]
        pages = {record["id"]: str(row // 2) for row, record in enumerate(records)}
        gold = [random_set(random, pages) for _ in range(random.randint(1, 3))]
        write_collection(
            source, records, {"nq-dev": [{"id": "q", "input": "x", "output": [{"provenance": each} for each in gold]}]}
        )
        if tsv:
            (source / "passages.jsonl").unlink()
            lines = [f"{docid}\ttext\tT\t{page}\n" for docid, page in pages.items()]
            (source / "psgs_w100.tsv").write_text("id\ttext\ttitle\twikipedia_id\n" + "".join(lines))
        collection = open_collection(str(source))
        try:
            made = make_subset(collection, ["nq-dev"], distractors, 0, Path(name) / "p")
        except InputError as error:
            assert "--distractors" in str(error) or "none of their gold passages" in str(error)
            return
        found = PassageStore(Path(name) / "p" / "passages.jsonl.gz")
        named = [item for each in gold for item in each]
        assert {item["passage_id"] for item in named if "passage_id" in item} <= {
            each.docid for each in found.read()
        } | {"gone"}
        assert found.missing_pages(item["wikipedia_id"] for item in named if item["wikipedia_id"] != "gone") == []
        assert found.count == made.passages == made.gold + distractors


def random_set(random: random.Random, pages: dict[str, str]) -> list[dict[str, str]]:
    """One to three entries: a passage, a page, or one that the collection lacks."""
    entries = []
    for _ in range(random.randint(1, 3)):
        docid = random.choice(sorted(pages))
        entry = {"wikipedia_id": pages[docid], "passage_id": docid}
        if random.random() < 0.4:
            del entry["passage_id"]
        entries.append(random.choice([entry, entry, entry, {"wikipedia_id": "gone", "passage_id": "gone"}]))
    return entries


@pytest.mark.parametrize("packed", [False, True])
def test_of_many_queries_some_are_sampled_and_only_their_passages_are_gold(packed: bool) -> None:
    """The same ones for a seed, as their records are, in order; a number that is not reached changes nothing."""
    records = [query(f"q{page}", f"text {page}", [f"{page}#0"]) for page in range(8)]
    write_collection(Path("c"), PASSAGES, {"trex-dev": records})
    if packed:
        plain = Path("c") / "trex-dev.jsonl"
        plain.with_name("trex-dev.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    collection = open_collection("c")
    made = make_subset(collection, ["trex-dev"], 2, 0, Path("some"), max_queries=3)
    assert (made.gold, made.distractors) == (3, 2)
    kept = open_collection("some").load_topics("trex-dev").queries
    every = collection.load_topics("trex-dev").queries
    assert len(kept) == 3 and kept == [each for each in every if each in kept]
    assert {f"{each.qid[1:]}#0" for each in kept} <= set(docids("some"))
    others = {"seed": 1, "again": 0}
    for name, seed in others.items():
        make_subset(collection, ["trex-dev"], 2, seed, Path(name), max_queries=3)
    assert contents("again") == contents("some")
    assert open_collection("seed").load_topics("trex-dev").queries != kept
    make_subset(collection, ["trex-dev"], 2, 0, Path("all"))
    make_subset(collection, ["trex-dev"], 2, 0, Path("most"), max_queries=8)
    (name,) = (path.name for path in Path("all").glob("trex-dev*"))
    read = [open_collection(each).load_topics("trex-dev").queries for each in ("all", "most")]
    assert read[0] == read[1] == every and docids("all") == docids("most") and (Path("most") / name).is_file()
    with pytest.raises(InputError, match="max_queries is 3, not 4"):
        make_subset(collection, ["trex-dev"], 2, 0, Path("some"), max_queries=4)


def test_an_existing_subset_stays() -> None:
    first = made_subset("p")
    times = {path.name: path.stat().st_mtime_ns for path in Path("p").iterdir()}
    Path("c").rename("elsewhere")
    assert make_subset(open_collection("elsewhere"), ("nq-dev", "fever-dev"), 5, 0, Path("p")) == first
    assert {path.name: path.stat().st_mtime_ns for path in Path("p").iterdir()} == times


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: made_subset("p", 6),
            "exists and was made differently (distractors is 5, not 6); give another name or remove it",
        ),
        (lambda: made_subset("p", seed=1), "exists and was made differently (seed is 0, not 1)"),
        (lambda: made_subset("p", topics=("nq-dev",)), "exists and was made differently (topics "),
        (lambda: made_subset("c"), "c exists, and nothing records how it was made; give another name or remove it"),
        (lambda: made_subset("c/nq-dev.jsonl"), "exists, and nothing records how it was made"),
        (
            lambda: made_subset("new", 15),
            "--distractors 15: c has 24 passages, and 10 of them are gold, so at most 14 can be sampled",
        ),
        (
            lambda: made_subset("new", topics=("nq-dev", "nq-test")),
            "--topics nq-test: these topics have no gold, which a subset needs",
        ),
        (
            lambda: made_subset("new", topics=("wow-dev",)),
            "--topics wow-dev: none of their gold passages is in the collection",
        ),
        (lambda: made_subset("new", topics=("nq-train",)), "unknown topics 'nq-train'"),
    ],
)
def test_mistakes(make: Callable[[], Subset], said: str) -> None:
    made_subset("p")
    before = contents("p")
    with pytest.raises(InputError) as error:
        make()
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(Path().glob("new*")) and contents("p") == before


def test_a_folder_that_lost_a_file_and_a_changed_source_are_refused() -> None:
    made_subset("p")
    Path("p/nq-dev.jsonl").unlink()
    with pytest.raises(InputError, match=r"the subset in it is incomplete, .*nq-dev\.jsonl is missing"):
        made_subset("p")
    with Path("c/passages.jsonl").open("a") as file:
        file.write(json.dumps(passage("new#0", "text")) + "\n")
    with pytest.raises(InputError, match=r"made differently \(source is "):
        made_subset("p")


def test_stopped_on_the_way_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    at = PassageStore.at

    def broken(store: PassageStore, rows: Any) -> Any:
        for place, each in enumerate(at(store, rows)):
            if place == 12:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(PassageStore, "at", broken)
    with pytest.raises(KeyboardInterrupt):
        made_subset("p")
    assert not [path for path in Path().iterdir() if path.name.startswith("p")]


def test_the_verb_and_search_on_what_it_made(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call("data", "subset", "--topics", "all-dev", "--distractors", "20", "--output", "small", cwd=folder)
    assert done.stdout == "small: 155 passages, 135 gold and 20 distractors\n", done.stderr
    main(["subset", "--topics", "all-dev", "--distractors", "20", "--output", "small"])
    assert capsys.readouterr().out == done.stdout
    search.main(["--collection", "small", "--topics", "nq-dev", "--retriever", "bm25"])
    sample: Collection = open_collection("sample")
    assert "collection small" in (printed := capsys.readouterr().out) and "nq-dev" in printed
    kept: list[Passage] = list(open_collection("small").passages.read())
    assert {each.docid for each in kept} < {each.docid for each in sample.passages.read()}


def test_the_verb_says_what_is_wrong(folder: Path) -> None:
    for argv, said in (
        (["--distractors", "20", "--output", "x"], "--topics is needed"),
        (["--topics", "all-dev", "--output", "x"], "--distractors"),
        (["--topics", "all-dev", "--distractors", "0", "--output", "x"], "'0' is not a whole number of at least 1"),
    ):
        done = call("data", "subset", *argv, cwd=folder)
        assert (done.returncode, done.stdout) == (2, "") and said in done.stderr and done.stderr.count("\n") == 1
