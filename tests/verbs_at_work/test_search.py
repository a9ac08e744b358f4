"""`python -m taco_ir.search`: what it writes, what it keeps, and what it tells."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from verbs import module_of, passage, query, write_collection

from taco_ir.core.files import InputError, data_home
from taco_ir.core.hashes import sha256_file
from taco_ir.core.run_formats import read_trec, write_trec
from taco_ir.data.collection import open_collection
from taco_ir.retrieval import topic_runs
from taco_ir.retrieval.choices import ModelChoice
from taco_ir.retrieval.fusion import HybridWeights, weighted_fusion
from taco_ir.retrieval.retriever import Retriever, search
from taco_ir.retrieval.vectors import VectorSet
from taco_ir.search import main

evaluate = module_of("evaluate")

TEXTS = (
    *("the painter was born in dublin", "a poem of the year about the land", "the king was buried in canterbury"),
    *("music for the film of the year", "a novel about a house"),
)
PASSAGES = [passage(f"{n}#0", text, f"T{n}") for n, text in enumerate(TEXTS)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """Default outputs go to the working directory."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "taco_ir")
    return tmp_path


@pytest.fixture
def model(tiny_bert: Path) -> list[str]:
    return ["--model", str(tiny_bert), "--pooling", "mean", "--normalize", "--no-compare"]


def of_model(model: list[str], retriever: str) -> list[str]:
    """The flags of the model, which only those take that search with it."""
    return ["--no-compare"] if retriever == "bm25" else model


def systems_in(table: str) -> list[tuple[str, str]]:
    """(topics, system) of each row of a JSON table."""
    return [(row["topics"], row["system"]) for row in json.loads(table)["rows"]]


def test_dense_run_is_canonical_and_right(model: list[str], tiny_bert: Path) -> None:
    """Scores are the inner products that numpy finds; the order is score, then docid, both descending."""
    from taco_ir.encoders.text_encoder import load_encoder

    main(["--topics", "nq-dev", *model, "--hits", "50"])
    path = Path("runs/sample/nq-dev.tiny-bert.trec")
    run, sample = read_trec(path), open_collection("sample")
    queries = sample.load_topics("nq-dev").queries
    rows = [line.split(" ") for line in path.read_text().splitlines()]
    assert [row[0] for row in rows] == [query.qid for query in queries for _ in range(50)]
    assert [row[3] for row in rows] == [str(rank) for _ in queries for rank in range(1, 51)]
    assert {(row[1], row[5], len(row)) for row in rows} == {("Q0", "tiny-bert", 6)}
    write_trec(run, Path("again.trec"), "tiny-bert")
    assert Path("again.trec").read_bytes() == path.read_bytes()
    for first, second in pairwise(rows):
        assert first[0] != second[0] or (float(first[4]), first[2]) > (float(second[4]), second[2])
    encoder, passages = load_encoder(str(tiny_bert), pooling="mean", normalize=True), list(sample.passages.read())
    scores_QN = (
        encoder.encode_queries([query.text for query in queries], "nq")
        @ encoder.encode_passages(passages).astype(np.float16).astype(np.float32).T
    )
    for query_, scores_N in zip(queries, scores_QN, strict=True):
        by_docid = {passage_.docid: score for passage_, score in zip(passages, scores_N, strict=True)}
        ranking = run.rankings[query_.qid]
        np.testing.assert_allclose(ranking.scores, np.sort(scores_N)[::-1][:50], atol=1e-5)
        np.testing.assert_allclose(ranking.scores, [by_docid[docid] for docid in ranking.docids], atol=1e-5)


