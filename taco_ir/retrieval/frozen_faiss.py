"""Opens existing faiss indexes without changing them: our folders, Pyserini's folders, and single files.

An index that stores whole vectors in row order (Flat, HNSW, a refining Flat) is read in place; the files of Flat and
HNSW are memory-mapped. Other vectors are reconstructed once, when the index is opened, into an unnamed temporary file.
Searches use the index itself, with the parameters that were saved with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError
from taco_ir.core.typed import abbreviate
from taco_ir.core.types import Vectors
from taco_ir.retrieval.faiss_index import DenseIndex, flat_vectors
from taco_ir.retrieval.frozen_base import (
    INNER_PRODUCT,
    L2,
    NO_DOCIDS,
    ROWS,
    FrozenIndex,
    Matrix,
    blocks,
    check_finite,
    keep_on_disk,
    read_docids,
)

# L2 ranks by the inner product minus half the squared norm. If norms differ by at most this fraction, they change a
# score by at most this fraction of the squared norm.
ONE_NORM = 0.01
# First bytes of files that are mapped: Flat, and HNSW over Flat. faiss can map other files, too, but if such a file was
# cut, it does not notice this, or the process crashes. When it reads the file into memory, it reports an error.
MAPPED = (b"IxFI", b"IxF2", b"IxFl", b"IHNf")
IN_ROWS = ("IndexFlat", "IndexFlatIP", "IndexFlatL2")  # types that store whole vectors, one after the other
PROBES, PROBED_HITS = 16, 10  # queries and hits that compare an index's scores with exact ones
SAME_SCORE = 1e-3  # as a fraction of the largest score
REMEDY = "give the vectors as an .npy file, or a Flat index of them"
Labels = npt.NDArray[np.int64]


class _Ours(FrozenIndex):
    """An index that `python -m taco_ir.index` built. It is searched as by `python -m taco_ir.search`."""

    def __init__(self, path: Path) -> None:
        self._dense = dense = DenseIndex(path)
        vectors, lost = _content(path / "index", dense.index)
        docids = dense.docids[np.arange(len(dense.docids))].tolist()
        super().__init__(path, "index", vectors, docids, dense.recipe, lost=lost)

    def search(self, queries_BD: Vectors, hits: int) -> npt.NDArray[np.int64]:
        return self._rows_of(self._dense.search(np.asarray(queries_BD, dtype=np.float32), hits), hits)


class _Theirs(FrozenIndex):
    """A faiss index from any other tool."""

    def __init__(self, path: Path, layout: str, file: Path, docids: Sequence[str] | None) -> None:
        self._index = index = _read(file)
        self._file = file
        labels_N = _labels(file, index)
        self._rows = _numbering(labels_N)
        names = _names(file, docids, labels_N, int(index.ntotal))
        vectors, lost = _content(file, index, labels_N)
        remarks = _one_norm(file, vectors) if _metric(index) == L2 else ()
        super().__init__(path, layout, vectors, names, None, _metric(index), lost, remarks)

    def search(self, queries_BD: Vectors, hits: int) -> npt.NDArray[np.int64]:
        return self._rows(_search(self._file, self._index, queries_BD, hits)[1])


def open_ours(path: Path, docids: Path | None) -> FrozenIndex:  # noqa: ARG001 - a layout with docids of its own
    """Open an index that `python -m taco_ir.index` built. Raises: InputError if a file was cut or changed."""
    return _Ours(path)


def open_pyserini(path: Path, docids: Path | None) -> FrozenIndex:  # noqa: ARG001 - a layout with docids of its own
    """Open Pyserini's folder: faiss's `index`, and `docid`, one docid per line. Raises: InputError as in open_faiss."""
    return _Theirs(path, "pyserini", path / "index", read_docids(path / "docid"))


def open_faiss(path: Path, docids: Path | None) -> FrozenIndex:
    """Open a faiss file.

    If `docids` is given, the vector with id i has the docid in line i of this file, counted from 0 as in Pyserini.
    Without it, the ids in the index (IDMap, add_with_ids) are the docids.

    Raises:
        InputError: for a file that faiss cannot read, a binary index, vectors that cannot be reconstructed or are
            infinite or NaN, a wrong number of docids, or a metric that ranks differently from the inner product.
    """
    return _Theirs(path, "faiss", path, None if docids is None else read_docids(docids))


def _read(file: Path) -> Any:
    """Read a faiss file. Raises: InputError for a file that is not a supported index with vectors."""
    import faiss

    with file.open("rb") as source:
        kind = source.read(4)
    if kind.startswith(b"IB"):
        raise InputError(
            f"{file}: a binary faiss index ({kind.decode('ascii', 'replace')}); its vectors must be floats, not bits"
        )
    try:
        with _no_vector_beyond(file.stat().st_size):
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if kind in MAPPED else 0)
    except (RuntimeError, MemoryError) as error:
        raise InputError(
            f"{file}: faiss cannot read it ({_reason(error)}); it is damaged, cut short, or not a faiss index"
        ) from error
    if index is None or not index.ntotal:  # faiss reads "null" as no index
        raise InputError(f"{file}: this index has no vectors; add vectors to it")
    if not _metric(index):
        raise InputError(
            f"{file}: its metric is faiss metric number {index.metric_type}; only inner product and L2 are allowed"
        )
    return index


@contextmanager
def _no_vector_beyond(size: int) -> Iterator[None]:
    """Let faiss refuse an array larger than its file; otherwise, faiss would first fill the memory with zeros."""
    import faiss

    if not hasattr(faiss, "set_deserialization_vector_byte_limit"):  # an older faiss
        yield
        return
    usual = faiss.get_deserialization_vector_byte_limit()
    faiss.set_deserialization_vector_byte_limit(size)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(usual)


def _reason(error: Exception) -> str:
    """Return faiss's message without the place in its source code."""
    lines = str(error).strip().splitlines() or ["not enough memory"]
    return abbreviate(lines[-1].rpartition("Error: ")[2])


