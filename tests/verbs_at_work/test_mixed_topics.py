"""Queries of several tasks in one file: one search of one index, each query by what its own task has."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from adapter_models import made
from verbs import module_of

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import read_trec
from taco_ir.data.collection import open_collection
from taco_ir.retrieval import retrievers

evaluate, search = map(module_of, ("evaluate", "search"))

NAMES = ("fever-dev", "nq-dev", "wow-dev")


def saved(folder: Path, base: Path) -> Path:
    """A module for each of three tasks and one for passages; scores are cosines."""
    made(base, normalize=True).save(folder)
    return folder


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """The queries of three tasks, one of each in turn, `task` by any of its names."""
    collection = open_collection("sample")
    files = [collection.topics_path(name).read_text(encoding="utf-8").splitlines() for name in NAMES]
    lines = [
        json.dumps(json.loads(line) | {"task": {"fever": "FEV"}.get(task, task)})
        for row in zip(*files, strict=False)
        for line, task in zip(row, ("fever", "nq", "wow"), strict=True)
    ]
    path = tmp_path / "all-sorts.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_mixed_file_ranks_as_each_tasks_own(
    tiny_bert: Path, tmp_path: Path, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A module for each task: scores are equal to 1e-6, and differ from those of another task's module by far more."""
    model = saved(tmp_path / "model", tiny_bert)
    flags = ["--model", str(model), "--no-compare", "--hits", "20", "--output"]
    search.main(["--topics", *NAMES, *flags, f"{tmp_path}/alone/"])
    search.main(["--topics", str(mixed), *flags, f"{tmp_path}/mixed.trec"])
    found = read_trec(tmp_path / "mixed.trec").rankings
    alone = {name: read_trec(tmp_path / "alone" / f"{name}.trec").rankings for name in NAMES}
    assert len(found) == 3 * min(map(len, alone.values()))
    for qid, ranking in found.items():
        (own,) = (rankings[qid] for rankings in alone.values() if qid in rankings)
        np.testing.assert_allclose(ranking.scores, own.scores, rtol=0, atol=1e-6)
        score_of = dict(zip(own.docids, own.scores.tolist(), strict=True))
        assert all(
            abs(score - score_of.get(docid, min(own.scores))) < 1e-5
            for docid, score in zip(ranking.docids, ranking.scores, strict=True)
        )
    lines = [json.loads(line) | {"task": "nq"} for line in mixed.read_text(encoding="utf-8").splitlines()]
    (tmp_path / "as-nq.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    search.main(["--topics", f"{tmp_path}/as-nq.jsonl", *flags, f"{tmp_path}/as-nq.trec"])
    other = read_trec(tmp_path / "as-nq.trec").rankings
    assert max(abs(float(found[qid].scores[0] - other[qid].scores[0])) for qid in found) > 1e-3
    capsys.readouterr()
    evaluate.main([f"{tmp_path}/mixed.trec", "--topics", str(mixed), "--format", "json"])
    assert json.loads(capsys.readouterr().out)["rows"][0]["topics"] == "all-sorts"


def test_every_record_names_its_task(tmp_path: Path, mixed: Path) -> None:
    collection = open_collection("sample")
    topics = collection.load_topics(str(mixed))
    assert (topics.name, topics.task) == ("all-sorts", "") and {query.task for query in topics.queries} == {
        "fever",
        "nq",
        "wow",
    }
    assert collection.expand(["nq-dev", str(mixed), str(mixed)]) == ["nq-dev", str(mixed)]
    mixed.write_text('{"id": "1", "input": "who", "task": "nq"}\n{"id": "2", "input": "where"}\n', encoding="utf-8")
    with pytest.raises(
        InputError, match=r"all-sorts.jsonl, line 2: task is None; in a file of several tasks, each record needs"
    ):
        collection.load_topics(str(mixed))
    with pytest.raises(InputError, match="missing.jsonl: no such file"):
        collection.load_topics(f"{tmp_path}/missing.jsonl")


def test_a_file_called_as_those_of_collections_are_is_of_that_task(tmp_path: Path) -> None:
    """Elsewhere, and without tasks in its records; where they name tasks, these count."""
    collection, file = open_collection("sample"), tmp_path / "zsre-dev.jsonl"
    file.write_text('{"id": "1", "input": "who"}\n', encoding="utf-8")
    topics = collection.load_topics(str(file))
    assert (topics.name, topics.task) == ("zsre-dev", "structured_zeroshot")
    assert [query.task for query in topics.queries] == ["structured_zeroshot"]
    file.write_text('{"id": "1", "input": "who", "task": "nq"}\n', encoding="utf-8")
    assert [query.task for query in collection.load_topics(str(file)).queries] == ["nq"]


def test_a_task_without_a_module_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", tiny_bert)
    (tmp_path / "new.jsonl").write_text('{"id": "1", "input": "x", "task": "trex"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="adapters for queries of tasks fever, nq, wow, but not of task 'trex'$"):
        search.main(f"--topics {tmp_path}/new.jsonl --model {model} --no-compare --output {tmp_path}/x.trec".split())


def test_a_single_query_takes_its_task_s_module(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """...where the model has no prompts as well; without --task the error names the flag."""
    made(tiny_bert, prompts=False).save(tmp_path / "model")
    asked = ["--query", "who came first", "--model", str(tmp_path / "model")]
    said = r"adapters for queries of tasks fever, nq, wow, but not of task ''; name the task of --query with --task$"
    for name in ("dense", "hybrid"):  # before an index is built
        with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match=said):
            for build in ("build_dense", "build_bm25"):
                patch.setattr(retrievers, build, lambda *_: pytest.fail("an index is built"))
            search.main([*asked, "--retriever", name])
    search.main([*asked, "--task", "FEV"])
    assert "  1  " in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:  # which may be said later
        patch.setattr("sys.stdin", io.StringIO("who came\n/task FEV\nwho came\n"))
        search.main(["--interactive", *asked[2:]])
    printed = capsys.readouterr()
    assert printed.out.count("  1  ") == 1 and "name the task of --query with --task" in printed.err
