"""`python -m taco_ir.evaluate`: values against hand computation, KILT's own script and trec_eval; tables and tests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from verbs import Record, module_of, passage, query, write_collection, write_lines

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import numbered_lines
from taco_ir.data.collection import open_collection
from taco_ir.data.passage_store import PassageStore
from taco_ir.evaluate import main
from taco_ir.leaderboard import main as leaderboard
from taco_ir.studies import records
from taco_ir.studies.scores import score_runs

search = module_of("search")

ALL = ["Rprec", "recall@5", "success@5", "precision@1", "MRR@10", "R@20", "nDCG@10"]
PASSAGES = [passage(f"{page}#{n}", f"text {n} of {page}") for page in "ABCDE" for n in (0, 1)]
NQ = [
    query("q1", "first", ["A#0"], ["B#0"]),  # either page answers
    query("q2", "second", ["C#0", "D#0"]),  # both pages are needed
    query("q3", "third", ["E#0"]),
]
FEVER = [query("f1", "one", ["A#0"]), query("f2", "two", ["E#1"])]
RUN = {"q1": ["B#1", "A#0", "B#0"], "q2": ["C#0", "E#0", "D#1", "A#0"]}  # q3 has no hits
LOG3 = 1 / math.log2(3)
IDEAL = 1 + LOG3  # DCG of two relevant passages at the top
# By hand. q1: pages B, A: each is a set of its own. q2: pages C, E, D, A: one of the first two is in the set of two;
# the set is complete at D, so the first entry of KILT's list is E. Passages: A#0 and B#0 at ranks 2 and 3; C#0 at 1.
BY_HAND: dict[str, dict[str, float]] = {
    "q1": dict(zip(ALL, (1, 1, 1, 1, 1 / 2, 1, (LOG3 + 1 / 2) / IDEAL), strict=True)),
    "q2": dict(zip(ALL, (1 / 2, 1, 1, 0, 1, 1 / 2, 1 / IDEAL), strict=True)),
    "q3": dict.fromkeys(ALL, 0),
}
OF_PASSAGES = ("MRR@10", "R@20", "R@100", "nDCG@10")


def printed(measure: str) -> str:
    return f"passage {measure}" if measure in OF_PASSAGES else f"page {measure.replace('Rprec', 'R-precision')}"


def write_run(path: Path, run: Mapping[str, Sequence[str]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            f"{qid} Q0 {docid} {rank} {100 - rank} t\n"
            for qid, docids in run.items()
            for rank, docid in enumerate(docids, 1)
        )
    )
    return str(path)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_collection(tmp_path / "c", PASSAGES, {"nq-dev": NQ, "fever-dev": FEVER})
    write_run(tmp_path / "nq-dev.mine.trec", RUN)
    write_run(tmp_path / "fever-dev.mine.trec", {"f1": ["A#0"], "f2": ["E#1"]})
    return tmp_path


@pytest.fixture
def tables(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the verb with --format json, and parse all of its standard output; arguments are split at blanks."""

    def run(*argv: str) -> Any:
        main(f"{' '.join(argv)} --collection c --format json".split())
        return json.loads(capsys.readouterr().out)

    return run


def test_values_by_hand(tables: Any, caplog: pytest.LogCaptureFixture) -> None:
    (row,) = tables("nq-dev.mine.trec --topics nq-dev --measures", *ALL)["rows"]
    for measure in ALL:
        assert row[printed(measure)] == pytest.approx(
            sum(values[measure] for values in BY_HAND.values()) / 3, abs=1e-9
        ), measure
    assert "mine has no hits for 1 of 3 queries of nq-dev; they score 0" in caplog.text


def test_per_query_rows_average_to_the_means(tables: Any) -> None:
    per_query = tables("nq-dev.mine.trec --topics nq-dev --measures", *ALL, "--per-query")["rows"]
    assert [row["query"] for row in per_query] == ["q1", "q2", "q3"]
    for row in per_query:
        assert {measure: row[printed(measure)] for measure in ALL} == pytest.approx(BY_HAND[row["query"]], abs=1e-9)
    (mean,) = tables("nq-dev.mine.trec --topics nq-dev --measures", *ALL)["rows"]
    for measure in map(printed, ALL):
        assert mean[measure] == pytest.approx(sum(row[measure] for row in per_query) / 3, abs=1e-12)


