"""Exact search of vectors on disk, for collections larger than memory: each block is read once for all queries.

    <data home>/searches/KEY/shard-2-of-8.safetensors      hits that a process has found so far, and searched blocks

KEY is a hash of the vectors, the queries and the number of hits. A stopped search continues from its file, which is
written once a minute. Several processes can search one shard each; a last process then combines their results. Hits and
scores are the same as with a Flat index.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError, data_home, exclusive, writing
from taco_ir.core.hashes import fingerprint
from taco_ir.core.processes import Progress, format_bytes, free_memory, log, resident_memory
from taco_ir.core.types import Encoder, Ranking, Vectors
from taco_ir.retrieval.choices import Streamed
from taco_ir.retrieval.exact_search import AHEAD, CROWD, Candidates, ExactSearch, Float32, Products
from taco_ir.retrieval.frozen_base import stored_matrix
from taco_ir.retrieval.half_products import HalfPrecision
from taco_ir.retrieval.vectors import Lines, Shard, VectorSet
from taco_ir.scale.engines import Engine, do_units
from taco_ir.scale.units import State, Unit, require_shared

SAVE_EVERY = 60.0  # seconds between two writes of results to disk
SCORE_BYTES = 24  # for a score while a block is scored: copies, and positions of candidates
HIT_BYTES = 60 * (CROWD + 1)  # for a hit while candidates are kept and sorted
DOCID_BYTES = 100  # for a hit at the end
PART, QUERIES = "shard-*-of-*.safetensors", "queries.npy"
KIND = "taco_ir.retrieval.vector_stream:ShardsOfVectors"


class VectorStream:
    """Passage vectors that `encode` wrote, opened for an exact search that reads them from disk.

    Raises:
        InputError: on opening, if shards are missing, or if another encoder or another collection made the vectors.
    """

    def __init__(self, place: Streamed, encoder: Encoder | None = None, collection: str | None = None) -> None:
        self._vectors, self._place = VectorSet(Path(place.folder)), place
        self.recipe = self._vectors.recipe
        self.recipe.require(f"--vectors {place.folder}", encoder, collection)
        self.fingerprint, rows = self._vectors.fingerprint, self._vectors.block_rows
        self._starts, dim = np.cumsum([0, *rows]), self.recipe.dim
        self._products: Products = HalfPrecision(dim, place.device) if "cuda" in place.device else Float32(dim)
        self._vectors_ND: Any = stored_matrix(self._vectors)
        self._docids_N: Any = StoredDocids(self._vectors.paths("docids"), self._starts)
        self._kept: list[Path] = []

    def search(self, queries_BD: Vectors, hits: int) -> list[Ranking] | None:
        """Return for each query a ranking of the `hits` passages with the largest inner products; None if this process
        searches only one of several shards.

        Raises:
            InputError: if memory is too small for a block, a block was altered, or another process is searching this
                shard.
        """
        queries_BD = np.ascontiguousarray(queries_BD, dtype=np.float32)
        together = self._fitting(len(queries_BD), hits)
        parts = [queries_BD[start : start + together] for start in range(0, len(queries_BD), together)]
        if len(parts) > 1:
            log.info("memory has room for %s queries at once: vectors are read %d times", f"{together:,}", len(parts))
        found: list[Ranking] = []
        for part_BD in parts:
            made_of = self._made_of(part_BD, hits)
            folder = (self._place.kept or data_home() / "searches") / fingerprint(made_of)
            if self._place.engine is not None and len(self._vectors.block_rows) > 1:
                self._give(part_BD, hits, folder, self._place.engine)
            found += self.search_shard(part_BD, hits, folder, self._place.shard)
            if self._place.shard.of > 1:
                log.info("%s: the results of this shard", Part.path(folder, self._place.shard))
        return found if self._place.shard.of == 1 else None

    def _made_of(self, queries_BD: Vectors, hits: int) -> dict[str, Any]:
        asked = hashlib.sha256(queries_BD.tobytes()).hexdigest()[:16]
        return {"vectors": self.fingerprint, "queries": asked, "hits": hits}

    def _give(self, queries_BD: Vectors, hits: int, folder: Path, open_engine: Callable[[], Engine]) -> None:
        """Let an engine's workers search all shards. Raises: InputError if no worker could search one of them."""
        with writing(folder / QUERIES, "wb") as sink:
            np.save(sink, queries_BD, allow_pickle=False)
        blocks = len(self._vectors.block_rows)
        spec = {
            "vectors": str(Path(self._place.folder).absolute()),
            "folder": str(folder.absolute()),
            "hits": hits,
            "blocks": blocks,
            "device": self._place.device,
        }
        with closing(open_engine()) as engine:
            shards = min(engine.units, blocks)
            do_units([Unit(KIND, number, shards, spec) for number in range(1, shards + 1)], engine, "search", "blocks")

    def forget(self) -> None:
        """Delete the intermediate results on disk of searches that have finished."""
        for folder in self._kept:
            shutil.rmtree(folder, ignore_errors=True)
        self._kept.clear()

    def _fitting(self, queries: int, hits: int) -> int:
        """Return how many queries fit into memory together. Raises: InputError if memory is too small for a block."""
        used, rows, dim = resident_memory(), max(self._vectors.block_rows), self.recipe.dim
        memory = used + free_memory() // 2 if self._place.memory is None else self._place.memory
        scored = min(queries, self._products.queries * self._products.threads)
        fixed = used + (AHEAD + 3) * rows * dim * 6 + scored * rows * SCORE_BYTES
        each = dim * 12 + hits * (HIT_BYTES + DOCID_BYTES)
        if (least := fixed + scored * each) > memory:
            raise InputError(
                f"--memory {format_bytes(memory)}: too small for a block of {rows:,} vectors and {scored:,} queries "
                f"besides the {format_bytes(used)} in use; give at least {format_bytes(least)}"
            )
        return min(queries, (memory - fixed) // each // scored * scored)

    def search_shard(
        self, queries_BD: Vectors, hits: int, folder: Path, shard: Shard, report: Callable[[int], None] | None = None
    ) -> list[Ranking]:
        """Search one shard, keep results in `folder`, and return rankings; an empty list if there are other shards.

        Args:
            report: function to call with the number of finished blocks; None: show a progress line.

        Raises:
            InputError: if a block was altered or, without `report`, if another process is searching this shard.
        """
        made_of, count = self._made_of(queries_BD, hits), len(self._vectors.block_rows)
        own = Part.path(folder, shard)
        search = ExactSearch(queries_BD, self._vectors_ND, self._docids_N, hits, self._products)
        with exclusive(own, wait=report is not None), search:
            done = self._take(search, own, shard.of == 1)
            left = [number for number in shard.rows(count) if number not in done]
            if done and report is None:
                log.info("%s of %s blocks were searched before", f"{len(done):,}", f"{count:,}")
            self._stream(search, left, done, partial(Part.write, path=own, made_of=made_of), report)
            if shard.of > 1:
                Part(sorted(done), search.candidates(), search.longest).write(own, made_of)
                return []
            self._kept.append(folder)
            return list(search.rankings())

    def _take(self, search: ExactSearch, own: Path, others: bool) -> set[int]:
        """Add earlier results of this process, and with `others` of all, to a search; return the searched blocks."""
        done: set[int] = set()
        paths = [own, *(sorted(own.parent.glob(PART)) if others else [])]
        for path in dict.fromkeys(paths):
            with exclusive(path):  # waits for a process that is searching this shard
                part = Part.read(path)
            if part is not None and done.isdisjoint(part.blocks):
                search.put(part.found, part.longest)
                done.update(part.blocks)
        return done

    def _stream(
        self,
        search: ExactSearch,
        left: Sequence[int],
        done: set[int],
        keep: Callable[[Part], None],
        report: Callable[[int], None] | None,
    ) -> None:
        """Search the blocks that are left, and write results to disk from time to time."""
        rows = self._vectors.block_rows
        progress = Progress("search", sum(rows[number] for number in left), "passages") if report is None else None
        seen, saved = 0, time.monotonic()
        for number in left:
            search.add(int(self._starts[number]), self._vectors.block(number)[0])
            done.add(number)
            seen += rows[number]
            if time.monotonic() - saved >= SAVE_EVERY:
                keep(Part(sorted(done), search.candidates(), search.longest))
                saved = time.monotonic()
            if progress:
                progress.at(seen)
            elif report:
                report(len(done))


class ShardsOfVectors:
    """The work of a worker process: searches shards of vectors, one after the other, for the queries in a file.

    Raises:
        InputError: if the worker's machine lacks a folder.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._folder = Path(spec["folder"])
        require_shared([("--vectors", Path(spec["vectors"])), ("data home:", self._folder)])
        self._hits, self._queries_BD = spec["hits"], np.load(self._folder / QUERIES, allow_pickle=False)
        self._stream = VectorStream(Streamed(spec["vectors"], device=spec["device"]))

    def run(self, number: int, of: int, report: Callable[[int], None]) -> int:
        shard = Shard(number, of)
        self._stream.search_shard(self._queries_BD, self._hits, self._folder, shard, report)
        return Part.count(Part.path(self._folder, shard))

    @staticmethod
    def look(spec: dict[str, Any], number: int, of: int) -> State:
        shard = Shard(number, of)
        done, total = Part.count(Part.path(Path(spec["folder"]), shard)), len(shard.rows(spec["blocks"]))
        return State(done, total, done == total)


class StoredDocids:
    """The docids of all rows, in files with one docid per line; only the requested rows are read."""

    def __init__(self, paths: Sequence[Path], starts: npt.NDArray[np.int64]) -> None:
        self._paths, self._starts = paths, starts

    def __getitem__(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.object_]:
        asked, places = np.unique(rows, return_inverse=True)  # many queries find the same passages
        parts = np.split(asked, np.searchsorted(asked, self._starts[1:-1]))
        named = zip(self._paths, self._starts[:-1], parts, strict=True)
        found = [Lines(path)[part - start] for path, start, part in named if len(part)]
        return np.concatenate([np.empty(0, dtype=object), *found])[places]


class Part(NamedTuple):
    """Intermediate results of a search on disk: the candidates found so far.

    Attributes:
        blocks: numbers of the blocks that were searched.
        longest: the largest norm of a vector in these blocks.
    """

    blocks: list[int]
    found: Candidates
    longest: float

    @staticmethod
    def path(folder: Path, shard: Shard) -> Path:
        return folder / f"{shard.folder(folder).name}.safetensors"

    @staticmethod
    def count(path: Path) -> int:
        """Return the number of searched blocks that a file records; 0 if it is missing or cannot be read."""
        from safetensors import SafetensorError, safe_open

        with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError), safe_open(path, "np") as stored:
            return len(json.loads(stored.metadata()["part"])["blocks"])
        return 0

    def write(self, path: Path, made_of: dict[str, Any]) -> None:
        from safetensors.numpy import save

        query, row, score = self.found
        tensors: dict[str, npt.NDArray[Any]] = {
            "query": query.astype(np.int32),
            "row": row.astype(np.int64),
            "score": score,
        }
        said = json.dumps({"made_of": made_of, "blocks": self.blocks, "longest": self.longest})
        with writing(path, "wb") as sink:
            sink.write(save(tensors, {"part": said, "sha256": _digest(said, tensors)}))

    @classmethod
    def read(cls, path: Path) -> Part | None:
        """Read intermediate results; None if the file is missing or damaged, so that its blocks are searched again."""
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            return None
        with suppress(SafetensorError, ValueError, KeyError, TypeError):
            with safe_open(path, "np") as stored:
                facts = stored.metadata()
                tensors = {name: stored.get_tensor(name) for name in Candidates._fields}
            if facts["sha256"] == _digest(facts["part"], tensors) and (said := json.loads(facts["part"])):
                found = Candidates(tensors["query"].astype(np.intp), tensors["row"].astype(np.intp), tensors["score"])
                return cls(said["blocks"], found, said["longest"])
        log.warning("%s: the file is damaged; its blocks are searched again", path)
        return None


def _digest(said: str, tensors: dict[str, npt.NDArray[Any]]) -> str:
    return hashlib.sha256(b"".join([said.encode(), *(each.tobytes() for each in tensors.values())])).hexdigest()
