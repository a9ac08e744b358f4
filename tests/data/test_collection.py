"""A folder with passages and topics is a collection; the embedded sample and the real one open alike."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from taco_ir.core.files import InputError
from taco_ir.core.tasks import TopicsName
from taco_ir.core.types import EvidenceSet, Query
from taco_ir.data.collection import Topics, open_collection

MINIKILT = {  # queries; fever and squad-train repeat ids, which are merged
    **{"fever-train": 5249, "fever-dev": 627, "hotpotqa-train": 1522, "hotpotqa-dev": 404, "nq-train": 7019},
    **{"nq-dev": 662, "squad-train": 9339, "squad-dev": 758, "trex-train": 10924, "trex-dev": 621, "wned-train": 2778},
    **{"wned-dev": 348, "wow-train": 3676, "wow-dev": 739, "zsre-train": 2940, "zsre-dev": 688},
}


def fill(folder: Path, *topics: str) -> Path:
    (folder / "passages.jsonl").write_text('{"id": "1#0", "contents": "x", "title": "T", "wikipedia_id": "1"}\n')
    for name in topics:
        record = {"id": name, "input": "x", "output": [{"provenance": [{"wikipedia_id": "1"}]}]}
        (folder / name).write_text(json.dumps(record) + "\n")
    return folder


def test_the_sample_opens() -> None:
    collection = open_collection("sample")
    assert collection.name == "sample" and collection.passages.count >= 240
    assert len(collection.topics_names) == 16
    for name in collection.topics_names:
        topics = collection.topics(str(name))
        assert (topics.name, topics.task, topics.has_gold) == (str(name), name.task, True)
        assert {query.task for query in topics.queries} == {name.task}


@pytest.mark.parametrize("folder", ["", "small"])
def test_the_real_collection_opens_whole(minikilt: Path, folder: str, caplog: pytest.LogCaptureFixture) -> None:
    collection = open_collection(str(minikilt / folder))
    assert collection.passages.count == (10_000 if folder else 136_279)
    names = {collection.topics(str(name)).name: name for name in collection.topics_names}
    assert set(names) == set(MINIKILT)
    assert names["zsre-dev"] == TopicsName("structured_zeroshot", "dev")
    if not folder:
        assert {name: len(collection.topics(name).queries) for name in names} == MINIKILT
    assert "are not in collection" not in caplog.text


def test_topics_are_found_in_every_spelling(tmp_path: Path) -> None:
    names = "nq-dev-kilt.jsonl", "fever-test_without_answers-kilt.jsonl", "zsre-dev.jsonl", "my-own-train.jsonl"
    collection = open_collection(str(fill(tmp_path, *names, "notes.jsonl", "nq-dev.txt")))
    assert collection.topics_names == [
        ("fever", "test"),
        ("my-own", "train"),
        ("nq", "dev"),
        ("structured_zeroshot", "dev"),
    ]
    spelled = {
        "kilt/nq/dev": "nq-dev",
        "fever-test": "fever-test",
        "structured_zeroshot-dev": "zsre-dev",
        "my-own-train": "my-own-train",
    }
    assert {name: collection.topics(name).name for name in spelled} == spelled
    with pytest.raises(
        InputError, match="unknown topics 'wow-dev'; .*valid: fever-test, my-own-train, nq-dev, structured_zeroshot-dev"
    ):
        collection.topics("wow-dev")


def test_two_files_for_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match="zsre-dev.jsonl and structured_zeroshot-dev.jsonl both contain structured_zeroshot-dev; keep one",
    ):
        open_collection(str(fill(tmp_path, "zsre-dev.jsonl", "structured_zeroshot-dev.jsonl")))


def test_evidence_that_the_collection_lacks_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path)
    records = [
        {"id": str(number), "input": "x", "output": [{"provenance": [{"wikipedia_id": page}]}]}
        for number, page in enumerate("1123")
    ]
    (tmp_path / "nq-dev.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    collection = open_collection(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert collection.topics("nq-dev") == collection.load_topics("nq-dev")
    assert caplog.messages == [
        f"nq-dev: 2 of 3 evidence pages are not in collection {tmp_path.name} (first '2'); 2 of 4 queries name one"
    ]


def test_topics_without_evidence_are_not_judged(tmp_path: Path) -> None:
    fill(tmp_path, "nq-dev.jsonl")
    (tmp_path / "nq-test.jsonl").write_text('{"id": "1", "input": "x"}\n')
    collection = open_collection(str(tmp_path))
    assert collection.load_topics("nq-dev").has_gold and not collection.load_topics("nq-test").has_gold


def test_folders_that_are_no_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--collection '\S+/nowhere': no such folder. Give sample, kilt, a folder"):
        open_collection(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="holds none of passages.jsonl, passages.jsonl.gz, psgs_w100.tsv"):
        open_collection(str(tmp_path))
    monkeypatch.setenv("TACO_IR_HOME", str(tmp_path))
    with pytest.raises(InputError, match="build it with `python -m taco_ir.data passages`"):
        open_collection("kilt")
    (tmp_path / "kilt").mkdir()
    fill(tmp_path / "kilt", "nq-dev-kilt.jsonl")
    assert open_collection("kilt").name == "kilt" and open_collection(str(tmp_path / "kilt")).topics_names == [
        ("nq", "dev")
    ]


def test_a_folder_is_named_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fill(tmp_path))
    assert open_collection(".").name == tmp_path.name


def test_fingerprints_of_topics_hold_what_depends_on_them() -> None:
    """A run depends on ids, texts and tasks; scores on answers and evidence as well."""
    plain = Query("q", "who", "nq", ("a",), (EvidenceSet(("1",), ("1#0",)),))

    def both(query: Query) -> tuple[str, str]:
        topics = Topics("t", "", [query])
        return topics.fingerprint, topics.gold_fingerprint

    run, scores = both(plain)
    for changed in (plain._replace(qid="r"), plain._replace(text="where"), plain._replace(task="fever")):
        assert both(changed)[0] != run and both(changed)[1] != scores
    judged_otherwise = (
        plain._replace(answers=("b",)),
        plain._replace(answers=()),
        plain._replace(evidence=(EvidenceSet(("2",), ("1#0",)),)),
        plain._replace(evidence=(EvidenceSet(("1",), ()),)),
        plain._replace(evidence=()),
    )
    found = [both(changed) for changed in judged_otherwise]
    assert {each[0] for each in found} == {run} and len({scores, *(each[1] for each in found)}) == 1 + len(found)
