"""Encodes a collection in shards with several workers; the files do not depend on which worker writes them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, exclusive, read_json, require_writable, sweep
from taco_ir.core.outputs import first_difference
from taco_ir.core.processes import free_memory, resident_memory
from taco_ir.core.types import Encoder
from taco_ir.data.collection import Collection
from taco_ir.retrieval import vectors
from taco_ir.retrieval.choices import ModelChoice, Shared, Streamed
from taco_ir.retrieval.encoding import ShardEncoder
from taco_ir.retrieval.vectors import SHARD, Recipe, Shard, empty_shard, rows_done
from taco_ir.scale.engines import Engine, do_units
from taco_ir.scale.units import State, Unit, require_shared

KIND = "taco_ir.retrieval.sharded_encoding:ShardsOfPassages"
MOST_SHARDS = 64  # maximum number of shards of whole blocks


class ShardsOfPassages:
    """The work of a worker process: encodes shards of a collection, one after the other.

    Raises:
        InputError: if the worker's machine lacks a folder, or has other passages or another model.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        passages, model, output = Path(spec["passages"]), ModelChoice(**spec["model"]), Path(spec["output"])
        named = [("--model", model.model), ("--base", model.base)]  # only folders, not names of models
        folders = [(flag, Path(name)) for flag, name in named if name and Path(name).is_absolute()]
        require_shared([("--collection", passages), ("--output", output), *folders])
        collection, encoder, recipe = Collection(spec["name"], passages, {}), model.load(), Recipe(**spec["recipe"])
        found = Recipe.of(collection.passages, recipe.model, encoder)
        if difference := first_difference(found._asdict(), recipe.compared):
            raise InputError(f"a worker's passages or model differ ({difference}); give all machines the same ones")
        self._output, self._together = output, spec["rows_together"]
        self._shards = ShardEncoder(collection, encoder, recipe, output, spec["block_rows"])

    def run(self, number: int, of: int, report: Callable[[int], None]) -> int:
        shard = Shard(number, of, self._together)
        with exclusive(shard.folder(self._output)):  # waits for an earlier worker that is ending
            return self._shards.encode(shard, report)

    @staticmethod
    def look(spec: dict[str, Any], number: int, of: int) -> State:
        recipe, shard = Recipe(**spec["recipe"]), Shard(number, of, spec["rows_together"])
        done, total = rows_done(shard.folder(Path(spec["output"])), recipe), len(shard.rows(recipe.passages))
        return State(done or 0, total, done == total)


def encode_shards(
    collection: Collection,
    model: ModelChoice,
    output: Path,
    shards: int | None,
    open_engine: Callable[[], Engine],
    overwrite: bool = False,
    whole_blocks: int | None = None,
    recipe: Recipe | None = None,
) -> None:
    """Encode a collection in shards, each by one of several workers. Finished passages are not encoded again.

    Args:
        shards: number of shards; None: as in the folder or, if it has no shards, several for each worker.
        open_engine: function that returns an engine, which starts the workers.
        whole_blocks: number of passages in a block, if shards must not divide blocks; vectors are then exactly those of
            a single shard, since a vector depends slightly on what is encoded with it. None: shards of equal size.
        recipe: how the vectors are made; None: taken from the model, which is loaded for this.

    Raises:
        InputError: for a gzipped collection, a folder with other vectors or shards, or shards that no worker finished.
    """
    passages, output = collection.passages, output.absolute()
    try:
        with contextlib.closing(open_engine()) as engine:
            most = engine.units if whole_blocks is None else min(MOST_SHARDS, -(-passages.count // whole_blocks))
            found = {shard.of for shard in _shards_in(output)}
            shards = shards or (found.pop() if len(found) == 1 else most)
            if shards > 1 and not passages.reads_anywhere:
                packed = f"gzip cannot be read in {shards} shards; decompress it first: gunzip {passages.path}"
                raise InputError(f"{passages.path}: {packed}")
            require_writable(output / "shards")
            spec = {
                "passages": str(passages.path.absolute()),
                "name": collection.name,
                "model": vars(_with_whole_paths(model)),
                "recipe": (recipe or Recipe.of(passages, model.name, replace(model, device="cpu").load()))._asdict(),
                "output": str(output),
                "block_rows": whole_blocks or vectors.BLOCK_ROWS,
                "rows_together": whole_blocks or 1,
            }
            _clear(output, shards, overwrite)
            output.mkdir(parents=True, exist_ok=True)  # workers check that they see this folder
            units = [Unit(KIND, number, shards, spec) for number in range(1, shards + 1)]
            do_units(units, engine, "encode", "passages")
    finally:
        with contextlib.suppress(OSError):  # for example, a read-only disk
            sweep(output)


def encode_shared(
    collection: Collection, model: ModelChoice, encoder: Encoder, shared: Shared, output: Path
) -> Streamed:
    """Encode a collection with an engine's workers; return the vectors, to be searched by the same workers.

    Existing vectors of another model or other passages are deleted first. Several workers cannot share a gzipped
    passage file, so it is decompressed in the data home; if that is not possible, one worker encodes all passages.
    """
    passages, engine = collection.passages, shared.engine
    recipe = Recipe.of(passages, model.name, encoder)
    found = [read_json(manifest, dict[str, Any]) for manifest in output.glob("shard-*/manifest.json")]
    if any(first_difference(each.get("recipe", {}), recipe.compared) for each in found):
        shutil.rmtree(output)
    passages.unpack()
    shards = None if passages.reads_anywhere else 1
    encode_shards(collection, model, output, shards, lambda: engine, False, shared.block_rows, recipe)
    if engine.workers == 1:
        return Streamed(str(output), device=model.device, kept=output)
    memory = resident_memory() + free_memory() // 2 // engine.workers  # the workers may be on one machine
    return Streamed(str(output), memory, Shard(1, 1), model.device, lambda: engine, output)


def _clear(output: Path, shards: int, overwrite: bool) -> None:
    """Delete all shards, with `overwrite`. Without it, raises InputError if there is another number of shards."""
    for shard in _shards_in(output):
        folder = shard.folder(output)
        if overwrite:
            with exclusive(folder, wait=False):
                empty_shard(folder)
                shutil.rmtree(folder)
        elif shard.of != shards:
            raise InputError(
                f"{folder}: it is one of {shard.of} shards, not of {shards}; give --shards {shard.of} or --overwrite"
            )


def _shards_in(output: Path) -> list[Shard]:
    found = [SHARD.fullmatch(path.name) for path in output.glob("shard-*") if path.is_dir()]
    return sorted(Shard(int(each[1]), int(each[2])) for each in found if each)


def _with_whole_paths(model: ModelChoice) -> ModelChoice:
    """Return the choice with absolute paths, which are valid in any working directory."""

    def whole(value: str | None) -> str | None:
        return str(Path(value).absolute()) if value and Path(value).exists() else value

    return replace(model, model=whole(model.model), base=whole(model.base))
