"""KILT's files are stored whole under KILT's names, TriviaQA gets its questions, and ir_datasets serves them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Loopback, serving

from taco_ir.core.files import InputError
from taco_ir.core.tasks import KILT_TASKS, TopicsName
from taco_ir.core.types import EvidenceSet, Query
from taco_ir.data import kilt_files
from taco_ir.data.collection import open_collection
from taco_ir.data.gold import find_relevant_ids
from taco_ir.data.ir_datasets import dataset, register_collection
from taco_ir.data.kilt_files import (
    KILT_FILES,
    Addresses,
    KiltFile,
    expand_names,
    get_knowledge_source,
    get_topics,
    kilt_folder,
    read_questions,
)
from taco_ir.data.kilt_ids import register

NQ_DEV, NQ_TEST, TRIVIAQA_DEV = TopicsName("nq", "dev"), TopicsName("nq", "test"), TopicsName("triviaqa", "dev")
RECORDS: list[dict[str, Any]] = [
    {
        "id": "q1",
        "input": "who [START_ENT] wrote [END_ENT] it",
        "output": [
            {"answer": "Ann", "provenance": [{"wikipedia_id": "10"}, {"wikipedia_id": "11"}]},
            {"answer": "A.", "provenance": [{"wikipedia_id": "10"}]},
        ],
    },
    {"id": "q 2", "input": "where", "output": [{"answer": "here", "provenance": [{"wikipedia_id": "12"}]}]},
]
QUESTIONS = {
    "qa/wikipedia-train.json": {"tc_1": "one?"},
    "qa/wikipedia-dev.json": {"tc_2": "two?"},
    "qa/wikipedia-test-without-answers.json": {"tc_3": "three?"},
}


def lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def release(questions: dict[str, dict[str, str]], top: str = "triviaqa-rc/") -> bytes:
    """A TriviaQA archive with evidence files before and after the questions, as the real one has."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as tar:
        members = {"evidence/wikipedia/x.txt": b"x"} | {
            name: json.dumps(
                {"Data": [{"QuestionId": key, "Question": text, "Answer": {}} for key, text in texts.items()]}
            ).encode()
            for name, texts in questions.items()
        }
        for name, body in members.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return held.getvalue()


IDS = lines([{"id": "tc_2", "output": [{"answer": "2"}]}, {"id": "tc_1", "output": []}])


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving(
        {
            "KILT/nq-test_without_answers-kilt.jsonl": lines(RECORDS),
            "KILT/nq-dev-kilt.jsonl": lines(RECORDS),
            "KILT/triviaqa-dev_id-kilt.jsonl": IDS,
            "triviaqa-rc.tar.gz": release(QUESTIONS),
        }
    ) as loopback:
        yield loopback


@pytest.fixture
def addresses(server: Loopback) -> Addresses:
    return Addresses(server.url + "KILT/", server.url + "triviaqa-rc.tar.gz")


@pytest.fixture(autouse=True)
def fresh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TACO_IR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "ir"))
    monkeypatch.setenv("IR_DATASETS_DL_TRIES", "1")
    return tmp_path / "home"


@pytest.fixture
def known_nq(monkeypatch: pytest.MonkeyPatch) -> KiltFile:
    """nq-dev as a file whose md5 and size are those of RECORDS."""
    body = lines(RECORDS)
    file = KILT_FILES[NQ_DEV]._replace(md5=hashlib.md5(body).hexdigest(), size=len(body))
    monkeypatch.setitem(kilt_files.KILT_FILES, NQ_DEV, file)
    return file