def test_kilt_run_has_the_same_page_values(tables: Any, folder: Path) -> None:
    """Pages, each at its first hit; passage measures do not exist for it."""
    pages = {qid: list(dict.fromkeys(docid[0] for docid in docids)) for qid, docids in RUN.items()}
    write_lines(
        folder / "nq-dev.pages.jsonl",
        [
            {"id": qid, "output": [{"provenance": [{"wikipedia_id": page} for page in found]}]}
            for qid, found in pages.items()
        ],
    )
    trec, kilt = tables("nq-dev.mine.trec nq-dev.pages.jsonl --topics nq-dev --measures", *ALL)["rows"]
    assert [trec[printed(measure)] for measure in ALL[:4]] == [kilt[printed(measure)] for measure in ALL[:4]]
    assert [kilt[printed(measure)] for measure in ALL[4:]] == [None] * 3


def test_macro_average_counts_each_task_once(tables: Any) -> None:
    rows = tables("nq-dev.mine.trec fever-dev.mine.trec --topics all-dev --measures Rprec MRR@10")["rows"]
    assert [(row["topics"], row["system"]) for row in rows] == [
        (name, "mine") for name in ("fever-dev", "nq-dev", "macro average")
    ]
    assert [row["page R-precision"] for row in rows] == pytest.approx([1, 1 / 2, 3 / 4])  # over queries it would be .7
    assert rows[2]["passage MRR@10"] == pytest.approx((1 + 1 / 2) / 2)


def test_a_folder_and_a_file_of_all_topics_are_systems(tables: Any, folder: Path) -> None:
    """A folder of <topics>.trec files is named by the folder; one file over several topics is split by query ids."""
    write_run(folder / "set" / "nq-dev.trec", RUN)
    write_run(folder / "set" / "fever-dev.trec", {"f1": ["A#0"], "f2": ["E#1"]})
    write_run(folder / "whole.run", RUN | {"f1": ["A#0"], "f2": ["E#1"]})
    rows = tables("set whole.run --topics all-dev --measures Rprec")["rows"]
    assert [row["system"] for row in rows] == ["set", "whole"] * 3
    assert all(
        first | {"system": ""} == second | {"system": ""} for first, second in zip(rows[::2], rows[1::2], strict=True)
    )


