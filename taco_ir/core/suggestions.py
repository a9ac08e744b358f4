"""Suggests what a user meant by an unknown word: known words with a similar spelling, or other toolkits' names."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path

LISTED = 200  # characters of valid names in a message
LONGEST = 80  # characters of a word that are compared
BEGUN = 3  # letters that are enough to recognise a known word by its beginning
WORDS_ELSEWHERE = tomllib.loads(Path(__file__).with_name("words_elsewhere.toml").read_text(encoding="utf-8"))
ELSEWHERE = {theirs: ours.split() for ours, words in WORDS_ELSEWHERE.items() for theirs in words.split()}


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown word: the nearest known word or, if no word is near, a list of known words."""
    known = list(known)
    near = nearest(word, known)
    return f"did you mean {near}?" if near else f"valid: {listed_names(known)}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that a user most likely meant by `word`; None if no known word is near.

    It has a similar spelling, begins with `word`, or is the name here for what other toolkits call `word`.
    """
    plain = {_plain(each): each for each in reversed(list(known))}
    asked = _plain(word[:LONGEST])
    swapped = [each for each in plain if sorted(each) == sorted(asked)]  # letters
    near = swapped[:1] or difflib.get_close_matches(asked, plain, n=1)
    begun = sorted((each for each in plain if len(asked) >= BEGUN and each.startswith(asked)), key=len)
    found = next((each for each in (asked, *ELSEWHERE.get(asked, ()), *near, *begun) if each in plain), None)
    return None if found is None else plain[found]


def listed_names(names: Iterable[str]) -> str:
    """Join names with commas on one line; a long list is cut and ends in "..."."""
    listed = ", ".join(names) or "none"
    return listed if len(listed) <= LISTED else f"{listed[:LISTED].rpartition(',')[0]}, ..."


def _plain(word: str) -> str:
    return word.lstrip("-").replace("_", "-").lower()
