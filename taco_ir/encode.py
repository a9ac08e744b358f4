"""`python -m taco_ir.encode`: passages to fp16 vectors in finished blocks, by shard, resumable."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from taco_ir.console import MODEL_FLAGS, Parser, Progress, duration, run_verb
from taco_ir.data.collections import Collection, open_collection
from taco_ir.files import human_bytes, require_space
from taco_ir.records import Encoder
from taco_ir.retrieval.vectors import BLOCK_ROWS, Recipe, Shard, ShardWriter, VectorSet, peak_memory
from taco_ir.verbs import encoder_of, model_name

SAMPLE = 48                                          # passages that are encoded to estimate the rate


def parser() -> Parser:
    flags = Parser(
        "encode",
        "Encode the passages of a collection. Finished blocks are kept: the same command, run again, goes on where it stopped.\n"
        "With --shard i/n only that part of the passages is read and encoded, for n processes or machines sharing one folder.",
        ("--collection", *MODEL_FLAGS, "--overwrite"),
        "python -m taco_ir.encode --collection my-wiki --output vectors/my-wiki --shard 1/4",
    )
    flags.flag("--output", required=True, metavar="DIR", help="folder of the vectors")
    flags.add_argument("--shard", default="1/1", metavar="i/n", help="encode part i of n equal parts [default: 1/1, all]")
    flags.add_argument("--verify", action="store_true", help="re-hash all blocks in --output and encode nothing")
    return flags


def encode_collection(collection: Collection, encoder: Encoder, recipe: Recipe, output: Path, shard: Shard, overwrite: bool = False) -> None:
    """Encode what is not done yet of one shard, saying beforehand what it takes and on the way how far it is.

    Raises:
        InputError: for a folder with vectors made otherwise, or a disk without room for the rest.
    """
    writer = ShardWriter(output, shard, recipe, overwrite)
    left = len(writer.rows) - writer.done
    if not left:
        print(f"{writer.folder}: all {writer.done:,} passages are encoded", file=sys.stderr)
        return
    first = writer.rows.start + writer.done
    require_space(output, left * (recipe.dim * 2 + 64))
    rate = _rate(collection, encoder, first, writer.rows.stop)
    memory = peak_memory() + BLOCK_ROWS * recipe.dim * 6
    print(
        f"encoding {left:,} of {len(writer.rows):,} passages of {collection.name} (shard {shard.number}/{shard.of}) into {writer.folder}: "
        f"about {duration(left / rate)} at {rate:,.0f}/s, {human_bytes(memory)} RAM, {human_bytes(left * recipe.dim * 2)} disk",
        file=sys.stderr,
    )
    progress = Progress("encode", len(writer.rows), "passages")
    progress.skip(writer.done)
    writer.write(collection.passages.read(first, writer.rows.stop), encoder.encode_passages, progress.at)


def _rate(collection: Collection, encoder: Encoder, start: int, stop: int) -> float:
    """Passages a second, measured on the next few after a warm-up."""
    passages = list(collection.passages.read(start, min(start + SAMPLE, stop)))
    encoder.encode_passages(passages[:4])
    began = time.perf_counter()
    encoder.encode_passages(passages)
    return len(passages) / (time.perf_counter() - began)


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    output = Path(options.output)
    if options.verify:
        print(f"{output}: {VectorSet(output).verify()} blocks are whole")
        return
    shard = Shard.parse(options.shard)
    collection = open_collection(options.collection)
    store = collection.passages
    encoder = encoder_of(options)
    recipe = Recipe(store.fingerprint, store.count, model_name(options), encoder.passage_fingerprint, encoder.config.passage_template, encoder.dim)
    encode_collection(collection, encoder, recipe, output, shard, options.overwrite)


if __name__ == "__main__":
    run_verb(main)
