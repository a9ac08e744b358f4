"""Opens a collection once for many searches, so that single queries are answered in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.settings import check_value
from taco_ir.core.types import Ranking, Run, to_frame
from taco_ir.data.collection import Collection, Topics, open_collection
from taco_ir.encoders.text_encoder import TextEncoder
from taco_ir.retrieval.choices import BM25, DENSE, FUSION, RETRIEVERS, ModelChoice, Streamed
from taco_ir.retrieval.retrievers import Queries, Ranker, Retrievers, as_topics

if TYPE_CHECKING:
    import pandas

Model = str | Path | ModelChoice | TextEncoder | None
Place = str | Path | Streamed | None


class Hit(NamedTuple):
    """A passage that a search found: rank (from 1), score (higher is better), docid, page, title and text."""

    rank: int
    score: float
    docid: str
    page: str
    title: str
    text: str


class Hits(tuple[Hit, ...]):
    """The hits of one query, best first: a tuple of `Hit`."""

    def to_pandas(self) -> pandas.DataFrame:
        """Return a DataFrame with columns rank, score, docid, page, title, text. Raises: InputError without pandas."""
        return to_frame({name: [getattr(hit, name) for hit in self] for name in Hit._fields})


class Retriever:
    """Searches a collection with one retriever: answers single queries in milliseconds, or many at once.

    Creating a Retriever loads the model and the index; a missing index is built first, and kept. The second single
    query makes later ones several times faster: it copies the vectors of an exact index into memory, with one byte for
    each number (at most half a gigabyte; hits stay exact), and decompresses a gzipped passage file in the data home.

    Args:
        collection: an opened collection, or a name as for `open_collection`.
        model: a name or folder as for `load_encoder`, a `ModelChoice` with more settings, or a loaded encoder; None:
            the encoder that comes with the package.
        retriever: "dense", "bm25", or "hybrid", the fusion of both.
        index: folder of a dense index; None: an exact index, which is kept in the data home.
        vectors: folder of vectors that `encode` wrote, to search instead of an index; each search reads all of them.
        weights: file with the fusion weight of each task, from `search --choose-weights`, or "model" for the file in
            the model's folder; None: fuse by reciprocal ranks.
        tasks: tasks of later queries, to check them before an index is built.

    Raises:
        InputError: if the collection, the model or the index is missing, if they do not fit together, or if the model
            cannot encode queries of one of the tasks.

    Examples:
        >>> retriever = taco_ir.Retriever("sample", retriever="bm25")
        >>> hits = retriever.search("what is the capital of british columbia", hits=2)
        >>> hits[0].rank, hits[0].title
        (1, 'British Columbia')
        >>> hits.to_pandas().columns.tolist()
        ['rank', 'score', 'docid', 'page', 'title', 'text']
    """

    def __init__(
        self,
        collection: Collection | str | Path,
        model: Model = None,
        *,
        retriever: str = DENSE,
        index: str | Path | None = None,
        vectors: str | Path | Streamed | None = None,
        weights: str | Path | None = None,
        tasks: Sequence[str | None] = (),
    ) -> None:
        self.collection = open_collection(collection)
        self._ranker = _select_ranker(self.collection, model, retriever, _place(index, vectors, retriever), weights)
        self._ranker.check([as_topics(self.collection, ["?"], task) for task in tasks])
        self._ranker.open()
        self._asked = False

    def search(self, query: str, task: str | None = None, hits: int = 10) -> Hits:
        """Return the best passages for one query.

        Args:
            task: name or alias of the query's task, for a model with prompts or adapters for each task.

        Raises:
            InputError: for an empty query, or a task that the model cannot encode.
        """
        return self.search_each(query, task, hits)[self._ranker.name]

    def search_each(self, query: str, task: str | None = None, hits: int = 10) -> dict[str, Hits]:
        """Return the hits of one query by retriever; for "hybrid", also the hits of dense retrieval and of BM25."""
        check_value("hits", hits, int, {"min": 1})
        runs = self._ranker.search_each(as_topics(self.collection, [query], task), hits)
        self._ranker.forget()
        rankings = {name: next(iter(run.rankings.values())) for name, run in runs.items()}
        docids = dict.fromkeys(docid for ranking in rankings.values() for docid in ranking.docids)
        if self._asked:
            self.collection.passages.unpack()
        self._asked = True
        passages = self.collection.passages.get(list(docids))

        def found(ranking: Ranking) -> Hits:
            pairs = zip(ranking.docids, ranking.scores.tolist(), strict=True)
            return Hits(Hit(rank, score, *passages[docid]) for rank, (docid, score) in enumerate(pairs, 1))

        return {name: found(ranking) for name, ranking in rankings.items()}

    def run(self, queries: Queries, task: str | None = None, hits: int = 100) -> Run:
        """Rank passages for many queries at once.

        Args:
            queries: a list of texts (their ids are "1", "2" and so on) or of `Query`; or `Topics`; or the name of
                topics of the collection, such as "nq-dev"; or a file of queries.
            task: task of all queries that are given as texts.
            hits: maximum number of passages for each query.

        Raises:
            InputError: for an empty text, a repeated id, unknown topics, or a task that the model cannot encode.
        """
        return _run(self._ranker, as_topics(self.collection, queries, task), hits)


def search(
    collection: Collection | str | Path,
    queries: Queries,
    *,
    model: Model = None,
    task: str | None = None,
    retriever: str = DENSE,
    index: str | Path | None = None,
    vectors: str | Path | None = None,
    weights: str | Path | None = None,
    hits: int = 100,
) -> Run:
    """Search a collection once; for more searches, use a `Retriever`. Arguments are as in `Retriever` and its `run`.

    Raises:
        InputError: as in `Retriever` and `Retriever.run`.

    Examples:
        >>> run = taco_ir.search("sample", "nq-dev", retriever="bm25", hits=10)
        >>> taco_ir.evaluate(run, "sample").mean("success@5") > 0.5
        True
        >>> run = taco_ir.search("sample", ["who painted the mona lisa"], task="nq", hits=3)
        >>> run.to_pandas().shape
        (3, 4)
    """
    collection = open_collection(collection)
    ranker = _select_ranker(collection, model, retriever, _place(index, vectors, retriever), weights)
    return _run(ranker, as_topics(collection, queries, task), hits)


def _place(index: str | Path | None, vectors: str | Path | Streamed | None, retriever: str) -> Place:
    """Return the index or vectors to search. Raises: InputError if both are given, or vectors for BM25."""
    if vectors is None or isinstance(vectors, Streamed):
        return index if vectors is None else vectors
    if index is not None or retriever == BM25:
        raise InputError(f"vectors {str(vectors)!r} cannot be used with an index or {BM25}; leave one of them out")
    return Streamed(str(vectors))


def _select_ranker(
    collection: Collection, model: Model, retriever: str, place: Place, weights: str | Path | None
) -> Ranker:
    check_value("retriever", retriever, str, {"choices": RETRIEVERS})
    if weights is not None and retriever != FUSION:
        raise InputError(f"weights {str(weights)!r} can be used only by the retriever {FUSION}, not by {retriever}")
    if model is None or isinstance(model, str | Path):
        model = ModelChoice(None if model is None else str(model))
    return Retrievers.of(collection, model, place, weights).select(retriever)


def _run(ranker: Ranker, topics: Topics, hits: int) -> Run:
    check_value("hits", hits, int, {"min": 1})
    ranker.check([topics])  # before an index is built
    found = ranker.search(topics, hits)
    ranker.forget()
    return found
