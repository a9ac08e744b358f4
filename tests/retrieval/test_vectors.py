"""Vectors on disk are what the encoder gave, from any number of shards, stopped anywhere; all else is refused."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.types import Passage, Vectors
from taco_ir.data.collection import open_collection
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.retrieval import vectors as vectors_module
from taco_ir.retrieval.encoding import encode_collection
from taco_ir.retrieval.faiss_index import build_index
from taco_ir.retrieval.vectors import Recipe, Shard, ShardWriter, VectorSet

DIM, ROWS = 6, 7
PASSAGES = [Passage(f"{row // 3}#{row % 3}", str(row // 3), "T", "x" * row) for row in range(45)]
RECIPE = Recipe("collection-1", len(PASSAGES), "fake", "encoder-1", "{text}", DIM)


class FakeEncoder:
    """Row by row: a passage's vector depends on its docid alone."""

    fingerprint = "encoder-1-queries"
    passage_fingerprint = "encoder-1"
    rounded_fingerprints = ("encoder-1 in int8",)
    passage_template = "{text}"
    dim = DIM

    def encode_queries(self, texts: Sequence[str], task: str | None) -> Vectors:
        return self._encode(texts)

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        return self._encode([passage.docid for passage in passages])

    def lowest_cosine(self, passages: Sequence[Passage]) -> float:
        return 1.0

    @staticmethod
    def _encode(names: Sequence[str]) -> Vectors:
        seeds = [list(name.encode()) for name in names]
        return np.stack([np.random.default_rng(seed).standard_normal(DIM).astype(np.float32) for seed in seeds])


ENCODER = FakeEncoder()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", ROWS)


def encode(
    output: Path, shard: str = "1/1", stop_after: int | None = None, overwrite: bool = False, recipe: Recipe = RECIPE
) -> list[int]:
    """Encode a shard, or only some more blocks of it; how far each block came."""
    writer = ShardWriter(output, Shard.parse(shard), recipe, overwrite)
    reports: list[int] = []

    def report(done: int) -> None:
        reports.append(done)
        if len(reports) == stop_after:
            raise KeyboardInterrupt

    passages = PASSAGES[writer.rows.start + writer.done : writer.rows.stop]
    if stop_after is None:
        writer.write(passages, ENCODER.encode_passages, report)
    elif stop_after:
        with pytest.raises(KeyboardInterrupt):
            writer.write(passages, ENCODER.encode_passages, report)
    return reports


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read(output: Path) -> tuple[Vectors, list[str]]:
    blocks = list(VectorSet(output).blocks())
    return np.concatenate([vectors_ND for vectors_ND, _ in blocks]), [docid for _, docids in blocks for docid in docids]


