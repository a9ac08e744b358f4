"""Laws of a collection to choose settings on: no query that is trained on shares a page with one that is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verbs import Record, passage, query, write_collection

from taco_ir.data.__main__ import main
from taco_ir.data.collections import open_collection
from taco_ir.data.held_out import pages_of, split_by_page
from taco_ir.files import InputError


def records(pages: list[list[int]]) -> list[Record]:
    return [query(f"q{number}", "text", [f"{page}#0" for page in own]) for number, own in enumerate(pages)]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=2), min_size=2, max_size=30), st.floats(0.05, 0.6), st.integers(0, 5))
def test_what_is_held_out_has_pages_of_its_own(pages: list[list[int]], share: float, seed: int) -> None:
    given_ = records(pages)
    try:
        split = split_by_page(given_, share, seed, "nq")
    except InputError:
        return
    trained, held = ({page for record in each for page in pages_of(record)} for each in (split.train, split.dev))
    assert not trained & held
    assert len(split.dev) >= share * len(given_)
    assert len(split.train) + len(split.dev) + split.dropped == len(given_)
    order = [record["id"] for record in given_]
    for part in (split.train, split.dev):
        assert [record["id"] for record in part] == sorted((record["id"] for record in part), key=order.index)
    assert split == split_by_page(given_, share, seed, "nq")


def test_the_seed_draws_the_pages() -> None:
    given_ = records([[page] for page in range(10)] * 3)
    found = {tuple(record["id"] for record in split_by_page(given_, 0.2, seed, "nq").dev) for seed in range(8)}
    assert len(found) > 3
    assert {len(each) for each in found} == {6}  # two pages of three queries


def test_one_page_cannot_be_split() -> None:
    with pytest.raises(InputError, match="nq: 4 train queries with evidence on 1 pages; too few to hold 10% out"):
        split_by_page(records([[1]] * 4), 0.1, 0, "nq")


def test_the_folder_is_a_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_collection(
        tmp_path / "c", [passage(f"{page}#0", f"text {page}") for page in range(6)], {"nq-train": records([[page] for page in range(6)])}
    )
    main(["hold-out", "--collection", "c", "--tasks", "nq", "--share", "0.3", "--output", "out"])
    assert "nq: 4 to train on, 2 held out, 0 in neither" in capsys.readouterr().out
    made, before = open_collection("out"), open_collection("c")
    assert made.passages.fingerprint == before.passages.fingerprint
    train, dev = (made.load_topics(f"nq-{split}").queries for split in ("train", "dev"))
    assert {each.qid for each in train} | {each.qid for each in dev} == {f"q{number}" for number in range(6)}
    assert json.loads((tmp_path / "out" / "nq-held-out.json").read_text())["dev"] == 2
    with pytest.raises(InputError, match="--output out exists"):
        main(["hold-out", "--collection", "c", "--tasks", "nq", "--output", "out"])
    with pytest.raises(InputError, match="--share 1.5: a number between 0 and 1"):
        main(["hold-out", "--collection", "c", "--tasks", "nq", "--share", "1.5", "--output", "other"])
