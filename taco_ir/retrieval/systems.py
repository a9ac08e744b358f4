"""Retrieval systems as the verbs use them: an encoder or BM25 with its index, built on first use and kept by content."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from taco_ir.core.files import InputError, data_home, exclusive, fingerprint
from taco_ir.core.progress import Progress, duration, timed
from taco_ir.core.tasks import canonical_task
from taco_ir.core.types import Query, Run, Vectors, run_id
from taco_ir.data.collection import Collection, Topics
from taco_ir.encoders.names import SHIPPED
from taco_ir.retrieval.encoding import encode_collection, encode_topics
from taco_ir.retrieval.faiss_index import DenseIndex, build_index
from taco_ir.retrieval.fusion import RRF_K, reciprocal_rank_fusion
from taco_ir.retrieval.lucene import BM25, INDEX_VERSION, K1, B, anserini_jar, build_bm25
from taco_ir.retrieval.vectors import Recipe, Shard, VectorSet

if TYPE_CHECKING:
    from taco_ir.encoders.text_encoder import TextEncoder

IN_RUNS, NUMBERED = ("model", "out"), re.compile(r"(episode-)?\d+")  # what folders in runs are called
PART = 1024  # queries of a part; exact search reads the vectors once for so many


def encoder_of(options: Namespace) -> TextEncoder:
    """The encoder that --model and its companions name. Raises: InputError."""
    from taco_ir.encoders.text_encoder import load_encoder

    return load_encoder(
        options.model,
        pooling=options.pooling,
        normalize=options.normalize,
        prompt=options.prompt,
        precision=options.precision,
        device=options.device,
        batch_size=options.batch_size,
        base=options.base,
    )


def model_name(model: str | None) -> str:
    """One word for files and tables: of a folder that a training wrote, the training's, since all call theirs alike."""
    if model is None:
        return SHIPPED
    name = _folder_name(Path(model).resolve()) if Path(model).is_dir() else model.replace("/", "--")
    name = run_id(name).lstrip(".") or "model"
    return f"dense-{name}" if name in (BM25System.name, HybridSystem.name) else name


def _folder_name(folder: Path) -> str:
    """`my-run` of my-run/model, `my-run-episode-2` of my-run/episode-2/model, `taco-1` of a study's taco/1/out/model."""
    parts = [part for part in folder.parts[1:] if part not in IN_RUNS]
    telling = next((place for place in reversed(range(len(parts))) if not NUMBERED.fullmatch(parts[place])), 0)
    return "-".join(parts[telling:])


def query_topics(options: Namespace) -> Topics:
    """The one query that --query and --task name."""
    task = canonical_task(options.task) if options.task else ""
    return Topics("query", task, [Query("query", options.query.strip(), task)])


class System(ABC):
    """What ranks passages for topics. It remembers no run: nothing but the queries themselves would be a safe key."""

    name: str

    @property
    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """What its runs depend on, by content."""

    @abstractmethod
    def search(self, topics: Topics, hits: int) -> Run:
        """At most `hits` passages for each query."""

    def check(self, topics: Sequence[Topics]) -> None:  # noqa: B027 - most systems take all
        """Raise InputError for queries that cannot be searched for; before an index is built, which takes long."""

    def search_with_parts(self, topics: Topics, hits: int) -> dict[str, Run]:
        """The run by the system's name, and those of the systems that it is made of by theirs."""
        return {self.name: self.search(topics, hits)}

    def search_in_parts(self, topics: Topics, hits: int) -> Iterator[Run]:
        """The same run in parts of the queries, for those who report progress."""
        for start in range(0, len(topics.queries), PART):
            yield self.search(topics._replace(queries=topics.queries[start : start + PART]), hits)


def build_dense(collection: Collection, encoder: TextEncoder, name: str, folder: Path) -> None:
    """Encode into `folder / "vectors"` and index into `folder / "index"` what is not there yet; `name` is the model's."""
    if not (folder / "index" / "manifest.json").is_file():
        recipe = Recipe.of(collection.passages, name, encoder)
        encode_collection(collection, encoder, recipe, folder / "vectors", Shard(1, 1))
        build_index(VectorSet(folder / "vectors"), folder / "index")


