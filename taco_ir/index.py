"""`python -m taco_ir.index`: vectors to a faiss index that Pyserini reads as well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taco_ir.cli import Parser, run_verb
from taco_ir.core.files import InputError, claim_output
from taco_ir.core.progress import Progress
from taco_ir.retrieval.faiss_index import DenseIndex, build_index
from taco_ir.retrieval.vectors import VectorSet


def parser() -> Parser:
    flags = Parser(
        "index",
        "Build a faiss index from encoded passages. Flat is exact; HNSW32 and IVF1024,SQ8 are faster and approximate\n"
        "(the links of an HNSW graph depend on the threads' timing). Any faiss index_factory string is taken.",
        ("--overwrite",),
        "python -m taco_ir.index --vectors vectors/my-wiki --output indexes/my-wiki-hnsw --factory HNSW32",
    )
    flags.add_argument("--vectors", metavar="DIR", help="folder that `python -m taco_ir.encode` wrote")
    flags.flag("--output", required=True, metavar="DIR", help="folder of the index")
    flags.add_argument("--factory", default="Flat", metavar="F", help="faiss index_factory string [default: Flat]")
    flags.add_argument(
        "--verify", action="store_true", help="re-hash the files of the index in --output and build nothing"
    )
    flags.only(
        ("--vectors", "--factory", "--overwrite"), lambda options: not options.verify, "building, not with --verify"
    )
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    output = Path(options.output)
    if options.verify:
        DenseIndex(output).verify(output)
        print(f"{output}: index and docid are whole")
        return
    if options.vectors is None:
        raise InputError("--vectors DIR is needed to build an index")
    build(VectorSet(Path(options.vectors)), output, options.factory, options.overwrite)


def build(vectors: VectorSet, output: Path, factory: str, overwrite: bool) -> None:
    """Build the index that is not there yet. Raises: InputError for a folder with something else, without `overwrite`."""
    made_of = {"recipe": vectors.recipe._asdict(), "factory": factory}

    def found() -> dict[str, Any] | None:
        if not (output / "manifest.json").is_file():
            return None
        manifest = DenseIndex(output).manifest
        return {"recipe": manifest.recipe._asdict(), "factory": manifest.factory}

    with claim_output(output, made_of, overwrite, record=found) as built:
        if built:
            print(f"{output}: this index is built")
            return
        progress = Progress("index", vectors.recipe.passages, "passages")
        build_index(vectors, output, factory, progress.at)
        print(f"{output}: {factory} index of {vectors.recipe.passages:,} passages, {vectors.recipe.dim} wide")


if __name__ == "__main__":
    run_verb(main)
