"""A folder of adapters: it holds them alone, works on their base only, and reads each task's queries with its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_models import made, saved
from safetensors.torch import load_file, save_file
from small_steps import PASSAGES, SMALL, encoder, step_of
from training_vectors import QUERIES, SHORT, vectors

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.hashes import sha256_file
from taco_ir.encoders.adapters.folder import RECORD_FILE, TENSORS_FILE, read_record
from taco_ir.encoders.adapters.methods import METHODS
from taco_ir.encoders.config import Role
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.export import main as export
from taco_ir.release.compact import folder_size
from taco_ir.release.exports import open_merged
from taco_ir.training.base_model import start_encoder, trained_encoder
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.loop import adamw
from taco_ir.training.settings import EncoderSettings

TWO = ("nq", "wow")


@pytest.mark.parametrize("method", METHODS)
def test_the_folder_gives_the_same_vectors(tiny_bert: Path, tmp_path: Path, method: str) -> None:
    model = made(tiny_bert, method)
    expected = vectors(model.as_text_encoder())
    model.save(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"taco_ir.json", RECORD_FILE, TENSORS_FILE}
    loaded = load_encoder(str(tmp_path / "saved"))
    np.testing.assert_array_equal(vectors(loaded), expected)
    assert loaded.config == model.config
    again = trained_encoder(tmp_path / "saved", "cpu")
    with torch.no_grad():
        own = torch.cat(
            [again([text]) for text in again.tokenize_queries(QUERIES, "wow") + again.tokenize_passages(SHORT)]
        )
    np.testing.assert_allclose(own.numpy(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", ["lora", "iaa-l", "mam", "bitfit"])
def test_a_batch_of_several_tasks_is_theirs(tiny_bert: Path, tmp_path: Path, method: str) -> None:
    loaded = load_encoder(str(saved(tmp_path, tiny_bert, method)))
    texts, tasks = [*QUERIES, *QUERIES], ["wow", "nq", "fever", "nq", "fever", "wow"]
    mixed = loaded.encode_mixed_queries(texts, tasks)
    alone = np.concatenate([loaded.encode_queries([text], task) for text, task in zip(texts, tasks, strict=True)])
    np.testing.assert_allclose(mixed, alone, rtol=0, atol=1e-6)
    by_task = [loaded.encode_queries(QUERIES[:1], task) for task in TWO]
    assert not np.allclose(*by_task, atol=1e-3)


def test_a_task_without_an_adapter(tiny_bert: Path, tmp_path: Path) -> None:
    loaded = load_encoder(str(saved(tmp_path, tiny_bert)), prompt="")
    with pytest.raises(InputError, match="adapters for queries of tasks fever, nq, wow, but not of task 'eli5'"):
        loaded.encode_queries(QUERIES, "eli5")


def test_frozen_passages_are_those_of_the_base(tiny_bert: Path, tmp_path: Path) -> None:
    tuned = load_encoder(str(saved(tmp_path, tiny_bert, roles="task-frozen")))
    bare = load_encoder(str(tiny_bert), pooling="mean")
    for passage in SHORT[:3]:
        bare_D = bare.encode_texts([tuned.config.passage_text(passage)], tuned.config.passage_length, Role.PASSAGE)[0]
        np.testing.assert_allclose(tuned.encode_passages([passage]), bare_D, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "roles"), [*((method, "task") for method in METHODS), ("lora", "task-frozen"), ("iaa-l", "task-frozen")]
)
def test_a_new_task_leaves_the_index_as_it_is(tiny_bert: Path, tmp_path: Path, method: str, roles: str) -> None:
    """Only its adapter trains; passage vectors, their fingerprint and the other tasks' vectors stay bit for bit."""
    first = saved(tmp_path / "first", tiny_bert, method, roles)
    model = encoder(first, tune=method, tune_roles=roles, pooling=None)
    assert model.record is not None and model.record.frozen == ()
    extended = encoder_of_tasks(first, ["eli5"], roles, tune=method)
    for _ in range(2):
        assert {name.split(".")[0] for name, _ in extended.trained_parameters()} == {"task eli5"}
        texts = extended.tokenize_queries(QUERIES, "nq") + extended.tokenize_passages(SHORT)
        extended(texts)  # uses other adapters, which stay frozen
    with torch.no_grad():
        for _, param in extended.trained_parameters():
            param.add_(0.05)
    extended.save(tmp_path / "second")
    before, after = load_encoder(str(first)), load_encoder(str(tmp_path / "second"))
    assert after.passage_fingerprint == before.passage_fingerprint and after.fingerprint != before.fingerprint
    np.testing.assert_array_equal(vectors(after), vectors(before))
    assert not np.allclose(after.encode_queries(QUERIES, "eli5"), after.encode_queries(QUERIES, "nq"), atol=1e-3)
    again = encoder_of_tasks(tmp_path / "second", ["eli5"], roles, tune=method)  # a resumed training
    assert {name.split(".")[0] for name, _ in again.trained_parameters()} == {"task eli5"}


