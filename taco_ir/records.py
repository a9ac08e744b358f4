"""The values that move through the toolkit (passages, queries, runs) and the TREC run format."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from taco_ir.files import InputError, writing

Vectors = npt.NDArray[np.float32]
TREC_FIELDS = 6
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
    """Text to vectors: what indexing, search and Pyserini need to know of a model."""

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


class Ranking(NamedTuple):
    """One query's hits in canonical order: score descending, then docid descending."""

    docids: list[str]
    scores: npt.NDArray[np.float32]

    @classmethod
    def of(cls, docids: Sequence[str], scores: npt.ArrayLike) -> Ranking:
        """Rank hits by the toolkit's one rule for ties, which is trec_eval's: float32 score, then docid, both descending."""
        scores_K = np.asarray(scores, dtype=np.float32)
        if not np.all(scores_K[:-1] > scores_K[1:]):
            order = sorted(range(len(docids)), key=docids.__getitem__, reverse=True)
            order = sorted(order, key=scores_K.tolist().__getitem__, reverse=True)  # stable: keeps docids descending
            return cls([docids[i] for i in order], scores_K[order])
        return cls(list(docids), scores_K)

    def top(self, hits: int) -> Ranking:
        return Ranking(self.docids[:hits], self.scores[:hits])


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
            sink.writelines(f"{qid} Q0 {docid} {rank} {format_score(score)} {tag}\n" for rank, (docid, score) in enumerate(hits, 1))


def read_trec(path: Path) -> Run:
    """Read a TREC run; the rank column is ignored, as trec_eval does. A query id with spaces is read as `run_id` spells it.

    Raises:
        InputError: naming file and line for a wrong number of columns, a score that is no finite number, a docid
            given twice for one query, or bytes that are not UTF-8.
    """
    columns: dict[str, tuple[list[str], list[str]]] = {}
    for number, line in numbered_lines(path):
        fields = _fields(line)
        if len(fields) != TREC_FIELDS:
            raise InputError(
                f"{path}, line {number}: {len(fields)} columns {line.strip()[:80]!r}; a TREC run has {TREC_FIELDS}: qid Q0 docid rank score tag"
            )
        try:
            docids, scores = columns[fields[0]]
        except KeyError:
            docids, scores = columns[fields[0]] = [], []
        docids.append(fields[2])
        scores.append(fields[4])
    rankings = {}
    for qid, (docids, texts) in columns.items():
        try:
            with np.errstate(over="ignore"):
                scores_K = np.array(texts, dtype=np.float64).astype(np.float32)
        except ValueError:
            scores_K = np.array([np.nan], dtype=np.float32)
        if not np.isfinite(scores_K).all() or len(set(docids)) < len(docids):
            raise InputError(f"{path}, {_fault(path, qid)}")
        rankings[qid] = Ranking.of(docids, scores_K)
    return Run(rankings)


def _fields(line: str) -> list[str]:
    fields = line.split()
    if len(fields) > TREC_FIELDS and fields[-TREC_FIELDS + 1] == "Q0":
        fields = [run_id(" ".join(fields[: -TREC_FIELDS + 1])), *fields[-TREC_FIELDS + 1 :]]
    return fields


def _fault(path: Path, qid: str) -> str:
    """Find the line of `qid` that made its ranking unusable and say why."""
    seen = set()
    for number, line in numbered_lines(path):
        fields = _fields(line)
        if fields[0] != qid:
            continue
        try:
            with np.errstate(over="ignore"):
                finite = bool(np.isfinite(np.float64(fields[4]).astype(np.float32)))
        except ValueError:
            finite = False
        if not finite:
            return f"line {number}: score {fields[4]!r} of query {qid!r}; it must be a finite float32 number"
        if fields[2] in seen:
            return f"line {number}: docid {fields[2]!r} is given twice for query {qid!r}; once is allowed"
        seen.add(fields[2])
    raise AssertionError(f"{path}: query {qid!r} was refused without a cause")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, counted from 1. Raises: InputError where the file is missing or not UTF-8."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as source:
        for number, raw in enumerate(source, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}, line {number}: not UTF-8 (byte {error.object[error.start]:#04x} at column {error.start + 1})"
                ) from error
            if not line.isspace():
                yield number, line
