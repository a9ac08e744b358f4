"""Builds and searches faiss indexes of passage vectors. A folder has Pyserini's `index` and `docid`, and a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError, read_json, require_space, write_json, writing_folder
from taco_ir.core.hashes import FileFacts, check_files, describe_files, fingerprint
from taco_ir.core.types import Encoder, Ranking, Vectors
from taco_ir.retrieval.exact_search import ROWS, exact_search, longest_norm, rounding
from taco_ir.retrieval.on_disk import LISTS, read_lists, require_lists, write_lists
from taco_ir.retrieval.recall import IVF, Effort, Knob, choose_effort, spread
from taco_ir.retrieval.vectors import Lines, Recipe, VectorSet

if TYPE_CHECKING:
    import faiss

FILES, REMEDY = ("index", "docid"), "build the index again"
TRAINING_ROWS = 262_144  # maximum number of vectors that train an index (IVF, SQ)
MIN_EF, EF_PER_HIT = 64, 2  # HNSW: candidates kept while searching
PROBED_SHARE, MIN_PROBED = 16, 8  # IVF: one list in this many is searched, and at least this many lists
FOUND_AT_ONCE = 1 << 22  # hits that an approximate index returns at once
GRAPH_BYTES = 272  # bytes of the graph of HNSW32, for each vector
FEW = 4  # maximum number of queries for a scan of a Flat index in bytes, from the second such search on
SCAN_BYTES = 1 << 29  # maximum memory of the vectors in bytes
SPARE, MULTIPLES = 64, (5, 40)  # a scan finds 5 * hits + SPARE vectors, then 40 * hits if more scores are close


class Manifest(NamedTuple):
    """The content of a dense index's manifest.json: how vectors were made, faiss factory string, hashes of files."""

    recipe: Recipe
    factory: str
    files: dict[str, FileFacts]

    @property
    def on_disk(self) -> bool:
        """Whether the lists of an IVF index are in a separate file."""
        return LISTS in self.files


def build_index(
    vectors: VectorSet,
    output: Path,
    factory: str = "Flat",
    report: Callable[[int], None] = lambda _: None,
    on_disk: bool = False,
) -> None:
    """Build a faiss index of encoded passages, and write it to a folder. A failed build leaves no folder.

    Args:
        factory: a string for faiss.index_factory, such as Flat (exact), HNSW32, SQ8 or IVF1024,SQ8. The metric is the
            inner product.
        report: function to call with the number of vectors read so far.
        on_disk: write the lists of an IVF index to a separate file, and search them there without loading them.

    Raises:
        InputError: for a factory string that faiss refuses or that has no lists for `on_disk`, too few vectors to train
            the index, a block that was cut or altered, or too little disk space.
    """
    import faiss

    recipe = vectors.recipe
    try:
        index = faiss.index_factory(recipe.dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].rpartition(": ")[2]
        raise InputError(
            f"--factory {factory!r}: faiss cannot read this string ({reason}); examples: Flat, HNSW32, 'IVF1024,SQ8'"
        ) from error
    if on_disk:
        require_lists(index, factory)
    require_space(output, recipe.passages * _row_bytes(index) * (1 + on_disk))
    if not index.is_trained:
        try:
            index.train(_training_sample(vectors))
        except RuntimeError as error:
            raise InputError(
                f"--factory {factory!r}: {recipe.passages:,} vectors are too few to train this index; use Flat"
            ) from error
    with writing_folder(output) as folder:
        with (folder / "docid").open("w", encoding="utf-8") as sink:
            blocks = _blocks(vectors, sink, report)
            try:
                if on_disk:
                    write_lists(index, blocks, folder)
                else:
                    for block_ND in blocks:
                        index.add(block_ND)
            except RuntimeError as error:
                reason = str(error).rpartition(": ")[2]
                full = f"{output}: the index's lists could not be written (is the disk full?)"
                refused = f"--factory {factory!r}: vectors cannot be added to this index ({reason}); give another"
                raise InputError(full if on_disk else refused) from error
        try:
            faiss.write_index(index, str(folder / "index"))
        except RuntimeError as error:
            raise InputError(f"{output}: the index could not be written (is the disk full?)") from error
        files = describe_files(folder, (*FILES, *[LISTS] * on_disk))
        manifest = {"recipe": recipe._asdict(), "factory": factory, "files": files}
        write_json(folder / "manifest.json", manifest)


def _blocks(vectors: VectorSet, docids: IO[str], report: Callable[[int], None]) -> Iterator[Vectors]:
    """Yield blocks of vectors in float32, write their docids to `docids`, and report the number of vectors so far."""
    done = 0
    for vectors_ND, names in vectors.blocks():
        yield np.ascontiguousarray(vectors_ND, dtype=np.float32)
        docids.writelines(f"{name}\n" for name in names)
        done += len(names)
        report(done)