def test_record_names_what_made_the_run_by_content(model: list[str], folder: Path, tiny_bert: Path) -> None:
    """Equal passages and another query text: the topics' fingerprint alone differs."""
    from taco_ir.encoders.text_encoder import load_encoder

    for name, text in (("one", "who"), ("two", "where")):
        write_collection(folder / name / "c", PASSAGES, {"nq-dev": [query("q1", text, ["1#0"])]})
        main(["--topics", "nq-dev", "--collection", f"{name}/c", *model, "--output", f"{name}.trec"])
    one, two = (json.loads(Path(f"{name}.trec.json").read_text()) for name in ("one", "two"))
    assert one["topics"].pop("fingerprint") != two["topics"].pop("fingerprint")
    assert one | {"seconds": 0} == two | {"seconds": 0}
    encoder = load_encoder(str(tiny_bert), pooling="mean", normalize=True)
    made = [
        path
        for path in (data_home() / "dense").glob("*/index/index")
        if sha256_file(path)[:16] == one["inputs"]["index"]
    ]
    assert len(made) == 1 and one["inputs"]["encoder"] == encoder.fingerprint
    assert one["collection"]["fingerprint"] == open_collection("one/c").passages.fingerprint
    assert (one["hits"], one["format"], one["system"]) == (100, "trec", "tiny-bert")


def test_default_output_holds_the_latest_run(model: list[str]) -> None:
    for hits in (5, 3):
        main(["--topics", "nq-dev", *model, "--hits", str(hits)])
        assert {
            len(ranking.docids) for ranking in read_trec(Path("runs/sample/nq-dev.tiny-bert.trec")).rankings.values()
        } == {hits}


def test_a_default_name_never_replaces_the_run_of_another_model(folder: Path, tiny_bert: Path) -> None:
    """Every training calls its folder model, so runs are named by the training, and by a hash if that is not enough."""
    copies = [
        folder / "a" / "my run" / "model",
        folder / "b" / "my run" / "model",
        folder / "a" / "3" / "episode-2" / "model",
    ]
    for place, copy in enumerate(copies):
        shutil.copytree(tiny_bert, copy)
        command = ["--topics", "nq-dev", "--model", str(copy), "--pooling", "mean", "--no-compare", "--hits", "3"]
        prompt = ["--prompt", f"{place} "] if place else []
        for retriever in ("dense", "hybrid"):
            main([*command, *prompt, "--retriever", retriever])
            before = {path.name: path.read_bytes() for path in Path("runs/sample").iterdir() if path.suffix == ".trec"}
            main([*command, *prompt, "--retriever", retriever])
            assert {
                path.name: path.read_bytes() for path in Path("runs/sample").iterdir() if path.suffix == ".trec"
            } == before
    names = sorted(path.name.removeprefix("nq-dev.") for path in Path("runs/sample").glob("*.trec"))
    assert [re.sub(r"-[0-9a-f]{6}\b", "-HASH", name) for name in names] == [
        "a-3-episode-2.trec",
        "hybrid-HASH.trec",
        "hybrid-HASH.trec",
        "hybrid.trec",
        "my_run-HASH.trec",
        "my_run.trec",
    ]
    for path in Path("runs/sample").glob("*.trec"):
        assert path.read_text().split()[5] == path.name.removeprefix("nq-dev.").removesuffix(".trec")


def test_named_output_is_never_lost(model: list[str]) -> None:
    command = ["--topics", "nq-dev", *model, "--output", "mine.trec"]
    main([*command, "--hits", "5"])
    before = Path("mine.trec").read_bytes()
    main([*command, "--hits", "5"])  # made the same way: taken
    assert Path("mine.trec").read_bytes() == before
    with pytest.raises(
        InputError, match=r"--output mine\.trec exists and was made differently \(hits is 5, not 3\); .* --overwrite"
    ):
        main([*command, "--hits", "3"])
    with pytest.raises(InputError, match=r"made differently \(topics name is \"nq-dev\", not \"fever-dev\"\)"):
        main([*command, "--hits", "5", "--topics", "fever-dev"])
    assert Path("mine.trec").read_bytes() == before
    main([*command, "--hits", "3", "--overwrite"])
    assert Path("mine.trec").read_bytes() != before
    Path("theirs.trec").write_text("q1 Q0 d 1 1.0 t\n")
    with pytest.raises(InputError, match="nothing records how it was made"):
        main(["--topics", "nq-dev", *model, "--output", "theirs.trec"])
    assert Path("theirs.trec").read_text() == "q1 Q0 d 1 1.0 t\n"


