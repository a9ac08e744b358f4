"""The vectors of a collection are the same bytes, whoever writes its shards and whichever worker ends."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from verbs import passage, write_collection

from taco_ir import encode
from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.retrieval import encoding, sharded_encoding, vectors
from taco_ir.retrieval.vectors import VectorSet

SHARDS = 8
ENGINES = {
    "here": [],
    "processes": ["--engine", "processes", "--workers", "2"],
    "ray": ["--engine", "ray", "--workers", "2", "--worker-cpus", ".5"],
}
Contents = dict[str, bytes]


def run(model: Path, output: Path, *flags: str | Path) -> None:
    encode.main(["--model", str(model), "--pooling", "mean", "--output", str(output), *map(str, flags)])


def contents(folder: Path) -> Contents:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten blocks in each of eight shards of the sample; no thread more than in workers."""
    monkeypatch.setattr(vectors, "BLOCK_ROWS", 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def one_by_one(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What one process writes that encodes each shard by `--shard i/n`."""
    folder = tmp_path_factory.mktemp("vectors") / "v"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "BLOCK_ROWS", 4)
        for number in range(1, SHARDS + 1):
            run(tiny_bert, folder, "--shard", f"{number}/{SHARDS}")
    assert VectorSet(folder).verify() == 80
    return contents(folder)


def test_here_shards_are_those_of_one_process(tiny_bert: Path, tmp_path: Path, one_by_one: Contents) -> None:
    run(tiny_bert, tmp_path / "v", "--shards", str(SHARDS))
    assert contents(tmp_path / "v") == one_by_one


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_worker_that_is_killed_in_a_shard_changes_no_byte(
    engine: str,
    tiny_bert: Path,
    tmp_path: Path,
    one_by_one: Contents,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A finished block of its shard stays; what it left half-written goes."""
    monkeypatch.setattr(sharded_encoding, "KIND", "counting:Sabotaged")
    run(tiny_bert, tmp_path / "v", *ENGINES[engine], "--shards", str(SHARDS))
    assert "shard 3 of 8: its worker ended" in caplog.text and (tmp_path / "v.killed").exists()
    assert contents(tmp_path / "v") == one_by_one


def test_a_worker_measures_its_rate_once(tiny_bert: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tiny_bert, tmp_path / "v", "--shards", "4")
    said = capfd.readouterr().err
    assert said.count("encoding ") == said.count("RAM at the peak") == 1 and "4 of 4 shards" in said
    run(tiny_bert, tmp_path / "v", "--shards", "4")
    assert capfd.readouterr().err == "encode: 4 of 4 shards are done already\n"


def small(folder: Path) -> Path:
    return write_collection(folder, [passage(f"{n}#0", f"text number {n}", f"T{n}") for n in range(6)], {})


def test_a_gzip_file_is_refused_with_the_command_that_unpacks_it(tiny_bert: Path, tmp_path: Path) -> None:
    """One shard of it can be read, and so can all by `--shard i/n`, as slow as that is."""
    folder = small(tmp_path / "c")
    plain, packed = folder / "passages.jsonl", folder / "passages.jsonl.gz"
    run(tiny_bert, tmp_path / "plain", "--collection", folder, "--shards", "2")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    said = re.escape(f"{packed}: gzip cannot be read in 2 shards; decompress it first: gunzip {packed}")
    with pytest.raises(InputError, match=f"^{said}$"):
        run(tiny_bert, tmp_path / "v", "--collection", folder, "--shards", "2")
    assert not (tmp_path / "v").exists()
    for number in (1, 2):
        run(tiny_bert, tmp_path / "v", "--collection", folder, "--shard", f"{number}/2")
    assert contents(tmp_path / "v") == contents(tmp_path / "plain")
    run(tiny_bert, tmp_path / "one", "--collection", folder, "--shards", "1")
    assert VectorSet(tmp_path / "one").verify() == 2


@pytest.mark.parametrize(
    ("before", "flags", "said"),
    [
        (
            ["--shards", "2"],
            ["--shards", "3"],
            "shard-1-of-2: it is one of 2 shards, not of 3; give --shards 2 or --overwrite",
        ),
        (["--shards", "2", "--normalize"], ["--shards", "2"], "exists and was made differently (encoder is "),
    ],
)
def test_shards_of_others_are_refused_and_overwritten(
    before: Sequence[str], flags: Sequence[str], said: str, tiny_bert: Path, tmp_path: Path
) -> None:
    place = ["--collection", small(tmp_path / "c")]
    run(tiny_bert, tmp_path / "v", *place, *before)
    made = contents(tmp_path / "v")
    with pytest.raises(InputError, match=re.escape(said)):
        run(tiny_bert, tmp_path / "v", *place, *flags)
    assert contents(tmp_path / "v") == made
    run(tiny_bert, tmp_path / "v", *place, *flags, "--overwrite")
    run(tiny_bert, tmp_path / "new", *place, *flags)
    assert contents(tmp_path / "v") == contents(tmp_path / "new") != made


def test_shards_are_as_many_as_the_folder_has(tiny_bert: Path, tmp_path: Path) -> None:
    place = ["--collection", small(tmp_path / "c")]
    run(tiny_bert, tmp_path / "v", *place, "--shard", "2/3")
    run(tiny_bert, tmp_path / "v", *place, *ENGINES["processes"])
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == [f"shard-{number}-of-3" for number in (1, 2, 3)]


class Elsewhere:
    """The spec of a unit, as a machine would get it on which something is not there."""

    def __init__(self, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        monkeypatch.setattr(sharded_encoding, "do_units", lambda units, *_: seen.extend(units))
        run(model, folder / "v", "--collection", small(folder / "c"), "--shards", "2")
        self.spec = seen[0].spec


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"passages": "/no/passages.jsonl"}, "--collection /no/passages.jsonl: a worker does not find it; give a path"),
        ({"output": "/no/vectors"}, "--output /no/vectors: a worker does not find it"),
        ({"model": {"model": "/no/model", "pooling": "mean"}}, "--model /no/model: a worker does not find it"),
        ({"recipe": {"encoder": "another"}}, "a worker's passages or model differ (encoder is \""),
    ],
)
def test_a_worker_names_what_its_machine_lacks(
    change: dict[str, object], said: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Elsewhere(tiny_bert, tmp_path, monkeypatch).spec
    write_json(tmp_path / "spec.json", spec)
    assert read_json(tmp_path / "spec.json") == spec, "a unit is JSON"
    sharded_encoding.ShardsOfPassages(spec)
    changed = {key: {**spec[key], **value} if isinstance(value, dict) else value for key, value in change.items()}
    with pytest.raises(InputError, match=re.escape(said)):
        sharded_encoding.ShardsOfPassages(spec | changed)


def test_a_number_format_that_is_too_rough_is_told(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = ["--collection", small(tmp_path / "c")]
    monkeypatch.setattr(encoding, "LEAST_COSINE", 1.0)
    run(tiny_bert, tmp_path / "plain", *place)
    assert not caplog.text
    run(tiny_bert, tmp_path / "rough", *place, "--precision", "bf16")
    assert "--precision: a vector's cosine with its float32 version is only" in caplog.text
    assert VectorSet(tmp_path / "rough").recipe.encoder != VectorSet(tmp_path / "plain").recipe.encoder
