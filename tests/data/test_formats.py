"""Collections in the layouts that others publish: recognised, read once, and the same as in our own layout."""

import gzip
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from layouts import GRADES, MADE, QUERIES, TEXTS, TITLES, beir, lines, msmarco, parquet, tevatron, triples

from taco_ir.core.files import InputError, data_home
from taco_ir.core.tasks import TopicsName
from taco_ir.core.types import Passage, Query
from taco_ir.data.collection import Collection, open_collection
from taco_ir.data.formats import FORMATS, base
from taco_ir.data.gold import find_positives

COMMIT = "0123456789" * 4


@pytest.fixture
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Collection:
    return open_collection(MADE[request.param][0](tmp_path))


@pytest.mark.parametrize("name", MADE)
def test_a_layout_is_recognised_by_what_is_there(name: str, tmp_path: Path) -> None:
    make, layout = MADE[name]
    assert open_collection(make(tmp_path)).layout == layout


@pytest.mark.parametrize("made", ["beir", "parquet", "saved"], indirect=True)
def test_passages_are_those_of_the_file(made: Collection) -> None:
    expected = [Passage(docid, docid, TITLES[docid], text) for docid, text in TEXTS.items()]
    assert list(made.passages.read()) == expected
    assert not made.passages.has_pages


@pytest.mark.parametrize(
    ("name", "topics", "task"), [("beir", "scifact-test", "scifact"), ("msmarco", "marco-small-dev", "marco")]
)
def test_queries_have_their_graded_judgments(name: str, topics: str, task: str, tmp_path: Path) -> None:
    """...and their task, which is that of the train queries for a part of the others too."""
    loaded = open_collection(MADE[name][0](tmp_path)).topics(topics)
    assert {loaded.task, *(query.task for query in loaded.queries)} == {task}
    assert {query.qid: query.text for query in loaded.queries} == {qid: QUERIES[qid] for qid in GRADES}
    assert {query.qid: query.grades for query in loaded.queries} == GRADES
    assert loaded.has_gold


def test_what_is_relevant_is_a_positive_and_what_is_not_is_none(tmp_path: Path) -> None:
    collection = open_collection(beir(tmp_path))
    queries = collection.topics("scifact-test").queries
    assert find_positives(collection.passages, queries) == [(("d1",),), (("d2",),)]


@pytest.mark.parametrize("made", ["tevatron", "dpr"], indirect=True)
def test_training_files_bring_positives_and_hard_negatives(made: Collection) -> None:
    queries = made.topics(str(made.topics_names[0])).queries
    assert [query.text for query in queries] == [QUERIES["q1"], QUERIES["q2"]]
    assert [find_positives(made.passages, [query])[0] for query in queries] == [(("d1",),), (("d2",),)]
    assert [query.negatives for query in queries] == [("d3",), ("d3",)]
    assert {passage.docid: passage.text for passage in made.passages.read()} == TEXTS


def test_triples_of_ids_are_hard_negatives_of_ms_marcos_train_queries(tmp_path: Path) -> None:
    folder = Path(msmarco(tmp_path))
    for kind in ("queries", "qrels"):
        (folder / f"{kind}.train.tsv").write_bytes((folder / f"{kind}.dev.small.tsv").read_bytes())
    (folder / "qidpidtriples.train.full.2.tsv").write_text("q1\td1\td3\nq1\td1\td2\nq1\td1\td3\n")
    opened = open_collection(str(folder))
    assert {query.qid: query.negatives for query in opened.topics("marco-train").queries} == {
        "q1": ("d3", "d2"),
        "q2": (),
    }
    assert not any(query.negatives for query in opened.topics("marco-small-dev").queries)
    (folder / "qidpidtriples.train.full.2.tsv").write_text("q1\td1\n")
    with pytest.raises(
        InputError,
        match="qidpidtriples.train.full.2.tsv, line 1: 'q1.*d1' is not a query id, a positive id and a negative id",
    ):
        open_collection(str(folder))


def test_triples_are_put_together_by_their_texts(tmp_path: Path) -> None:
    path = Path(triples(tmp_path))
    path.write_text(path.read_text() + f"{QUERIES['q1']}\t{TEXTS['d1']}\tAnother passage.\n")
    collection = open_collection(str(path))
    queries = collection.topics("triples-train").queries
    texts = {passage.docid: passage.text for passage in collection.passages.read()}
    assert [[texts[docid] for docid in query.negatives] for query in queries] == [
        ["No mountain.", "Another passage."],
        ["No mountain."],
    ]


