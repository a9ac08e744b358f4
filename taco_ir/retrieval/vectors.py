"""Passage vectors on disk: finished fp16 blocks with their docids, and a manifest that records how they were made.

    DIR/shard-2-of-8/manifest.json      recipe, row range, SHA-256 of every finished block
    DIR/shard-2-of-8/00000.npy          fp16 [rows, D], read by memory map
    DIR/shard-2-of-8/00000.docids       one docid per line

A block is complete before it is added to the manifest, so every listed block is complete.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import CHUNK, InputError, read_json, write_json, writing
from taco_ir.core.hashes import fingerprint, sha256_file
from taco_ir.core.outputs import first_difference, refuse_other
from taco_ir.core.processes import ahead
from taco_ir.core.types import Encoder, Passage, Vectors

if TYPE_CHECKING:
    from taco_ir.data.passage_store import PassageStore

BLOCK_ROWS = 4096
NEWLINE = ord("\n")
SHARD = re.compile(r"shard-(\d+)-of-(\d+)")
Block = tuple["np.memmap[Any, np.dtype[np.float16]]", list[str]]


class Recipe(NamedTuple):
    """How passage vectors were made (passages, encoder, template); vectors of different recipes cannot be mixed."""

    collection: str  # fingerprint of the passages
    passages: Annotated[int, 1]  # their number
    model: str  # its name
    encoder: str  # fingerprint of the passage encoder
    template: str
    dim: int

    @classmethod
    def of(cls, passages: PassageStore, model: str, encoder: Encoder) -> Recipe:
        made_by = (encoder.passage_fingerprint, encoder.passage_template, encoder.dim)
        return cls(passages.fingerprint, passages.count, model, *made_by)

    def is_of(self, encoder: Encoder) -> bool:
        """Whether this encoder made the vectors, perhaps in another number format, which changes vectors slightly."""
        return self.encoder in (encoder.passage_fingerprint, *encoder.rounded_fingerprints)

    def require(self, where: str, encoder: Encoder | None, collection: str | None) -> None:
        """Raise InputError, beginning with `where`, if another encoder or collection made the vectors; None: any."""
        if encoder is not None and not self.is_of(encoder):
            raise InputError(
                f"{where}: its vectors were made by encoder {self.encoder} ({self.model}), but the given model is "
                f"encoder {encoder.passage_fingerprint}; search with the model that made them, or encode with the "
                "given one"
            )
        if collection is not None and collection != self.collection:
            raise InputError(
                f"{where}: made from collection {self.collection}, not from {collection}; give the encoded collection"
            )

    @property
    def compared(self) -> dict[str, Any]:
        """The values of a recipe that must be equal: all except the model's name."""
        return {key: value for key, value in self._asdict().items() if key != "model"}


class Shard(NamedTuple):
    """A shard of a collection, such as the second of 8; groups of `rows_together` passages are never divided."""

    number: int
    of: int
    rows_together: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse a text such as `2/8`, the second of eight shards. Raises: InputError for another form."""
        matched = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(int(matched[1]), int(matched[2])) if matched else cls(0, 0)
        if not 1 <= shard.number <= shard.of:
            raise InputError(f"--shard {text!r}: give i/n with 1 <= i <= n, such as 2/8")
        return shard

    def rows(self, count: int) -> range:
        groups = -(-count // self.rows_together)
        first, stop = (groups * number // self.of * self.rows_together for number in (self.number - 1, self.number))
        return range(first, min(stop, count))

    def folder(self, output: Path) -> Path:
        return output / f"shard-{self.number}-of-{self.of}"


class Rows(NamedTuple):
    """The passages of a shard: rows `start` to `stop` - 1 of the collection."""

    start: int
    stop: int


class BlockHashes(NamedTuple):
    """SHA-256 of a block's two files, named by their suffixes."""

    npy: str
    docids: str


class StoredBlock(NamedTuple):
    """A finished block: name of its files without suffix, number of passages, and hashes of the files."""

    name: str
    rows: Annotated[int, 1]
    sha256: BlockHashes


