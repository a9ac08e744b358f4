"""An index that stays gives the rows, docids and hits of the matrix it was made of, in every layout; the rest is told.

Vectors are normalised, so that L2 and the inner product agree, and rounded to float16, so that our blocks are exact.
"""

from __future__ import annotations

import pickle
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taco_ir.core.files import InputError
from taco_ir.core.types import Passage, Vectors
from taco_ir.retrieval.faiss_index import build_index
from taco_ir.retrieval.frozen_base import FrozenIndex
from taco_ir.retrieval.frozen_index import compare_texts, open_frozen_index
from taco_ir.retrieval.recall import Effort
from taco_ir.retrieval.vectors import Recipe, Shard, ShardWriter, VectorSet

N, DIM, HITS = 1500, 16, 7
DOCIDS = [f"{row * 7919 % N}#{row % 3}" for row in range(N)]
DRAWN = np.random.default_rng(0).standard_normal((N, DIM))
ROW = {docid: row for row, docid in enumerate(DOCIDS)}
VECTORS = (DRAWN / np.linalg.norm(DRAWN, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
QUERIES = np.random.default_rng(1).standard_normal((20, DIM)).astype(np.float32)
ROWS = np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :HITS]
RECIPE = Recipe("collection-1", N, "fake", "encoder-1", "{text}", DIM)
Opened = Callable[[], FrozenIndex]


def passages(docids: Sequence[str]) -> list[Passage]:
    return [Passage(docid, docid, "", "") for docid in docids]


def write_ids(folder: Path, docids: Sequence[str] = DOCIDS) -> Path:
    path = folder / "ids.txt"
    path.write_text("".join(f"{docid}\n" for docid in docids))
    return path


def write_faiss(
    path: Path, factory: str, metric: str = "INNER_PRODUCT", ids: Any = None, vectors_ND: Vectors = VECTORS
) -> Any:
    """Write an index; faiss's own."""
    import faiss

    index = faiss.index_factory(DIM, factory, getattr(faiss, f"METRIC_{metric}"))
    index.train(vectors_ND)
    if ids is None:
        index.add(vectors_ND)
    else:
        index.add_with_ids(vectors_ND, ids)
    path.parent.mkdir(exist_ok=True)
    faiss.write_index(index, str(path))
    return index


def write_vectors(folder: Path) -> VectorSet:
    def encode(passages: list[Passage]) -> Vectors:
        return VECTORS[[ROW[passage.docid] for passage in passages]]

    for number in (1, 2):
        writer = ShardWriter(folder, Shard(number, 2), RECIPE)
        writer.write(passages(DOCIDS[writer.rows.start : writer.rows.stop]), encode, lambda _: None)
    return VectorSet(folder)


def write_parquet(path: Path, kind: Any, vectors: Any = VECTORS, **more: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    columns = more or {"docid": DOCIDS, "title": [""] * N}
    lists = [each if each is None else list(map(float, each)) for each in vectors]
    pyarrow.parquet.write_table(pyarrow.table({**columns, "vector": pyarrow.array(lists, kind)}), path, 700)
    return path


def made(folder: Path, layout: str, vectors_ND: Vectors = VECTORS, docids: Sequence[str] = DOCIDS) -> FrozenIndex:
    """An index in a layout, or in a variety of one; ours are those of VECTORS and DOCIDS."""
    import pyarrow

    kind, _, variety = layout.partition(" ")
    if kind == "vectors":
        write_vectors(folder / "vectors")
        return open_frozen_index(folder / "vectors")
    if kind == "index":
        build_index(write_vectors(folder / "vectors"), folder / "index", variety)
        return open_frozen_index(folder / "index")
    if kind == "pyserini":
        write_faiss(folder / "pyserini" / "index", variety, vectors_ND=vectors_ND)
        write_ids(folder / "pyserini", docids).rename(folder / "pyserini" / "docid")
        return open_frozen_index(folder / "pyserini")
    if kind == "npy":
        np.save(folder / "vectors.npy", np.asarray(vectors_ND, variety.split()[0], order=variety.split()[1]))
        return open_frozen_index(folder / "vectors.npy", write_ids(folder, docids))
    if kind == "parquet":
        kinds = {
            "list": pyarrow.list_(pyarrow.float32()),
            "fixed": pyarrow.list_(pyarrow.float16(), DIM),
            "large": pyarrow.large_list(pyarrow.float64()),
        }
        return open_frozen_index(write_parquet(folder / "vectors.parquet", kinds[variety], vectors_ND))
    factory, _, metric = variety.partition(" ")
    write_faiss(folder / "faiss", factory, metric or "INNER_PRODUCT", vectors_ND=vectors_ND)
    return open_frozen_index(folder / "faiss", write_ids(folder, docids))


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


def test_more_blocks_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr("taco_ir.retrieval.vectors.BLOCK_ROWS", 4)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        index = made(tmp_path, "vectors")
        assert np.array_equal(index.block(0, N), VECTORS) and np.array_equal(index.search(QUERIES, HITS), ROWS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


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


@pytest.mark.parametrize("around", ["IDMap,Flat", "IDMap2,Flat", "IDMap,SQ8", "IVF8,Flat", "IDMap,IVF8,Flat"])
def test_ids_inside_an_index_are_docids_or_lines_of_them(tmp_path: Path, around: str) -> None:
    """The hits of faiss are ids; a row is where a vector stands, in the order of ids where it stands in a list."""
    import faiss

    own = np.random.default_rng(2).permutation(N)
    write_faiss(tmp_path / "lines", around, ids=own)
    write_faiss(tmp_path / "free", around, ids=3 * own + 5)
    lines, free = open_frozen_index(tmp_path / "lines", write_ids(tmp_path)), open_frozen_index(tmp_path / "free")
    of_id = {int(label): vector_D for label, vector_D in zip(own, VECTORS, strict=True)}
    tolerance = 0.02 if "SQ8" in around else 0
    for row in range(0, N, 97):
        label = DOCIDS.index(lines.docids[row])
        assert np.allclose(lines.block(row, row + 1)[0], of_id[label], atol=tolerance)
        assert np.allclose(free.block(row, row + 1)[0], of_id[(int(free.docids[row]) - 5) // 3], atol=tolerance)
    plain = faiss.read_index(str(tmp_path / "free")).search(QUERIES, HITS)[1]
    assert [[int(free.docids[row]) for row in rows] for rows in free.search(QUERIES, HITS)] == plain.tolist()
    with pytest.raises(InputError, match=r"free: its vectors have their own ids, 5 to \d+, .*; leave --docids out"):
        open_frozen_index(tmp_path / "free", write_ids(tmp_path))


@pytest.mark.parametrize(
    ("factory", "said", "step"),
    [
        ("SQ8", "from 16 bytes each instead of 64, each number in 8 bits (IndexScalarQuantizer)", 1 / 255),
        ("SQ4", "from 8 bytes each instead of 64, each number in 4 bits (IndexScalarQuantizer)", 1 / 15),
        ("SQfp16", "from 32 bytes each instead of 64, each number in 16 bits (IndexScalarQuantizer)", 0),
        ("HNSW32_SQ8", "from 16 bytes each instead of 64, each number in 8 bits (IndexScalarQuantizer)", 1 / 255),
        ("IVF8,SQ8", "from 16 bytes each instead of 64, each number in 8 bits (IndexIVFScalarQuantizer)", 2 / 255),
        ("PQ4x4", "from 2 bytes each instead of 64 (IndexPQ)", 1),
        ("IVF8,PQ4x4", "from 2 bytes each instead of 64 (IndexIVFPQ)", 1),
        ("OPQ4,PQ4x4", "from 2 bytes each instead of 64 (IndexPQ)", 1),
        ("PCA8,SQ8", "8 of 16 dimensions are kept (PCAMatrix); vectors are rebuilt from 8 bytes each instead of 32", 1),
    ],
)
def test_what_codes_lose_is_told_and_lost(tmp_path: Path, factory: str, said: str, step: float) -> None:
    """Rows are what faiss rebuilds; a number in b bits is off by half a step of its range at most.

    An IVF stores differences from centres, which range further.
    """
    index = made(tmp_path, f"faiss {factory}")
    assert said in index.lost
    rebuilt_ND, range_D = index.block(0, N), VECTORS.max(axis=0) - VECTORS.min(axis=0)
    apart = float((np.abs(rebuilt_ND - VECTORS) / range_D).max())
    assert apart <= 0.51 * step if step < 1 else apart > 1 / 15
    assert apart > 0 or factory == "SQfp16"
    if not factory.startswith("PCA"):  # what is trained on is what the index itself scores
        assert "scores of its own search" not in index.lost
        best = index.search(rebuilt_ND[:50], 1)[:, 0]
        scores = (rebuilt_ND[:50] * index.block(0, N)[best]).sum(axis=1)
        assert (scores >= (rebuilt_ND[:50] ** 2).sum(axis=1) - 1e-4).all()


def test_scores_that_are_not_those_of_rebuilt_vectors_are_told(tmp_path: Path) -> None:
    """PCA turns about the mean, which an inner product sees; the sentence says by how much."""
    import faiss

    shifted = write_faiss(tmp_path / "faiss", "PCA16,Flat")
    index = open_frozen_index(tmp_path / "faiss", write_ids(tmp_path))
    np.testing.assert_allclose(index.block(0, N), VECTORS, atol=1e-5)
    own, rows = shifted.search(QUERIES, 1)
    assert isinstance(shifted, faiss.IndexPreTransform)
    apart = np.abs((QUERIES * VECTORS[rows[:, 0]]).sum(axis=1) - own[:, 0]).max()
    said = re.fullmatch(
        r"the scores of its own search are up to (\S+) away from those of the rebuilt vectors", index.lost
    )
    assert said and apart / 10 < float(said[1]) < 10 * apart


@pytest.mark.parametrize(
    ("factory", "metric", "said"),
    [
        ("IVF8,PQ4x4fs", "INNER_PRODUCT", "faiss cannot reconstruct vectors from an index of type IndexIVFPQFastScan"),
        ("PCAW8,Flat", "INNER_PRODUCT", "faiss cannot reconstruct vectors from its PCAMatrix, which rescales"),
        ("Flat", "L1", "its metric is faiss metric number 2; only inner product and L2"),
        ("PQ4x4", "L2", "it ranks by L2 distance and its vectors have norms of "),
    ],
)
def test_an_index_that_cannot_serve_is_refused(tmp_path: Path, factory: str, metric: str, said: str) -> None:
    with pytest.raises(InputError, match=f"^{tmp_path / 'faiss'}: {re.escape(said)}"):
        made(tmp_path, f"faiss {factory} {metric}")


def test_bits_and_an_empty_index_are_refused(tmp_path: Path) -> None:
    import faiss

    faiss.write_index_binary(faiss.IndexBinaryFlat(64), str(tmp_path / "bits"))
    faiss.write_index(faiss.IndexFlatIP(DIM), str(tmp_path / "empty"))
    with pytest.raises(InputError, match="bits: a binary faiss index .IBxF.; its vectors must be floats"):
        open_frozen_index(tmp_path / "bits", write_ids(tmp_path))
    with pytest.raises(InputError, match="empty: this index has no vectors"):
        open_frozen_index(tmp_path / "empty", write_ids(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "index").write_bytes(b"null")  # what faiss writes for no index, and reads as none
    (tmp_path / "theirs" / "docid").write_text("a\n")
    with pytest.raises(InputError, match="index: this index has no vectors"):
        open_frozen_index(tmp_path / "theirs")


CUT = ("faiss Flat", "faiss HNSW32", "faiss IVF8,Flat", "faiss PQ4x4", "faiss OPQ4,IVF8,PQ4x4", "faiss HNSW32_SQ8")


@pytest.mark.parametrize("layout", [*CUT, "npy float32 C", "parquet list"])
def test_cut_files_are_one_line(tmp_path: Path, layout: str) -> None:
    """However few bytes are missing: faiss's own map of a file would not tell, or end the process."""
    path = made(tmp_path, layout).path
    whole, ids = path.read_bytes(), None if "parquet" in layout else write_ids(tmp_path)
    for size in (*range(9, len(whole), len(whole) // 11), *range(len(whole) - 9, len(whole))):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=f"^{path}: (faiss cannot read it|not a (whole|complete))") as told:
            open_frozen_index(path, ids)
        assert "\n" not in str(told.value)


def test_a_flipped_bit_in_the_head_of_a_faiss_file_does_not_end_the_process(tmp_path: Path) -> None:
    """Of widths, kinds, counts, and whether a transformation has a bias: it is opened or told of, whatever it says."""
    made(tmp_path, "faiss OPQ4,IVF8,PQ4x4")
    path, ids, told = tmp_path / "faiss", write_ids(tmp_path), 0
    whole = path.read_bytes()
    for place in range(60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            open_frozen_index(path, ids)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            told += 1
    assert 10 < told < 60


@pytest.mark.parametrize("layout", ["npy float32 C", "faiss Flat", "parquet list"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_named(tmp_path: Path, layout: str, value: float) -> None:
    bad_ND = VECTORS.copy()
    bad_ND[1234, 3] = value
    with pytest.raises(InputError, match="vector 1,234 .of 0..1,499. has an infinite or NaN value"):
        made(tmp_path, layout, bad_ND)


@pytest.mark.parametrize("layout", ["npy float32 C", "faiss Flat", "pyserini Flat"])
@pytest.mark.parametrize(
    ("docids", "said"),
    [
        (DOCIDS[:-1], "1,500 vectors, but 1,499 docids"),
        ([*DOCIDS, "one more"], "1,500 vectors, but 1,501 docids"),
        ([DOCIDS[7], *DOCIDS[1:]], f"vectors 0 and 7 have the same docid '{DOCIDS[7]}'"),
        ([*DOCIDS[:5], " ", *DOCIDS[6:]], "line 6: this line is blank"),
    ],
)
def test_docids_that_do_not_fit_are_refused(tmp_path: Path, layout: str, docids: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(tmp_path, layout, docids=docids)


def test_docids_are_read_as_pyserini_reads_them(tmp_path: Path) -> None:
    """Ends of lines of any system, white space after docids, and white space within them that is no end of a line."""
    np.save(tmp_path / "vectors.npy", VECTORS[:4])
    (tmp_path / "ids.txt").write_bytes("a b\r\nc \nd\u2028e\nf".encode())
    assert list(open_frozen_index(tmp_path / "vectors.npy", tmp_path / "ids.txt").docids) == [
        "a b",
        "c",
        "d\u2028e",
        "f",
    ]
    (tmp_path / "ids.txt").write_bytes(b"a\n\xff\nc\nd\n")
    with pytest.raises(InputError, match="ids.txt: not UTF-8"):
        open_frozen_index(tmp_path / "vectors.npy", tmp_path / "ids.txt")


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (VECTORS[0], r"its shape is \(16,\)"),
        (VECTORS[:0], r"its shape is \(0, 16\)"),
        (VECTORS[None], r"its shape is \(1, 1500, 16\)"),
        (VECTORS.astype(np.int32), "its numbers are of type int32; allowed: float16, float32, float64"),
        (VECTORS.astype(np.complex64), "its numbers are of type complex64"),
        (np.array([["a", 1.0]], dtype=object), "pickles are not read"),
    ],
)
def test_an_array_that_is_no_matrix_of_floats_is_refused(tmp_path: Path, matrix: Any, said: str) -> None:
    np.save(tmp_path / "vectors.npy", matrix)
    with pytest.raises(InputError, match=f"vectors.npy: .*{said}"):
        open_frozen_index(tmp_path / "vectors.npy", write_ids(tmp_path))


def test_columns_are_chosen_only_where_one_may_be_meant(tmp_path: Path) -> None:
    import pyarrow

    lists, path = pyarrow.list_(pyarrow.float32()), tmp_path / "vectors.parquet"
    numbers = write_parquet(path, lists, any_name=list(range(N)))
    assert open_frozen_index(numbers).docids[3] == "3"
    given = open_frozen_index(write_parquet(path, lists, title=DOCIDS, text=DOCIDS), write_ids(tmp_path))
    assert list(given.docids) == DOCIDS and np.array_equal(given.block(0, N), VECTORS)
    for columns, said in (
        ({"title": DOCIDS, "text": DOCIDS}, "one column of texts or whole numbers .* 2 columns fit .title, text."),
        ({"id": DOCIDS, "docid": DOCIDS}, "2 columns fit .id, docid.; or give --docids FILE"),
        ({"more": [[0.5]] * N, "id": DOCIDS}, "one column of lists of floats is needed for vectors; 2 columns fit"),
        ({"weight": [0.5] * N}, "one column of texts or whole numbers .* no column fits"),
    ):
        with pytest.raises(InputError, match=f"vectors.parquet: .*{said}"):
            open_frozen_index(write_parquet(path, lists, **columns))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({1200: [0.5] * 3}, r"row 1,200 .from 0.: the vector in 'vector' has 3 numbers, but 16 are needed"),
        ({1200: None}, r"row 1,200 .from 0.: the vector in 'vector' has no numbers"),
        ({0: []}, r"row 0 .from 0.: the vector in 'vector' has no numbers"),
        ({7: [np.nan] * 16}, "vector 7 .of 0..1,499. has an infinite or NaN value"),
    ],
)
def test_lists_that_are_no_matrix_are_refused(tmp_path: Path, change: dict[int, Any], said: str) -> None:
    import pyarrow

    rows = [change.get(row, vector_D) for row, vector_D in enumerate(VECTORS)]
    with pytest.raises(InputError, match=said):
        open_frozen_index(write_parquet(tmp_path / "p", pyarrow.list_(pyarrow.float32()), rows))


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_blank_docids_of_a_column_are_refused(tmp_path: Path, blank: str | None) -> None:
    import pyarrow

    docids = [*DOCIDS[:801], blank, *DOCIDS[802:]]
    with pytest.raises(InputError, match=r"row 801 .from 0.: column 'id' is blank"):
        open_frozen_index(write_parquet(tmp_path / "p", pyarrow.list_(pyarrow.float32()), id=docids))


def test_what_is_no_index_is_told_with_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, body in (("pickle", pickle.dumps([1.0])), ("zip", b"PK\3\4"), ("text", b"0.1 0.2\n"), ("empty", b"")):
        (tmp_path / name).write_bytes(body)
    for name, said in (
        (
            "none",
            "no such file or folder; give a folder with shard-i-of-n .our vectors., .* or a faiss index, .npy matrix",
        ),
        ("folder", "this folder has no index, which would be .* index with docid .Pyserini."),
        ("pickle", "this file is none of .*: a pickle, which is never read"),
        ("zip", "this file is none of .*: an archive"),
        ("text", "this file is none of faiss index, .npy matrix, parquet file: it begins with b'0.1 0.2"),
        ("empty", "this file is none of .*: it begins with b''"),
    ):
        with pytest.raises(InputError, match=f"^--index {tmp_path / name}: {said}"):
            open_frozen_index(tmp_path / name)


def test_docids_are_asked_for_and_refused_where_there_are_some(tmp_path: Path) -> None:
    for layout, path in (("npy float32 C", "vectors.npy"), ("faiss Flat", "faiss")):
        made(tmp_path, layout)
        with pytest.raises(
            InputError, match=f"^{tmp_path / path}: it does not contain docids; give them by --docids FILE"
        ):
            open_frozen_index(tmp_path / path)
    for layout, path in (("vectors", "vectors"), ("pyserini Flat", "pyserini")):
        made(tmp_path, layout)
        with pytest.raises(InputError, match=f"--docids .*ids.txt: {tmp_path / path} already contains docids"):
            open_frozen_index(tmp_path / path, write_ids(tmp_path))
    (tmp_path / "pyserini" / "shard-1-of-1").mkdir()
    (tmp_path / "pyserini" / "shard-1-of-1" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="it has files of several layouts .vectors, pyserini."):
        open_frozen_index(tmp_path / "pyserini")


DIGESTED = ["vectors", "index Flat", "pyserini HNSW32", "npy float32 C", "parquet list", "faiss SQ8"]


@pytest.mark.parametrize("layout", DIGESTED)
def test_the_digest_is_that_of_sha256sum_and_reading_changes_nothing(tmp_path: Path, layout: str) -> None:
    index = made(tmp_path, layout)
    path, before = index.path, index.digest()
    index.search(QUERIES, HITS)
    assert len(index.block(0, N)) == N and index.digest() == before
    script, place = f"sha256sum {path}", path.parent
    if path.is_dir():
        script, place = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum", path
    done = subprocess.run(script, shell=True, cwd=place, check=True, capture_output=True, text=True)
    assert done.stdout.split()[0] == before
    file = path if path.is_file() else next(each for each in path.rglob("*") if each.is_file())
    body = file.read_bytes()
    file.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    assert index.digest() != before


def test_how_far_a_search_looks_is_not_in_the_digest(tmp_path: Path) -> None:
    index = made(tmp_path, "index Flat")
    before = index.digest()
    Effort("efSearch", 16, HITS, 0.9, 0.9, 5).write(index.path)
    assert index.digest() == before
    (index.path / "notes.json").write_text("{}")
    assert index.digest() != before


@pytest.mark.parametrize("layout", ["faiss Flat", "faiss HNSW32", "npy float32 C", "faiss SQ8"])
def test_vectors_outlive_what_opened_them_and_the_file_is_never_written(tmp_path: Path, layout: str) -> None:
    block_ND = made(tmp_path, layout).block(10, 20)
    np.testing.assert_allclose(block_ND, VECTORS[10:20], atol=0.01)
    path = next(path for path in tmp_path.iterdir() if path.name in ("faiss", "vectors.npy"))
    before = path.read_bytes()
    try:
        block_ND[:] = 7
    except ValueError:
        assert not block_ND.flags.writeable
    assert path.read_bytes() == before


class Stored:
    """An encoder whose vectors are given by docid."""

    passage_template, fingerprint, passage_fingerprint, rounded_fingerprints = "{text}", "q", "p", ("8",)

    def __init__(self, vectors_ND: Vectors) -> None:
        self._vectors, self.dim = dict(zip(DOCIDS, vectors_ND, strict=True)), vectors_ND.shape[1]

    def encode_queries(self, texts: Sequence[str], task: str | None) -> Vectors:
        raise AssertionError

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        return np.stack([self._vectors[passage.docid] for passage in passages])

    def lowest_cosine(self, passages: Sequence[Passage]) -> float:
        return 1.0


@pytest.mark.parametrize("layout", ["npy float32 C", "faiss PQ4x4"])
def test_vectors_of_another_encoder_are_told_from_those_of_this(tmp_path: Path, layout: str) -> None:
    index, ten = made(tmp_path, layout), passages(["none", *DOCIDS[:10]])
    cosines = compare_texts(index, Stored(3 * VECTORS), ten)
    assert cosines.shape == (10,) and (cosines > 0.999).all() == ("npy" in layout)
    turned = np.linalg.qr(np.random.default_rng(3).standard_normal((DIM, DIM)))[0].astype(np.float32)
    with pytest.raises(
        InputError, match="for 10 passages, its vectors differ from those of this encoder .median cosine"
    ):
        compare_texts(index, Stored(VECTORS @ turned), ten)
    with pytest.raises(InputError, match="it has 16 dimensions, the encoder 8"):
        compare_texts(index, Stored(VECTORS[:, :8]), ten)
    with pytest.raises(InputError, match="it has none of the 1 passages; give passages of its collection"):
        compare_texts(index, Stored(VECTORS), ten[:1])
