"""Collections, queries and judgments in others' layouts, from a command to its table."""

import json
import re
import shutil
from pathlib import Path

import ir_measures
import pytest
from layouts import GRADES, MADE, QUERIES, TEXTS, beir, parquet, tevatron
from verbs import module_of

from taco_ir.core.files import InputError
from taco_ir.data.__main__ import main as data
from taco_ir.data.collection import open_collection

evaluate, search, train = map(module_of, ("evaluate", "search", "train"))

GRADED = {
    "nDCG@10": "nDCG@10",
    "MRR@10": "RR@10",
    "RR(rel=2)@10": "RR(rel=2)@10",
    "R@20": "R@20",
    "R@100": "R@100",
    "AP": "AP",
    "Judged@10": "Judged@10",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(tiny_bert: Path) -> list[str]:
    return ["--model", str(tiny_bert), "--pooling", "mean", "--normalize"]


def table(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The last row of a table that was printed as JSON, by column."""
    return json.loads(capsys.readouterr().out)["rows"][-1]  # type: ignore[no-any-return]


def by_ir_measures(qrels: Path, run: Path) -> dict[str, float]:
    measures = {ir_measures.parse_measure(name): ours for ours, name in GRADED.items()}
    found = ir_measures.calc_aggregate(
        list(measures), ir_measures.read_trec_qrels(str(qrels)), ir_measures.read_trec_run(str(run))
    )
    return {measures[measure]: value for measure, value in found.items()}


def trec_qrels(path: Path) -> Path:
    rows = [(qid, docid, grade) for qid, grades in GRADES.items() for docid, grade in grades.items()]
    path.write_text("".join(f"{qid} 0 {docid} {grade}\n" for qid, docid, grade in rows))
    return path


@pytest.mark.parametrize("name", ["beir", "msmarco"])
def test_scores_are_those_of_ir_measures(
    name: str, folder: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    place = MADE[name][0](folder / "made")
    (topics,) = map(str, open_collection(place).topics_names)
    search.main(["--collection", place, "--topics", topics, "--output", "out.trec", "--no-compare", *model])
    hits = [line.split()[:3] for line in (folder / "out.trec").read_text().splitlines()]
    assert sorted(hits) == [[qid, "Q0", docid] for qid in GRADES for docid in TEXTS]
    worse = {"q1": ["d2", "d3", "d1"], "q2": ["d3", "d2"]}
    rows = [(qid, docid, rank) for qid, docids in worse.items() for rank, docid in enumerate(docids, 1)]
    (folder / "out.trec").write_text("".join(f"{qid} Q0 {docid} {rank} {-rank} x\n" for qid, docid, rank in rows))
    capsys.readouterr()
    qrels = trec_qrels(folder / "qrels.txt")
    expected = by_ir_measures(qrels, folder / "out.trec")
    assert len(set(expected.values())) > 2  # values that could be confused would prove little
    for arguments in (["--collection", place, "--topics", topics], ["--qrels", str(qrels)]):
        evaluate.main(["out.trec", *arguments, "--format", "json", "--measures", *GRADED])
        row = table(capsys)
        assert {name: row[f"passage {name}"] for name in GRADED} == pytest.approx(expected, abs=1e-6)
        assert not any(column.startswith("page") for column in row)


def test_queries_of_a_file_are_searched_and_scored_by_judgments_of_a_file(
    folder: Path, model: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    place = parquet(folder / "made")
    (folder / "queries.tsv").write_text("".join(f"{qid}\t{text}\n" for qid, text in QUERIES.items()))
    qrels = str(trec_qrels(folder / "qrels.txt"))
    arguments = ["--collection", place, "--topics", "queries.tsv", "--qrels", qrels, "--output", "out.trec"]
    search.main([*arguments, "--no-compare", "--format", "json", *model])
    assert table(capsys)["passage nDCG@10"] == pytest.approx(
        by_ir_measures(Path(qrels), folder / "out.trec")["nDCG@10"], abs=1e-6
    )
    (folder / "others.txt").write_text("q9 0 d1 1\n")
    (folder / "passages.txt").write_text("q1 0 e1 1\nq1 0 e2 1\n")
    with pytest.raises(InputError, match="--qrels passages.txt: 2 of 2 passages .*, first 'e1', are not in collection"):
        search.main([*arguments[:5], "passages.txt", "--no-compare", *model])
    (folder / "passages.txt").write_text("q1 0 d1 1\nq1 0 e2 1\n")
    search.main([*arguments[:5], "passages.txt", "--no-compare", *model])
    assert "passages.txt: 1 of 2 passages that it judges, first 'e2', are not in collection corpus" in caplog.text
    with pytest.raises(InputError, match="--qrels others.txt: none of its 1 queries, first 'q9', is in queries"):
        search.main([*arguments[:5], "others.txt", "--no-compare", *model])


def with_train(name: str, folder: Path) -> str:
    """A collection of a layout, with train queries."""
    place = MADE[name][0](folder)
    for path in Path(place).rglob("*.tsv"):
        if path.name in ("test.tsv", "queries.dev.small.tsv", "qrels.dev.small.tsv"):
            kind = path.name.partition(".")[0]
            shutil.copy(path, path.with_name("train.tsv" if kind == "test" else f"{kind}.train.tsv"))
    return place


@pytest.mark.parametrize("name", ["beir", "msmarco", "tevatron", "dpr", "triples"])
def test_a_step_is_trained_on_each_and_its_model_searches_it(
    name: str, folder: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    place = with_train(name, folder / "made")
    arguments = ["--collection", place, "--output", "out", "--steps", "1", "--batch-size", "2", *model]
    train.main(
        [*arguments, "--negatives", "none", "--hard-negatives", "0", "--passage-length", "40", "--query-length", "24"]
    )
    (topics,) = (str(each) for each in open_collection(place).topics_names if each.split == "train")
    asked = ["--collection", place, "--topics", topics]
    search.main([*asked, "--model", "out/model", "--no-compare", "--output", "out.trec"])
    capsys.readouterr()
    evaluate.main(["out.trec", *asked, "--format", "json"])
    assert table(capsys)["passage R@20"] == 1.0


def test_given_hard_negatives_are_trained_on(
    folder: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With one hard negative of its own for each query the loss is another than without."""
    common = ["--collection", tevatron(folder / "made"), "--steps", "1", "--batch-size", "2", *model]
    common += ["--passage-length", "40", "--query-length", "24"]
    train.main([*common, "--output", "given", "--negatives", "given", "--hard-negatives", "1"])
    train.main([*common, "--output", "none", "--negatives", "none", "--hard-negatives", "0"])
    losses = [json.loads((folder / name / "log.jsonl").read_text().splitlines()[-1]) for name in ("given", "none")]
    assert losses[0]["loss"] != losses[1]["loss"]
    with pytest.raises(
        InputError, match="negatives is 'given', but scifact-train lists no hard negatives; choose bm25, ance or"
    ):
        place = beir(folder / "without")
        (Path(place) / "qrels" / "train.tsv").write_bytes((Path(place) / "qrels" / "test.tsv").read_bytes())
        train.main(["--collection", place, *common[2:], "--output", "bare", "--negatives", "given"])


def test_what_was_recognised_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(["list", "--collection", beir(folder)])
    shown = capsys.readouterr().out
    assert "BEIR folder" in shown
    assert "scifact-test" in shown


def test_columns_are_a_flag_of_every_verb_with_a_collection(
    folder: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed (taco_ir[hf])")
    datasets.Dataset.from_dict({"doc no": ["7"], "body": ["one"]}).to_parquet(str(folder / "docs.parquet"))
    arguments = ["--collection", "docs.parquet", "--columns", "id=doc no", "text=body", "--query", "x"]
    search.main([*arguments, "--format", "json", *model])
    assert table(capsys)["docid"] == "7"
    with pytest.raises(InputError, match="--columns 'body' is not ROLE=NAME, such as text=body"):
        search.main(["--collection", "docs.parquet", "--columns", "body", "--query", "x"])
    with pytest.raises(InputError, match="--columns has an effect only with --collection"):
        search.main(["--columns", "id=doc no", "--query", "x"])


def test_a_run_in_another_form_has_the_scores_of_one_in_trecs(
    folder: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    place = beir(folder / "made")
    asked = ["--collection", place, "--topics", "scifact-test"]
    rows = []
    for form, name in (("trec", "out.trec"), ("dpr", "out.json"), ("kilt", "out.jsonl"), ("msmarco", "out.tsv")):
        search.main([*asked, "--no-compare", *model, "--output", name, "--output-format", form])
        capsys.readouterr()
        evaluate.main([name, *asked, "--format", "json"])
        rows.append(table(capsys))
    assert rows == rows[:1] * 4 and None not in rows[0].values()
    qrels = ["--qrels", str(trec_qrels(folder / "qrels"))]
    evaluate.main(["out.jsonl", *qrels, "--format", "json"])  # its pages are passages here
    assert table(capsys) == rows[0] | {"topics": "qrels"}
    with pytest.raises(InputError, match="out.json: DPR's output has no query ids; give --topics"):
        evaluate.main(["out.json", *qrels])
    with pytest.raises(InputError, match="out.json, record 1: question .* is not among the 1 queries of the topics"):
        (folder / "other.tsv").write_text("q1\tanother question\n")
        evaluate.main(
            ["out.json", "--collection", place, "--topics", "other.tsv", "--qrels", str(trec_qrels(folder / "q"))]
        )


@pytest.mark.parametrize("name", ["bom.trec", "crlf.trec", "exp.trec", "gz.trec.gz", "msm.tsv", "neg.trec"])
def test_runs_of_the_wild_are_read(name: str, capsys: pytest.CaptureFixture[str], inputs: Path) -> None:
    evaluate.main([str(inputs / "runs" / name), "--qrels", str(inputs / "runs" / "qrels.txt"), "--format", "json"])
    assert table(capsys)["passage MRR@10"] == 1.0


def test_commas_in_a_run_are_named(inputs: Path) -> None:
    with pytest.raises(
        InputError, match="comma.trec, line 1: columns separated by commas; a TREC run separates them by"
    ):
        evaluate.main([str(inputs / "runs" / "comma.trec"), "--qrels", str(inputs / "runs" / "qrels.txt")])


@pytest.mark.parametrize("name", ["beir", "msm", "dpr3", "gzt", "bom", "empty", "tev/train.jsonl"])
def test_collections_of_the_wild_are_opened(name: str, inputs: Path) -> None:
    opened = open_collection(str(inputs / name))
    assert opened.passages.count
    assert all(opened.topics(str(topics)).queries for topics in opened.topics_names)


def test_a_run_of_more_queries_than_are_judged_is_scored_on_these(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "half.txt").write_text("q1 0 d1 1\n")
    (folder / "out.trec").write_text("q1 Q0 d1 1 2 x\nq2 Q0 d1 1 2 x\n")
    evaluate.main(["out.trec", "--qrels", "half.txt", "--measures", "P@1", "--format", "json"])
    assert table(capsys)["passage P@1"] == 1.0
    assert "out.trec: 1 of its 2 topics, first 'q2', are not judged in half; they are left out" in caplog.text


def test_a_run_and_judgments_of_one_name_leave_a_name_for_the_system(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "half.tsv").write_text("q1 0 d1 1\n")
    (folder / "half.trec").write_text("q1 Q0 d1 1 2 x\n")
    evaluate.main(["half.trec", "--qrels", "half.tsv", "--measures", "P@1", "--format", "json"])
    assert table(capsys) == {"topics": "half", "system": "half", "passage P@1": 1.0}


def test_a_run_without_any_judged_hit_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "qrels.txt").write_text("q1 0 d1 1\n")
    for docid, told in (("e1", True), ("d1", False)):
        (folder / "out.trec").write_text(f"q1 Q0 {docid} 1 2 x\n")
        caplog.clear()
        evaluate.main(["out.trec", "--qrels", "qrels.txt"])
        assert ("out.trec: none of its hits is judged in qrels; do both use the same docids?" in caplog.text) == told


def test_a_run_of_other_passages_or_queries_is_told(
    folder: Path, model: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """...by the record beside it, where its docids are known all the same."""
    place = Path(beir(folder / "made"))
    asked = ["--collection", str(place), "--topics", "scifact-test"]
    search.main([*asked, "--no-compare", *model, "--output", "out.trec"])
    evaluate.main(["out.trec", *asked])
    assert "search again" not in caplog.text
    for file, what in (("corpus.jsonl", "collection scifact"), ("queries.jsonl", "topics scifact-test")):
        before = (place / file).read_text()
        (place / file).write_text(before.replace("cello", "violin"))
        evaluate.main(["out.trec", *asked])
        assert f"out.trec: made of {what} with fingerprint" in caplog.messages[-1]
        (place / file).write_text(before)


def test_where_topics_would_be_is_told(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = r"no topics: .*notopics has no file <task>-<split>.jsonl.*; it has 'nq-validation.jsonl, nq_dev.jsonl'"
    with pytest.raises(InputError, match=f"topics nq-dev: collection notopics has {said}"):
        search.main(["--collection", str(inputs / "notopics"), "--topics", "nq-dev"])
    data(["list", "--collection", str(inputs / "notopics")])
    assert re.search(said, capsys.readouterr().out)


@pytest.mark.parametrize("measure", ["P@0", "nDCG@0", "Judged@0", "MRR@0", "AP@9999999999", "ERR@10"])
def test_measures_that_cannot_be_computed_are_refused(measure: str, folder: Path) -> None:
    (folder / "qrels.txt").write_text("q1 0 d1 1\n")
    (folder / "out.trec").write_text("q1 Q0 d1 1 2 x\n")
    with pytest.raises(InputError, match=f"measure '{measure}' is not known"):
        evaluate.main(["out.trec", "--qrels", "qrels.txt", "--measures", measure])
