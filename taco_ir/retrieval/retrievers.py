"""Retrievers, which rank passages for topics: dense, BM25, and their fusion. Missing indexes are built on first use."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from taco_ir.core.files import InputError, data_home, exclusive
from taco_ir.core.hashes import fingerprint
from taco_ir.core.processes import Progress, format_duration, log, timed
from taco_ir.core.tasks import TOPICS, canonical_task
from taco_ir.core.types import Query, Run, Vectors
from taco_ir.data.collection import Collection, Topics, is_topics_file
from taco_ir.encoders.names import locate
from taco_ir.retrieval import choices
from taco_ir.retrieval.choices import ModelChoice, Shared, Streamed, model_name
from taco_ir.retrieval.encoding import encode_collection, encode_topics
from taco_ir.retrieval.faiss_index import DenseIndex, build_index, require_index
from taco_ir.retrieval.fusion import OF_MODEL, RRF_K, HybridWeights, reciprocal_rank_fusion, weighted_fusion
from taco_ir.retrieval.lucene import BM25, INDEX_VERSION, K1, B, anserini_jar, build_bm25, java_home
from taco_ir.retrieval.recall import spread
from taco_ir.retrieval.sharded_encoding import encode_shared
from taco_ir.retrieval.vector_stream import VectorStream
from taco_ir.retrieval.vectors import Recipe, Shard, VectorSet

if TYPE_CHECKING:
    from taco_ir.encoders.text_encoder import TextEncoder

BATCH = 1024  # queries searched together; exact search reads the vectors once for each batch


Queries = str | Topics | Iterable[str | Query]


def as_topics(collection: Collection, queries: Queries, task: str | None = None) -> Topics:
    """Convert queries to `Topics`.

    Args:
        queries: texts (their ids are "1", "2" and so on); `Query` objects; `Topics`; the name of topics of the
            collection, such as "nq-dev" or "all-dev"; or a file of queries. Any other single text is one query.
        task: task of all queries that are given as texts.

    Raises:
        InputError: for unknown topics, no queries, an empty text, or a repeated id.
    """
    if isinstance(queries, str):
        if queries.split() == [queries] and (is_topics_file(queries) or TOPICS.fullmatch(queries)):
            every = [collection.topics(name) for name in collection.expand([queries])]
            queries = every[0] if len(every) == 1 else [query for topics in every for query in topics.queries]
        else:
            queries = [queries]
    if isinstance(queries, Topics):
        if task is not None:
            raise InputError(f"task {task!r}: topics already have tasks; give a task only with query texts")
        return queries
    task = canonical_task(task) if task else ""
    texts = enumerate(queries, 1)
    found = [each if isinstance(each, Query) else Query(str(number), each.strip(), task) for number, each in texts]
    if not found or not all(query.text for query in found):
        raise InputError("a query is empty; give a text" if found else "no queries; give one or more texts")
    if twice := [qid for qid, count in Counter(query.qid for query in found).items() if count > 1]:
        raise InputError(f"query id {twice[0]!r} is given twice; ids must be unique")
    return Topics("queries", task, found)


class Ranker(ABC):
    """Base class of retrievers, which rank passages for topics. Retrievers do not cache runs."""

    name: str

    @property
    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """Everything that this retriever's runs depend on, such as fingerprints of model and index, by name."""

    @abstractmethod
    def search(self, topics: Topics, hits: int) -> Run:
        """Rank at most `hits` passages for each query of `topics`."""

    def open(self) -> None:  # noqa: B027 - most load when they search
        """Load everything that a search needs; build the index if it is missing."""

    def prepare(self, topics: Sequence[Topics], hits: int) -> None:  # noqa: B027 - most search one after the other
        """Search for several topics together, if that saves reading vectors again; `search` returns these results."""

    def forget(self) -> None:  # noqa: B027 - most keep nothing
        """Delete the intermediate results on disk of searches that have finished."""

    def check(self, topics: Sequence[Topics]) -> None:  # noqa: B027 - most retrievers take all
        """Raise InputError for queries that this retriever cannot search for. Does not build an index."""

    def search_each(self, topics: Topics, hits: int) -> dict[str, Run]:
        """Search, and return runs by name of the retriever; a fusion adds the runs of the retrievers that it fuses."""
        return {self.name: self.search(topics, hits)}

    def search_batches(self, topics: Topics, hits: int) -> Iterator[Run]:
        """Search for the queries in batches, and yield the run of each batch, so that progress can be shown."""
        for start in range(0, len(topics.queries), BATCH):
            yield self.search(topics._replace(queries=topics.queries[start : start + BATCH]), hits)


