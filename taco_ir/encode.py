"""`python -m taco_ir.encode`: passages to fp16 vectors in finished blocks, by shard, resumable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import MODEL_FLAGS, Parser, model_choice, run_verb
from taco_ir.core.files import require_writable
from taco_ir.data.collection import open_collection
from taco_ir.retrieval.encoding import encode_collection
from taco_ir.retrieval.vectors import Recipe, Shard, VectorSet


def parser() -> Parser:
    flags = Parser(
        "encode",
        "Encode the passages of a collection. Finished blocks are kept: the same command, run again, goes on where it stopped.\n"
        "With --shard i/n only that part of the passages is read and encoded, for n processes or machines sharing one folder.",
        ("--collection", *MODEL_FLAGS, "--overwrite"),
        "python -m taco_ir.encode --collection my-wiki --output vectors/my-wiki --shard 1/4",
    )
    flags.flag("--output", required=True, metavar="DIR", help="folder of the vectors")
    flags.add_argument(
        "--shard", default="1/1", metavar="i/n", help="encode part i of n equal parts [default: 1/1, all]"
    )
    flags.add_argument("--verify", action="store_true", help="re-hash all blocks in --output and encode nothing")
    flags.only(
        ("--collection", *MODEL_FLAGS, "--overwrite", "--shard"),
        lambda options: not options.verify,
        "encoding, not with --verify",
    )
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    output = Path(options.output)
    if options.verify:
        print(f"{output}: {VectorSet(output).verify()} blocks are whole")
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
