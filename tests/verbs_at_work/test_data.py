"""`python -m taco_ir.data` as a user runs it: what it prints, where files land, and one line for every mistake."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import CERTIFICATE, serving

from taco_ir.data.kilt_files import KILT_FILES

Verb = Callable[..., subprocess.CompletedProcess[str]]
RECORD = b'{"id": "q1", "input": "who", "output": [{"answer": "Ann", "provenance": [{"wikipedia_id": "1"}]}]}\n'
PAGES = [{"wikipedia_id": str(n), "wikipedia_title": f"T{n}", "text": [f"T{n}\n", "word " * 150]} for n in (1, 2)]


@pytest.fixture
def verb(tmp_path: Path) -> Verb:
    """Run the verb with a data home of its own, without network unless `proxy` says where it is."""

    def run(*argv: str | Path, proxy: str = "http://127.0.0.1:9/", **more: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "TACO_IR_HOME": str(tmp_path / "home"),
            "IR_DATASETS_HOME": str(tmp_path / "ir"),
            "IR_DATASETS_DL_TRIES": "1",
            "http_proxy": proxy,
            "https_proxy": proxy,
            "REQUESTS_CA_BUNDLE": str(CERTIFICATE),
            "no_proxy": "",
            "NO_PROXY": "",
            **more,
        }
        return subprocess.run(
            [sys.executable, "-m", "taco_ir.data", *argv], env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def kilt(tmp_path: Path) -> Path:
    return tmp_path / "home" / "kilt"


def fails(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(text in done.stderr for text in said), done.stderr


@pytest.mark.parametrize("command", [[], ["list"], ["get"], ["passages"], ["subset"]])
def test_help_is_light(command: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['x', *sys.argv[1:], '--help']\nfrom taco_ir.data.__main__ import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: code = end.code\n"
        "heavy = ('torch', 'pyserini', 'ir_datasets', 'requests', 'transformers')\n"
        "print([name for name in heavy if name in sys.modules], code)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[] 0\n")
    assert f"usage: python -m taco_ir.data{''.join(' ' + word for word in command)} " in done.stdout
    assert time.perf_counter() - start < 2  # 0.1 s on an idle machine


def test_list_tells_what_there_is_and_where(verb: Verb, kilt: Path) -> None:
    rows = {line.split()[0]: line for line in verb("list").stdout.splitlines()}
    assert set(rows) > {f"kilt/{task}/{split}" for task, split in KILT_FILES} | {
        "sample",
        "kilt/knowledgesource",
        "sample/wow/dev",
    }
    assert (
        "2,837" in rows["kilt/nq/dev"]
        and "7.9 MB" in rows["kilt/nq/dev"]
        and rows["kilt/nq/dev"].endswith("not fetched")
    )
    assert "5,903,530" in rows["kilt/knowledgesource"] and rows["kilt"].endswith("not built")
    kilt.mkdir(parents=True)
    (kilt / "nq-test_without_answers-kilt.jsonl").write_bytes(RECORD)
    line = next(line for line in verb("list").stdout.splitlines() if line.startswith("kilt/nq/test "))
    assert f"{len(RECORD)} B" in line and line.endswith(str(kilt / "nq-test_without_answers-kilt.jsonl"))


def test_list_of_a_collection(verb: Verb, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "passages.jsonl").write_text('{"id": "1#0", "contents": "x", "wikipedia_id": "1"}\n')
    (folder / "nq-dev.jsonl").write_bytes(RECORD + b'{"id": "q2", "input": "x"}\n')
    recognised, *rows = verb("list", "--collection", folder).stdout.splitlines()
    assert recognised == "mine: KILT-style folder, 1 passages, which belong to pages"
    assert [line.split() for line in rows] == [["topics", "queries", "judged"], ["nq-dev", "2", "1"]]
    assert "wow-dev" in verb("list", "--collection", "sample").stdout
    fails(verb("list", "--collection", tmp_path / "nowhere"), "no such folder")


def test_get_fetches_from_kilts_address_once(verb: Verb, kilt: Path) -> None:
    """The loopback server stands in as a proxy, so that the real addresses are asked for."""
    files = {f"KILT/{task}-test_without_answers-kilt.jsonl": RECORD for task in ("nq", "structured_zeroshot")}
    with serving(files) as server:
        done = verb("get", "kilt/nq/test", "zsre-test", "nq-test", proxy=server.url)
        assert done.stdout.splitlines() == [str(kilt / name.removeprefix("KILT/")) for name in files], done.stderr
        assert server.paths == [f"https://dl.fbaipublicfiles.com/{name}" for name in files]
        assert all((kilt / name.removeprefix("KILT/")).read_bytes() == RECORD for name in files)
        assert verb("get", "kilt/nq/test", proxy=server.url).returncode == 0 and len(server.paths) == 2
        fails(
            verb("get", "kilt/wow/test", proxy=server.url),
            "wow-test_without_answers-kilt.jsonl: the server answers 404",
            "--file PATH",
        )


def test_who_is_not_the_host_is_not_believed(verb: Verb, kilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer for the host by somebody without its certificate is no answer."""
    with serving({"KILT/nq-test_without_answers-kilt.jsonl": RECORD}) as server:
        done = verb("get", "kilt/nq/test", proxy=server.url, REQUESTS_CA_BUNDLE="")
        fails(done, "CERTIFICATE_VERIFY_FAILED", "--file PATH")
    assert server.paths == [] and not list(kilt.glob("*"))


