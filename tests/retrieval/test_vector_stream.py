"""Vectors searched from disk give the hits and scores of a Flat index, in parts and from where a search stopped."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.processes import resident_memory
from taco_ir.core.types import Passage, Ranking
from taco_ir.retrieval import exact_search as exact
from taco_ir.retrieval import vector_stream
from taco_ir.retrieval import vectors as vectors_module
from taco_ir.retrieval.choices import Streamed
from taco_ir.retrieval.exact_search import ExactSearch, Float32, exact_search
from taco_ir.retrieval.faiss_index import DenseIndex, build_index
from taco_ir.retrieval.half_products import HalfPrecision
from taco_ir.retrieval.vector_stream import Part, ShardsOfVectors, VectorStream
from taco_ir.retrieval.vectors import Recipe, Shard, ShardWriter, VectorSet
from taco_ir.scale.processes import Processes

N, DIM, ROWS, HITS, SHARDS = 1000, 24, 64, 10, 3
DRAW = np.random.default_rng(0)
# each passage is there twice, so that hits end among equal ones
VECTORS = DRAW.permutation(np.repeat(DRAW.standard_normal((N // 2, DIM)), 2, axis=0)).astype(np.float16)
QUERIES = DRAW.standard_normal((40, DIM)).astype(np.float32)
DOCIDS = [f"{row * 7919 % N}#{row % 3}" for row in range(N)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors in three shards and a Flat index of them."""
    place = tmp_path_factory.mktemp("stream")
    recipe = Recipe("collection-1", N, "fake", "encoder-1", "{text}", DIM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors_module, "BLOCK_ROWS", ROWS)
        for number in range(1, SHARDS + 1):
            writer = ShardWriter(place / "vectors", Shard(number, SHARDS), recipe)
            passages = [Passage(DOCIDS[row], "", "", str(row)) for row in writer.rows]
            writer.write(passages, lambda block: VECTORS[[int(each.text) for each in block]], lambda _: None)
    build_index(VectorSet(place / "vectors"), place / "index")
    return place


