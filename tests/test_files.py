"""What is written is whole or absent, whatever interrupts it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.files import InputError, fingerprint, human_bytes, read_json, require_space, sha256_file, write_json, writing, writing_folder

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_file_that_failed_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "new" / "file"
    with pytest.raises(error), writing(path) as sink:
        sink.write("half")
        raise error
    assert names(path.parent) == []
    path.write_text("old")
    with pytest.raises(error), writing(path, "wb") as sink:
        sink.write(b"half")
        raise error
    assert names(path.parent) == ["file"] and path.read_text() == "old"


def test_a_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with writing(path) as sink:
        sink.write("new é")
        sink.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == "new é".encode() and names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_that_failed_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "folder"
    for old in ([], ["folder"]):
        with pytest.raises(error), writing_folder(path) as folder:
            (folder / "half").write_text("x")
            raise error
        assert names(tmp_path) == old
        path.mkdir(exist_ok=True)
        (path / "old").write_text("old")
    assert names(path) == ["old"]


def test_a_folder_replaces_the_old_one_whole_and_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (tmp_path / "folder.part").mkdir()
    (tmp_path / "folder.part" / "left by a killed process").write_text("x")
    path.mkdir()
    (path / "old").write_text("old")
    with writing_folder(path) as folder:
        assert names(folder) == [] and names(path) == ["old"]
        (folder / "new").write_text("new")
    assert names(tmp_path) == ["folder"] and names(path) == ["new"]


@given(st.dictionaries(st.text(), JSON))
def test_a_fingerprint_ignores_the_order_of_keys_and_nothing_else(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))
    assert fingerprint(value) == fingerprint(backwards)
    assert fingerprint(value) != fingerprint({**value, "one more": None, "x": 1})
    assert fingerprint(list(value)) == fingerprint(list(backwards)) or len(value) > 1


def test_fingerprints_stay_what_they_are() -> None:
    """Indexes on users' disks carry them."""
    assert fingerprint({"b": [1, "é"], "a": None}) == "a44633ba036df252"


@given(JSON)
def test_json_reads_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert len(sha256_file(path)) == 64


@pytest.mark.parametrize("body", [b"{", b"", b'{"a": 1}\n{', b"\xff\xfe"])
def test_broken_json_is_named(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(body)
    with pytest.raises(InputError, match=f"^{path}: not valid JSON"):
        read_json(path)


def test_space_is_counted_where_the_folder_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    usage = shutil.disk_usage(tmp_path)

    def disk_usage(path: Path) -> object:
        asked.append(path)
        return usage._replace(free=5_000_000)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "a" / "b", tmp_path, Path("not/yet")):
        require_space(folder, 5_000_000)
        with pytest.raises(InputError, match=rf"^{folder}: needs 5\.0 MB on disk, 5\.0 MB are free"):
            require_space(folder, 5_000_001)
    assert {path.resolve() for path in asked} == {tmp_path.resolve()}


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (2_500_000, "2.5 MB"), (3e9, "3.0 GB"), (4.2e15, "4200.0 TB")]
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_json_on_disk_is_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Zoë"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == json.dumps({"name": "Zoë"}, indent=1, ensure_ascii=False) + "\n"
