"""The values that move through the toolkit (passages, queries, rankings, runs), and the TREC run format."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError, writing
from taco_ir.core.run_columns import Layout, decoded_lines, read_columns

Vectors = npt.NDArray[np.float32]
TREC_FIELDS = 6
LAST_RANK = 1 << 24  # float32 tells whole numbers apart up to here
ENTITY_MARKS = ("[START_ENT]", "[END_ENT]")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
# answers that are no spans of text, as normalised
VERDICTS = frozenset(("yes", "no", "true", "false", "supports", "refutes", "not enough info"))


class Passage(NamedTuple):
    """A unit of retrieval; `page` is the Wikipedia page that it belongs to."""

    docid: str
    page: str
    title: str
    text: str


def run_id(record_id: str) -> str:
    """A query id as run files spell it: white space, which separates their columns, becomes `_`."""
    return "_".join(record_id.split())


def normal_answer(text: str) -> str:
    """An answer as SQuAD and KILT compare it: lower case, without ASCII punctuation, articles and extra white space."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


class EvidenceSet(NamedTuple):
    """Pages (and passages, where judged) that together support an answer; no repeats, in the order given."""

    pages: tuple[str, ...]
    passages: tuple[str, ...]


class Query(NamedTuple):
    """One KILT record. `evidence` holds every distinct evidence set; `meta` the record's own remarks.

    `qid` is the record's id as runs spell it (see `run_id`); `record_id` is the id as KILT files spell it.
    """

    qid: str
    text: str
    task: str
    answers: tuple[str, ...] = ()
    evidence: tuple[EvidenceSet, ...] = ()
    meta: Mapping[str, Any] = {}
    record_id: str = ""

    @property
    def plain_text(self) -> str:
        """The text without entity marks, as Pyserini's KILT reader gives it to a retriever."""
        text = self.text
        for mark in ENTITY_MARKS:
            text = text.replace(mark, "")
        return text.strip()


class Encoder(Protocol):
    """What indexing, search and Pyserini need from a model: texts in, vectors out."""

    passage_template: str
    dim: int

    @property
    def fingerprint(self) -> str: ...
    @property
    def passage_fingerprint(self) -> str: ...
    def encode_queries(self, texts: Sequence[str], task: str | None) -> Vectors: ...
    def encode_passages(self, passages: Sequence[Passage]) -> Vectors: ...


def refuse_text(given: object, what: str) -> None:
    """Raise InputError for one text where a sequence of `what` is needed: it would be taken for a sequence of its letters."""
    if isinstance(given, str | bytes):
        raise InputError(f"{given[:200]!r} is one text; a list of {what} is needed, such as [{given[:40]!r}]")


class Names(Sequence[str]):
    """A sequence of docids stored as one string, a few bytes each, split only when they are read."""

    __slots__ = ("_count", "_text")

    def __init__(self, text: str, count: int) -> None:
        self._text, self._count = text, count

    @classmethod
    def of(cls, names: Sequence[str]) -> Sequence[str]:
        """`names` kept so; as a list where one of them holds a newline, as pages of KILT files may."""
        if isinstance(names, Names):
            return names
        text = "\n".join(names)
        return cls(text, len(names)) if text.count("\n") == max(len(names) - 1, 0) else list(names)

    def _list(self) -> list[str]:
        return self._text.split("\n") if self._count else []

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return iter(self._list())

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        return self._list()[place]

    def __contains__(self, name: object) -> bool:
        return name in self._list()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str) and self._list() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._list())


class Ranking(NamedTuple):
    """One query's hits in canonical order: score descending, then docid descending."""

    docids: Sequence[str]
    scores: npt.NDArray[np.float32]

    @classmethod
    def of(cls, docids: Sequence[str], scores: npt.ArrayLike) -> Ranking:
        """Rank hits by the toolkit's one rule for ties, which is trec_eval's: float32 score, then docid, both descending."""
        scores_K = np.asarray(scores, dtype=np.float32)
        if not np.all(scores_K[:-1] > scores_K[1:]):
            names = list(docids)
            order = sorted(range(len(names)), key=names.__getitem__, reverse=True)
            order = sorted(order, key=scores_K.tolist().__getitem__, reverse=True)  # stable: keeps docids descending
            return cls(Names.of([names[i] for i in order]), scores_K[order])
        return cls(Names.of(docids), scores_K)

    def top(self, hits: int) -> Ranking:
        if hits >= len(self.docids):
            return self
        return Ranking(Names.of(self.docids[:hits]), self.scores[:hits].copy())  # not a view, which would keep all


