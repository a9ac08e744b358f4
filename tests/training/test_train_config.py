"""A training run's configuration: which source beats which, what episodes inherit, and one line for every mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from argparse import ArgumentTypeError
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from idle_settings import TRAIN as TRAIN_CASES

from taco_ir.adaptation.settings import AdaptSettings
from taco_ir.cli import Parser
from taco_ir.core.files import InputError
from taco_ir.core.settings import OPTIONS, RANGES, WORDS, as_flag, check_value, parse_option, rules_of
from taco_ir.core.types import Passage
from taco_ir.encoders.config import EncoderConfig
from taco_ir.studies.conditions import read_study
from taco_ir.training.flags import (
    PRESETS,
    PRETRAIN,
    SPAN_KEYS,
    TITLES,
    TRAIN,
    add_flags,
    given_flags,
    read_settings,
    shipped,
)
from taco_ir.training.folder import MAY_DIFFER, differing_keys, load_settings, save_settings
from taco_ir.training.settings import (
    DEFAULTS,
    EPISODE_KEYS,
    KEYS,
    RULES,
    TrainSettings,
    checked_keys,
    drop_idle,
    idle_in_run,
)
from taco_ir.weighting import WEIGHTINGS

NEEDED = {"model": "m", "output": "o"}
ROOT = Path(__file__).resolve().parents[2]
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.one_of(st.booleans(), st.integers(-9, 9), FLOATS, st.sampled_from(["exact", "a b"]))
SCALAR_OPTIONS = st.dictionaries(st.sampled_from(["tau", "beta", "importance"]), SCALARS)
TEXTS = {
    "shares": st.sampled_from(["proportional", "temperature", "uniform", "16", "3,1,2"]),
    "phase_shares": st.sampled_from(["1,1,1", "1,2.5,3"]),
    "track": st.sampled_from([("none",), ("wandb",), ("mlflow", "tensorboard")]),
    "tune_budget": st.sampled_from(["", "0.5%", "5 %", "12.25%"]),
    "passage_template": st.sampled_from(["{title} {text}", "{text}", "Title: {title} Text: {text}", '"{text}"\\']),
}


def values_of(key: str) -> st.SearchStrategy[Any]:
    """Values that `key` takes, as TOML has them."""
    kind, rules = RULES[key]
    if "choices" in rules:
        return st.sampled_from(rules["choices"])
    if key in TEXTS:
        return TEXTS[key]
    if key == "self_supervised":
        return st.sampled_from([("none",), ("mlm",), ("inverse_cloze", "mlm")])
    if kind is int:
        return st.integers(rules["min"], rules["min"] + 50)
    if kind is float:
        return st.floats(max(rules.get("min", 0), rules.get("above", 0) + 0.001), min(rules.get("max", 0.9), 0.9))
    return {
        bool: st.booleans(),
        WORDS: st.lists(st.sampled_from(["nq", "fever", "wow"]), min_size=1).map(tuple),
        OPTIONS: SCALAR_OPTIONS,
    }.get(kind, st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1))


# mining that always leaves enough; its own errors have their own test
MINING = {
    "mine_depth": st.just(200),
    "mine_skip": st.integers(0, 100),
    "mine_keep": st.integers(30, 90),
    "hard_negatives": st.integers(0, 30),
}
ALL_VALUES = {key: values_of(key) for key in TRAIN.keys} | MINING
EPISODES = st.lists(
    st.fixed_dictionaries({}, optional={key: ALL_VALUES[key] for key in (*EPISODE_KEYS, "repeat") if key in ALL_VALUES})
)
ANY = st.fixed_dictionaries({}, optional=ALL_VALUES)
GIVEN = ANY.map(drop_idle)


def acting_run(drawn: tuple[dict[str, Any], list[dict[str, Any]]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Values and episodes without what would do nothing, which is refused: see test_idle_settings."""
    values, tables = drawn
    found = drop_idle({**values, "episodes": tuple(tables)})
    return found, list(found.pop("episodes"))


RUNS = st.tuples(ANY, EPISODES).map(acting_run)


