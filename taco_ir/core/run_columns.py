"""Reads TREC and MS MARCO run files column by column, using only a few bytes of memory per hit.

Blocks of regular lines are parsed with numpy. Other blocks are parsed line by line, so that errors can name the line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError, reading

BLOCK = 1 << 20
LONGEST_ID = 256  # bytes of a query id; blocks with a longer id are read line by line
PIECES = 16  # a query's hits are joined after so many pieces, if a file is not sorted by query
DIGITS = 15  # digits of a number that float64 holds exactly
POWERS = 10.0 ** np.arange(DIGITS + 3)
NEWLINE, RETURN, BLANK = 10, 13, 32
WORD = 8
# masks for the first 0 to 8 letters of a word
FIRST_LETTERS = np.array([(1 << 8 * count) - 1 for count in range(WORD + 1)], dtype=np.uint64)
# control characters, some of which are white space to Python
UNUSUAL = bytes(sorted({*range(BLANK)} - {9, NEWLINE, RETURN}))
# Unicode's white space in UTF-8
WIDE_BLANKS = re.compile(rb"\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2(?:\x80[\x80-\x8a\xa8\xa9\xaf]|\x81\x9f)|\xe3\x80\x80")
Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.intp]
Values = npt.NDArray[np.float64]


class Layout(NamedTuple):
    """A format of run files: which columns hold query id, docid and score or rank, and which numbers are allowed.

    Attributes:
        qid, docid, ordered_by: positions of columns, from 0; `ordered_by` is the column of the score or rank.
        fields: function that splits a line into columns.
        rule: description of the numbers that `allowed` accepts, for error messages.
        sign: -1 if the smallest number is the best, otherwise 1.
    """

    name: str
    header: str
    qid: int
    docid: int
    ordered_by: int
    fields: Callable[[str], list[str]]
    allowed: Callable[[Values], npt.NDArray[np.bool_]]
    rule: str
    sign: int = 1

    @property
    def width(self) -> int:
        return len(self.header.split())


class Hits(NamedTuple):
    """The hits of one query: docids separated by newlines, and their scores or negative ranks."""

    docids: str
    values: Values


def read_columns(path: Path, layout: Layout) -> Iterator[tuple[str, Hits]]:
    """Yield each query id with all its hits in file order. Query ids come in the order in which they first appear.

    Raises:
        InputError: naming file and line, for a wrong number of columns, a bad number, or bytes that are not UTF-8.
    """
    found: dict[str, list[Hits]] = {}
    for number, block in _blocks(path):
        for qid, hits in _plain(block, layout) or _by_line(path, number, block, layout):
            pieces = found.setdefault(qid, [])
            pieces.append(hits)
            if len(pieces) == PIECES:
                found[qid] = [_joined(pieces)]
    for qid in list(found):
        yield qid, _joined(found.pop(qid))


def _joined(pieces: list[Hits]) -> Hits:
    if len(pieces) == 1:
        return pieces[0]
    return Hits("\n".join(piece.docids for piece in pieces), np.concatenate([piece.values for piece in pieces]))


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of complete lines, each with the number of its first line."""
    number = 1
    with reading(path) as source:
        while block := source.read(BLOCK):
            block += source.readline()
            if not block.endswith(b"\n"):
                block += b"\n"
            yield number, block
            number += block.count(b"\n")


def _by_line(path: Path, number: int, block: bytes, layout: Layout) -> Iterator[tuple[str, Hits]]:
    """Like `_plain`, but for any block and slower. Raises: InputError naming the line that is wrong."""
    for row, line in decoded_lines(path, number, block.split(b"\n")):
        fields = layout.fields(line)
        if len(fields) != layout.width:
            raise InputError(
                f"{path}, line {row}: {line.strip()[:80]!r} has {len(fields)} columns; {layout.name} has "
                f"{layout.width}: {layout.header}"
            )
        qid, text = fields[layout.qid], fields[layout.ordered_by]
        value_1 = np.array([_number(text)])
        if not layout.allowed(value_1).all():
            name = layout.header.split()[layout.ordered_by]
            raise InputError(f"{path}, line {row}: {name} {text!r} of query {qid!r}; {layout.rule}")
        yield qid, Hits(fields[layout.docid], layout.sign * value_1)


def _number(text: str | bytes) -> float:
    """The number in a text; NaN if it is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def decoded_lines(path: Path, number: int, lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Yield non-blank lines with line numbers from `number` on. Raises: InputError for a line that is not UTF-8."""
    for row, raw in enumerate(lines, number):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"{error.object[error.start]:#04x}"
            raise InputError(f"{path}, line {row}: not UTF-8 (byte {byte} at column {error.start + 1})") from error
        if line and not line.isspace():
            yield row, line