def is_built(folder: Path) -> bool:
    """Whether `folder / "index"` is a complete dense index."""
    return (folder / "index" / "manifest.json").is_file()


def build_dense(collection: Collection, encoder: TextEncoder, name: str, folder: Path) -> None:
    """Encode a collection in `folder / "vectors"` and build `folder / "index"` if missing; `name`: the model's name."""
    if not is_built(folder):
        recipe = Recipe.of(collection.passages, name, encoder)
        encode_collection(collection, encoder, recipe, folder / "vectors", Shard(1, 1))
        build_index(VectorSet(folder / "vectors"), folder / "index")


class DenseRetriever(Ranker):
    """Encodes queries and searches a faiss index, by default one that is kept in the data home, or vectors on disk."""

    def __init__(
        self,
        collection: Collection,
        model: ModelChoice | TextEncoder,
        index: str | Path | Streamed | Shared | None = None,
    ) -> None:
        self._collection, self._folder, self._model = collection, index, model
        self._ready: dict[str, tuple[int, Run]] = {}  # hits and run by fingerprint of topics, searched together
        self.name = model.name if isinstance(model, ModelChoice) else model_name(model.folder)

    @cached_property
    def encoder(self) -> TextEncoder:
        return self._model.load() if isinstance(self._model, ModelChoice) else self._model

    @cached_property
    def _stream(self) -> VectorStream | None:
        """The vectors to search without an index; None if an index is searched."""
        place = self._folder
        if isinstance(place, Shared) and isinstance(self._model, ModelChoice):
            folder = place.folder or self._home / ("vectors" if is_built(self._home) else "shards")
            with exclusive(folder):
                place = encode_shared(self._collection, self._model, self.encoder, place, folder)
        if not isinstance(place, Streamed):
            return None
        return VectorStream(place, self.encoder, self._collection.passages.fingerprint)

    @property
    def _home(self) -> Path:
        """The folder in the data home for this collection's vectors and index with this encoder."""
        made_of = [self._collection.passages.fingerprint, self.encoder.passage_fingerprint]
        return data_home() / "dense" / fingerprint(made_of)

    @cached_property
    def _index(self) -> DenseIndex:
        store, encoder, folder = self._collection.passages, self.encoder, self._home
        if isinstance(self._folder, str | Path):
            return DenseIndex(Path(self._folder), encoder, store.fingerprint)
        if not is_built(folder):  # without a lock if complete: the data home may be read-only
            with exclusive(folder):
                build_dense(self._collection, self.encoder, self.name, folder)
        return DenseIndex(folder / "index", encoder, store.fingerprint)

    @property
    def inputs(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "encoder": self.encoder.fingerprint,
            "index": (self._stream or self._index).fingerprint,
            **({effort.parameter: effort.value} if self._stream is None and (effort := self._index.effort) else {}),
        }

    def open(self) -> None:
        _ = self._stream or self._index

    def check(self, topics: Sequence[Topics]) -> None:
        tasks = dict.fromkeys(query.task for each in topics for query in each.queries)
        self._encoded([Query("", "?", task) for task in tasks])  # too short to be counted as truncated

    def _encoded(self, queries: Sequence[Query]) -> Vectors:
        """Encode queries. Raises: InputError for an unknown task, or a task without a prompt or an adapter."""
        try:
            return encode_topics(self._collection, self.encoder, queries)
        except InputError as error:
            hint = "" if all(query.task for query in queries) else "; name the task of --query with --task"
            raise InputError(f"{error}{hint}") from error

    def reach(self, recall: float, topics: Sequence[Topics], hits: int) -> None:
        """Choose how far an approximate index must search to reach a recall on a sample of the queries.

        Raises:
            InputError: for an index that always searches all vectors, or a recall that the index does not reach.
        """
        queries = [query for each in topics for query in each.queries]
        sample = [queries[place] for place in spread(len(queries)).tolist()]
        self._index.reach(recall, self._encoded(sample), hits, Path(str(self._folder)))

    def prepare(self, topics: Sequence[Topics], hits: int) -> None:
        if self._stream is None:
            return
        named = {each.fingerprint: each for each in topics}
        new = {key: each for key, each in named.items() if self._ready.get(key, (0,))[0] < hits}
        vectors = [self._encoded(each.queries) for each in new.values()]
        if new and (rankings := self._stream.search(np.concatenate(vectors), hits)) is not None:
            left = iter(rankings)
            for key, each in new.items():
                self._ready[key] = hits, Run({query.qid: next(left) for query in each.queries})

    def forget(self) -> None:
        if self._ready and self._stream:
            self._stream.forget()
            self._ready.clear()

    def search_batches(self, topics: Topics, hits: int) -> Iterator[Run]:
        return super().search_batches(topics, hits) if self._stream is None else iter([self.search(topics, hits)])

    def search(self, topics: Topics, hits: int) -> Run:
        if self._stream:
            self.prepare([topics], hits)
            return self._ready[topics.fingerprint][1].top(hits)
        queries = topics.queries
        rankings = self._index.search(self._encoded(queries), hits)
        return Run({query.qid: ranking for query, ranking in zip(queries, rankings, strict=True)})


