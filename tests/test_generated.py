"""Generated tables and pictures in the documents are what their commands give."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py, which is no part of the package; it runs each command once."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = sys.modules["generate"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.printed = cache(module.printed)
    return module


def test_files_are_what_their_commands_give(generate: ModuleType) -> None:
    made: dict[Path, str] = {}
    for document in generate.DOCUMENTS:
        made |= generate.generated(document, document.read_text(encoding="utf-8"))
    assert set(made) == {*generate.DOCUMENTS, ROOT / "docs" / "leaderboard.svg", ROOT / "docs" / "taught.svg"}
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.relative_to(ROOT)}: run `make readme`"


def test_the_types_of_public_names_are_those_of_the_package(generate: ModuleType) -> None:
    assert generate.STUB.read_text(encoding="utf-8") == generate.stub(), "run `make readme`"


def test_a_changed_number_is_noticed_and_put_right(generate: ModuleType) -> None:
    readme = README.read_text(encoding="utf-8")
    typed = re.sub(r"^(\|.*?)0\.\d{3}", r"\g<1>0.999", readme, count=1, flags=re.MULTILINE)
    assert typed != readme and dict(generate.generated(README, typed))[README] == readme


def test_what_stands_outside_the_marks_is_left_alone(generate: ModuleType) -> None:
    text = "before\n<!-- a comment -->\n| a | table |\n<!-- end -->\nafter\n"
    assert dict(generate.generated(README, text)) == {README: text}