def test_a_file_that_changes_while_it_is_read_is_not_kept_as_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACO_IR_HOME", str(tmp_path / "home"))  # where nothing was imported before
    place = Path(beir(tmp_path))
    write = base.write_topics

    def append(*arguments: Any) -> None:
        write(*arguments)
        with (place / "corpus.jsonl").open("a") as corpus:
            corpus.write(lines({"_id": "late", "text": "x"}))

    monkeypatch.setattr(base, "write_topics", append)
    with pytest.raises(InputError, match="corpus.jsonl: it changed while it was being read; run the command again"):
        open_collection(str(place))
    monkeypatch.setattr(base, "write_topics", write)
    assert [passage.docid for passage in open_collection(str(place)).passages.read()] == [*TEXTS, "late"]


def test_some_judgments_of_other_queries_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(beir(tmp_path))
    with (folder / "qrels" / "test.tsv").open("a") as qrels:
        qrels.write("q9\td1\t1\n")
    assert [query.qid for query in open_collection(str(folder)).topics("scifact-test").queries] == ["q1", "q2"]
    assert "1 of its 3 queries, first 'q9', are not among the queries; they are left out" in caplog.text


def test_gzip_makes_no_difference(tmp_path: Path) -> None:
    plain = open_collection(beir(tmp_path / "plain"))
    packed = Path(beir(tmp_path / "packed"))
    for path in [*packed.glob("*.jsonl"), *packed.glob("qrels/*.tsv")]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    opened = open_collection(str(packed))
    assert opened.passages.fingerprint == plain.passages.fingerprint
    assert opened.topics("scifact-test").gold_fingerprint == plain.topics("scifact-test").gold_fingerprint


def test_an_import_is_made_once_and_anew_when_a_file_changes(tmp_path: Path) -> None:
    """Passages are not read again for other judgments."""
    place = beir(tmp_path)
    first = open_collection(place)
    assert open_collection(place).passage_path == first.passage_path
    assert first.passage_path.is_relative_to(data_home())
    qrels = Path(place) / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text().replace("q1\td1\t2", "q1\td1\t0"))
    again = open_collection(place)
    assert again.passage_path == first.passage_path
    queries = again.topics("scifact-test").queries
    assert queries[0] == Query("q1", QUERIES["q1"], "scifact", (), (), {}, "q1", {"d1": 0, "d2": 0})


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed (taco_ir[hf])")
    path = tmp_path / "docs.parquet"
    datasets.Dataset.from_dict({"docno": [7, 8], "body": ["one", "two"]}).to_parquet(str(path))
    opened = open_collection(f"{path}?id=docno&text=body")
    assert list(opened.passages.read()) == [Passage("7", "7", "", "one"), Passage("8", "8", "", "two")]
    with pytest.raises(
        InputError, match=r"no column 'id' for the id, only docno, body; choose one by --columns id=NAME"
    ):
        open_collection(str(path))
    with pytest.raises(InputError, match="--columns name=x: unknown; allowed: id, title, text, config, split"):
        open_collection(f"{path}?name=x")
    with pytest.raises(InputError, match=r"write columns like .*docs.parquet.id=docno&text=body"):
        open_collection(f"{path}?body")
    with pytest.raises(InputError, match="--columns id=docno id=body: give id only once"):
        open_collection(f"{path}?id=docno&id=body")
    datasets.Dataset.from_dict({"id": ["a"], "text": [None]}).to_parquet(str(path))
    with pytest.raises(InputError, match=r"row 1: its id is 'a', its title '', its text None; id and text are needed"):
        open_collection(str(path))


@pytest.mark.parametrize("name", ["sample", "folder"])
def test_columns_of_what_is_no_table_are_fixed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(
        InputError, match=f"--columns has an effect only with tables, and --collection {name} is not one"
    ):
        open_collection(f"{name}?id=docno")


