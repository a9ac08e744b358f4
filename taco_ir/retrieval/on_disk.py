"""IVF indexes that keep their lists on disk: built in parts that fit into memory, and searched from a memory map.

DIR/index      faiss's index without vectors: centroids, and the place of each list
DIR/lists      the codes and rows of all lists, one list after the other
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from taco_ir.core.files import InputError
from taco_ir.core.types import Vectors

LISTS = "lists"
PART_BYTES = 500_000_000  # size of a part, which is built in memory
ROW_BYTES = 8  # size of a vector's row number in a list


def require_lists(index: Any, factory: str) -> None:
    """Raise InputError if an index of this type cannot keep its lists on disk; `factory` is its factory string."""
    import faiss

    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    if not isinstance(inner, faiss.IndexIVF) or isinstance(inner, faiss.IndexIVFPQR | faiss.IndexIVFFastScan):
        examples = "'IVF1024,SQ8' or 'OPQ16,IVF1024,PQ16'"
        raise InputError(f"--factory {factory!r}: --on-disk needs an index with IVF lists, such as {examples}")


def write_lists(trained: Any, blocks: Iterator[Vectors], folder: Path) -> None:
    """Add blocks of vectors to a trained, empty IVF index, and write its lists to the file `folder / LISTS`."""
    import faiss
    from faiss.contrib.ondisk import merge_ondisk

    most = max(1, PART_BYTES // (int(trained.sa_code_size()) + ROW_BYTES))
    part: Any = faiss.clone_index(trained)
    parts, rows = list[Path](), 0
    for block_ND in blocks:
        part.add_with_ids(block_ND, np.arange(rows, rows + len(block_ND)))
        rows += len(block_ND)
        if part.ntotal >= most:
            parts.append(_write(part, folder / f"part-{len(parts)}"))
            part.reset()
    parts.append(_write(part, folder / f"part-{len(parts)}"))
    del part
    merge_ondisk(trained, [str(path) for path in parts], str(folder / LISTS))
    for path in parts:
        path.unlink()
    _lists(trained).filename = LISTS  # without the folder, which is moved later


def read_lists(folder: Path) -> Any:
    """Open the IVF index in a folder with memory-mapped lists. Raises: RuntimeError, if faiss cannot read it."""
    import faiss

    index = faiss.read_index(str(folder / "index"), faiss.IO_FLAG_SKIP_IVF_DATA | faiss.IO_FLAG_READ_ONLY)
    lists = _lists(index)
    lists.filename, lists.read_only = str(folder / LISTS), True
    lists.do_mmap()
    return index


def _write(index: Any, path: Path) -> Path:
    import faiss

    faiss.write_index(index, str(path))
    return path


def _lists(index: Any) -> Any:
    import faiss

    lists: Any = faiss.extract_index_ivf(index).invlists
    return faiss.downcast_InvertedLists(lists)
