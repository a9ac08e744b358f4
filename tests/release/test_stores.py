"""Encoded passages are handed to other stores block by block: whole or not at all, with the hits of an exact search."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cities import write_cities

from taco_ir.core.files import InputError
from taco_ir.core.types import Vectors
from taco_ir.data.collection import open_collection
from taco_ir.export import main
from taco_ir.release import stores
from taco_ir.retrieval.frozen_index import open_frozen_index
from taco_ir.retrieval.vectors import Block, Recipe, Shard, ShardWriter, VectorSet

DIM, BLOCK_ROWS, HITS = 8, 5, 4
DRAW = np.random.default_rng(0)
VECTORS = DRAW.standard_normal((24, DIM)).astype(np.float16).astype(np.float32)
QUERIES = DRAW.standard_normal((3, DIM)).astype(np.float32)
needs_qdrant = pytest.mark.skipif(importlib.util.find_spec("qdrant_client") is None, reason="needs taco_ir[qdrant]")
FORMATS = ["parquet", "lucene-json", pytest.param("qdrant", marks=needs_qdrant)]


@pytest.fixture(autouse=True)
def cities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection `c` and its vectors in five blocks, of which two are a part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stores, "PART", 2)
    monkeypatch.setattr(stores, "POINTS", 3)
    passages = open_collection(write_cities(tmp_path / "c")).passages
    recipe = Recipe(passages.fingerprint, passages.count, "model", "encoder", "{text}", DIM)
    writer, rows = ShardWriter(tmp_path / "v", Shard(1, 1), recipe, block_rows=BLOCK_ROWS), iter(VECTORS)
    writer.write(passages.read(), lambda block: np.stack([next(rows) for _ in block]), lambda _: None)
    assert len(VectorSet(tmp_path / "v").block_rows) == 5


def export(form: str, *more: str, output: str = "out") -> Path:
    main(["--what", "vectors", "--vectors", "v", "--collection", "c", "--format", form, "--output", output, *more])
    return Path(output) / form


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def best(docids: list[str], vectors_ND: Vectors) -> list[list[str]]:
    return [[docids[row] for row in np.argsort(-(vectors_ND @ query_D))[:HITS]] for query_D in QUERIES]


DOCIDS = [*(f"P{n}#0" for n in range(18)), *(f"N{n}#0" for n in range(6))]


def test_parquet_files_hold_passages_and_vectors() -> None:
    dataset = pytest.importorskip("pyarrow.dataset", reason="needs pyarrow")
    folder = export("parquet")
    assert sorted(contents(folder)) == ["00000.parquet", "00001.parquet", "00002.parquet"]
    rows = dataset.dataset(folder).to_table().to_pylist()
    passages = open_collection("c").passages.read()
    assert [row | passage._asdict() for row, passage in zip(rows, passages, strict=True)] == rows
    assert [row["docid"] for row in rows] == DOCIDS
    assert np.array_equal(np.array([row["vector"] for row in rows], dtype=np.float32), VECTORS)
    assert np.array_equal(open_frozen_index(folder / "00001.parquet").block(0, 10), VECTORS[10:20])


def test_lines_for_lucene_rank_alike_and_are_no_longer_than_1() -> None:
    folder = export("lucene-json")
    rows = [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
    assert [row["docid"] for row in rows] == DOCIDS
    assert rows[0]["contents"] == "House 0\nthe house number 0 is in Rome since then"
    vectors_ND = np.array([row["vector"] for row in rows], dtype=np.float32)
    assert np.linalg.norm(vectors_ND, axis=1).max() == pytest.approx(1, abs=1e-6)
    assert best(DOCIDS, vectors_ND) == best(DOCIDS, VECTORS)


def test_vectors_of_length_1_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "longest_norm", lambda _: 0.5)
    (line, *_) = (export("lucene-json") / "00000.jsonl").read_text().splitlines()
    assert np.array_equal(np.array(json.loads(line)["vector"], dtype=np.float32), VECTORS[0])


@needs_qdrant
def test_qdrant_finds_the_same() -> None:
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(export("qdrant")))
    found = [client.query_points("c-model", query=query_D.tolist(), limit=HITS).points for query_D in QUERIES]
    assert [[point.payload["docid"] for point in points] for points in found] == best(DOCIDS, VECTORS)
    assert found[0][0].payload.keys() == {"docid", "page", "title", "text"}
    client.close()


def points_of(folder: Path) -> list[Any]:
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(folder))
    points, _ = client.scroll("c-model", limit=100, with_vectors=True)
    client.close()
    return points


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("stop", "first"), [(0, 0), (1, 0), (3, 2)])
def test_a_stopped_export_goes_on_behind_its_last_part(
    form: str, stop: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, read, seen = export(form, output="whole"), VectorSet.block, list[int]()

    def block(vectors: VectorSet, number: int) -> Block:
        seen.append(number)
        if seen.count(stop) == 1 and number == stop:
            raise KeyboardInterrupt
        return read(vectors, number)

    monkeypatch.setattr(VectorSet, "block", block)
    with pytest.raises(KeyboardInterrupt):
        export(form)
    assert not list(Path().rglob("*.part"))
    folder = export(form)
    assert seen == [*range(stop + 1), *range(first, 5)]
    if form == "qdrant":
        assert points_of(folder) == points_of(whole) and len(points_of(folder)) == len(VECTORS)
    else:
        assert contents(folder) == contents(whole)
    assert Path("out/manifest.json").read_bytes() == Path("whole/manifest.json").read_bytes()


def test_what_is_there_stays(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export("lucene-json")
    (folder / "00000.jsonl").write_text("mine")
    export("lucene-json")
    assert (folder / "00000.jsonl").read_text() == "mine"
    assert capsys.readouterr().out.splitlines() == ["out/lucene-json"] * 2
    (folder / "00009.jsonl").write_text("of another export")
    export("lucene-json", "--overwrite")
    assert sorted(contents(folder)) == ["00000.jsonl", "00001.jsonl", "00002.jsonl"] and len(contents(folder)) == 3
    other = VECTORS[::-1]
    writer = ShardWriter(Path("v"), Shard(1, 1), VectorSet(Path("v")).recipe, overwrite=True)
    writer.write(open_collection("c").passages.read(), lambda _: other, lambda _: None)
    with pytest.raises(InputError, match=r"--output out exists and was made differently \(vectors is .*--overwrite"):
        export("lucene-json")
    monkeypatch.setattr(stores, "PART", 32)
    export("lucene-json", "--overwrite")
    assert list(contents(folder)) == ["00000.jsonl"]


def test_mistakes_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ["--what", "vectors", "--vectors", "v", "--output", "out"]
    for argv, said in (
        ([*plain], "--vectors v: made from collection .*, not from .*; give the encoded collection"),
        (
            ["--what", "vectors", "huggingface", "--output", "out"],
            "--what vectors cannot be combined, and needs --vectors",
        ),
        ([*plain, "--model", "taco-mini"], "--model has an effect only with exports of models, not --what vectors"),
        ([*plain, "--url", "http://x"], "--url has an effect only with --format qdrant"),
        (["--vectors", "v", "--output", "out"], "--vectors has an effect only with --what vectors"),
        (["--what", "vectors", "--vectors", "none", "--output", "out"], "none: no vectors"),
    ):
        with pytest.raises(InputError, match=said):
            main(argv)
    assert not Path("out").exists() and not Path("out.begun").exists()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="--format qdrant: qdrant-client is not installed; pip install qdrant-client"):
        main([*plain, "--collection", "c", "--format", "qdrant"])


@needs_qdrant
def test_a_server_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"^http://127.0.0.1:9: Qdrant says: .*refused"):
        export("qdrant", "--url", "http://127.0.0.1:9")
    assert not Path("out").exists()


@needs_qdrant
def test_a_collection_of_the_server_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from qdrant_client import QdrantClient

    monkeypatch.setattr(QdrantClient, "collection_exists", lambda *_: True)
    with pytest.raises(InputError, match="--url http://x: there is a collection 'c-model'; remove it there first"):
        export("qdrant", "--url", "http://x")
