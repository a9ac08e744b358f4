"""Exact dense search: plain faiss, Pyserini's FaissSearcher and ours, over the same Flat index and query vectors.

They take turns. Each answers all queries at once on all cores, then some of them one by one; imports, loading and query
encoding are not counted. The hits must be equal. Passages have random vectors, as many and as wide as the collection's
would be: encoding them takes most of an hour, and an exact search is as fast on any. At last `Retriever` answers single
queries in the same index, from text to text.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bounds import Bound, add_tiny, judged

from taco_ir.cli import MODEL_FLAGS, Parser, model_choice
from taco_ir.core.files import InputError
from taco_ir.core.types import Encoder, Passage, Query, Ranking, Vectors
from taco_ir.data.collection import Collection, open_collection
from taco_ir.retrieval.encoding import encode_collection
from taco_ir.retrieval.faiss_index import DenseIndex, build_index
from taco_ir.retrieval.pyserini_bridge import prepare
from taco_ir.retrieval.retriever import Retriever
from taco_ir.retrieval.vectors import Recipe, Shard, VectorSet

NEEDED, NEEDED_SINGLE = 1.15, 4.0
SINGLE, WARM = 60, 10  # queries that are answered one by one, and how many of them in a turn, or before one counts
MOST_MS = 50.0  # of a single query, from text to text
TOLERANCE = 1e-4  # scores of two BLAS libraries differ by rounding


def parser() -> argparse.ArgumentParser:
    flags = Parser("search", __doc__ or "", ("--collection", *MODEL_FLAGS, "--hits"))
    flags.prog = "python benchmarks/search.py"
    flags.add_argument(
        "--queries", type=int, default=1000, help="queries, from the dev topics in order [default: 1000]"
    )
    flags.add_argument("--rounds", type=int, default=5, help="times that each searcher runs [default: 5]")
    add_tiny(flags)
    return flags


class RandomEncoder(NamedTuple):
    """Unit vectors at random for passages, in the place of those of an encoder `like`."""

    like: Encoder
    random: np.random.Generator

    @property
    def passage_template(self) -> str:
        return self.like.passage_template

    @property
    def dim(self) -> int:
        return self.like.dim

    fingerprint = "random"

    @property
    def passage_fingerprint(self) -> str:
        """That of `like`, which then searches the index."""
        return self.like.passage_fingerprint

    def encode_queries(self, texts: Sequence[str], task: str | None) -> Vectors:
        return self.like.encode_queries(texts, task)

    def lowest_cosine(self, _: Sequence[Passage]) -> float:
        return 1.0

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        vectors_ND = self.random.standard_normal((len(passages), self.dim), dtype=np.float32)
        return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def query_vectors(collection: Collection, encoder: Encoder, count: int) -> Vectors:
    """The first `count` queries of all dev topics: float32 [B, D]."""
    blocks: list[Vectors] = []
    for name in collection.expand(["all-dev"]):
        topics = collection.topics(name)
        left = count - sum(map(len, blocks))
        if texts := [query.text for query in topics.queries[:left]]:
            blocks.append(encoder.encode_queries(texts, topics.task))
    return np.concatenate(blocks)


def pyserini_searcher(folder: Path) -> Any:
    """Pyserini's own class, on an index in its format."""
    prepare()
    from pyserini.search.faiss import FaissSearcher

    return FaissSearcher(str(folder), None)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def check(ours: list[Ranking], theirs: dict[str, list[Any]]) -> None:
    """Exit unless the hits are equal: same scores rank by rank, and the same docids where scores are apart."""
    for ranking, hits in zip(ours, theirs.values(), strict=True):
        scores_K = np.array([hit.score for hit in hits])
        if len(hits) != len(ranking.docids) or np.abs(scores_K - ranking.scores).max() > TOLERANCE:
            sys.exit("the scores of ours and Pyserini's differ")
        last = scores_K[-1] + TOLERANCE
        if {hit.docid for hit in hits if hit.score > last} - set(ranking.docids):
            sys.exit("the docids of ours and Pyserini's differ")


