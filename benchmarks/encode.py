"""Passages a second of all-MiniLM-L6-v2: sentence-transformers and Pyserini against ours in float32 and int8.

All four read the same passages with the same weights in one process, in turn, in rounds whose order rotates; each has
encoded a few passages before. Then int8 is searched against float32: passage R@20 of every task of a collection.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from bounds import Bound, add_tiny, judged

from taco_ir.core.processes import share_processors
from taco_ir.core.types import Passage, Run, Vectors
from taco_ir.data.collection import Collection, open_collection
from taco_ir.encoders.text_encoder import TextEncoder, load_encoder
from taco_ir.evaluation.measures import Measure, Scores, macro_average, score_run
from taco_ir.retrieval.faiss_index import DenseIndex, build_index
from taco_ir.retrieval.pyserini_bridge import prepare
from taco_ir.retrieval.vectors import Recipe, Shard, ShardWriter, VectorSet

Encode = Callable[[Sequence[Passage]], Vectors]
SENTENCE_TRANSFORMERS, PYSERINI, FLOAT32, INT8 = "sentence-transformers", "pyserini", "ours float32", "ours int8"
NEEDED = {(FLOAT32, SENTENCE_TRANSFORMERS): 1.30, (FLOAT32, PYSERINI): 1.7, (INT8, SENTENCE_TRANSFORMERS): 1.9}
NEEDED_COSINE, ALLOWED_LOSS = 0.9999, 0.01
WARM_UP, TINY = 64, 8
RECALL = Measure("R", 20)


def sentence_transformers_encode(folder: Path) -> Encode:
    """SentenceTransformer.encode as it comes: batches of 32, sorted by length."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")

    def encode(passages: Sequence[Passage]) -> Vectors:
        return np.asarray(
            model.encode([f"{passage.title} {passage.text}" for passage in passages], show_progress_bar=False)
        )

    return encode


def pyserini_encode(folder: Path) -> Encode:
    """AutoDocumentEncoder in batches of 64 as they come, as `python -m pyserini.encode` calls it."""
    prepare()
    from pyserini.encode import AutoDocumentEncoder

    model = AutoDocumentEncoder(str(folder), device="cpu", pooling="mean", l2_norm=True)

    def encode(passages: Sequence[Passage]) -> Vectors:
        batches = [passages[start : start + 64] for start in range(0, len(passages), 64)]
        return np.concatenate(
            [
                model.encode([p.text for p in batch], titles=[p.title for p in batch], max_length=256)
                for batch in batches
            ]
        )

    return encode


def chosen(collection: Collection, count: int, seed: int) -> list[Passage]:
    """`count` passages drawn by `seed`, in the collection's order; all where it has no more."""
    rows = set(random.Random(seed).sample(range(collection.passages.count), min(count, collection.passages.count)))
    return [passage for row, passage in enumerate(collection.passages.read()) if row in rows]


def race(
    ways: dict[str, Encode], passages: Sequence[Passage], rounds: int
) -> tuple[list[dict[str, float]], dict[str, Vectors]]:
    """Seconds of each way in each round, and its vectors."""
    vectors: dict[str, Vectors] = {name: encode(passages[:WARM_UP]) for name, encode in ways.items()}
    results: list[dict[str, float]] = []
    names = list(ways)
    for number in range(rounds):
        seconds: dict[str, float] = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            vectors[name] = ways[name](passages)
            seconds[name] = time.perf_counter() - start
        rates = ", ".join(f"{name} {len(passages) / seconds[name]:.1f}" for name in names)
        print(f"round {number + 1}: passages/s: {rates}; load {os.getloadavg()[0]:.1f}", flush=True)
        results.append(seconds)
    return results, vectors


