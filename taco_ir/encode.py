"""`python -m taco_ir.encode`: encode the passages of a collection into vectors, resumable and by shard."""

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
        "Encode the passages of a collection into vectors (fp16). Finished blocks are kept, so the same command "
        "continues after a stop. With --shard i/n it reads and encodes one of n equal parts: use it for n processes "
        "or machines that share a folder. With --engine processes or ray it starts workers and gives them all parts: "
        "one that ends loses a block at most, and another takes its part.",
        ("--collection", *MODEL_FLAGS, "--overwrite", *ENGINE_FLAGS),
        "python -m taco_ir.encode --collection my-wiki --output vectors/my-wiki --engine processes --workers 2",
    )
    flags.flag("--output", "folder of the vectors", required=True, metavar="FOLDER")
    flags.flag("--shard", "encode part i of n equal parts [default: 1/1, all]", default="1/1", metavar="i/n")
    flags.flag(
        "--shards",
        "encode all of so many equal parts [default: as many as --output has, else 8 for each worker of --engine]",
        type=positive,
        metavar="N",
    )
    flags.flag("--verify", "check the hashes of all blocks in --output and encode nothing", action="store_true")
    of_encoding = ("--collection", *MODEL_FLAGS, "--overwrite", "--shard", "--shards", *ENGINE_FLAGS)
    limit_engine_flags(flags)
    flags.only(("--shard",), lambda options: not _is_shared(options), "one process, not with --shards or --engine")
    flags.only(("--prompt",), lambda _: False, "queries, not with passages, which --passage-prompt is for")
    flags.only(of_encoding, lambda options: not options.verify, "encoding, not with --verify")
    return flags


def _is_shared(options: Namespace) -> bool:
    """Whether several parts are encoded, in turn or by workers."""
    return options.shards is not None or options.engine != HERE


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    output = Path(options.output)
    if options.verify:
        print(f"{output}: {VectorSet(output).verify()} blocks are whole")
        return
    if _is_shared(options):
        encode_shards(
            open_collection(options.collection),
            model_choice(options),
            output,
            options.shards,
            partial(engine_choice, options),
            options.overwrite,
        )
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
