"""A snippet is a piece of the text between two blanks, with whole words of the query marked."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.texts import STOPWORDS, snippet

MARKS = ("<", ">")
PLAIN = ["cat", "Cat", "catalogue", "concat", "the", "The", "of", "naïve", "1984", "a" * 50, "日本語"]
WORDS = st.sampled_from([*PLAIN, "x-ray", "dog's", "ray", "(cat)", "cat,", "e.g."])
TEXT = st.lists(WORDS, max_size=60).map(" ".join)
WIDTH = st.integers(5, 120)


def body(shown: str) -> str:
    return shown.removeprefix("... ").removesuffix(" ...").replace("<", "").replace(">", "")


@given(TEXT, TEXT, WIDTH)
def test_without_marks_it_is_a_piece_of_the_text_in_whole_words(query: str, text: str, width: int) -> None:
    shown = snippet(query, text, width, MARKS)
    assert f" {body(shown)} " in f" {text} "
    assert bool(body(shown)) == bool(text)
    assert shown.startswith("... ") == (not text.startswith(body(shown)) or shown.startswith("... "))
    assert shown.endswith(" ...") or text.endswith(body(shown))


@given(TEXT, TEXT, WIDTH)
def test_it_is_no_wider_than_asked_but_for_one_long_word(query: str, text: str, width: int) -> None:
    piece = body(snippet(query, text, width, MARKS))
    assert len(piece) <= width or " " not in piece


@given(TEXT, TEXT, WIDTH)
def test_marked_are_exactly_the_querys_words_that_matter(query: str, text: str, width: int) -> None:
    shown = snippet(query, text, width, MARKS)
    wanted = {word for word in re.findall(r"\w+", query.lower()) if len(word) > 2} - STOPWORDS
    for match in re.finditer(r"(<?)(?<!\w)(\w+)(?!\w)(>?)", shown):
        marked = bool(match[1])
        assert marked == bool(match[3])
        assert marked == (match[2].lower() in wanted)


@given(st.lists(st.sampled_from(["lorem", "ipsum", "dolor"]), min_size=0, max_size=80), st.integers(40, 120))
def test_a_word_of_the_query_is_in_view_wherever_it_stands(filler: list[str], width: int) -> None:
    text = " ".join([*filler, "needle", *filler])
    assert "<needle>" in snippet("the needle", text, width, MARKS)


def test_white_space_is_folded_and_a_short_text_is_whole() -> None:
    assert snippet("who wrote Emma", "Emma  was\n written by\tJane Austen") == "*Emma* was written by Jane Austen"
    assert snippet("Emma", "") == ""


def test_the_window_holds_most_of_the_query() -> None:
    text = "Emma " + "filler " * 60 + "Emma was written by Jane Austen in 1815 " + "filler " * 60
    shown = snippet("when was Emma written by Jane Austen", text, 80)
    assert "*Emma* was *written* by *Jane* *Austen*" in shown
    assert shown.startswith("... ") and shown.endswith(" ...")
