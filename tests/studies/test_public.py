"""Numbers of one's own: a collection made of KILT as it is published, the study on it, and public sets."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import ir_datasets
import pytest
from documents import blocks, command, lines_of
from loopback import CERTIFICATE, serving

from taco_ir import reproduce
from taco_ir.data import __main__ as data
from taco_ir.data import kilt_files
from taco_ir.data.collection import open_collection
from taco_ir.data.kilt_files import KILT_FILES, SOURCE_FILE, KiltFile
from taco_ir.studies.records import read_records
from taco_ir.training.flags import read_settings

ROOT = Path(__file__).resolve().parents[2]
QUERIES, DISTRACTORS = 4, 20
SMALLER = {"--max-queries": str(QUERIES), "--distractors": str(DISTRACTORS), "--words": "8"}  # than in the document
WORDS = ("bach", "cello", "suite", "nepal", "peak", "river", "oslo", "fjord", "tiber", "rome")


def page_of(number: int) -> dict[str, object]:
    """A page of KILT's Wikipedia: its paragraphs begin with the title and name sections."""
    named = [f"{WORDS[number % 10]}{number} {word} {each}" for each, word in enumerate(WORDS)]
    text = [f"Page {number}\n", " ".join(named) + "\n", "Section::::Life.\n", f"BULLET::::- {WORDS[number % 7]}\n"]
    return {"_id": str(number), "wikipedia_id": str(number), "wikipedia_title": f"Page {number}", "text": text}


def record_of(task: str, split: str, number: int) -> dict[str, object]:
    """A query as KILT writes it: its evidence names paragraphs of a page."""
    page = 3 * number + (split == "dev")
    where = {"wikipedia_id": str(page), "title": f"Page {page}", "start_paragraph_id": 1, "bleu_score": 1.0}
    output = [] if split == "test" else [{"answer": WORDS[page % 10], "provenance": [where]}]
    return {"id": f"{task}-{split}-{number}", "input": f"{task} {WORDS[page % 10]}{page}", "output": output}


def as_lines(records: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def release(questions: dict[str, dict[str, str]]) -> bytes:
    """TriviaQA's archive with questions by id for each of its files."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as tar:
        for name, texts in questions.items():
            asked = [{"QuestionId": each, "Question": text, "Answer": {}} for each, text in texts.items()]
            body = json.dumps({"Data": asked}).encode()
            info = tarfile.TarInfo(f"triviaqa-rc/{name}")
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return held.getvalue()


@pytest.fixture
def kilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """KILT as its hosts serve it, by path, with checksums of its own, in a data home of its own."""
    files: dict[str, bytes] = {}
    questions: dict[str, dict[str, str]] = {name: {} for name in kilt_files.TRIVIAQA_MEMBERS}
    for topics, file in list(KILT_FILES.items()):
        records = [record_of(topics.task, topics.split, number) for number in range(6)]
        if topics.task == "triviaqa":  # KILT has its ids alone
            asked = {str(record["id"]): str(record.pop("input")) for record in records}
            questions[kilt_files.TRIVIAQA_MEMBERS[0]] |= asked
        body = files[f"KILT/{file.fetched}"] = as_lines(records)
        own = KiltFile(file.name, file.fetched, file.md5 and hashlib.md5(body).hexdigest(), file.size and len(body))
        monkeypatch.setitem(KILT_FILES, topics, own)
    source = files[f"KILT/{SOURCE_FILE}"] = as_lines([page_of(number) for number in range(60)])
    files["triviaqa/data/triviaqa-rc.tar.gz"] = release(questions)
    monkeypatch.setattr(kilt_files, "SOURCE_MD5", hashlib.md5(source).hexdigest())
    monkeypatch.setattr(kilt_files, "SOURCE_SIZE", len(source))
    monkeypatch.setenv("TACO_IR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "ir"))
    return files


def test_the_page_on_full_kilt_makes_a_collection_and_a_study_of_it(
    kilt: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands, with smaller numbers, on a copy of KILT in the layout of its hosts, to the scores of BM25."""
    shutil.copytree(ROOT / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("results"))
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "full-kilt.md").read_text(encoding="utf-8")
    commands = [command(line) for _, block in blocks(page) for line in lines_of(block) if line.startswith("python")]
    made = [argv for verb, argv in commands if verb == "data" and argv[:1] != ["list"]]
    with serving(kilt) as server:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, server.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
        for argv in made:
            if "kilt-100k" not in argv:
                before = ("", *argv)
                data.main([SMALLER.get(last, word) for last, word in zip(before, argv, strict=False)])
    collection = open_collection("my-kilt")
    names = [str(name) for name in collection.topics_names]
    assert len(names) == 16 and {name.rpartition("-")[2] for name in names} == {"train", "dev"}
    assert {len(collection.load_topics(name).queries) for name in names} == {QUERIES}
    gold = {page for name in names for each in collection.load_topics(name).queries for page in each.evidence[0].pages}
    kept = {passage.page for passage in collection.passages.read()}
    assert gold <= kept and collection.passages.count < open_collection("kilt").passages.count
    (study,) = (argv for verb, argv in commands if verb == "reproduce")
    reproduce.main([*study, "--only", "bm25"])
    (record,) = read_records(Path("runs/public/results"))
    assert record.system == "BM25" and len(record.topics) == 8
    assert all(scores.means["page R-precision"] > 0.5 for scores in record.topics.values())


def test_the_public_sets_are_those_of_ir_datasets() -> None:
    settings = read_settings(ROOT / "runs" / "public" / "beir.toml", {"model": "minilm-l6", "output": "out"})
    assert len(settings.task_tables) == 3
    for table in settings.task_tables.values():
        assert table.collection
        kind, _, name = table.collection.partition(":")
        train = ir_datasets.load(f"{name}/train")
        assert kind == "irds" and train.has_docs() and train.has_queries() and train.has_qrels()
        assert ir_datasets.load(f"{name}/test").docs_handler() is train.docs_handler()
        assert table.task == name.replace("/", "-")  # what the collection calls it
