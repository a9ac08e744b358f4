"""The encoder that trains is the one that searches: same tokens, same vectors, from a folder that says all of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_steps import PASSAGES, SMALL, encoder, step_of, train_steps
from training_vectors import QUERIES, SHORT, vectors

from taco_ir.core.files import InputError
from taco_ir.core.types import Passage
from taco_ir.encoders import text_encoder as encoder_module
from taco_ir.encoders.config import CONFIG_FILE, EncoderConfig
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.pooling import tokenize
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.training.base_model import start_encoder
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.loop import adamw
from taco_ir.training.objectives.base import loss_temperature

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("tiny_bert", {}),
    "untied": ("tiny_bert", {"untied": True}),
    "first token, normalised": ("tiny_bert", {"pooling": "first", "normalize": True}),
    "head": ("tiny_bert", {"head": 8}),
    "untied with heads": ("tiny_bert", {"untied": True, "head": 8}),
    "T5 decoder": ("tiny_t5", {"pooling": "decoder"}),
    "T5 encoder": ("tiny_t5", {}),
    "T5 untied": ("tiny_t5", {"pooling": "decoder", "untied": True, "head": 4}),
}


def moved(model: DualEncoder) -> DualEncoder:
    """Parameters as after a training: towers differ."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn(param.shape, generator=generator), alpha=0.05)
    return model