def encoder_of_tasks(folder: Path, tasks: list[str], roles: str, tune: str = "iaa-l", **values: Any) -> DualEncoder:
    """The model in `folder`, trained further on these tasks alone."""
    return start_encoder(SMALL.replace(pooling=None, tune=tune, tune_roles=roles, **values), folder, tasks)


@pytest.mark.parametrize("roles", ["task", "task-frozen"])
def test_a_new_task_leaves_what_the_other_queries_and_the_passages_look_like(
    tiny_bert: Path, tmp_path: Path, roles: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the model has no prompts, or lengths other than a training's default (here 40 tokens)."""
    monkeypatch.setattr(EncoderSettings, "passage_length", 40)
    made(tiny_bert, roles=roles, prompts=False, passage_length=23).save(tmp_path / "first")
    encoder_of_tasks(tmp_path / "first", ["eli5"], roles, prompts=True, passage_length=40).save(tmp_path / "second")
    before, after = load_encoder(str(tmp_path / "first")), load_encoder(str(tmp_path / "second"))
    assert after.config.prompt("eli5") and not after.config.prompt("nq") and after.config.passage_length == 23
    assert after.passage_fingerprint == before.passage_fingerprint
    np.testing.assert_array_equal(vectors(after), vectors(before))
    said = r"passage_length is 24, but the passage vectors of .*first were made with 23; leave passage_length out"
    with pytest.raises(InputError, match=said):
        encoder_of_tasks(tmp_path / "first", ["eli5"], roles, passage_length=24)


def test_a_budget_that_the_model_does_not_have_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    encoder(tiny_bert, tune="adapter", tune_budget="5%").save(tmp_path / "tuned")
    width = read_record(tmp_path / "tuned").width
    assert encoder_of_tasks(tmp_path / "tuned", list(TWO), "shared", "adapter", tune_budget="5%").record is not None
    said = rf"tune_budget 9.7% means width \d+, but .*tuned has width {width}; leave tune_budget out"
    with pytest.raises(InputError, match=said):
        encoder_of_tasks(tmp_path / "tuned", list(TWO), "shared", "adapter", tune_budget="9.7%")


def test_one_index_serves_the_backbone_too(tiny_bert: Path, tmp_path: Path) -> None:
    """Without an adapter for passages they are the backbone's."""
    encoder(tiny_bert, tune="full").save(tmp_path / "base")
    made(tmp_path / "base", roles="task-frozen", pooling=None).save(tmp_path / "tuned")
    base, tuned = load_encoder(str(tmp_path / "base")), load_encoder(str(tmp_path / "tuned"))
    assert tuned.passage_fingerprint == base.passage_fingerprint and tuned.fingerprint != base.fingerprint
    np.testing.assert_array_equal(tuned.encode_passages(SHORT), base.encode_passages(SHORT))


def test_the_passage_fingerprint_follows_the_passage_adapter(tiny_bert: Path, tmp_path: Path) -> None:
    folders = [saved(tmp_path / roles, tiny_bert, roles=roles) for roles in ("shared", "task", "task-frozen")]
    assert len({load_encoder(str(folder)).passage_fingerprint for folder in folders}) == 3


# the base


def test_another_base_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_bert, base)
    folder = saved(tmp_path / "tuned", base)
    weights = load_file(base / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"] += 1
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    said = r"its adapters need the base '.*base' with hash [0-9a-f]{16}, but .* has hash [0-9a-f]{16}"
    with pytest.raises(InputError, match=said):
        load_encoder(str(folder))


def test_a_base_that_moved_is_given(tiny_bert: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_bert, base)
    folder = saved(tmp_path / "tuned", base)
    expected = vectors(load_encoder(str(folder)))
    base.rename(tmp_path / "moved")
    said = r"its base '.*base' is missing; give --base FOLDER, or change base in .*tuning\.json"
    with pytest.raises(InputError, match=said):
        load_encoder(str(folder))
    np.testing.assert_array_equal(vectors(load_encoder(str(folder), base=str(tmp_path / "moved"))), expected)
    replace(read_record(folder), base=str(tmp_path / "moved")).save(folder)
    np.testing.assert_array_equal(vectors(load_encoder(str(folder))), expected)
    with pytest.raises(InputError, match="has adapters of its own"):
        load_encoder(str(folder), base=str(folder))


def test_flags_that_do_not_fit(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a whole model; --base is only for adapters"):
        load_encoder(str(tiny_bert), pooling="mean", base=str(tiny_bert))
    folder = str(saved(tmp_path, tiny_bert))
    with pytest.raises(InputError, match=rf"--precision int8: .* has adapters, .*; give its base model, {tiny_bert}$"):
        load_encoder(folder, precision="int8")
    with pytest.raises(InputError, match="already records how it pools"):
        load_encoder(folder, pooling="mean")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, "method is 'magic'; valid: bitfit, lora, "),
        ({"roles": "none"}, "roles is 'none'; valid: shared, tower, "),
        ({"width": "4"}, "width is '4'; it must be a whole number"),
        ({"width": 5}, "does not fit adapters of method iaa-l, width 5"),
        ({"tasks": ["nq"]}, "does not fit adapters of method iaa-l, width 4, for task nq, passage"),
    ],
)
def test_a_record_that_is_wrong(tiny_bert: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = saved(tmp_path, tiny_bert)
    write_json(folder / RECORD_FILE, read_json(folder / RECORD_FILE) | changes)
    with pytest.raises(InputError, match=message):
        load_encoder(str(folder))


def test_broken_tensors_are_named(tiny_bert: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path, tiny_bert)
    (folder / TENSORS_FILE).write_bytes(b"no tensors")
    with pytest.raises(InputError, match="tuning.safetensors: cannot be read"):
        load_encoder(str(folder))


# merging


@pytest.mark.parametrize("method", ["bitfit", "lora"])
def test_what_is_merged_is_the_same_encoder(tiny_bert: Path, tmp_path: Path, method: str) -> None:
    tuned = load_encoder(str(saved(tmp_path, tiny_bert, method, "shared")))
    before = sha256_file(tiny_bert / "model.safetensors")
    with open_merged(tuned, None) as folder:
        assert (folder / "config.json").is_file() and not (folder / RECORD_FILE).exists()
        assert "peft" not in json.dumps(read_json(folder / "config.json"))
        whole = load_encoder(str(folder))
        np.testing.assert_allclose(vectors(whole), vectors(tuned), rtol=0, atol=2e-5)
    assert sha256_file(tiny_bert / "model.safetensors") == before


@pytest.mark.parametrize("method", ["bitfit", "lora"])
def test_merged_queries_alone_are_the_same_queries(
    tiny_bert: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the passages of the backbone, which the folder names, and its index."""
    made(tiny_bert, method, "query-frozen", prompts=False).save(tmp_path / "tuned")
    tuned = load_encoder(str(tmp_path / "tuned"))
    what = ["--what", "huggingface", "sentence-transformers"]
    export(["--model", str(tmp_path / "tuned"), *what, "--output", str(tmp_path / "out")])
    assert f"merged models encode only queries; encode passages with {tiny_bert}" in capsys.readouterr().out
    flags = (tmp_path / "out" / "huggingface" / "pyserini-flags.txt").read_text()
    assert f"encoder --encoder {tiny_bert} " in flags and f"--encoder {tmp_path}/out/huggingface " in flags
    for kind in ("huggingface", "sentence-transformers"):
        whole = load_encoder(str(tmp_path / "out" / kind), pooling="mean" if kind == "huggingface" else None)
        expected = tuned.encode_queries(QUERIES, None)
        np.testing.assert_allclose(whole.encode_queries(QUERIES, None), expected, rtol=0, atol=2e-5)
        assert not np.allclose(whole.encode_passages(SHORT), tuned.encode_passages(SHORT), atol=1e-2)
    assert f"passages are encoded by {tiny_bert}" in (tmp_path / "out" / kind / "README.md").read_text()


@pytest.mark.parametrize(
    ("method", "roles", "message"),
    [
        ("iaa-l", "shared", "adapters of method iaa-l cannot be merged into the backbone, only adapters of bitfit"),
        ("lora", "tower", "with tune_roles tower there are several adapters"),
    ],
)
def test_what_cannot_be_merged(tiny_bert: Path, tmp_path: Path, method: str, roles: str, message: str) -> None:
    tuned = load_encoder(str(saved(tmp_path, tiny_bert, method, roles)))
    with pytest.raises(InputError, match=message), open_merged(tuned, None):
        pass


def test_validation_and_training_take_turns(tiny_bert: Path) -> None:
    """The text encoder of a training leaves its adapters trainable, and the next step uses the right ones."""
    model = made(tiny_bert, "lora", "tower")
    step, optimizer = step_of(model), adamw(model, SMALL.replace(learning_rate=1e-2).optimiser)
    seen = []
    for number in range(2):
        assert step(number, 0.0).report is not None
        optimizer.step()
        optimizer.zero_grad()
        made_encoder = model.as_text_encoder()
        seen.append(made_encoder.encode_passages(PASSAGES[:2]))
        model.train()
    assert len(model.trained_parameters()) == 2 * 8 and not np.array_equal(*seen)


def test_a_small_folder_holds_its_backbone_and_lends_adapters(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tiny_bert, roles="task-frozen", prompts=False).save(tmp_path / "tuned")
    before = load_encoder(str(tmp_path / "tuned"))
    flags = ["--model", str(tmp_path / "tuned"), "--what", "compact", "--megabytes", "1", "--weights", "int8"]
    export([*flags, "--output", str(tmp_path / "out"), "--prompt-of", "trex=wow", "squad=none", "*=nq"])
    size = float(capsys.readouterr().out.split(" MB")[0])
    (tmp_path / "out" / "compact").rename(tmp_path / "small")
    assert size == pytest.approx(folder_size(tmp_path / "small") / 1e6, abs=0.01)
    after = load_encoder(str(tmp_path / "small"))
    bare = load_encoder(str(tmp_path / "small" / "backbone"))
    np.testing.assert_array_equal(after.encode_passages(PASSAGES[:5]), bare.encode_passages(PASSAGES[:5]))
    np.testing.assert_array_equal(after.encode_queries(QUERIES, "squad"), bare.encode_queries(QUERIES, None))
    for task, lender in (("nq", "nq"), ("fever", "fever"), ("trex", "wow"), ("eli5", "nq"), (None, "nq")):
        np.testing.assert_array_equal(after.encode_queries(QUERIES, task), after.encode_queries(QUERIES, lender))
        np.testing.assert_allclose(
            after.encode_queries(QUERIES, task), before.encode_queries(QUERIES, lender), atol=0.05
        )
        assert not np.allclose(after.encode_queries(QUERIES, task), bare.encode_queries(QUERIES, None), atol=0.05)
    none = "which has none; tasks with adapters: fever, nq, wow; none stands for no adapter"
    for wrong, said in (
        ("nq=wow", "task 'nq' has its own adapter and cannot borrow from 'wow'"),
        ("trex=eli5", f"task 'trex' cannot borrow an adapter of 'eli5', {none}"),
    ):
        with pytest.raises(InputError, match=said):
            export([*flags, "--output", str(tmp_path / "never"), "--prompt-of", wrong])


def test_none_is_lent_where_there_are_prompts(tiny_bert: Path, tmp_path: Path) -> None:
    """A task that takes none goes through the backbone, without a prompt."""
    made(tiny_bert, roles="task-frozen").save(tmp_path / "tuned")
    loaded = load_encoder(str(tmp_path / "tuned"))
    loaded.borrow({"trex": "wow", "squad": "none", "*": "nq"})
    assert [loaded.config.prompt(task) for task in ("trex", "squad", "eli5")] == [
        loaded.config.prompt("wow"),
        "",
        loaded.config.prompt("nq"),
    ]
    bare = load_encoder(str(tiny_bert), pooling="mean")
    bare_ND = bare.encode_texts(
        loaded.config.query_texts(QUERIES, "squad"), loaded.config.max_query_tokens("squad"), Role.QUERY
    )[0]
    np.testing.assert_allclose(loaded.encode_queries(QUERIES, "squad"), bare_ND, rtol=0, atol=1e-6)


def test_training_goes_on_from_a_small_folder_that_may_go(tiny_bert: Path, tmp_path: Path) -> None:
    made(tiny_bert, roles="task-frozen", prompts=False).save(tmp_path / "tuned")
    export(
        ["--model", str(tmp_path / "tuned"), "--what", "compact", "--megabytes", "1", "--output", str(tmp_path / "out")]
    )
    small = tmp_path / "out" / "compact"
    config = SMALL.replace(prompts=False, tune="iaa-l", tune_width=4, tune_roles="task-frozen")
    start_encoder(config, small, ["trex"]).save(tmp_path / "more")
    assert read_record(tmp_path / "more").base == str((small / "backbone").resolve())
    more, before = load_encoder(str(tmp_path / "more")), load_encoder(str(small))
    assert more.passage_fingerprint == before.passage_fingerprint
    np.testing.assert_array_equal(more.encode_queries(QUERIES, "nq"), before.encode_queries(QUERIES, "nq"))
