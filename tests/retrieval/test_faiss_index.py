"""An exact index is exact, an approximate one finds most, both are Pyserini's files; what does not fit is refused."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.types import Passage, Ranking, Vectors
from taco_ir.index import main
from taco_ir.retrieval import exact_search as exact
from taco_ir.retrieval import on_disk
from taco_ir.retrieval import vectors as vectors_module
from taco_ir.retrieval.exact_search import exact_search
from taco_ir.retrieval.faiss_index import FEW, ByteScan, DenseIndex, build_index
from taco_ir.retrieval.frozen_index import open_frozen_index
from taco_ir.retrieval.vectors import Recipe, Shard, ShardWriter, VectorSet

N, DIM, HITS = 2000, 16, 10
BATCH = 20
DOCIDS = [f"{row * 7919 % N}#{row % 3}" for row in range(N)]
Index = Callable[..., Path]


class Named:
    """As much of an encoder as an index looks at."""

    fingerprint = "queries-1"
    passage_fingerprint = "encoder-1"
    rounded_fingerprints = ("encoder-1 in int8", "encoder-1 in bf16")
    passage_template = "{text}"
    dim = DIM


def random_vectors(rows: int, seed: int) -> Vectors:
    """Multiples of 1/64: their inner products are exact in float32, whoever sums them."""
    return (np.random.default_rng(seed).standard_normal((rows, DIM)) * 64).round().astype(np.float32) / np.float32(64)


VECTORS, QUERIES = random_vectors(N, 0), random_vectors(3 * BATCH, 1)


def write(output: Path, vectors_ND: Vectors) -> VectorSet:
    recipe = Recipe("collection-1", len(vectors_ND), "fake", "encoder-1", "{text}", DIM)
    named = enumerate(DOCIDS[: len(vectors_ND)])
    passages = [Passage(docid, docid.rpartition("#")[0], "", str(row)) for row, docid in named]
    for number in (1, 2):
        writer = ShardWriter(output, Shard(number, 2), recipe)
        of_shard = passages[writer.rows.start : writer.rows.stop]
        writer.write(of_shard, lambda block: vectors_ND[[int(each.text) for each in block]], lambda _: None)
    return VectorSet(output)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Build an index of VECTORS, each factory once."""
    folder = tmp_path_factory.mktemp("index")
    vectors = write(folder / "vectors", VECTORS)

    def build(factory: str = "Flat") -> Path:
        output = folder / re.sub(r"\W", "-", factory)
        if not output.exists():
            build_index(vectors, output, factory)
        return output

    return build


@pytest.fixture
def copy(index: Index, tmp_path: Path) -> Path:
    """A Flat index to damage."""
    return shutil.copytree(index(), tmp_path / "copy")


def brute_force(queries_BD: Vectors, vectors_ND: Vectors, hits: int) -> list[Ranking]:
    scores_BN = queries_BD.astype(np.float64) @ vectors_ND.astype(np.float64).T
    return [Ranking.of(DOCIDS[: len(vectors_ND)], scores_N).top(hits) for scores_N in scores_BN]


def assert_same(found: list[Ranking], expected: list[Ranking]) -> None:
    assert [ranking.docids for ranking in found] == [ranking.docids for ranking in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.scores.dtype == np.float32
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("queries", [1, BATCH - 1, BATCH, 3 * BATCH])
@pytest.mark.parametrize("hits", [1, HITS, N, 2 * N])
def test_flat_is_exact(index: Index, queries: int, hits: int) -> None:
    assert_same(DenseIndex(index()).search(QUERIES[:queries], hits), brute_force(QUERIES[:queries], VECTORS, hits))


@pytest.mark.parametrize("queries", [2, BATCH])
def test_equal_scores_are_ordered_by_docid_descending(tmp_path: Path, queries: int) -> None:
    """Whole numbers, so that sums are exact: every passage stands twice, and hits end between pairs."""
    vectors_ND = np.tile(np.round(VECTORS[:300] * 1000), (2, 1))
    build_index(write(tmp_path / "vectors", vectors_ND.astype(np.float16).astype(np.float32)), tmp_path / "index")
    queries_BD = np.round(QUERIES[:queries])
    expected = brute_force(queries_BD, vectors_ND.astype(np.float16).astype(np.float32), HITS)
    assert any((ranking.scores[:-1] == ranking.scores[1:]).any() for ranking in expected)
    assert_same(DenseIndex(tmp_path / "index").search(queries_BD, HITS), expected)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 120),
    st.integers(1, 30),
    st.integers(1, 4),
    st.sampled_from(["up", "down", "as it is"]),
    st.sampled_from([1, 1000]),
    st.integers(0, 99),
)
def test_blocks_change_nothing(
    queries: int, rows: int, hits: int, width: int, order: str, ties: int, seed: int
) -> None:
    """Small whole numbers have many ties, also at the last hit; rows sorted by score are the hardest to thin out."""
    draw = np.random.default_rng(seed)
    queries_BD, vectors_ND = (draw.integers(-3, 4, (count, width)).astype(np.float32) for count in (queries, rows))
    if order != "as it is":
        vectors_ND = vectors_ND[np.argsort((vectors_ND @ queries_BD[0]) * (1 if order == "up" else -1), kind="stable")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "ROWS", 7)
        patch.setattr(exact, "QUERIES", 13)
        patch.setattr(exact, "LEAST", 3)
        patch.setattr(exact, "CROWD", 1)
        patch.setattr(exact, "TIES", ties)
        found = list(exact_search(queries_BD, vectors_ND, np.array(DOCIDS[:rows], dtype=object), hits))
    expected = brute_force(queries_BD, vectors_ND, hits)
    assert [ranking.docids for ranking in found] == [ranking.docids for ranking in expected]
    assert all(np.array_equal(one.scores, other.scores) for one, other in zip(found, expected, strict=True))


