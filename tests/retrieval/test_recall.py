"""How far an approximate index looks is the least that finds a stated share of the best; it is kept with the index."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from taco_ir.core.files import InputError
from taco_ir.core.types import Passage
from taco_ir.index import main
from taco_ir.retrieval import recall as recall_module
from taco_ir.retrieval.faiss_index import DenseIndex, build_index
from taco_ir.retrieval.recall import RECALL_FILE, Effort, Knob, spread
from taco_ir.retrieval.vectors import Recipe, Shard, ShardWriter, VectorSet

N, DIM, HITS = 3000, 24, 10
DRAW = np.random.default_rng(0)
VECTORS, QUERIES = (DRAW.standard_normal((count, DIM)).astype(np.float32) for count in (N, 200))
FACTORIES = ("HNSW8", "IVF64,Flat")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> VectorSet:
    folder = tmp_path_factory.mktemp("recall") / "vectors"
    writer = ShardWriter(folder, Shard(1, 1), Recipe("collection-1", N, "fake", "encoder-1", "{text}", DIM))
    passages = [Passage(f"{row}#0", "", "", str(row)) for row in range(N)]
    writer.write(passages, lambda block: VECTORS[[int(each.text) for each in block]], lambda _: None)
    return VectorSet(folder)


@pytest.fixture
def folder(vectors: VectorSet, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An index of the factory that the test names."""
    build_index(vectors, tmp_path / "index", request.param)
    return tmp_path / "index"


def recall_of(index: DenseIndex) -> float:
    """The share of the best passages that a search finds, by brute force."""
    best_BK = np.argsort(-(QUERIES @ VECTORS.astype(np.float16).astype(np.float32).T), axis=1)[:, :HITS]
    found = index.search(QUERIES, HITS)
    pairs = zip(found, best_BK.tolist(), strict=True)
    return float(np.mean([len({*each.docids} & {f"{row}#0" for row in best_K}) / HITS for each, best_K in pairs]))


@pytest.mark.parametrize("folder", FACTORIES, indirect=True)
def test_the_least_is_chosen_that_reaches_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "taco_ir")
    values = []
    for recall in (0.5, 0.9, 0.99):
        index = DenseIndex(folder)
        index.reach(recall, QUERIES, HITS, folder)
        assert index.effort and index.effort.hits == HITS and index.effort.queries == len(QUERIES) // 2
        values.append(index.effort.value)
        assert recall_of(index) == pytest.approx(recall_of(DenseIndex(folder)))  # kept with the index
        assert recall_of(index) >= recall - 0.03 and abs(index.effort.found - recall_of(index)) < 0.03
        if values[-1] > HITS:
            index.effort = index.effort._replace(value=int(values[-1] / 1.1) - 1)
            assert recall_of(index) < recall + 0.02
        assert re.search(rf"{index.effort.parameter} \d+ finds 0\.\d+ of the 10 best hits of 100", caplog.messages[-1])
    assert values == sorted(values) and values[0] < values[-1]


@pytest.mark.parametrize("folder", FACTORIES, indirect=True)
def test_more_hits_than_it_was_chosen_for_are_looked_for_further(folder: Path) -> None:
    index = DenseIndex(folder)
    index.effort = Effort("efSearch" if "HNSW" in index.manifest.factory else "nprobe", 1, HITS, 0.1, 0.1, 1)
    few = index.search(QUERIES, HITS)
    index.search(QUERIES, HITS + 1)
    knob = Knob.of(index.index)
    assert knob and getattr(knob.owner, knob.parameter) > 1
    index.effort = None
    assert [each.docids for each in few] != [each.docids for each in index.search(QUERIES, HITS)]


def test_it_is_chosen_on_passages_when_an_index_is_built(vectors: VectorSet, tmp_path: Path) -> None:
    output = tmp_path / "index"
    command = ["--vectors", str(vectors.folder), "--output", str(output), "--factory", "IVF64,Flat", "--recall"]
    main([*command, ".9"])
    first = Effort.read(output)
    main([*command, "1"])  # the index is there
    last = Effort.read(output)
    assert first and last and first.value < last.value and (last.recall, last.hits) == (1, 100)
    with pytest.raises(
        InputError, match="--recall needs a --factory with HNSW or IVF; 'Flat' always searches all vectors"
    ):
        main([*command[:3], str(tmp_path / "flat"), "--recall", ".9"])
    assert not (tmp_path / "flat").exists()
    (output / RECALL_FILE).write_text('{"value": "x"}')
    with pytest.raises(InputError, match=f"{output / RECALL_FILE}: .*; remove it"):
        DenseIndex(output)


@pytest.mark.parametrize("folder", ["IVF64,Flat"], indirect=True)
def test_what_cannot_be_reached_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = DenseIndex(folder)
    with pytest.raises(InputError, match=r"--recall 0\.9: this needs at least two queries"):
        index.reach(0.9, QUERIES[:1], HITS, folder)
    monkeypatch.setattr(recall_module, "_recall", lambda *_: 0.75)
    with pytest.raises(
        InputError, match=r"--recall 0\.9: .*index does not reach it \(the largest nprobe, 64, finds 0\.7500"
    ):
        index.reach(0.9, QUERIES, HITS, folder)
    assert not (folder / RECALL_FILE).exists()


@pytest.mark.parametrize("count", [1, 2, 511, 512, 513, 10_000])
def test_a_sample_is_spread_over_all(count: int) -> None:
    places = spread(count)
    assert len(places) == min(count, recall_module.SAMPLE) and places[0] == 0
    assert places[-1] == count - 1 or count == 1
