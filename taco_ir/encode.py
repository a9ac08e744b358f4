"""`python -m taco_ir.encode`: encode a collection's passages into vectors; can be resumed and split into shards."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from taco_ir.cli import (
    ENGINE_FLAGS,
    HERE,
    MODEL_FLAGS,
    Parser,
    engine_choice,
    limit_engine_flags,
    model_choice,
    positive,
    run_verb,
)
from taco_ir.core.files import require_writable
from taco_ir.data.collection import open_collection
from taco_ir.retrieval.encoding import encode_collection
from taco_ir.retrieval.sharded_encoding import encode_shards
from taco_ir.retrieval.vectors import Recipe, Shard, VectorSet


def parser() -> Parser:
    flags = Parser(
        "encode",
        "Encode the passages of a collection into vectors (fp16). Finished blocks are kept: if you stop the "
        "command, the same command continues. To share the work between n processes or machines with a common "
        "folder, give each its own --shard i/n. Or let --engine processes or ray start workers: if one of them "
        "stops, at most one block is lost, and another worker takes over.",
        ("--collection", *MODEL_FLAGS, "--overwrite", *ENGINE_FLAGS),
        "python -m taco_ir.encode --collection my-wiki --output vectors/my-wiki --engine processes --workers 2",
    )
    flags.flag("--output", "folder to write the vectors to", required=True, metavar="FOLDER")
    flags.flag(
        "--shard",
        "split the passages into n equal parts and encode only part i [default: 1/1, everything]",
        default="1/1",
        metavar="i/n",
    )
    flags.flag(
        "--shards",
        "split the passages into N equal parts and encode all of them [default: as many as --output already has, "
        "or else 8 for each worker]",
        type=positive,
        metavar="N",
    )
    flags.flag("--verify", "check the hashes of all blocks in --output, without encoding anything", action="store_true")
    of_encoding = ("--collection", *MODEL_FLAGS, "--overwrite", "--shard", "--shards", *ENGINE_FLAGS)
    limit_engine_flags(flags)
    flags.only(("--shard",), lambda options: not _is_shared(options), "one process, not with --shards or --engine")
    flags.only(("--prompt",), lambda _: False, "queries; for passages give --passage-prompt")
    flags.only(of_encoding, lambda options: not options.verify, "encoding, not with --verify")
    return flags


def _is_shared(options: Namespace) -> bool:
    """True if this command encodes several shards, one after the other or with workers."""
    return options.shards is not None or options.engine != HERE


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    output = Path(options.output)
    if options.verify:
        print(f"{output}: the hashes of all files match; blocks of vectors: {VectorSet(output).verify():,}")
        return
    if _is_shared(options):
        whole, engine = open_collection(options.collection), partial(engine_choice, options)
        encode_shards(whole, model_choice(options), output, options.shards, engine, options.overwrite)
        return
    shard = Shard.parse(options.shard)
    collection = open_collection(options.collection)
    require_writable(shard.folder(output))
    model = model_choice(options)
    encoder = model.load()
    recipe = Recipe.of(collection.passages, model.name, encoder)
    encode_collection(collection, encoder, recipe, output, shard, options.overwrite)


if __name__ == "__main__":
    run_verb(main)