def test_a_table_that_cannot_be_opened_is_told_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the package `datasets` is not installed (taco_ir[hf])")
    path = Path(parquet(tmp_path))
    path.write_bytes(path.read_bytes()[:-40])
    environment = dict(os.environ)
    for place, offline, said in (
        (str(path), "1", "it cannot be opened .Arrow"),
        ("hf:none/such", "1", "HF_HUB_OFFLINE is set"),
        ("hf:none/such", "0", "set HF_HUB_OFFLINE=1 to use an earlier download"),
    ):
        environment |= {"HF_HUB_OFFLINE": offline, "HF_ENDPOINT": "http://127.0.0.1:9"}
        words = [sys.executable, "-m", "taco_ir.data", "list", "--collection", place]
        ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert re.fullmatch(f"error: --collection [^\n]*{said}[^\n]*\n", ended.stderr), ended.stderr


class DataSets(BaseHTTPRequestHandler):
    """As much of a hub's API as loading the data set `me/docs`, whose one file is a table, asks for."""

    table = b""

    def do_GET(self) -> None:
        path, place = self.path.partition("?")[0], "/datasets/me/docs"
        body = b""
        if re.fullmatch(f"/api{place}(/revision/.*)?", path):
            body = lines({"id": "me/docs", "sha": COMMIT, "siblings": [{"rfilename": "train.parquet"}]}).encode()
        elif path == f"/api{place}/tree/{COMMIT}":
            entry = {"type": "file", "path": "train.parquet", "size": len(self.table), "oid": COMMIT}
            body = json.dumps([entry]).encode()
        elif path.startswith(f"{place}/resolve/") and path.endswith("/train.parquet"):
            body = self.table
        self.send_response(200 if body else 404)
        known = {"Content-Length": str(len(body)), "ETag": f'"{COMMIT}"', "X-Repo-Commit": COMMIT}
        for key, value in (known if body else {"Content-Length": "0", "X-Error-Code": "EntryNotFound"}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_a_data_set_of_a_hub_is_opened_also_when_the_hub_is_gone(tmp_path: Path) -> None:
    handler = type("Handler", (DataSets,), {"table": Path(parquet(tmp_path)).read_bytes()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    at = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache")}
    for offline in ("0", "1"):
        words = [sys.executable, "-m", "taco_ir.data", "list", "--collection", "hf:me/docs", "--columns", "title=title"]
        environment = {**os.environ, **at, "HF_HUB_OFFLINE": offline, "HF_HUB_DISABLE_XET": "1"}
        listed = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert listed.stdout.startswith("docs: data set of a Hugging Face hub, 3 passages"), listed.stderr
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "corpus.jsonl",
            '{"_id": "d1", "title": "t"}\n',
            r"corpus.jsonl, line 1: .* is not a passage with _id, title and",
        ),
        (
            "corpus.jsonl",
            '{"_id": "a b", "text": "t"}\n',
            r"corpus.jsonl, line 1: .* is not a passage.*_id must be one word",
        ),
        ("corpus.jsonl", '{"_id": "a", "text": "t"}\n' * 2, r"corpus.jsonl, line 2: docid 'a' is already on line 1"),
        ("corpus.jsonl", "", r"corpus.jsonl: there are no passages"),
        ("queries.jsonl", '{"_id": "q1"}\n', r"queries.jsonl, line 1: .* is not a query with _id and text"),
        ("queries.jsonl", '{"_id": "q9", "text": "x"}\n', r"test.tsv: 2 of its 2 queries, first 'q1', are not among"),
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nq1\td1\t0.5\n",
            r"test.tsv, line 2: the grade of 'd1' is '0.5'",
        ),
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nq1\td1\n",
            r"test.tsv, line 2: 'q1.+td1' has 2 columns; judgments need",
        ),
        ("qrels/test.tsv", "q1 0 d1 1\nq1 0 d1 2\n", r"line 2: 'd1' has grade 2 for query 'q1', but 1 on an earlier"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(file: str, text: str, message: str, tmp_path: Path) -> None:
    folder = Path(beir(tmp_path))
    (folder / file).write_text(text)
    what = "passages" if file == "corpus.jsonl" else "topics"
    imported = {*(data_home() / "imported").glob(f"{what}-*")}
    with pytest.raises(InputError, match=message):
        open_collection(str(folder)).topics("scifact-test")
    assert {*(data_home() / "imported").glob(f"{what}-*")} == imported


def test_a_folder_without_judgments_is_named_as_what_it_nearly_is(tmp_path: Path) -> None:
    folder = Path(beir(tmp_path))
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(
        InputError, match=r"not a BEIR folder, because it has no qrels/<split>.tsv with a split of train, dev"
    ):
        open_collection(str(folder))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("queries.jsonl", "the nearest layout is beir, which needs corpus.jsonl. Give sample"),
        ("collection.txt", "the nearest layout is msmarco, which needs collection.tsv, not collection.txt. Give"),
        ("passage.jsonl", "the nearest layout is ours, which needs passages.jsonl, not passage.jsonl. Give"),
        ("notes.md", "psgs_w100.tsv.gz. Give sample, kilt, a folder with passages.jsonl or psgs_w100.tsv"),
    ],
)
def test_a_folder_of_no_layout_is_told_the_nearest(file: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("1\ttext\n")
    with pytest.raises(InputError, match=f"holds none of passages.jsonl, .*{message}"):
        open_collection(str(tmp_path))
    with pytest.raises(InputError, match=f"{file}': a file in no known format. Give sample"):
        open_collection(str(tmp_path / file))


def test_a_folder_with_a_file_of_a_layout_is_told_the_file(tmp_path: Path) -> None:
    path = tevatron(tmp_path)
    with pytest.raises(InputError, match=f"holds none of .*; {path} is of the layout tevatron; give this file. Give"):
        open_collection(str(tmp_path))


def test_a_file_of_passages_stands_for_its_folder(inputs: Path) -> None:
    opened = [open_collection(str(inputs / name)) for name in ("dpr3", "dpr3/psgs_w100.tsv")]
    assert [vars(each) for each in opened] == [vars(opened[0])] * 2
    assert opened[0].layout == "KILT-style folder with DPR's passages"


def test_two_columns_are_needed_in_a_collection_of_ms_marco(tmp_path: Path) -> None:
    folder = Path(msmarco(tmp_path))
    (folder / "collection.tsv").write_text("d1\t" + "x" * 500 + "\tanother\n")
    with pytest.raises(
        InputError, match=r"collection.tsv, line 1: .* does not have two columns, id and text"
    ) as caught:
        open_collection(str(folder))
    assert len(str(caught.value)) < 400 + len(str(folder))


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("beir", "corpus.jsonl", "corpus.jsonl and corpus.jsonl.gz are both there, and only one can be read; keep one"),
        ("beir", "queries.jsonl", "queries.jsonl and queries.jsonl.gz are both there"),
        ("beir", "qrels/test.tsv", "test.tsv and test.tsv.gz are both there"),
        ("msmarco", "collection.tsv", "collection.tsv and collection.tsv.gz are both there"),
        (
            "msmarco",
            "queries.dev.small.tsv",
            "small.tsv.gz and queries.dev.small.tsv both contain queries of marco-small-dev",
        ),
        (
            "msmarco",
            "qrels.dev.small.tsv",
            "small.tsv.gz and qrels.dev.small.tsv both contain qrels of marco-small-dev",
        ),
        ("own", "passages.jsonl", "passages.jsonl and passages.jsonl.gz are both there"),
    ],
)
def test_of_two_files_that_hold_the_same_none_is_chosen(name: str, file: str, message: str, tmp_path: Path) -> None:
    if name == "own":
        (tmp_path / "passages.jsonl").write_text(lines({"id": "1", "wikipedia_id": "1", "contents": "x"}))
    folder = tmp_path if name == "own" else Path(MADE[name][0](tmp_path))
    (folder / f"{file}.gz").write_bytes(gzip.compress((folder / file).read_bytes()))
    with pytest.raises(InputError, match=message):
        open_collection(str(folder))


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("beir", "qrels/val.tsv", "val.tsv: ignored; judgments must be in a file <split>.tsv"),
        ("msmarco", "qrels.train.tsv", "qrels.train.tsv: this file is ignored, because queries.train.tsv is missing"),
    ],
)
def test_judgments_that_are_not_read_are_told(
    name: str, file: str, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(MADE[name][0](tmp_path))
    (folder / file).write_text("q1\t0\td1\t1\n")
    assert len(open_collection(str(folder)).topics_names) == 1
    assert message in caplog.text


def test_a_training_file_without_positives_is_told_from_one_with_none(tmp_path: Path) -> None:
    path = Path(tevatron(tmp_path))
    row = {"query": "x", "negative_passages": []}
    for more, message in (
        ({}, "line 3: no positive_passages;"),
        ({"positive_passages": []}, "line 3: positive_passages is"),
    ):
        other = path.with_name(f"{len(more)}-train.jsonl")
        other.write_text(path.read_text() + lines(row | more))
        with pytest.raises(InputError, match=message):
            open_collection(str(other))


def test_long_reading_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corpus is read, then checked: each with its count and rate."""
    seconds = itertools.count(step=6)
    monkeypatch.setattr("taco_ir.core.processes.time.monotonic", lambda: next(seconds))
    corpus = Path(beir(tmp_path)) / "corpus.jsonl"
    corpus.write_text(lines(*({"_id": f"told{number}", "text": "x"} for number in range(3))))
    open_collection(str(corpus.parent))
    shown = capsys.readouterr().err.splitlines()
    assert shown == [
        f"{what}: {line}"
        for what in ("scifact is read", "passages.jsonl is checked")
        for line in ("2 passages, 0.2/s", "3 of 3 passages, 0.1/s, 0 s left")
    ]


def test_two_layouts_in_one_folder_are_not_guessed_between(tmp_path: Path) -> None:
    folder = Path(beir(tmp_path))
    (folder / "collection.tsv").write_text("d1\ttext\n")
    with pytest.raises(InputError, match=f"it could be beir or msmarco; choose one, such as beir:{folder}"):
        open_collection(str(folder))
    assert open_collection(f"beir:{folder}").layout == "BEIR folder"
    (folder / "collection.tsv").unlink()
    (folder / "passages.jsonl").write_text(lines({"id": "1", "wikipedia_id": "1", "title": "", "contents": "x"}))
    with pytest.raises(
        InputError, match=r"it contains passages.jsonl, but also looks like a BEIR folder; keep one of them"
    ):
        open_collection(str(folder))


def test_a_name_that_is_nothing_is_told_where_collections_come_from() -> None:
    with pytest.raises(InputError, match="--collection 'mini-kilt': no such folder. Give sample, kilt, ") as told:
        open_collection("mini-kilt")
    assert all(prefix in str(told.value) for prefix in FORMATS) and len(str(told.value)) < 400


def test_ir_datasets_ids_bring_documents_queries_and_grades(tmp_path: Path) -> None:
    import ir_datasets
    from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    place = Path(msmarco(tmp_path))

    def local(name: str) -> object:
        return LocalDownload(place / name)

    docs = TsvDocs(local("collection.tsv"), namespace="doors", lang="en")
    queries = TsvQueries(local("queries.dev.small.tsv"), lang="en")
    qrels = TrecQrels(local("qrels.dev.small.tsv"), {})
    if "doors" not in ir_datasets.registry:
        ir_datasets.registry.register("doors", ir_datasets.Dataset(docs))
        for name in ("doors/dev", "doors/dev/small"):
            ir_datasets.registry.register(name, ir_datasets.Dataset(docs, queries, qrels))
    paths = set()
    for name in ("irds:doors", "irds:doors/dev"):
        opened = open_collection(name)
        paths.add(opened.passage_path)
        assert opened.topics_names == [TopicsName("doors", "dev")]
        assert {query.qid: query.grades for query in opened.topics("doors-dev").queries} == GRADES
        assert {passage.docid for passage in opened.passages.read()} == set(TEXTS)
    small = open_collection("irds:doors/dev/small")
    assert (small.topics("doors-small-dev").task, small.tasks) == ("doors", {"doors-small", "doors"})
    assert {*paths, small.passage_path} == {*list(paths)[:1]}  # the documents of all are the same
    for unknown, near in (("doors/none", "doors, doors/dev, doors/dev/small"), ("dors", "doors")):
        with pytest.raises(InputError, match=f"irds:{unknown}: ir_datasets has no such id; near: {near}"):
            open_collection(f"irds:{unknown}")


def test_what_ir_datasets_lacks_is_told_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """...whether queries are missing or, later, documents."""
    with pytest.raises(
        InputError, match="irds:kilt/nq/dev: kilt/nq/dev has not been downloaded .*; get it with: python -m taco"
    ):
        open_collection("irds:kilt/nq/dev")
    monkeypatch.setenv("IR_DATASETS_DL_TRIES", "1")
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    disk = shutil.disk_usage(os.environ["IR_DATASETS_HOME"])
    for free, told in ((10**12, "[A-Za-z]+: .*KILT/kilt_knowledgesource.json"), (10**9, "ValueError: .*disk space")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: disk._replace(free=free))
        with pytest.raises(InputError, match=f"irds:kilt: {told}"):
            open_collection("irds:kilt")