def _metric(index: Any) -> str:
    """Return the name of an index's metric; "" for a metric that is not allowed."""
    import faiss

    return {faiss.METRIC_INNER_PRODUCT: INNER_PRODUCT, faiss.METRIC_L2: L2}.get(index.metric_type, "")


def _one_norm(file: Path, vectors: Matrix) -> tuple[str]:
    """Return the remark that L2 ranks as the inner product. Raises: InputError if norms differ, so that it does not."""
    norms_N = np.concatenate([np.linalg.norm(block_ND, axis=1) for block_ND in blocks(vectors)])
    least, mean, most = norms_N.min(), norms_N.mean(), norms_N.max()
    if most - least > ONE_NORM * mean:
        raise InputError(
            f"{file}: it ranks by L2 distance and its vectors have norms of {least:.3g} to {most:.3g}, so its "
            "ranking differs from the inner product, which training uses; normalise the vectors, or build "
            "an inner product index"
        )
    return (f"it searches by L2, which ranks as the inner product here, since all vectors have the norm {mean:.3g}",)


def _labels(file: Path, index: Any) -> Labels | None:
    """Return the ids that the index gives to the vectors, by row; None if these are the row numbers."""
    import faiss

    if hasattr(index, "id_map"):
        labels_N = faiss.vector_to_array(index.id_map)
    elif (lists := faiss.try_extract_index_ivf(index)) is None:
        return None
    else:
        stored: Any = lists.invlists
        sizes = [(number, stored.list_size(number)) for number in range(lists.nlist)]
        parts = [faiss.rev_swig_ptr(stored.get_ids(number), size).copy() for number, size in sizes if size]
        labels_N = np.sort(np.concatenate([np.empty(0, np.int64), *parts]))
    if (different := len(np.unique(labels_N))) != index.ntotal or len(labels_N) != different:
        raise InputError(f"{file}: {index.ntotal:,} vectors, but only {different:,} different ids; ids must be unique")
    in_order = np.array_equal(labels_N, np.arange(index.ntotal))
    return None if in_order else labels_N


