"""The settings of an adaptation check themselves; flags and files say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from taco_ir.adapt import parser
from taco_ir.adaptation.settings import DEFAULTS, AdaptSettings, read_settings
from taco_ir.core.files import InputError, write_json
from taco_ir.core.settings import given_values, rules_of
from taco_ir.training.settings import WeightingSettings

NEEDED: dict[str, Any] = {"index": "i", "model": "m", "output": "o", "topics": ("nq-train",)}
FLAGS = "--index i --model m --output o --topics nq-train"
# key -> a value, and settings beside which it does nothing and does something
IDLE: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "groups": (("a=nq",), {}, {"share": "group"}),
    "batch_size": (20, {"shares": "16,8"}, {}),
    "share_temperature": (2.0, {"shares": "uniform"}, {}),
    "epochs": (2.0, {}, {"steps": 0}),
    "held_out": (0.1, {"validate_on": ("nq-dev",)}, {}),
    "validation_queries": (9, {"held_out": 0.0}, {"held_out": 0.5}),
    "validate_every": (9, {"held_out": 0.0}, {}),
    "patience": (9, {"held_out": 0.0}, {}),
    "keep_if_better": (False, {"held_out": 0.0}, {}),
    "compare": (False, {}, {"collection": "sample"}),
}


def from_flags(words: str, file: Path | None = None) -> AdaptSettings:
    return read_settings(file, given_values(parser().parse_args(words.split()), rules_of(AdaptSettings)))


def test_every_setting_that_has_a_condition_is_here() -> None:
    assert AdaptSettings(**NEEDED).idle.keys() <= IDLE.keys()
    assert {key for key, (_, rules) in rules_of(AdaptSettings).items() if "only" in rules} == IDLE.keys()


@pytest.mark.parametrize("key", IDLE)
def test_a_setting_that_does_nothing_is_refused(key: str) -> None:
    value, idle, acting = IDLE[key]
    with pytest.raises(InputError, match=f"^{key} is .*; it has an effect only with .*$"):
        AdaptSettings(**{**NEEDED, **idle, key: value})
    AdaptSettings(**{**NEEDED, **idle, key: DEFAULTS[key]})
    assert getattr(AdaptSettings(**{**NEEDED, **acting, key: value}), key) == value


def test_flags_files_and_the_record_are_the_same(tmp_path: Path) -> None:
    flags = f"{FLAGS} --share group --groups a=nq,squad b=fever --weighting taco --weighting-options tau=0.5 --steps 9"
    said = from_flags(flags)
    assert said.group_of == {"nq": "a", "squad": "a", "fever": "b"}
    assert said.section(WeightingSettings).weighting_options == {"tau": 0.5}
    file = tmp_path / "run.toml"
    file.write_text(
        'index = "i"\nmodel = "m"\noutput = "o"\ntopics = ["nq-train"]\nshare = "group"\ngroups = ["a=nq,squad", '
        '"b=fever"]\nweighting = "taco"\nweighting_options = { tau = 0.5 }\nsteps = 8\n'
    )
    assert from_flags("--steps 9", file) == said
    write_json(tmp_path / "saved.json", said.flat())
    assert AdaptSettings(**said.flat()) == said


def test_a_flag_that_does_nothing_is_refused_with_its_default_too() -> None:
    with pytest.raises(InputError, match="^--epochs has an effect only with steps auto$"):
        from_flags(f"{FLAGS} --epochs 1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": ""}, "--index is needed: the index to keep"),
        ({"topics": ("none",)}, "--topics is needed: queries to learn from"),
        ({"share": "all"}, "share is 'all'; it must be one of one, task, group"),
        ({"share": "group"}, "share is group, so groups is needed"),
        ({"share": "group", "groups": ("nq",)}, "groups: 'nq' is not GROUP=TASKS"),
        ({"share": "group", "groups": ("a=nq", "b=nq")}, "groups: task nq is in groups a and b"),
        ({"share": "group", "groups": ("a=nq", "nq=fever")}, "groups: 'nq' is the name of both a group and a task"),
        ({"method": "full"}, "method is 'full'; it must be one of bitfit, lora"),
        ({"budget": "much"}, "budget is 'much'; it must be a share such as 0.5%"),
        ({"held_out": 1.0}, "held_out is 1.0; it must be a number, above 0, below 1, or none"),
    ],
)
def test_what_is_not_allowed_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AdaptSettings(**{**NEEDED, **changes})


def test_a_file_whose_keys_do_not_go_together_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('share = "group"\n')
    with pytest.raises(InputError, match="run.toml: share is group, so groups is needed"):
        from_flags(FLAGS, tmp_path / "run.toml")


def test_an_unknown_key_of_a_file_is_told_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("wdth = 3\n")
    with pytest.raises(InputError, match=r"run.toml: unknown key 'wdth'; did you mean width\?"):
        from_flags(FLAGS, tmp_path / "run.toml")
