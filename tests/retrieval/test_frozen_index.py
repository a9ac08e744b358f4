"""An index that stays gives the rows, docids and hits of the matrix it was made of, in every layout; the rest is told.

Vectors are normalised, so that L2 and the inner product agree, and rounded to float16, so that our blocks are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taco_ir.core.types import Passage
from taco_ir.retrieval.faiss_index import build_index
from taco_ir.retrieval.frozen_base import FrozenIndex
from taco_ir.retrieval.frozen_index import open_frozen_index
from taco_ir.retrieval.vectors import Recipe, Shard, ShardWriter, VectorSet

N, DIM, HITS = 1500, 16, 7
DOCIDS = [f"{row * 7919 % N}#{row % 3}" for row in range(N)]
DRAWN = np.random.default_rng(0).standard_normal((N, DIM))
VECTORS = (DRAWN / np.linalg.norm(DRAWN, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
QUERIES = np.random.default_rng(1).standard_normal((20, DIM)).astype(np.float32)
ROWS = np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :HITS]
RECIPE = Recipe("collection-1", N, "fake", "encoder-1", "{text}", DIM)
Opened = Callable[[], FrozenIndex]


def write_ids(folder: Path, docids: Sequence[str] = DOCIDS) -> Path:
    path = folder / "ids.txt"
    path.write_text("".join(f"{docid}\n" for docid in docids))
    return path


def write_faiss(path: Path, factory: str, metric: str = "INNER_PRODUCT", ids: Any = None) -> Any:
    """Write an index of VECTORS; faiss's index."""
    import faiss

    index = faiss.index_factory(DIM, factory, getattr(faiss, f"METRIC_{metric}"))
    index.train(VECTORS)
    if ids is None:
        index.add(VECTORS)
    else:
        index.add_with_ids(VECTORS, ids)
    path.parent.mkdir(exist_ok=True)
    faiss.write_index(index, str(path))
    return index


def write_vectors(folder: Path) -> VectorSet:
    passages = [Passage(docid, docid.rpartition("#")[0], "", "") for docid in DOCIDS]
    for number in (1, 2):
        writer = ShardWriter(folder, Shard(number, 2), RECIPE)
        rows = slice(writer.rows.start, writer.rows.stop)
        writer.write(passages[rows], lambda _, rows=rows: VECTORS[rows], lambda _: None)  # type: ignore[misc]
    return VectorSet(folder)


def write_parquet(path: Path, kind: Any, vectors: Any = VECTORS, **more: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    columns = more or {"docid": DOCIDS, "title": [""] * N}
    lists = [each if each is None else list(map(float, each)) for each in vectors]
    pyarrow.parquet.write_table(pyarrow.table({**columns, "vector": pyarrow.array(lists, kind)}), path, 700)
    return path


def made(folder: Path, layout: str) -> FrozenIndex:
    """An index of VECTORS and DOCIDS in a layout, or in a variety of one."""
    import pyarrow

    kind, _, variety = layout.partition(" ")
    if kind == "vectors":
        write_vectors(folder / "vectors")
        return open_frozen_index(folder / "vectors")
    if kind == "index":
        build_index(write_vectors(folder / "vectors"), folder / "index", variety)
        return open_frozen_index(folder / "index")
    if kind == "pyserini":
        write_faiss(folder / "pyserini" / "index", variety)
        write_ids(folder / "pyserini").rename(folder / "pyserini" / "docid")
        return open_frozen_index(folder / "pyserini")
    if kind == "npy":
        np.save(folder / "vectors.npy", np.asarray(VECTORS, variety.split()[0], order=variety.split()[1]))
        return open_frozen_index(folder / "vectors.npy", write_ids(folder))
    if kind == "parquet":
        kinds = {
            "list": pyarrow.list_(pyarrow.float32()),
            "fixed": pyarrow.list_(pyarrow.float16(), DIM),
            "large": pyarrow.large_list(pyarrow.float64()),
        }
        return open_frozen_index(write_parquet(folder / "vectors.parquet", kinds[variety]))
    factory, _, metric = variety.partition(" ")
    write_faiss(folder / "faiss", factory, metric or "INNER_PRODUCT")
    return open_frozen_index(folder / "faiss", write_ids(folder))


WHOLE = (
    *("vectors", "index Flat", "index HNSW32", "index IVF8,Flat", "pyserini Flat", "pyserini HNSW32"),
    *("npy float32 C", "npy float16 C", "npy float64 F", "npy >f4 C", "parquet list", "parquet fixed", "parquet large"),
    *("faiss Flat", "faiss Flat L2", "faiss HNSW32", "faiss IVF8,Flat", "faiss IVF8,Flat L2", "faiss IVF8,Flat,RFlat"),
)
EXACT = [layout for layout in WHOLE if "IVF" not in layout and "HNSW" not in layout]


@pytest.mark.parametrize("layout", WHOLE)
def test_every_layout_gives_the_matrix_it_was_made_of(tmp_path: Path, layout: str) -> None:
    index = made(tmp_path, layout)
    assert (len(index), index.dim, index.lost) == (N, DIM, "") and index.layout == layout.partition(" ")[0]
    assert list(index.docids) == DOCIDS
    for start, stop in ((0, N), (0, 1), (N - 3, N), (700, 800), (5, 5)):
        block_ND = index.block(start, stop)
        assert block_ND.dtype == np.float32 and block_ND.flags.aligned and np.array_equal(block_ND, VECTORS[start:stop])
    assert index.rows([DOCIDS[9], "none", DOCIDS[0]]).tolist() == [9, -1, 0]
    assert index.metric == ("L2" if layout.endswith("L2") else "inner product") and bool(index.remarks) == (
        index.metric == "L2"
    )
    assert index.encoder == (RECIPE if index.layout in ("vectors", "index") else None)


@pytest.mark.parametrize("layout", EXACT)
def test_exact_layouts_find_what_the_matrix_finds(tmp_path: Path, layout: str) -> None:
    found = made(tmp_path, layout).search(QUERIES, HITS)
    assert found.dtype == np.int64 and np.array_equal(found, ROWS)


@pytest.mark.parametrize("layout", ["npy float32 C", "index Flat", "faiss Flat", "faiss IVF8,Flat"])
def test_hits_that_are_not_there_are_minus_one(tmp_path: Path, layout: str) -> None:
    found = made(tmp_path, layout).search(QUERIES[:2], N + 2)
    assert found.shape == (2, N + 2) and (found[:, -2:] == -1).all()
    for rows in found:
        there = rows[rows >= 0]
        assert len(set(there.tolist())) == len(there) and (len(there) == N) == ("IVF" not in layout)