def test_importing_is_light() -> None:
    code = (
        "import sys, taco_ir.data.ir_datasets, taco_ir.data.__main__; "
        "print([m for m in ('ir_datasets', 'requests', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_files_are_those_that_kilt_publishes() -> None:
    assert len(KILT_FILES) == 9 + 11 + 11
    assert KILT_FILES[NQ_TEST].fetched == "nq-test_without_answers-kilt.jsonl"
    assert KILT_FILES[TopicsName("triviaqa", "test")].fetched == "triviaqa-test_id_without_answers-kilt.jsonl"
    assert KILT_FILES[TopicsName("triviaqa", "train")].fetched == "triviaqa-train_id-kilt.jsonl"
    assert {task for task, split in KILT_FILES if split != "train"} == {task.name for task in KILT_TASKS}
    assert not {("wned", "train"), ("cweb", "train")} & set(KILT_FILES)
    assert KILT_FILES[NQ_DEV][2:5] == ("0bb57ca0b4676ed66005b8788d3a3050", 7936566, 2837)
    assert sum(file.records or 0 for file in KILT_FILES.values()) == 45945
    assert all(len(file.md5 or "") == 32 and file.size for file in KILT_FILES.values() if file.records)
    assert all(address.startswith("https://") for address in kilt_files.ORIGINALS)


def test_collections_find_every_file_by_its_name(fresh_home: Path) -> None:
    kilt_folder().mkdir(parents=True)
    (kilt_folder() / "passages.jsonl").write_text('{"id": "1#0", "contents": "x", "wikipedia_id": "1"}\n')
    for file in KILT_FILES.values():
        file.path.write_bytes(lines(RECORDS))
    assert open_collection("kilt").topics_names == sorted(KILT_FILES)


def test_names_expand() -> None:
    assert expand_names("kilt/zsre/dev") == [TopicsName("structured_zeroshot", "dev")]
    assert (
        len(expand_names("kilt/all-dev")) == len(expand_names("all-test")) == 11
        and len(expand_names("kilt/all/train")) == 9
    )
    with pytest.raises(InputError, match="unknown topics 'kilt/ng/dev'; did you mean nq-dev"):
        expand_names("kilt/ng/dev")


def test_a_fetched_file_is_kept_and_used(addresses: Addresses, server: Loopback) -> None:
    path = get_topics(NQ_TEST, addresses=addresses)
    assert path == kilt_folder() / "nq-test_without_answers-kilt.jsonl" and path.read_bytes() == lines(RECORDS)
    assert get_topics(NQ_TEST, addresses=addresses) == path and len(server.paths) == 1


def test_a_file_with_known_md5(addresses: Addresses, known_nq: KiltFile) -> None:
    path = get_topics(NQ_DEV, addresses=addresses)
    assert path.read_bytes() == lines(RECORDS)
    path.write_bytes(b"cut")
    with pytest.raises(InputError, match=f"it has 3 bytes, but KILT's file has {known_nq.size}; remove it"):
        get_topics(NQ_DEV, addresses=addresses)


def test_another_file_than_kilts_is_refused(addresses: Addresses, server: Loopback) -> None:
    with pytest.raises(InputError, match="but the file must have 7936566"):
        get_topics(NQ_DEV, addresses=addresses)
    server.files["KILT/nq-test_without_answers-kilt.jsonl"] = b"<html>please log in</html>"
    with pytest.raises(InputError, match="line 1: not valid JSON.*removed"):
        get_topics(NQ_TEST, addresses=addresses)
    assert not KILT_FILES[NQ_TEST].path.exists()


@pytest.mark.parametrize("packed", [False, True])
def test_a_local_copy_needs_no_network(tmp_path: Path, known_nq: KiltFile, server: Loopback, packed: bool) -> None:
    copy = tmp_path / "mine"
    copy.write_bytes(gzip.compress(lines(RECORDS)) if packed else lines(RECORDS))
    assert get_topics(NQ_DEV, [copy]).read_bytes() == lines(RECORDS)
    copy.write_bytes(gzip.compress(b"other") if packed else b"?" * len(lines(RECORDS)))
    with pytest.raises(InputError, match=f"{copy}: its md5 is"):
        get_topics(NQ_DEV, [copy])
    assert server.paths == []


@pytest.mark.parametrize("top", ["triviaqa-rc/", "", "./triviaqa-rc/"])
def test_triviaqa_questions_are_joined_in_from_all_parts(addresses: Addresses, server: Loopback, top: str) -> None:
    server.files["triviaqa-rc.tar.gz"] = release(QUESTIONS, top)
    path = get_topics(TRIVIAQA_DEV, addresses=addresses)
    assert path == kilt_folder() / "triviaqa-dev-kilt.jsonl"
    assert [json.loads(line) for line in path.open()] == [
        {"id": "tc_2", "output": [{"answer": "2"}], "input": "two?"},
        {"id": "tc_1", "output": [], "input": "one?"},
    ]
    assert sorted(file.name for file in (kilt_folder() / "source").iterdir()) == [
        "triviaqa-dev_id-kilt.jsonl",
        "triviaqa-rc.tar.gz",
    ]
    server.files.clear()
    path.unlink()
    assert get_topics(TRIVIAQA_DEV, addresses=addresses) == path, "its sources are kept and used again"


def test_triviaqa_ids_without_question(addresses: Addresses, server: Loopback) -> None:
    server.files["KILT/triviaqa-dev_id-kilt.jsonl"] = IDS + lines([{"id": "tc_8"}, {"id": "tc_9"}])
    with pytest.raises(
        InputError, match="triviaqa-dev_id-kilt.jsonl: 2 of 4 question ids are not in triviaqa-rc.tar.gz, first 'tc_8'"
    ):
        get_topics(TRIVIAQA_DEV, addresses=addresses)
    assert not KILT_FILES[TRIVIAQA_DEV].path.exists()


def test_triviaqa_from_local_files_in_any_order(tmp_path: Path, server: Loopback) -> None:
    (tmp_path / "ids").write_bytes(gzip.compress(IDS))
    (tmp_path / "release").write_bytes(release(QUESTIONS))
    path = get_topics(TRIVIAQA_DEV, [tmp_path / "release", tmp_path / "ids"])
    joined = path.read_bytes()
    path.rename(tmp_path / "joined")
    assert get_topics(TRIVIAQA_DEV, [tmp_path / "joined"]).read_bytes() == joined
    (tmp_path / "junk").write_bytes(b"<html>")
    with pytest.raises(InputError, match="junk: this is neither KILT's TriviaQA file nor triviaqa-rc.tar.gz"):
        get_topics(TRIVIAQA_DEV, [tmp_path / "junk"])
    assert server.paths == []


def test_archives_that_are_not_the_release(tmp_path: Path) -> None:
    archive = tmp_path / "triviaqa-rc.tar.gz"
    whole = release(QUESTIONS)
    for body in (b"junk", whole[: len(whole) // 2]):
        archive.write_bytes(body)
        with pytest.raises(InputError, match="not the TriviaQA release"):
            read_questions(archive)
    archive.write_bytes(release({name: texts for name, texts in QUESTIONS.items() if "dev" not in name}))
    with pytest.raises(InputError, match="it has no qa/wikipedia-dev.json, so it is incomplete"):
        read_questions(archive)


def test_the_knowledge_source_goes_where_ir_datasets_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, addresses: Addresses
) -> None:
    body = b'{"wikipedia_id": "1"}\n'
    with pytest.raises(InputError, match=f"22 bytes, but {kilt_files.SOURCE_FILE} must have 37318876722"):
        (tmp_path / "pages").write_bytes(body)
        get_knowledge_source(tmp_path / "pages", addresses)
    monkeypatch.setattr(kilt_files, "SOURCE_SIZE", len(body))
    monkeypatch.setattr(kilt_files, "SOURCE_MD5", hashlib.md5(body).hexdigest())
    path = get_knowledge_source(tmp_path / "pages", addresses)
    assert path == tmp_path / "ir" / "kilt" / "kilt_knowledgesource.json"
    assert path.read_bytes() == body and get_knowledge_source(addresses=addresses) == path


def test_ir_datasets_serves_queries_evidence_and_page_judgments(addresses: Addresses, known_nq: KiltFile) -> None:
    import ir_datasets

    assert len(register()) == len(set(register())) == 31
    held = ir_datasets.load("kilt/nq/dev")
    with pytest.raises(InputError, match="python -m taco_ir.data get kilt/nq/dev"):
        list(held.queries_iter())
    with pytest.raises(InputError, match="python -m taco_ir.data get kilt/nq/dev"):
        held.qrels_dict()
    get_topics(NQ_DEV, addresses=addresses)
    first, second = held.queries_iter()
    assert first == (
        "q1",
        RECORDS[0]["input"],
        ("Ann", "A."),
        (EvidenceSet(("10", "11"), ()), EvidenceSet(("10",), ())),
    )
    assert first.default_text() == "who  wrote  it" and second.query_id == "q_2"
    assert held.queries_count() == 2 and set(held.queries_dict()) == {"q1", "q_2"}
    assert [tuple(qrel) for qrel in held.qrels_iter()] == [
        ("q1", "10", 1, "0"),
        ("q1", "11", 1, "0"),
        ("q_2", "12", 1, "0"),
    ]
    assert held.qrels_dict() == {"q1": {"10": 1, "11": 1}, "q_2": {"12": 1}}
    assert (
        held.docs_handler()
        is ir_datasets.load("kilt").docs_handler()
        is ir_datasets.load("kilt/wned/test").docs_handler()
    )


def test_ids_of_ir_datasets_have_judgments_but_for_test() -> None:
    import ir_datasets

    for name in register():
        assert ir_datasets.load(name).has_qrels() == (not name.endswith("/test")), name


@pytest.mark.parametrize(
    "name", ["kilt/structured_zeroshot/dev", "kilt/zsre/dev", "zsre-dev", "structured_zeroshot-dev"]
)
def test_dataset_takes_any_spelling(name: str) -> None:
    assert dataset(name).dataset_id() == "kilt/structured_zeroshot/dev"


def test_dataset_of_no_name() -> None:
    with pytest.raises(InputError, match="did you mean nq-dev"):
        dataset("kilt/ng/dev")


def test_the_sample_as_ir_datasets() -> None:
    import ir_datasets

    ids = register_collection("sample", "sample")
    assert len(ids) == 1 + 16 and register_collection("sample", "sample") == ids
    held, collection = ir_datasets.load("sample/nq/dev"), open_collection("sample")
    passages = list(collection.passages.read())
    assert [tuple(doc) for doc in held.docs_iter()] == passages
    assert [doc.doc_id for doc in held.docs_iter()[3:6]] == [passage.docid for passage in passages[3:6]]
    assert held.docs[-1] == passages[-1] and list(held.docs_iter()[5:2]) == []
    assert held.docs_count() == len(passages)
    assert held.docs_store().get("10001#1") == next(passage for passage in passages if passage.docid == "10001#1")
    assert list(held.docs_store().get_many(["10001#0", "no#0"])) == ["10001#0"]
    with pytest.raises(KeyError):
        held.docs_store().get("no#0")
    docids = {passage.docid for passage in passages}
    assert {qrel.doc_id for qrel in held.qrels_iter()} <= docids, "the sample judges passages"
    assert held.queries_count() == len(held.qrels_dict()) == len(collection.topics("nq-dev").queries)
    assert dataset("sample/zsre/dev").dataset_id() == "sample/structured_zeroshot/dev"
    assert ir_datasets.docs_parent_id("sample/nq/dev") == "sample"


def test_a_name_belongs_to_one_folder(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "passages.jsonl").write_text('{"id": "10#0", "contents": "x", "wikipedia_id": "10"}\n')
        (tmp_path / folder / "own-dev.jsonl").write_bytes(lines(RECORDS))
        (tmp_path / folder / "own-test.jsonl").write_bytes(lines([{"id": "1", "input": "x"}]))
    assert register_collection(tmp_path / "a", "mine") == ["mine", "mine/own/dev", "mine/own/test"]
    with pytest.raises(InputError, match="'mine' already belongs to .*/a/passages.jsonl; choose another for .*/b"):
        register_collection(tmp_path / "b", "mine")
    with pytest.raises(InputError, match="'kilt' already belongs to a data set of ir_datasets"):
        register_collection(tmp_path / "b", "kilt")
    with pytest.raises(InputError, match="collection name 'a b'"):
        register_collection(tmp_path / "b", "a b")
    assert dataset("mine/own/dev").qrels_dict()["q1"] == {"10": 1, "11": 1}, "no passages are judged: pages"
    assert not dataset("mine/own/test").has_qrels()


def test_judgments_are_of_passages_where_any_are_judged() -> None:
    pages, both = EvidenceSet(("1", "2"), ()), EvidenceSet(("1",), ("1#0",))
    assert list(
        find_relevant_ids([Query("a", "x", "t", evidence=(pages, both)), Query("b", "y", "t", evidence=(pages,))])
    ) == [("a", ("1#0",)), ("b", ())]
    assert list(find_relevant_ids([Query("b", "y", "t", evidence=(pages, pages))])) == [("b", ("1", "2"))]
