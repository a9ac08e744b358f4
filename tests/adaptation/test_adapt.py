"""An adaptation from an index and queries to a model: the index stays, and so does all that is not taught."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from training_runs import StopAfter, Stopped
from verbs import call, write_lines

from taco_ir.adapt import main
from taco_ir.adaptation.headroom import adaptation_headroom
from taco_ir.adaptation.report import Report, read_report
from taco_ir.adaptation.run import adapt
from taco_ir.adaptation.settings import AdaptSettings
from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.hashes import sha256_file
from taco_ir.data.collection import open_collection
from taco_ir.encoders.adapters.folder import TENSORS_FILE, read_record
from taco_ir.encoders.text_encoder import TextEncoder, load_encoder
from taco_ir.retrieval.frozen_index import open_frozen_index
from taco_ir.retrieval.lucene import start_jvm
from taco_ir.retrieval.pyserini_bridge import TacoQueryEncoder, run_pyserini
from taco_ir.training.log import Reporter

Settings = Callable[..., AdaptSettings]
QUERIES = ["who was Bach", "a composer of the Baroque era who was born in Eisenach"]


def taught(settings: AdaptSettings) -> TextEncoder:
    return load_encoder(str(Path(settings.output) / "model"))


def tensors(settings: AdaptSettings) -> dict[str, Any]:
    return dict(load_file(Path(settings.output) / "model" / TENSORS_FILE))


def losses_of(settings: AdaptSettings) -> list[float]:
    """The sum of the tasks' losses in each step."""
    lines = map(json.loads, (Path(settings.output) / "log.jsonl").read_text().splitlines())
    return [sum(line["loss"].values()) for line in lines if "loss" in line]