def copied(source: Path, target: Path, **config: Any) -> Path:
    """A copy of a model folder with other values in its config.json."""
    shutil.copytree(source, target)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | config), encoding="utf-8")
    return target


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_attention_in_bf16_on_a_processor_is_plain_and_the_same(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base, values = FORMS[name]
    folder = request.getfixturevalue(base)
    fused, plain = (
        start_encoder(SMALL.replace(**values, precision=precision), folder, ["nq"]) for precision in ("float32", "bf16")
    )
    for model, attention in ((fused, "sdpa"), (plain, "eager")):
        assert {model.backbone(tower).config._attn_implementation for tower in model.towers} == {attention}
    plain.load_state_dict(fused.state_dict())
    texts = fused.tokenize_passages(PASSAGES[:5])
    found = [model(texts) for model in (fused, plain)]
    for vectors_BD in found:
        vectors_BD.pow(2).sum().backward()
    assert torch.allclose(*found, atol=1e-5)
    theirs = dict(plain.named_parameters())
    for param_name, param in fused.named_parameters():
        if param.grad is not None:
            other = theirs[param_name].grad
            assert other is not None and torch.allclose(
                *(grad.to_dense() if grad.is_sparse else grad for grad in (param.grad, other)), rtol=1e-3, atol=1e-4
            ), param_name
    plain.save(tmp_path / "saved")
    again = start_encoder(SMALL.replace(pooling=None), tmp_path / "saved", ["nq"])
    assert again.backbone("passage").config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", FORMS)
def test_a_saved_encoder_gives_the_same_vectors(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    base, values = FORMS[name]
    model = moved(encoder(request.getfixturevalue(base), dropout=0.2, **values))
    expected = vectors(model.as_text_encoder())
    model.save(tmp_path / "saved")
    loaded = load_encoder(str(tmp_path / "saved"))
    np.testing.assert_array_equal(vectors(loaded), expected)
    assert loaded.config == model.config and loaded.dim == model.dim == (values.get("head") or 32)
    # and the vectors that training sees, text by text in evaluation mode
    model.eval()
    with torch.no_grad():
        own = torch.cat(
            [model([text]) for text in model.tokenize_queries(QUERIES, "wow") + model.tokenize_passages(SHORT)]
        )
    np.testing.assert_allclose(own.numpy(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", FORMS)
def test_a_saved_encoder_trains_on(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """From its folder alone, without saying again how it pools."""
    base, values = FORMS[name]
    model = moved(encoder(request.getfixturevalue(base), **values))
    model.save(tmp_path / "saved")
    again = encoder(tmp_path / "saved", pooling=None)
    assert again.config == model.config and again.untied == model.untied
    for (own_name, own), (name_, param) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert own_name == name_ and torch.equal(own, param)


def test_towers_are_two_or_one(tiny_bert: Path, tmp_path: Path) -> None:
    tied, untied = encoder(tiny_bert), encoder(tiny_bert, untied=True)
    assert 2 * len(tied.trained_parameters()) == len(untied.trained_parameters())
    same = vectors(untied.as_text_encoder())
    np.testing.assert_array_equal(same, vectors(tied.as_text_encoder()))  # before training
    with torch.no_grad():
        next(untied.towers["query"].parameters()).mul_(2)
    queries = len(QUERIES)
    changed = vectors(untied.as_text_encoder())
    assert not np.allclose(changed[:queries], same[:queries], atol=1e-3)
    np.testing.assert_array_equal(changed[queries:], same[queries:])


def test_each_tower_keeps_its_own_tokenizer(tiny_bert: Path, tmp_path: Path) -> None:
    encoder(tiny_bert, untied=True).save(tmp_path / "base")
    path = tmp_path / "base" / "query" / "tokenizer.json"
    path.write_text(
        path.read_text(encoding="utf-8")
        .replace('"lowercase":true', '"lowercase":false')
        .replace('"lowercase": true', '"lowercase": false')
    )
    model = encoder(tmp_path / "base", pooling=None)
    assert (
        model.tokenize_queries(["Bach"], "nq")[0].ids.tolist()
        != encoder(tiny_bert).tokenize_queries(["Bach"], "nq")[0].ids.tolist()
    )
    expected = vectors(model.as_text_encoder())
    model.save(tmp_path / "saved")
    np.testing.assert_array_equal(vectors(load_encoder(str(tmp_path / "saved"))), expected)


def test_new_heads_are_the_seed_s(tiny_bert: Path) -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.rand(3)
        weights.append(encoder(tiny_bert, head=8, seed=seed).towers["passage"]["head"].weight)  # type: ignore[index]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("base", "without", "separator"),
    [
        ("tiny_bert", (), "<extra_id_1>"),
        ("tiny_t5", (), "<extra_id_1>"),
        ("tiny_bert", ("<extra_id_1>",), "[SEP]"),
        ("tiny_t5", ("<extra_id_1>", "[SEP]"), "</s>"),
        ("tiny_bert", ("<extra_id_1>", "[SEP]", "</s>"), ":"),
    ],
)
def test_prompts(
    base: str, without: tuple[str, ...], separator: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A task's name and the first that is a token of T5's sentinel, BERT's separator and T5's end; else a colon."""
    folder = tmp_path / "base"
    shutil.copytree(request.getfixturevalue(base), folder)
    path = folder / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    for number, token in enumerate(without):
        text = text.replace(json.dumps(token), json.dumps(f"@{number}"))
    path.write_text(text, encoding="utf-8")
    tasks = ("nq", "hotpotqa", "triviaqa", "structured_zeroshot", "aidayago2")
    model = start_encoder(SMALL, folder, tasks)
    labels = dict(zip(tasks, ("NQ", "HOPO", "TQA", "ZSRE", "AIDA"), strict=True))
    assert model.config.prompts == {task: f"{name} {separator} " for task, name in labels.items()}
    if separator != ":":
        ids = model.tokenize_queries(["x"], "nq")[0].ids.tolist()
        assert model._tokenizers["passage"].token_to_id(separator) in ids  # one token, not letters
    assert (
        model.tokenize_passages([Passage("x#0", "x", "T", "x")])[0].ids.tolist()
        == model._tokenizers["passage"].encode("T x").ids
    )
    assert start_encoder(SMALL.replace(prompts=False), folder, tasks).config.prompts == {}


def test_a_task_without_prompt_is_refused(tiny_bert: Path) -> None:
    model = encoder(tiny_bert)
    with pytest.raises(InputError, match="the model has prompts for fever, nq, wow, but not for task 'trex'"):
        model.tokenize_queries(["x"], "trex")


def test_lengths_are_taco_s_by_task(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = "nq triviaqa hotpotqa trex structured_zeroshot fever eli5 aidayago2 wned cweb wow".split()
    lengths = (32, 32, 32, 32, 32, 64, 64, 128, 128, 128, 256)
    monkeypatch.setattr(ModelFolder, "longest", 512)
    config = SMALL.replace(query_length=0)
    for prompts, more in ((True, 4), (False, 0)):
        made = start_encoder(config.replace(prompts=prompts), tiny_bert, tasks).config
        assert dict(made.query_lengths) == {task: length + more for task, length in zip(tasks, lengths, strict=True)}
        assert made.query_length == 256 + more and made.passage_length == 24
    given = start_encoder(SMALL, tiny_bert, tasks).config.query_lengths
    assert dict(given) == dict.fromkeys(tasks, 12)
    monkeypatch.undo()  # the backbone's 128 positions
    cut = start_encoder(config, tiny_bert, tasks).config
    found = [cut.query_lengths[task] for task in ("nq", "aidayago2", "wow")]
    assert (found, cut.query_length) == ([36, 128, 128], 128)


@pytest.mark.parametrize(("key", "value"), [("passage_length", 129), ("query_length", 500)])
def test_lengths_beyond_the_positions_are_refused(tiny_bert: Path, key: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"{key} is {value}; .*tiny-bert takes 1 to 128 tokens"):
        start_encoder(SMALL.replace(**{key: value}), tiny_bert, ["nq"])  # type: ignore[arg-type]
    start_encoder(SMALL.replace(**{key: 128}), tiny_bert, ["nq"])  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["nq", "fever", "wow"])
def test_training_and_search_read_the_same_tokens(
    tiny_bert: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompt, truncation at the task's own length, and what is left of a mention."""
    model = encoder(tiny_bert, query_length=0)
    words = " ".join(passage.text for passage in PASSAGES[:4])
    texts = [words, f"{words} [START_ENT] Bach [END_ENT] {words}", "short"]
    ours = model.tokenize_queries(texts, task)
    model.save(tmp_path / "saved")
    seen: list[tuple[list[list[int]], int]] = []

    def watched(*args: Any) -> Any:
        ids, cut = tokenize(*args)
        seen.append(([ids_L.tolist() for ids_L in ids], cut))
        return ids, cut

    monkeypatch.setattr(encoder_module, "tokenize", watched)
    found = load_encoder(str(tmp_path / "saved"))
    found.encode_queries(texts, task)
    assert seen == [([text.ids.tolist() for text in ours], 2)] and found.truncated == 2
    assert {len(text.ids) for text in ours[:2]} == {{"nq": 36, "fever": 68, "wow": 128}[task]}
    found.encode_passages(SHORT)
    assert seen[1][0] == [text.ids.tolist() for text in model.tokenize_passages(SHORT)]


def test_left_context_of_a_mention(tiny_bert: Path) -> None:
    """The 64 words before it; texts without a mention are whole."""
    config = encoder(tiny_bert).config
    words = [f"w{number}" for number in range(100)]
    marked = " ".join([*words, "[START_ENT] x [END_ENT]", "right"])
    assert config.query_texts([marked, " ".join(words)], "nq") == [
        config.prompt("nq") + " ".join([*words[36:], "[START_ENT] x [END_ENT]", "right"]),
        config.prompt("nq") + " ".join(words),
    ]


def frozen(model: DualEncoder) -> set[str]:
    return {name for name, param in model.named_parameters() if not param.requires_grad}


@pytest.mark.parametrize(
    ("base", "values", "expected"),
    [
        (
            "tiny_bert",
            {"freeze_embeddings": True},
            {f"embeddings.{kind}_" for kind in ("word", "position", "token_type")},
        ),
        ("tiny_bert", {"freeze_layers": 1}, {"encoder.layer.0."}),
        ("tiny_bert", {"freeze_layers": 2, "untied": True}, {"encoder.layer."}),
        ("tiny_t5", {"freeze_layers": 1, "pooling": "decoder"}, {"encoder.block.0."}),
        ("tiny_t5", {"freeze_layers": 2}, {"encoder.block."}),
    ],
)
def test_frozen_parameters_stay(
    base: str, values: dict[str, Any], expected: set[str], request: pytest.FixtureRequest
) -> None:
    """They get no gradient and do not change, by decay neither; all others train."""
    model = encoder(request.getfixturevalue(base), **values)
    stay = frozen(model)
    names = {name for name, _ in model.named_parameters()}
    assert stay == {name for name in names if any(f"backbone.{part}" in name for part in expected)} != set()
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    train_steps(step_of(model), 1e-2, 2)  # with AdamW's weight decay
    assert all(param.grad is None for param in model.parameters() if not param.requires_grad)
    changed = {name for name, param in model.named_parameters() if not torch.equal(param, before[name])}
    assert changed == names - stay - {name for name in names if ".pooler." in name}


@pytest.mark.parametrize("base", ["tiny_bert", "tiny_t5"])
def test_more_frozen_layers_than_there_are(base: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(InputError, match="freeze_layers is 3; it must be at most 2"):
        encoder(request.getfixturevalue(base), freeze_layers=3)


def test_a_backbone_of_one_layer_can_be_frozen(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copied(tiny_bert, tmp_path / "one", num_hidden_layers=1)
    stay = frozen(encoder(folder, freeze_layers=1))
    assert stay and all("encoder.layer.0." in name for name in stay)
    with pytest.raises(InputError, match="freeze_layers is 2; it must be at most 1"):
        encoder(folder, freeze_layers=2)


def test_weights_that_are_not_finite_are_refused_by_name(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_bert, folder)
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][3, 4] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"encoder\.layer\.1\.output\.dense\.weight contains infinite numbers or NaN"):
        encoder(folder)


def test_what_the_base_says_cannot_be_contradicted(tiny_bert: Path, tmp_path: Path) -> None:
    encoder(tiny_bert, head=8).save(tmp_path / "base")
    with pytest.raises(InputError, match="pooling is first, but the base model .* has mean; leave pooling out"):
        encoder(tmp_path / "base", pooling="first")
    with pytest.raises(InputError, match="head is 4, but the base model .* has 8; leave head out"):
        encoder(tmp_path / "base", pooling=None, head=4)
    assert encoder(tmp_path / "base", pooling="mean", head=8).config.head == 8  # the same is no contradiction


def test_a_base_may_gain_a_head_and_normalisation(tiny_bert: Path, tmp_path: Path) -> None:
    encoder(tiny_bert).save(tmp_path / "base")
    made = encoder(tmp_path / "base", pooling=None, head=8, normalize=True).config
    assert (made.pooling, made.head, made.normalize) == ("mean", 8, True)


def test_a_plain_base_must_be_told_its_pooling(tiny_bert: Path) -> None:
    with pytest.raises(InputError, match="does not record how to pool"):
        encoder(tiny_bert, pooling=None)
    with pytest.raises(InputError, match="pooling 'decoder' needs a T5 model, but this is 'bert'"):
        encoder(tiny_bert, pooling="decoder")


@pytest.mark.parametrize(("base", "pooling"), [("tiny_bert", "mean"), ("tiny_t5", "decoder")])
def test_dropout_is_what_is_said(base: str, pooling: str, request: pytest.FixtureRequest) -> None:
    """0: training mode computes what evaluation mode does; negative: the model's own; more: more noise."""
    folder = request.getfixturevalue(base)

    def noise(dropout: float) -> float:
        model = encoder(folder, dropout=dropout, pooling=pooling)
        texts = model.tokenize_passages(PASSAGES[:8])
        with torch.no_grad():
            torch.manual_seed(0)
            noisy = model(texts)
            return float((noisy - model.eval()(texts)).norm())

    assert noise(0.0) == 0
    assert 0 < noise(0.02) < noise(-1.0) == noise(0.1) < noise(0.5)


def test_temperature_follows_normalisation() -> None:
    """What the user says, else 0.05 for vectors of length 1, 1 for others."""
    plain, unit = EncoderConfig(), EncoderConfig(normalize=True)
    assert [loss_temperature(0.0, each) for each in (plain, unit)] == [1.0, 0.05]
    assert loss_temperature(0.3, unit) == 0.3


def test_the_saved_folder_is_read_by_its_own_configuration(tiny_bert: Path, tmp_path: Path) -> None:
    model = encoder(tiny_bert)
    model.save(tmp_path / "saved")
    assert (tmp_path / "saved" / CONFIG_FILE).is_file()
    assert ModelFolder(tmp_path / "saved").config() == model.config


def test_biases_and_norms_do_not_decay(tiny_bert: Path) -> None:
    model = encoder(tiny_bert)
    matrices, vectors_ = adamw(model, SMALL.replace(weight_decay=0.5).optimiser).param_groups
    assert (matrices["weight_decay"], vectors_["weight_decay"]) == (0.5, 0.0)
    assert {param.dim() for param in matrices["params"]} == {2} and {param.dim() for param in vectors_["params"]} == {1}
    assert len(matrices["params"]) + len(vectors_["params"]) == len(model.trained_parameters())


def test_embedding_tables(tiny_bert: Path, tiny_t5: Path) -> None:
    for folder, names in (
        (tiny_bert, ["word_embeddings"]),  # positions and types are few
        (tiny_t5, ["shared"]),
    ):
        model = encoder(folder)
        tables = {id(table.weight) for table in model.large_tables()}
        found = [name.split(".")[-2] for name, param in model.trained_parameters() if id(param) in tables]
        assert sorted(found) == sorted(names)