def test_ties_without_end_do_not_fill_the_memory() -> None:
    """All scores are equal: the last docids of all, from whatever block, and no more candidates than are wanted."""
    seen: list[int] = []
    plain = exact._Block.thin

    def noting(block: Any) -> Any:
        found = plain(block)
        seen.append(len(found.row))
        return found

    docids = np.array([f"{row * 7919 % 20_000}#0" for row in range(20_000)], dtype=object)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact._Block, "thin", noting)
        queries_BD, vectors_ND = np.zeros((3, 2), dtype=np.float32), np.ones((20_000, 2), dtype=np.float32)
        found = list(exact_search(queries_BD, vectors_ND, docids, 5))
    assert [ranking.docids for ranking in found] == [sorted(docids.tolist(), reverse=True)[:5]] * 3
    assert len(seen) > 1 and max(seen) <= 3 * 5 * exact.TIES


@pytest.mark.parametrize("factory", ["Flat", "SQ8", "HNSW32", "IVF8,Flat"])
@pytest.mark.parametrize("copies", [2, 40, N])
def test_equal_passages_are_cut_by_docid_however_many_are_asked_for_at_once(
    tmp_path: Path, factory: str, copies: int
) -> None:
    """Each vector is there many times, so that hits end among equal ones: always the last docids of these are taken.

    An approximate index promises it of what it looks at, which is not all of so many equal ones in a graph.
    """
    draw = np.random.default_rng(1)
    halves_ND = draw.permutation(np.repeat(draw.standard_normal((N // copies, DIM)), copies, axis=0)).astype(np.float16)
    vectors_ND = halves_ND.astype(np.float32)
    queries_BD = draw.standard_normal((2 * BATCH + 1, DIM)).astype(np.float32)
    build_index(write(tmp_path / "vectors", vectors_ND), tmp_path / "index", factory)
    index = DenseIndex(tmp_path / "index")
    together = index.search(queries_BD, HITS + 1)
    for count in (1, 2, BATCH - 1, BATCH):
        batches = [queries_BD[start : start + count] for start in range(0, len(queries_BD), count)]
        found = [ranking for batch_BD in batches for ranking in index.search(batch_BD, HITS + 1)]
        assert [ranking.docids for ranking in found] == [ranking.docids for ranking in together]
    for ranking in together:
        pairs = list(zip(ranking.scores.tolist(), ranking.docids, strict=True))
        assert pairs == sorted(pairs, reverse=True)
    if factory in ("Flat", "SQ8"):
        scored = vectors_ND if factory == "Flat" else np.stack([index.index.reconstruct(row) for row in range(N)])
        for query_D, ranking in zip(queries_BD, together, strict=True):
            score_N = (query_D.astype(np.float64) * scored).sum(1).astype(np.float32)
            assert factory == "SQ8" or ranking.docids == Ranking.of(DOCIDS, score_N).top(HITS + 1).docids
            last = scored[DOCIDS.index(ranking.docids[-1])]
            equal = sorted((DOCIDS[row] for row in np.flatnonzero((scored == last).all(1))), reverse=True)
            taken = [docid for docid in ranking.docids if docid in set(equal)]
            assert taken == equal[: len(taken)]


@pytest.mark.parametrize(
    ("factory", "needed"),
    [("HNSW32", 0.95), ("SQ8", 0.95), ("IVF8,SQ8", 0.8), ("IVF32,Flat", 0.6), ("PCA12,IVF8,Flat", 0.45)],
)
def test_approximate_indexes_find_most(index: Index, factory: str, needed: float) -> None:
    """Random vectors have no clusters: the hardest case for an IVF, and 12 of 16 independent numbers are too few."""
    found = DenseIndex(index(factory)).search(QUERIES, HITS)
    expected = brute_force(QUERIES, VECTORS, HITS)
    recall = np.mean([len({*one.docids} & {*other.docids}) / HITS for one, other in zip(found, expected, strict=True)])
    assert recall >= needed


@pytest.mark.parametrize(
    ("factory", "rows"), [*product(["IVF32,Flat", "IVF8,SQ8"], [1, 600, 2 * N]), ("OPQ4,IVF8,PQ4x4", 600)]
)
def test_lists_on_disk_are_searched_as_those_in_memory(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str, rows: int
) -> None:
    """Built in parts of any size; the folder may move, and holds nothing but what is searched."""
    code = {"IVF32,Flat": 4 * DIM, "IVF8,SQ8": DIM, "OPQ4,IVF8,PQ4x4": 2}[factory] + 1
    monkeypatch.setattr(on_disk, "PART_BYTES", rows * (code + on_disk.ROW_BYTES))
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", 128)
    vectors = write(tmp_path / "vectors", VECTORS)
    build_index(vectors, tmp_path / "made", factory, on_disk=True)
    folder = (tmp_path / "made").rename(tmp_path / "moved")
    assert {path.name for path in folder.iterdir()} == {"index", "docid", "lists", "manifest.json"}
    opened, plain = DenseIndex(folder), DenseIndex(index(factory))
    for hits in (1, HITS, N):
        found, expected = opened.search(QUERIES, hits), plain.search(QUERIES, hits)
        assert_same(found, expected)
    assert opened.fingerprint != plain.fingerprint
    build_index(vectors, tmp_path / "again", factory, on_disk=True)
    assert all((tmp_path / "again" / path.name).read_bytes() == path.read_bytes() for path in folder.iterdir())
    frozen = open_frozen_index(folder)
    assert frozen.docids == DOCIDS and frozen.block(0, N).shape == (N, DIM)


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "SQ8", "IVF8,PQ4x4fs", "IVF8,PQ4,RFlat"])
def test_an_index_without_lists_is_not_put_on_disk(tmp_path: Path, factory: str) -> None:
    command = ["--vectors", str(tmp_path / "vectors"), "--output", str(tmp_path / "index"), "--on-disk"]
    write(tmp_path / "vectors", VECTORS)
    with pytest.raises(InputError, match=f"--factory '{factory}': --on-disk needs an index with IVF lists, such as"):
        main([*command, "--factory", factory])
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]


def test_lists_on_disk_are_checked_and_are_another_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "vectors", VECTORS)
    command = ["--vectors", str(tmp_path / "vectors"), "--output", str(tmp_path / "index"), "--factory", "IVF8,SQ8"]
    main([*command, "--on-disk"])
    main([*command, "--on-disk"])
    assert "this index is built" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"exists and was made differently \(on_disk is true, not false\)"):
        main(command)
    lists = tmp_path / "index" / "lists"
    body = bytearray(lists.read_bytes())
    body[100] ^= 1
    lists.write_bytes(body)
    for verify in (lambda: DenseIndex(tmp_path / "index"), lambda: main([*command[2:4], "--verify"])):
        with pytest.raises(InputError, match=f"{lists}: it was changed"):
            verify()
    lists.unlink()
    with pytest.raises(InputError, match=f"{lists}: it has 0 bytes, but its manifest says"):
        DenseIndex(tmp_path / "index")


