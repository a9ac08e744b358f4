"""What was read from a file is of its type, or one line names file, key, value and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pytest

from taco_ir.core.files import InputError, check_type, read_json, read_log, read_toml
from taco_ir.core.settings import Settings
from taco_ir.core.suggestions import suggest
from taco_ir.core.typed import abbreviate, conform


class Inner(NamedTuple):
    hashes: dict[str, str]
    size: Annotated[int, 1] = 1


@dataclass(frozen=True)
class Outer:
    name: str
    share: float | None
    pair: tuple[int, int]
    inner: tuple[Inner, ...] = ()
    how: Literal["a", "b", 1] = "a"
    free: Any = None
    counts: Mapping[str, list[int]] | None = None


WHOLE = {"name": "x", "share": 1, "pair": [1, 2], "inner": [{"hashes": {"npy": "0f"}}], "how": "b", "free": [None]}
WHOLE |= {"counts": {"a": [1]}}


def test_objects_become_records_and_lists_tuples() -> None:
    found = conform(WHOLE, Outer)
    assert found == Outer("x", 1.0, (1, 2), (Inner({"npy": "0f"}),), "b", [None], {"a": [1]})
    assert type(found.share) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ...}, "key name is missing"),
        ({"nam": "x"}, "unknown key 'nam'; did you mean name?"),
        ({"name": 1}, "name is 1; it must be a text"),
        ({"name": None}, "name is None; it must be a text"),
        ({"share": True}, "share is True; it must be a finite number"),
        ({"share": float("nan")}, "share is nan; it must be a finite number"),
        ({"share": 10**400}, "it must be a finite number"),
        ({"pair": [1]}, "pair is [1]; it must be a list of 2"),
        ({"pair": [1, 2.0]}, "pair[1] is 2.0; it must be a whole number"),
        ({"pair": [1, -(1 << 63)]}, "it must be a whole number from -9223372036854775807 to 9223372036854775807"),
        ({"inner": {}}, "inner is {}; it must be a list"),
        ({"inner": [3]}, "inner[0] is 3; it must be an object of hashes, size"),
        ({"inner": [{"hashes": {}, "size": 0}]}, "inner[0].size is 0; it must be a whole number, at least 1"),
        ({"inner": [{"hashes": {"npy": 1}}]}, "inner[0].hashes.npy is 1; it must be a text"),
        ({"inner": [{}]}, "key inner[0].hashes is missing"),
        ({"how": True}, "how is True; it must be one of a, b, 1"),
        ({"counts": {"a": "x"}}, "counts.a is 'x'; it must be a list"),
    ],
)
def test_a_mismatch_names_key_value_and_what_is_allowed(change: dict[str, Any], message: str) -> None:
    values = {key: value for key, value in {**WHOLE, **change}.items() if value is not ...}
    with pytest.raises(InputError) as error:
        check_type(values, Outer, "file.json", "do it again")
    said = str(error.value)
    assert said.startswith("file.json: ") and message in said and said.endswith("; do it again")


def test_other_keys_are_left_out_where_they_may_be() -> None:
    assert check_type({"hashes": {}, "more": 1}, Inner, "f", others=True) == Inner({})


@dataclass(frozen=True)
class Checked(Settings):
    steps: int = 1


def test_a_class_that_checks_itself_says_what_is_wrong() -> None:
    assert check_type({"steps": 2}, Checked, "f") == Checked(2)
    with pytest.raises(InputError, match="^f: steps is 'x'; it must be a whole number$"):
        check_type({"steps": "x"}, Checked, "f")


DEEP = 100_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(("[" * DEEP, "not valid JSON (maximum recursion depth"), ("9" * 5000, "not valid JSON (Exceeds the limit")),
        *(('{"a": "\\ud800"}', "surrogates not allowed"), ('{"a": 1, "a": 2}', "key 'a' is given twice")),
        *((text, "not valid JSON") for text in ("", "{", '{"a": 1}\n{', "\udcff\udcfe")),
        ("[]", "[]; an object is needed"),
    ],
)
def test_json_of_any_kind_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError) as error:
        read_json(path, dict[str, Any])
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value) and len(str(error.value)) < 400


def test_escapes_of_whole_characters_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(path, dict[str, str]) == {"a": "\U0001f600"}


@pytest.mark.parametrize("text", ["a = " + "[" * DEEP, "a = " + "9" * 5000, "a = {" + "a={" * DEEP, "a = 1\na = 2"])
def test_toml_of_any_kind_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}: not valid TOML: ") as error:
        read_toml(path)
    assert len(str(error.value)) < 400


class Line(NamedTuple):
    step: int


def test_a_log_ends_at_a_line_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert list(read_log(path, Line)) == []
    path.write_bytes(b'{"step": 1, "loss": 2}\n{"step": 2}\n{"ste\xff')
    assert list(read_log(path, Line)) == [('{"step": 1, "loss": 2}', Line(1)), ('{"step": 2}', Line(2))]
    path.write_text('{"step": 1}\n{"step": "2"}\n')
    with pytest.raises(InputError, match=f"^{path}, line 2: step is '2'; it must be a whole number$"):
        list(read_log(path, Line))


def test_values_are_shown_in_few_characters() -> None:
    assert abbreviate("x") == "'x'" and abbreviate(16**5000) == "a number of too many digits"
    assert max(map(len, map(abbreviate, ("x" * 999, [["y" * 99] * 9] * 9, {"z" * 99: 1}, 10**999)))) <= 80
    assert suggest("x", [f"key {number}" for number in range(99)]).endswith(", ...")
    assert suggest("x", ()) == "valid: none"
