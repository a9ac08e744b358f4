"""Passage vectors on disk: finished fp16 blocks with their docids, and a manifest that names what made them.

    DIR/shard-2-of-8/manifest.json      recipe, row range, SHA-256 of every finished block
    DIR/shard-2-of-8/00000.npy          fp16 [rows, D], read by memory map
    DIR/shard-2-of-8/00000.docids       one docid a line

A block is written as .part, fsynced and renamed, then named in the manifest: what the manifest names is whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError, first_difference, read_json, refuse_other, sha256_file, write_json, writing
from taco_ir.core.types import Encoder, Passage, Vectors

BLOCK_ROWS = 4096
SHARD = re.compile(r"shard-(\d+)-of-(\d+)")
Block = tuple[npt.NDArray[np.float16], list[str]]


class Counted(Protocol):
    """A collection's passages, as far as a recipe names them."""

    fingerprint: str
    count: int


class Recipe(NamedTuple):
    """What vectors were made of; two sets of vectors may be used together only if their recipes are equal."""

    collection: str
    passages: int
    model: str
    encoder: str
    template: str
    dim: int

    @classmethod
    def of(cls, passages: Counted, model: str, encoder: Encoder) -> Recipe:
        return cls(
            passages.fingerprint,
            passages.count,
            model,
            encoder.passage_fingerprint,
            encoder.passage_template,
            encoder.dim,
        )

    @property
    def compared(self) -> dict[str, Any]:
        """What must be equal: all but the model's name."""
        return {key: value for key, value in self._asdict().items() if key != "model"}


class Shard(NamedTuple):
    """Part `number` (from 1) of `of` parts of a collection."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/8` -> second of eight. Raises: InputError."""
        matched = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(int(matched[1]), int(matched[2])) if matched else cls(0, 0)
        if not 1 <= shard.number <= shard.of:
            raise InputError(f"--shard {text!r}: give i/n with 1 <= i <= n, such as 2/8")
        return shard

    def rows(self, count: int) -> range:
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)

    def folder(self, output: Path) -> Path:
        return output / f"shard-{self.number}-of-{self.of}"


class Rows(NamedTuple):
    """Passages of a collection, from row `start` up to `stop`."""

    start: int
    stop: int


class BlockHashes(NamedTuple):
    """SHA-256 of a block's two files, by the end of their names."""

    npy: str
    docids: str


class StoredBlock(NamedTuple):
    """A finished block: the stem of its files, how many passages it has, and hashes."""

    name: str
    rows: int
    sha256: BlockHashes


class Manifest(NamedTuple):
    """What a shard's manifest.json says."""

    recipe: Recipe
    rows: Rows
    dtype: str
    blocks: tuple[StoredBlock, ...]


class ShardWriter:
    """Writes one shard block by block and goes on where an earlier process stopped.

    Raises:
        InputError: on opening, when the folder holds vectors of another recipe.
    """

    def __init__(self, output: Path, shard: Shard, recipe: Recipe, overwrite: bool = False) -> None:
        self.rows = shard.rows(recipe.passages)
        self.folder = shard.folder(output)
        self._recipe = recipe
        self._path = self.folder / "manifest.json"
        self._blocks: list[StoredBlock] = []
        if self._path.is_file() and not overwrite:
            found = _manifest(self.folder)
            refuse_other(self.folder, found.recipe._asdict(), recipe.compared)
            self._blocks = list(found.blocks)
        elif self.folder.is_dir():
            for path in sorted(
                self.folder.iterdir(), reverse=True
            ):  # the manifest, which names the blocks, before them
                path.unlink()
        self._save()

    @property
    def done(self) -> int:
        return sum(block.rows for block in self._blocks)

    @property
    def complete(self) -> bool:
        return self.done == len(self.rows)

    def write(
        self, passages: Iterable[Passage], encode: Callable[[list[Passage]], Vectors], report: Callable[[int], None]
    ) -> None:
        """Encode and write `passages`, which start at the first row that is not done.

        Raises:
            InputError: for vectors that fp16 cannot hold.
        """
        stream = iter(passages)
        while block := list(islice(stream, BLOCK_ROWS)):
            vectors_ND = encode(block)
            with np.errstate(over="ignore"):
                halves_ND = vectors_ND.astype(np.float16)
            if not np.isfinite(halves_ND).all():
                raise InputError(
                    f"{self.folder}: vectors of up to {np.abs(vectors_ND).max():.3g} do not fit fp16 (at most 65504); encode with --normalize"
                )
            self._append(halves_ND, [passage.docid for passage in block])
            report(self.done)

    def _append(self, vectors_ND: npt.NDArray[np.float16], docids: list[str]) -> None:
        name = f"{len(self._blocks):05d}"
        with writing(self.folder / f"{name}.npy", "wb") as sink:
            np.save(sink, vectors_ND, allow_pickle=False)
        with writing(self.folder / f"{name}.docids") as sink:
            sink.writelines(f"{docid}\n" for docid in docids)
        hashes = BlockHashes(*(sha256_file(self.folder / f"{name}.{suffix}") for suffix in BlockHashes._fields))
        self._blocks.append(StoredBlock(name, len(docids), hashes))
        self._save()

    def _save(self) -> None:
        rows = {"start": self.rows.start, "stop": self.rows.stop}
        write_json(
            self._path,
            {
                "recipe": self._recipe._asdict(),
                "rows": rows,
                "dtype": "float16",
                "blocks": [block._asdict() | {"sha256": block.sha256._asdict()} for block in self._blocks],
            },
        )