def test_get_without_network_says_how_to_go_on(verb: Verb) -> None:
    fails(
        verb("get", "kilt/nq/dev"),
        "https://dl.fbaipublicfiles.com/KILT/nq-dev-kilt.jsonl",
        "--file PATH",
        "IR_DATASETS_DL_TRIES",
    )


def test_get_from_a_local_copy(verb: Verb, tmp_path: Path, kilt: Path) -> None:
    (tmp_path / "copy.gz").write_bytes(gzip.compress(RECORD))
    done = verb("get", "kilt/nq/train", "--file", tmp_path / "copy.gz")
    assert done.stdout == f"{kilt / 'nq-train-kilt.jsonl'}\n" and (kilt / "nq-train-kilt.jsonl").read_bytes() == RECORD
    fails(verb("get", "kilt/nq/dev", "--file", tmp_path / "copy.gz"), "but must be 0bb57ca0b4676ed66005b8788d3a3050")
    fails(
        verb("get", "kilt/all-dev", "--file", tmp_path / "copy.gz"),
        "--file needs a single ID, but kilt/all-dev means 11 files",
    )
    fails(
        verb("get", "kilt/knowledgesource", "--file", tmp_path / "copy.gz"),
        "but must be d1dca62aa6ba889d2e842182e3114af5",
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fetch"], "invalid choice: 'fetch'"),
        (["get"], "the following arguments are required: ID"),
        (["get", "kilt/ng/dev"], "unknown topics 'kilt/ng/dev'; did you mean nq-dev"),
        (["passages", "--words", "0"], "'0' is not a whole number of at least 1"),
        (
            ["passages"],
            "kilt_knowledgesource.json: no such file; get it with: python -m taco_ir.data get kilt/knowledgesource",
        ),
        (
            ["passages", "--file", "x.tsv", "--words", "50"],
            "--words has an effect only with cutting passages, not with --file",
        ),
    ],
)
def test_mistakes_are_one_line(verb: Verb, argv: list[str], said: str) -> None:
    fails(verb(*argv), said)


def test_passages_make_the_collection_kilt(verb: Verb, tmp_path: Path, kilt: Path) -> None:
    source = tmp_path / "pages.json"
    source.write_text("".join(json.dumps(page) + "\n" for page in PAGES))
    done = verb("passages", "--source", source, "--words", "60")
    assert done.stdout == f"{kilt / 'passages.jsonl'}: 6 passages of 2 pages\n", done.stderr
    assert [json.loads(line)["id"] for line in (kilt / "passages.jsonl").open()] == [
        "1#0",
        "1#1",
        "1#2",
        "2#0",
        "2#1",
        "2#2",
    ]
    (kilt / "nq-dev-kilt.jsonl").write_bytes(RECORD)
    assert "nq-dev" in verb("list", "--collection", "kilt").stdout
    fails(verb("passages", "--source", source), "passages.jsonl exists; remove it")


def test_passages_that_exist(verb: Verb, tmp_path: Path, kilt: Path) -> None:
    (tmp_path / "psgs.tsv").write_text("id\ttext\ttitle\twikipedia_id\n1\tx\tT\t9\n")
    done = verb("passages", "--file", tmp_path / "psgs.tsv")
    assert done.stdout == f"{kilt / 'psgs_w100.tsv'}: 1 passages\n", done.stderr
    fails(verb("passages", "--source", tmp_path / "psgs.tsv"), "psgs_w100.tsv exists")