def test_fewer_hits_than_asked_are_no_wrong_hits(index: Index) -> None:
    """An IVF looks at some lists only: what it does not find is missing, not row -1."""
    for ranking in DenseIndex(index("IVF32,Flat")).search(QUERIES[:5], N):
        assert HITS < len(ranking.docids) < N and len(set(ranking.docids)) == len(ranking.docids)
        assert np.isfinite(ranking.scores).all() and (np.diff(ranking.scores) <= 0).all()


@pytest.mark.parametrize("factory", ["nonsense", "", "Flat,", "LSH"])
def test_a_bad_factory_is_named(tmp_path: Path, factory: str) -> None:
    vectors = write(tmp_path / "vectors", VECTORS[:50])
    with pytest.raises(InputError, match=re.escape(f"--factory {factory!r}: ")):
        build_index(vectors, tmp_path / "index", factory)
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]


def test_too_few_vectors_to_train(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--factory 'IVF64,Flat': 50 vectors are too few to train this index"):
        build_index(write(tmp_path / "vectors", VECTORS[:50]), tmp_path / "index", "IVF64,Flat")


def test_a_factory_that_cannot_take_passages(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--factory 'IDMap,Flat': "):
        build_index(write(tmp_path / "vectors", VECTORS[:50]), tmp_path / "index", "IDMap,Flat")
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF8,SQ8"])
def test_space_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str) -> None:
    vectors = write(tmp_path / "vectors", VECTORS)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10_000))
    with pytest.raises(InputError, match=r"needs \d+\.\d KB on disk, 10\.0 KB are free"):
        build_index(vectors, tmp_path / "index", factory)


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF8,SQ8"])
def test_pyserini_can_read_it(index: Index, factory: str) -> None:
    """Its contract: `index` in faiss's format, `docid` with one id a line in the order of rows."""
    import faiss

    folder = index(factory)
    plain = faiss.read_index(str(folder / "index"))
    lines = [line.rstrip() for line in (folder / "docid").open()]
    assert lines == DOCIDS and plain.ntotal == N and plain.d == DIM
    assert plain.metric_type == faiss.METRIC_INNER_PRODUCT
    _, rows = plain.search(VECTORS[:1] * 100, 1)
    assert 0 <= rows[0, 0] < N


