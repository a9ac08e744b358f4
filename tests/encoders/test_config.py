"""The configuration of an encoder: prompts by task, lengths, template, and the folders that have or lack it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.tasks import canonical_task
from taco_ir.core.types import Passage
from taco_ir.encoders.config import CONFIG_FILE, EncoderConfig
from taco_ir.encoders.model_folder import ModelFolder

LONGEST = 128
TASKS = st.sampled_from(["nq", "fever", "trex", "structured_zeroshot", "*"])
LENGTHS = st.integers(min_value=1, max_value=LONGEST)
CONFIGS = st.builds(
    EncoderConfig,
    pooling=st.sampled_from(["first", "mean", "decoder"]),
    normalize=st.booleans(),
    prompts=st.dictionaries(TASKS, st.text()),
    query_length=LENGTHS,
    query_lengths=st.dictionaries(TASKS, LENGTHS),
    passage_length=LENGTHS,
    passage_template=st.sampled_from(["{title} {text}", "passage: {title} {text}", "{text}", "{{x}} {title}: {text}"]),
)


def write(folder: Path, **files: Any) -> Path:
    """Write JSON files into `folder`, named as `1_Pooling__config` for 1_Pooling/config.json."""
    for name, value in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
    return folder


def modules(*kinds: str) -> list[dict[str, Any]]:
    return [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]


def theirs_with(folder: Path, pooling: Mapping[str, Any], **files: Any) -> ModelFolder:
    """A folder of sentence-transformers with this pooling and other files."""
    return ModelFolder(
        write(folder, modules=modules("Transformer", "Pooling"), **files, **{"1_Pooling__config": pooling})
    )


def refused(folder: Path, *said: str, **flags: Any) -> None:
    with pytest.raises(InputError) as caught:
        ModelFolder(folder).config(flags.get("pooling"), flags.get("normalize", False), LONGEST)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message
    assert all(text in message for text in said), message


@given(config=CONFIGS)
def test_a_saved_configuration_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, config: EncoderConfig
) -> None:
    folder = tmp_path_factory.mktemp("own")
    assert not ModelFolder(folder).describes_itself
    config.save(folder)
    assert ModelFolder(folder).describes_itself
    assert ModelFolder(folder).config(None, False, LONGEST) == config


@given(config=CONFIGS, task=TASKS)
def test_a_task_has_its_prompt_or_everyones_or_is_refused(config: EncoderConfig, task: str) -> None:
    if not config.prompts:
        assert config.prompt(task) == ""
    elif task in config.prompts or "*" in config.prompts:
        assert config.prompt(task) == config.prompts.get(task, config.prompts.get("*"))
    else:
        with pytest.raises(InputError) as caught:
            config.prompt(task)
        assert repr(task) in str(caught.value) and "--prompt" in str(caught.value)
        assert all(name in str(caught.value) for name in config.prompts)


@given(config=CONFIGS, task=TASKS, prompt=st.text())
def test_a_given_prompt_replaces_all(config: EncoderConfig, task: str, prompt: str) -> None:
    assert config.with_prompt(prompt).prompt(task) == prompt
    assert config.with_prompt(None) is config


def test_prompts_and_lengths_by_task() -> None:
    prompts = {"nq": "question: ", "structured_zeroshot": "slot: "}
    config = EncoderConfig(prompts=prompts, query_length=32, query_lengths={"structured_zeroshot": 48})
    assert [config.prompt(task) for task in ("nq", "structured_zeroshot")] == ["question: ", "slot: "]
    assert [config.max_query_tokens(task) for task in ("nq", "structured_zeroshot", None)] == [32, 48, 32]
    with pytest.raises(InputError, match=r"prompts for nq, structured_zeroshot, but not for task 'fever'; "):
        config.prompt("fever")
    with pytest.raises(InputError, match=r"but not for task None"):
        config.prompt(None)
    with pytest.raises(InputError, match=r"but not for task 'zsre'"):  # names are made canonical before they get here
        config.prompt("zsre")
    assert config.prompt(canonical_task("zsre")) == "slot: "


def test_the_template_may_hold_braces_and_a_title_may_be_empty() -> None:
    config = EncoderConfig(passage_template="{{p}} {title} {text}")
    assert config.passage_text(Passage("1#0", "1", "A {title}", "b {0}")) == "{p} A {title} b {0}"
    assert EncoderConfig().passage_text(Passage("1#0", "1", "", " b ")) == "b"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"poolling": "mean"}, ["unknown key 'poolling'", "did you mean pooling?"]),
        ({"wholly_else": 1}, ["unknown key 'wholly_else'", "valid: pooling, normalize"]),
        ({"pooling": "max"}, ["pooling is 'max'", "first, mean, decoder"]),
        ({"query_length": "64"}, ["query_length is '64'", "a whole number"]),
        ({"passage_length": True}, ["passage_length is True", "a whole number"]),
        ({"normalize": 1}, ["normalize is 1", "true or false"]),
        ({"prompts": ["nq"]}, ["prompts is ['nq']", "tasks and texts"]),
        ({"prompts": {"nq": None}}, ["prompts is {'nq': None}", "tasks and texts"]),
        ({"query_lengths": {"nq": "9"}}, ["query_lengths is {'nq': '9'}", "tasks and whole numbers"]),
        ({"passage_template": "{body}"}, ["passage_template is '{body}'", "{title} and {text}"]),
        ({"passage_template": "{"}, ["passage_template is '{'", "{title} and {text}"]),
        ({"query_length": 0}, ["query_length is 0", "at least 1"]),
        ({"query_lengths": {"nq": -1}}, ["query_lengths is {'nq': -1}", "at least 1"]),
        ([], ["an object of pooling", "is needed"]),
    ],
)
def test_mistakes_in_our_own_file_are_named(tmp_path: Path, values: Any, said: list[str]) -> None:
    short = {"query_length": 64, "passage_length": 64}
    refused(write(tmp_path, taco_ir=short | values if isinstance(values, dict) else values), CONFIG_FILE, *said)


@pytest.mark.parametrize("lengths", [{"query_length": 129}, {"passage_length": 129}, {"query_lengths": {"nq": 129}}])
def test_lengths_that_the_backbone_lacks_are_refused(tmp_path: Path, lengths: Mapping[str, Any]) -> None:
    values = {"query_length": 128, "passage_length": 128}
    assert ModelFolder(write(tmp_path, taco_ir=values)).config(longest=LONGEST).query_length == 128
    wrong = next(value if isinstance(value, int) else value["nq"] for value in lengths.values())
    refused(write(tmp_path, taco_ir=values | dict(lengths)), f" {wrong} ", "allows 1 to 128")


def test_a_plain_folder_needs_pooling_and_a_self_describing_one_refuses_it(tmp_path: Path) -> None:
    plain, own, theirs = (tmp_path / name for name in ("plain", "own", "theirs"))
    plain.mkdir()
    refused(plain, "does not record how to pool", "--pooling first|mean|decoder")
    expected = EncoderConfig("first", True, query_length=LONGEST, passage_length=LONGEST)
    assert ModelFolder(plain).config("first", True, LONGEST) == expected
    assert ModelFolder(plain).config("mean", False, 512).passage_length == 256
    write(own, taco_ir={"query_length": 64, "passage_length": 64})
    theirs_with(theirs, {"pooling_mode": "cls"})
    for folder, name in ((own, CONFIG_FILE), (theirs, "modules.json")):
        refused(folder, f"{name} already records", "leave out --pooling and --normalize", pooling="mean")
        refused(folder, f"{name} already records", "leave out --pooling and --normalize", normalize=True)
    assert ModelFolder(theirs).config(None, False, LONGEST).pooling == "first"


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"pooling_mode": "cls"}, "first"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
    ],
)
def test_pooling_of_new_and_old_sentence_transformers_files(
    tmp_path: Path, pooling: dict[str, Any], expected: str
) -> None:
    found = theirs_with(tmp_path, pooling).config(None, False, LONGEST)
    assert found == EncoderConfig(expected, False, query_length=LONGEST, passage_length=LONGEST)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pooling", "said"),
    [
        ({"pooling_mode": "max"}, "pooling is 'max'"),
        ({"pooling_mode": ["cls", "mean"]}, "pooling is 'cls+mean'"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len"),
        ({"pooling_mode": "mean", "include_prompt": False}, "include_prompt False"),
    ],
)
def test_pooling_that_we_lack_is_named(tmp_path: Path, pooling: dict[str, Any], said: str) -> None:
    refused(theirs_with(tmp_path, pooling).path, said, "allowed: mean or cls or lasttoken")


def test_modules_that_we_lack_are_named(tmp_path: Path) -> None:
    folder = theirs_with(tmp_path, {"pooling_mode": "mean"})
    write(tmp_path, modules=modules("Transformer", "Pooling", "BoW"))
    refused(tmp_path, "module 'BoW'", "supported: Transformer, Pooling, Normalize, Dense, Router")
    refused(write(tmp_path, modules=modules("Transformer")), "no Pooling module")
    write(tmp_path, modules=modules("Transformer", "Pooling", "Normalize"))
    assert folder.config(longest=LONGEST).normalize


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ({}, (128, 128)),
        ({"max_seq_length": 40, "do_lower_case": False}, (40, 40)),
        ({"max_seq_length": None}, (128, 128)),
        ({"max_seq_length": 512}, (128, 128)),
        ({"query_length": 16, "document_length": 100}, (16, 100)),
        ({"max_seq_length": 64, "query_length": 16}, (16, 64)),
    ],
)
def test_lengths_of_sentence_transformers(tmp_path: Path, lengths: dict[str, Any], expected: tuple[int, int]) -> None:
    config = theirs_with(tmp_path, {"pooling_mode": "mean"}, sentence_bert_config=lengths).config(longest=LONGEST)
    assert (config.query_length, config.passage_length) == expected


@pytest.mark.parametrize(
    ("values", "queries", "template"),
    [
        ({}, {}, "{title} {text}"),
        ({"prompts": {"query": "", "document": ""}}, {}, "{title} {text}"),
        ({"prompts": {"query": "q: ", "document": "d{x}: "}}, {"*": "q: "}, "d{{x}}: {title} {text}"),
        ({"prompts": {"query": "q: ", "passage": "p: "}}, {"*": "q: "}, "p: {title} {text}"),
        ({"prompts": {"query": "q: ", "nq": "n: "}}, {"*": "q: ", "nq": "n: "}, "{title} {text}"),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, {"*": "q: "}, "{title} {text}"),
        ({"prompts": {"query": "", "nq": "n: "}}, {"*": "", "nq": "n: "}, "{title} {text}"),
        ({"prompts": {"web": "w: "}, "default_prompt_name": "web"}, {"web": "w: "}, "{title} {text}"),
    ],
)
def test_prompts_of_sentence_transformers(
    tmp_path: Path, values: dict[str, Any], queries: dict[str, str], template: str
) -> None:
    folder = theirs_with(tmp_path, {"pooling_mode": "mean"}, config_sentence_transformers=values)
    config = folder.config(None, False, LONGEST)
    assert (config.prompts, config.passage_form) == (queries, template)
