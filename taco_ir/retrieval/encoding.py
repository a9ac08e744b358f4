"""Encodes a collection's passages into blocks on disk, with an estimate beforehand and progress on the way."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.core.files import exclusive, require_space
from taco_ir.core.processes import Progress, format_bytes, format_duration, peak_memory
from taco_ir.core.types import Encoder, Query, Vectors
from taco_ir.data.collection import Collection
from taco_ir.retrieval.vectors import BLOCK_ROWS, Recipe, Shard, ShardWriter

if TYPE_CHECKING:
    from taco_ir.encoders.text_encoder import TextEncoder

SAMPLE = 48  # passages that are encoded to estimate the rate
WORKING_BYTES = 200_000_000  # that tokenising a block and batches of all lengths were seen to add to the sample's peak


def encode_collection(
    collection: Collection, encoder: Encoder, recipe: Recipe, output: Path, shard: Shard, overwrite: bool = False
) -> None:
    """Encode what is left of one shard, reporting the time, memory and disk that it takes.

    Raises:
        InputError: for a folder with vectors made otherwise, or a disk without room for the rest.
    """
    with exclusive(shard.folder(output), wait=False):
        _encode_shard(collection, encoder, ShardWriter(output, shard, recipe, overwrite), recipe, shard)


def encode_topics(collection: Collection, encoder: TextEncoder, queries: Sequence[Query]) -> Vectors:
    """Encode queries of the collection, each by its task: float32 [B, D].

    Raises:
        InputError: for an unknown task, or one that the model cannot encode for.
    """
    return encoder.encode_mixed_queries(
        [query.text for query in queries], [query.task for query in queries], collection.tasks
    )


def _encode_shard(collection: Collection, encoder: Encoder, writer: ShardWriter, recipe: Recipe, shard: Shard) -> None:
    left = len(writer.rows) - writer.done
    if not left:
        print(f"{writer.folder}: all {writer.done:,} passages are encoded", file=sys.stderr)
        return
    first = writer.rows.start + writer.done
    require_space(writer.folder, left * (recipe.dim * 2 + 64))
    rate = _measure_rate(collection, encoder, first, writer.rows.stop)
    memory = peak_memory() + BLOCK_ROWS * recipe.dim * 6 + WORKING_BYTES
    what = f"{left:,} of {len(writer.rows):,} passages of {collection.name} (shard {shard.number}/{shard.of})"
    costs = f"about {format_bytes(memory)} RAM, {format_bytes(left * recipe.dim * 2)} disk"
    print(
        f"encoding {what} into {writer.folder}: about {format_duration(left / rate)} at {rate:,.0f}/s, {costs}",
        file=sys.stderr,
    )
    progress = Progress("encode", len(writer.rows), "passages")
    progress.skip(writer.done)
    writer.write(collection.passages.read(first, writer.rows.stop), encoder.encode_passages, progress.at)
    print(f"{format_bytes(peak_memory())} RAM at the peak", file=sys.stderr)


def _measure_rate(collection: Collection, encoder: Encoder, start: int, stop: int) -> float:
    """Passages a second, measured on the next few after a warm-up."""
    passages = list(collection.passages.read(start, min(start + SAMPLE, stop)))
    encoder.encode_passages(passages[:4])
    began = time.perf_counter()
    encoder.encode_passages(passages)
    return len(passages) / (time.perf_counter() - began)