@pytest.mark.parametrize("factory", ["Flat", "SQ8", "IVF8,SQ8"])
def test_building_twice_gives_the_same_bytes(index: Index, tmp_path: Path, factory: str) -> None:
    build_index(VectorSet(index().parent / "vectors"), tmp_path / "again", factory)
    for name in ("index", "docid", "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (index(factory) / name).read_bytes()


def test_the_wrong_encoder_is_named(index: Index) -> None:
    other = Named()
    assert DenseIndex(index(), other, "collection-1").recipe.passages == N  # type: ignore[arg-type]
    other.passage_fingerprint = "encoder-2"
    with pytest.raises(InputError, match="made by encoder encoder-1 .fake., but the given model is encoder encoder-2"):
        DenseIndex(index(), other)  # type: ignore[arg-type]
    other.rounded_fingerprints = ("another", "encoder-1")  # it would have made them in 8-bit arithmetic
    assert DenseIndex(index(), other).recipe.encoder == "encoder-1"  # type: ignore[arg-type]


def test_the_wrong_collection_is_named(index: Index) -> None:
    with pytest.raises(InputError, match="made from collection collection-1, not from collection-2; give the encoded"):
        DenseIndex(index(), None, "collection-2")


@pytest.mark.parametrize("name", ["index", "docid"])
def test_a_file_cut_short_is_refused_on_opening(copy: Path, name: str) -> None:
    size = (copy / name).stat().st_size
    os.truncate(copy / name, size - 1)
    with pytest.raises(InputError, match=f"^{copy / name}: it has {size - 1} bytes, but its manifest says {size}"):
        DenseIndex(copy)
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"^{copy / name}: it has 0 bytes, but its manifest says {size}"):
        DenseIndex(copy)


def test_no_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--index {tmp_path}: no manifest.json"):
        DenseIndex(tmp_path)


@pytest.mark.parametrize("name", ["index", "docid"])
def test_verify_finds_one_altered_bit(copy: Path, name: str) -> None:
    main(["--output", str(copy), "--verify"])
    body = bytearray((copy / name).read_bytes())
    body[-9] ^= 1
    (copy / name).write_bytes(body)
    with pytest.raises(InputError, match=f"^{copy / name}: it was changed"):
        main(["--output", str(copy), "--verify"])


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF8,SQ8"])
@pytest.mark.parametrize("name", ["index", "docid"])
def test_no_flipped_byte_is_searched(index: Index, tmp_path: Path, factory: str, name: str) -> None:
    """Of equal size: other vectors, other links or other docids, which give other hits, or what faiss cannot read."""
    copy = shutil.copytree(index(factory), tmp_path / "copy")
    DenseIndex(copy)
    whole = (copy / name).read_bytes()
    draw = np.random.default_rng(0)
    for place in (0, 5, 40, len(whole) - 1, *draw.integers(0, len(whole), 6).tolist()):
        body = bytearray(whole)
        body[place] ^= 1 << int(draw.integers(8))
        (copy / name).write_bytes(body)
        with pytest.raises(
            InputError, match=rf"^{copy / name}: it was changed \(its SHA-256 .*; build the index again"
        ):
            DenseIndex(copy)
    (copy / name).write_bytes(whole)
    DenseIndex(copy)