class Manifest(NamedTuple):
    """The content of a shard's manifest.json: recipe, rows, number format, and finished blocks."""

    recipe: Recipe
    rows: Rows
    dtype: str
    blocks: tuple[StoredBlock, ...]


class ShardWriter:
    """Writes the vectors of a shard block by block; continues where an earlier process stopped.

    Args:
        block_rows: number of passages in a block; None: BLOCK_ROWS.

    Raises:
        InputError: on creation, if the folder holds vectors of another recipe.
    """

    def __init__(
        self, output: Path, shard: Shard, recipe: Recipe, overwrite: bool = False, block_rows: int | None = None
    ) -> None:
        self._block_rows = block_rows or BLOCK_ROWS
        self.rows = shard.rows(recipe.passages)
        self.folder = shard.folder(output)
        self._recipe = recipe
        self._path = self.folder / "manifest.json"
        self._blocks: list[StoredBlock] = []
        if self._path.is_file() and not overwrite:
            found = _manifest(self.folder)
            refuse_other(self.folder, found.recipe._asdict(), recipe.compared)
            self._blocks = list(found.blocks)
        else:
            empty_shard(self.folder)
        self._save()

    @property
    def done(self) -> int:
        return sum(block.rows for block in self._blocks)

    def write(
        self,
        passages: Iterable[Passage],
        encode: Callable[[list[Passage]], Vectors],
        report: Callable[[int], None],
        prepare: Callable[[list[Passage]], Callable[[], Vectors]] | None = None,
    ) -> None:
        """Encode `passages` and write their vectors; the first passage must be the first unfinished row of the shard.

        Args:
            prepare: called with each block in a thread, while the block before is encoded, for example to tokenise the
                block. It returns a function that returns the vectors; `encode` is then not called.

        Raises:
            InputError: for vectors with numbers that are too large for fp16.
        """
        stream, prepare = iter(passages), prepare or (lambda block: partial(encode, block))
        blocks = iter(lambda: list(islice(stream, self._block_rows)), [])
        with closing(ahead((block, prepare(block)) for block in blocks)) as prepared:
            for block, finish in prepared:
                vectors_ND = finish()
                with np.errstate(over="ignore"):
                    halves_ND = vectors_ND.astype(np.float16)
                if not np.isfinite(halves_ND).all():
                    problem = f"values of up to {np.abs(vectors_ND).max():.3g} do not fit fp16 (at most 65504)"
                    raise InputError(f"{self.folder}: {problem}; encode with --normalize")
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
        blocks = [block._asdict() | {"sha256": block.sha256._asdict()} for block in self._blocks]
        write_json(self._path, {"recipe": self._recipe._asdict(), "rows": rows, "dtype": "float16", "blocks": blocks})


def empty_shard(folder: Path) -> None:
    """Delete the files in a shard's folder, if it exists: the manifest first, then the blocks that it names."""
    for path in sorted(folder.iterdir() if folder.is_dir() else (), reverse=True):
        path.unlink()


def rows_done(folder: Path, recipe: Recipe) -> int | None:
    """Return the number of encoded passages in a shard's folder; None if the folder has no manifest.

    Raises:
        InputError: for vectors of another recipe.
    """
    if not (folder / "manifest.json").is_file():
        return None
    found = _manifest(folder)
    refuse_other(folder, found.recipe._asdict(), recipe.compared)
    return sum(block.rows for block in found.blocks)