def _names(file: Path, docids: Sequence[str] | None, labels_N: Labels | None, count: int) -> Sequence[str]:
    """Return the docid of each row."""
    if docids is None:
        if labels_N is None:
            raise InputError(f"{file}: {NO_DOCIDS}")
        return [str(label) for label in labels_N.tolist()]
    if len(docids) != count:
        raise InputError(
            f"{file}: {count:,} vectors, but {len(docids):,} docids; one docid for each vector is needed, in the "
            "same order"
        )
    if labels_N is None:
        return docids
    if not np.array_equal(np.sort(labels_N), np.arange(count)):
        raise InputError(
            f"{file}: its vectors have their own ids, {labels_N.min()} to {labels_N.max()}, which are not line "
            "numbers of --docids; leave --docids out to use these ids as docids"
        )
    return [docids[label] for label in labels_N.tolist()]


def _numbering(labels_N: Labels | None) -> Callable[[Labels], Labels]:
    """Return a function from ids that a search finds to row numbers; -1 (no hit) stays -1."""
    if labels_N is None:
        return lambda found_BK: found_BK
    order_N = np.argsort(labels_N)
    sorted_N = labels_N[order_N]
    return lambda found_BK: np.where(found_BK < 0, -1, order_N[np.searchsorted(sorted_N, found_BK.clip(sorted_N[0]))])


def _content(file: Path, index: Any, labels_N: Labels | None = None) -> tuple[Matrix, str]:
    """Return the vectors of an index by row, and what their reconstruction loses, as in `FrozenIndex.lost`."""
    import faiss

    inner = faiss.downcast_index(index.index) if hasattr(index, "id_map") else index
    layers = list(_layers(inner))
    store, count = layers[-1], int(index.ntotal)
    if store.ntotal != count:
        raise InputError(f"{file}: it should have {count:,} vectors, but stores {store.ntotal:,}; the file is damaged")
    if type(store).__name__ in IN_ROWS and not any(hasattr(layer, "chain") for layer in layers):
        vectors = Matrix([flat_vectors(store, index)])
        for _ in check_finite(file, blocks(vectors), count):
            pass
        return vectors, ""
    keys_N = np.arange(count) if labels_N is None or inner is not index else labels_N
    losses = list(_losses(file, layers))
    rebuilt = check_finite(file, _rebuilt(file, inner, keys_N), count)
    vectors = keep_on_disk(rebuilt, count, int(index.d))
    return vectors, "; ".join(filter(None, [*losses, _gap(file, index, labels_N, vectors)]))


def _layers(index: Any) -> Iterator[Any]:
    """Yield an index and the indexes inside it (of a transformation, graph, refinement); the last stores vectors."""
    import faiss

    yield index
    for name in ("index", "storage", "refine_index"):  # of a transformation, a graph, a refinement
        if (below := getattr(index, name, None)) is not None and (name != "index" or hasattr(index, "chain")):
            yield from _layers(faiss.downcast_index(below))
            return


def _rebuilt(file: Path, index: Any, keys_N: Labels) -> Iterator[Vectors]:
    """Yield blocks of vectors, reconstructed by id. Raises: InputError for an index that cannot reconstruct them."""
    import faiss

    kind, kinds_of_map = type(index).__name__, getattr(faiss, "DirectMap")  # noqa: B009 - its stubs lack the name
    if (lists := faiss.try_extract_index_ivf(index)) is not None:
        kind = type(faiss.downcast_index(lists)).__name__
        if "FastScan" in kind:  # reconstruct() of these ends the process
            raise InputError(f"{file}: faiss cannot reconstruct vectors from an index of type {kind}; {REMEDY}")
        in_order = keys_N[0] == 0 and keys_N[-1] == len(keys_N) - 1
        lists.set_direct_map_type(kinds_of_map.Array if in_order else kinds_of_map.Hashtable)
    for start in range(0, len(keys_N), ROWS):
        try:
            yield index.reconstruct_batch(keys_N[start : start + ROWS])
        except RuntimeError as error:
            raise InputError(
                f"{file}: faiss cannot reconstruct its vectors ({kind}: {_reason(error)}); {REMEDY}"
            ) from error