class BM25Retriever(Ranker):
    """BM25 (k1 0.9, b 0.4) by Lucene over titles and texts. The index is kept in the data home."""

    name = choices.BM25

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    @cached_property
    def _folder(self) -> Path:
        """The folder of the index; it depends on Lucene's version, since an older one cannot read newer files."""
        made_of = [INDEX_VERSION, self._collection.passages.fingerprint, anserini_jar().name]
        return data_home() / "bm25" / fingerprint(made_of)

    @property
    def built(self) -> bool:
        return (self._folder / "manifest.json").is_file()

    @property
    def at_hand(self) -> bool:
        """Whether the index exists, or is quick to build; BM25 is then compared by default."""
        return self.built or self._collection.passages.count <= choices.COMPARED_UP_TO

    @cached_property
    def _index(self) -> BM25:
        if not self.built:  # without a lock if complete: the data home may be read-only
            with exclusive(self._folder):
                self._build()
        return BM25(self._folder, self._collection.passages.fingerprint)

    def _build(self) -> None:
        """Build the index, if no other process has built it meanwhile."""
        if self.built:
            return
        store = self._collection.passages
        with timed() as seconds:
            progress = Progress("BM25 index", store.count, "passages")
            build_bm25(store.read(), store.count, store.fingerprint, self._folder, progress.at)
        built = f"BM25 index of {store.count:,} passages built in {format_duration(seconds())}: {self._folder}"
        print(built, file=sys.stderr)

    @property
    def inputs(self) -> dict[str, Any]:
        return {"index": self._index.collection, "k1": K1, "b": B}

    def open(self) -> None:
        _ = self._index

    def check(self, topics: Sequence[Topics]) -> None:  # noqa: ARG002 - it takes all queries, and needs Java
        java_home()
        anserini_jar()

    def search(self, topics: Topics, hits: int) -> Run:
        return self._index.search([(query.qid, query.plain_text) for query in topics.queries], hits)


class FusionRetriever(Ranker):
    """Fuses the rankings of other retrievers by reciprocal ranks."""

    name = choices.FUSION

    def __init__(self, retrievers: Sequence[Ranker]) -> None:
        self._retrievers = retrievers

    @property
    def inputs(self) -> dict[str, Any]:
        return {"k": RRF_K, "of": self._parts}

    @property
    def _parts(self) -> list[dict[str, Any]]:
        return [{"system": retriever.name, **retriever.inputs} for retriever in self._retrievers]

    def open(self) -> None:
        for retriever in reversed(self._retrievers):
            retriever.open()

    def check(self, topics: Sequence[Topics]) -> None:
        for retriever in reversed(self._retrievers):  # load a model last
            retriever.check(topics)

    def prepare(self, topics: Sequence[Topics], hits: int) -> None:
        for retriever in self._retrievers:
            retriever.prepare(topics, self._depth(hits))

    def forget(self) -> None:
        for retriever in self._retrievers:
            retriever.forget()

    def _depth(self, hits: int) -> int:
        """Return the number of hits that are fused from each retriever."""
        return hits

    def search(self, topics: Topics, hits: int) -> Run:
        return self.search_each(topics, hits)[self.name]

    def search_each(self, topics: Topics, hits: int) -> dict[str, Run]:
        return self.complete_runs({}, topics, hits)

    def complete_runs(self, runs: Mapping[str, Run], topics: Topics, hits: int) -> dict[str, Run]:
        """Return runs of these topics by retriever: `runs`, and missing runs of fused retrievers and of the fusion."""
        parts = {each.name: runs.get(each.name) or each.search(topics, hits) for each in self._retrievers}
        return {**runs, **parts, self.name: runs.get(self.name) or self._fuse(list(parts.values()), topics, hits)}

    def _fuse(self, runs: Sequence[Run], topics: Topics, hits: int) -> Run:  # noqa: ARG002 - others look at the tasks
        return reciprocal_rank_fusion(runs, hits)


