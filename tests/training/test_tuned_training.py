"""Training adapters on a frozen backbone: they alone move, under every weighting, and it resumes bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import possible
from safetensors.torch import load_file
from small_steps import PASSAGES, SMALL, TASKS, assert_near, encoder, gradient, gradients, step_of, train_steps
from training_runs import StopAfter, Stopped, differing, episode, logged, small
from training_vectors import vectors
from weighting_steps import TRAINED

from taco_ir.core.files import InputError, read_json
from taco_ir.encoders.adapters.folder import RECORD_FILE, ROLES, TENSORS_FILE, TRAINING_FILE, read_record
from taco_ir.encoders.adapters.methods import METHODS, method_of, with_prompts
from taco_ir.encoders.text_encoder import TextEncoder, load_encoder
from taco_ir.training.adapters import describe_adapters
from taco_ir.training.backward import Arithmetic
from taco_ir.training.base_model import start_encoder
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.loop import adamw
from taco_ir.training.step import StepResult

REPARAMETERISED = {"tune_reparameterise": True}
SIZED = {method: {"tune": method, "tune_width": 4 if method_of(method).width else 0} for method in METHODS}


def everything(model: DualEncoder) -> dict[str, torch.Tensor]:
    """Copies of all parameters; biases in use have the backbone's names, so that none is."""
    assert model.adapters is not None
    model.adapters.use(None)
    own = model.adapters.named_tensors()
    mine = {id(tensor) for tensor in own.values()}
    frozen = {name: param for name, param in model.named_parameters() if id(param) not in mine}
    return {name: tensor.detach().clone() for name, tensor in (frozen | own).items()}


def assert_learns(results: Sequence[StepResult]) -> None:
    assert sum(results[-1].losses.values()) < sum(results[0].losses.values())


@pytest.mark.parametrize(
    ("method", "roles"),
    [
        *((method, "tower") for method in METHODS),
        *((method, roles) for method in ("lora", "iaa-l") for roles in ROLES if roles != "tower"),
    ],
)
def test_adapters_alone_move(tiny_bert: Path, method: str, roles: str) -> None:
    """All of them; the backbone stays bit for bit."""
    model = encoder(tiny_bert, tune_roles=roles, **SIZED[method])
    names = {"shared": {"shared"}, "tower": {"query", "passage"}, "query-frozen": {"query"}}
    names["task-frozen"] = {f"task {task}" for task in TASKS}
    assert model.adapters is not None
    assert set(model.adapters.names) == names.get(roles, names["task-frozen"] | {"passage"})
    trained = {name for name, _ in model.trained_parameters()}
    assert trained == set(model.adapters.named_tensors())
    before = everything(model)
    train_steps(step_of(model), 1e-2, 2)
    changed = {name for name, tensor in everything(model).items() if not torch.equal(tensor, before[name])}
    assert {name for name in trained if not name.endswith("key.bias")} <= changed <= trained