def test_the_index_stays_and_the_queries_change(
    settings: Settings, index: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    own = settings(keep_if_better=False)
    before = {path: sha256_file(path) for path in sorted(index.iterdir())}
    report = adapt(own)
    assert before == {path: sha256_file(path) for path in sorted(index.iterdir())}
    assert report.frozen.before == report.frozen.after == open_frozen_index(index).digest()
    base, encoder = load_encoder(str(tiny_bert), pooling="mean", normalize=True), taught(own)
    assert encoder.passage_fingerprint == base.passage_fingerprint
    passages = list(open_collection("sample").passages.read(0, 5))
    assert np.array_equal(encoder.encode_passages(passages), base.encode_passages(passages))
    for task in ("nq", "wow", None):
        assert not np.allclose(encoder.encode_queries(QUERIES, task), base.encode_queries(QUERIES, task), atol=1e-3)
    done = call(
        "search", "--model", f"{own.output}/model", "--index", index, "--topics", "nq-dev", "--no-compare", cwd=index
    )
    assert done.returncode == 0, done.stderr


def test_the_loss_falls_and_the_log_has_the_curve(settings: Settings) -> None:
    own = settings(steps=40, batch_size=40, validate_every=20, learning_rate=5e-2)
    report = adapt(own)
    lines = [json.loads(line) for line in (Path(own.output) / "log.jsonl").read_text().splitlines()]
    losses = losses_of(own)
    assert len(losses) == 40 and np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.15
    assert [line["step"] for line in lines if "validation" in line] == [0, 20, 40]
    assert {each.task for each in report.tasks} == {"nq", "wow"} and report.macro is not None
    assert report.steps == 40 and report.best_step in (20, 40)
    assert all(each.measure == "page R-precision" and each.low <= each.difference <= each.high for each in report.tasks)


def test_what_was_stopped_ends_bit_for_bit_as_what_was_not(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"weighting": "taco", "dropout": 0.1, "keep_if_better": False}
    whole, parts = (settings(output=str(tmp_path / name), **changes) for name in ("whole", "parts"))
    adapt(whole)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("taco_ir.adaptation.run.ConsoleReporter", lambda *_: StopAfter(5))
        adapt(parts)
    assert not (tmp_path / "parts" / "model").exists()
    steps: list[int] = []

    class Noted(Reporter):
        def progress(self, step: int, note: str) -> None:
            steps.append(step)

    monkeypatch.setattr("taco_ir.adaptation.run.ConsoleReporter", lambda *_: Noted())
    adapt(parts)
    assert steps == [5, 6]  # after the checkpoint of step 4
    expected, found = tensors(whole), tensors(parts)
    assert expected.keys() == found.keys() and all(expected[name].equal(found[name]) for name in expected)
    pages = [(Path(each.output) / "curves.html").read_bytes() for each in (whole, parts)]
    assert pages[0] == pages[1] and b"After 6 steps" in pages[0]
    reports = [read_report(Path(each.output)) for each in (whole, parts)]
    assert reports[0].tasks == reports[1].tasks


def test_a_finished_one_is_not_done_again_and_another_is_not_replaced(settings: Settings) -> None:
    own = settings()
    first = adapt(own)
    model = Path(own.output) / "model" / TENSORS_FILE
    written = model.stat().st_mtime_ns
    assert adapt(own) == first and model.stat().st_mtime_ns == written
    with pytest.raises(InputError, match=r"made differently \(settings width is 4, not 8\)"):
        adapt(settings(width=8))
    assert adapt(settings(width=8), overwrite=True).trained > first.trained
    (Path(own.output) / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="notes.txt was not written by an adaptation"):
        adapt(own, overwrite=True)


@pytest.mark.parametrize("share", ["one", "task", "group"])
def test_tasks_share_what_the_settings_say(settings: Settings, share: str, tiny_bert: Path) -> None:
    groups = ("a=nq,wow", "b=fever") if share == "group" else ("none",)
    own = settings(topics=("nq-train", "wow-train", "fever-train"), share=share, groups=groups, keep_if_better=False)
    adapt(own)
    record, encoder = read_record(Path(own.output) / "model"), taught(own)
    names = {"one": ["query"], "task": ["task nq", "task wow", "task fever"], "group": ["task a", "task b"]}
    assert record.names == names[share] and record.passage_adapter is None
    same = [record.query_adapter(task) for task in ("nq", "wow", "fever")]
    assert len(set(same)) == {"one": 1, "task": 3, "group": 2}[share] and same[0] == names[share][0]
    base = load_encoder(str(tiny_bert), pooling="mean", normalize=True)
    assert not np.allclose(encoder.encode_queries(QUERIES, "fever"), base.encode_queries(QUERIES, None), atol=1e-3)


@pytest.mark.parametrize("share", ["one", "task", "group"])
def test_a_task_that_is_not_helped_keeps_the_model_as_it_was(
    settings: Settings, share: str, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = ("a=nq,wow", "b=fever") if share == "group" else ("none",)
    own = settings(topics=("nq-train", "wow-train", "fever-train"), share=share, groups=groups)
    gains = {"nq": 0.1, "wow": 0.0, "fever": -0.1}
    monkeypatch.setattr("taco_ir.adaptation.run.subtract", lambda *_: gains)
    report = adapt(own)
    assert report.dropped == ["wow", "fever"]
    assert [each.after for each in report.tasks] == [
        each.adapted if each.task == "nq" else each.before for each in report.tasks
    ]
    base, encoder = load_encoder(str(tiny_bert), pooling="mean", normalize=True), taught(own)
    old = base.encode_queries(QUERIES, None)
    for task in gains:
        same = np.array_equal(encoder.encode_queries(QUERIES, task), old)
        assert same == (task != "nq"), task
    record = read_record(Path(own.output) / "model")
    assert record.names == {"one": ["query"], "task": ["task nq"], "group": ["task a"]}[share]


@pytest.mark.parametrize("share", ["one", "task"])
def test_an_adapter_that_helps_nothing_leaves_the_model_as_it_was(
    settings: Settings, share: str, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taco_ir.adaptation.run.subtract", lambda *_: {"nq": 0.0, "wow": 0.0})
    own = settings(share=share)
    adapt(own)
    base, encoder = load_encoder(str(tiny_bert), pooling="mean", normalize=True), taught(own)
    for task in ("nq", None):
        assert np.array_equal(encoder.encode_queries(QUERIES, task), base.encode_queries(QUERIES, None))


def test_a_later_task_leaves_the_adapters_of_the_earlier_ones(settings: Settings, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"share": "task", "keep_if_better": False}
    first = settings(topics=("nq-train",), output=str(tmp_path / "first"), **changes)
    adapt(first)
    again = {"model": f"{first.output}/model", "pooling": None, "normalize": False, **changes}
    second = settings(topics=("wow-train",), output=str(tmp_path / "second"), **again)
    adapt(second)
    before, after = taught(first), taught(second)
    assert np.array_equal(after.encode_queries(QUERIES, "nq"), before.encode_queries(QUERIES, "nq"))
    assert not np.allclose(after.encode_queries(QUERIES, "wow"), before.encode_queries(QUERIES, "nq"), atol=1e-3)
    for wrong, said in (
        ({"topics": ("nq-train",)}, "and 'nq' has one already; choose other tasks, or give its base"),
        (
            {"share": "one"},
            r"roles task-frozen\); only adapters with roles task-frozen can be extended, with share task or group",
        ),
        ({"width": 9}, "method adapter, width 4; give the same method and width"),
        ({"method": "lora"}, "method adapter, width 4; give the same method and width"),
    ):
        with pytest.raises(InputError, match=said):
            adapt(settings(**{"topics": ("fever-train",), "output": str(tmp_path / "never"), **again, **wrong}))


def test_files_are_enough_without_a_collection(settings: Settings, theirs: Path, tmp_path: Path) -> None:
    """Pyserini's index, queries as TSV and graded judgments: no text of any passage, no page."""
    queries = open_collection("sample").load_topics("nq-train").queries
    (tmp_path / "faq.tsv").write_text("".join(f"{query.qid}\t{query.text}\n" for query in queries))
    gold = [(query.qid, docid) for query in queries for each in query.evidence for docid in each.passages]
    (tmp_path / "faq.qrels").write_text("".join(f"{qid} 0 {docid} 2\n" for qid, docid in gold))
    files = {"topics": (str(tmp_path / "faq.tsv"),), "qrels": (str(tmp_path / "faq.qrels"),), "collection": ""}
    report = adapt(settings(index=str(theirs), **files))
    (task,) = report.tasks
    assert (task.task, task.measure, task.bm25) == ("faq", "passage nDCG@10", None)
    assert report.frozen.layout == "pyserini"


def test_an_index_of_pyserini_is_taught_and_searched_by_pyserini(
    settings: Settings, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by its own command with its own encoder, and searched by its own searcher."""
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    records = [{"id": p.docid, "title": p.title, "text": p.text} for p in open_collection("sample").passages.read()]
    source = ["input", "--corpus", str(write_lines(tmp_path / "corpus.jsonl", records)), "--fields", "title", "text"]
    theirs = tmp_path / "theirs"
    flags = "--encoder-class auto --pooling mean --l2-norm --fields title text --device cpu".split()
    encoder = ["encoder", "--encoder", str(tiny_bert), *flags, "--max-length", "128", "--dimension", "32"]
    run_pyserini("pyserini.encode", [*source, "output", "--embeddings", str(theirs), "--to-faiss", *encoder])
    start_jvm()
    from pyserini.search.faiss import FaissSearcher

    own, before = settings(index=str(theirs), share="task", keep_if_better=False), sha256_file(theirs / "index")
    adapt(own)
    assert sha256_file(theirs / "index") == before
    model, index = f"{own.output}/model", open_frozen_index(theirs)
    for task in ("nq", "wow"):
        searcher = FaissSearcher(str(theirs), TacoQueryEncoder(model, task=task))
        expected = index.rank(taught(own).encode_queries(QUERIES, task), 10)
        for query, ranking in zip(QUERIES, expected, strict=True):
            hits = searcher.search(query, k=10)
            assert np.allclose([hit.score for hit in hits], ranking.scores, atol=1e-5)
            assert {hit.docid for hit in hits[:5]} <= set(ranking.docids)


def test_a_sampled_softmax_of_all_passages_trains_as_the_whole_one(settings: Settings, tmp_path: Path) -> None:
    whole = settings(output=str(tmp_path / "whole"), keep_if_better=False)
    sampled = settings(output=str(tmp_path / "sampled"), keep_if_better=False, softmax_passages=10, hits=9, random=999)
    adapt(whole)
    adapt(sampled)
    assert np.allclose(losses_of(whole), losses_of(sampled), rtol=1e-5)


def test_one_that_was_killed_after_its_last_step_still_leaves_tasks_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = settings()
    monkeypatch.setattr("taco_ir.adaptation.run.subtract", lambda *_: {"nq": 0.1, "wow": -0.1})

    def stop(*_: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("taco_ir.adaptation.run.write_report", stop)
        adapt(own)
    assert adapt(own).dropped == ["wow"]
    assert read_record(Path(own.output) / "model").lent == {"wow": "none"}


def test_it_learns_on_held_out_queries_alone(settings: Settings) -> None:
    """A file that is held out is not trained on, under whatever ids."""
    own = settings(topics=("nq-train",), validate_on=("nq-dev",))
    report = adapt(own)
    assert report.tasks[0].train == len(open_collection("sample").load_topics("nq-train").queries)
    assert report.tasks[0].queries == -(-len(open_collection("sample").load_topics("nq-dev").queries) // 2)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no gold": ({"topics": ("QUERIES",)}, "its queries have no gold; give judgments with --qrels"),
    "topics without a collection": (
        {"collection": ""},
        "nq-train: this names topics of a collection, so --collection is needed",
    ),
    "another width": ({"model": "NARROW"}, "its vectors have 32 dimensions, the vectors of --model .* have 16"),
    "another encoder": (
        {"pooling": "first"},
        "its vectors were made by encoder .*; give the model that made the index",
    ),
    "a task that is too small": ({"max_examples": 9}, "task nq: 9 queries with gold in the index; at least 10"),
    "a group too few": ({"share": "group", "groups": ("a=nq",)}, "groups: task wow is in no group"),
    "a group too many": (
        {"share": "group", "groups": ("a=nq,wow", "b=fever")},
        "groups: task fever of group b has no topics",
    ),
    "held-out queries of another task": (
        {"validate_on": ("fever-dev",)},
        "--validate-on: task fever is not among the tasks of --topics",
    ),
    "too wide": ({"width": 99}, r"^width is 99; adapter allows 1 to 32"),
    "a method without prompts": ({"positions": "plain"}, r"^positions is 'plain', but method adapter has no prompts"),
    "all held out": ({"held_out": 0.99}, "too few to hold|queries besides the held-out ones"),
    "longer than the model takes": ({"query_length": 999}, "query_length is 999; the model allows 1 to 128"),
    "hits of an exact softmax": (
        {"hits": 9},
        "hits is 9, but is used only if the softmax is sampled; for 305 passages it is exact. Leave hits out",
    ),
    "an option of no weighting": ({"weighting_options": {"tau": 2}}, "unknown option 'tau' of naive"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_told_in_one_line(settings: Settings, name: str, tmp_path: Path, tiny_bert: Path) -> None:
    changes, message = BAD[name]
    (tmp_path / "queries.tsv").write_text("a\twho\nb\twhat\n")
    places = {"QUERIES": str(tmp_path / "queries.tsv"), "NARROW": str(tmp_path / "narrow")}
    if changes.get("model"):
        narrow(tmp_path / "narrow", tiny_bert)
    changes = {
        key: tuple(places.get(each, each) for each in value) if key == "topics" else places.get(str(value), value)
        for key, value in changes.items()
    }
    with pytest.raises(InputError, match=message) as caught:
        adapt(settings(**changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "taught").exists()


def narrow(folder: Path, base: Path) -> Path:
    """A model half as wide as `base`, with its tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    shutil.copytree(base, folder)
    values = read_json(folder / "config.json", dict[str, Any])
    values |= {"hidden_size": 16}
    write_json(folder / "config.json", values)
    torch.manual_seed(0)
    BertModel(BertConfig(**values)).save_pretrained(folder)
    return folder


def test_other_vectors_are_told_by_the_texts(settings: Settings, theirs: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """Where nothing says what made an index, its vectors of ten passages are compared."""
    import torch
    from transformers import BertConfig, BertModel

    other = tmp_path / "other"
    shutil.copytree(tiny_bert, other)
    torch.manual_seed(1)
    BertModel(BertConfig.from_pretrained(tiny_bert)).save_pretrained(other)
    with pytest.raises(InputError, match="for 10 passages, its vectors differ from those of this encoder"):
        adapt(settings(index=str(theirs), model=str(other)))


def test_docids_that_the_index_lacks_are_counted(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queries = open_collection("sample").load_topics("nq-train").queries
    (tmp_path / "faq.tsv").write_text("".join(f"{query.qid}\t{query.text}\n" for query in queries))
    gold = [(query.qid, docid) for query in queries for each in query.evidence for docid in each.passages]
    lines = [f"{qid} 0 {docid}{'' if place % 3 else '-gone'} 1\n" for place, (qid, docid) in enumerate(gold)]
    (tmp_path / "faq.qrels").write_text("".join(lines))
    files = {"topics": (str(tmp_path / "faq.tsv"),), "qrels": (str(tmp_path / "faq.qrels"),)}
    adapt(settings(**files))
    assert "gold docids, first" in caplog.text and "queries have no gold there and are left out" in caplog.text
    (tmp_path / "faq.qrels").write_text("".join(f"{qid} 0 {docid}-gone 1\n" for qid, docid in gold))
    with pytest.raises(InputError, match=r"lacks \d+ of \d+ gold docids, first '.*-gone'; 34 of 34 queries"):
        adapt(settings(**files, output=str(tmp_path / "other")))


def test_the_report_says_what_got_worse(settings: Settings) -> None:
    own = settings(learning_rate=10.0)
    report: Report = adapt(own)
    page = (Path(own.output) / "report.md").read_text()
    for each in report.tasks:
        assert each.task in page
        assert (f"{each.task} (-" in page) == (each.difference < 0)
    assert f"SHA-256 {report.frozen.before}, the same before and after" in page


def test_headroom_is_what_an_adapter_for_each_task_has_above_a_shared_one(
    settings: Settings, index: Path, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """...trained alike: both are adaptations as any other, whose reports say the same."""
    found = adaptation_headroom(settings(learning_rate=3e-2))
    one, each = (read_report(tmp_path / "taught" / share) for share in ("one", "task"))
    assert [task.task for task in one.tasks] == ["nq", "wow"]
    for row, shared, own in zip(found, one.tasks, each.tasks, strict=False):
        assert (row.topics, row.queries, row.seeds) == (shared.task, shared.queries, 1)
        assert row.baseline == pytest.approx(shared.adapted) and row.score == pytest.approx(own.adapted)
        assert row.headroom == pytest.approx(max(0.0, own.adapted - shared.adapted)) and row.smallest is not None
    assert found[-1].topics == "macro average"
    assert each.trained == 2 * one.trained and not (one.dropped or each.dropped)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "taught").rglob("*.safetensors")}
    words = ["--index", str(index), "--model", str(tiny_bert), "--output", str(tmp_path / "taught"), "--normalize"]
    words += "--pooling mean --collection sample --topics nq-train wow-train --width 4 --steps 6 --batch-size 6".split()
    words += "--shares uniform --learning-rate 3e-2 --dropout 0 --validate-every 3 --checkpoint-every 2".split()
    main([*words, "--headroom"])
    said = capsys.readouterr().out
    assert "headroom of one adapter for all" in said and "a weighting that gained all of it could" in said
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "taught").rglob("*.safetensors")} == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"share": "task"}, "share is 'task': leave share out"),
        ({"weighting": "taco"}, "weighting is 'taco': leave weighting out"),
        ({"held_out": 0.0, "validate_every": 25}, "on held-out queries, but held_out is none"),
    ],
)
def test_headroom_refuses_what_it_compares(settings: Settings, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        adaptation_headroom(settings(**changes))