def test_several_topics_go_to_a_folder(model: list[str]) -> None:
    main(["--topics", "all-dev", *model, "--hits", "2", "--output", "all"])
    names = {str(name) for name in open_collection("sample").topics_names if name.split == "dev"}
    assert {path.name for path in Path("all").glob("*.trec")} == {f"{name}.trec" for name in names} and len(names) == 8
    main(["--topics", "nq-dev", *model, "--hits", "2", "--output", "one/"])
    assert Path("one/nq-dev.trec").read_bytes() == Path("all/nq-dev.trec").read_bytes()
    with pytest.raises(InputError, match=r"--output .*nq-dev\.trec is a file; for 2 topics give a folder"):
        main(["--topics", "nq-dev", "fever-dev", *model, "--output", "one/nq-dev.trec"])


def test_other_formats_say_the_same(model: list[str]) -> None:
    """kilt: the pages of the hits, each at its first rank; msmarco: the hits."""
    for form in ("trec", "kilt", "msmarco"):
        main(["--topics", "wow-dev", *model, "--hits", "30", "--output-format", form, "--output", f"{form}.run"])
    hits = {qid: ranking.docids for qid, ranking in read_trec(Path("trec.run")).rankings.items()}
    records = [json.loads(line) for line in Path("kilt.run").read_text().splitlines()]
    pages = {record["id"]: [item["wikipedia_id"] for item in record["output"][0]["provenance"]] for record in records}
    assert pages == {
        qid: list(dict.fromkeys(docid.partition("#")[0] for docid in docids)) for qid, docids in hits.items()
    }
    assert any(len(pages[qid]) < 30 for qid in pages)
    texts = {query_.qid: query_.text for query_ in open_collection("sample").load_topics("wow-dev").queries}
    assert {record["id"]: record["input"] for record in records} == texts
    assert Path("msmarco.run").read_text() == "".join(
        f"{qid}\t{docid}\t{rank}\n" for qid, docids in hits.items() for rank, docid in enumerate(docids, 1)
    )


def test_hybrid_is_the_fusion_of_both_runs(model: list[str]) -> None:
    """score(d) = sum over the two runs of 1 / (60 + rank)."""
    for system in ("dense", "bm25", "hybrid"):
        argv = f"--topics nq-dev --retriever {system} --hits 20 --output {system}.trec".split()
        main([*argv, *of_model(model, system)])
    dense, bm25, hybrid = (read_trec(Path(f"{system}.trec")).rankings for system in ("dense", "bm25", "hybrid"))
    assert dense.keys() == hybrid.keys()
    for qid, ranking in hybrid.items():
        expected: dict[str, float] = defaultdict(float)
        for run in (dense, bm25):
            for rank, docid in enumerate(run[qid].docids, 1):
                expected[docid] += 1 / (60 + rank)
        best = sorted(((np.float32(score), docid) for docid, score in expected.items()), reverse=True)[:20]
        assert list(zip(ranking.scores, ranking.docids, strict=True)) == best
    record = json.loads(Path("hybrid.trec.json").read_text())
    assert [part["system" if "system" in part else "name"] for part in record["inputs"]["of"]] == ["tiny-bert", "bm25"]


