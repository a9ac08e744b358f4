"""`python -m taco_ir.submission`: a record for every query of the topics, in their order, as KILT's scorer reads it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verbs import Record, module_of, passage, query, write_collection, write_lines

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import rank_pages, read_kilt
from taco_ir.core.types import Query, Run, run_id
from taco_ir.evaluation.submission import build_outputs, build_submission
from taco_ir.submission import main

search = module_of("search")

PASSAGES = [passage(f"{page}#{n}", f"word{page} number{n} and all", f"T{page}") for page in range(8) for n in (0, 1)]
NQ: list[Record] = [{"id": "q 1", "input": "word1 word3"}, {"id": "q2", "input": "word2 number1"}]
FEVER: list[Record] = [{"id": "7", "input": "word4 and all"}]
NQ_RUN = {"q_1": ["3#1", "3#0", "1#0", "5#0", "6#0", "7#0"], "q2": ["2#1", "2#0"]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "taco_ir")
    write_collection(
        tmp_path / "c",
        PASSAGES,
        {"nq-test_without_answers-kilt": NQ, "fever-test": FEVER, "nq-dev": [query("d", "word1", ["1#0"])]},
    )
    return tmp_path


def write_run(path: str, run: dict[str, list[str]]) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{qid} Q0 {docid} {rank} {100 - rank} t\n"
        for qid, docids in run.items()
        for rank, docid in enumerate(docids, 1)
    ]
    Path(path).write_text("".join(lines))
    return path


def submit(*runs: str, topics: Sequence[str] = ("all-test",), output: str = "s.zip") -> dict[str, list[Any]]:
    """Run the verb; the records of each file of the zip."""
    main(["--runs", *runs, "--topics", *topics, "--collection", "c", "--output", output])
    with zipfile.ZipFile(output) as archive:
        assert archive.testzip() is None
        return {name: [json.loads(line) for line in archive.read(name).splitlines()] for name in archive.namelist()}


def refused(*runs: str, topics: Sequence[str] = ("all-test",), output: str = "s.zip") -> str:
    with pytest.raises(InputError) as error:
        submit(*runs, topics=topics, output=output)
    assert "\n" not in str(error.value) and not list(Path().glob("*.part"))
    return str(error.value)


@given(
    st.dictionaries(
        st.text("ab c", min_size=1, max_size=4).filter(str.strip), st.lists(st.text("12", min_size=1), unique=True)
    )
)
def test_every_query_has_one_record_in_the_order_of_the_topics(pages_of: dict[str, list[str]]) -> None:
    pages_of = {
        record_id: pages_of[record_id]
        for record_id in {run_id(record_id): record_id for record_id in pages_of}.values()
    }
    queries = [Query(run_id(record_id), "text", "nq", record_id=record_id) for record_id in pages_of]
    run = Run({query.qid: rank_pages(pages_of[query.record_id]) for query in reversed(queries)}, level="page")
    records = [json.loads(line) for line in build_submission(queries, run, build_outputs(run), "r").splitlines()]
    assert [record["id"] for record in records] == list(pages_of)
    for record in records:
        (output,) = record["output"]
        assert output == {"answer": "", "provenance": [{"wikipedia_id": page} for page in pages_of[record["id"]]]}


def test_trec_runs_become_pages_under_the_test_sets_names(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("runs/nq-test.trec", NQ_RUN)
    write_run("runs/fever-test.trec", {"7": ["4#0", "0#0", "1#0", "2#0", "3#1", "4#1"]})
    files = submit("runs")
    assert list(files) == ["fever-test.jsonl", "nq-test_without_answers-kilt.jsonl"]
    assert [(record["id"], record["input"]) for record in files["nq-test_without_answers-kilt.jsonl"]] == [
        ("q 1", "word1 word3"),
        ("q2", "word2 number1"),
    ]
    pages = [
        [entry["wikipedia_id"] for entry in record["output"][0]["provenance"]]
        for record in files["nq-test_without_answers-kilt.jsonl"]
    ]
    assert pages == [["3", "1", "5", "6", "7"], ["2"]]
    assert "1 of 2 queries, first 'q2', have fewer than 5 pages, 0 of them none" in caplog.text
    assert capsys.readouterr().out == "s.zip: 2 files, 3 queries: fever-test.jsonl nq-test_without_answers-kilt.jsonl\n"


def test_what_search_writes_can_be_submitted_in_either_format(folder: Path) -> None:
    """Test topics have no evidence: search writes their runs and prints no scores."""
    argv = ["--collection", "c", "--topics", "all-test", "--retriever", "bm25"]
    search.main([*argv, "--output", "trec/"])
    search.main([*argv, "--output", "kilt/", "--output-format", "kilt"])
    assert submit("trec") == submit("kilt", output="k.zip")
    assert Path("s.zip").read_bytes() == Path("k.zip").read_bytes()


def test_search_of_test_topics_writes_runs_without_scores(capsys: pytest.CaptureFixture[str], tiny_bert: Path) -> None:
    search.main(["--collection", "c", "--topics", "nq-test", "--model", str(tiny_bert), "--pooling", "mean"])
    (path,) = Path("runs/c").glob("*.trec")
    assert path.name == "nq-test.tiny-bert.trec" and len(path.read_text().splitlines()) == 2 * len(PASSAGES)
    assert capsys.readouterr().out == ""
    assert json.loads(path.with_name(path.name + ".json").read_text())["topics"]["name"] == "nq-test"
    (name, records), *_ = submit(str(path), topics=["nq-test"]).items()
    assert name == "nq-test_without_answers-kilt.jsonl" and [
        len(each["output"][0]["provenance"]) for each in records
    ] == [8, 8]


def test_kilt_runs_stay_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    """Answers and remarks of a reader are kept; the order becomes that of the topics, and an answer is always there."""
    given: dict[str, Any] = {
        "answer": "Bern",
        "provenance": [{"wikipedia_id": "2", "title": "T2"}, {"wikipedia_id": 1}],
        "score": 0.5,
    }
    write_lines(
        Path("k/nq-test.mine.jsonl"), [{"id": "q2", "output": [given]}, {"id": "q 1", "output": [{"provenance": []}]}]
    )
    (records,) = submit("k/nq-test.mine.jsonl", topics=["nq-test"]).values()
    assert [record["output"] for record in records] == [[{"answer": "", "provenance": []}], [given]]
    assert "2 of 2 queries, first 'q2', have fewer than 5 pages, 1 of them none" in caplog.text


def test_equal_runs_give_equal_bytes_and_any_kilt_reader_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    write_run("nq-test.mine.trec", NQ_RUN)
    submit("nq-test.mine.trec", topics=["nq-test"])
    monkeypatch.setattr("time.time", lambda: 2e9)
    submit("nq-test.mine.trec", topics=["nq-test"], output="later.zip")
    assert Path("s.zip").read_bytes() == Path("later.zip").read_bytes()
    with zipfile.ZipFile("s.zip") as archive:
        archive.extractall("out")
    assert read_kilt(Path("out/nq-test_without_answers-kilt.jsonl")).rankings["q2"].docids == ["2"]


def test_an_output_that_exists_is_kept() -> None:
    write_run("nq-test.mine.trec", NQ_RUN)
    Path("s.zip").write_text("mine")
    assert "--output s.zip exists; give another name or --overwrite" in refused("nq-test.mine.trec", topics=["nq-test"])
    assert Path("s.zip").read_text() == "mine"
    main(
        ["--runs", "nq-test.mine.trec", "--topics", "nq-test", "--collection", "c", "--output", "s.zip", "--overwrite"]
    )
    assert zipfile.is_zipfile("s.zip")


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"q_1": ["1#0"]}, "nq-test: 1 of 2 queries ('q2') are not in the run, and KILT needs a record for each"),
        (NQ_RUN | {"q9": ["1#0"]}, "1 of the run's 3 queries, such as 'q9', are not among the 2 queries"),
        (NQ_RUN | {"q2": ["2#0", "2#0"]}, "nq-test.mine.trec, line 8: docid '2#0' is given twice for query 'q2'"),
        (
            NQ_RUN | {"q2": ["2#0", "x#0"]},
            "1 of 8 docids, such as 'x#0', are not in collection c; it is a run of another collection",
        ),
    ],
)
def test_runs_of_anything_else_are_refused(run: dict[str, list[str]], said: str) -> None:
    write_run("nq-test.mine.trec", run)
    assert said in refused("nq-test.mine.trec", topics=["nq-test"])
    assert not Path("s.zip").exists()


def test_the_first_missing_queries_are_named() -> None:
    queries = [Query(f"q{n}", "text", "nq") for n in range(9)]
    run = Run({"q0": rank_pages(["1"])}, level="page")
    with pytest.raises(InputError, match=r"r: 8 of 9 queries \('q1', 'q2', 'q3', \.\.\.\) are not in the run"):
        build_submission(queries, run, build_outputs(run), "r")


def test_mistakes() -> None:
    write_run("nq-test.a.trec", NQ_RUN)
    write_run("nq-test.b.trec", NQ_RUN)
    assert "these are runs of 2 systems (a, b); give the runs of one" in refused(
        "nq-test.a.trec", "nq-test.b.trec", topics=["nq-test"]
    )
    assert "system 'a' has no run for fever-test" in refused("nq-test.a.trec")
    assert "--output s.tar: the name must end in .zip" in refused("nq-test.a.trec", output="s.tar")
    assert "no such file" in refused("nowhere.trec")
    repeated = [{"id": "q2", "output": [{"provenance": []}]}] * 2
    write_lines(Path("nq-test.k.jsonl"), repeated)
    assert "line 2: id 'q2' was given on line 1" in refused("nq-test.k.jsonl", topics=["nq-test"])