class VectorSet:
    """The vectors of a whole collection, from one or several shards.

    Attributes:
        block_rows: the number of rows of each block, in row order.

    Raises:
        InputError: on opening, if shards are missing, unfinished, or made in different ways.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        finished = [path.parent for path in folder.glob("shard-*/manifest.json") if SHARD.fullmatch(path.parent.name)]
        if not finished:
            missing = "no vectors (no shard-i-of-n folder with a manifest.json)"
            raise InputError(f"{folder}: {missing}; make them with `python -m taco_ir.encode`")
        shards = [(path, _manifest(path)) for path in finished]
        self._shards = sorted(shards, key=lambda shard: shard[1].rows)
        self.recipe = self._shards[0][1].recipe
        row = 0
        for path, manifest in self._shards:
            if difference := first_difference(manifest.recipe._asdict(), self.recipe.compared):
                others = f"made differently from the other shards ({difference})"
                raise InputError(f"{path}: {others}; encode all shards with the same flags")
            start, stop = manifest.rows
            done = sum(block.rows for block in manifest.blocks)
            if start < row:
                raise InputError(f"{path}: rows {start}..{min(row, stop) - 1} are in two shards; remove one of them")
            if start > row or done != stop - start:
                what = f"{done} of {stop - start} passages are encoded (rows.stop is {stop})"
                what = f"rows {row}..{start - 1} are in no shard" if start > row else what
                raise InputError(f"{path}: {what}; run `python -m taco_ir.encode` with the same flags to finish")
            row = stop
        if row != self.recipe.passages:
            missing = f"rows {row}..{self.recipe.passages - 1} are in no shard"
            raise InputError(f"{folder}: {missing}; encode the other shards first")
        self._blocks = [(path, block) for path, manifest in self._shards for block in manifest.blocks]
        self.block_rows = [block.rows for _, block in self._blocks]

    @property
    def fingerprint(self) -> str:
        """Hash of all vectors and docids, from the hashes in the shards' manifests."""
        return fingerprint([self.recipe.compared, [block.sha256 for _, block in self._blocks]])

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Yield the vectors (fp16 [rows, D]) and docids of each block from number `start` on, and check their hashes.

        Raises:
            InputError: naming a block that was cut or changed.
        """
        return map(self.block, range(start, len(self._blocks)))

    def block(self, number: int) -> Block:
        """Read vectors and docids of one block, and check their hashes. Raises: InputError naming a changed file."""
        return _read_block(*self._blocks[number])

    def paths(self, suffix: str) -> list[Path]:
        """Return the files of all blocks with this suffix, "npy" or "docids", in row order."""
        return [path / f"{block.name}.{suffix}" for path, block in self._blocks]

    def verify(self) -> int:
        """Check the hashes of all blocks, and return the number of blocks. Raises: InputError naming a changed file."""
        return sum(1 for _ in self.blocks())


class Lines:
    """The lines of a text file, read by arrays of line numbers (from 0); other lines are not decoded."""

    def __init__(self, path: Path) -> None:
        self._bytes: Any = np.memmap(path, np.uint8, "r")
        parts = range(0, len(self._bytes), CHUNK)
        ends = [np.flatnonzero(self._bytes[start : start + CHUNK] == NEWLINE) + start for start in parts]
        self._starts = np.concatenate([[0], *(each + 1 for each in ends)])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.object_]:
        starts, stops = self._starts[numbers].tolist(), (self._starts[numbers + 1] - 1).tolist()
        found = np.empty(len(starts), dtype=object)
        found[:] = [str(self._bytes[a:b], "utf-8") for a, b in zip(starts, stops, strict=True)]
        return found


def _read_block(folder: Path, block: StoredBlock) -> Block:
    for suffix, expected in block.sha256._asdict().items():
        path = folder / f"{block.name}.{suffix}"
        found = sha256_file(path) if path.is_file() else "no file"
        if found != expected:
            hashes = f"SHA-256 {found[:16]}, manifest says {expected[:16]}"
            raise InputError(f"{path}: truncated or altered ({hashes}); remove {folder} and encode it again")
    vectors_ND: np.memmap[Any, np.dtype[np.float16]] = np.load(
        folder / f"{block.name}.npy", mmap_mode="r", allow_pickle=False
    )
    docids = (folder / f"{block.name}.docids").read_text(encoding="utf-8").splitlines()
    return vectors_ND, docids


def _manifest(shard: Path) -> Manifest:
    """Read a shard's manifest. Raises: InputError for a file that is not a manifest."""
    return read_json(shard / "manifest.json", Manifest, f"remove {shard} and encode it again")