@pytest.mark.parametrize("change", ["recipe", "factory", "files", "dim"])
def test_a_manifest_that_says_something_else_is_one_line(copy: Path, change: str) -> None:
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace(f'"{change}"', f'"{change}s"'))
    with pytest.raises(InputError, match="manifest"):
        DenseIndex(copy)


def test_the_verb_builds_once_and_replaces_only_when_told(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "index"
    command = ["--vectors", str(index().parent / "vectors"), "--output", str(output)]
    main(command)
    written = (output / "index").stat().st_mtime_ns
    main(command)
    assert "is built" in capsys.readouterr().out and (output / "index").stat().st_mtime_ns == written
    said = f'--output {output} exists and was made differently \\(factory is "Flat", not "SQ8"\\)'
    with pytest.raises(InputError, match=said):
        main([*command, "--factory", "SQ8"])
    main([*command, "--factory", "SQ8", "--overwrite"])
    assert DenseIndex(output).manifest.factory == "SQ8"


def test_what_the_user_has_there_is_not_removed(index: Index, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputError, match="exists, and nothing records how it was made"):
        main(["--vectors", str(index().parent / "vectors"), "--output", str(tmp_path)])
    assert (tmp_path / "mine").read_text() == "mine"


# ---- few queries at a time


@pytest.fixture
def opened(index: Index) -> DenseIndex:
    """A Flat index that was searched for one query before."""
    opened = DenseIndex(index())
    opened.search(QUERIES[:1], HITS)
    return opened


def test_the_second_search_for_few_queries_scans_a_copy_in_bytes(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[int] = []
    monkeypatch.setattr(ByteScan, "candidates", lambda *given, of=ByteScan.candidates: scanned.append(1) or of(*given))
    opened = DenseIndex(index())
    for queries, expected in ((1, 0), (1, 1), (FEW, 1 + FEW), (FEW + 1, 1 + FEW)):
        opened.search(QUERIES[:queries], HITS)
        assert len(scanned) == expected
    monkeypatch.setattr("taco_ir.retrieval.faiss_index.SCAN_BYTES", N * DIM - 1)
    small = DenseIndex(index())
    for _ in range(3):
        small.search(QUERIES[:1], HITS)
    assert len(scanned) == 1 + FEW and small._scan is None


@pytest.mark.parametrize("hits", [1, HITS, N - 1, N, 2 * N])
def test_few_queries_are_searched_exactly(opened: DenseIndex, hits: int) -> None:
    for start in range(0, len(QUERIES), FEW):
        queries_BD = QUERIES[start : start + FEW]
        assert_same(opened.search(queries_BD, hits), brute_force(queries_BD, VECTORS, hits))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1 << 20),
    size=st.sampled_from([1e-6, 1e-3, 1.0, 300.0, 1e5, 1e30]),
    copies=st.integers(0, 90),
    threads=st.integers(1, 3),
)
def test_the_scan_misses_no_hit_whatever_the_vectors_are(seed: int, size: float, copies: int, threads: int) -> None:
    """Vectors that bytes round, cannot hold, or cannot tell apart: what it names holds the best, or it says nothing."""
    random = np.random.default_rng(seed)
    vectors_ND = (random.standard_normal((400, DIM)) * size).astype(np.float32)
    vectors_ND[:copies] = vectors_ND[0] * (1 + random.standard_normal((copies, 1)) * 1e-7).astype(np.float32)
    query_D = random.standard_normal(DIM).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taco_ir.retrieval.faiss_index.ROWS", 150)
        patch.setattr("faiss.omp_get_max_threads", lambda: threads)
        rows = ByteScan(vectors_ND).candidates(query_D, HITS)
    exact_N = vectors_ND.astype(np.float64) @ query_D.astype(np.float64)
    least = np.sort(exact_N)[-HITS]
    assert rows is None or set(np.flatnonzero(exact_N >= least).tolist()) <= set(rows.tolist())
    assert rows is not None or copies or size > 1e5


def test_crowds_of_equal_passages_are_left_to_the_exact_search(tmp_path: Path) -> None:
    """More passages tie at the last hit than the scan names: they are ordered by docid all the same."""
    vectors_ND = np.repeat(VECTORS[:4], N // 4, axis=0)
    build_index(write(tmp_path / "vectors", vectors_ND), tmp_path / "index")
    opened = DenseIndex(tmp_path / "index")
    for _ in range(3):
        assert_same(opened.search(QUERIES[:2], HITS), brute_force(QUERIES[:2], vectors_ND, HITS))