def compare(index: DenseIndex, searcher: Any, plain: Any, queries_BD: Vectors, hits: int, rounds: int) -> float:
    """Print the rounds; the median ratio of our speed to Pyserini's."""
    cores = os.cpu_count() or 1
    qids = [str(row) for row in range(len(queries_BD))]
    systems: dict[str, Callable[[], Any]] = {
        "plain faiss": lambda: plain.search(queries_BD, hits),
        "Pyserini": lambda: searcher.batch_search(queries_BD, qids, hits, cores),
        "ours": lambda: index.search(queries_BD, hits),
    }
    check(systems["ours"](), systems["Pyserini"]())  # and all are warm
    plain.search(queries_BD[:1], hits)
    times: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(1, rounds + 1):
        for name, action in systems.items():
            times[name].append(seconds(action))
        print(
            f"round {number}: "
            + ", ".join(f"{name} {len(qids) / taken[-1]:,.0f} queries/s" for name, taken in times.items()),
            flush=True,
        )
    ratios = {
        name: statistics.median(theirs / ours for theirs, ours in zip(taken, times["ours"], strict=True))
        for name, taken in times.items()
    }
    print(
        f"equal hits; ours is {ratios['plain faiss']:.2f} x plain faiss and {ratios['Pyserini']:.2f} x Pyserini "
        "(medians)"
    )
    return ratios["Pyserini"]


def compare_single(index: DenseIndex, searcher: Any, queries_BD: Vectors, hits: int) -> tuple[float, float]:
    """Median seconds of Pyserini and of ours for a query. They take turns of several queries, as a service has them."""
    systems = (searcher.search, index.search)
    times: tuple[list[float], ...] = ([], [])
    for several_BD in np.array_split(queries_BD, -(-len(queries_BD) // WARM)):
        singles = np.split(several_BD, len(several_BD))
        for query_1D in singles:
            check(index.search(query_1D, hits), {"": searcher.search(query_1D, hits)})
        for search, taken in zip(systems, times, strict=True):
            taken += [seconds(partial(search, query_1D, hits)) for query_1D in singles]
    theirs, ours = (statistics.median(taken) for taken in times)
    print(f"one by one, medians: Pyserini {1000 * theirs:.1f} ms, ours {1000 * ours:.1f} ms")
    return theirs, ours


def median_ms(retriever: Retriever, queries: Sequence[Query], hits: int) -> float:
    """Milliseconds of a query from its text to the texts of its hits, in the middle of many after the first few."""
    times = [seconds(lambda: retriever.search(query.text, query.task, hits)) for query in queries]  # noqa: B023
    counted = times[min(WARM, len(times) // 2) :]
    found = 1000 * statistics.median(counted)
    print(
        f"Retriever, {len(counted)} single queries: median {found:.1f} ms, first two {times[0]:.2f} s {times[1]:.2f} s"
    )
    return found


def main() -> None:
    flags = parser()
    try:
        options = flags.parse_args()
        if options.tiny:
            options.queries, options.rounds = 8, 1
        collection, model = open_collection(options.collection), model_choice(options)
        encoder = model.load()
        with tempfile.TemporaryDirectory() as name:
            folder, random = Path(name) / "vectors", RandomEncoder(encoder, np.random.default_rng(0))
            recipe = Recipe.of(collection.passages, model.name, random)
            encode_collection(collection, random, recipe, folder, Shard(1, 1))
            build_index(VectorSet(folder), Path(name) / "index")
            queries_BD = query_vectors(collection, encoder, options.queries)
            print(
                f"{len(queries_BD):,} queries, {collection.passages.count:,} passages, {queries_BD.shape[1]} wide, "
                f"{options.hits} hits, {os.cpu_count()} cores"
            )
            import faiss

            faiss.omp_set_num_threads(os.cpu_count() or 1)
            index = Path(name) / "index"
            ours, searcher, plain = DenseIndex(index), pyserini_searcher(index), faiss.read_index(str(index / "index"))
            ratio = compare(ours, searcher, plain, queries_BD, options.hits, options.rounds)
            theirs, single = compare_single(ours, searcher, queries_BD[:SINGLE], options.hits)
            asked = [query for name in collection.expand(["all-dev"]) for query in collection.topics(name).queries]
            milliseconds = median_ms(Retriever(collection, encoder, index=index), asked[:SINGLE], 10)
    except InputError as error:
        sys.exit(f"error: {error}")
    bounds = [
        Bound("speed of ours / Pyserini's exact search", ratio, NEEDED),
        Bound("speed of ours / Pyserini's, one by one", theirs / single, NEEDED_SINGLE),
        Bound("milliseconds of a single query by Retriever", milliseconds, MOST_MS, at_most=True),
    ]
    sys.exit(judged(bounds, options.tiny))


if __name__ == "__main__":
    main()