def speed(float32: TextEncoder, int8: TextEncoder, passages: Sequence[Passage], rounds: int) -> list[Bound]:
    """Print rates, ratios and cosines; those that have a bound."""
    ways: dict[str, Encode] = {
        SENTENCE_TRANSFORMERS: sentence_transformers_encode(float32.folder),
        PYSERINI: pyserini_encode(float32.folder),
        FLOAT32: float32.encode_passages,
        INT8: int8.encode_passages,
    }
    results, vectors = race(ways, passages, rounds)
    bounds = []
    for name in ways:
        cosine = float((vectors[name] * vectors[FLOAT32]).sum(1).min())
        rate = len(passages) / statistics.median(seconds[name] for seconds in results)
        print(f"{name}: median {rate:.1f} passages/s, least cosine to ours float32 {cosine:.6f}")
        if name in (SENTENCE_TRANSFORMERS, PYSERINI):
            bounds.append(Bound(f"least cosine of {name} to {FLOAT32}", cosine, NEEDED_COSINE))
    for ours in (FLOAT32, INT8):
        for peer in (SENTENCE_TRANSFORMERS, PYSERINI):
            ratio = statistics.median(seconds[peer] / seconds[ours] for seconds in results)
            print(f"{ours} / {peer}: median ratio {ratio:.2f}")
            if (ours, peer) in NEEDED:
                bounds.append(Bound(f"speed of {ours} / {peer}", ratio, NEEDED[ours, peer]))
    return bounds


def recall(collection: Collection, encoder: TextEncoder, name: str) -> list[Scores]:
    """Passage R@20 of an exact search, for each dev set of the collection."""
    with tempfile.TemporaryDirectory() as temporary:
        vectors, index = Path(temporary) / "vectors", Path(temporary) / "index"
        start = time.perf_counter()
        writer = ShardWriter(vectors, Shard(1, 1), Recipe.of(collection.passages, name, encoder))
        writer.write(
            collection.passages.read(),
            encoder.encode_passages,
            lambda done: print(f"{name}: {done:,} passages, {time.perf_counter() - start:.0f} s", flush=True),
        )
        build_index(VectorSet(vectors), index)
        opened = DenseIndex(index, encoder, collection.passages.fingerprint)
        scores = []
        for topics in map(collection.load_topics, collection.expand(["all-dev"])):
            rankings = opened.search(
                encoder.encode_queries([query.text for query in topics.queries], topics.task), RECALL.k
            )
            run = Run({query.qid: ranking for query, ranking in zip(topics.queries, rankings, strict=True)})
            scores.append(score_run(run, topics.queries, collection.passages.page_of, [RECALL]))
        return scores


def quality(collection: Collection, float32: TextEncoder, int8: TextEncoder) -> Bound:
    """Print int8's recall beside float32's; what the macro average loses."""
    exact, fast = recall(collection, float32, FLOAT32), recall(collection, int8, INT8)
    rows = [
        (name, a.mean(RECALL), b.mean(RECALL))
        for name, a, b in zip(collection.expand(["all-dev"]), exact, fast, strict=True)
    ]
    judged = [(a, b) for a, b in zip(exact, fast, strict=True) if a.mean(RECALL) is not None]
    macro = macro_average([a for a, _ in judged], RECALL) or 0.0, macro_average([b for _, b in judged], RECALL) or 0.0
    print(f"{RECALL} on {collection.name} ({collection.passages.count:,} passages): float32, int8, difference")
    for name, a, b in [*rows, ("macro average", *macro)]:
        print(f"  {name:<26}" + ("no judged passages" if a is None or b is None else f"{a:.4f}  {b:.4f}  {b - a:+.4f}"))
    return Bound(f"{RECALL} that int8 loses in the macro average", macro[0] - macro[1], ALLOWED_LOSS, at_most=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", default="sample", help="whose passages are encoded [default: sample]")
    parser.add_argument("--passages", type=int, default=600, help="how many, at most, drawn by --seed [default: 600]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--quality", metavar="COLLECTION", help="compare int8's recall on this collection [default: not compared]"
    )
    add_tiny(parser)
    flags = parser.parse_args()
    if flags.tiny:
        flags.passages, flags.rounds = TINY, 1
    share_processors()  # as our verbs do, for all four
    float32, int8 = load_encoder("minilm-l6"), load_encoder("minilm-l6", precision="int8")
    passages = chosen(open_collection(flags.collection), flags.passages, flags.seed)
    print(f"{len(passages):,} passages of {flags.collection}, seed {flags.seed}, {os.cpu_count()} cores")
    bounds = speed(float32, int8, passages, flags.rounds)
    if flags.quality:
        bounds.append(quality(open_collection(flags.quality), float32, int8))
    sys.exit(judged(bounds, flags.tiny))


if __name__ == "__main__":
    main()
