"""Encoding a collection's passages into finished blocks, announced beforehand and reported on the way."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.core.files import exclusive, human_bytes, require_space
from taco_ir.core.progress import Progress, duration
from taco_ir.core.types import Encoder, Query, Vectors
from taco_ir.data.collection import Collection
from taco_ir.retrieval.vectors import BLOCK_ROWS, Recipe, Shard, ShardWriter, peak_memory

if TYPE_CHECKING:
    from taco_ir.encoders.text_encoder import TextEncoder

SAMPLE = 48  # passages that are encoded to estimate the rate
WORKING_BYTES = 200_000_000  # what tokenising a block and batches of all lengths were seen to add to the sample's peak


def encode_collection(
    collection: Collection, encoder: Encoder, recipe: Recipe, output: Path, shard: Shard, overwrite: bool = False
) -> None:
    """Encode what is not done yet of one shard, saying beforehand what it takes and on the way how far it is.

    Raises:
        InputError: for a folder with vectors made otherwise, or a disk without room for the rest.
    """
    with exclusive(shard.folder(output), wait=False):
        _encode_shard(collection, encoder, ShardWriter(output, shard, recipe, overwrite), recipe, shard)


def encode_topics(collection: Collection, encoder: TextEncoder, queries: Sequence[Query]) -> Vectors:
    """Encode queries of the collection, each by its task: float32 [B, D].

    Raises:
        InputError: for a task that neither the model nor KILT nor the collection has, or that the model cannot encode for.
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
    rate = _rate(collection, encoder, first, writer.rows.stop)
    memory = peak_memory() + BLOCK_ROWS * recipe.dim * 6 + WORKING_BYTES
    print(
        f"encoding {left:,} of {len(writer.rows):,} passages of {collection.name} (shard {shard.number}/{shard.of}) into {writer.folder}: "
        f"about {duration(left / rate)} at {rate:,.0f}/s, about {human_bytes(memory)} RAM, {human_bytes(left * recipe.dim * 2)} disk",
        file=sys.stderr,
    )
    progress = Progress("encode", len(writer.rows), "passages")
    progress.skip(writer.done)
    writer.write(collection.passages.read(first, writer.rows.stop), encoder.encode_passages, progress.at)
    print(f"{human_bytes(peak_memory())} RAM at the peak", file=sys.stderr)


def _rate(collection: Collection, encoder: Encoder, start: int, stop: int) -> float:
    """Passages a second, measured on the next few after a warm-up."""
    passages = list(collection.passages.read(start, min(start + SAMPLE, stop)))
    encoder.encode_passages(passages[:4])
    began = time.perf_counter()
    encoder.encode_passages(passages)
    return len(passages) / (time.perf_counter() - began)
