"""Opens vectors that have no index: our blocks, an .npy matrix, or a parquet file. They are searched exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from taco_ir.core.files import QUOTED_UP_TO, InputError
from taco_ir.core.typed import abbreviate
from taco_ir.core.types import Vectors
from taco_ir.retrieval.frozen_base import (
    ROWS,
    FrozenIndex,
    Matrix,
    StoredPiece,
    blocks,
    check_finite,
    keep_on_disk,
    read_docids,
)
from taco_ir.retrieval.vectors import VectorSet

FLOATS = ("float16", "float32", "float64")
BUFFER = 1 << 20  # bytes of a parquet file to read ahead; by default, a column of a million rows would be read at once
ID_COLUMNS = ("docid", "id", "_id", "docno")


def open_vectors(path: Path, docids: Path | None) -> FrozenIndex:  # noqa: ARG001 - a layout with docids of its own
    """Open vectors that `python -m taco_ir.encode` wrote. Raises: InputError for missing shards or a changed block."""
    vectors = VectorSet(path)
    pieces, names = [], []
    for block_ND, docids_N in vectors.blocks():
        pieces.append(StoredPiece(Path(str(block_ND.filename)), block_ND.shape))
        names += docids_N
    return FrozenIndex(path, "vectors", Matrix(pieces), names, vectors.recipe)


def open_npy(path: Path, docids: Path | None) -> FrozenIndex:
    """Open a memory-mapped matrix that numpy saved. Raises: InputError if it is not a matrix of finite floats."""
    try:
        found_ND = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError) as error:
        reason = abbreviate(str(error))
        raise InputError(f"{path}: not a complete .npy file of numbers ({reason}); pickles are not read") from error
    if found_ND.ndim != 2 or not found_ND.size:
        raise InputError(f"{path}: its shape is {found_ND.shape}; a matrix [vectors, width] is needed")
    if found_ND.dtype.name not in FLOATS:
        raise InputError(f"{path}: its numbers are of type {found_ND.dtype.name}; allowed: {', '.join(FLOATS)}")
    vectors, names = Matrix([found_ND]), [] if docids is None else read_docids(docids)
    for _ in check_finite(path, blocks(vectors), len(vectors)):
        pass
    return FrozenIndex(path, "npy", vectors, names)


def open_parquet(path: Path, docids: Path | None) -> FrozenIndex:
    """Open a parquet file with vectors and docids; the vectors are copied to an unnamed temporary file.

    The vectors are the only column of lists of floats. The docids are the only column of texts or whole numbers; if
    there are several, the column called `docid`, `id`, `_id` or `docno`. If `docids` is given, they are read from that
    file.

    Raises:
        InputError: if no column or several columns fit, lists differ in length, or values are missing.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"{path}: reading it needs the package pyarrow; install it with `pip install pyarrow`"
        ) from error
    try:
        table = pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
        schema = table.schema_arrow
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a whole parquet file ({abbreviate(str(error))})") from error
    id_name = None if docids else _choose(path, "docids", [each.name for each in schema if _is_id(each.type)])
    columns = _choose(path, "vectors", [each.name for each in schema if _is_vector(each.type)]), id_name
    names, count = [] if docids is None else read_docids(docids), int(table.metadata.num_rows)
    parts = _read_rows(path, table, columns, names)
    first_ND = next(parts, None)
    if first_ND is None:
        raise InputError(f"{path}: it has no rows")
    whole = check_finite(path, chain([first_ND], parts), count)
    return FrozenIndex(path, "parquet", keep_on_disk(whole, count, first_ND.shape[1]), names)


def _is_vector(kind: Any) -> bool:
    """Whether the values in a column are lists of floats."""
    from pyarrow import types

    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return lists and bool(types.is_floating(kind.value_type))


def _is_id(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind))


def _choose(path: Path, what: str, columns: Sequence[str]) -> str:
    """Return the only column that fits; among several for docids, the one with a usual name. Raises: InputError."""
    usual = [name for name in columns if name in ID_COLUMNS] if what == "docids" and len(columns) > 1 else columns
    if len(usual) != 1:
        kinds = {"vectors": "lists of floats", "docids": f"texts or whole numbers (one of {', '.join(ID_COLUMNS)})"}
        there = f"{len(columns)} columns fit ({', '.join(columns)})" if columns else "no column fits"
        hint = "; or give --docids FILE" if what == "docids" else ""
        raise InputError(f"{path}: one column of {kinds[what]} is needed for {what}; {there[:QUOTED_UP_TO]}{hint}")
    return usual[0]


def _read_rows(path: Path, table: Any, columns: tuple[str, str | None], docids: list[str]) -> Iterator[Vectors]:
    """Yield blocks of vectors; append the docids of these rows, if the file has any, to the list `docids`."""
    import pyarrow
    from pyarrow.compute import list_value_length

    vectors_name, id_name = columns
    batches = table.iter_batches(ROWS, columns=[name for name in columns if name])
    row, dim = 0, -1
    while True:
        try:
            if (batch := next(batches, None)) is None:
                return
            lists = batch.column(vectors_name)
            lengths_N = np.array(list_value_length(lists).fill_null(-1))
            numbers = lists.flatten().to_numpy(zero_copy_only=False)
            names = batch.column(id_name).to_pylist() if id_name else []
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{path}: not a whole parquet file ({abbreviate(str(error))})") from error
        dim = int(lengths_N[0]) if dim < 0 else dim
        if (other_N := np.flatnonzero((lengths_N != dim) | (lengths_N < 1))).size:
            length = max(lengths_N[other_N[0]], 0)
            found = f"{length} numbers, but {dim} are needed, as in the first row" if length else "no numbers"
            raise InputError(f"{path}, row {row + other_N[0]:,} (from 0): the vector in {vectors_name!r} has {found}")
        blank = next((place for place, name in enumerate(names) if name is None or not str(name).strip()), None)
        if blank is not None:
            raise InputError(f"{path}, row {row + blank:,} (from 0): column {id_name!r} is blank; a docid is needed")
        docids.extend(map(str, names))
        row += len(lengths_N)
        yield numbers.astype(np.float32).reshape(-1, dim)
