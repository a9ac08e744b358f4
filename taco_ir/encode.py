"""`python -m taco_ir.encode`: encode the passages of a collection into vectors, resumable and by shard."""

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
        "Encode the passages of a collection into vectors (fp16). Finished blocks are kept, so the same command "
        "continues after a stop. With --shard i/n it reads and encodes one of n equal parts: use it for n processes "
        "or machines that share a folder.",
        ("--collection", *MODEL_FLAGS, "--overwrite"),
        "python -m taco_ir.encode --collection my-wiki --output vectors/my-wiki --shard 1/4",
    )
    flags.flag("--output", "folder of the vectors", required=True, metavar="FOLDER")
    flags.flag("--shard", "encode part i of n equal parts [default: 1/1, all]", default="1/1", metavar="i/n")
    flags.flag("--verify", "check the hashes of all blocks in --output and encode nothing", action="store_true")
    of_encoding = ("--collection", *MODEL_FLAGS, "--overwrite", "--shard")
    flags.only(("--prompt",), lambda _: False, "queries, not with passages, which --passage-prompt is for")
    flags.only(of_encoding, lambda options: not options.verify, "encoding, not with --verify")
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
