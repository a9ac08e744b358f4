"""Normalises texts and answers for comparison, and cuts the snippet of a text that matches a query."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

WORD = re.compile(r"\w+")
ALPHANUMERIC = re.compile(r"[^\W_]+")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
# Unicode's blocks of combining marks
ACCENTS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+")
# normalised answers that are not spans of a text
VERDICTS = frozenset(("yes", "no", "true", "false", "supports", "refutes", "not enough info"))
SHORTEST_ANSWER = 3  # letters and digits that an answer needs; shorter answers occur in any text
SHORTEST_MARKED = 3  # letters of a word worth marking
STOPWORDS = frozenset(
    WORD.findall("the and for are was were who what when where which that this with from has have had how does did")
)


def normal_answer(text: str) -> str:
    """Normalise an answer as SQuAD and KILT do: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def normalised(text: str) -> str:
    """Return the words of a text in lower case, without accents and punctuation, with one space around each word."""
    if not text.isascii():
        text = ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return f" {' '.join(ALPHANUMERIC.findall(text.casefold()))} "


def telling_answers(answers: Sequence[str]) -> tuple[str, ...]:
    """Normalise answers to search for in texts; verdicts (yes, SUPPORTS) and very short answers are left out."""
    texts = dict.fromkeys(map(normalised, answers))
    return tuple(
        text for text in texts if text.strip() not in VERDICTS and len(text.replace(" ", "")) >= SHORTEST_ANSWER
    )


def snippet(query: str, text: str, width: int = 240, marks: tuple[str, str] = ("*", "*")) -> str:
    """Cut out about `width` characters of `text` with most of the query's words, and enclose these in `marks`."""
    wanted = {word for word in WORD.findall(query.lower()) if len(word) >= SHORTEST_MARKED and word not in STOPWORDS}
    text = " ".join(text.split())
    found = [match for match in WORD.finditer(text) if match.group().lower() in wanted]
    start = _best_start(found, width)
    if start:
        start = text.rfind(" ", 0, start) + 1
    stop = _end(text, start, width)
    pieces, position = [], start
    for match in found:
        if match.start() >= start and match.end() <= stop:
            pieces += [text[position : match.start()], marks[0], match.group(), marks[1]]
            position = match.end()
    return ("... " if start else "") + "".join(pieces) + text[position:stop] + (" ..." if stop < len(text) else "")


def _end(text: str, start: int, width: int) -> int:
    """Return where the last word ends that fits into `width` characters from `start`; a longer first word is kept."""
    if start + width >= len(text):
        return len(text)
    if (blank := text.rfind(" ", start, start + width + 1)) < 0:
        blank = text.find(" ", start)
    return blank if blank >= 0 else len(text)


def _best_start(found: list[re.Match[str]], width: int) -> int:
    """Return where the window with the most distinct words begins; 0 if the first window is as good as any other."""
    best, start = -1, 0
    for i, first in enumerate(found):
        words = {match.group().lower() for match in found[i:] if match.end() <= first.start() + width}
        if len(words) > best:
            best, start = len(words), first.start()
    return 0 if not found or found[-1].end() <= width else max(0, start - width // 8)