def test_a_hybrid_is_weighted_by_task_as_chosen(
    model: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Weights chosen on train queries are written beside their runs, and a search of dev queries fuses by them."""
    command = ["--topics", "nq-train", "fever-train", *model[:-1], "--choose-weights", "--output", "chosen/"]
    main([*command, "--format", "json"])
    chosen = HybridWeights.read(Path("chosen/hybrid.json"))
    assert set(chosen.tasks) == {"nq", "fever"} and chosen.hits == 100
    for task, own in chosen.tasks.items():
        assert own.hybrid >= max(own.of_dense, own.of_bm25), task
        assert own.queries == len(open_collection("sample").load_topics(f"{task}-train").queries)
    shown = capsys.readouterr().out.rpartition('"title"')[2]
    assert all(str(own.dense) in shown for own in chosen.tasks.values()) and "chosen/hybrid.json" in shown
    assert any(line.startswith("nq, weight chosen on ") and "(p " in line for line in caplog.messages)
    before = Path("chosen/hybrid.json").read_bytes()
    main(command)
    assert Path("chosen/hybrid.json").read_bytes() == before
    with pytest.raises(InputError, match=r"--output chosen/hybrid\.json exists and was made differently \(topics"):
        main(["--topics", "nq-train", *model[:-1], "--choose-weights", "--output", "chosen/"])
    assert Path("chosen/hybrid.json").read_bytes() == before
    caplog.clear()
    search = ["--topics", "nq-dev", "wow-dev", "--retriever", "hybrid", "--hybrid-weights", "chosen/hybrid.json"]
    main([*search, *model, "--output", "dev/"])
    assert "--hybrid-weights: no weight for wow, so dense and BM25 get .5 each" in caplog.messages
    for system in ("dense", "bm25"):
        main(["--topics", "nq-dev", "--retriever", system, *of_model(model, system), "--output", f"{system}.trec"])
    dense, bm25, hybrid = (read_trec(Path(f"{name}.trec")) for name in ("dense", "bm25", "dev/nq-dev"))
    expected = weighted_fusion(dense, bm25, dict.fromkeys(dense.rankings, chosen.of("nq")), 100)
    assert {qid: ranking.docids[:20] for qid, ranking in hybrid.rankings.items()} == {
        qid: ranking.docids[:20] for qid, ranking in expected.rankings.items()
    }
    assert json.loads(Path("dev/nq-dev.trec.json").read_text())["inputs"]["weights"] == chosen.by_task
    main([*search[:2], *search[3:], *model, "--hits", "7", "--output", "few.trec"])  # fused as deep as they were chosen
    few = read_trec(Path("few.trec"))
    assert {qid: each.docids for qid, each in few.rankings.items()} == {
        qid: each.docids[:7] for qid, each in hybrid.rankings.items()
    }
    main(["--topics", "nq-dev", *model[:-1], "--hybrid-weights", "chosen/hybrid.json"])
    assert Path("runs/sample/nq-dev.weighted-hybrid.trec").is_file()
    assert not any("choose them again" in line for line in caplog.messages)
    subset = ["--topics", "nq-dev", "--distractors", "5", "--output", "smaller"]
    module_of("data.__main__").main(["subset", *subset])
    search = ["--collection", "smaller", "--topics", "nq-dev", *model[:-1], "--no-compare", "--retriever", "hybrid"]
    main([*search, "--hybrid-weights", "chosen/hybrid.json"])
    assert "--hybrid-weights: chosen on another collection, sample; choose them again" in caplog.messages
    other = [*model[:4], "--no-compare"]  # not normalised
    main(["--topics", "nq-dev", *other, "--retriever", "hybrid", "--hybrid-weights", "chosen/hybrid.json"])
    assert any("chosen with encoder" in line for line in caplog.messages)


def test_vectors_are_searched_without_an_index(
    model: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The runs of a Flat index, from one pass over the vectors, or one over each shard, for all topics."""
    module_of("encode").main(["--output", "vectors", *model[:-1]])
    module_of("index").main(["--vectors", "vectors", "--output", "index"])
    topics = ["--topics", "nq-dev", "fever-dev", *model, "--hits", "20"]
    main([*topics, "--index", "index", "--output", "flat/"])
    read, seen = VectorSet.block, list[int]()
    monkeypatch.setattr(VectorSet, "block", lambda vectors, number: seen.append(number) or read(vectors, number))
    search = [*topics, "--vectors", "vectors"]
    main([*search, "--memory", "8 GB", "--output", "streamed/"])
    assert seen == [0]
    for shard in ("2/2", "1/2"):
        main([*search, "--shard", shard])
    main([*search, "--output", "together/"])
    assert seen == [0, 0] and "1 of 1 blocks were searched before" in caplog.messages
    for name in ("nq-dev", "fever-dev"):
        runs = [Path(folder, f"{name}.trec").read_bytes() for folder in ("flat", "streamed", "together")]
        assert runs[0] == runs[1] == runs[2], name
    record = json.loads(Path("together/nq-dev.trec.json").read_text())
    assert record["flags"]["vectors"] == "vectors" and "index" not in record["flags"]
    assert not list((data_home() / "searches").rglob("*.safetensors"))
    seen.clear()
    main([*topics[:3], *model[:-1], "--retriever", "hybrid", "--vectors", "vectors", "--output", "hybrid/"])
    main([*topics[:3], *model[:-1], "--retriever", "hybrid", "--index", "index", "--output", "expected/"])
    assert Path("hybrid/nq-dev.trec").read_bytes() == Path("expected/nq-dev.trec").read_bytes() and seen == [0]


def test_single_queries_are_searched_without_an_index(model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As in a Flat index, by the verb and in Python; nothing of the search stays on disk."""
    module_of("encode").main(["--output", "vectors", *model[:-1]])
    module_of("index").main(["--vectors", "vectors", "--output", "index"])
    single, printed = [*model[:-1], "--query", "who painted the mona lisa", "--format", "json", "--hits", "5"], []
    capsys.readouterr()
    for place in (["--index", "index"], ["--vectors", "vectors", "--memory", "8GB"]):
        main([*single, *place])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    queries, choice = ["who painted the mona lisa", "rome"], ModelChoice(model[1], "mean", True)
    runs = [search("sample", queries, model=choice, **place) for place in ({"index": "index"}, {"vectors": "vectors"})]
    found = [[list(run.rankings[qid].docids) for qid in ("1", "2")] for run in runs]
    assert found[0] == found[1]
    retriever = Retriever("sample", choice, vectors="vectors")
    assert [[hit.docid for hit in retriever.search(query, hits=100)] for query in queries] == found[0]
    assert not list((data_home() / "searches").rglob("*"))
    for place in ({"index": "index", "vectors": "vectors"}, {"retriever": "bm25", "vectors": "vectors"}):
        with pytest.raises(InputError, match="vectors 'vectors' cannot be used with an index or bm25"):
            search("sample", queries, model=choice, **place)
    for more, said in (
        (["--shard", "1/2", "--query", "x"], "--shard has an effect only with --topics"),
        (["--interactive"], "--vectors has an effect only with --topics or --query, since all vectors are read"),
    ):
        with pytest.raises(InputError, match=said):
            main(["--vectors", "vectors", *more])


def test_a_recall_is_chosen_on_the_queries(model: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """It is told, kept with the index, and in the record of the run, which any later search makes again."""
    module_of("encode").main(["--output", "vectors", *model[:-1]])
    module_of("index").main(["--vectors", "vectors", "--output", "index", "--factory", "IVF8,Flat"])
    search = ["--topics", "nq-dev", "fever-dev", *model, "--hits", "5"]
    main([*search, "--index", "index", "--recall", "1", "--output", "chosen/"])
    (said,) = [line for line in caplog.messages if line.startswith("index: nprobe ")]
    count = sum(len(open_collection("sample").load_topics(name).queries) for name in ("nq-dev", "fever-dev"))
    assert f" of the 5 best hits of {count // 2} other queries, " in said
    kept = json.loads(Path("index/recall.json").read_text())
    record = json.loads(Path("chosen/nq-dev.trec.json").read_text())
    assert record["inputs"]["nprobe"] == kept["value"] <= 8 and kept["recall"] == 1
    main([*search, "--index", "index", "--output", "again/"])
    assert Path("again/nq-dev.trec").read_bytes() == Path("chosen/nq-dev.trec").read_bytes()
    module_of("index").main(["--vectors", "vectors", "--output", "flat"])
    with pytest.raises(
        InputError, match=r"--recall 0\.99: flat is not an HNSW or IVF index, so it always searches all"
    ):
        main([*search, "--index", "flat", "--recall", ".99"])


@pytest.mark.parametrize("retriever", ["dense", "bm25"])
def test_query_shows_hits(
    retriever: str, model: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = [] if retriever == "bm25" else model[:-1]
    main(["--query", "In which city was the painter Francis Bacon born?", *model, "--retriever", retriever])
    lines = capsys.readouterr().out.splitlines()
    heads = [re.fullmatch(r" *(\d+)  (-?\d+\.\d{4})  (.+)  \[(\S+)\]", line) for line in lines[::2]]
    assert all(heads) and len(lines) == 20
    ranks, scores, titles, docids = zip(*(head.groups() for head in heads if head), strict=True)
    assert ranks == tuple(map(str, range(1, 11)))
    assert list(map(float, scores)) == sorted(map(float, scores), reverse=True)
    found = open_collection("sample").passages.get(docids)
    assert list(titles) == [found[docid].title for docid in docids]
    for docid, shown in zip(docids, lines[1::2], strict=True):
        plain = shown.strip().replace("*", "").removeprefix("... ").removesuffix(" ...")
        assert plain in found[docid].text
        assert {mark.lower() for mark in re.findall(r"\*(\w+)\*", shown)} <= {
            "city",
            "painter",
            "francis",
            "bacon",
            "born",
        }
    if retriever == "bm25":
        assert docids[0] == "10009#0" and "*painter*" in "".join(lines) and "*born*" in lines[1]
    main(["--query", "xyzzy", *model, "--retriever", retriever, "--hits", "1"])
    assert len(capsys.readouterr().out.splitlines()) == (2 if retriever == "dense" else 0)  # the word is in no passage
    assert ("no hits: no passage has a word of 'xyzzy' (stop words do not" in caplog.text) == (retriever == "bm25")


def test_hits_of_a_query_in_other_formats(model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--query", "who was born in dublin", *model[:-1], "--hits", "3"]
    main(command)
    docids = re.findall(r"\[(\S+)\]$", capsys.readouterr().out, re.MULTILINE)
    main([*command, "--format", "json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    found = open_collection("sample").passages.get(docids)
    assert [row["rank"] for row in rows] == [1, 2, 3] and [row["docid"] for row in rows] == docids
    assert [(row["title"], row["text"]) for row in rows] == [
        (found[docid].title, found[docid].text) for docid in docids
    ]
    main([*command, "--format", "markdown"])
    assert "| --- |" in capsys.readouterr().out.replace("---:", "---")


def test_ties_are_told(model: list[str], folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_collection(
        folder / "c", [passage(f"{n}#0", "the same text") for n in range(9)], {"nq-dev": [query("q1", "same", ["1#0"])]}
    )
    main(["--topics", "nq-dev", "--collection", "c", *model])
    assert "100.0 % of the hits score the same as the hit above them; ties are ordered by docid" in caplog.text
    assert read_trec(Path("runs/c/nq-dev.tiny-bert.trec")).rankings["q1"].docids == [
        f"{n}#0" for n in reversed(range(9))
    ]
    caplog.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topic_runs, "timed", lambda: nullcontext(lambda: 500.0))
        main(["--topics", "nq-dev", *model])
    assert "run file: runs/sample/nq-dev.tiny-bert.trec" in caplog.text and "equal" not in caplog.text
    assert " with tiny-bert: 1000.00 s\n" in caplog.text  # less than a topic a second is no rate


def test_truncated_queries_are_counted_and_nothing_else(
    tiny_bert: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The count is of queries: the same whether or not passages were encoded first or systems are compared."""
    long = "the year of the king " * 60
    write_collection(
        folder / "c",
        [*PASSAGES, passage("9#0", long)],
        {"nq-dev": [query("q1", long, ["9#0"]), query("q2", "who", ["9#0"])]},
    )
    command = ["--topics", "nq-dev", "--collection", "c", "--model", str(tiny_bert), "--pooling", "first"]
    for extra in (
        ["--no-compare"],
        ["--compare"],
        ["--retriever", "hybrid", "--no-compare"],
        ["--retriever", "hybrid", "--compare"],
    ):
        caplog.clear()
        main([*command, *extra])
        assert [line for line in caplog.messages if "longer" in line] == [
            "1 queries were longer than the model's limit and were cut"
        ], extra


def test_compare_adds_systems_to_the_table(model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--topics", "nq-dev", "fever-dev", *model[:-1], "--format", "json"]
    expected = {
        ("--no-compare",): ["tiny-bert"],
        ("--compare",): ["tiny-bert", "bm25", "hybrid"],
        (): ["tiny-bert", "bm25", "hybrid"],
        ("--retriever", "bm25"): ["bm25"],
        ("--retriever", "bm25", "--compare"): ["bm25", "tiny-bert", "hybrid"],
        ("--retriever", "hybrid", "--compare"): ["hybrid", "tiny-bert", "bm25"],
    }
    values: dict[str, Any] = {}
    names = {f"{name}.{system}.trec" for name in ("nq-dev", "fever-dev") for system in ("tiny-bert", "bm25", "hybrid")}
    for flags, systems in expected.items():
        bare = flags == ("--retriever", "bm25")
        main([*("--topics nq-dev fever-dev --format json".split() if bare else command), *flags])
        table = capsys.readouterr().out
        assert systems_in(table) == [
            (name, system) for name in ("nq-dev", "fever-dev", "macro average") for system in systems
        ], flags
        for row in json.loads(table)["rows"]:
            assert (
                values.setdefault(f"{row['topics']} {row['system']}", row) == row
            )  # a system scores the same beside any other
        written = {path.name for path in Path("runs/sample").glob("*.trec")}
        assert written == (names if flags != ("--no-compare",) else {name for name in names if "tiny" in name})


def test_runs_of_compared_systems_are_those_of_their_own_search(
    model: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """...and never replace one with more hits, nor stand beside an output that the user names."""
    main(["--topics", "nq-dev", *model[:-1], "--hits", "20", "--output", "mine.trec"])
    assert not Path("runs").exists()
    caplog.clear()
    main(["--topics", "nq-dev", *model[:-1], "--hits", "20"])
    compared = {path.name: path.read_bytes() for path in Path("runs/sample").glob("*.trec")}
    named = [line.rpartition("/")[2] for line in caplog.messages if line.startswith("run file: runs/sample/")]
    assert len(named) == 3 and set(named) == compared.keys()
    for retriever in ("bm25", "hybrid"):
        main(["--topics", "nq-dev", *of_model(model, retriever), "--retriever", retriever, "--hits", "20"])
    assert {path.name: path.read_bytes() for path in Path("runs/sample").glob("*.trec")} == compared
    main(["--topics", "nq-dev", *of_model(model, "bm25"), "--retriever", "bm25", "--hits", "30"])
    deeper = Path("runs/sample/nq-dev.bm25.trec").read_bytes()
    main(["--topics", "nq-dev", *model[:-1], "--hits", "20"])
    assert Path("runs/sample/nq-dev.bm25.trec").read_bytes() == deeper != compared["nq-dev.bm25.trec"]
    capsys.readouterr()
    evaluate.main(["runs/sample/nq-dev.bm25.trec", "runs/sample/nq-dev.hybrid.trec", "--topics", "nq-dev"])
    assert "hybrid" in capsys.readouterr().out


def test_collections_of_one_name_have_folders_of_their_own(model: list[str], folder: Path) -> None:
    """The first keeps the plain one; those of others have a hash of their passages, however often they are searched."""
    topics = {"nq-dev": [query("q1", "who", ["1#0"])]}
    for place, count in (("a/c", 5), ("b/c", 4)):
        write_collection(folder / place, PASSAGES[:count], topics)
    written = []
    for place in ("a/c", "b/c", "b/c", "a/c"):
        main(["--topics", "nq-dev", "--collection", place, *model])
        written.append({str(path): path.read_text() for path in Path("runs").rglob("*.trec")})
    assert [re.sub("c-[0-9a-f]{6}/", "c-HASH/", path) for path in sorted(written[1])] == [
        "runs/c-HASH/nq-dev.tiny-bert.trec",
        "runs/c/nq-dev.tiny-bert.trec",
    ]
    assert written[1] == written[2] == written[3] and written[0].items() <= written[1].items()


def test_topics_without_evidence_have_no_scores(
    model: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_collection(
        folder / "c", PASSAGES, {"nq-test": [{"id": "t1", "input": "who"}], "nq-dev": [query("q1", "who", ["1#0"])]}
    )
    main(["--topics", "nq-test", "--collection", "c", *model])
    assert (
        capsys.readouterr().out == ""
        and len(read_trec(Path("runs/c/nq-test.tiny-bert.trec")).rankings["t1"].docids) == 5
    )
    main(["--topics", "nq-dev", "nq-test", "--collection", "c", *model[:-1], "--compare", "--format", "json"])
    assert systems_in(capsys.readouterr().out) == [("nq-dev", "tiny-bert"), ("nq-dev", "bm25"), ("nq-dev", "hybrid")]


def test_names_of_topics_are_interchangeable(model: list[str]) -> None:
    for number, name in enumerate(
        ("zsre-dev", "kilt/zsre/dev", "kilt/structured_zeroshot/dev", "structured_zeroshot-dev")
    ):
        main(["--topics", name, *model, "--output", f"{number}.trec"])
        assert Path(f"{number}.trec").read_bytes() == Path("0.trec").read_bytes()
    assert len(read_trec(Path("0.trec")).rankings) == 20


def test_entity_marks_are_for_the_dense_encoder_alone(model: list[str], folder: Path) -> None:
    """Marks change the dense run and leave BM25's as it is."""
    marked = "the grave of [START_ENT] Henry IV [END_ENT] , the king"
    for name, text in (("marked", marked), ("plain", marked.replace("[START_ENT]", "").replace("[END_ENT]", ""))):
        write_collection(folder / name, PASSAGES, {"wned-dev": [query("e1", text, ["2#0"])]})
        for system in ("dense", "bm25"):
            argv = f"--topics wned-dev --collection {name} --retriever {system} --output {name}.{system}".split()
            main([*argv, *of_model(model, system)])
    assert Path("marked.bm25").read_bytes() == Path("plain.bm25").read_bytes()
    assert read_trec(Path("marked.bm25")).rankings["e1"].docids[0] == "2#0"
    dense, without = (read_trec(Path(f"{name}.dense")).rankings["e1"] for name in ("marked", "plain"))
    assert abs(np.sort(dense.scores) - np.sort(without.scores)).max() > 1e-3


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--topics", "nq-dev", "--query", "x"], "either --topics or --query"),
        ([], "either --topics or --query"),
        (["--query", " "], "--query is empty"),
        (["--query", "who", "--output", "x.trec"], "--output has an effect only with --topics"),
        (["--topics", "nq-dev", "--task", "nq"], "--task has an effect only with --query"),
        (["--topics", "nq-dev", "--vectors", "v", "--memory", "0GB"], "'0GB' is not an amount of memory, such as 4GB"),
        (["--topics", "nq-dev", "--index", "i", "--recall", "99"], "'99' is not a share above 0 and up to 1"),
        (["--topics", "nq-dev", "--recall", ".9"], "--recall has an effect only with --index"),
        (["--topics", "nq-dev", "--vectors", "v", "--memory", "4"], "'4' is not an amount of memory, such as 4GB"),
        (["--topics", "nq-dev", "--vectors", "v", "--shard", "3/2"], "--shard '3/2': give i/n with 1 <= i <= n"),
    ],
)
def test_flags_that_do_not_go_together(argv: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        main(argv)
