"""`python -m taco_ir.mine`: sources, tasks, what it prints and where, and one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hostile_text import Rows
from verbs import call, passage, query, write_collection

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import read_trec
from taco_ir.data.collection import open_collection
from taco_ir.mine import main, parser
from taco_ir.negatives.file import Negatives, read_negatives
from taco_ir.search import main as search


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "taco_ir")
    return tmp_path


def mined(*argv: str, output: str = "n.jsonl") -> Negatives:
    main([*argv, "--output", output])
    return read_negatives(Path(output), open_collection("sample").passages.fingerprint)


def names(split: str) -> set[str]:
    return {str(name) for name in open_collection("sample").topics_names if name.split == split}


def test_bm25_end_to_end(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    negatives = mined("--source", "bm25", "--mine-depth", "50", "--mine-keep", "8")
    assert negatives.docids.keys() == names("train") and negatives.sources[0].source == "bm25"
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[2:]}
    assert rows.keys() == names("train")
    for name, row in rows.items():
        docids = negatives.docids[name]
        assert row[1:4] == [
            str(n) for n in (len(docids), sum(not kept for kept in docids.values()), sum(map(len, docids.values())))
        ]
        assert row[6] == "0"  # gold kept
        kept = read_trec(Path("n.runs") / f"{name}.trec").rankings
        assert all(set(found) <= set(kept[qid].docids) and len(found) <= 8 for qid, found in docids.items())
    assert "audit: n.audit.html" in caplog.text
    assert "python -m taco_ir.train --negatives n.jsonl" in caplog.text
    assert Path("n.audit.html").read_text().count("<blockquote>") == 20
    record = json.loads(Path("n.runs/nq-train.trec.json").read_text())
    assert (record["hits"], record["system"]) == (50, "bm25")


@pytest.mark.parametrize("sources", [["bm25"], ["bm25", "runs"]])
def test_tables_are_printed_in_the_form_asked_for(sources: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    search(["--retriever", "bm25", "--topics", "nq-train", "--hits", "20", "--output", "runs/", "--no-compare"])
    flags = ["--source", *sources, "--tasks", "nq", "--window", "0:10", "5:20"]
    printed = {}
    for form in ("markdown", "json"):
        capsys.readouterr()
        mined(*flags[: None if len(sources) > 1 else -1], "--format", form)
        printed[form] = capsys.readouterr().out
    tables = json.loads(printed["json"])
    headers = [table["header"] for table in (tables if len(sources) > 1 else [tables])]
    marked = [
        line[2:-2].split(" | ")
        for line in printed["markdown"].splitlines()
        if line.startswith(("| topics", "| overlap"))
    ]
    assert headers == marked and len(headers) == (3 if len(sources) > 1 else 1)
    assert printed["markdown"].count("| nq-train |") == (1 if len(sources) == 1 else 5)


def test_tasks_are_words_or_commas() -> None:
    first = mined("--source", "bm25", "--tasks", "nq,fever", "--mine-depth", "10")
    assert first.docids.keys() == {"nq-train", "fever-train"}
    for number, tasks in enumerate((["fever", "nq"], ["fever,nq"], ["fever,", "nq,fever"])):
        mined("--source", "bm25", "--tasks", *tasks, "--mine-depth", "10", output=f"{number}.jsonl")
    assert Path("0.jsonl").read_bytes() == Path("1.jsonl").read_bytes() == Path("2.jsonl").read_bytes()
    assert mined(
        "--source", "bm25", "--tasks", "tqa", "--split", "dev", "--mine-depth", "10", output="d.jsonl"
    ).docids.keys() == {"triviaqa-dev"}


def test_runs_of_search_are_a_source(folder: Path) -> None:
    """A run file, or the folder that search writes, with its record gives the same as mining directly."""
    search("--retriever bm25 --topics nq-train fever-train --hits 40 --output runs/ --no-compare".split())
    flags = ["--tasks", "nq", "--mine-depth", "40"]
    mined("--source", "bm25", *flags, output="direct.jsonl")
    mined("--source", "runs", *flags, output="folder.jsonl")
    mined("--source", "runs/nq-train.trec", *flags, output="file.jsonl")
    assert Path("direct.jsonl").read_bytes() == Path("folder.jsonl").read_bytes() == Path("file.jsonl").read_bytes()
    assert not Path("folder.runs").exists()
    mined("--source", "direct.runs", *flags, "--drop-answers", output="kept.jsonl")
    mined("--source", "bm25", *flags, "--drop-answers", output="anew.jsonl")
    assert Path("kept.jsonl").read_bytes() == Path("anew.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"--source runs has no run for wow-train; wow-train\.trec expected"):
        mined("--source", "runs", "--tasks", "nq", "wow", output="x.jsonl")


def test_a_model_is_a_source(tiny_bert: Path) -> None:
    flags = ["--tasks", "nq", "--mine-depth", "30", "--pooling", "mean", "--normalize"]
    negatives = mined("--source", str(tiny_bert), *flags)
    argv = f"--topics nq-train --model {tiny_bert} --hits 30 --no-compare --output r.trec".split()
    search([*argv, *flags[4:]])
    assert read_trec(Path("r.trec")).rankings.keys() == read_trec(Path("n.runs/nq-train.trec")).rankings.keys()
    for qid, ranking in read_trec(Path("r.trec")).rankings.items():
        assert ranking.docids == read_trec(Path("n.runs/nq-train.trec")).rankings[qid].docids
    assert negatives.sources[0].source == "tiny-bert"
    assert negatives.sources[0].checkpoint == json.loads(Path("r.trec.json").read_text())["inputs"]["encoder"]


def test_several_sources_end_to_end(tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """BM25, a model and a folder of runs, each with its window and margin; what is printed is what the audit says."""
    flags = ["--tasks", "nq", "fever", "--mine-keep", "6"]
    mined("--source", "bm25", *flags, "--mine-depth", "40", output="bm25.jsonl")
    mined("--source", str(tiny_bert), *flags, "--mine-depth", "40", "--pooling", "mean", output="model.jsonl")
    sources = ["bm25", str(tiny_bert), "bm25.runs"]
    capsys.readouterr()
    filters = ["--window", "0:10", "5:40", "20:40", "--margin", "none", "0", "0.5"]
    found = mined("--source", *sources, *filters, *flags, "--pooling", "mean", output="m.jsonl")
    said = [(each.source, each.skip, each.depth, each.filters[2:]) for each in found.sources]
    assert said == [("bm25", 0, 10, ()), ("tiny-bert", 5, 40, ("margin=0",)), ("bm25", 20, 40, ("margin=0.5",))]
    assert found.sources[1].checkpoint and found.sources[0].checkpoint == ""
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    report = [" ".join(row).split() for row in Rows(Path("m.audit.html").read_text()).rows]
    printed = [row for row in words if row and row[0] in ("nq-train", "fever-train", "all")]
    assert len(printed) == 2 + 2 * 3 + 3 * 3 and all(row in report for row in printed)
    lost = {number: sum(int(row[-1]) for row in printed[2:8] if row[1] == number) for number in "123"}
    assert lost["1"] == 0 < lost["2"]  # no margin; and one where a random model finds gold too late
    rows = [json.loads(line) for line in Path("m.jsonl").read_text().splitlines()[1:]]
    assert {place for row in rows for held in row["sources"] for place in held} == {0, 1, 2}
    assert {row["sources"][0][0] for row in rows if row["docids"]} == {0, 1, 2}
    assert sum(len(row["docids"]) for row in rows) == sum(int(row[3]) for row in printed[:2])
    mined("--source", "m.runs/bm25", "m.runs/tiny-bert", "bm25.runs", *filters, *flags, output="again.jsonl")
    assert Path("again.jsonl").read_bytes() == Path("m.jsonl").read_bytes()


def test_a_window_is_skip_and_depth() -> None:
    flags = ["--source", "bm25", "--tasks", "nq", "--margin", "1"]
    mined(*flags, "--mine-skip", "3", "--mine-depth", "20", output="a.jsonl")
    mined(*flags, "--window", "3:20", output="b.jsonl")
    assert Path("a.jsonl").read_bytes() == Path("b.jsonl").read_bytes()
    mined("--source", "bm25", "a.runs", "--window", "0:10", "3:20", "--tasks", "nq", output="c.jsonl")
    with pytest.raises(InputError, match="--source bm25 is given twice with the window 3:20"):
        mined("--source", "bm25", "a.runs", "--window", "3:20", "--tasks", "nq", output="d.jsonl")


def test_texts_of_passages_are_escaped(folder: Path) -> None:
    hostile = "<script>alert(1)</script> the king"
    passages = [passage(f"{n}#0", f"{hostile} {n}", f"<b>T{n}</b>") for n in range(4)]
    write_collection(folder / "c", passages, {"nq-train": [query("<i>q</i>", "the <u>king</u> 1", ["1#0"])]})
    main(["--source", "bm25", "--collection", "c", "--output", "n.jsonl"])
    page = Path("n.audit.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "&lt;b&gt;T2&lt;/b&gt;" in page
    assert not [tag for tag in ("<script", "<b>", "<i>", "<u>") if tag in page]


BM25 = ["--source", "bm25", "--output", "n.jsonl"]
MANY = ["--source", "bm25", "good.trec", "bad.trec", "--output", "n.jsonl"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--output", "n.jsonl"], "required: --source"),
        (["--source", "bm25"], "required: --output"),
        ([*BM25, "--tasks", "nqq"], r"unknown topics 'nqq-train'; did you mean .*nq-train"),
        ([*BM25, "--tasks", ","], "--tasks names no task"),
        ([*BM25, "--split", "all"], "argument --split: invalid choice"),
        ([*BM25, "--split", "test"], "unknown topics 'all-test'"),
        ([*BM25, "--mine-depth", "0"], "argument --mine-depth: '0' is not a whole number of at least 1"),
        ([*BM25, "--mine-skip", "-1"], "argument --mine-skip: '-1' is not a whole number of at least 0"),
        ([*BM25, "--mine-keep", "many"], "argument --mine-keep: 'many'"),
        ([*BM25, "--margin", "-1"], r"--margin is -1\.0; it must be a number, or none, at least 0"),
        ([*BM25, "--mine-depth", "5", "--mine-skip", "5"], "--mine-depth 5 with --mine-skip 5 leaves no rank"),
        ([*BM25, "--pooling", "mean"], "--pooling has an effect only with a model as --source"),
        ([*BM25, "--index", "i"], "--index has an effect only with a model as --source"),
        ([*BM25, "--window", "5"], "argument --window: '5' is not a window; give two whole numbers, as in 0:50"),
        ([*BM25, "--window=-1:5"], "argument --window: '-1:5' is not a window"),
        ([*BM25, "--window", "1:2:3"], "argument --window: '1:2:3' is not a window"),
        (
            [*BM25, "--window", "5:5"],
            "argument --window: the window '5:5' is empty; its second number must be at least 6",
        ),
        ([*BM25, "--window", "0:5", "0:6"], "--window has 2 values for 1 source; give one"),
        (
            [*BM25, "--window", "0:5", "--mine-depth", "5"],
            "--mine-depth has an effect only with rankings without --window",
        ),
        ([*BM25, "--margin", "wide"], "argument --margin: 'wide' is not a margin; give a number, such as 0.1, or none"),
        ([*BM25, "--margin", "1", "2"], "--margin has 2 values for 1 source; give one"),
        ([*MANY, "--window", "0:5", "0:6"], "--window has 2 values for 3 sources; give one for all, or 3"),
        ([*MANY, "--margin", "1", "2", "3", "4"], "--margin has 4 values for 3 sources"),
        ([*MANY, "--margin", "1", "none", "-2"], r"--margin is -2\.0; it must be a number, or none, at least 0"),
        ([*MANY, "--pooling", "mean"], "--pooling has an effect only with a model as --source"),
        (MANY, r"good\.trec has no run for"),
        (
            ["--source", "bm25", "good.trec", "--tasks", "wow", "--output", "n.jsonl"],
            r"--source good\.trec has no run for wow-train",
        ),
        (["--source", "bm25", "nowhere", "--output", "n.jsonl"], "--source 'nowhere' is not bm25"),
        (
            ["--source", "a", "b", "bm25", "--index", "i", "--output", "n.jsonl"],
            "--index belongs to one model, but --source names 2: a b; search with",
        ),
        (
            ["--source", "./nix", "--output", "n.jsonl"],
            r"--source '\./nix' is not bm25, a run or a folder of runs; read as a model: .*no such folder",
        ),
        (
            ["--source", "empty", "--output", "n.jsonl"],
            "--source 'empty' is not bm25.* a model folder needs config.json and safetensors weights",
        ),
        (["--source", "bad.trec", "--output", "n.jsonl"], r"bad\.trec, line 1: 'not a' has 2 columns"),
        (
            ["--source", "bm25", "--output", "n.txt"],
            r"--output n\.txt: the name of a negatives file must end in \.jsonl",
        ),
    ],
)
def test_mistakes_are_one_line(argv: list[str], said: str) -> None:
    Path("empty").mkdir()
    Path("bad.trec").write_text("not a\n")
    Path("good.trec").write_text("elsewhere Q0 1#0 1 2.0 t\n")
    with pytest.raises(InputError, match=said) as error:
        main(argv)
    assert "\n" not in str(error.value)
    assert not list(Path().glob("n.*"))


def test_command_line_ends_with_code_2_and_one_line(folder: Path) -> None:
    done = call("mine", *BM25, "--tasks", "nix", cwd=folder)
    assert (
        done.returncode == 2
        and done.stdout == ""
        and done.stderr.startswith("error: unknown topics 'nix-train'")
        and done.stderr.count("\n") == 1
    )


def test_mine_small_minikilt(minikilt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All eight tasks from a run that ranks the first passages: no gold is left."""
    collection = open_collection(str(minikilt / "small"))
    docids = [each.docid for each in collection.passages.read(0, 120)]
    for name in collection.expand(["all-train"]):
        topics = collection.load_topics(name)
        lines = [
            f"{each.qid} Q0 {docid} {rank} {-rank} t\n"
            for each in topics.queries
            for rank, docid in enumerate(docids, 1)
        ]
        Path("r").mkdir(exist_ok=True)
        (Path("r") / f"{topics.name}.trec").write_text("".join(lines))
    main(["--source", "r", "--collection", str(minikilt / "small"), "--output", "n.jsonl", "--drop-answers"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 8 and all(row[1] == "200" and row[6] == "0" for row in rows)
    assert {row[7] for row in rows} == {"0.000", "-"}


def test_defaults_are_those_of_the_library() -> None:
    from taco_ir.negatives.filters import MiningSettings

    options, defaults = parser().parse_args(BM25), MiningSettings()
    flags = {name: f"mine_{name}" for name in ("depth", "skip", "keep")}
    assert all(
        getattr(options, flags.get(name, name)) == getattr(defaults, name)
        for name in (*flags, "drop_answers", "margin", "seed")
    )
