"""The package as users get it: archives with every file that it reads, and public names that cost nothing unused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import taco_ir
from taco_ir.encoders.weights import INT8_FILE, PLAIN_FILE

ROOT = Path(__file__).resolve().parents[1]
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist'); build_meta.build_sdist('dist')"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and a source archive, built from a copy so that nothing of before is in them."""
    copy = tmp_path_factory.mktemp("build") / "taco_ir"
    copy.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("taco_ir", "topics"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return copy / "dist"


def test_they_hold_every_data_file_and_module(built: Path) -> None:
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    files = [
        path.relative_to(ROOT)
        for path in (ROOT / "taco_ir").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert {path.name for path in files if path.parent == Path("taco_ir/encoder_mini/backbone")} & {
        PLAIN_FILE,
        INT8_FILE,
    }
    assert Path("taco_ir/encoder_mini/README.md") in files
    for name in map(Path.as_posix, files):
        assert name in in_wheel and name in in_source, name
    for path in (ROOT / "topics").glob("*.jsonl"):
        assert f"taco_ir/topics/{path.name}" in in_wheel and f"topics/{path.name}" in in_source, path.name


def test_one_version_is_said_everywhere(built: Path) -> None:
    said = {
        re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        for name, pattern in (("CITATION.cff", "^version: (.*)$"), ("CHANGELOG.md", "^## ([0-9.]+)"))
    }
    assert {match and match[1] for match in said} == {taco_ir.__version__}
    assert [path.name.split("-")[1] for path in built.glob("*.whl")] == [taco_ir.__version__]


@pytest.mark.parametrize("name", taco_ir.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    assert name in dir(taco_ir)
    assert name == "__version__" or getattr(taco_ir, name).__doc__


def test_a_name_that_is_not_there_is_told_by_name() -> None:
    with pytest.raises(AttributeError, match="load_everything"):
        _ = taco_ir.load_everything


def test_importing_a_light_name_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'faiss', 'transformers'}"
    code = f"import sys; from taco_ir import Query, Run, open_collection; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