class DenseSystem(System):
    """An encoder and a faiss index of the collection: the one that is named, or an exact one kept under the data home."""

    def __init__(self, collection: Collection, options: Namespace) -> None:
        self._collection = collection
        self._options = options
        self.name = model_name(options.model)

    @cached_property
    def encoder(self) -> TextEncoder:
        return encoder_of(self._options)

    @cached_property
    def _index(self) -> DenseIndex:
        store, encoder = self._collection.passages, self.encoder
        if self._options.index is not None:
            return DenseIndex(Path(self._options.index), encoder, store.fingerprint)
        folder = data_home() / "dense" / fingerprint([store.fingerprint, encoder.passage_fingerprint])
        with exclusive(folder):
            build_dense(self._collection, self.encoder, self.name, folder)
        return DenseIndex(folder / "index", encoder, store.fingerprint)

    @property
    def inputs(self) -> dict[str, Any]:
        return {"model": self.name, "encoder": self.encoder.fingerprint, "index": self._index.manifest["files"]["index"]["sha256"][:16]}

    def check(self, topics: Sequence[Topics]) -> None:
        tasks = dict.fromkeys(query.task for each in topics for query in each.queries)
        self._encoded([Query("", "?", task) for task in tasks])  # so short that it counts as no query that was cut

    def _encoded(self, queries: Sequence[Query]) -> Vectors:
        """Raises: InputError for a task that is unknown, or without a prompt or a module; topics always have a task."""
        try:
            return encode_topics(self._collection, self.encoder, queries)
        except InputError as error:
            raise InputError(f"{error}{'' if all(query.task for query in queries) else '; --task names the task of --query'}") from error

    def search(self, topics: Topics, hits: int) -> Run:
        queries = topics.queries
        rankings = self._index.search(self._encoded(queries), hits)
        return Run({query.qid: ranking for query, ranking in zip(queries, rankings, strict=True)})


class BM25System(System):
    """Lucene's BM25 (k1 0.9, b 0.4) over title and text; the index is kept under the data home."""

    name = "bm25"

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    @cached_property
    def _folder(self) -> Path:
        """Of these passages and this Lucene: an older one cannot read what a newer one wrote."""
        return data_home() / "bm25" / fingerprint([INDEX_VERSION, self._collection.passages.fingerprint, anserini_jar().name])

    @property
    def built(self) -> bool:
        return (self._folder / "manifest.json").is_file()

    @cached_property
    def _index(self) -> BM25:
        store = self._collection.passages
        with exclusive(self._folder):
            self._build()
        return BM25(self._folder, store.fingerprint)

    def _build(self) -> None:
        store = self._collection.passages
        if not self.built:
            with timed() as seconds:
                progress = Progress("BM25 index", store.count, "passages")
                build_bm25(store.read(), store.count, store.fingerprint, self._folder, progress.at)
            print(f"BM25 index of {store.count:,} passages built in {duration(seconds())}: {self._folder}", file=sys.stderr)

    @property
    def inputs(self) -> dict[str, Any]:
        return {"index": self._index.collection, "k1": K1, "b": B}

    def search(self, topics: Topics, hits: int) -> Run:
        return self._index.search([(query.qid, query.plain_text) for query in topics.queries], hits)


class HybridSystem(System):
    """Reciprocal rank fusion of other systems."""

    name = "hybrid"

    def __init__(self, systems: Sequence[System]) -> None:
        self._systems = systems

    @property
    def inputs(self) -> dict[str, Any]:
        return {"k": RRF_K, "of": [{"system": system.name, **system.inputs} for system in self._systems]}

    def check(self, topics: Sequence[Topics]) -> None:
        for system in self._systems:
            system.check(topics)

    def search(self, topics: Topics, hits: int) -> Run:
        return self.search_with_parts(topics, hits)[self.name]

    def search_with_parts(self, topics: Topics, hits: int) -> dict[str, Run]:
        return self.completed({}, topics, hits)

    def completed(self, runs: Mapping[str, Run], topics: Topics, hits: int) -> dict[str, Run]:
        """`runs` of these topics with those that are missing: of the systems fused, and the fusion."""
        parts = {system.name: runs.get(system.name) or system.search(topics, hits) for system in self._systems}
        return {**runs, **parts, self.name: runs.get(self.name) or reciprocal_rank_fusion(list(parts.values()), hits)}


class Retrievers(NamedTuple):
    """The systems that --retriever names, and that are compared."""

    dense: DenseSystem
    bm25: BM25System
    hybrid: HybridSystem

    @classmethod
    def of(cls, collection: Collection, options: Namespace) -> Retrievers:
        """Nothing is loaded before it is used."""
        dense, bm25 = DenseSystem(collection, options), BM25System(collection)
        return cls(dense, bm25, HybridSystem([dense, bm25]))
