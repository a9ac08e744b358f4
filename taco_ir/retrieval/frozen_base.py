"""Frozen indexes: existing indexes of passage vectors, made by any tool, that are read but never changed.

`frozen_matrices.py` and `frozen_faiss.py` open the supported layouts; `frozen_index.open_frozen_index` recognises the
layout of a folder or file.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError, data_home, is_leftover, reading, require_space
from taco_ir.core.hashes import sha256_file
from taco_ir.core.processes import Progress
from taco_ir.core.types import Ranking, Vectors
from taco_ir.retrieval.exact_search import exact_search
from taco_ir.retrieval.recall import RECALL_FILE
from taco_ir.retrieval.vectors import Recipe, VectorSet

INNER_PRODUCT, L2 = "inner product", "L2"
NO_DOCIDS = "it does not contain docids; give them by --docids FILE, one per line, in the order of the vectors"
ROWS = 4096  # rows that are read together


class StoredPiece:
    """An .npy matrix on disk, mapped only during a read, since a process may open only a limited number of files."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self._path, self.shape = path, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> npt.NDArray[np.floating]:
        found: npt.NDArray[np.floating] = np.load(self._path, mmap_mode="r", allow_pickle=False)[rows]
        return found


class Matrix:
    """A matrix of vectors on disk, in one or several pieces [N_i, D] of any float type. Rows are read as float32."""

    def __init__(self, pieces: Sequence[npt.NDArray[np.floating] | StoredPiece]) -> None:
        self._pieces = pieces
        self._starts = np.cumsum([0, *map(len, pieces)])
        self.dim = int(pieces[0].shape[1])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> Vectors:
        """Read rows, given as a slice or as row numbers; a slice of a single float32 piece is not copied."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            if len(self._pieces) == 1:
                # aligned, since the numbers in faiss's map may begin at any byte
                return np.require(self._pieces[0][start:stop], np.float32, "A")
            whole = np.empty((max(stop - start, 0), self.dim), dtype=np.float32)
            before, after = np.searchsorted(self._starts, start, side="right"), np.searchsorted(self._starts, stop)
            touched = slice(int(before) - 1, int(after))
            for piece, first in zip(self._pieces[touched], self._starts[touched].tolist(), strict=False):
                part = piece[max(start - first, 0) : max(stop - first, 0)]
                place = max(first - start, 0)
                whole[place : place + len(part)] = part
            return whole
        found = np.empty((len(rows), self.dim), dtype=np.float32)
        piece_N = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(piece_N).tolist():
            here = piece_N == number
            found[here] = self._pieces[number][rows[here] - self._starts[number]]
        return found


def stored_matrix(vectors: VectorSet) -> Matrix:
    """Return the vectors that `encode` wrote as one matrix on disk, without checking the hashes of their blocks."""
    shapes = ((rows, vectors.recipe.dim) for rows in vectors.block_rows)
    return Matrix([StoredPiece(path, shape) for path, shape in zip(vectors.paths("npy"), shapes, strict=True)])


class FrozenIndex:
    """An existing index that is read but never changed. Its rows (vectors) are numbered from 0.

    Args:
        vectors: a matrix, on disk if possible, that supports slices and arrays of row numbers.

    Attributes:
        path: folder or file of the index.
        layout: "vectors" or "index" (ours), "pyserini", "faiss", "npy", "parquet".
        dim: D, the width of a vector.
        docids: the docid of each row.
        metric: INNER_PRODUCT, or L2 if all vectors have the same norm, so that both metrics give the same ranking.
        encoder: record of the encoder and passages that made the vectors; None if the folder has no such record.
        lost: how vectors reconstructed from codes differ from the originals; "" if they are exact.
        remarks: sentences with further information for the user.

    Raises:
        InputError: if the numbers of docids and vectors differ, or a docid appears twice.
    """

    def __init__(
        self,
        path: Path,
        layout: str,
        vectors: Matrix,
        docids: Sequence[str],
        encoder: Recipe | None = None,
        metric: str = INNER_PRODUCT,
        lost: str = "",
        remarks: Sequence[str] = (),
    ) -> None:
        self.path, self.layout, self.dim, self.docids = path, layout, vectors.dim, docids
        self.encoder, self.metric, self.lost, self.remarks = encoder, metric, lost, tuple(remarks)
        self._vectors_ND = vectors
        if len(docids) != len(vectors):
            raise InputError(
                f"{path}: {len(vectors):,} vectors, but {len(docids):,} docids; one docid for each vector is "
                "needed, in the same order"
            )
        self._row_of = {docid: row for row, docid in enumerate(docids)}
        if len(self._row_of) < len(docids):
            row, docid = next((row, docid) for row, docid in enumerate(docids) if self._row_of[docid] != row)
            raise InputError(f"{path}: vectors {row:,} and {self._row_of[docid]:,} have the same docid {docid!r}")

    def __len__(self) -> int:
        return len(self.docids)

    def block(self, start: int, stop: int) -> Vectors:
        """Return the vectors of rows `start` to `stop` - 1: float32 [n, D]. Do not change this map of the file."""
        return self._vectors_ND[start:stop]

    def at(self, rows: npt.NDArray[np.int64]) -> Vectors:
        """Return the vectors of the given rows: float32 [n, D]."""
        return self._vectors_ND[rows]

    def rows(self, docids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the row number of each docid: int64 [n]; -1 for a docid that is not in the index."""
        return np.fromiter((self._row_of.get(docid, -1) for docid in docids), dtype=np.int64, count=len(docids))

    def search(self, queries_BD: Vectors, hits: int) -> npt.NDArray[np.int64]:
        """Return the row numbers of each query's hits, best first: int64 [B, hits]; -1 in place of a missing hit.

        faiss searches its own indexes, with the parameters saved in them. Other layouts are searched exactly.
        """
        return self._rows_of(self.rank(queries_BD, hits), hits)

    def rank(self, queries_BD: Vectors, hits: int) -> Iterator[Ranking]:
        """Yield for each query a ranking of the `hits` passages with the largest inner products, by exact search."""
        vectors_ND: Vectors = self._vectors_ND  # type: ignore[assignment]  # rows are all that is read of it
        return exact_search(np.asarray(queries_BD, dtype=np.float32), vectors_ND, self._docids_N, hits)

    @cached_property
    def _docids_N(self) -> npt.NDArray[np.object_]:
        return np.array(self.docids, dtype=object)

    def _rows_of(self, rankings: Iterable[Ranking], hits: int) -> npt.NDArray[np.int64]:
        found = [self.rows(ranking.docids) for ranking in rankings]
        return np.stack([np.pad(rows_K, (0, hits - len(rows_K)), constant_values=-1) for rows_K in found])

    def digest(self) -> str:
        """Compute the SHA-256 of the index's file; for a folder, of the list of hashes that `sha256sum` prints.

        The file recall.json of `search --recall` is left out, since no vector or docid depends on it.
        """
        if not self.path.is_dir():
            return sha256_file(self.path)
        chosen = self.path / RECALL_FILE
        every = (path for path in self.path.rglob("*") if path.is_file() and not is_leftover(path))
        files = sorted(path for path in every if path != chosen)
        lines = [f"{sha256_file(path)}  {path.relative_to(self.path).as_posix()}\n" for path in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_docids(path: Path) -> list[str]:
    """Read a file with one docid per line. White space at the ends of lines is ignored, as in Pyserini.

    Raises:
        InputError: for a blank line, or a file that is not UTF-8 text.
    """
    docids = []
    with reading(path) as source:
        try:
            for number, line in enumerate(TextIOWrapper(source, encoding="utf-8"), 1):  # type: ignore[type-var]
                if not (docid := line.rstrip()):
                    raise InputError(
                        f"{path}, line {number}: this line is blank; one docid for each vector is needed, in the "
                        "same order"
                    )
                docids.append(docid)
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 ({error}); it must contain one docid per line") from error
    return docids


def blocks(vectors: Matrix) -> Iterator[Vectors]:
    return (vectors[start : start + ROWS] for start in range(0, len(vectors), ROWS))


def check_finite(path: Path, parts: Iterable[Vectors], count: int) -> Iterator[Vectors]:
    """Yield the blocks `parts`, and show progress. Raises: InputError naming a vector with infinite or NaN values."""
    progress, row = Progress("read", count, "vectors"), 0
    for block_ND in parts:
        if not np.isfinite(block_ND).all():
            bad = row + int(np.flatnonzero(~np.isfinite(block_ND).all(axis=1))[0])
            raise InputError(f"{path}: vector {bad:,} (of 0..{count - 1:,}) has an infinite or NaN value")
        row += len(block_ND)
        progress.at(row)
        yield block_ND


def keep_on_disk(parts: Iterable[Vectors], count: int, dim: int) -> Matrix:
    """Write blocks to an unnamed temporary file and return it as a matrix; the file vanishes when the process ends."""
    home = data_home()
    home.mkdir(parents=True, exist_ok=True)
    require_space(home, count * dim * 4)
    with tempfile.TemporaryFile(dir=home) as sink:
        for block_ND in parts:
            sink.write(np.ascontiguousarray(block_ND, dtype=np.float32).data)
        sink.flush()
        return Matrix([np.memmap(sink, np.float32, "r").reshape(-1, dim)])