@given(st.integers(0, 10_000), st.integers(1, 300), st.sampled_from([1, 1, 7, 64, 4096]))
def test_shards_tile_the_rows(count: int, of: int, together: int) -> None:
    shards = [Shard(number, of, together).rows(count) for number in range(1, of + 1)]
    assert [row for rows in shards for row in rows] == list(range(count))
    blocks = [-(-len(rows) // together) for rows in shards]
    assert max(blocks) - min(blocks) <= 1 and all(rows.start % together == 0 for rows in shards if rows)


@given(st.integers(1, 99), st.integers(1, 99))
def test_shards_parse(number: int, of: int) -> None:
    if number <= of:
        assert Shard.parse(f"{number}/{of}") == Shard(number, of)
    else:
        with pytest.raises(InputError, match=re.escape(f"--shard '{number}/{of}'")):
            Shard.parse(f"{number}/{of}")


@pytest.mark.parametrize("text", ["", "1", "0/2", "1/0", "-1/2", "a/b", "1/2/3", "1 / 2", "1/2\n3"])
def test_other_shards_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--shard"):
        Shard.parse(text)


def test_what_is_read_is_what_was_encoded(tmp_path: Path) -> None:
    assert encode(tmp_path) == [7, 14, 21, 28, 35, 42, 45]
    vectors_ND, docids = read(tmp_path)
    assert docids == [passage.docid for passage in PASSAGES]
    assert np.array_equal(vectors_ND, ENCODER.encode_passages(PASSAGES).astype(np.float16))
    assert VectorSet(tmp_path).verify() == 7
    assert [len(block) for _, block in VectorSet(tmp_path).blocks(5)] == [7, 3]


@pytest.mark.parametrize("of", [2, 3, 8, 45, 60])
def test_shards_read_back_as_one(tmp_path: Path, of: int) -> None:
    """Also more shards than passages, and encoded in any order."""
    encode(tmp_path / "one")
    for number in sorted(range(1, of + 1), key=lambda number: number * 17 % of):
        encode(tmp_path / "many", f"{number}/{of}")
    (many_ND, many_docids), (one_ND, one_docids) = read(tmp_path / "many"), read(tmp_path / "one")
    assert many_docids == one_docids and np.array_equal(many_ND, one_ND)


@pytest.mark.parametrize("blocks", range(8))
def test_stopped_anywhere_it_ends_as_if_it_had_not(tmp_path: Path, blocks: int) -> None:
    encode(tmp_path / "whole")
    encode(tmp_path / "stopped", stop_after=blocks)
    for torn in (f"{blocks:05d}.npy.0123abcd.part", f"{blocks:05d}.npy.lock", f"{blocks:05d}.npy"):
        if blocks < 7:
            (tmp_path / "stopped" / "shard-1-of-1" / torn).write_bytes(b"half a bl")
    assert encode(tmp_path / "stopped") == [7, 14, 21, 28, 35, 42, 45][blocks:], "finished blocks are not encoded again"
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.parametrize("blocks", [0, 3])
def test_unfinished_vectors_are_refused(tmp_path: Path, blocks: int) -> None:
    encode(tmp_path, stop_after=blocks)
    with pytest.raises(InputError, match=f"shard-1-of-1: {blocks * ROWS} of 45 passages are encoded"):
        VectorSet(tmp_path)


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([], "no vectors"),
        (["1/3", "2/3"], r"rows 30\.\.44 are in no shard"),
        (["2/3", "3/3"], r"shard-2-of-3: rows 0\.\.14 are in no shard"),
        (["1/3", "3/3"], r"shard-3-of-3: rows 15\.\.29 are in no shard"),
        (["1/1", "1/3"], r"shard-1-of-1: rows 0\.\.14 are in two shards"),
        (["1/2", "2/3", "3/3"], r"shard-2-of-3: rows 15\.\.21 are in two shards"),
    ],
)
def test_missing_and_doubled_shards_are_named(tmp_path: Path, shards: list[str], message: str) -> None:
    for shard in shards:
        encode(tmp_path, shard)
    with pytest.raises(InputError, match=message):
        VectorSet(tmp_path)


def test_a_folder_without_manifest_is_no_shard(tmp_path: Path) -> None:
    (tmp_path / "shard-1-of-1").mkdir()
    (tmp_path / "shard-1-of-1" / "00000.npy.part").write_bytes(b"")
    with pytest.raises(InputError, match="no vectors"):
        VectorSet(tmp_path)
    encode(tmp_path)
    assert len(read(tmp_path)[1]) == 45


def test_a_shard_of_other_vectors_is_refused(tmp_path: Path) -> None:
    encode(tmp_path, "1/2")
    encode(tmp_path, "2/2", recipe=RECIPE._replace(encoder="encoder-2"))
    with pytest.raises(InputError, match='encoder is "encoder-2", not "encoder-1"'):
        VectorSet(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("collection", "collection-2"), ("passages", 44), ("encoder", "encoder-2"), ("template", "{title}"), ("dim", 5)],
)
def test_other_vectors_are_not_mixed_in(tmp_path: Path, key: str, value: Any) -> None:
    encode(tmp_path, stop_after=2)
    before = contents(tmp_path)
    said = f"{key} is {json.dumps(getattr(RECIPE, key))}, not {json.dumps(value)}"
    with pytest.raises(InputError, match=re.escape(said)):
        encode(tmp_path, recipe=RECIPE._replace(**{key: value}))
    assert contents(tmp_path) == before