@pytest.mark.parametrize(
    ("form", "rule"),
    [("table", "----"), ("markdown", "| --- | --- | ---: | ---: |"), ("latex", "\\begin{tabular}{llrr}")],
)
def test_formats_for_people(form: str, rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ([], ["--baseline", "nq-dev.mine.trec"]):
        argv = f"nq-dev.mine.trec --topics nq-dev --collection c --measures Rprec nDCG@10 --format {form}".split()
        main([*argv, *extra])
        text = capsys.readouterr().out
        assert rule in text and "0.500" in text and "0.436" in text and text.count("against mine") == len(extra) // 2
        if form == "latex":
            assert text.count("\\begin{table}") == text.count("\\end{table}") == 1 + len(extra) // 2


def test_identical_runs_do_not_differ(tables: Any, folder: Path) -> None:
    write_run(folder / "nq-dev.copy.trec", RUN)
    scores, comparisons = tables("nq-dev.copy.trec --topics nq-dev --baseline nq-dev.mine.trec --measures", *ALL)
    assert [row["system"] for row in scores["rows"]] == ["mine", "copy"]
    assert {cell for row in scores["rows"] for cell in row.values() if isinstance(cell, dict)} == set()
    assert [row["measure"] for row in comparisons["rows"]] == [printed(measure) for measure in ALL]
    for row in comparisons["rows"]:
        assert (row["difference"], row["from"], row["to"], row["p"], row["p Holm"]) == (0, 0, 0, 1, 1)


@pytest.fixture
def twenty(folder: Path) -> Path:
    """Twenty queries; `good` finds all, `fair` four more than `bad`, which finds none."""
    write_collection(folder / "c", PASSAGES, {"nq-dev": [query(f"q{n}", "text", ["A#0"]) for n in range(20)]})
    for system, found in (("good", 20), ("fair", 4), ("bad", 0)):
        write_run(folder / f"nq-dev.{system}.trec", {f"q{n}": ["A#0" if n < found else "B#0"] for n in range(20)})
    return folder


def test_a_clearly_better_system_is_marked(tables: Any, twenty: Path) -> None:
    """All sign flips but 2 of 2 ** 20 are less extreme for `good`; of `fair`'s 2 ** 4 again 2 are not: p = 1/8."""
    scores, comparisons = tables(
        "nq-dev.good.trec nq-dev.fair.trec --topics nq-dev --baseline nq-dev.bad.trec --measures Rprec"
    )
    assert [row["page R-precision"] for row in scores["rows"]] == [0, {"value": 1, "mark": "*"}, 0.2]
    good, fair = comparisons["rows"]
    assert (
        (good["difference"], good["from"], good["to"]) == (1, 1, 1)
        and good["p"] < 0.001
        and good["p Holm"] == pytest.approx(2 * good["p"])
    )
    assert (
        fair["p"] == pytest.approx(1 / 8, abs=0.02)
        and fair["from"] < 0.2 < fair["to"]
        and fair["difference"] == pytest.approx(0.2)
    )
    again = tables("nq-dev.good.trec nq-dev.fair.trec --topics nq-dev --baseline nq-dev.bad.trec --measures Rprec")
    assert again == [scores, comparisons]


def test_a_pair_of_runs_has_one_p_value_whichever_verb_prints_it(
    tables: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With thirds among the values, and topics in another order than the study's."""
    queries = {
        name: [query(f"{name}{n}", "text", ["A#0", "B#0", "C#0"]) for n in range(15)] for name in ("nq", "fever")
    }
    write_collection(folder / "c", PASSAGES, {f"{name}-dev": of_task for name, of_task in queries.items()})
    for place, system in enumerate(("one", "two", "three")):
        for name in queries:
            hits = {
                f"{name}{n}": [f"{'ABCDE'[(n * (place + 1) + rank) % 5]}#0" for rank in range(1 + place)]
                for n in range(15)
            }
            write_run(folder / f"{name}-dev.{system}.trec", hits)
            write_run(folder / system / f"{name}-dev.trec", hits)
        results = score_runs(open_collection("c"), ["nq-dev", "fever-dev"], [], folder / system)
        records.write_record(
            folder / "study" / "results", records.Record(system, system, "", 0, "whole", 10, "c", results)
        )
    names = [f"{name}-dev.{system}.trec" for name in queries for system in ("two", "three")]
    baseline = ["--baseline", "nq-dev.one.trec", "fever-dev.one.trec"]
    _, evaluated = tables(*names, "--topics all-dev", *baseline, "--measures Rprec R@20")
    leaderboard([str(folder / "study"), "--baseline", "one", "--format", "json"])
    (board,) = json.loads(capsys.readouterr().out)["boards"]
    found = {(row["topics"], row["system"], row["measure"]): (row["p"], row["p Holm"]) for row in evaluated["rows"]}
    assert len(found) == 3 * 2 * 2 and any(0.001 < p < 1 for p, _ in found.values())
    assert {
        (test["topics"], test["system"], test["measure"]): (test["p"], test["p_holm"]) for test in board["comparisons"]
    } == found


def test_baseline_may_be_among_the_runs_but_not_another_run_of_that_name(tables: Any, twenty: Path) -> None:
    runs = ["nq-dev.good.trec", "nq-dev.bad.trec"]
    scores, _ = tables(*runs, "--topics nq-dev --baseline nq-dev.bad.trec --measures Rprec")
    assert [row["system"] for row in scores["rows"]] == ["bad", "good"]
    write_collection(twenty / "c", PASSAGES, {"fever-dev": FEVER})
    for system in ("good", "bad"):
        write_run(twenty / f"fever-dev.{system}.trec", {"f1": ["A#0"]})
    scores, _ = tables(
        *runs, "fever-dev.good.trec fever-dev.bad.trec --topics all-dev --baseline nq-dev.bad.trec --measures Rprec"
    )
    # one file names the system, the others are its runs
    assert [row["system"] for row in scores["rows"]] == ["bad", "good"] * 3
    write_run(twenty / "old" / "nq-dev.good.trec", {"q1": ["B#0"]})
    with pytest.raises(
        InputError, match=r"system 'good' has another run for nq-dev; give each system its own file name"
    ):
        tables("nq-dev.good.trec --topics nq-dev --baseline old/nq-dev.good.trec")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nq-dev.mine.trec", "--topics", "all-dev"], "system 'mine' has no run for fever-dev"),
        (
            ["fever-dev.mine.trec", "nq-dev.mine.trec", "--topics", "nq-dev"],
            "fever-dev.mine.trec: 2 of its 2 topics, such as 'f1', are not in --topics nq-dev",
        ),
        (["c", "--topics", "nq-dev"], "c/fever-dev.jsonl"),
        (
            ["nq-dev.mine.trec", "--topics", "nq-dev", "--baseline", "nq-dev.mine.trec", "other.trec"],
            "--baseline names 2 systems (mine, other)",
        ),
        (["empty", "--topics", "nq-dev"], "empty: no run files in it"),
        (["nq-dev.mine.trec", "--topics", "nq-dev", "--measures", "MAPS"], "measure 'MAPS' is not known"),
        (["nq-dev.mine.trec", "--topics", "fever-test"], "these topics have no gold to score against"),
    ],
)
def test_mistakes(argv: list[str], said: str, folder: Path) -> None:
    (folder / "empty").mkdir()
    write_run(folder / "other.trec", RUN)
    write_lines(folder / "c" / "fever-test.jsonl", [{"id": "t", "input": "x"}])
    with pytest.raises(InputError) as error:
        main([*argv, "--collection", "c"])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_an_msmarco_run_scores_as_its_trec_run_does(tables: Any, folder: Path) -> None:
    """As a file, and in a folder."""
    (folder / "nq-dev.ms.tsv").write_text(
        "".join(f"{qid}\t{docid}\t{rank}\n" for qid, docids in RUN.items() for rank, docid in enumerate(docids, 1))
    )
    (folder / "set").mkdir()
    (folder / "set" / "nq-dev.tsv").write_text((folder / "nq-dev.ms.tsv").read_text())
    trec, *others = tables("nq-dev.mine.trec nq-dev.ms.tsv set --topics nq-dev --measures", *ALL)["rows"]
    assert [row["system"] for row in others] == ["ms", "set"]
    assert all(row | {"system": ""} == trec | {"system": ""} for row in others)


