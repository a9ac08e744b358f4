"""The part of a passage that a person wants to see for a query, with the query's words marked."""

from __future__ import annotations

import re

WORD = re.compile(r"\w+")
SHORTEST = 3  # letters of a word that is worth marking
STOPWORDS = frozenset(
    WORD.findall("the and for are was were who what when where which that this with from has have had how does did")
)


def snippet(query: str, text: str, width: int = 240, marks: tuple[str, str] = ("*", "*")) -> str:
    """About `width` characters of `text` around most of the query's words, each put between `marks`."""
    wanted = {word for word in WORD.findall(query.lower()) if len(word) >= SHORTEST and word not in STOPWORDS}
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
    """The last end of a word within `width` of `start`; that of the first word where it is longer."""
    if start + width >= len(text):
        return len(text)
    if (blank := text.rfind(" ", start, start + width + 1)) < 0:
        blank = text.find(" ", start)
    return blank if blank >= 0 else len(text)


def _best_start(found: list[re.Match[str]], width: int) -> int:
    """Where the window with most distinct words begins; 0 when the first window is as good as any."""
    best, start = -1, 0
    for i, first in enumerate(found):
        words = {match.group().lower() for match in found[i:] if match.end() <= first.start() + width}
        if len(words) > best:
            best, start = len(words), first.start()
    return 0 if not found or found[-1].end() <= width else max(0, start - width // 8)
