"""Every mistake a user can make ends in one line that names file, line or flag, and leaves nothing half-written."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import pytest
import warm
from verbs import call, module_of, passage, query, write_collection, write_lines

from taco_ir import cli as console
from taco_ir import encode, index
from taco_ir.core.files import InputError, data_home
from taco_ir.retrieval.vectors import VectorSet

search = module_of("search")

PASSAGES = [passage(f"{n}#0", f"text number {n} about the year of the king", f"T{n}") for n in range(6)]
QUERIES = [query("q1", "who", ["1#0"]), query("q2", "where", ["2#0"])]
GOOD_RUN = "q1 Q0 1#0 1 2.0 t\nq2 Q0 2#0 1 1.0 t\n"
NQ = ["--collection", "c", "--topics", "nq-dev"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a sound collection `c` in it."""
    monkeypatch.chdir(tmp_path)
    return write_collection(tmp_path / "c", PASSAGES, {"nq-dev": QUERIES}).parent


class Case(NamedTuple):
    """What is done to the working directory, the command, and what its one line must name."""

    command: str
    said: list[str]
    make: Callable[[Path], object] = lambda _: None


def topics(*lines: bytes) -> Callable[[Path], object]:
    return lambda _: Path("c/nq-dev.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def run(text: str) -> Callable[[Path], object]:
    return lambda _: Path("mine.trec").write_text(text)


def passages(*records: dict[str, Any]) -> Callable[[Path], object]:
    return lambda _: write_lines(Path("c/passages.jsonl"), records)


def model_copy(name: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(tiny_bert: Path) -> None:
        change(Path(shutil.copytree(tiny_bert, name)))

    return make


def gzip_cut(_: Path) -> None:
    Path("c/passages.jsonl").unlink()
    os.truncate(write_lines(Path("c/passages.jsonl.gz"), PASSAGES), 60)


def flags(model: Path | str) -> list[str]:
    return ["--model", str(model), "--pooling", "mean", "--normalize"]


def vectors(tiny_bert: Path) -> None:
    encode.main(["--collection", "c", *flags(tiny_bert), "--output", "v"])


def index_of(tiny_bert: Path) -> None:
    vectors(tiny_bert)
    index.main(["--vectors", "v", "--output", "i"])


def altered(
    path: str, change: Callable[[bytes], bytes], before: Callable[[Path], object] = vectors
) -> Callable[[Path], object]:
    def make(tiny_bert: Path) -> None:
        before(tiny_bert)
        Path(path).write_bytes(change(Path(path).read_bytes()))

    return make


def flipped(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def other_collection(tiny_bert: Path) -> None:
    index_of(tiny_bert)
    write_collection(Path("d"), PASSAGES[:3], {"nq-dev": QUERIES})


RECORD = json.dumps(QUERIES[0]).encode()
BLOCK = "v/shard-1-of-1/00000.npy"
SEARCH, EVALUATE = "search --collection c --topics nq-dev", "evaluate mine.trec --collection c --topics nq-dev"
MODEL = "--model {model} --pooling mean --normalize"
CASES = {
    "unknown topics": Case("search --topics qn-dev", ["unknown topics 'qn-dev'", "did you mean nq-dev", "wow-dev"]),
    "unknown split": Case("search --collection c --topics nq-test", ["unknown topics 'nq-test'", "valid: nq-dev"]),
    "unknown task": Case(
        "search --topics kilt/quiz/dev", ["unknown topics 'kilt/quiz/dev'", "valid: ", "hotpotqa-dev"]
    ),
    "task of nobody": Case(
        "search --query who --task fevr", ["unknown task 'fevr'", "did you mean fever", "give no task"]
    ),
    "task without a prompt": Case(
        "search --query who --task eli5 --model m",
        ["not for task 'eli5'", "nq", "--prompt"],
        model_copy(
            "m",
            lambda m: (m / "taco_ir.json").write_text(
                json.dumps({"prompts": {"nq": "q: "}, "query_length": 64, "passage_length": 64})
            ),
        ),
    ),
    "unknown retriever": Case(
        "search --topics nq-dev --retriever sparse", ["--retriever", "'sparse'", "dense", "bm25", "hybrid", "--help"]
    ),
    "no collection": Case("search --topics nq-dev --collection nowhere", ["--collection 'nowhere': no such folder"]),
    "no passages": Case(SEARCH, ["passages.jsonl"], lambda _: Path("c/passages.jsonl").unlink()),
    "zero hits": Case(f"{SEARCH} --hits 0", ["--hits", "'0'", "at least 1"]),
    "no model": Case(f"{SEARCH} --model ./nowhere --pooling mean --normalize", ["--model './nowhere': no such folder"]),
    "model without weights": Case(
        f"{SEARCH} --model m --pooling mean --normalize",
        ["--model m", "model.safetensors"],
        model_copy("m", lambda m: (m / "model.safetensors").unlink()),
    ),
    "model with cut weights": Case(
        f"{SEARCH} --model m --pooling mean --normalize",
        ["--model m", "cannot load it"],
        model_copy("m", lambda m: os.truncate(m / "model.safetensors", 5000)),
    ),
    "model without tokenizer": Case(
        f"{SEARCH} --model m --pooling mean --normalize",
        ["--model m: no tokenizer (tokenizer.json"],
        model_copy("m", lambda m: (m / "tokenizer.json").unlink()),
    ),
    "model with broken config": Case(
        f"{SEARCH} --model m --pooling mean --normalize",
        ["m/config.json: not valid JSON"],
        model_copy("m", lambda m: (m / "config.json").write_text("{")),
    ),
    "model that does not record how to pool": Case(
        f"{SEARCH} --model {{model}}", ["--model ", "--pooling first|mean|decoder"]
    ),
    "topics with an id twice": Case(
        SEARCH,
        ["c/nq-dev.jsonl, line 2: id 'q1'", "another text on line 1"],
        topics(RECORD, RECORD.replace(b"who", b"when")),
    ),
    "topics with an empty id": Case(
        SEARCH, ["c/nq-dev.jsonl, line 1: id is ''"], topics(RECORD.replace(b'"q1"', b'""'))
    ),
    "topics with an empty text": Case(
        SEARCH, ["c/nq-dev.jsonl, line 2: query 'q1' has input ' '"], topics(b"", RECORD.replace(b"who", b" "))
    ),
    "topics that are no JSON": Case(SEARCH, ["c/nq-dev.jsonl, line 2: not valid JSON"], topics(RECORD, b'{"id": ')),
    "topics that are no UTF-8": Case(
        SEARCH, ["c/nq-dev.jsonl, line 2: not UTF-8 (byte 0xff at column 1)"], topics(RECORD, b"\xff\xfe")
    ),
    "topics without records": Case(SEARCH, ["c/nq-dev.jsonl: it is empty"], topics(b"")),
    "run with five columns": Case(
        EVALUATE,
        ["mine.trec, line 2: ", "has 5 columns", "a TREC run has 6"],
        run("q1 Q0 1#0 1 2.0 t\nq2 2#0 1 1.0 t\n"),
    ),
    "run with a word as score": Case(
        EVALUATE, ["mine.trec, line 2: score 'high' of query 'q2'"], run(GOOD_RUN.replace("1.0", "high"))
    ),
    "run with NaN as score": Case(
        EVALUATE, ["mine.trec, line 1: score 'nan' of query 'q1'"], run(GOOD_RUN.replace("2.0", "nan"))
    ),
    "run with a docid twice": Case(
        EVALUATE,
        ["mine.trec, line 3: docid '1#0' is given twice for query 'q1'"],
        run(GOOD_RUN + "q1 Q0 1#0 2 1.0 t\n"),
    ),
    "run of other topics": Case(
        EVALUATE,
        ["mine.trec: 1 of its 3 topics, such as 'q9', are not in --topics nq-dev"],
        run(GOOD_RUN + "q9 Q0 1#0 1 1.0 t\n"),
    ),
    "no run": Case(EVALUATE, ["mine.trec: no such file"]),
    "KILT run without ids": Case(EVALUATE, ["mine.trec, line 1: id is None"], run('{"output": []}\n')),
    "passages with an id twice": Case(
        SEARCH, ["c/passages.jsonl, line 7: docid '2#0' is already on line 3"], passages(*PASSAGES, PASSAGES[2])
    ),
    "passages without text": Case(
        SEARCH,
        ["c/passages.jsonl, line 2: ", "is not a passage", "contents"],
        passages(PASSAGES[0], {"id": "1#0", "wikipedia_id": "1"}),
    ),
    "passages in a broken gzip": Case(SEARCH, ["c/passages.jsonl.gz: broken gzip"], gzip_cut),
    "index of another collection": Case(
        f"search --collection d --topics nq-dev {MODEL} --index i", ["--index i", "collection"], other_collection
    ),
    "index of another model": Case(
        f"{SEARCH} --model {{model}} --pooling first --index i", ["--index i", "encoder"], index_of
    ),
    "no index": Case(f"{SEARCH} {MODEL} --index i", ["--index i: no manifest.json"]),
    "index that was cut": Case(
        f"{SEARCH} {MODEL} --index i",
        ["i/index: ", "its manifest says"],
        altered("i/index", lambda body: body[:-9], index_of),
    ),
    "index that was altered": Case(
        "index --output i --verify", ["i/index: it was changed"], altered("i/index", flipped, index_of)
    ),
    "block that was cut": Case(
        "index --vectors v --output i", [BLOCK, "truncated or altered"], altered(BLOCK, lambda body: body[:-9])
    ),
    "block that was altered": Case(
        "index --vectors v --output i", [BLOCK, "truncated or altered"], altered(BLOCK, flipped)
    ),
    "block that verify finds": Case(
        "encode --output v --verify", [BLOCK, "truncated or altered"], altered(BLOCK, flipped)
    ),
    "manifest that was cut": Case(
        "index --vectors v --output i",
        ["v/shard-1-of-1/manifest.json: not valid JSON"],
        altered("v/shard-1-of-1/manifest.json", lambda body: body[:40]),
    ),
    "shard without manifest": Case(
        "index --vectors v --output i", ["v: no vectors"], lambda _: Path("v/shard-1-of-1").mkdir(parents=True)
    ),
    "shards that are missing": Case(
        "index --vectors v --output i",
        ["v: rows 3..5 are in no shard"],
        lambda model: encode.main(["--collection", "c", *flags(model), "--output", "v", "--shard", "1/2"]),
    ),
    "shard 5 of 4": Case("encode --output v --shard 5/4", ["--shard '5/4'", "1 <= i <= n"]),
    "index of nothing": Case("index --output i", ["--vectors FOLDER is needed"]),
    "unknown factory": Case("index --vectors v --output i --factory Fast", ["--factory 'Fast'", "HNSW32"], vectors),
    "factory with more lists than vectors": Case(
        "index --vectors v --output i --factory IVF64,Flat", ["--factory 'IVF64,Flat'", "too few"], vectors
    ),
    "run that exists": Case(
        f"{SEARCH} {MODEL} --no-compare --output mine.trec", ["--output mine.trec exists", "--overwrite"], run(GOOD_RUN)
    ),
    "vectors that exist": Case(
        "encode --collection c --model {model} --pooling first --output v", ["v/shard-1-of-1", "--overwrite"], vectors
    ),
    "index that exists": Case(
        "index --vectors v --output i --factory SQ8", ["--output i exists", "--overwrite"], index_of
    ),
    "export that exists": Case(f"export {MODEL} --output c", ["--output c exists", "--overwrite"]),
    "export of queries without topics": Case(
        f"export {MODEL} --output x --what queries", ["--what queries needs --topics"]
    ),
}
IN_A_PROCESS = (
    *("unknown topics", "unknown retriever", "topics with an id twice", "run with NaN as score"),
    *("run of other topics", "passages with an id twice", "model without weights", "block that was altered"),
)


def prepared(name: str, tiny_bert: Path) -> tuple[Case, list[str], set[Path]]:
    case = CASES[name]
    case.make(tiny_bert)
    return case, case.command.replace("{model}", str(tiny_bert)).split(), set(Path().rglob("*"))


@pytest.mark.parametrize("name", CASES)
def test_mistake_is_one_line(name: str, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """... and no new file or folder is left."""
    case, (verb, *argv), before = prepared(name, tiny_bert)
    with pytest.raises(InputError) as error:
        importlib.import_module(f"taco_ir.{verb}").main(argv)
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in case.said), message
    assert set(Path().rglob("*")) == before
    assert not list(data_home().rglob("*.part"))


@pytest.mark.parametrize("name", IN_A_PROCESS)
def test_mistake_ends_the_process_with_code_2(name: str, tiny_bert: Path, folder: Path) -> None:
    case, (verb, *argv), before = prepared(name, tiny_bert)
    done = call(verb, *argv, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), (
        done.stderr
    )
    assert all(part in done.stderr for part in case.said), done.stderr
    assert set(Path().rglob("*")) == before


def test_evidence_outside_the_collection_is_a_warning(tiny_bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_collection(
        Path("c"), PASSAGES, {"nq-dev": [*QUERIES, query("q3", "what", ["1#0", "77#0"]), query("q4", "why", ["88#0"])]}
    )
    search.main([*NQ, *flags(tiny_bert), "--no-compare"])
    assert "nq-dev: 2 of 4 evidence pages are not in collection c (first '77'); 2 of 4 queries name one" in caplog.text
    assert Path("runs/c/nq-dev.tiny-bert.trec").is_file()


# Disks that are full, and outputs that cannot be


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a verb as a process would and return the last line on stderr; the exit code must be 2."""

    def end(verb: Any, *argv: str) -> str:
        monkeypatch.setattr(sys, "argv", ["verb", *argv])
        with pytest.raises(SystemExit) as stop:
            console.run_verb(verb.main)
        told = capsys.readouterr().err
        assert stop.value.code == 2 and told.endswith("\n")
        return str(told.splitlines()[-1])

    return end


@pytest.mark.parametrize("verb", [encode, index])
def test_too_little_space_is_told_beforehand(
    verb: Any, tiny_bert: Path, ends: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors(tiny_bert)
    usage = shutil.disk_usage(".")
    monkeypatch.setattr("taco_ir.core.files.shutil.disk_usage", lambda _: usage._replace(free=100))
    argv = (
        ["--collection", "c", *flags(tiny_bert), "--output", "w"]
        if verb is encode
        else ["--vectors", "v", "--output", "i"]
    )
    told = ends(verb, *argv)
    assert told.startswith(f"error: {argv[-1]}") and ": needs " in told and " on disk, 100 B are free; " in told
    assert not Path("i").exists() and not list(Path("w").rglob("*.npy"))


needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def filled_up(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the disk be full for a new file that becomes `name`."""
    opened = Path.open

    def full(path: Path, mode: str = "r", **settings: Any) -> Any:
        found = opened(path, mode, **settings)
        if "x" not in mode or not re.fullmatch(rf"{re.escape(name)}\.[0-9a-f]+\.part", path.name):
            return found
        found.close()
        return opened(Path("/dev/full"), mode.replace("x", "w"), **settings)

    monkeypatch.setattr(Path, "open", full)


@needs_full_device
def test_disk_that_fills_up_while_a_run_is_written(
    tiny_bert: Path, ends: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled_up(monkeypatch, "mine.trec")
    told = ends(search, *NQ, *flags(tiny_bert), "--no-compare", "--output", "mine.trec")
    assert told == "error: mine.trec: No space left on device; nothing half-written is left"
    assert not list(Path().glob("mine.trec*"))


@needs_full_device
def test_disk_that_fills_up_while_encoding(
    tiny_bert: Path, ends: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest names no block that was not written; the same command goes on."""
    vectors(tiny_bert)
    manifest, block = Path("v/shard-1-of-1/manifest.json"), Path(BLOCK)
    whole = block.read_bytes()
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"blocks": []}))
    block.unlink()
    with monkeypatch.context() as patch:
        filled_up(patch, block.name)
        told = ends(encode, "--collection", "c", *flags(tiny_bert), "--output", "v")
    assert told == f"error: {BLOCK}: No space left on device; nothing half-written is left"
    assert json.loads(manifest.read_text())["blocks"] == [] and not list(block.parent.glob(f"{block.name}*"))
    vectors(tiny_bert)
    assert block.read_bytes() == whole


@pytest.mark.parametrize("output", ["c/nq-dev.jsonl/mine.trec", "c/nq-dev.jsonl/", "x" * 300])
def test_output_that_cannot_be(output: str, tiny_bert: Path, ends: Callable[..., str]) -> None:
    before = set(Path().rglob("*"))
    told = ends(search, *NQ, *flags(tiny_bert), "--no-compare", "--output", output)
    assert told.startswith("error: ") and output[:10] in told and "Traceback" not in told
    assert set(Path().rglob("*")) == before


# Ctrl-C

# a process that a script starts in the background ignores SIGINT from birth, and so would the verb
LISTENING = (
    "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv = sys.argv[1:]; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def interrupted(argv: list[str], ready: Callable[[int], bool]) -> subprocess.CompletedProcess[str]:
    """Start a verb and send it SIGINT as soon as it is `ready` (given its process id)."""
    with TemporaryFile("w+", encoding="utf-8") as out, TemporaryFile("w+", encoding="utf-8") as err:
        process = warm.Popen([sys.executable, "-c", LISTENING, *argv], stdout=out, stderr=err)
        give_up = time.monotonic() + 60
        while process.poll() is None and not ready(process.pid) and time.monotonic() < give_up:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        code = process.wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(argv, code, out.read(), err.read())


def ended_well(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.splitlines()[-1].startswith("interrupted: "), done.stderr
    assert done.stderr.count("interrupted") == 1


def test_interrupted_encoding_goes_on(tiny_bert: Path) -> None:
    """Interrupted after the first of three blocks, then run again: the blocks are those of one uninterrupted run."""
    write_collection(
        Path("c"), (passage(f"{n}#0", f"the text of number {n} about the king of the year") for n in range(9000)), {}
    )
    argv = ["--collection", "c", *flags(tiny_bert), "--output"]
    manifest = Path("v/shard-1-of-1/manifest.json")
    done = interrupted(
        ["taco_ir.encode", *argv, "v"], lambda _: manifest.is_file() and '"00000"' in manifest.read_text()
    )
    ended_well(done)
    assert 1 <= len(json.loads(manifest.read_text())["blocks"]) < 3
    assert not list(Path().rglob("*.part"))
    encode.main([*argv, "v"])
    encode.main([*argv, "w"])
    assert VectorSet(Path("v")).verify() == 3
    assert manifest.read_text() == (Path("w") / manifest.relative_to("v")).read_text()


def test_interrupted_bm25_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While Lucene builds its index, and while it searches. (A relative home: Java's working directory is not ours.)"""
    monkeypatch.setenv("TACO_IR_HOME", "home")
    words = ["year", "king", "land", "song", "river", "house", "poem", "music"]
    write_collection(
        Path("c"),
        (passage(f"{n}#0", " ".join(words[(n * k) % 8] for k in range(1, 60)) + f" {n}") for n in range(6_000)),
        {"nq-dev": [query(f"q{n}", f"{words[n % 8]} {words[n % 7]} {n}", [f"{n}#0"]) for n in range(1_500)]},
    )
    argv = ["taco_ir.search", *NQ, "--retriever", "bm25", "--hits", "1000", "--no-compare"]
    ended_well(interrupted(argv, lambda _: any(Path("home/bm25").glob("*.part/lucene/*"))))
    assert not Path("home/bm25").exists() and not Path("runs").exists()
    if not Path("/proc/self/maps").exists():
        return  # elsewhere nothing tells from outside that the search has begun
    search.main([*argv[1:5], "--retriever", "bm25", "--hits", "1", "--no-compare", "--output", "one.trec"])

    def searching(pid: int) -> bool:
        return "/lucene/_" in Path(f"/proc/{pid}/maps").read_text()

    ended_well(interrupted(argv, searching))
    assert not Path("runs").exists() and not list(Path().rglob("*.part"))