class VectorSet:
    """The vectors of a whole collection, from one or several shards.

    Raises:
        InputError: on opening, when shards are missing, unfinished or of different recipes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        finished = [path.parent for path in folder.glob("shard-*/manifest.json") if SHARD.fullmatch(path.parent.name)]
        if not finished:
            raise InputError(
                f"{folder}: no vectors (no shard-i-of-n folder with a manifest.json); make them with `python -m taco_ir.encode`"
            )
        shards = [(path, _manifest(path)) for path in finished]
        self._shards = sorted(shards, key=lambda shard: shard[1].rows)
        self.recipe = self._shards[0][1].recipe
        row = 0
        for path, manifest in self._shards:
            if difference := first_difference(manifest.recipe._asdict(), self.recipe.compared):
                raise InputError(
                    f"{path}: made otherwise than the other shards ({difference}); encode all of them alike"
                )
            start, stop = manifest.rows
            done = sum(block.rows for block in manifest.blocks)
            if start < row:
                raise InputError(f"{path}: rows {start}..{min(row, stop) - 1} are in two shards; remove one of the two")
            if start > row or done != stop - start:
                what = (
                    f"rows {row}..{start - 1} are in no shard"
                    if start > row
                    else f"{done} of {stop - start} passages are encoded"
                )
                raise InputError(f"{path}: {what}; run `python -m taco_ir.encode` with the same flags to finish")
            row = stop
        if row != self.recipe.passages:
            raise InputError(
                f"{folder}: rows {row}..{self.recipe.passages - 1} are in no shard; encode the other shards first"
            )

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Blocks in row order from block `start` on, hashes checked. Raises: InputError naming a block that was cut or altered."""
        for number, (path, block) in enumerate(
            (path, block) for path, manifest in self._shards for block in manifest.blocks
        ):
            if number >= start:
                yield read_block(path, block)

    def verify(self) -> int:
        """Re-hash every block; their number. Raises: InputError naming the first that was cut or altered."""
        return sum(1 for _ in self.blocks())

    @property
    def size(self) -> int:
        """Bytes of the vectors."""
        return self.recipe.passages * self.recipe.dim * 2


def read_block(folder: Path, block: StoredBlock) -> Block:
    for suffix, expected in block.sha256._asdict().items():
        path = folder / f"{block.name}.{suffix}"
        found = sha256_file(path) if path.is_file() else "no file"
        if found != expected:
            raise InputError(
                f"{path}: truncated or altered (SHA-256 {found[:16]}, manifest says {expected[:16]}); remove {folder} and encode it again"
            )
    vectors_ND = np.load(folder / f"{block.name}.npy", mmap_mode="r", allow_pickle=False)
    docids = (folder / f"{block.name}.docids").read_text(encoding="utf-8").splitlines()
    return vectors_ND, docids


def _manifest(shard: Path) -> Manifest:
    """Raises: InputError for a file that does not say what a shard's manifest says."""
    return read_json(shard / "manifest.json", Manifest, f"remove {shard} and encode it again")


def held_memory() -> int:
    """Resident memory of this process now, in bytes; where the system does not tell, its peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return peak_memory()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """Peak resident memory of this process in bytes."""
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