@pytest.mark.parametrize("measures", [["Rprec"], ["MRR@10"], []])
def test_a_run_of_another_collection_is_refused_whatever_is_measured(measures: list[str], folder: Path) -> None:
    """`A#7` is no passage, though `A` is a gold page: what its name suggests is no evidence."""
    write_run(folder / "nq-dev.foreign.trec", {"q1": ["A#7", "B#0"], "q2": ["B#0", "A#7", "z"]})
    pages = [{"id": "q1", "output": [{"answer": "x", "provenance": [{"wikipedia_id": page} for page in ("A", "F")]}]}]
    write_lines(folder / "nq-dev.pages.jsonl", pages)
    of_it = [] if not measures else ["--measures", *measures]
    for name, said in (
        ("nq-dev.foreign.trec", "2 of 3 docids, such as 'A#7'"),
        ("nq-dev.pages.jsonl", "1 of 2 pages, such as 'F'"),
    ):
        for runs in ([name], ["nq-dev.mine.trec", "--baseline", name]):
            with pytest.raises(InputError) as error:
                main([*runs, "--topics", "nq-dev", "--collection", "c", *of_it])
            assert str(error.value) == f"{name}: {said}, are not in collection c; it is a run of another collection"


def test_each_docid_of_a_run_is_looked_up_once_and_few_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time and memory of scoring follow the hits, and not how many passages they are of."""
    docids = [f"{row}#0" for row in range(4000)]
    hits_of = {f"q{row}": docids[4 * row : 4 * row + 4] for row in range(1000)}
    queries = [query(qid, "text", [hits[row % 4]]) for row, (qid, hits) in enumerate(hits_of.items())]
    write_collection(tmp_path / "c", [passage(docid, "x") for docid in docids], {"nq-dev": queries})
    run = write_run(tmp_path / "nq-dev.x.trec", hits_of)
    asked: list[int] = []
    rows = PassageStore.rows
    monkeypatch.setattr(PassageStore, "rows", lambda store, wanted: asked.append(len(wanted)) or rows(store, wanted))
    main([run, "--topics", "nq-dev", "--collection", str(tmp_path / "c")])
    assert sum(asked) == len(docids) and max(asked) <= len(docids) // 4


def test_a_studys_run_of_another_collection_is_refused(folder: Path) -> None:
    write_run(folder / "runs" / "nq-dev.trec", {"q1": ["A#7", "B#0"]})
    with pytest.raises(InputError, match=r"1 of 2 docids are not in the collection, first 'A#7'"):
        score_runs(open_collection("c"), ["nq-dev"], [], folder / "runs")


# The real collection: KILT's own script and plain trec_eval as oracles

TASKS = ("fever", "hotpotqa", "nq", "squad", "trex", "wned", "wow", "zsre")


@pytest.fixture(scope="module")
def bm25_runs(minikilt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BM25 runs of all eight dev topics, in TREC's and KILT's format."""
    folder = tmp_path_factory.mktemp("minikilt")
    for form in ("trec", "kilt"):
        argv = f"--collection {minikilt}/small --topics all-dev --retriever bm25 --output-format {form}".split()
        search.main([*argv, "--output", f"{folder / form}/"])
    return folder


