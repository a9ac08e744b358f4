"""Searches a collection that is opened only once, so that single queries are answered in milliseconds."""

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
    """A retrieved passage with its score; higher is better."""

    rank: int
    score: float
    docid: str
    page: str
    title: str
    text: str


class Hits(tuple[Hit, ...]):
    """The hits of one query, best first: a tuple of `Hit`."""

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame of the hits: rank, score, docid, page, title, text. Raises: InputError without pandas."""
        return to_frame({name: [getattr(hit, name) for hit in self] for name in Hit._fields})


class Retriever:
    """Searches a collection with one retriever: answers single queries in milliseconds, or many at once.

    Creating it loads the model and the index, which is built on first use and kept. The second single query makes two
    copies that make later ones several times faster: an exact index's vectors in memory in fp16 (2 D N bytes, at most a
    gigabyte; hits stay exact), and a gzipped passage file, decompressed in the data home.

    Args:
        collection: an opened collection, or a name as for `open_collection`.
        model: a name or folder as for `load_encoder`, a `ModelChoice` with more settings, or a loaded encoder; None:
            the encoder that comes with the package.
        retriever: "dense", "bm25", or "hybrid", the fusion of both.
        index: the folder of a dense index; None: an exact one, which is kept in the data home.
        vectors: instead of an index, the folder of vectors that `encode` wrote; each search reads all of them.
        weights: the fusion's weight for each task: a file from `search --choose-weights`, or "model" for the model's
            own.
        tasks: tasks of the queries to come, to be checked before an index is built.

    Raises:
        InputError: for a missing collection, model or index, if they do not fit together, or a task that the model
            cannot encode.

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
            InputError: for an empty query, or a task that the model cannot encode for.
        """
        return self.search_each(query, task, hits)[self._ranker.name]

    def search_each(self, query: str, task: str | None = None, hits: int = 10) -> dict[str, Hits]:
        """As `search`, but returns hits by retriever: for "hybrid" also those of the two that it fuses."""
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
            queries: a list of texts, which get the ids "1", "2" and so on; or of `Query`; or `Topics`; or the name of
                topics of the collection, such as "nq-dev", or of a file of queries.
            task: of the texts.

        Raises:
            InputError: for an empty text, an id that is given twice, unknown topics, or a task that the model cannot
                encode for.
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
    """Search a collection once; for more searches, use a `Retriever`. Arguments are those of `Retriever` and its `run`.

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
    """Where vectors are searched. Raises: InputError for two places, or for vectors that would not be searched."""
    if vectors is None or isinstance(vectors, Streamed):
        return index if vectors is None else vectors
    if index is not None or retriever == BM25:
        raise InputError(f"vectors {str(vectors)!r} are searched without an index, and not by {BM25}; leave one out")
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
