"""What ranks remembers nothing that another question could be answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from verbs import passage, query, write_collection, write_lines

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import read_trec
from taco_ir.core.types import Query, Ranking, Run
from taco_ir.data.collection import Topics, open_collection
from taco_ir.retrieval.retrievers import BATCH, BM25Retriever, FusionRetriever, Ranker
from taco_ir.search import main

WORDS = ("painter", "poem", "king", "music", "novel")


@pytest.fixture
def collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    passages = [passage(f"{n}#0", f"the {word} of the year") for n, word in enumerate(WORDS)]
    return write_collection(tmp_path / "c", passages, {"nq-dev": [query("q", "the king", ["2#0"])]})


class Echo(Ranker):
    """Finds for each query the passage of its own text."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def inputs(self) -> dict[str, Any]:
        return {}

    def search(self, topics: Topics, hits: int) -> Run:
        return Run({each.qid: Ranking([each.text][:hits], np.ones(1, dtype=np.float32)) for each in topics.queries})


def one(text: str) -> Topics:
    return Topics("query", "nq", [Query("query", text, "nq")])


def best(retriever: Ranker, word: str) -> str:
    return retriever.search(one(word), 1).rankings["query"].docids[0]


def test_each_query_gets_hits_of_its_own(collection: Path, tiny_bert: Path) -> None:
    """One name and one number of hits, other texts: what a notebook asks a system for, again and again."""
    bm25 = BM25Retriever(open_collection(str(collection)))
    assert [best(bm25, word) for word in WORDS] == [f"{n}#0" for n in range(len(WORDS))]
    hybrid = FusionRetriever([bm25])
    assert [best(hybrid, word) for word in WORDS] == [f"{n}#0" for n in range(len(WORDS))]


@pytest.mark.parametrize("queries", [BATCH - 1, BATCH, 2 * BATCH + 452])
def test_a_hybrid_ranks_all_queries_in_parts(queries: int) -> None:
    hybrid = FusionRetriever([Echo("one"), Echo("two")])
    topics = Topics("nq-train", "nq", [Query(f"q{n}", f"text {n}", "nq") for n in range(queries)])
    for runs in (hybrid.search_batches(topics, 5), [hybrid.search(topics, 5)]):
        found = {qid: ranking.docids for run in runs for qid, ranking in run.rankings.items()}
        assert found == {each.qid: [each.text] for each in topics.queries}


def test_a_hybrid_searches_each_of_its_systems_once() -> None:
    """Compared with its parts, it takes their runs as they are."""
    asked: list[str] = []

    class Noted(Echo):
        def search(self, topics: Topics, hits: int) -> Run:
            asked.append(self.name)
            return super().search(topics, hits)

    hybrid = FusionRetriever([Noted("one"), Noted("two")])
    runs = hybrid.complete_runs(hybrid.search_each(one("a"), 5), one("a"), 5)
    assert (list(runs), asked) == (["one", "two", "hybrid"], ["one", "two"])
    of_one = Noted("one").search_each(one("a"), 5)
    assert set(hybrid.complete_runs(of_one, one("a"), 5)) == {"one", "two", "hybrid"}
    assert asked == ["one", "two", "one", "two"]


def test_topics_files_of_one_name_are_told_apart_or_refused(collection: Path, tiny_bert: Path) -> None:
    """Both would be written to `x.trec`; searched one by one, each gets its own hits."""
    for folder, word in (("a", "king"), ("b", "poem")):
        write_lines(Path(folder) / "x.jsonl", [query("q", word) | {"task": "nq"}])
    search = ["--collection", str(collection), "--retriever", "bm25", "--hits", "1", "--no-compare"]
    with pytest.raises(InputError, match=r"topics a/x\.jsonl and b/x\.jsonl are both called 'x'"):
        main([*search, "--topics", "a/x.jsonl", "b/x.jsonl", "--output", "runs/"])
    assert not Path("runs").exists()
    for folder, docid in (("a", "2#0"), ("b", "1#0")):
        main([*search, "--topics", f"{folder}/x.jsonl", "--output", f"{folder}.trec"])
        assert read_trec(Path(f"{folder}.trec")).rankings["q"].docids == [docid]
    with pytest.raises(InputError, match="are both called 'nq-dev'"):
        open_collection(str(collection)).expand(["nq-dev", "elsewhere/nq-dev.jsonl"])