@pytest.fixture(autouse=True)
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where searches that have not ended keep what they found."""
    monkeypatch.setenv("TACO_IR_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "searches"


def stream(folder: Path, shard: str = "1/1", memory: int | None = None) -> VectorStream:
    return VectorStream(Streamed(str(folder / "vectors"), memory, Shard.parse(shard)))


def flat(folder: Path, hits: int = HITS) -> list[Ranking]:
    return DenseIndex(folder / "index").search(QUERIES, hits)


def assert_equal(found: list[Ranking] | None, expected: list[Ranking]) -> None:
    """To the last docid, and to the last bit of a score."""
    assert found is not None
    assert [ranking.docids for ranking in found] == [ranking.docids for ranking in expected]
    assert all(np.array_equal(one.scores, other.scores) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("hits", [1, HITS, 3 * ROWS, 2 * N])
def test_it_finds_what_a_flat_index_finds(folder: Path, parts: Path, hits: int) -> None:
    expected = flat(folder, hits)
    assert any((ranking.scores[:-1] == ranking.scores[1:]).any() for ranking in expected) or hits == 1
    assert_equal(stream(folder).search(QUERIES, hits), expected)
    assert_equal(stream(folder).search(QUERIES[:1], hits), expected[:1])
    assert not list(parts.rglob("*.safetensors"))  # it took less than a minute


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(0, 150), st.integers(1, 30), st.integers(1, 5), st.integers(0, 99))
def test_a_search_in_parts_is_a_search(queries: int, rows: int, hits: int, cuts: int, seed: int) -> None:
    """Vectors come in blocks of any size and order, to searches that are joined: hits and scores stay the same."""
    draw = np.random.default_rng(seed)
    queries_BD = draw.standard_normal((queries, 6)).astype(np.float32)
    vectors_ND = (draw.standard_normal((rows, 6)) * draw.choice([1e-3, 1, 100], (rows, 1))).astype(np.float32)
    docids_N = np.array(DOCIDS[:rows], dtype=object)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ROWS": 7, "QUERIES": 13, "LEAST": 3, "CROWD": 1}.items():
            patch.setattr(exact, name, value)
        expected = list(exact_search(queries_BD, vectors_ND, docids_N, hits))
        ends = np.sort(draw.integers(0, rows + 1, 4 * cuts))
        blocks = draw.permutation(np.stack([np.append(0, ends), np.append(ends, rows)], axis=1))
        with ExactSearch(queries_BD, vectors_ND, docids_N, hits, Float32(6)) as whole:
            for some in np.array_split(blocks, cuts):
                with ExactSearch(queries_BD, vectors_ND, docids_N, hits, Float32(6)) as part:
                    for start, stop in some.tolist():
                        part.add(start, vectors_ND[start:stop])
                    whole.put(part.candidates(), part.longest)
            found = list(whole.rankings())
    assert_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_half_precision_finds_the_same(folder: Path, dtype: str, size: float) -> None:
    """Its products choose what is scored again: vectors that it cannot tell apart are candidates, too."""
    import torch

    near_ND = VECTORS[:1].astype(np.float32) * size * (1 + 1e-4 * DRAW.standard_normal((N, 1)))
    for vectors_ND in (VECTORS.astype(np.float32) * size, near_ND):
        stored_ND = vectors_ND.astype(np.float16)
        docids_N = np.array(DOCIDS, dtype=object)
        expected = list(exact_search(QUERIES, stored_ND.astype(np.float32), docids_N, HITS))
        products = HalfPrecision(DIM, "cpu", getattr(torch, dtype))
        with ExactSearch(QUERIES, stored_ND, docids_N, HITS, products) as search:  # type: ignore[arg-type]
            for start in range(0, N, ROWS):
                search.add(start, stored_ND[start : start + ROWS])
            assert len(search.candidates().row) > len(QUERIES) * HITS
            assert_equal(list(search.rankings()), expected)


def test_shards_are_searched_apart_and_put_together(folder: Path, parts: Path) -> None:
    for number in (3, 1, 2):
        assert stream(folder, f"{number}/3").search(QUERIES, HITS) is None
    assert len(list(parts.rglob("shard-*-of-3.safetensors"))) == 3
    whole = stream(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VectorSet, "block", lambda *_: pytest.fail("this block was searched before"))
        assert_equal(whole.search(QUERIES, HITS), flat(folder))
    whole.forget()
    assert not list(parts.rglob("*.safetensors"))


def test_workers_search_the_shards(folder: Path, parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an engine, each a process of its own; shards that are there are not searched again."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place = Streamed(str(folder / "vectors"), engine=lambda: Processes(2, "cpu"))
    stopped = VectorStream(place)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(VectorStream, "search_shard", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        stopped.search(QUERIES, HITS)
    found = sorted(parts.rglob("shard-*.safetensors"))
    blocks = len(VectorSet(folder / "vectors").block_rows)
    assert len(found) == min(16, blocks) and sum(map(Part.count, found)) == blocks
    before = [path.stat().st_mtime_ns for path in found[1:]]
    found[0].unlink()
    whole = VectorStream(place)
    assert_equal(whole.search(QUERIES, HITS), flat(folder))
    assert [path.stat().st_mtime_ns for path in found[1:]] == before and found[0].exists()
    whole.forget()
    assert not parts.exists() or not any(parts.iterdir())


def test_a_worker_that_lacks_a_folder_says_which(folder: Path, tmp_path: Path) -> None:
    spec = {"vectors": str(tmp_path / "gone"), "folder": str(tmp_path), "hits": 1, "blocks": 1, "device": "cpu"}
    with pytest.raises(InputError, match="--vectors .*gone: a worker does not find it; give a path that all machines"):
        ShardsOfVectors(spec)
    with pytest.raises(InputError, match="data home: .*here: a worker does not find it"):
        ShardsOfVectors(spec | {"vectors": str(folder / "vectors"), "folder": str(tmp_path / "here")})


def test_shards_that_are_missing_or_of_others_are_searched(folder: Path) -> None:
    """Parts of other queries, of other hits, and of shards that overlap do no harm."""
    stream(folder, "1/3").search(QUERIES, HITS)
    stream(folder, "1/2").search(QUERIES, HITS)
    stream(folder, "2/3").search(QUERIES[::-1], HITS)
    stream(folder, "2/3").search(QUERIES, HITS + 1)
    assert_equal(stream(folder).search(QUERIES, HITS), flat(folder))


@pytest.mark.parametrize("shard", ["1/1", "2/3"])
@pytest.mark.parametrize("blocks", [1, 4])
def test_a_stopped_search_goes_on(
    folder: Path, parts: Path, monkeypatch: pytest.MonkeyPatch, shard: str, blocks: int
) -> None:
    monkeypatch.setattr(vector_stream, "SAVE_EVERY", 0)
    read, seen = VectorSet.block, list[int]()

    def stopping(vectors: VectorSet, number: int) -> vectors_module.Block:
        if len(seen) == blocks:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(number)
        return read(vectors, number)

    monkeypatch.setattr(VectorSet, "block", stopping)
    child = os.fork()
    if not child:
        stream(folder, shard).search(QUERIES, HITS)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list(parts.rglob("*.safetensors"))) == 1
    monkeypatch.setattr(VectorSet, "block", lambda vectors, number: seen.append(number) or read(vectors, number))
    stream(folder, shard).search(QUERIES, HITS)
    count = len(VectorSet(folder / "vectors").block_rows)
    assert len(seen) == len(Shard.parse(shard).rows(count)) - blocks
    assert_equal(stream(folder).search(QUERIES, HITS), flat(folder))


def test_a_part_that_was_damaged_is_searched_again(folder: Path, parts: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2):
        stream(folder, f"{number}/2").search(QUERIES, HITS)
    one, other = sorted(parts.rglob("*.safetensors"))
    body = bytearray(one.read_bytes())
    place = body.index(b'"blocks') + 14
    body[place] ^= 1
    one.write_bytes(body)
    os.truncate(other, other.stat().st_size - 1)
    assert_equal(stream(folder).search(QUERIES, HITS), flat(folder))
    assert [line for line in caplog.messages if "its blocks are searched again" in line] == [
        f"{path}: the file is damaged; its blocks are searched again" for path in (one, other)
    ]


def test_queries_that_do_not_fit_are_searched_one_after_the_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "taco_ir")
    monkeypatch.setattr(exact, "QUERIES", 8)
    monkeypatch.setattr(vector_stream, "resident_memory", lambda: 1_000_000)
    with pytest.raises(
        InputError, match=r"--memory 1\.0 MB: too small for a block of 64 vectors and .*; give at least"
    ) as refused:
        stream(folder, memory=1_000_001).search(QUERIES, HITS)
    least = re.search(r"give at least ([\d.]+) MB", str(refused.value))
    assert least
    enough = int((float(least[1]) + 0.1) * 1e6)
    assert_equal(stream(folder, memory=enough).search(QUERIES, HITS), flat(folder))
    assert any(re.search(r"vectors are read [2-9] times", line) for line in caplog.messages)


def test_by_default_half_of_the_free_memory_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_stream, "free_memory", lambda: 2000)
    with pytest.raises(InputError, match="--memory .*too small"):
        stream(folder).search(QUERIES, HITS)
    assert resident_memory() > 2000


def test_a_shard_that_another_process_searches_is_refused(folder: Path, parts: Path) -> None:
    from filelock import FileLock

    stream(folder, "1/2").search(QUERIES, HITS)
    (own,) = parts.rglob("*.safetensors")
    with FileLock(own.with_name(f"{own.name}.lock")), pytest.raises(InputError, match="another process is writing it"):
        stream(folder, "1/2").search(QUERIES, HITS)


def test_vectors_of_others_are_named(folder: Path) -> None:
    place = Streamed(str(folder / "vectors"))
    with pytest.raises(InputError, match=r"--vectors .*made from collection collection-1, not from collection-2"):
        VectorStream(place, None, "collection-2")
    with pytest.raises(InputError, match="no vectors .* make them with"):
        VectorStream(Streamed(str(folder / "index")))


def test_a_block_that_was_altered_is_named(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "vectors" / "shard-2-of-3" / "00001.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=f"{path}: truncated or altered"):
        stream(tmp_path / "copy").search(QUERIES, HITS)