def test_a_name_for_the_model_is_only_a_name(tmp_path: Path) -> None:
    encode(tmp_path, stop_after=2)
    assert encode(tmp_path, recipe=RECIPE._replace(model="moved elsewhere"))[0] == 3 * ROWS


def test_overwrite_starts_anew(tmp_path: Path) -> None:
    other = RECIPE._replace(encoder="encoder-2")
    encode(tmp_path / "new", recipe=other)
    encode(tmp_path / "old")
    assert len(encode(tmp_path / "old", recipe=other, overwrite=True)) == 7
    assert contents(tmp_path / "old") == contents(tmp_path / "new")


@pytest.mark.parametrize("removed", [0, 1, 4])
def test_an_overwrite_that_is_killed_leaves_no_manifest_that_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    encode(tmp_path)
    unlink, left = Path.unlink, [removed]

    def killed(path: Path, missing_ok: bool = False) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        ShardWriter(tmp_path, Shard(1, 1), RECIPE, overwrite=True)
    encode(tmp_path)
    assert VectorSet(tmp_path).verify() == 7


@pytest.mark.parametrize("name", ["00002.npy", "00002.docids"])
@pytest.mark.parametrize("damage", ["cut", "altered", "deleted"])
def test_a_damaged_block_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    encode(tmp_path / "vectors")
    path = tmp_path / "vectors" / "shard-1-of-1" / name
    body = bytearray(path.read_bytes())
    body[-2] ^= 1
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(body if damage == "altered" else body[:-1])
    with pytest.raises(InputError, match=f"^{path}: truncated or altered"):
        VectorSet(tmp_path / "vectors").verify()
    with pytest.raises(InputError, match=f"^{path}: truncated or altered"):
        build_index(VectorSet(tmp_path / "vectors"), tmp_path / "index")
    assert not list(tmp_path.glob("index*"))


def test_vectors_do_not_depend_on_what_is_prepared_ahead(tiny_bert: Path, tmp_path: Path) -> None:
    collection, encoder = open_collection("sample"), load_encoder(str(tiny_bert), pooling="mean")
    recipe = Recipe.of(collection.passages, "tiny", encoder)
    encode_collection(collection, encoder, recipe, tmp_path / "ahead", Shard(1, 1))
    writer = ShardWriter(tmp_path / "whole", Shard(1, 1), recipe)
    writer.write(collection.passages.read(), encoder.encode_passages, lambda _: None)
    assert contents(tmp_path / "ahead" / "shard-1-of-1") == contents(tmp_path / "whole" / "shard-1-of-1")


@pytest.mark.parametrize("end", [None, InputError("passages.tsv, line 9: no text"), KeyboardInterrupt()])
def test_a_thread_prepares_a_block_while_the_one_before_is_encoded(end: BaseException | None, tmp_path: Path) -> None:
    """It is one block ahead at most; its errors are the caller's; it ends with the work, also where that is stopped."""
    before, ready = threading.active_count(), [threading.Event() for _ in range(7)]
    writer = ShardWriter(tmp_path, Shard(1, 1), RECIPE)

    def prepare(block: list[Passage]) -> Callable[[], Vectors]:
        number = sum(each.is_set() for each in ready)
        assert threading.current_thread() is not threading.main_thread()
        if number == 3 and isinstance(end, InputError):
            raise end

        def encode() -> Vectors:
            assert number == 6 or (number == 2 and end) or ready[number + 1].wait(60)
            assert sum(each.is_set() for each in ready) <= number + 2
            return ENCODER.encode_passages(block)

        ready[number].set()
        return encode

    def report(done: int) -> None:
        if done == 3 * ROWS and isinstance(end, KeyboardInterrupt):
            raise end

    with pytest.raises(type(end), match=str(end) or None) if end else nullcontext():
        writer.write(PASSAGES, ENCODER.encode_passages, report, prepare)
    assert writer.done == (3 * ROWS if end else len(PASSAGES)) and threading.active_count() == before