class WeightedRetriever(FusionRetriever):
    """Fuses dense retrieval and BM25 by their scores, with a weight for each task."""

    name = choices.WEIGHTED

    def __init__(
        self, dense: DenseRetriever, bm25: BM25Retriever, weights: HybridWeights, collection: Collection
    ) -> None:
        super().__init__([dense, bm25])
        self._collection = collection
        self._dense, self._weights = dense, weights
        self._told: set[str] = set()

    @property
    def inputs(self) -> dict[str, Any]:
        return {"weights": self._weights.by_task, "hits": self._weights.hits, "of": self._parts}

    def complete_runs(self, runs: Mapping[str, Run], topics: Topics, hits: int) -> dict[str, Run]:
        """As in the base class, but fuse at least the number of hits that the weights were chosen with."""
        depth = self._depth(hits)
        if depth == hits:
            return super().complete_runs(runs, topics, hits)
        deep = super().complete_runs({}, topics, depth)
        return {name: run.top(hits) for name, run in deep.items()} | dict(runs)

    def _depth(self, hits: int) -> int:
        return max(hits, self._weights.hits)

    def _fuse(self, runs: Sequence[Run], topics: Topics, hits: int) -> Run:
        dense, bm25 = runs
        if unknown := self._weights.unknown(query.task for query in topics.queries):
            self._tell(f"--hybrid-weights: no weight for {', '.join(unknown)}, so dense and BM25 get .5 each")
        if self._weights.encoder not in ("", encoder := self._dense.encoder.fingerprint):
            chosen = f"chosen with encoder {self._weights.encoder}, not with {encoder} ({self._dense.name})"
            self._tell(f"--hybrid-weights: {chosen}; choose them again to be sure")
        made = self._weights.made_of.get("collection")
        if isinstance(made, dict) and made.get("fingerprint") != self._collection.passages.fingerprint:
            self._tell(f"--hybrid-weights: chosen on another collection, {made.get('name')}; choose them again")
        return weighted_fusion(dense, bm25, {query.qid: self._weights.of(query.task) for query in topics.queries}, hits)

    def _tell(self, warning: str) -> None:
        """Log a warning once."""
        if warning not in self._told:
            self._told.add(warning)
            log.warning("%s", warning)


class Retrievers(NamedTuple):
    """The three retrievers of a collection that a user can choose or compare."""

    dense: DenseRetriever
    bm25: BM25Retriever
    hybrid: FusionRetriever

    @classmethod
    def of(
        cls,
        collection: Collection,
        model: ModelChoice | TextEncoder,
        index: str | Path | Streamed | None = None,
        weights: str | Path | None = None,
    ) -> Retrievers:
        """Create the retrievers; models and indexes are loaded on first use.

        Args:
            index: folder of a dense index, or vectors to search; None: an exact index in the data home.
            weights: file with the fusion weight of each task, or `model` for the file in the model's folder; None: fuse
                by reciprocal ranks.

        Raises:
            InputError: for a folder without an index, incomplete vectors, or a file that does not contain weights.
        """
        if isinstance(index, Streamed):
            VectorSet(Path(index.folder))  # refuses incomplete vectors before a model is loaded
        elif index is not None:
            require_index(Path(index))
        dense, bm25 = DenseRetriever(collection, model, index), BM25Retriever(collection)
        if weights is None:
            return cls(dense, bm25, FusionRetriever([dense, bm25]))
        if weights != OF_MODEL:
            return cls(dense, bm25, WeightedRetriever(dense, bm25, HybridWeights.read(Path(weights)), collection))
        folder = locate(model.model) if isinstance(model, ModelChoice) else model.folder
        own = HybridWeights.of_model(folder)._replace(made_of={})  # a model's weights are for any collection
        return cls(dense, bm25, WeightedRetriever(dense, bm25, own, collection))

    def select(self, name: str) -> Ranker:
        """Return the retriever with this name, one of `choices.RETRIEVERS`."""
        retriever: Ranker = getattr(self, name)
        return retriever
