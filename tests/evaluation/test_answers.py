"""Law: measures of answers are KILT's own, read plainly; ROUGE-L is that of the `rouge` package."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verbs import Record, passage, write_collection, write_lines

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import read_run, write_kilt
from taco_ir.core.texts import normal_answer
from taco_ir.core.types import EvidenceSet, Query
from taco_ir.evaluate import main
from taco_ir.evaluation.answers import (
    ANSWER_MEASURES,
    ANSWER_SCORES,
    answer_scores,
    common_subsequence,
    rouge_l,
    select_measures,
    token_f1,
)

words = st.sampled_from(
    ["The", "a", "an", "cat", "Cat's", "cat.", "U.S.", "us", "mat", "on", "1,000", "-", ".", "theatre"]
)
texts = st.lists(words, max_size=7).map(" ".join)
pages = st.sampled_from("ABCD")


def query(answers: Sequence[str], sets: Sequence[Sequence[str]] = (("A",),)) -> Query:
    return Query("q", "text", "nq", tuple(answers), tuple(EvidenceSet(tuple(each), ()) for each in sets))


def score(
    answer: str, golds: Sequence[str], ranking: Sequence[str] = ("A",), sets: Sequence[Sequence[str]] = (("A",),)
) -> dict[str, float]:
    scores = answer_scores({"q": answer}, {"q": list(ranking)}, [query(golds, sets)], ANSWER_MEASURES)
    return {measure: values["q"] for measure, values in scores.items()}


def normal_by_the_book(text: str) -> str:
    """SQuAD's steps, one after the other: lower case, no punctuation, no articles, single blanks."""
    kept = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def best_subsequences(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of a longest common subsequence, by trying all of `a`."""
    for size in range(len(a), 0, -1):
        for places in combinations(range(len(a)), size):
            rest = iter(b)
            if all(a[place] in rest for place in places):
                return size
    return 0


@given(texts)
def test_normal_form_is_squads(text: str) -> None:
    assert normal_answer(text) == normal_by_the_book(text)
    assert normal_answer(normal_answer(text)) == normal_answer(text)


@given(texts, texts)
def test_f1_is_the_overlap_of_bags(answer: str, gold: str) -> None:
    ours, theirs = normal_by_the_book(answer).split(), normal_by_the_book(gold).split()
    rest = list(theirs)
    shared = 0
    for word in ours:
        if word in rest:
            rest.remove(word)
            shared += 1
    assert token_f1(answer, gold) == pytest.approx(2 * shared / (len(ours) + len(theirs)) if shared else 0.0)
    assert token_f1(answer, gold) == pytest.approx(token_f1(gold, answer))


@given(st.lists(words, max_size=7), st.lists(words, max_size=7))
def test_a_common_subsequence_is_common_and_none_is_longer(a: list[str], b: list[str]) -> None:
    found = common_subsequence(a, b)
    for whole in (a, b):
        rest = iter(whole)
        assert all(word in rest for word in found)
    assert len(found) == best_subsequences(a, b)


@given(texts.filter(lambda text: text.replace(".", "")))
def test_a_text_is_its_own_rouge(text: str) -> None:
    assert rouge_l(text, text) == pytest.approx(1, abs=1e-7)


ROUGE_VALUES = (  # of KILT's own function with rouge 1.0.1
    ("police kill the gunman", "police killed the gunman", 0.749999995),  # 3 of 4 words on both sides (Lin, 2004)
    ("the gunman kill police", "police killed the gunman", 0.499999995),
    ("The cat sat. On the mat", "the cat sat on. the mat. The", 0.8333333283333335),
    ("one two three two one", "one two one two", 0.7999999952000001),
    ("A. B. C", "C B A", 0.999999995),
    ("x . y", "y. x", 0.999999995),
    ("...", "a", 0.0),
    (" . ", "a b", 0.0),
)


@pytest.mark.parametrize(("answer", "gold", "value"), ROUGE_VALUES)
def test_rouge_values_of_the_package(answer: str, gold: str, value: float) -> None:
    assert rouge_l(answer, gold) == pytest.approx(value, abs=1e-12)


@given(
    texts,
    st.lists(texts, max_size=4),
    st.lists(pages, max_size=4, unique=True),
    st.lists(st.lists(pages, min_size=1, unique=True), max_size=3),
)
def test_the_best_gold_counts_and_kilt_needs_all_evidence(
    answer: str, golds: list[str], ranking: list[str], sets: list[list[str]]
) -> None:
    values = score(answer, golds, ranking, sets)
    given_golds = [gold.strip() for gold in golds if gold.strip()]
    complete = any(set(ranking[: len(pages)]) == set(pages) for pages in sets)
    for name, measure in ANSWER_SCORES.items():
        expected = max((measure(answer.strip(), gold) for gold in given_golds), default=0.0) if answer.strip() else 0.0
        assert values[name] == expected
        assert values[f"KILT-{name}"] == (expected if complete else 0.0)


def test_strict_and_normalised_matches() -> None:
    assert [score(" The cat. ", ["cat"])[name] for name in ("EM", "F1", "AC")] == [1, 1, 0]
    assert [score("SUPPORTS ", ["SUPPORTS"])[name] for name in ("EM", "F1", "AC")] == [1, 1, 1]
    # nothing is left of either, as in SQuAD's own script
    assert [score("the", ["a"])[name] for name in ("EM", "F1")] == [1, 0]


@pytest.mark.parametrize("measure", ["em", "Rprec", "KILT-"])
def test_other_measures_are_refused(measure: str) -> None:
    with pytest.raises(InputError, match="EM, F1, AC, RL, KILT-EM"):
        answer_scores({}, {}, [], [measure])


def test_kinds_of_tasks_ask_for_different_measures() -> None:
    assert select_measures("open-domain QA") == select_measures("") == ("EM", "F1", "KILT-EM", "KILT-F1")
    assert select_measures("fact checking") == select_measures("entity linking") == ("AC", "KILT-AC")
    assert select_measures("long-form QA")[:2] == ("RL", "F1")


def record(qid: str, golds: Sequence[str], page: str) -> Record:
    outputs: list[Record] = [{"answer": gold} for gold in golds]
    return {"id": qid, "input": f"text of {qid}", "output": [*outputs, {"provenance": [{"wikipedia_id": page}]}]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three questions and two claims; runs of pages with answers. q2's page is wrong, q3 has no answer."""
    monkeypatch.chdir(tmp_path)
    topics = {
        "nq-dev": [
            record("q1", ["Rome", "city of Rome"], "A"),
            record("q2", ["Paris"], "B"),
            record("q3", ["Oslo"], "C"),
        ],
        "fever-dev": [record("f1", ["SUPPORTS"], "A"), record("f2", ["REFUTES"], "B")],
    }
    write_collection(tmp_path / "c", [passage(f"{page}#0", f"text of {page}") for page in "ABCD"], topics)
    runs: dict[str, list[tuple[str, str, str]]] = {
        "nq-dev": [("q1", "city of the rome.", "A"), ("q2", "Paris, France", "D"), ("q3", "", "C")],
        "fever-dev": [("f1", "SUPPORTS", "A"), ("f2", "refutes", "B")],
    }
    for name, rows in runs.items():
        lines = [
            {"id": qid, "output": [{"answer": text, "provenance": [{"wikipedia_id": page}]}]}
            for qid, text, page in rows
        ]
        write_lines(tmp_path / f"{name}.mine.jsonl", lines)
    return tmp_path


def tables(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    main([*argv, "--collection", "c", "--format", "json"])
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
    return rows


def test_evaluate_prints_what_the_tasks_ask_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: q1 EM 1, F1 1; q2 EM 0, F1 2/3 on a wrong page; q3 nothing. f1 right, f2 in lower case."""
    fever, nq, macro = tables(capsys, "nq-dev.mine.jsonl", "fever-dev.mine.jsonl", "--topics", "all-dev")
    assert (nq["answer EM"], nq["answer F1"]) == pytest.approx((1 / 3, 5 / 9))
    assert (nq["answer KILT-EM"], nq["answer KILT-F1"]) == pytest.approx((1 / 3, 1 / 3))
    assert (fever["answer accuracy"], fever["answer KILT-AC"]) == (1 / 2, 1 / 2)
    assert nq["answer accuracy"] is fever["answer EM"] is macro["answer EM"] is None
    assert "answer ROUGE-L" not in nq and nq["page R-precision"] == pytest.approx(2 / 3)


def test_measures_that_are_named_are_printed_for_any_task(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = tables(
        capsys, "fever-dev.mine.jsonl", "--topics", "fever-dev", "--measures", "EM", "RL", "answer accuracy"
    )
    assert (row["answer EM"], row["answer accuracy"]) == (1, 1 / 2)
    rows = tables(capsys, "fever-dev.mine.jsonl", "--topics", "fever-dev", "--measures", "F1", "--per-query")
    assert [row["answer F1"] for row in rows] == [1, 1]


def test_runs_without_answers_have_no_such_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "nq-dev.plain.trec").write_text("q1 Q0 A#0 1 1 t\n")
    (row,) = tables(capsys, "nq-dev.plain.trec", "--topics", "nq-dev")
    assert not [name for name in row if name.startswith("answer")]
    (row,) = tables(capsys, "nq-dev.plain.trec", "--topics", "nq-dev", "--measures", "EM")
    assert row["answer EM"] is None


def test_answers_survive_writing_and_reading(folder: Path) -> None:
    run = read_run(folder / "nq-dev.mine.jsonl")
    assert run.answers == {"q1": "city of the rome.", "q2": "Paris, France"}
    queries = [Query(qid, "text", "nq") for qid in ("q1", "q2", "q3")]
    write_kilt(run, queries, folder / "again.jsonl")
    again = read_run(folder / "again.jsonl")
    assert again.answers == run.answers and again.rankings.keys() == run.rankings.keys()
    assert all(again.rankings[qid].docids == ranking.docids for qid, ranking in run.rankings.items())