def measured(
    run: Path, minikilt: Path, task: str, measures: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> Record:
    argv = f"{run} --collection {minikilt}/small --topics {task}-dev --format json --measures".split()
    main([*argv, *measures])
    row: Record = json.loads(capsys.readouterr().out)["rows"][0]
    return row


@pytest.mark.parametrize("task", TASKS)
def test_page_measures_are_kilts(
    task: str, bm25_runs: Path, minikilt: Path, official: ModuleType, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    """KILT's script refuses repeated ids, so it gets the gold file without the repeats, whose records are equal."""
    gold = {
        (record := json.loads(line))["id"]: record
        for _, line in numbered_lines(minikilt / "small" / f"{task}-dev.jsonl")
    }
    expected = official.evaluate(
        write_lines(folder / "gold.jsonl", gold.values()),
        bm25_runs / "kilt" / f"{task}-dev.jsonl",
        [1, 5, 10, 20],
        ["wikipedia_id"],
    )
    capsys.readouterr()
    names = {name: name.replace("success_rate", "success") for name in expected}
    assert len(names) == 11
    for run in (bm25_runs / "trec" / f"{task}-dev.trec", bm25_runs / "kilt" / f"{task}-dev.jsonl"):
        row = measured(run, minikilt, task, list(names.values()), capsys)
        for name, ours in names.items():
            assert row[printed(ours)] == pytest.approx(expected[name], abs=1e-9), name
    if task == "nq":
        assert row["page R-precision"] == pytest.approx(0.77, abs=0.02)


@pytest.mark.parametrize("task", TASKS)
def test_passage_measures_are_trec_evals(
    task: str, bm25_runs: Path, minikilt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """trec_eval gets the scores of the file, and for MRR@10 the run's first ten lines. A run's ids have no spaces."""
    import pytrec_eval

    qrels: dict[str, dict[str, int]] = {}
    for _, line in numbered_lines(minikilt / "small" / f"{task}-dev.jsonl"):
        record = json.loads(line)
        for output in record["output"]:
            qrels.setdefault("_".join(record["id"].split()), {}).update(
                {item["passage_id"]: 1 for item in output.get("provenance", [])}
            )
    run: dict[str, dict[str, float]] = {}
    for _, line in numbered_lines(bm25_runs / "trec" / f"{task}-dev.trec"):
        qid, _, docid, _, score, _ = line.split()
        run.setdefault(qid, {})[docid] = float(score)
    whole = pytrec_eval.RelevanceEvaluator(qrels, {"recall.20,100", "ndcg_cut.10"}).evaluate(run)
    top = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(
        {qid: dict(list(scores.items())[:10]) for qid, scores in run.items()}
    )
    row = measured(
        bm25_runs / "trec" / f"{task}-dev.trec", minikilt, task, ["MRR@10", "R@20", "R@100", "nDCG@10"], capsys
    )
    for found, name, ours in (
        (top, "recip_rank", "MRR@10"),
        (whole, "recall_20", "R@20"),
        (whole, "recall_100", "R@100"),
        (whole, "ndcg_cut_10", "nDCG@10"),
    ):
        assert row[printed(ours)] == pytest.approx(
            sum(values[name] for values in found.values()) / len(qrels), abs=1e-9
        ), name
        assert row[printed(ours)] > 0
