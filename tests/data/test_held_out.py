"""Laws of a collection to choose settings on: no query that is trained on shares a page with one that is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verbs import Record, passage, query, write_collection

from taco_ir.core.files import InputError
from taco_ir.core.types import EvidenceSet, Query
from taco_ir.data.__main__ import main
from taco_ir.data.collection import open_collection
from taco_ir.data.held_out import split_by_page


def queries(pages: list[list[int]], texts: list[int] | None = None) -> list[Query]:
    """A query for each list of pages, each with a text of its own unless `texts` numbers them."""
    numbers = texts or range(len(pages))
    return [
        Query(f"q{row}", f"text {number}", "nq", evidence=(EvidenceSet(tuple(map(str, own)), ()),))
        for row, (own, number) in enumerate(zip(pages, numbers, strict=True))
    ]


PAGES = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=2), min_size=2, max_size=30)


@given(PAGES, st.integers(1, 30), st.floats(0.05, 0.6), st.integers(0, 5))
def test_what_is_held_out_has_pages_and_texts_of_its_own(
    pages: list[list[int]], different: int, share: float, seed: int
) -> None:
    given_ = queries(pages, [row % different for row in range(len(pages))])
    try:
        split = split_by_page(given_, share, seed, "nq")
    except InputError:
        return
    trained, held = ({page for each in part for page in each.evidence[0].pages} for part in (split.train, split.dev))
    assert not trained & held
    assert not {each.text for each in split.train} & {each.text for each in split.dev}
    assert len(split.dev) >= share * len(given_)
    assert len(split.train) + len(split.dev) + split.dropped == len(given_)
    order = [each.qid for each in given_]
    for part in (split.train, split.dev):
        assert [each.qid for each in part] == sorted((each.qid for each in part), key=order.index)
    assert split == split_by_page(given_, share, seed, "nq")


def test_the_seed_draws_the_pages() -> None:
    given_ = queries([[page] for page in range(10)] * 3)
    found = {tuple(each.qid for each in split_by_page(given_, 0.2, seed, "nq").dev) for seed in range(8)}
    assert len(found) > 3
    assert {len(each) for each in found} == {6}  # two pages of three queries


def test_one_page_cannot_be_split() -> None:
    with pytest.raises(InputError, match="nq: its 4 train queries with gold share 1 pages, too few to hold out 10%"):
        split_by_page(queries([[1]] * 4), 0.1, 0, "nq")


def records(pages: list[list[int]]) -> list[Record]:
    return [query(f"q{number}", f"text {number}", [f"{page}#0" for page in own]) for number, own in enumerate(pages)]


def held_out(
    folder: Path, train: list[Record], name: str = "nq-train", task: str = "nq"
) -> tuple[list[Record], list[Record]]:
    """The records of train and dev that hold-out makes of a collection with `train`."""
    write_collection(folder / "c", [passage(f"{page}#0", f"text {page}") for page in range(8)], {name: train})
    main(f"hold-out --collection {folder}/c --tasks {task} --share 0.4 --output {folder}/out".split())
    made = (
        folder / "out" / f"{name.removesuffix('-kilt').removesuffix('-train')}-{split}.jsonl"
        for split in ("train", "dev")
    )
    train_records, dev = ([json.loads(line) for line in path.read_text().splitlines()] for path in made)
    return train_records, dev


def test_all_records_of_a_query_go_where_it_goes(tmp_path: Path) -> None:
    """FEVER lists a claim once for each annotation, with other pages; a claim may also have several ids."""
    claims = [query(f"q{number % 8}", f"claim {number % 8}", [f"{number // 2 % 8}#0"]) for number in range(16)]
    claims += [query(f"again{number}", f" Claim  {number}", [f"{number}#0"]) for number in range(0, 8, 2)]
    train, dev = held_out(tmp_path, claims)
    ids, texts = (
        [{record[key].lower().replace("  ", " ").strip() for record in part} for part in (train, dev)]
        for key in ("id", "input")
    )
    assert train and dev and not ids[0] & ids[1] and not texts[0] & texts[1]
    for part in (train, dev):
        for record in part:
            assert part.count(record) == claims.count(record)
            assert sum(each["id"] == record["id"] for each in part) == sum(
                each["id"] == record["id"] for each in claims
            )


def test_records_with_nulls_are_read_and_kept_as_they_are(tmp_path: Path) -> None:
    with_nulls: list[Record] = [
        {
            "id": f"q{page}",
            "input": f"what is page {page}",
            "output": [{"provenance": [{"wikipedia_id": str(page)}]}, {"provenance": None}],
        }
        for page in range(8)
    ]
    bare: Record = {"id": "bare", "input": "no output", "output": None}
    train, dev = held_out(tmp_path, [*with_nulls, bare])
    assert train and dev and bare in train
    assert sorted(record["id"] for record in [*train, *dev]) == sorted(record["id"] for record in [*with_nulls, bare])
    assert all(record in with_nulls for record in dev)


@pytest.mark.parametrize("name", ["pre-training-train", "pre-train-train-kilt", "hop-dev-train"])
def test_a_task_may_have_dashes_in_its_name(tmp_path: Path, name: str) -> None:
    """The split is what follows the last dash, whatever the task's name looks like."""
    task = name.removesuffix("-kilt").removesuffix("-train")
    train, dev = held_out(tmp_path, records([[page] for page in range(8)]), name, task)
    assert train and dev
    made = open_collection(str(tmp_path / "out"))
    assert [str(each) for each in made.topics_names] == [f"{task}-dev", f"{task}-train"]


def test_the_folder_is_a_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_collection(
        tmp_path / "c",
        [passage(f"{page}#0", f"text {page}") for page in range(6)],
        {"nq-train": records([[page] for page in range(6)])},
    )
    main(["hold-out", "--collection", "c", "--tasks", "nq", "--share", "0.3", "--output", "out"])
    assert "nq: 4 to train on, 2 held out, 0 left out (they share" in capsys.readouterr().out
    made, before = open_collection("out"), open_collection("c")
    assert made.passages.fingerprint == before.passages.fingerprint
    train, dev = (made.load_topics(f"nq-{split}").queries for split in ("train", "dev"))
    assert {each.qid for each in train} | {each.qid for each in dev} == {f"q{number}" for number in range(6)}
    assert json.loads((tmp_path / "out" / "nq-held-out.json").read_text())["dev"] == 2
    main(["hold-out", "--collection", "c", "--tasks", "nq", "--share", "0.3", "--output", "out"])
    assert "nq: 4 to train on, 2 held out, 0 left out (they share" in capsys.readouterr().out
    with pytest.raises(
        InputError,
        match=r"--output out exists and was made differently \(nq share is 0.3, not 0.1\); "
        "give another name or remove it",
    ):
        main(["hold-out", "--collection", "c", "--tasks", "nq", "--output", "out"])
    with pytest.raises(InputError, match="--share is 1.5; it must be a number between 0 and 1"):
        main(["hold-out", "--collection", "c", "--tasks", "nq", "--share", "1.5", "--output", "other"])