def _plain(block: bytes, layout: Layout) -> list[tuple[str, Hits]] | None:
    """Parse a block with numpy: the hits of each query's lines in a row. None if any line needs the slower parser."""
    if len(block.translate(None, UNUSUAL)) != len(block) or not _has_plain_blanks(block):
        return None
    letters: Bytes = np.frombuffer(block, dtype=np.uint8)
    blank = letters <= BLANK
    edges = np.flatnonzero(blank[1:] != blank[:-1]) + 1
    if blank[0] or (len(edges) + 1) % (2 * layout.width):
        return None
    starts_RC = np.concatenate([[0], edges[1::2]]).reshape(-1, layout.width)
    ends_RC = edges[::2].reshape(-1, layout.width)
    if not _one_line_each(letters, ends_RC[:, -1]):
        return None
    lengths_R = ends_RC[:, layout.qid] - starts_RC[:, layout.qid]
    if lengths_R.max() > LONGEST_ID:
        return None
    docids = _join_cells(letters, starts_RC[:, layout.docid], ends_RC[:, layout.docid])
    values_R = _numbers(block, starts_RC[:, layout.ordered_by], ends_RC[:, layout.ordered_by])
    if not layout.allowed(values_R).all():
        return None
    values_R *= layout.sign
    firsts = [0, *(np.flatnonzero(_changes(block, starts_RC[:, layout.qid], lengths_R)) + 1).tolist()]
    lasts = [*firsts[1:], len(values_R)]
    begins, stops = starts_RC[firsts, layout.qid].tolist(), ends_RC[firsts, layout.qid].tolist()
    return [
        (block[begin:stop].decode(), Hits(docids.between(first, last), values_R[first:last].copy()))
        for begin, stop, first, last in zip(begins, stops, firsts, lasts, strict=True)
    ]


def _changes(block: bytes, starts_R: Places, lengths_R: Places) -> npt.NDArray[np.bool_]:
    """Return for each cell but the first whether it differs from the cell before, compared eight bytes at a time."""
    words: npt.NDArray[np.uint64] = np.ndarray(len(block), dtype="<u8", buffer=block + bytes(WORD), strides=(1,))
    changes: npt.NDArray[np.bool_] = lengths_R[1:] != lengths_R[:-1]
    for offset in range(0, int(lengths_R.max()), WORD):
        left_R = np.clip(lengths_R - offset, 0, WORD)
        letters_R = words[np.where(left_R > 0, starts_R + offset, 0)] & FIRST_LETTERS[left_R]
        changes |= letters_R[1:] != letters_R[:-1]
    return changes


def _numbers(block: bytes, starts_R: Places, ends_R: Places) -> Values:
    """Parse numbers in cells exactly like `float`, but much faster if they have few digits; NaN for other texts."""
    letters: Bytes = np.frombuffer(block, dtype=np.uint8)
    lengths_R = ends_R - starts_R
    negative_R = letters[starts_R] == ord("-")
    whole_R = np.zeros(len(starts_R), dtype=np.int64)  # all digits as one number
    digits_R, points_R, behind_R = (np.zeros(len(starts_R), dtype=np.int64) for _ in range(3))
    for place in range(min(int(lengths_R.max()), DIGITS + 2)):
        inside_R = place < lengths_R
        letters_R = letters[np.where(inside_R, starts_R + place, starts_R)]
        digit_R = inside_R & (letters_R - np.uint8(ord("0")) <= 9)
        whole_R = np.where(digit_R, whole_R * 10 + letters_R - ord("0"), whole_R)
        digits_R += digit_R
        behind_R += digit_R & (points_R > 0)
        points_R += inside_R & (letters_R == ord("."))
    plain_R = (digits_R + points_R + negative_R == lengths_R) & (digits_R > 0) & (digits_R <= DIGITS) & (points_R <= 1)
    # both operands are exact, so the quotient is the float64 nearest to the number
    values_R: Values = np.where(negative_R, -1.0, 1.0) * whole_R / POWERS[behind_R]
    if not plain_R.all():
        cells = zip(starts_R[~plain_R].tolist(), ends_R[~plain_R].tolist(), strict=True)
        others = [block[start:end] for start, end in cells]
        try:
            values_R[~plain_R] = np.array(others, dtype=np.float64)
        except ValueError:
            values_R[~plain_R] = list(map(_number, others))
    return values_R


def _has_plain_blanks(block: bytes) -> bool:
    """Return whether the bytes are UTF-8 without non-ASCII white space."""
    if block.isascii():
        return True
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return WIDE_BLANKS.search(block) is None


def _one_line_each(letters: Bytes, ends_R: Places) -> bool:
    """Return whether each row ends with its line, and no line is blank."""
    after = letters[ends_R]
    returns = after == RETURN
    after = np.where(returns, letters[np.minimum(ends_R + 1, len(letters) - 1)], after)
    return bool((after == NEWLINE).all()) and np.count_nonzero(letters == NEWLINE) == len(ends_R)


class _Cells(NamedTuple):
    """The texts of a column, each followed by a newline; `ends[row]` is where the next row begins."""

    text: bytes
    ends: Places

    def between(self, first: int, last: int) -> str:
        return self.text[self.ends[first - 1] if first else 0 : self.ends[last - 1] - 1].decode()


def _join_cells(letters: Bytes, starts_R: Places, ends_R: Places) -> _Cells:
    marks = np.zeros(len(letters) + 1, dtype=np.int8)
    marks[starts_R] = 1
    marks[ends_R + 1] -= 1  # a cell and the character after it
    text = letters[np.cumsum(marks[:-1], dtype=np.int8).view(np.bool_)]
    ends = np.cumsum(ends_R - starts_R + 1)
    text[ends - 1] = NEWLINE
    return _Cells(text.tobytes(), ends)
