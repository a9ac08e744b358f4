"""The basic values of the toolkit: passages, queries, rankings and runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError

if TYPE_CHECKING:
    import pandas

Vectors = npt.NDArray[np.float32]
ENTITY_MARKS = ("[START_ENT]", "[END_ENT]")


class Passage(NamedTuple):
    """A passage, which is the unit of retrieval. `page` is the id of the page that the passage belongs to."""

    docid: str
    page: str
    title: str
    text: str


def run_id(record_id: str) -> str:
    """Return a query id in the form for run files: white space, which separates columns there, becomes `_`."""
    return "_".join(record_id.split())


class EvidenceSet(NamedTuple):
    """A set of evidence: the pages, and the passages if they were judged, that together support an answer."""

    pages: tuple[str, ...]
    passages: tuple[str, ...]


class Query(NamedTuple):
    """A query with its gold (right pages, passages and answers), from a record of a topics file.

    Attributes:
        qid: the query id in the form for run files (see `run_id`).
        evidence: the evidence sets, without repeats.
        meta: the record's meta field.
        record_id: the id in the KILT file, which may contain white space.
        grades: relevance grades by docid; a grade above 0 means relevant, other grades mean judged but not relevant.
        negatives: docids of hard negatives, hardest first, if the topics have any.
    """

    qid: str
    text: str
    task: str
    answers: tuple[str, ...] = ()
    evidence: tuple[EvidenceSet, ...] = ()
    meta: Mapping[str, Any] = {}
    record_id: str = ""
    grades: Mapping[str, int] = {}
    negatives: tuple[str, ...] = ()

    @property
    def gold_passages(self) -> tuple[str, ...]:
        """The docids of the passages in all evidence sets, without repeats."""
        return tuple(dict.fromkeys(docid for each in self.evidence for docid in each.passages))

    @property
    def gold_pages(self) -> tuple[str, ...]:
        """The ids of the pages in all evidence sets, without repeats."""
        return tuple(dict.fromkeys(page for each in self.evidence for page in each.pages))

    @property
    def plain_text(self) -> str:
        """The text without entity marks such as [START_ENT], as Pyserini's KILT reader passes it to a retriever."""
        text = self.text
        for mark in ENTITY_MARKS:
            text = text.replace(mark, "")
        return text.strip()


class Encoder(Protocol):
    """The interface of a model that encodes queries and passages as vectors, for indexing and search."""

    passage_template: str
    dim: int

    @property
    def fingerprint(self) -> str: ...
    @property
    def passage_fingerprint(self) -> str: ...
    @property
    def rounded_fingerprints(self) -> tuple[str, ...]: ...
    def encode_queries(self, texts: Sequence[str], task: str | None) -> Vectors: ...
    def encode_passages(self, passages: Sequence[Passage]) -> Vectors: ...
    def lowest_cosine(self, passages: Sequence[Passage]) -> float: ...


def refuse_text(given: object, what: str, example: str = "[{}]") -> None:
    """Raise InputError if `given` is a single text, not a sequence of texts: its letters would count as texts."""
    if isinstance(given, str | bytes):
        such = example.format(repr(given[:40]))
        raise InputError(f"{given[:200]!r} is a single text; give a list of {what}, such as {such}")


class Names(Sequence[str]):
    """A sequence of docids that is stored as one string to save memory, and split only when it is read."""

    __slots__ = ("_count", "_text")

    def __init__(self, text: str, count: int) -> None:
        self._text, self._count = text, count

    @classmethod
    def of(cls, names: Sequence[str]) -> Sequence[str]:
        """Store names as one string, or as a list if a name contains a newline (possible for page ids of KILT)."""
        if isinstance(names, Names):
            return names
        text = "\n".join(names)
        return cls(text, len(names)) if text.count("\n") == max(len(names) - 1, 0) else list(names)

    def places(self, wanted: Iterable[str]) -> dict[str, int]:
        """Return the position of each wanted name; names that the sequence does not contain are left out."""
        text, found = f"\n{self._text}\n" if self._count else "", {}
        for name in wanted:
            if (at := text.find(f"\n{name}\n")) >= 0 and "\n" not in name:
                found[name] = text.count("\n", 0, at)
        return found

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
    """One query's hits in canonical order: by score descending, then by docid descending."""

    docids: Sequence[str]
    scores: npt.NDArray[np.float32]

    @classmethod
    def of(cls, docids: Sequence[str], scores: npt.ArrayLike) -> Ranking:
        """Rank hits with trec_eval's rule for ties: by float32 score, then by docid, both descending."""
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
        return Ranking(Names.of(self.docids[:hits]), self.scores[:hits].copy())  # a view would keep all scores


def to_frame(columns: Mapping[str, Sequence[Any]]) -> pandas.DataFrame:
    """Make a pandas DataFrame of columns of equal length. Raises: InputError if pandas is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise InputError("to_pandas() needs pandas; install it with `pip install pandas`") from error
    return pandas.DataFrame(columns)


class Run(NamedTuple):
    """A run: the ranking that a system gives for each query, by query id.

    Attributes:
        level: "passage" if the docids belong to passages, "page" if they are page ids, as in KILT files.
        answers: answers by query id; empty if the run has none.

    Examples:
        >>> run = taco_ir.Run({"q1": taco_ir.Ranking.of(["d1", "d2"], [0.5, 0.75])})
        >>> run.to_pandas()
          query  rank docid  score
        0    q1     1    d2   0.75
        1    q1     2    d1   0.50
    """

    rankings: dict[str, Ranking]
    level: str = "passage"
    answers: Mapping[str, str] = {}

    def to_pandas(self) -> pandas.DataFrame:
        """Return a DataFrame with a row for each hit: query, rank, docid, score. Raises: InputError without pandas."""
        found = self.rankings.items()
        return to_frame(
            {
                "query": [qid for qid, ranking in found for _ in ranking.docids],
                "rank": [rank for _, ranking in found for rank in range(1, len(ranking.docids) + 1)],
                "docid": [docid for _, ranking in found for docid in ranking.docids],
                "score": [score for _, ranking in found for score in ranking.scores.tolist()],
            }
        )

    def top(self, hits: int) -> Run:
        """Return the run with only the best `hits` hits of each query."""
        return self._replace(rankings={qid: ranking.top(hits) for qid, ranking in self.rankings.items()})

    @property
    def tied_share(self) -> float:
        """The fraction of pairs of neighbouring hits in the rankings that have equal scores."""
        pairs = sum(max(len(ranking.scores) - 1, 0) for ranking in self.rankings.values())
        tied = sum(int(np.sum(ranking.scores[:-1] == ranking.scores[1:])) for ranking in self.rankings.values())
        return tied / pairs if pairs else 0.0
