"""A setting that does nothing is refused, also a flag with its default; what another setting makes idle is dropped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from idle_settings import VERBS

from taco_ir.core.files import InputError, write_json
from taco_ir.pretrain import parser as pretrain_parser
from taco_ir.train import parser as train_parser
from taco_ir.training.flags import PRETRAIN, TRAIN, Verb, given_flags, read_settings
from taco_ir.training.folder import load_settings
from taco_ir.training.settings import DEFAULTS, KEYS, TrainSettings, idle_in_run

CASES = [(verb, key, *case) for verb, cases in VERBS for key, case in cases.items()]


def words(values: dict[str, Any]) -> list[str]:
    """Settings as flags."""
    found: list[str] = []
    for key, value in values.items():
        flag = f"--{key.replace('_', '-')}"
        found += [flag] if value is True else [flag, ",".join(value) if isinstance(value, list | tuple) else str(value)]
    return found


def write_toml(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(
        "".join(f"{key} = {str(value).lower() if value is True else repr(value)}\n" for key, value in values.items())
    )
    return path


def from_flags(verb: Verb, argv: list[str], file: Path | None = None) -> TrainSettings:
    parser = pretrain_parser if verb is PRETRAIN else train_parser
    return read_settings(
        file, given_flags(parser().parse_args(["--model", "m", "--output", "o", *argv]), verb.keys), verb=verb
    )


def test_every_setting_that_has_a_condition_is_here() -> None:
    """Those of pre-training alone do nothing in a training, which has no flags for them."""
    assert {key for key, entry in KEYS.items() if "only" in entry.metadata} == {"length", "held_out"}.union(
        *(cases for _, cases in VERBS)
    )
    for key in ("length", "held_out"):
        with pytest.raises(InputError, match=f"^{key} is 64; it has an effect only with pre-training$"):
            TrainSettings(**{key: 64})
        assert TrainSettings(**{key: 64, "objective": ("mlm",)}).flat()[key] == 64


@pytest.mark.parametrize(("verb", "key", "value", "idle", "acting"), CASES)
def test_a_setting_that_does_nothing_is_refused(
    verb: Verb, key: str, value: Any, idle: dict[str, Any], acting: dict[str, Any], tmp_path: Path
) -> None:
    (flag, *_) = words({key: value})
    default, usual = {key: DEFAULTS[key]}, verb.defaults
    with pytest.raises(InputError, match=rf"^{key} is {re.escape(repr(value))}; it has an effect only with .*$"):
        TrainSettings(**{**usual, **idle, key: value})
    TrainSettings(**{**usual, **idle, **default})  # a default is no value that somebody chose
    assert TrainSettings(**{**usual, **acting, key: value}).flat()[key] == value
    for given in ({key: value}, default if default[key] not in (None, "", False) else {key: value}):
        with pytest.raises(InputError, match=rf"^{flag} has an effect only with .*$"):
            from_flags(verb, words({**idle, **given}))
    assert from_flags(verb, words({**acting, key: value})).flat()[key] == value
    with pytest.raises(InputError, match=f"{key} is .*has an effect only with"):
        from_flags(verb, [], write_toml(tmp_path / "run.toml", {**idle, key: value}))


@pytest.mark.parametrize(("verb", "key", "value", "idle", "acting"), CASES)
def test_what_another_makes_idle_is_left_behind(
    verb: Verb, key: str, value: Any, idle: dict[str, Any], acting: dict[str, Any], tmp_path: Path
) -> None:
    """A flag of a file's, and what is replaced of what was there."""
    file = write_toml(tmp_path / "run.toml", {**acting, key: value})
    changes = {**{name: DEFAULTS[name] for name in acting}, **idle}
    for found in (from_flags(verb, words(changes), file), from_flags(verb, [], file).replace(**changes)):
        assert key in idle_in_run(found.flat()) and found.flat()[key] == DEFAULTS[key]


def test_an_episode_decides_what_a_setting_of_the_run_does() -> None:
    run = {"negatives": "none", "mine_depth": 50}
    assert TrainSettings(**run, episodes=({}, {"negatives": "ance"})).negatives.mine_depth == 50
    with pytest.raises(InputError, match="mine_depth is 50; it has an effect only with negatives bm25 or ance"):
        TrainSettings(**run, episodes=({}, {"steps": 3}))
    with pytest.raises(
        InputError, match="episode 2: mine_keep is 16; it has an effect only with negatives bm25 or ance"
    ):
        TrainSettings(episodes=({"steps": 2}, {"negatives": "none", "mine_keep": 16}))
    two = TrainSettings(mine_depth=50, steps=9, episodes=({"negatives": "none", "epochs": 2.0}, {}))
    assert [each.negatives.mine_depth for each in two.each_episode()] == [200, 50]


def test_a_batch_and_shares_that_say_the_same_agree() -> None:
    assert TrainSettings(shares="16,8", batch_size=24).batch.batch_size == 24


def test_a_saved_run_is_read_without_what_does_nothing(tmp_path: Path) -> None:
    saved = {"model": "m", "output": "o", "negatives": "none", "mine_depth": 50, "steps": 9}
    write_json(tmp_path / "config.json", {**saved, "epochs": 3.0})
    assert load_settings(tmp_path) == TrainSettings(model="m", output="o", negatives="none", steps=9)
    tables = [{"negatives": "ance"}, {"mine_keep": 16}, {"epochs": 3.0}]
    write_json(tmp_path / "config.json", {**saved, "episodes": tables})
    wanted = TrainSettings(**{**saved, "episodes": (tables[0], {}, tables[2])})
    assert load_settings(tmp_path) == wanted


@pytest.mark.parametrize("flag", ["--batch-size", "--hard-negatives"])
def test_a_lone_reader_takes_no_queries_of_retrieval(flag: str) -> None:
    with pytest.raises(InputError, match=f"^{flag} has an effect only with tasks .*other than none.*$"):
        from_flags(TRAIN, ["--tasks", "none", "--reading", "nq", flag, "8"])