class Run(NamedTuple):
    """Rankings by query id. `level` says what the docids are: passages, or pages (KILT files, which may bring `answers` by query id)."""

    rankings: dict[str, Ranking]
    level: str = "passage"
    answers: Mapping[str, str] = {}

    @property
    def tied_share(self) -> float:
        """Share of hits whose score equals their neighbour's."""
        pairs = sum(max(len(ranking.scores) - 1, 0) for ranking in self.rankings.values())
        tied = sum(int(np.sum(ranking.scores[:-1] == ranking.scores[1:])) for ranking in self.rankings.values())
        return tied / pairs if pairs else 0.0


def format_score(score: np.float32) -> str:
    """Shortest decimal that reads back as the same float32."""
    return np.format_float_positional(score, unique=True, trim="0")


def write_trec(run: Run, path: Path, tag: str) -> None:
    """Write `qid Q0 docid rank score tag` lines, best first."""
    tag = "_".join(tag.split())  # white space separates columns
    with writing(path) as sink:
        for qid, ranking in run.rankings.items():
            hits = zip(ranking.docids, ranking.scores, strict=True)
            sink.writelines(
                f"{qid} Q0 {docid} {rank} {format_score(score)} {tag}\n" for rank, (docid, score) in enumerate(hits, 1)
            )


def read_trec(path: Path) -> Run:
    """Read a TREC run; the rank column is ignored, as trec_eval does. A query id with spaces is read as `run_id` spells it.

    Raises:
        InputError: naming file and line for a wrong number of columns, a score that is no finite number, a docid
            given twice for one query, or bytes that are not UTF-8.
    """
    return _read(path, TREC)


def read_msmarco(path: Path) -> Run:
    """Read an MS MARCO run, `qid docid rank`; scores are minus the ranks.

    Raises:
        InputError: as `read_trec`, for a rank that is no whole number from 1, and for one that is given twice for a query.
    """
    run = _read(path, MSMARCO)
    for qid, ranking in run.rankings.items():
        if len(twice := np.flatnonzero(ranking.scores[1:] == ranking.scores[:-1])):
            raise InputError(
                f"{path}: rank {-ranking.scores[twice[0]]:.0f} is given twice for query {qid!r}; once is allowed"
            )
    return run


def _read(path: Path, layout: Layout) -> Run:
    rankings = {}
    for qid, hits in read_columns(path, layout):
        docids = hits.docids.split("\n")
        if len(set(docids)) < len(docids):
            raise InputError(f"{path}, {_twice(path, qid, layout)}")
        rankings[qid] = Ranking.of(Names(hits.docids, len(docids)), hits.values)
    return Run(rankings)


def _fields(line: str) -> list[str]:
    fields = line.split()
    if len(fields) > TREC_FIELDS and fields[-TREC_FIELDS + 1] == "Q0":
        fields = [run_id(" ".join(fields[: -TREC_FIELDS + 1])), *fields[-TREC_FIELDS + 1 :]]
    return fields


def _finite(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    with np.errstate(over="ignore"):
        return np.isfinite(values.astype(np.float32))


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    allowed: npt.NDArray[np.bool_] = (values >= 1) & (values <= LAST_RANK) & (values == np.floor(values))
    return allowed


TREC = Layout(
    "a TREC run", "qid Q0 docid rank score tag", 0, 2, 4, _fields, _finite, "it must be a finite float32 number"
)
MSMARCO = Layout(
    "an MS MARCO run",
    "qid docid rank",
    0,
    1,
    2,
    str.split,
    _ranks,
    f"it must be a whole number from 1 to {LAST_RANK:,}",
    sign=-1,
)


def _twice(path: Path, qid: str, layout: Layout) -> str:
    """The error text for the line that repeats a docid of `qid`."""
    seen = set()
    for number, line in numbered_lines(path):
        fields = layout.fields(line)
        if fields[layout.qid] != qid:
            continue
        if (docid := fields[layout.docid]) in seen:
            return f"line {number}: docid {docid!r} is given twice for query {qid!r}; once is allowed"
        seen.add(docid)
    raise AssertionError(f"{path}: query {qid!r} was refused without a cause")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, counted from 1. Raises: InputError where the file is missing or not UTF-8."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as source:
        yield from decoded_lines(path, 1, source)
