"""Law: a span, normalised as SQuAD does, is an answer; all whole-word places are found; what is dropped is counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verbs import Record, passage, write_collection

from taco_ir.core.files import InputError
from taco_ir.core.texts import VERDICTS, normal_answer, telling_answers
from taco_ir.data.collection import Collection, open_collection
from taco_ir.negatives.file import Negatives, NegativesHeader
from taco_ir.reading.answer_spans import answer_forms, find_spans, read_reading_data

words = st.sampled_from(["New York-based", *"The a New York york (New York's U.S. us 1,000 1 theatre “York”".split()])
texts = st.lists(words, max_size=10).map(" ".join)
answers = st.sampled_from(["New York", "the York", "U.S.", "1", "1,000", "a theatre", "us the York"])


@given(texts, st.lists(answers, min_size=1, max_size=3))
def test_a_span_is_an_answer(text: str, golds: list[str]) -> None:
    forms = answer_forms(golds)
    for start, end in find_spans(text, forms):
        assert normal_answer(text[start:end]) in forms
        assert not text[start].isspace() and not text[end - 1].isspace()
        assert start == 0 or not text[start - 1].isalnum()
        assert end == len(text) or not text[end].isalnum()


@given(texts)
def test_every_run_of_words_is_found_in_its_text(text: str) -> None:
    """Any stretch of whole words that has a normal form is an answer that the text holds, at that place."""
    found = list(re.finditer(r"\S+", text))
    for i in range(len(found)):
        for j in range(i, min(i + 3, len(found))):
            stretch = text[found[i].start() : found[j].end()]
            if form := normal_answer(stretch):
                spans = find_spans(text, [form])
                assert any(start >= found[i].start() and end <= found[j].end() for start, end in spans), stretch


@pytest.mark.parametrize(
    ("text", "answer", "spans"),
    [
        ("In Rome, Rome and rome; Romeo.", "Rome", ["Rome", "Rome", "rome"]),
        ("New York-based; of the New York's best", "New York", ["New York", "New York"]),
        ("the U.S.A and the U.S. of old", "US", ["U.S"]),
        ("about 1,000 men, 1 horse", "1", ["1"]),
        ("about 1,000 men, 1 horse", "1000", ["1,000"]),
        ("the House of the Rising Sun", "House of Rising Sun", ["House of the Rising Sun"]),
        ("nothing here", "Rome", []),
    ],
)
def test_places_by_hand(text: str, answer: str, spans: list[str]) -> None:
    assert [text[start:end] for start, end in find_spans(text, answer_forms([answer]))] == spans


def test_answers_of_which_nothing_is_left_are_none() -> None:
    assert answer_forms(["the", "...", "", "Rome", "rome."]) == ("rome",)


PASSAGES = [
    passage("A#0", "Rome is a city. Rome is old."),
    passage("A#1", "nothing"),
    passage("B#0", "The capital is Oslo."),
    passage("C#0", "Rome again, elsewhere"),
    passage("D#0", "unrelated"),
    passage("E#0", "the 1914 war"),
    passage("G#0", "yes, a song"),
]


def question(qid: str, golds: Sequence[str], *docids: str) -> Record:
    provenance = [{"wikipedia_id": docid.partition("#")[0], "passage_id": docid} for docid in docids]
    output = [*({"answer": gold} for gold in golds), {"provenance": provenance}]
    return {"id": qid, "input": f"text of {qid}", "output": output}


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    topics = [
        question("q1", ["Rome"], "A#0", "B#0"),  # one of the set's passages holds the answer
        question("q2", ["Bergen", "Oslo"], "B#0"),
        question("q3", ["Paris"], "B#0"),
        question("q4", [], "B#0"),
        question("q5", ["Rome"], "Z#0"),
        question("q6", ["Yes"], "G#0"),
    ]
    others = [question("s1", ["Paris"], "A#0")]
    folder = write_collection(tmp_path / "c", PASSAGES, {"nq-train": topics, "squad-train": others})
    return open_collection(str(folder))


def test_what_is_kept_and_dropped(collection: Collection) -> None:
    header = NegativesHeader("bm25", "", "", 1, 0, 9, (), 0)
    mined = Negatives(header, {"nq-train": {"q1": ["C#0", "D#0", "A#1", "E#0"], "q2": ["D#0"]}})
    data = read_reading_data(collection, "nq", negatives=mined)
    assert data.counts._asdict() == {
        "queries": 6,
        "kept": 2,
        "unanswered": 1,
        "verdicts": 1,  # though G#0 holds the word
        "no_passage": 1,
        "not_found": 1,
        "negatives_dropped": 2,  # C#0 holds the answer, A#1 lies on a gold page
    }
    first, second = data.examples
    assert (first.qid, first.positives, first.negatives) == ("q1", (("A#0",),), ("D#0", "E#0"))
    assert (second.qid, second.positives, second.negatives) == ("q2", (("B#0",),), ("D#0",))
    assert data.spans == {"q1": {"A#0": ((0, 4), (16, 20))}, "q2": {"B#0": ((15, 19),)}}


def test_verdicts_are_no_spans_nor_tell_mining_what_answers() -> None:
    assert answer_forms(["No.", "SUPPORTS", "the Yes", "Oslo", "NOT ENOUGH INFO", "no one"]) == ("oslo", "no one")
    assert answer_forms(sorted(VERDICTS)) == () == telling_answers(sorted(VERDICTS))


def test_a_digit_inside_a_number_is_no_answer_in_a_negative(tmp_path: Path) -> None:
    passages = [*PASSAGES, passage("F#0", "it was 1 of them")]
    folder = write_collection(tmp_path / "c", passages, {"nq-train": [question("q", ["1"], "F#0")]})
    mined = Negatives(NegativesHeader("bm25", "", "", 1, 0, 9, (), 0), {"nq-train": {"q": ["E#0"]}})
    assert read_reading_data(open_collection(str(folder)), "nq", negatives=mined).examples[0].negatives == ("E#0",)


def test_answers_that_no_passage_holds_are_refused(collection: Collection) -> None:
    said = r"squad-train: no answer occurs in a gold passage of collection c; 0 of 1 queries"
    with pytest.raises(InputError, match=said):
        read_reading_data(collection, "squad")


def test_minikilt(minikilt: Path) -> None:
    """Real questions: nearly all answers are in their gold passages, and every span there is one."""
    collection = open_collection(str(minikilt / "small"))
    data = read_reading_data(collection, "nq")
    assert data.counts.queries == 200 and data.counts.kept >= 190
    forms = {query.qid: answer_forms(query.answers) for query in collection.load_topics("nq-train").queries}
    for qid, of_passages in data.spans.items():
        for docid, passage_read in collection.passages.get(list(of_passages)).items():
            assert {normal_answer(passage_read.text[start:end]) for start, end in of_passages[docid]} <= set(forms[qid])