@pytest.mark.parametrize("weighting", TRAINED)
def test_every_weighting_takes_adapters_of_tasks(tiny_bert: Path, weighting: str) -> None:
    """A task has no gradient for the adapters of the others; the update reaches all."""
    model = encoder(tiny_bert, tune_roles="task", **SIZED["adapter"])
    step = step_of(model, weighting)
    optimizer = adamw(model, SMALL.replace(learning_rate=1e-2).optimiser)
    for task in step.objectives:
        gradient(task, 0)
        held = {name.split(".")[0] for name, param in model.trained_parameters() if param.grad is not None}
        assert held == {f"task {task.task}", "passage"}
        model.zero_grad()
    losses = []
    for number in range(6):
        result = step(0, number / 6)
        assert result.report is not None and all(param.grad is not None for _, param in model.trained_parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(sum(result.losses.values()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((method, {}) for method in ("lora", "iaa-l", "mam", "bitfit")),
        ("prefix", REPARAMETERISED),
        ("adapter", {"tune_roles": "task-frozen"}),
    ],
)
def test_gradcache_and_checkpointing_change_no_gradient(tiny_bert: Path, method: str, options: dict[str, Any]) -> None:
    """Two adapters, so that a repeated pass must go through its own, or passages without a gradient."""
    options = {"tune_roles": "tower", **SIZED[method], **options}
    plain, repeating = (encoder(tiny_bert, gradient_checkpointing=on, **options) for on in (False, True))

    def run(model: DualEncoder, arithmetic: Arithmetic) -> list[torch.Tensor]:
        gradient(step_of(model, arithmetic=arithmetic).objectives[0], 0)
        return gradients(model)

    expected = run(plain, Arithmetic())
    for model, gradcache in ((plain, 3), (repeating, 0), (repeating, 3)):
        # a bias sums over all tokens: how that is rounded depends on the processor
        assert_near(run(model, Arithmetic(gradcache=gradcache)), expected, 2e-5)


@pytest.mark.parametrize("method", ["adapter", "prompt"])
def test_taco_weighs_tasks_for_every_number_of_a_shared_adapter(tiny_bert: Path, method: str) -> None:
    """All tasks pull at one adapter; their shares differ from number to number, and its loss falls."""
    model = encoder(tiny_bert, **SIZED[method])
    step = step_of(model, "taco", tau=0.5, beta=0.5, burn_in=0.0)
    results = train_steps(step, 1e-2, 8, same=True)
    assert_learns(results)
    assert all(weight > 0 for result in results if result.report for weight in result.report.weights)
    last = results[-1].report
    assert last and last.details["weight_entropy"] < 0.9 * math.log(len(TASKS))  # of equal shares it is the logarithm
    kept = {
        name: value for name, value in step.weighting.state_dict().items() if value.dim() and value.numel() > len(TASKS)
    }
    assert kept and all(float(value.float().std()) > 0 for value in kept.values())


@pytest.mark.parametrize(
    ("method", "roles", "options"),
    [
        ("lora", "tower", {}),
        ("iaa-l", "task", {}),
        ("prompt", "tower", REPARAMETERISED),
        ("mam", "shared", REPARAMETERISED),
    ],
)
def test_stopped_is_never_stopped(
    tiny_bert: Path, tmp_path: Path, method: str, roles: str, options: dict[str, Any]
) -> None:
    config = small(tiny_bert, tmp_path, tune_roles=roles, keep_checkpoints=1, steps=4, **SIZED[method], **options)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    episode(config, whole).run()
    with pytest.raises(Stopped):
        episode(config, parts, StopAfter(3)).run()
    again = episode(config, parts)
    assert again.state.step == 2
    again.run()
    assert logged(parts) == logged(whole) and differing(parts, whole) == []
    assert {path.name for path in (parts / "model").iterdir()} == {
        *("stream.json", "taco_ir.json", "tuning.json", TENSORS_FILE)
    }
    assert (parts / "checkpoints" / "step-00000004" / "model" / TRAINING_FILE).is_file() == bool(options)


@pytest.mark.parametrize("method", with_prompts())
def test_reparameterised_prompts_leave_plain_ones(tiny_bert: Path, tmp_path: Path, method: str) -> None:
    """The saved model has the form of any model of the method, and gives the vectors of the one that trains."""
    model, plain = (
        encoder(tiny_bert, tune_roles="tower", **SIZED[method], **options) for options in (REPARAMETERISED, {})
    )
    train_steps(step_of(model), 1e-2, 2)
    model.save(tmp_path / "model")
    plain.save(tmp_path / "plain")
    forms = [load_file(tmp_path / name / TENSORS_FILE) for name in ("model", "plain")]
    assert len({str({name: tensor.shape for name, tensor in form.items()}) for form in forms}) == 1
    assert (tmp_path / "model" / RECORD_FILE).read_bytes() == (tmp_path / "plain" / RECORD_FILE).read_bytes()
    loaded, trained = load_encoder(str(tmp_path / "model")), model.as_text_encoder()
    np.testing.assert_allclose(vectors(loaded), vectors(trained), rtol=0, atol=1e-6)
    assert (loaded.fingerprint, loaded.passage_fingerprint) == (trained.fingerprint, trained.passage_fingerprint)
    assert np.abs(vectors(loaded) - vectors(plain.as_text_encoder())).max() > 1e-3
    more = {"tune_roles": "tower", "pooling": None, **SIZED[method]}
    said = "tune_reparameterise is True, but .*model has only .*; .* or start from the base model .*tiny-bert"
    with pytest.raises(InputError, match=said):
        encoder(tmp_path / "model", **more, **REPARAMETERISED)
    assert all(
        torch.equal(tensor, forms[0][name]) for name, tensor in encoder(tmp_path / "model", **more).trained_parameters()
    )


def test_a_new_tasks_prompt_is_reparameterised_beside_plain_ones(tiny_bert: Path, tmp_path: Path) -> None:
    """Those of before are kept as they are."""
    encoder(tiny_bert, tune_roles="task", **SIZED["prompt"]).save(tmp_path)
    config = SMALL.replace(pooling=None, tune_roles="task", **SIZED["prompt"], **REPARAMETERISED)
    model = start_encoder(config, tmp_path, ["eli5"])
    assert model.adapters is not None and model.adapters.reparameterised == {"task eli5"}
    assert {name.split(".")[0] for name, _ in model.trained_parameters()} == {"task eli5"}
    kept, stored = load_file(tmp_path / TENSORS_FILE), model.adapters.stored()
    assert stored.keys() - kept.keys() == {"task eli5.0", "task eli5.1"}
    assert all(torch.equal(stored[name], tensor) for name, tensor in kept.items())


def test_positions_are_kept(tiny_bert: Path, tmp_path: Path) -> None:
    """They change vectors and fingerprints; what a method does by itself is not said, so that folders are as ever."""
    found: dict[str, TextEncoder] = {}
    for positions in (None, "shifted", "plain"):
        encoder(tiny_bert, **SIZED["prompt"], tune_positions=positions).save(tmp_path / str(positions))
        found[str(positions)] = load_encoder(str(tmp_path / str(positions)))
    assert (tmp_path / "None" / RECORD_FILE).read_bytes() == (tmp_path / "shifted" / RECORD_FILE).read_bytes()
    assert "positions" not in read_json(tmp_path / "None" / RECORD_FILE)
    np.testing.assert_array_equal(vectors(found["None"]), vectors(found["shifted"]))
    assert np.abs(vectors(found["None"]) - vectors(found["plain"])).max() > 1e-3
    prints = {name: made.passage_fingerprint for name, made in found.items()}
    assert prints["None"] == prints["shifted"] != prints["plain"]
    with pytest.raises(InputError, match="tune_positions is 'shifted', but model .*plain has 'plain'"):
        encoder(tmp_path / "plain", pooling=None, **SIZED["prompt"], tune_positions="shifted")
    assert encoder(tmp_path / "plain", pooling=None, **SIZED["prompt"]).record == read_record(tmp_path / "plain")


@pytest.mark.parametrize("method", [method for method in METHODS if possible("modernbert", method)])
def test_modernbert_is_tuned(tiny_modernbert: Path, tmp_path: Path, method: str) -> None:
    """Texts are longer than its windows; every tensor matters at the start, and a few steps help."""
    model = encoder(tiny_modernbert, **SIZED[method])
    longest = max(len(text.ids) for text in model.tokenize_passages(PASSAGES))
    assert longest > 2 * model.backbone("passage").config.local_attention
    assert_learns(train_steps(step_of(model), 3e-2, 8, same=True))
    model.save(tmp_path)
    np.testing.assert_allclose(
        vectors(load_encoder(str(tmp_path))), vectors(model.as_text_encoder()), rtol=0, atol=1e-6
    )


def test_the_announcement_gives_the_exact_count(tiny_bert: Path) -> None:
    """2 layers x 3 adapters x (2 x 32 x 4 + 4 + 32) numbers."""
    model = encoder(tiny_bert, tune_roles="tower", **SIZED["iaa-l"])
    assert describe_adapters(model).startswith("tune: iaa-l, width 4: 1,752 parameters, ")
    assert sum(param.numel() for _, param in model.trained_parameters()) == 2 * 1752
    assert describe_adapters(encoder(tiny_bert)) == ""


def test_the_announcement_tells_what_trains_from_what_is_stored(tiny_bert: Path) -> None:
    """4 vectors x 2 layers x keys and values of 32; they are made by an embedding, 32 -> 512 and 512 -> 2 x 2 x 32."""
    model = encoder(tiny_bert, **SIZED["prompt"], **REPARAMETERISED)
    trained = 4 * 32 + 33 * 512 + 513 * 128
    assert describe_adapters(model).startswith("tune: prompt, width 4: 512 parameters, ")
    assert describe_adapters(model).endswith(
        f"tune: shared is reparameterised: {trained:,} parameters are trained, and 512 are stored\n"
    )
    assert model.sizes["trained"] == sum(param.numel() for _, param in model.trained_parameters()) == trained
    assert model.adapters is not None and sum(tensor.numel() for tensor in model.adapters.stored().values()) == 512


def test_a_budget_is_met(tiny_bert: Path) -> None:
    model = encoder(tiny_bert, tune="lora", tune_budget="2%")
    total = sum(param.numel() for param in encoder(tiny_bert).parameters())
    used, each = sum(param.numel() for _, param in model.trained_parameters()), 2 * 2 * 64
    assert used <= total / 50 < used + each


def test_t5_decoders_embedding_of_a_tuned_encoder(tiny_t5: Path) -> None:
    model = encoder(tiny_t5, tune="iaa-s", tune_width=3, pooling="decoder")
    assert step_of(model)(0, 0.0).report is not None


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tune": "lora", "tune_width": 33}, "tune_width is 33; lora allows 1 to 32"),
    (
        {"tune": "lora", "tune_budget": "0.0001%"},
        "tune_budget is '0.0001%'.* the nearest possible size of lora is width 1",
    ),
    ({"tune": "lora", "untied": True}, "untied is True; with tune lora"),
    ({"tune": "lora", "freeze_layers": 1}, "freeze_layers is 1; with tune lora"),
    ({"tune": "lora", "head": 8}, "head is 8, but tune lora cannot add a head"),
    ({"tune_width": 8}, "tune_width is 8; it has an effect only with a tune other than full"),
    ({"tune_roles": "task"}, "tune_roles is 'task'; it has an effect only with a tune other than full"),
    ({"tune_positions": "plain"}, "tune_positions is 'plain'; it has an effect only with a tune other than full"),
    ({"tune_reparameterise": True}, "tune_reparameterise is True; it has an effect only with a tune other than full"),
    (
        {"tune": "lora", "tune_positions": "plain"},
        "tune_positions is 'plain', but tune lora has no prompts .only prefix, prompt, mam have prompts.",
    ),
    (
        {"tune": "iaa-l", "tune_reparameterise": True},
        "tune_reparameterise is True, but tune iaa-l has no prompts .only prefix, prompt, mam have prompts.",
    ),
    (
        {"tune": "prefix", "tune_width": 30, "passage_length": 100, "tune_positions": "shifted"},
        "but texts of 100 tokens leave 28 of the backbone's 128 positions",
    ),
    (
        {"tune": "prompt", "tune_width": 30, "passage_length": 100},
        "but texts of 100 tokens leave 28 of the backbone's 128 positions",
    ),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_what_cannot_be_tuned(tiny_bert: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder(tiny_bert, **values)


def test_t5_has_no_positions_to_shift(tiny_t5: Path) -> None:
    said = "tune_positions is 'shifted'; a backbone of type 't5' has relative positions; leave tune_positions out"
    with pytest.raises(InputError, match=said):
        encoder(tiny_t5, **SIZED["prompt"], tune_positions="shifted")
    assert encoder(tiny_t5, **SIZED["prompt"]).adapters is not None


def test_a_tuned_model_goes_on_as_it_is(tiny_bert: Path, tmp_path: Path) -> None:
    encoder(tiny_bert, tune_roles="tower", **SIZED["lora"]).save(tmp_path)
    for values, message in (
        ({}, "tune is full, but .* has adapters .method lora"),
        ({"tune": "adapter"}, "tune is 'adapter', but model .* has 'lora'"),
        ({"tune": "lora"}, "tune_roles is 'shared', but model .* has 'tower'"),
        ({"tune": "lora", "tune_roles": "tower", "tune_width": 5}, "tune_width is 5, but model .* has 4"),
    ):
        with pytest.raises(InputError, match=message):
            encoder(tmp_path, pooling=None, **values)
    again = encoder(tmp_path, pooling=None, tune="lora", tune_roles="tower")
    assert again.record is not None and (again.record.width, again.record.roles) == (4, "tower")