def _losses(file: Path, layers: Sequence[Any]) -> Iterator[str]:
    """Yield sentences on what the codes of an index lose of its vectors; none if the vectors are stored whole.

    Raises:
        InputError: for a transformation that cannot be undone.
    """
    import faiss

    store = layers[-1]
    for layer, below in pairwise(layers):
        chain, wide = getattr(layer, "chain", None), int(layer.d)
        for step in map(faiss.downcast_VectorTransform, map(chain.at, range(chain.size())) if chain else ()):
            kind, widths, wide = type(step).__name__, (wide, step.d_in), int(step.d_out)
            if widths[0] != widths[1] or (hasattr(step, "A") and not _fits(step)):
                raise InputError(f"{file}: its {kind} does not fit the other parts; the file is damaged")
            if hasattr(step, "A") and not _turns(step):
                raise InputError(
                    f"{file}: faiss cannot reconstruct vectors from its {kind}, which rescales them; {REMEDY}"
                )
            if step.d_out < step.d_in:
                yield f"{step.d_out} of {step.d_in} dimensions are kept ({kind})"
        if wide != below.d:
            raise InputError(f"{file}: its parts have {wide} and {below.d} dimensions; the file is damaged")
    width, whole = int(getattr(store, "code_size", 0)), 4 * int(store.d)
    if width < whole:
        bits = getattr(getattr(store, "sq", None), "bits", 0)
        steps = f", each number in {bits} bits" if bits else ""
        codes = f"{width} bytes each instead of {whole}" if width else "codes"
        yield f"vectors are rebuilt from {codes}{steps} ({type(store).__name__})"


def _fits(step: Any) -> bool:
    """Whether a linear transformation has as many numbers as its dimensions need; faiss does not check this."""
    return step.A.size() == step.d_in * step.d_out and (not step.have_bias or step.b.size() == step.d_out)


def _turns(step: Any) -> bool:
    """Whether a linear map has orthonormal rows, so that its transpose undoes it. faiss's own flag can be wrong."""
    import faiss

    turned = faiss.vector_to_array(step.A).reshape(step.d_out, step.d_in)
    return bool(np.allclose(turned @ turned.T, np.eye(step.d_out), atol=1e-3))


def _search(file: Path, index: Any, queries_BD: Vectors, hits: int) -> tuple[Vectors, Labels]:
    """Return scores and ids of the hits that faiss finds. Raises: InputError for an index that cannot be searched."""
    try:
        scores_BK, found_BK = index.search(np.ascontiguousarray(queries_BD, dtype=np.float32), hits)
    except RuntimeError as error:
        raise InputError(f"{file}: faiss cannot search it ({_reason(error)}); the file is damaged") from error
    return scores_BK, found_BK


def _gap(file: Path, index: Any, labels_N: Labels | None, vectors: Matrix) -> str:
    """Describe how far the index's scores are from exact scores of its reconstructed vectors; "" if they are equal."""
    queries_BD = vectors[np.linspace(0, len(vectors) - 1, PROBES).astype(np.int64)]
    scores_BK, found_BK = _search(file, index, queries_BD, min(PROBED_HITS, len(vectors)))
    rows_BK, largest = _numbering(labels_N)(found_BK), 0.0
    for query_D, scores_K, rows_K in zip(queries_BD, scores_BK, rows_BK, strict=True):
        there = rows_K >= 0
        hits_KD = vectors[rows_K[there]]
        exact_K = hits_KD @ query_D if _metric(index) == INNER_PRODUCT else ((hits_KD - query_D) ** 2).sum(axis=1)
        largest = max(largest, float(np.abs(exact_K - scores_K[there]).max(initial=0)))
    if largest <= SAME_SCORE * float((queries_BD**2).sum(axis=1).max()):
        return ""
    return f"the scores of its own search are up to {largest:.2g} away from those of the rebuilt vectors"