def toml(values: Mapping[str, Any]) -> str:
    """Keys and values as TOML; JSON's scalars, texts and lists of them are TOML's as well."""
    return "".join(f"{key} = {_inline(value)}\n" for key, value in values.items())


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_inline(entry)}" for key, entry in value.items()) + "}"
    return json.dumps(value)


def write(path: Path, values: Mapping[str, Any], *episodes: Mapping[str, Any]) -> Path:
    path.write_text(toml(values) + "".join("[[episode]]\n" + toml(episode) for episode in episodes), encoding="utf-8")
    return path


def parse(*argv: str) -> dict[str, Any]:
    parser = Parser("train", "Train.")
    add_flags(parser)
    return given_flags(parser.parse_args(argv))


def argv_of(key: str, value: Any) -> list[str]:
    name = key.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, tuple):
        return [f"--{name}", ",".join(value)]
    if isinstance(value, Mapping):
        return [f"--{name}", *(f"{option}={_inline(entry)}" for option, entry in value.items())]
    return [f"--{name}", str(value)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")


# laws


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_explained_and_its_default_allowed(key: str) -> None:
    rules = KEYS[key].metadata
    assert rules["help"] and "%" not in rules["help"]
    assert set(rules) <= {"help", "choices", "words", "metavar", "test", "allowed", "only", "named", *RANGES}
    default = TrainSettings().flat()[key]
    assert check_value(key, default, *RULES[key]) == default
    assert (f"--{key.replace('_', '-')} " in help_text()) == (key not in SPAN_KEYS)


@pytest.mark.parametrize("key", [key for key, (_, rules) in RULES.items() if "named" in rules])
def test_a_word_stands_for_a_number_with_a_meaning_of_its_own(key: str) -> None:
    """In files, flags and Python alike; help shows the word, and settings that were saved with the number are read."""
    kind, rules = RULES[key]
    ((word, number),) = rules["named"].items()
    assert {key: check_value(key, word, kind, rules)} == checked_keys({key: number}, KEYS, "") == {key: number}
    assert type(check_value(key, word, kind, rules)) is kind and f"; {word}: " in rules["help"]
    if key in TRAIN.keys:
        assert parse(as_flag(key), word) == {key: number}
    with pytest.raises(InputError, match=f"^{key} is 'never'; it must be a .*, or {word}$"):
        check_value(key, "never", kind, rules)


def test_no_number_is_explained_where_a_word_would_do() -> None:
    kinds = (RULES, rules_of(AdaptSettings))
    helps = [rules.get("help", "") for settings in kinds for _, rules in settings.values()]
    assert [text for text in (*helps, *PRETRAIN.help.values()) if re.search(r"; (-?\d|negative)[\d.]*:", text)] == []
    assert TrainSettings(steps=3).replace(steps="auto", epochs=2).optimiser.epochs == 2


def help_text() -> str:
    parser = Parser("train", "Train.")
    add_flags(parser)
    return parser.format_help()


def test_help_is_grouped_and_light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # no name is broken at its hyphens
    text = help_text()
    assert [title for title in TITLES.values() if f"\n{title}:\n" in text] == list(TITLES.values())
    assert all(name in text for name in (*shipped(), *PRESETS, "Karpukhin"))
    heavy = ("torch", "transformers", "faiss", "scipy")
    code = f"import sys, taco_ir.training.flags; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_episodes_set_keys_that_exist() -> None:
    assert set(EPISODE_KEYS) < set(TRAIN.keys) and len(set(EPISODE_KEYS)) == len(EPISODE_KEYS)
    assert not {"model", "output", "collection", "tasks", "seed", "untied"} & set(EPISODE_KEYS)


def test_nothing_given_leaves_no_trace() -> None:
    assert parse() == {}


@settings(max_examples=50, deadline=None)
@given(GIVEN)
def test_flags_give_their_values(values: dict[str, Any]) -> None:
    values = {key: value for key, value in values.items() if value != {}}
    assert parse(*(word for key, value in values.items() for word in argv_of(key, value))) == values


@settings(max_examples=50, deadline=None)
@given(RUNS)
def test_a_file_gives_its_values(folder: Path, run: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    values, episodes = run
    config = read_settings(write(folder / "law.toml", values | NEEDED, *episodes), {})
    assert config == TrainSettings(**(values | NEEDED), episodes=tuple(episodes))


@settings(max_examples=50, deadline=None)
@given(RUNS)
def test_json_round_trip(folder: Path, run: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    values, episodes = run
    config = TrainSettings(**values, episodes=tuple(episodes))
    save_settings(config, folder)
    again = load_settings(folder)
    assert again == config == TrainSettings(**config.flat())
    assert list(map(type, again.flat().values())) == list(map(type, config.flat().values()))


@pytest.mark.parametrize("key", sorted(set(TRAIN.keys) - {"weighting_options", "steps"}))
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_flags_beat_file_beats_preset(folder: Path, key: str, data: st.DataObject) -> None:
    in_preset, in_file, in_flag = (data.draw(ALL_VALUES[key]) for _ in range(3))
    needed = NEEDED | (TRAIN_CASES[key][2] if key in TRAIN_CASES else {})
    path, bare = write(folder / "beat.toml", needed | {key: in_file}), write(folder / "bare.toml", needed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "ours", {key: in_preset})
        assert read_settings(path, {key: in_flag}, "ours").flat()[key] == in_flag
        assert read_settings(path, {}, "ours").flat()[key] == in_file
        if key not in NEEDED:
            assert read_settings(bare, {}, "ours").flat()[key] == in_preset
            assert read_settings(bare, {}).flat()[key] == TrainSettings().flat()[key]


@settings(max_examples=50, deadline=None)
@given(RUNS)
def test_an_episode_is_the_run_but_for_its_own_keys(run: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """... and for what does nothing in it, which is as by default."""
    values, tables = run
    config = TrainSettings(**values, episodes=tuple(tables))
    expanded = [table for table in tables for _ in range(table.get("repeat", 1))]
    episodes = config.each_episode()
    assert len(episodes) == len(expanded) or (not tables and episodes == [config])
    for episode, table in zip(episodes, expanded, strict=False):
        assert episode.episodes == ()
        for key in set(TRAIN.keys) - {"weighting_options", "steps"}:
            inherited = DEFAULTS if key in idle_in_run(episode.flat()) else config.flat()
            assert episode.flat()[key] == table.get(key, inherited[key])


@settings(max_examples=50, deadline=None)
@given(ANY, EPISODES)
def test_a_flag_reaches_every_episode(folder: Path, flags: dict[str, Any], tables: list[dict[str, Any]]) -> None:
    """But for the weighting, which has its own rule, and episodes where it does nothing; if all are, it is refused."""
    _, tables = acting_run(({}, tables))
    path, flags = write(folder / "reach.toml", {}, *tables), flags | NEEDED
    while True:
        try:
            config = read_settings(path, flags)
            break
        except InputError as error:
            refused = re.fullmatch(r"--(\S+) has an effect only with .*", str(error))
            assert refused, error
            del flags[refused[1].replace("-", "_")]
    for episode in config.each_episode():
        found, idle = episode.flat(), idle_in_run(episode.flat())
        checked_keys = [key for key in flags if not key.startswith("weighting") and key not in idle]
        assert all(found[key] == flags[key] for key in checked_keys)


@settings(max_examples=50, deadline=None)
@given(GIVEN, GIVEN)
def test_runs_differ_in_the_keys_that_differ(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = TrainSettings(**one), TrainSettings(**other)
    old, new = a.flat(), b.flat()
    expected = [key for key in KEYS if key not in MAY_DIFFER and old[key] != new[key]]
    assert differing_keys(old, new) == differing_keys(new, old) == expected
    assert differing_keys(old, a.replace(device="cuda", output="elsewhere", track=("wandb",)).flat()) == []
    assert differing_keys(old, a.replace(seed=a.run.seed + 1).flat()) == ["seed"]


@given(st.text(alphabet="{}title xtext!:0", max_size=16))
def test_a_template_that_is_taken_formats(template: str) -> None:
    try:
        check_value("t", template, *RULES["passage_template"])
    except InputError:
        return
    assert EncoderConfig(passage_template=template).passage_text(Passage("p#0", "p", "aa", "bb"))


@pytest.mark.parametrize(
    "template", ["", "x", "{", "{0}", "{titel}", "{title.x}", "{title[a]}", "{title!x}", "{text:d}", "{{text}}"]
)
def test_templates_that_are_refused(template: str) -> None:
    with pytest.raises(InputError, match="^t is .*; it must be a text with the fields {title} and {text}$"):
        check_value("t", template, *RULES["passage_template"])


def test_a_whole_number_is_a_number(folder: Path) -> None:
    config = read_settings(write(folder / "n.toml", NEEDED | {"epochs": 2}), {})
    assert config.optimiser.epochs == 2 and type(config.optimiser.epochs) is float, (
        "so that it prints and is saved as one"
    )


# weighting options and steps, which go with another key


def test_options_stay_with_their_weighting(folder: Path) -> None:
    path = write(folder / "w.toml", NEEDED | {"weighting": "taco", "weighting_options": {"tau": 2, "beta": 0.9}})

    def options(*flags: str) -> Mapping[str, Any]:
        return read_settings(path, parse(*flags)).weighting.weighting_options

    assert options("--weighting-options", "tau=5") == {"tau": 5, "beta": 0.9}
    assert options("--weighting", "taco") == {"tau": 2, "beta": 0.9}
    assert options("--weighting", "cgd") == {}
    assert options("--weighting", "cgd", "--weighting-options", "alpha=1") == {"alpha": 1}


def test_options_without_a_weighting_go_to_the_one_that_is_chosen(folder: Path) -> None:
    path = write(folder / "o.toml", NEEDED | {"weighting_options": {"tau": 5}})
    assert_set(read_settings(path, parse("--weighting", "taco")), weighting="taco", weighting_options={"tau": 5})


def test_an_episode_with_another_weighting_starts_without_options(folder: Path) -> None:
    top = NEEDED | {"weighting": "taco", "weighting_options": {"tau": 2}}
    path = write(folder / "e.toml", top, {"weighting": "naive"}, {}, {"weighting_options": {"beta": 0.9}})
    found = [episode.weighting.weighting_options for episode in read_settings(path, {}).each_episode()]
    assert found == [{}, {"tau": 2}, {"tau": 2, "beta": 0.9}]


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_one_flag_compares_weightings_in_the_episode_that_chooses_one(name: str) -> None:
    """As in the paper, whose weightings differ in the last episode alone."""
    before, after = (
        read_settings(Path("taco-t5-base-kilt"), flags).each_episode()
        for flags in ({}, parse("--weighting", name, "--output", "o"))
    )
    assert [episode.weighting.weighting for episode in after] == ["naive"] * 8 + [name]
    assert differing_keys(before[0].flat(), after[0].flat()) == []
    assert after[-1].weighting.weighting_options == (before[-1].weighting.weighting_options if name == "taco" else {})
    options = read_settings(Path("taco-t5-base-kilt"), parse("--weighting-options", "tau=5")).each_episode()
    last = {"tau": 5, "beta": 0.999, "burn_in": 0.1}
    assert [episode.weighting.weighting_options for episode in options] == [{}] * 8 + [last]


def test_epochs_replace_steps_that_were_said_before(folder: Path) -> None:
    path = write(folder / "s.toml", NEEDED | {"steps": 100}, {}, {"epochs": 2}, {"steps": 7})
    found = [(e.optimiser.epochs, e.optimiser.steps) for e in read_settings(path, {}).each_episode()]
    assert found == [(1, 100), (2, 0), (1, 7)]
    assert [e.optimiser.steps for e in read_settings(path, parse("--epochs", "3")).each_episode()] == [0, 0, 0]
    assert [e.optimiser.steps for e in read_settings(path, parse("--steps", "5")).each_episode()] == [5, 5, 5]


# shipped


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("suffix", ["", ".toml"])
def test_shipped_configurations_are_found_by_name(
    name: str, suffix: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    flags = NEEDED | {"output": "elsewhere"}
    config = read_settings(Path(name + suffix), flags)
    assert config.run.output == "elsewhere" and config.each_episode()
    write(folder / f"{name}.toml", NEEDED | {"seed": 77})
    assert (read_settings(Path(f"{name}.toml"), {}).run.seed == 77) and read_settings(Path(name), flags) == config, (
        "a file here comes first"
    )
    (folder / f"{name}.toml").unlink()


def assert_set(config: TrainSettings, **expected: Any) -> None:
    """Keys of a training that have these values."""
    assert {key: config.flat()[key] for key in expected} == expected


def test_the_papers_recipe() -> None:
    first, *ance = read_settings(Path("taco-t5-base-kilt"), {}).each_episode()
    assert len(ance) == 8
    assert_set(first, negatives="bm25", epochs=20, weighting="naive")
    for episode in ance[:-1]:
        assert_set(episode, negatives="ance", epochs=3, weighting="naive")
    options = {"tau": 2, "beta": 0.999, "burn_in": 0.1}
    assert_set(ance[-1], negatives="ance", epochs=3, weighting="taco", weighting_options=options)
    for episode in (first, *ance):
        assert_set(episode, batch_size=120, shares="temperature", share_temperature=4, hard_negatives=2, mine_keep=64)
        assert_set(episode, learning_rate=5e-6, warmup=0.1, clip=1, precision="bf16", max_examples=100_000)
        assert_set(episode, pooling="decoder", untied=False, prompts=True)
        assert_set(episode, passage_template="Title: {title} Text: {text}")
        assert len(episode.run.tasks) == 8


@pytest.mark.parametrize(
    ("name", "width", "roles", "queries", "passages", "epochs"),
    [("msmarco", 128, "shared", 64, 30, 10), ("nq", 32, "tower", 128, 2, 60)],
)
def test_the_settings_of_dptdr(name: str, width: int, roles: str, queries: int, passages: int, epochs: int) -> None:
    config = read_settings(Path(f"dptdr-{name}"), {})
    assert_set(config, tune="prompt", tune_width=width, tune_roles=roles, untied=False, tasks=(name,), episodes=())
    assert_set(config, batch_size=queries, hard_negatives=passages - 1, epochs=epochs, learning_rate=7e-3, warmup=0.1)
    assert_set(config, temperature=1, normalize=False, pooling="first", prompts=False)
    assert_set(config, query_length=32, passage_length=128)


def test_the_dpr_preset() -> None:
    config = read_settings(None, NEEDED | {"epochs": 1.0}, "dpr")
    assert_set(config, untied=True, prompts=False, negatives="bm25", hard_negatives=1)
    assert_set(config, batch_size=128, learning_rate=1e-5, dropout=0.1, epochs=1)
    assert TrainSettings(**config.flat()) == config


def test_the_shipped_reader_is_that_of_the_study() -> None:
    """With the length that its conditions give on the command line."""
    study = tomllib.loads((ROOT / "runs" / "reading" / "train.toml").read_text(encoding="utf-8"))
    config = read_settings(Path("reader"), NEEDED)
    del study["prompts"], study["validate_on"], study["keep_checkpoints"]  # of retrieval, of studies, of small disks
    assert_set(config, **{key: tuple(value) if isinstance(value, list) else value for key, value in study.items()})
    conditions = read_study(ROOT / "runs" / "reading" / "conditions.toml").conditions
    assert f"--tasks none --steps {config.optimiser.steps}" in conditions["reader"].commands[0]


# mistakes

IN_FILES = [
    ("lerning_rate = 1", "unknown key 'lerning_rate'; did you mean learning_rate?"),
    ("qqq = 1", "unknown key 'qqq'; valid: collection, tasks, model,"),
    ("episodes = []", "unknown key 'episodes'; did you mean episode?"),
    ("repeat = 2", "unknown key 'repeat'; "),
    ("[encoder]\npooling = 'mean'", "unknown key 'encoder'; "),
    ("batch_size = 0", "batch_size is 0; it must be a whole number, at least 1"),
    ("batch_size = 2.0", "batch_size is 2.0; it must be a whole number, at least 1"),
    ("batch_size = true", "batch_size is True; it must be a whole number, at least 1"),
    ("learning_rate = 0", "learning_rate is 0; it must be a number, above 0"),
    ("learning_rate = nan", "learning_rate is nan; it must be a number, above 0"),
    ("warmup = 1.5", "warmup is 1.5; it must be a number, at least 0, at most 1"),
    ("dropout = 1", "dropout is 1; it must be a number, at least 0, below 1, or auto"),
    ("clip = inf", "clip is inf; it must be a number, above 0, or none"),
    ("passage_length = 0", "passage_length is 0; it must be a whole number, at least 1"),
    ("prompts = 'yes'", "prompts is 'yes'; it must be true or false"),
    ("collection = 3", "collection is 3; it must be a text"),
    ("tasks = 'nq'", "tasks is 'nq'; it must be a list of one text or more"),
    ("tasks = []", "tasks is []; it must be a list of one text or more"),
    ("tasks = ['']", "tasks is ['']; it must be a list of one text or more"),
    (
        "weighting = 'pc-grad'",
        f"weighting is 'pc-grad'; it must be one of {', '.join(WEIGHTINGS)} (did you mean pcgrad?)",
    ),
    ("weighting = 'zz'", f"weighting is 'zz'; it must be one of {', '.join(WEIGHTINGS)}\n"),
    (
        "weighting_options = { tau = [1] }",
        "weighting_options is {'tau': [1]}; it must be a table of finite numbers, texts, true and false",
    ),
    ("precision = 'fp16'", "precision is 'fp16'; it must be one of float32, bf16 (did you mean bf16?)"),
    ("pooling = 'sum'", "pooling is 'sum'; it must be one of first, mean, decoder"),
    (
        "shares = '16,0'",
        "shares is '16,0'; it must be proportional, temperature, uniform, or whole numbers as in 16,8,8",
    ),
    (
        "passage_template = '{titel}'",
        "passage_template is '{titel}'; it must be a text with the fields {title} and {text}",
    ),
    ("passage_template = 'x'", "passage_template is 'x'; it must be a text with the fields {title} and {text}"),
    ("negatives = ''", "negatives is ''; it must be bm25, ance, given, none, or a file of taco_ir.mine"),
    ("seed = 4294967296", "seed is 4294967296; it must be a whole number, at least 0, at most 4294967295"),
    ("[episode]\nepochs = 1", "episode is {'epochs': 1}; it must be a list of tables, [[episode]] in a file"),
    ("[[episode]]\n[[episode]]\nepoch = 3", "episode 2: unknown key 'epoch'; did you mean epochs?"),
    ("[[episode]]\nseed = 3", "episode 1: key 'seed' can be set only for the whole training; allowed in an episode: "),
    ("[[episode]]\nepochs = -1", "episode 1: epochs is -1; it must be a number, above 0"),
    ("[[episode]]\nrepeat = 0", "episode 1: repeat is 0; it must be a whole number, at least 1, at most 1000"),
    ("seed = 1\nmodel = \n", "not valid TOML: Invalid value (at line 2, column 9)"),
    ("seed = 1\n\ntasks = [1", "not valid TOML: Unclosed array (at line 3, the last)"),
    ("seed = 1\nseed = 2\n", "not valid TOML: Cannot overwrite a value (at line 2, column 9)"),
]


@pytest.mark.parametrize(("text", "message"), IN_FILES)
def test_a_mistake_in_a_file_is_one_line_with_its_place(folder: Path, text: str, message: str) -> None:
    path = folder / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_settings(path, NEEDED)
    assert f"{error.value}\n".startswith(f"{path}: {message}") and "\n" not in str(error.value)


ON_THE_COMMAND_LINE = [
    ("--batch-size 0", "--batch-size is 0; it must be a whole number, at least 1"),
    ("--batch-size many", "--batch-size is 'many'; it must be a whole number, at least 1"),
    ("--learning-rate 1e-5x", "--learning-rate is '1e-5x'; it must be a number, above 0"),
    ("--learning-rate inf", "--learning-rate is inf; it must be a number, above 0"),
    ("--weighting tacoo", f"--weighting is 'tacoo'; it must be one of {', '.join(WEIGHTINGS)} (did you mean taco?)"),
    ("--tasks ,", "--tasks is (); it must be a list of one text or more"),
    (
        "--tune magic",
        "--tune is 'magic'; it must be one of full, bitfit, lora, prefix, prompt, adapter, parallel, mam, iaa-s, iaa-l,"
        " iaa-m",
    ),
    ("--tune-width -1", "--tune-width is -1"),
    ("--tune-budget 0.5", "--tune-budget is '0.5'; it must be a share such as 0.5%, or nothing"),
    (
        "--shares even",
        "--shares is 'even'; it must be proportional, temperature, uniform, or whole numbers as in 16,8,8",
    ),
    (
        "--weighting-options tau=inf",
        "'tau=inf' is not NAME=VALUE, with a finite number, a word, true or false as the value",
    ),
    ("--lerning-rate 1", "unknown flag --lerning-rate; did you mean --learning-rate?"),
    (
        "--mine-skip 200",
        "mine_depth 200, mine_skip 200 and mine_keep 32 leave 0 negatives for each query, but"
        " hard_negatives 1 needs at least 1",
    ),
    (
        "--hard-negatives 33",
        "mine_depth 200, mine_skip 0 and mine_keep 32 leave 32 negatives for each query, but"
        " hard_negatives 33 needs at least 33",
    ),
    ("--model=", "--model is needed: the encoder to start from"),
    ("--output=", "--output is needed: folder to write checkpoints, logs and the trained model to"),
]


@pytest.mark.parametrize(("words", "message"), ON_THE_COMMAND_LINE)
def test_a_mistake_in_a_flag_is_one_line_with_its_name(words: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read_settings(None, NEEDED | parse(*words.split()))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_mining_is_checked_in_the_episode_that_it_is_for(folder: Path) -> None:
    episodes = ({"repeat": 2, "negatives": "none"}, {"negatives": "ance", "mine_skip": 300})
    path = write(folder / "m.toml", NEEDED | {"hard_negatives": 50}, *episodes)
    message = r"^episode 3: mine_depth 200, mine_skip 300 and mine_keep 32 leave 0 negatives"
    with pytest.raises(InputError, match=message):
        read_settings(path, {})


def test_what_is_needed_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"^--model is needed: "):
        read_settings(None, {"output": "o"})
    with pytest.raises(InputError, match=r"^--output is needed: "):
        read_settings(None, {"model": "m"})


def test_a_missing_file_lists_what_is_shipped(folder: Path) -> None:
    for path in (Path("taco-t6"), folder / "taco-t5-base-kilt", folder):
        with pytest.raises(InputError) as error:
            read_settings(path, NEEDED)
        assert str(error.value) == f"--config {path}: no such file; shipped configurations: {', '.join(shipped())}"


def test_an_unknown_preset_names_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"^--preset drp: unknown; did you mean dpr\?$"):
        read_settings(None, NEEDED, "drp")
    with pytest.raises(InputError, match=r"^--preset x: unknown; valid: dpr$"):
        read_settings(None, NEEDED, "x")


def test_a_file_that_is_not_text(folder: Path) -> None:
    path = folder / "latin.toml"
    path.write_bytes(b"model = '\xe9'\n")
    with pytest.raises(InputError, match="latin.toml: not UTF-8"):
        read_settings(path, NEEDED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "[]; an object is needed"),
        ("{", "not valid JSON"),
        ('{"sed": 1}', "unknown key 'sed'; did you mean seed"),
        ('{"seed": "1"}', "seed is '1'"),
        ('{"episodes": [{"seed": 1}]}', "episode 1: key 'seed' can be set only"),
    ],
)
def test_a_saved_configuration_that_was_changed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        load_settings(tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_settings(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}: {message}")


@pytest.mark.parametrize(
    "text", ["tau", "=2", "tau=", "tau=1,2", "tau=[1]", "tau=1\nx=2", "tau=1979-05-27", "a.b=1", "tau=nan"]
)
def test_options_that_are_none(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        parse_option(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("x=2", 2), ("x=-0.5", -0.5), ("x=true", True), ("x=exact", "exact"), ('x="a b"', "a b"), ("x=1e3", 1000.0)],
)
def test_options_are_toml_scalars_or_words(text: str, value: Any) -> None:
    assert parse_option(text) == [("x", value)] and type(parse_option(text)[0][1]) is type(value)


def test_several_options_in_one_word() -> None:
    assert parse_option("nq=2,t-rex=0.5,nq reading=1") == [("nq", 2), ("t-rex", 0.5), ("nq reading", 1)]
    assert parse_option('x="a,b",tau=share:0.2') == [("x", "a,b"), ("tau", "share:0.2")]