def _row_bytes(index: faiss.Index) -> int:
    """Estimate the number of bytes that a vector takes in `index`."""
    try:
        return int(index.sa_code_size())
    except RuntimeError:  # graphs have no codes
        return int(index.d) * 4 + GRAPH_BYTES


def _training_sample(vectors: VectorSet) -> Vectors:
    step = max(1, -(-vectors.recipe.passages // TRAINING_ROWS))
    counts = [-(-rows // step) for rows in vectors.block_rows]
    sample_ND, stop = np.empty((sum(counts), vectors.recipe.dim), dtype=np.float32), 0
    for (vectors_ND, _), count in zip(vectors.blocks(), counts, strict=True):
        start, stop = stop, stop + count
        sample_ND[start:stop] = vectors_ND[::step]
    return sample_ND


def require_index(folder: Path) -> Path:
    """Return the path of the manifest of a dense index. Raises: InputError if the folder has no manifest."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise InputError(f"--index {folder}: no manifest.json; build an index with `python -m taco_ir.index`")
    return path


class DenseIndex:
    """A dense index opened for search.

    A Flat index is searched in its memory-mapped file, and so are IVF lists on disk. Both may be larger than memory.

    Attributes:
        index: the faiss index.
        effort: how far an approximate index searches; None: a default that depends on the type of index.
        docids: docids by row, as an array or, if the lists are on disk, read from the file.

    Raises:
        InputError: on opening, if the folder has no manifest, if a file was cut or altered, or if another encoder or
            another collection made the index.
    """

    def __init__(self, folder: Path, encoder: Encoder | None = None, collection: str | None = None) -> None:
        import faiss

        path = require_index(folder)
        self.manifest = read_json(path, Manifest, REMEDY)
        self.recipe, flat = self.manifest.recipe, self.manifest.factory == "Flat"
        self._files, on_disk = (*FILES, *[LISTS] * self.manifest.on_disk), self.manifest.on_disk
        check_files(folder, self.manifest.files, self._files, REMEDY)
        self.recipe.require(f"--index {folder}", encoder, collection)
        try:
            flags = faiss.IO_FLAG_MMAP_IFC if flat else 0
            self.index: Any = read_lists(folder) if on_disk else faiss.read_index(str(folder / "index"), flags)
            self._vectors_ND = flat_vectors(self.index) if flat else None
        except (RuntimeError, AttributeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"{folder / 'index'}: faiss cannot read it ({reason}); {REMEDY}") from error
        docids = folder / "docid"
        self.docids: Any = (
            Lines(docids) if on_disk else np.array(docids.read_text(encoding="utf-8").splitlines(), dtype=object)
        )
        self.effort = Effort.read(folder)
        self._searched_few = False
        self._scan: ByteScan | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of the index without its docids, from the hashes in its manifest."""
        hashes = [self.manifest.files[name].sha256 for name in self._files if name != "docid"]
        return fingerprint(hashes) if self.manifest.on_disk else hashes[0][:16]

    def verify(self, folder: Path) -> None:
        """Compare all files with the hashes in the manifest. Raises: InputError naming a file that was changed."""
        check_files(folder, self.manifest.files, self._files, REMEDY, anew=True)

    def reach(self, recall: float, queries_BD: Vectors, hits: int, folder: Path) -> None:
        """Choose how far to search to reach a recall on a sample of `queries_BD`; store this in the index's `folder`.

        Raises:
            InputError: for an index that always searches all vectors, or a recall that the index cannot reach.
        """
        sample_BD = np.asarray(queries_BD[spread(len(queries_BD))], dtype=np.float32)
        self.effort = choose_effort(self.index, str(folder), sample_BD, hits, recall)
        self.effort.write(folder)

    def search(self, queries_BD: Vectors, hits: int) -> list[Ranking]:
        """Find the `hits` passages with the largest inner products for each query; approximate indexes may find fewer.

        Passages with equal scores are ordered by docid, descending, also at the last hit: among all passages in an
        exact index, and among the candidates in an approximate one. A query's hits do not depend on the other queries,
        except through faiss's rounding.
        """
        if self._vectors_ND is not None:
            queries_BD = np.ascontiguousarray(queries_BD, dtype=np.float32)
            if len(queries_BD) <= FEW and (few := self._search_few(queries_BD, self._vectors_ND, hits)):
                return few
            return list(exact_search(queries_BD, self._vectors_ND, self.docids, hits))
        _widen(self.index, hits, self.effort)
        found: dict[int, Ranking] = {}
        open_, asked = np.arange(len(queries_BD)), min(hits + 1, len(self.docids))
        while len(open_):
            tied: list[int] = []
            for start in range(0, len(open_), step := max(1, FOUND_AT_ONCE // asked)):
                part = open_[start : start + step]
                scores_BK, rows_BK = self.index.search(np.ascontiguousarray(queries_BD[part]), asked)
                for query, scores_K, rows_K in zip(part.tolist(), scores_BK, rows_BK, strict=True):
                    there = rows_K >= 0
                    if asked < len(self.docids) and there[-1] and scores_K[-1] == scores_K[hits - 1]:
                        tied.append(query)  # more passages may tie with the last hit
                    else:
                        found[query] = Ranking.of(self.docids[rows_K[there]].tolist(), scores_K[there]).top(hits)
            open_, asked = np.array(tied, dtype=np.intp), min(2 * asked, len(self.docids))
        return [found[query] for query in range(len(queries_BD))]

    def _search_few(self, queries_BD: Vectors, vectors_ND: Vectors, hits: int) -> list[Ranking] | None:
        """As `exact_search`, but faster for few queries that come repeatedly; None if `exact_search` is needed."""
        if not self._searched_few or vectors_ND.size > SCAN_BYTES:
            self._searched_few = True
            return None
        self._scan = self._scan or ByteScan(vectors_ND)
        found = []
        for query_D in queries_BD:
            if (rows_K := self._scan.candidates(query_D, hits)) is None:
                return None
            score_K = (query_D.astype(np.float64) * vectors_ND[rows_K]).sum(1)
            found.append(Ranking.of(self.docids[rows_K].tolist(), score_K).top(hits))
        return found


class ByteScan:
    """A copy of the vectors in one byte a number, scanned for one query at a time.

    Reading vectors takes most of the time, and these are a quarter as large; each thread scans its own part. The scan
    finds all vectors that may be among the best, using a bound on rounding errors; then their scores are computed
    exactly. Memory: D N bytes.
    """

    def __init__(self, vectors_ND: Vectors) -> None:
        import faiss

        dim, longest, lost = vectors_ND.shape[1], 0.0, 0.0
        self._index = faiss.IndexShards(dim, True)  # each part in a thread of its own
        parts = min(faiss.omp_get_max_threads(), -(-len(vectors_ND) // ROWS))
        for part_ND in np.array_split(vectors_ND, parts):
            part = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
            part.train(part_ND)
            for start in range(0, len(part_ND), ROWS):
                block_ND = np.ascontiguousarray(part_ND[start : start + ROWS])
                part.add(block_ND)
                change_ND = part.reconstruct_n(start, len(block_ND)) - block_ND
                longest, lost = max(longest, longest_norm(block_ND)), max(lost, longest_norm(change_ND))
            self._index.add_shard(part)
        self._margin = 2 * lost + rounding(dim) * (longest + lost)  # of two scores, for a query of length 1

    def candidates(self, query_D: Vectors, hits: int) -> npt.NDArray[np.int64] | None:
        """Return the rows of all vectors that may be among the `hits` best for a query; None if these are too many."""
        margin = self._margin * float(np.linalg.norm(query_D.astype(np.float64)))
        for multiple in MULTIPLES:
            asked = min(multiple * hits + SPARE, self._index.ntotal)
            ((score_K,), (row_K,)) = self._index.search(query_D[None], asked)
            least = score_K[min(hits, asked) - 1] - margin
            if np.isfinite(least) and (asked == self._index.ntotal or score_K[-1] < least):
                rows_K: npt.NDArray[np.int64] = row_K[score_K >= least]
                return rows_K
        return None


class _Stored:
    """Lets numpy read a Flat index's vectors without a copy; keeps `owner` in memory as long as the array exists."""

    def __init__(self, index: Any, owner: Any) -> None:
        self._owner = owner
        place = (int(index.get_xb()), True)  # read-only
        self.__array_interface__ = {"data": place, "shape": (index.ntotal, index.d), "typestr": "<f4", "version": 3}


def flat_vectors(index: Any, owner: Any = None) -> Vectors:
    """Return a Flat index's vectors without a copy: float32 [N, D], read-only. `owner`: an index around `index`."""
    vectors_ND: Vectors = np.asarray(_Stored(index, index if owner is None else owner))
    return vectors_ND


def _widen(index: faiss.Index, hits: int, effort: Effort | None) -> None:
    """Set how far an approximate index searches: as chosen for a recall, or a default for the type of index."""
    if knob := Knob.of(index):
        usual = max(MIN_EF, EF_PER_HIT * hits)
        if knob.parameter == IVF:
            usual = max(min(MIN_PROBED, knob.most), knob.most // PROBED_SHARE)
        chosen = effort.value if effort and effort.parameter == knob.parameter else 0
        knob.turn(chosen if effort and chosen and hits <= effort.hits else max(usual, chosen))
