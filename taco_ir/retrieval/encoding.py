"""Encodes a collection's passages and writes the vectors to disk in blocks; estimates time and space first."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.core.files import exclusive, require_space
from taco_ir.core.processes import Progress, format_bytes, format_duration, log, peak_memory
from taco_ir.core.types import Encoder, Query, Vectors
from taco_ir.data.collection import Collection
from taco_ir.retrieval.vectors import BLOCK_ROWS, Recipe, Shard, ShardWriter

if TYPE_CHECKING:
    from taco_ir.encoders.text_encoder import TextEncoder

SAMPLE = 48  # passages that are encoded to estimate the rate
LEAST_COSINE = 0.999  # a warning is logged if a vector's cosine with its float32 version is lower
WORKING_BYTES = 200_000_000  # what tokenising a block and batches of all lengths added to the sample's peak


class ShardEncoder:
    """Encodes shards of a collection with one encoder; measures the speed of the encoder only once.

    Args:
        block_rows: number of passages in a block; None: `vectors.BLOCK_ROWS`.
    """

    def __init__(
        self, collection: Collection, encoder: Encoder, recipe: Recipe, output: Path, block_rows: int | None = None
    ) -> None:
        self._collection, self._encoder, self._recipe, self._output = collection, encoder, recipe, output
        self._block_rows = block_rows
        self._measured = False

    def encode(self, shard: Shard, report: Callable[[int], None] | None = None, overwrite: bool = False) -> int:
        """Encode the passages of a shard that are not encoded yet, and return their number. The first call also prints
        estimates of time, memory and disk space.

        Args:
            report: function to call after each block with the number of encoded passages; None: show a progress line.

        Raises:
            InputError: if the folder has vectors of another model or other passages, or the disk has too little space.
        """
        writer = ShardWriter(self._output, shard, self._recipe, overwrite, self._block_rows)
        left = len(writer.rows) - writer.done
        if not left:
            if report is None:
                print(f"{writer.folder}: all {writer.done:,} passages are encoded", file=sys.stderr)
            return 0
        require_space(writer.folder, left * (self._recipe.dim * 2 + 64))
        first = writer.rows.start + writer.done
        told = self._measured
        if not told:
            self._tell_costs(shard, writer, first, left)
        if report is None:
            progress = Progress("encode", len(writer.rows), "passages")
            progress.skip(writer.done)
            report = progress.at
        passages = self._collection.passages.read(first, writer.rows.stop)
        prepare = getattr(self._encoder, "prepare_passages", None)
        writer.write(passages, self._encoder.encode_passages, report, prepare)
        if not told:
            print(f"{format_bytes(peak_memory())} RAM at the peak", file=sys.stderr)
        return left

    def _tell_costs(self, shard: Shard, writer: ShardWriter, first: int, left: int) -> None:
        rate = self._measure_rate(first, writer.rows.stop)
        memory = peak_memory() + BLOCK_ROWS * self._recipe.dim * 6 + WORKING_BYTES
        named = f"{self._collection.name} (shard {shard.number}/{shard.of})"
        costs = f"about {format_bytes(memory)} RAM, {format_bytes(left * self._recipe.dim * 2)} disk"
        print(
            f"encoding {left:,} of {len(writer.rows):,} passages of {named} into {writer.folder}: "
            f"about {format_duration(left / rate)} at {rate:,.0f}/s, {costs}",
            file=sys.stderr,
        )
        self._measured = True

    def _measure_rate(self, start: int, stop: int) -> float:
        """Return how many passages are encoded per second, measured on the next few passages after a warm-up."""
        passages = list(self._collection.passages.read(start, min(start + SAMPLE, stop)))
        if (lowest := self._encoder.lowest_cosine(passages)) < LEAST_COSINE:
            said = "--precision: a vector's cosine with its float32 version is only %.5f; is float32 needed?"
            log.warning(said, lowest)
        self._encoder.encode_passages(passages[:4])
        began = time.perf_counter()
        self._encoder.encode_passages(passages)
        return len(passages) / (time.perf_counter() - began)


def encode_collection(
    collection: Collection, encoder: Encoder, recipe: Recipe, output: Path, shard: Shard, overwrite: bool = False
) -> None:
    """Encode the passages of a shard that are not encoded yet; print estimates of time and space first.

    Raises:
        InputError: for a folder with other vectors or in use by another process, or too little disk space.
    """
    with exclusive(shard.folder(output), wait=False):
        ShardEncoder(collection, encoder, recipe, output).encode(shard, overwrite=overwrite)


def encode_topics(collection: Collection, encoder: TextEncoder, queries: Sequence[Query]) -> Vectors:
    """Encode queries, each with the prompt, length limit and adapter of its task: float32 [B, D].

    Raises:
        InputError: for an unknown task, or a task that the model has no prompt or adapter for.
    """
    return encoder.encode_mixed_queries(
        [query.text for query in queries], [query.task for query in queries], collection.tasks
    )
