"""Memory and time against the number of passages: encode's writer, search of vectors on disk, and lists on disk.

Vectors are made on the fly, in blocks, around random centres. Each measure is taken in a process of its own, which may
hold at most `--memory`; pages of mapped files come on top, since the system takes them back when it needs them. The
table has seconds and peaks of memory, with such pages in brackets. At one size faiss searches a Flat index in memory
for the same queries, in turn with ours, and the scores must be equal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import numpy as np
from bounds import Bound, add_tiny, in_a_process, judged

from taco_ir.cli import Parser, byte_count
from taco_ir.core.files import InputError
from taco_ir.core.processes import format_bytes, peak_memory
from taco_ir.core.types import Passage, Vectors
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.retrieval import vectors as vectors_module
from taco_ir.retrieval.choices import Streamed
from taco_ir.retrieval.faiss_index import DenseIndex, build_index
from taco_ir.retrieval.recall import SAMPLE
from taco_ir.retrieval.vector_stream import VectorStream
from taco_ir.retrieval.vectors import Recipe, Shard, ShardWriter, VectorSet

SIZES, LARGEST, TINY = (136_000, 1_000_000, 4_000_000), 16_000_000, (10_000, 20_000)
DIM, CENTRES, NOISE = 384, 1000, 0.7
COMPARED = 1_000_000  # passages up to which faiss holds all vectors in memory
NEEDED = 1.3  # time of ours to that of faiss
FLAT_MEMORY, LINEAR_TIME = 1.25, 1.25  # of the largest size to the smallest: peak, and seconds for each passage
RECALL, NEEDED_RECALL, NEEDED_FASTER = 0.99, 0.985, 5.0  # of a graph
LOOK_EVERY = 0.02  # seconds between two looks at the memory of a process
TOLERANCE = 1e-4  # scores of two libraries differ by rounding


def parser() -> argparse.ArgumentParser:
    flags = Parser("search", __doc__ or "", ("--hits",))
    flags.prog = "python benchmarks/growth.py"
    flags.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="passages [default: 136k, 1M, 4M]")
    flags.add_argument("--largest", action="store_true", help=f"also {LARGEST:,} passages, which take 19 GB of disk")
    flags.add_argument("--graph", action="store_true", help="also HNSW32 by --recall, where faiss is compared")
    flags.add_argument("--queries", type=int, default=1000, help="queries that are searched together [default: 1000]")
    flags.add_argument("--memory", type=byte_count, default=2_000_000_000, help="of each process [default: 2GB]")
    flags.add_argument("--factory", default="IVF1024,SQ8", help="of the index with lists on disk")
    flags.add_argument("--rounds", type=int, default=3, help="searches of ours and of faiss, in turn [default: 3]")
    flags.add_argument("--folder", type=Path, help="where vectors are written, then removed [default: a temporary one]")
    add_tiny(flags)
    return flags


class Took(NamedTuple):
    """What a measure took: seconds, and peaks of the resident memory, without and with pages of mapped files."""

    seconds: float
    own: int
    peak: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {format_bytes(self.own)} ({format_bytes(self.peak)})"


def made(rows: range, seed: int = 0) -> Vectors:
    """Unit vectors around random centres, the same for a row whoever asks: float32 [N, D]."""
    centres_CD = np.random.default_rng(seed).standard_normal((CENTRES, DIM), dtype=np.float32)
    draw = np.random.default_rng([seed + 1, rows.start])
    vectors_ND = NOISE * draw.standard_normal((len(rows), DIM), dtype=np.float32)
    vectors_ND += centres_CD[draw.integers(CENTRES, size=len(rows))]
    unit_ND: Vectors = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return unit_ND


def asked(count: int) -> Vectors:
    """Queries: float32 [B, D]."""
    return made(range(1 << 40, (1 << 40) + count))


def write(folder: Path, count: int) -> None:
    """Write vectors as `encode` does."""
    recipe = Recipe("synthetic", count, "synthetic", "synthetic", "{text}", DIM)
    writer = ShardWriter(folder, Shard(1, 1), recipe)

    def encode(block: list[Passage]) -> Vectors:
        return made(range(int(block[0].text), int(block[0].text) + len(block)))

    passages: Iterator[Passage] = (Passage(f"{row}#0", "", "", str(row)) for row in range(writer.done, count))
    writer.write(passages, encode, lambda _: None)


def search_stream(folder: Path, queries_BD: Vectors, hits: int, memory: int) -> list[float]:
    """Search vectors on disk; the last score of each query."""
    found = VectorStream(Streamed(str(folder), memory)).search(queries_BD, hits)
    return [float(ranking.scores[-1]) for ranking in found or ()]


def build(vectors: Path, index: Path, factory: str) -> None:
    build_index(VectorSet(vectors), index, factory, on_disk=True)


def search_index(folder: Path, queries_BD: Vectors, hits: int) -> None:
    DenseIndex(folder).search(queries_BD, hits)


def measure(memory: int | None, action: Callable[[], object]) -> Took:
    """Do something in this process, which may take so much memory of its own."""
    import resource

    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    own, ended = [0], Event()

    def watch() -> None:
        while not ended.wait(LOOK_EVERY):
            said = Path("/proc/self/status").read_text(encoding="ascii").split("RssAnon:")[-1].split()
            own.append(max(own.pop(), int(said[0]) * 1024))

    watcher = Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    action()
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    return Took(seconds, own[0], peak_memory())


def beside_faiss(folder: Path, queries_BD: Vectors, hits: int, memory: int, rounds: int) -> float:
    """Seconds of ours to those of faiss on a Flat index in memory: the median of some rounds, in turn."""
    import faiss

    faiss.omp_set_num_threads(os.cpu_count() or 1)
    index = faiss.IndexFlatIP(DIM)
    for block_ND, _ in VectorSet(folder).blocks():
        index.add(np.ascontiguousarray(block_ND, dtype=np.float32))
    memory += index.ntotal * DIM * 4  # which this process holds for faiss
    ratios: list[float] = []
    for number in range(1, rounds + 1):
        start = time.perf_counter()
        last_B = index.search(queries_BD, hits)[0][:, -1]
        theirs = time.perf_counter() - start
        start = time.perf_counter()
        found_B = search_stream(folder, queries_BD, hits, memory)
        ours = time.perf_counter() - start
        if np.abs(last_B - found_B).max() > TOLERANCE:
            sys.exit("the scores of ours and of faiss differ")
        ratios.append(ours / theirs)
        print(f"round {number}: vectors on disk {ours:.2f} s, faiss in memory {theirs:.2f} s", flush=True)
    return statistics.median(ratios)


def beside_graph(vectors: Path, index: Path, count: int, hits: int, memory: int) -> list[Bound]:
    """Speed of a graph, which looks as far as a recall needs, to that of exact search; and the recall."""
    build_index(VectorSet(vectors), index, "HNSW32")
    graph = DenseIndex(index)
    graph.reach(RECALL, asked(SAMPLE), hits, index)
    others_BD = made(range(1 << 41, (1 << 41) + count))
    start = time.perf_counter()
    found = graph.search(others_BD, hits)
    quick = time.perf_counter() - start
    start = time.perf_counter()
    exact = VectorStream(Streamed(str(vectors), memory)).search(others_BD, hits) or []
    slow = time.perf_counter() - start
    same = [len({*one.docids} & {*other.docids}) / hits for one, other in zip(found, exact, strict=True)]
    print(f"HNSW32: {graph.effort}, {count / quick:,.0f} queries/s, exact {count / slow:,.0f}", flush=True)
    speed = Bound("speed of HNSW / exact search", slow / quick, NEEDED_FASTER)
    return [speed, Bound(f"its recall where {RECALL} was asked", statistics.mean(same), NEEDED_RECALL)]


def main() -> None:
    flags = parser()
    try:
        options = flags.parse_args()
        if options.tiny:
            options.sizes, options.queries, options.rounds, options.factory = list(TINY), 20, 1, "IVF16,SQ8"
            vectors_module.BLOCK_ROWS = 1024
        sizes, rows, ratio = sorted({*options.sizes, *[LARGEST] * options.largest}), list[list[Cell]](), 0.0
        compared = max((size for size in sizes if size <= COMPARED), default=0)
        queries_BD, streams, of_graph = asked(options.queries), list[Took](), list[Bound]()
        for count in sizes:
            with tempfile.TemporaryDirectory(dir=options.folder) as name:
                os.environ["TACO_IR_HOME"] = f"{name}/home"
                vectors, index = Path(name) / "vectors", Path(name) / "index"
                search = partial(search_stream, vectors, queries_BD, options.hits, options.memory)
                steps: list[Callable[[], object]] = [
                    partial(write, vectors, count),
                    search,
                    partial(build, vectors, index, options.factory),
                    partial(search_index, index, queries_BD, options.hits),
                ]
                took = [in_a_process(measure, options.memory, step) for step in steps]
                streams.append(took[1])
                rows.append([f"{count:,}", *map(str, took)])
                print(*rows[-1], sep=" | ", flush=True)
                if count == compared:
                    ratio = in_a_process(
                        beside_faiss, vectors, queries_BD, *(options.hits, options.memory, options.rounds)
                    )
                    if options.graph:
                        given = (options.queries, options.hits, 8 * options.memory)
                        of_graph = in_a_process(beside_graph, vectors, Path(name) / "graph", *given)
    except InputError as error:
        sys.exit(f"error: {error}")
    header = ["passages", "writing", "search --vectors", "index --on-disk", "its search"]
    said = f"{options.queries:,} queries, {options.hits} hits, {os.cpu_count()} cores"
    print(render(Table(said, header, rows), "markdown"), end="")
    first, last = streams[0], streams[-1]
    per_passage = (last.seconds / sizes[-1]) / (first.seconds / sizes[0])
    bounds = [
        Bound(f"seconds of search --vectors / faiss in memory, {compared:,} passages", ratio, NEEDED, at_most=True),
        Bound("peak memory of search --vectors, largest / smallest", last.peak / first.peak, FLAT_MEMORY, at_most=True),
        Bound("its seconds for a passage, largest / smallest", per_passage, LINEAR_TIME, at_most=True),
        Bound("its peak memory / the limit", last.peak / options.memory, 1.0, at_most=True),
    ]
    sys.exit(judged(bounds + of_graph, options.tiny))


if __name__ == "__main__":
    main()
