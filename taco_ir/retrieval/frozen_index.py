"""Opens an existing index only for reading, and checks whether an encoder made its vectors.

    our vectors     DIR/shard-i-of-n/manifest.json      what `python -m taco_ir.encode` writes
    our index       DIR/manifest.json, DIR/index        what `python -m taco_ir.index` builds
    Pyserini        DIR/index, DIR/docid                faiss's format, one docid per line
    faiss           FILE and --docids                   Flat, HNSW, IVF, PQ, SQ; IDMap and transformations around them
    npy             FILE and --docids                   a matrix of float16, float32 or float64
    parquet         FILE                                a column of lists of floats, and a column of docids

The layout is recognised by the files in a folder, or by the first bytes of a file, not by the file's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from taco_ir.core import resolve
from taco_ir.core.files import InputError
from taco_ir.core.types import Encoder, Passage, Vectors
from taco_ir.retrieval.frozen_base import NO_DOCIDS, FrozenIndex

# Minimum of the median cosine. With MiniLM-L6's vectors, ten passages have .97 without titles and .90 when cut to 200
# characters, but .45 to .58 with another pooling, and .21 to .31 with MiniLM-L3; PQ48 has .82, PQ12 .52, PQ8 .46.
LEAST, LEAST_REBUILT = 0.8, 0.4
TINY = 1e-30


class Layout(NamedTuple):
    """A layout of indexes on disk.

    Attributes:
        is_there: function that tells whether a path has this layout, from the path and the first bytes of a file.
        opener: the function that opens an index of this layout, as "module:name".
        docids: "own": the index contains docids; "must": --docids must provide them; "may": both are possible.
    """

    is_there: Callable[[Path, bytes], bool]
    opener: str
    docids: Literal["own", "may", "must"] = "own"


def _holds(*names: str, without: str = "") -> Callable[[Path, bytes], bool]:
    return lambda path, _: all(any(path.glob(name)) for name in names) and not (without and (path / without).exists())


def _begins(magic: bytes) -> Callable[[Path, bytes], bool]:
    return lambda _, first: first.startswith(magic)


LAYOUTS = {
    "vectors": Layout(_holds("shard-*/manifest.json"), "taco_ir.retrieval.frozen_matrices:open_vectors"),
    "index": Layout(_holds("manifest.json", "index"), "taco_ir.retrieval.frozen_faiss:open_ours"),
    "pyserini": Layout(
        _holds("index", "docid", without="manifest.json"), "taco_ir.retrieval.frozen_faiss:open_pyserini"
    ),
    "faiss": Layout(_begins(b"I"), "taco_ir.retrieval.frozen_faiss:open_faiss", "may"),
    "npy": Layout(_begins(b"\x93NUMPY"), "taco_ir.retrieval.frozen_matrices:open_npy", "must"),
    "parquet": Layout(_begins(b"PAR1"), "taco_ir.retrieval.frozen_matrices:open_parquet", "may"),
}
FOLDERS = "shard-i-of-n (our vectors), manifest.json with index (our index), index with docid (Pyserini)"
FILES = "faiss index, .npy matrix, parquet file"
NEVER = {b"\x80": "a pickle, which is never read", b"PK": "an archive (.npz, .pt); save the matrix alone by numpy.save"}


def open_frozen_index(path: Path, docids: Path | None = None) -> FrozenIndex:
    """Open an existing index, made by any tool, for reading.

    Args:
        path: a folder or a file in one of the `LAYOUTS`.
        docids: for an index without docids, a file with one docid per line, in the order of the vectors.

    Raises:
        InputError: if the path has none or several of these layouts, the index is damaged, the docids do not fit,
            vectors cannot be reconstructed or are infinite or NaN, or the metric ranks differently from the inner
            product.
    """
    if not path.exists():
        raise InputError(f"--index {path}: no such file or folder; give a folder with {FOLDERS}, or a {FILES}")
    first = b""
    if path.is_file():
        with path.open("rb") as source:
            first = source.read(8)
    found = [name for name, layout in LAYOUTS.items() if layout.is_there(path, first)]
    if len(found) != 1:
        raise InputError(f"--index {path}: {_none_or_many(path, first, found)}")
    layout = LAYOUTS[found[0]]
    if docids is not None and layout.docids == "own":
        raise InputError(f"--docids {docids}: {path} already contains docids; leave --docids out")
    if docids is None and layout.docids == "must":
        raise InputError(f"{path}: {NO_DOCIDS}")
    index: FrozenIndex = resolve(layout.opener)(path, docids)
    return index


def _none_or_many(path: Path, first: bytes, found: Sequence[str]) -> str:
    if found:
        return f"it has files of several layouts ({', '.join(found)}); give a folder with one"
    if path.is_dir():
        return f"this folder has no index, which would be {FOLDERS}; for a {FILES}, give the file"
    never = next((what for begin, what in NEVER.items() if first.startswith(begin)), f"it begins with {first!r}")
    return f"this file is none of {FILES}: {never}"


def compare_texts(index: FrozenIndex, encoder: Encoder, passages: Sequence[Passage]) -> Vectors:
    """Compare an index's vectors of some passages with an encoder's vectors: cosines, float32 [n].

    Passages that are not in the index are left out. Ten passages are enough: if the encoder made the vectors, all
    cosines are near 1.

    Raises:
        InputError: if the encoder's vectors have another width or clearly differ from the index's vectors, or if none
            of the passages is in the index.
    """
    if encoder.dim != index.dim:
        raise InputError(
            f"{index.path}: it has {index.dim} dimensions, the encoder {encoder.dim}; give the encoder that made it"
        )
    rows_N = index.rows([passage.docid for passage in passages])
    known = [passage for passage, row in zip(passages, rows_N, strict=True) if row >= 0]
    if not known:
        raise InputError(f"{index.path}: it has none of the {len(passages)} passages; give passages of its collection")
    stored_ND = np.concatenate([index.block(row, row + 1) for row in rows_N[rows_N >= 0].tolist()])
    made_ND = encoder.encode_passages(known)
    norms_N = np.linalg.norm(stored_ND, axis=1) * np.linalg.norm(made_ND, axis=1)
    cosines_N: Vectors = ((stored_ND * made_ND).sum(axis=1) / np.maximum(norms_N, TINY)).astype(np.float32)
    least = LEAST_REBUILT if index.lost else LEAST
    if (middle := float(np.median(cosines_N))) < least:
        raise InputError(
            f"{index.path}: for {len(known)} passages, its vectors differ from those of this encoder (median "
            f"cosine {middle:.3f}, at least {least} is expected); give the encoder, pooling and template that the "
            "index was made with"
        )
    return cosines_N
