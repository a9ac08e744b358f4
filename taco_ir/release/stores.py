"""Exports encoded passages to vector stores: parquet files, Qdrant, and JSON lines for Lucene's HNSW index.

    DIR/manifest.json              what the export was made of, and how many blocks of vectors it has
    DIR/parquet/00000.parquet      columns docid, page, title, text and vector
    DIR/lucene-json/00000.jsonl    {"docid": "12#3", "contents": "Bach\\nJohann ...", "vector": [0.25, ...]} a line
    DIR/qdrant/                    a store of Qdrant's local mode, if the points do not go to a server

An export is written in parts of several blocks. A part is complete or absent, and a stopped export continues after its
last part.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import orjson

from taco_ir.core.files import InputError, read_json, write_json, writing
from taco_ir.core.processes import Progress
from taco_ir.core.types import Passage, Vectors, run_id
from taco_ir.data.collection import Collection, open_collection
from taco_ir.retrieval.exact_search import longest_norm
from taco_ir.retrieval.frozen_base import blocks, stored_matrix
from taco_ir.retrieval.vectors import VectorSet

MANIFEST = "manifest.json"
PART = 32  # blocks
POINTS = 256  # of a message to Qdrant
KEY = "QDRANT_API_KEY"  # environment variable


class Manifest(NamedTuple):
    """The content of manifest.json."""

    made_of: dict[str, str]
    blocks: int
    finished: bool


class Block(NamedTuple):
    """Some passages from row `start` on, with their vectors: float32 [n, D]."""

    start: int
    passages: Sequence[Passage]
    vectors_ND: Vectors


@dataclass(frozen=True)
class StoreRequest:
    """A request to export vectors with their passages.

    Attributes:
        vectors: folder that `encode` wrote.
        collection: the collection that the passages are from.
        form: one of FORMATS.
        url: a Qdrant server; None for files.

    Raises:
        InputError: for a missing package. `source` raises it for incomplete vectors, or vectors of other passages.
    """

    vectors: str
    collection: str
    form: str
    url: str | None = None

    def __post_init__(self) -> None:
        package = FORMATS[self.form].package
        if importlib.util.find_spec(package) is None:
            name = package.replace("_", "-")
            raise InputError(f"--format {self.form}: {name} is not installed; pip install {name}")

    @cached_property
    def source(self) -> tuple[VectorSet, Collection]:
        """Returns the vectors and their collection."""
        vectors, collection = VectorSet(Path(self.vectors)), open_collection(self.collection)
        vectors.recipe.require(f"--vectors {self.vectors}", None, collection.passages.fingerprint)
        return vectors, collection

    @property
    def made_of(self) -> dict[str, str]:
        """Returns all inputs that the output depends on, by name."""
        return {"vectors": self.source[0].fingerprint, "format": self.form, "url": self.url or ""}

    def write(self, output: Path) -> None:
        """Write the export or, if it was stopped, its missing parts.

        Raises:
            InputError: for a block of vectors that was changed, or if the store refuses the passages.
        """
        vectors, collection = self.source
        before, count, made_of = read_manifest(output), len(vectors.block_rows), self.made_of
        begun = before is not None and not before.finished and before.made_of == made_of
        done = before.blocks if before and begun else 0
        if not begun:
            (output / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(output / self.form, ignore_errors=True)
        progress, row = Progress("export", vectors.recipe.passages, "passages"), sum(vectors.block_rows[:done])
        progress.skip(row)
        passages = collection.passages.read(row)

        def read(first: int) -> Iterator[Block]:
            nonlocal row
            for number in range(first, min(first + PART, count)):
                vectors_ND, docids = vectors.block(number)
                yield Block(row, list(islice(passages, len(docids))), vectors_ND.astype(np.float32))
                progress.at(row := row + len(docids))

        with closing(FORMATS[self.form](self, output / self.form, begun)) as store:
            write_json(output / MANIFEST, Manifest(made_of, done, finished=False)._asdict())
            for first in range(done, count, PART):
                store.write(first // PART, read(first))
                stop = min(first + PART, count)
                write_json(output / MANIFEST, Manifest(made_of, stop, stop == count)._asdict())


def read_manifest(output: Path) -> Manifest | None:
    path = output / MANIFEST
    return read_json(path, Manifest, "remove it to export everything again") if path.is_file() else None


def read_made_of(output: Path) -> Mapping[str, Any] | None:
    """Returns what the finished export in `output` was made from; None if there is no finished export."""
    found = read_manifest(output)
    return found.made_of if found and found.finished else None


class Store:
    """Base class of stores for passages and their vectors; by default a folder with a file for each part.

    Args:
        begun: True if an earlier process began the same export.

    Attributes:
        package: the Python package that must be installed.
    """

    package: str
    suffix = ""

    def __init__(self, request: StoreRequest, folder: Path, begun: bool) -> None:  # noqa: ARG002
        self.vectors, self.collection = request.source
        self._folder = folder

    def write(self, part: int, read: Iterable[Block]) -> None:
        """Write the blocks of part number `part`; a stopped export may have written some of the blocks before."""
        with writing(self._folder / f"{part:05d}.{self.suffix}", "wb") as sink:
            self.fill(sink, read)

    def fill(self, sink: IO[bytes], read: Iterable[Block]) -> None:
        """Write blocks into a file."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the store, at the end of the export."""


