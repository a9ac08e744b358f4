"""`python -m taco_ir.index`: build a faiss index from encoded passages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taco_ir.cli import Parser, run_verb, share
from taco_ir.core.files import InputError
from taco_ir.core.outputs import claim_output
from taco_ir.core.processes import Progress
from taco_ir.retrieval.faiss_index import DenseIndex, build_index
from taco_ir.retrieval.frozen_base import stored_matrix
from taco_ir.retrieval.recall import PASSAGE_HITS, spread
from taco_ir.retrieval.vectors import VectorSet


def parser() -> Parser:
    flags = Parser(
        "index",
        "Build a faiss index, which Pyserini reads too, from encoded passages. Flat is exact; HNSW32 and IVF1024,SQ8 "
        "are faster and approximate (an HNSW index differs slightly from build to build, because threads race).",
        ("--overwrite",),
        "python -m taco_ir.index --vectors vectors/my-wiki --output indexes/my-wiki-hnsw --factory HNSW32",
    )
    flags.flag("--vectors", "folder of vectors that `python -m taco_ir.encode` wrote", metavar="FOLDER")
    flags.flag("--output", "folder to write the index to", required=True, metavar="FOLDER")
    factory = "a faiss index_factory string, such as HNSW32 or IVF1024,SQ8 [default: Flat]"
    flags.flag("--factory", factory, default="Flat", metavar="FACTORY")
    flags.flag(
        "--on-disk",
        "for IVF factories and collections larger than memory: build the index in parts, and keep the inverted lists "
        "in a file that is searched from disk",
        action="store_true",
    )
    flags.flag(
        "--recall",
        f"for HNSW and IVF: make searches find this share of the exact {PASSAGE_HITS} best hits, such as .95. How far "
        "a search must look is measured on a sample of passages; `search --recall` uses queries, which is better",
        type=share,
        metavar="R",
    )
    flags.flag("--verify", "check the hashes of the index in --output, without building anything", action="store_true")
    of_building = ("--vectors", "--factory", "--on-disk", "--recall", "--overwrite")
    flags.only(of_building, lambda options: not options.verify, "building, not with --verify")
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    output = Path(options.output)
    if options.verify:
        DenseIndex(output).verify(output)
        print(f"{output}: the hashes of all files match")
        return
    if options.vectors is None:
        raise InputError("--vectors FOLDER is needed to build an index")
    if options.recall and not re.search("HNSW|IVF", options.factory):
        raise InputError(
            f"--recall needs a --factory with HNSW or IVF; {options.factory!r} always searches all vectors"
        )
    vectors = VectorSet(Path(options.vectors))
    recipe = vectors.recipe

    def recorded() -> dict[str, Any] | None:
        if not (output / "manifest.json").is_file():
            return None
        manifest = DenseIndex(output).manifest
        return {"recipe": manifest.recipe._asdict(), "factory": manifest.factory, "on_disk": manifest.on_disk}

    made_of = {"recipe": recipe._asdict(), "factory": options.factory, "on_disk": options.on_disk}
    with claim_output(output, made_of, options.overwrite, record=recorded) as finished:
        if not finished:
            report = Progress("index", recipe.passages, "passages").at
            build_index(vectors, output, options.factory, report, options.on_disk)
        if options.recall:
            sample_BD = stored_matrix(vectors)[spread(recipe.passages)]
            DenseIndex(output).reach(options.recall, sample_BD, PASSAGE_HITS, output)
        built = f"{options.factory} index of {recipe.passages:,} passages, {recipe.dim} wide"
        print(f"{output}: {'this index is built' if finished else built}")


if __name__ == "__main__":
    run_verb(main)
