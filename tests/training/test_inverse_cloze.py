"""Sentences of passages, and the inverse cloze task drawn from them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.types import Passage
from taco_ir.training.objectives.base import passage_examples
from taco_ir.training.objectives.inverse_cloze import MIN_WORDS, STAYS, cloze, queries_of, sentences

TEXT = (
    'The house is very old. It was built by Dr. Who in 1900! "Is that so?" asked a man. Yes. In the end he went home.'
)


@given(st.text(alphabet="ab. !?AB1\"'()\n", max_size=60))
def test_sentences_are_the_text_in_order(text: str) -> None:
    """Nothing is lost but white space, and nothing comes twice."""
    spans = sentences(text)
    assert all(start < stop for start, stop in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert "".join("".join(text[start:stop] for start, stop in spans).split()) == "".join(text.split())


def test_sentences_end_where_a_new_one_begins() -> None:
    found = [TEXT[start:stop].strip() for start, stop in sentences(TEXT)]
    assert found[0] == "The house is very old." and found[-1] == "In the end he went home."
    assert "asked a man." in found[-3] and found[-2] == "Yes."


def test_a_query_is_a_sentence_of_some_words_and_never_the_whole_passage() -> None:
    assert all(len(TEXT[start:stop].split()) >= MIN_WORDS for start, stop in queries_of(TEXT))
    assert queries_of("One sentence only, of many words indeed.") == [] and queries_of("Too short. So is it.") == []


def test_the_sentence_is_gone_but_for_one_time_in_ten() -> None:
    passage = Passage("1#0", "1", "Houses", TEXT)
    stayed, queries = 0, set()
    for seed in range(2000):
        query, positive = cloze(passage, np.random.default_rng(seed))
        assert query in TEXT and positive[:3] == passage[:3]
        queries.add(query)
        if query in positive.text:
            assert positive.text == TEXT
            stayed += 1
        else:  # the others are all there, in order
            assert positive.text.split() == TEXT.replace(query, " ", 1).split()
    assert queries == {TEXT[start:stop].strip() for start, stop in queries_of(TEXT)}
    assert abs(stayed / 2000 - STAYS) < 0.03  # four standard deviations
    assert cloze(passage, np.random.default_rng(7)) == cloze(passage, np.random.default_rng(7))


def test_passages_without_a_query_are_left_out_where_one_is_needed() -> None:
    passages = [Passage("1#0", "1", "A", TEXT), Passage("2#0", "2", "B", "one sentence"), Passage("3#0", "3", "C", " ")]
    assert [example.qid for example in passage_examples(passages, "inverse_cloze", queries_of)] == ["1#0"]
    kept = list(passage_examples(passages, "mlm", str.strip))
    assert [example.qid for example in kept] == ["1#0", "2#0"]
    assert kept[0].positives == (("1#0",),) and kept[0].pages == {"1"} and kept[0].task == "mlm"