@pytest.mark.parametrize("value", [70_000, -1e9, np.inf, np.nan])
def test_what_fp16_cannot_hold_is_refused(tmp_path: Path, value: float) -> None:
    writer = ShardWriter(tmp_path, Shard(1, 1), RECIPE)
    with pytest.raises(InputError, match="do not fit fp16 .at most 65504.; encode with --normalize"):
        writer.write(PASSAGES, lambda passages: np.full((len(passages), DIM), value, dtype=np.float32), lambda _: None)
    assert sorted(contents(tmp_path)) == ["shard-1-of-1/manifest.json"]


def test_a_full_disk_is_refused_with_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    collection = open_collection("sample")
    needed = collection.passages.count * (DIM * 2 + 64)
    recipe = Recipe.of(collection.passages, "fake", ENCODER)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(InputError, match=r"needs \d+\.\d KB on disk, \d+\.\d KB are free"):
        encode_collection(collection, ENCODER, recipe, tmp_path, Shard(1, 1))
    assert sorted(contents(tmp_path / "shard-1-of-1")) == ["manifest.json"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    encode_collection(collection, ENCODER, recipe, tmp_path, Shard(1, 1))
    assert VectorSet(tmp_path).verify() == -(-collection.passages.count // ROWS)


def test_a_disk_that_fills_up_loses_one_block_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = np.save, iter([0, 0, 1])

    def full(*arguments: Any, **settings: Any) -> None:
        if next(calls):
            raise OSError(28, "No space left on device")
        save(*arguments, **settings)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(np, "save", full)
        encode(tmp_path / "full")
    names = ("00000.docids", "00000.npy", "00001.docids", "00001.npy", "manifest.json")
    assert sorted(contents(tmp_path / "full")) == [f"shard-1-of-1/{name}" for name in names]
    encode(tmp_path / "full")
    encode(tmp_path / "whole")
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_encoding_says_what_it_takes_and_that_it_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection = open_collection("sample")
    recipe = Recipe.of(collection.passages, "fake", ENCODER)
    for _ in range(2):
        encode_collection(collection, ENCODER, recipe, tmp_path, Shard(1, 2))
    lines = capsys.readouterr().err.splitlines()
    first, second = (part for part in lines if "shard-1-of-2" in part)
    half = collection.passages.count // 2
    assert first.startswith(f"encoding {half} of {half} passages of sample (shard 1/2)")
    assert "RAM" in first and "disk" in first
    assert sum(bool(re.fullmatch(r"[\d.]+ [MG]B RAM at the peak", line)) for line in lines) == 1
    assert second.endswith(f"all {half} passages are encoded")


def test_a_manifest_that_is_no_json_is_named(tmp_path: Path) -> None:
    encode(tmp_path)
    path = tmp_path / "shard-1-of-1" / "manifest.json"
    manifest = read_json(path)
    path.write_text("{")
    with pytest.raises(InputError, match=f"^{path}: not valid JSON"):
        VectorSet(tmp_path)
    write_json(path, manifest)
    assert VectorSet(tmp_path).recipe == RECIPE


@pytest.mark.parametrize("word", ["recipe", "dim", "rows", "start", "blocks", "name", "sha256", "npy"])
def test_a_manifest_that_says_something_else_is_one_line(tmp_path: Path, word: str) -> None:
    encode(tmp_path / "v")
    path = tmp_path / "v" / "shard-1-of-1" / "manifest.json"
    path.write_text(path.read_text().replace(f'"{word}":', f'"{word}s":'))
    said = rf"^{path}: unknown key '[\w.\[\]]*{word}s'; did you mean {word}\?; remove .* and encode it again"
    for read_manifest in (VectorSet, encode):
        with pytest.raises(InputError, match=said):
            read_manifest(tmp_path / "v")