class Parquet(Store):
    """Parquet files, which LanceDB, DuckDB, Spark and many others read; vectors are lists of float32 numbers."""

    package, suffix = "pyarrow", "parquet"

    def fill(self, sink: IO[bytes], read: Iterable[Block]) -> None:
        import pyarrow
        from pyarrow import parquet

        dim = self.vectors.recipe.dim
        types = [(name, pyarrow.string()) for name in Passage._fields]
        schema = pyarrow.schema([*types, ("vector", pyarrow.list_(pyarrow.float32(), dim))])
        with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
            for block in read:
                columns = [pyarrow.array(column, pyarrow.string()) for column in zip(*block.passages, strict=True)]
                vectors = pyarrow.FixedSizeListArray.from_arrays(block.vectors_ND.ravel(), dim)
                writer.write_table(pyarrow.table([*columns, vectors], schema=schema))


class LuceneJson(Store):
    """JSON lines for Anserini's IndexHnswDenseVectors; Pyserini can search the index that it builds.

    Lucene allows vectors of length 1 at most. If some vectors are longer, all vectors are divided by the largest
    length, which changes no ranking.
    """

    package, suffix = "orjson", "jsonl"

    @cached_property
    def _longest(self) -> float:
        return max(1.0, *map(longest_norm, blocks(stored_matrix(self.vectors))))

    def fill(self, sink: IO[bytes], read: Iterable[Block]) -> None:
        for block in read:
            for passage, vector_D in zip(block.passages, block.vectors_ND / np.float32(self._longest), strict=True):
                contents = f"{passage.title}\n{passage.text}"
                record = {"docid": passage.docid, "contents": contents, "vector": vector_D}
                sink.write(orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))


class Qdrant(Store):
    """A collection in Qdrant, on a server or in a folder. Points have row numbers, so no point is stored twice."""

    package = "qdrant_client"

    def __init__(self, request: StoreRequest, folder: Path, begun: bool) -> None:
        from qdrant_client import QdrantClient, models

        super().__init__(request, folder, begun)
        self._models, self._place = models, request.url or str(folder)
        self._name = run_id(f"{self.collection.name}-{self.vectors.recipe.model}")
        with self._named():
            if request.url:
                key = os.environ.get(KEY)
                self._client = QdrantClient(url=request.url, api_key=key, timeout=60, check_compatibility=False)
            else:
                self._client = QdrantClient(path=str(folder))
            if not begun and self._client.collection_exists(self._name):
                raise InputError(f"--url {request.url}: there is a collection {self._name!r}; remove it there first")

    def write(self, part: int, read: Iterable[Block]) -> None:  # noqa: ARG002
        models = self._models
        with self._named():
            if not self._client.collection_exists(self._name):
                how = {"datatype": models.Datatype.FLOAT16, "on_disk": True}
                kept = models.VectorParams(size=self.vectors.recipe.dim, distance=models.Distance.DOT, **how)
                self._client.create_collection(self._name, kept)
        for block in read:
            for first in range(0, len(block.passages), POINTS):
                some = slice(first, first + POINTS)
                payloads = [passage._asdict() for passage in block.passages[some]]
                ids = list(range(block.start + first, block.start + first + len(payloads)))
                batch = models.Batch(ids=ids, vectors=block.vectors_ND[some].tolist(), payloads=payloads)
                with self._named():
                    self._client.upsert(self._name, batch)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn errors of Qdrant into an InputError of one line."""
        from qdrant_client.http.exceptions import ApiException

        try:
            yield
        except (ApiException, RuntimeError) as error:
            raise InputError(f"{self._place}: Qdrant says: {' '.join(str(error).split())[:200]}") from error

    def close(self) -> None:
        self._client.close()


FORMATS: dict[str, type[Store]] = {"parquet": Parquet, "qdrant": Qdrant, "lucene-json": LuceneJson}
