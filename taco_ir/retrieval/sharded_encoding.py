"""Encodes a collection in shards with an engine's workers; the files are the same, whichever worker writes them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, exclusive, require_writable, sweep
from taco_ir.core.outputs import first_difference
from taco_ir.data.collection import Collection
from taco_ir.retrieval import vectors
from taco_ir.retrieval.choices import ModelChoice
from taco_ir.retrieval.encoding import ShardEncoder
from taco_ir.retrieval.vectors import SHARD, Recipe, Shard, empty_shard, rows_done
from taco_ir.scale.engines import Engine, do_units
from taco_ir.scale.units import State, Unit, require_shared

KIND = "taco_ir.retrieval.sharded_encoding:ShardsOfPassages"
FOR_EACH_WORKER = 8  # shards by default, so that none waits long for the last


class ShardsOfPassages:
    """A kind of work unit: encode one shard of a collection.

    Raises:
        InputError: if the worker's machine lacks a folder, or has other passages or another model.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        passages, model, output = Path(spec["passages"]), ModelChoice(**spec["model"]), Path(spec["output"])
        named = [("--model", model.model), ("--base", model.base)]  # names of models are no places
        folders = [(flag, Path(name)) for flag, name in named if name and Path(name).is_absolute()]
        require_shared([("--collection", passages), ("--output", output), *folders])
        collection, encoder, recipe = Collection(spec["name"], passages, {}), model.load(), Recipe(**spec["recipe"])
        found = Recipe.of(collection.passages, recipe.model, encoder)
        if difference := first_difference(found._asdict(), recipe.compared):
            raise InputError(f"a worker has other passages or another model ({difference}); give all machines the same")
        self._output, self._shards = output, ShardEncoder(collection, encoder, recipe, output, spec["block_rows"])

    def run(self, number: int, of: int, report: Callable[[int], None]) -> int:
        shard = Shard(number, of)
        with exclusive(shard.folder(self._output)):  # waits for a worker that is ending
            return self._shards.encode(shard, report)

    @staticmethod
    def look(spec: dict[str, Any], number: int, of: int) -> State:
        recipe, shard = Recipe(**spec["recipe"]), Shard(number, of)
        done, total = rows_done(shard.folder(Path(spec["output"])), recipe), len(shard.rows(recipe.passages))
        return State(done or 0, total, done == total)


def encode_shards(
    collection: Collection,
    model: ModelChoice,
    output: Path,
    shards: int | None,
    open_engine: Callable[[], Engine],
    overwrite: bool = False,
) -> None:
    """Encode the unfinished part of a collection in equal shards, with an engine's workers.

    Args:
        shards: number of shards; None: as many as the folder has, or else several for each worker.

    Raises:
        InputError: for a gzipped collection, a folder with other vectors or shards, or shards that no worker finished.
    """
    try:
        with contextlib.closing(open_engine()) as engine:
            found = {of for _, of in _shards_in(output)}
            shards = shards or (found.pop() if len(found) == 1 else FOR_EACH_WORKER * engine.workers)
            _encode_shards(collection, model, output, shards, engine, overwrite)
    finally:
        with contextlib.suppress(OSError):  # as on a disk that cannot be written
            sweep(output)


def _encode_shards(
    collection: Collection, model: ModelChoice, output: Path, shards: int, engine: Engine, overwrite: bool
) -> None:
    passages = collection.passages
    if shards > 1 and not passages.reads_anywhere:
        packed = passages.path
        raise InputError(f"{packed}: {shards} shards cannot be read from gzip; unpack it first: gunzip {packed}")
    output = output.absolute()
    require_writable(output / "shards")
    recipe = Recipe.of(passages, model.name, replace(model, device="cpu").load())
    spec = {
        "passages": str(passages.path.absolute()),
        "name": collection.name,
        "model": vars(_with_whole_paths(model)),
        "recipe": recipe._asdict(),
        "output": str(output),
        "block_rows": vectors.BLOCK_ROWS,
    }
    _clear(output, shards, overwrite)
    output.mkdir(parents=True, exist_ok=True)  # by which workers know that they share it
    do_units([Unit(KIND, number, shards, spec) for number in range(1, shards + 1)], engine, "encode", "passages")


def _clear(output: Path, shards: int, overwrite: bool) -> None:
    """Remove all shards with `overwrite`. Raises: InputError, without it, for those of another number of shards."""
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
    """The model by folders that mean the same in any working directory."""

    def whole(value: str | None) -> str | None:
        return str(Path(value).absolute()) if value and Path(value).exists() else value

    return replace(model, model=whole(model.model), base=whole(model.base))
