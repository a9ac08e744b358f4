"""Pre-training: each part's loss is its formula, parts can be switched, it resumes bit for bit, its output is plain."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from pretraining_runs import ALL_PARTS, loaded, small
from safetensors.torch import load_file
from training_runs import differing, last_checkpoint, logged, stopped_after, work_of

from taco_ir import pretrain as verb
from taco_ir.core.files import InputError
from taco_ir.core.hashes import generator
from taco_ir.core.settings import check_value
from taco_ir.data.collection import open_collection
from taco_ir.encoders.config import EncoderConfig
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.training.backward import Arithmetic, backward
from taco_ir.training.base_model import start_encoder
from taco_ir.training.data import TrainingData
from taco_ir.training.encoder import Text
from taco_ir.training.flags import PRETRAIN, SPAN_KEYS
from taco_ir.training.folder import save_settings
from taco_ir.training.objectives.contrastive import span_contrast_loss
from taco_ir.training.objectives.heads import PLACES, MaskedLanguageHead
from taco_ir.training.objectives.masking import UNLABELLED, mask_tokens
from taco_ir.training.objectives.spans import Spans, SpanTexts, read_documents, split
from taco_ir.training.pretraining_encoder import PretrainModel
from taco_ir.training.processes import Processes
from taco_ir.training.run import make_step
from taco_ir.training.run import train as pretrain
from taco_ir.training.settings import KEYS, RULES, TrainSettings

PASSAGES = [passage.text for passage in open_collection("sample").passages.at(range(6))]


def texts_of(
    model: PretrainModel, lengths: tuple[int, ...] = (20, 9, 14, 20, 5, 12), masked: bool = True
) -> list[Text]:
    """Passages cut to these lengths, between special tokens, with half of their tokens to fill in."""
    words = model.vocabulary()
    assert words.mask is not None
    found = []
    for row, (ids_L, length) in enumerate(zip(model.token_ids(PASSAGES), lengths, strict=True)):
        hidden_L, labels_L = mask_tokens(ids_L[:length], 0.5, words.mask, words.ordinary, generator(row))
        none = np.array([UNLABELLED])
        ids, labels = (hidden_L, np.concatenate([none, labels_L, none])) if masked else (ids_L[:length], None)
        found.append(Text("passage", np.concatenate([words.before, ids, words.after]), labels))
    return found


@pytest.mark.parametrize(("spans", "temperature"), [(2, 1.0), (4, 0.5), (10, 0.05)])
def test_span_contrast_is_its_formula(spans: int, temperature: float) -> None:
    """-log exp(s_ij) / sum_(l != i) exp(s_il), j the partner of i, in float64."""
    vectors = np.random.default_rng(spans).normal(size=(spans, 5)) / 3
    scores = vectors @ vectors.T / temperature
    expected = np.mean(
        [
            -scores[i, i ^ 1] + math.log(sum(math.exp(scores[i, other]) for other in range(spans) if other != i))
            for i in range(spans)
        ]
    )
    assert float(span_contrast_loss(torch.tensor(vectors), temperature)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_partners_attract_and_others_repel() -> None:
    spans = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = span_contrast_loss(spans)
    before.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        moved = spans - 0.1 * spans.grad  # type: ignore[operator]
        scores, after = spans @ spans.T, moved @ moved.T
    assert span_contrast_loss(moved) < before
    gained = after - scores
    assert gained[range(6), [1, 0, 3, 2, 5, 4]].mean() > gained[~torch.eye(6, dtype=torch.bool)].mean()


def test_mlm_is_transformers_own_loss(tiny_mlm: Path) -> None:
    """The head is the checkpoint's; the loss, in float64, that of BertForMaskedLM."""
    from transformers import BertForMaskedLM

    model = loaded(tiny_mlm, objective=("mlm",))
    texts = texts_of(model)
    with torch.no_grad():
        found = model.losses(model(texts), texts)
        theirs = BertForMaskedLM.from_pretrained(tiny_mlm).double().eval()
        sums, tokens = 0.0, 0
        for text in texts:
            assert text.labels is not None
            count = int((text.labels != UNLABELLED).sum())
            loss = theirs(input_ids=torch.tensor(text.ids[None]), labels=torch.tensor(text.labels[None])).loss
            sums, tokens = sums + float(loss) * count, tokens + count
    assert model.head_from == "BERT"
    assert list(found) == ["mlm"]
    assert float(found["mlm"]) == pytest.approx(sums / tokens, rel=1e-10)


def test_the_head_is_tied_to_the_word_embeddings(tiny_mlm: Path) -> None:
    """A token that no text holds gets a gradient, since it could have been filled in."""
    model = loaded(tiny_mlm, objective=("mlm",))
    texts = texts_of(model)
    sum(model.losses(model(texts), texts).values()).backward()  # type: ignore[union-attr]
    grad = model.backbone("passage").get_input_embeddings().weight.grad
    absent = sorted(set(model.vocabulary().ordinary.tolist()) - {int(number) for text in texts for number in text.ids})
    assert (grad[absent].abs().sum(1) > 0).all()
    assert not any(".decoder" in name for name, _ in model.named_parameters())


def test_condenser_is_two_bert_layers_over_late_and_middle_states(tiny_mlm: Path) -> None:
    """Against transformers' BertLayer with the same weights and the definition of Condenser, in float64."""
    from transformers.models.bert.modeling_bert import BertLayer

    model = loaded(tiny_mlm, objective=("condenser",))
    config = model.backbone("passage").config
    config._attn_implementation = "eager"
    texts = texts_of(model, (20,) * 6)
    ids = torch.tensor(np.stack([text.ids for text in texts]))
    labels = torch.tensor(np.stack([text.labels for text in texts]))
    with torch.no_grad():
        output = model.backbone("passage")(input_ids=ids, output_hidden_states=True)
        middle = output.hidden_states[config.num_hidden_layers // 2]
        states = torch.cat([output.last_hidden_state[:, :1], middle[:, 1:]], 1)
        for ours in model.condenser.layers:
            theirs = BertLayer(config).double().eval()
            query, key, value = ours.self_attn.in_proj_weight.chunk(3)
            biases = ours.self_attn.in_proj_bias.chunk(3)
            own = theirs.attention.self
            for linear, weight, bias in zip((own.query, own.key, own.value), (query, key, value), biases, strict=True):
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
            theirs.attention.output.dense.load_state_dict(ours.self_attn.out_proj.state_dict())
            theirs.attention.output.LayerNorm.load_state_dict(ours.norm1.state_dict())
            theirs.intermediate.dense.load_state_dict(ours.linear1.state_dict())
            theirs.output.dense.load_state_dict(ours.linear2.state_dict())
            theirs.output.LayerNorm.load_state_dict(ours.norm2.state_dict())
            found = theirs(states)
            states = found[0] if isinstance(found, tuple) else found
        place = labels != UNLABELLED
        hidden = model.mlm.norm(torch.nn.functional.gelu(model.mlm.dense(states[place])))
        scores = hidden @ model.backbone("passage").get_input_embeddings().weight.T + model.mlm.bias
        expected = torch.nn.functional.cross_entropy(scores, labels[place])
        assert float(model.losses(model(texts), texts)["condenser"]) == pytest.approx(float(expected), rel=1e-8)


def test_condensers_gradient_reaches_the_backbone_through_the_first_token_alone(tiny_mlm: Path) -> None:
    model = loaded(tiny_mlm, objective=("condenser",))
    texts = texts_of(model)
    last: list[torch.Tensor] = []
    model.backbone("passage").encoder.layer[-1].register_forward_hook(lambda _, __, output: last.append(output))
    rows = model(texts)
    states = last[0][0] if isinstance(last[0], tuple) else last[0]
    (grad,) = torch.autograd.grad(model.losses(rows, texts)["condenser"], states)
    assert grad[:, 0].abs().sum() > 0 and grad[:, 1:].abs().sum() == 0


def test_a_row_depends_on_its_text_alone(tiny_mlm: Path) -> None:
    """Neither padding nor what else is in the batch matters; a text without labels costs nothing."""
    model = loaded(tiny_mlm)
    texts = [*texts_of(model)[:5], texts_of(model, masked=False)[5]]
    with torch.no_grad():
        together = model(texts)
        torch.testing.assert_close(together, torch.cat([model([text]) for text in texts]), rtol=1e-9, atol=1e-9)
    assert together.shape == (6, model.dim) and model.dim == 32 + 2
    assert (together[5, 32:] == 0).all() and (together[:5, 32:] > 0).all()


@pytest.mark.parametrize("parts", [ALL_PARTS, ("mlm",), ("span_contrast",)])
def test_gradcache_changes_no_gradient(tiny_mlm: Path, parts: tuple[str, ...]) -> None:
    model = loaded(tiny_mlm, objective=parts).float()
    texts = texts_of(model, masked="mlm" in parts)
    found = []
    for chunk in (0, 2):
        model.zero_grad()
        loss = backward(
            model,
            texts,
            lambda rows: torch.stack(list(model.losses(rows, texts).values())).sum(),
            Arithmetic(False, chunk),
            (0,),
        )
        found.append(
            (float(loss), {name: param.grad for name, param in model.named_parameters() if param.grad is not None})
        )
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for name, grad in found[0][1].items():
        torch.testing.assert_close(grad, found[1][1][name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("parts", [("mlm",), ("span_contrast",), ("condenser",), ("mlm", "span_contrast"), ALL_PARTS])
def test_each_part_can_be_switched(parts: tuple[str, ...], tiny_mlm: Path, tmp_path: Path) -> None:
    """Parts that are on are logged; parts that are off leave no tensor; Condenser's layers are never in the model."""
    model = pretrain(small(tiny_mlm, tmp_path / "run", objective=parts, steps=2))
    heads = {path.stem for path in (last_checkpoint(tmp_path / "run") / "model").glob("*.safetensors")} - {"model"}
    masked = set(parts) & {"mlm", "condenser"}
    assert heads == {*(["mlm_head"] if masked else []), *(["condenser"] if "condenser" in parts else [])}
    assert {path.stem for path in model.glob("*.safetensors")} == {"model", *(["mlm_head"] if masked else [])}
    base = {
        name.removeprefix("bert.") for name in load_file(tiny_mlm / "model.safetensors") if name.startswith("bert.")
    }
    assert {name for name in load_file(model / "model.safetensors") if "pooler" not in name} == base
    assert all(set(line.get("loss") or line["validation"]) == set(parts) for line in logged(tmp_path / "run"))
    before, after = load_file(tiny_mlm / "model.safetensors"), load_file(model / "model.safetensors")
    changed = {name for name in base if not torch.equal(before[f"bert.{name}"], after[name])}
    frozen = {name for name in base - changed if parts != ("condenser",) or "layer.1" not in name}
    assert not frozen, f"{frozen} of the backbone are as before"


@pytest.mark.parametrize(("parts", "pooling"), [(("mlm", "span_contrast"), "mean"), (("mlm", "condenser"), "first")])
def test_the_held_out_loss_of_every_part_falls(
    tiny_mlm: Path, tmp_path: Path, parts: tuple[str, ...], pooling: str
) -> None:
    changes = {"steps": 40, "batch_size": 16, "validate_every": 40, "learning_rate": 1e-2, "length": 64}
    pretrain(small(tiny_mlm, tmp_path / "run", objective=parts, pooling=pooling, normalize=True, **changes))
    measured = [line["validation"] for line in logged(tmp_path / "run") if "validation" in line]
    assert len(measured) == 2
    assert all(measured[1][part] < 0.95 * measured[0][part] for part in parts), measured


@pytest.mark.parametrize(
    "changes",
    [{}, {"objective": ("span_contrast",), "span_from": "page", "gradcache": 4}, {"objective": ("mlm",), "steps": 5}],
)
def test_a_stopped_run_goes_on_bit_for_bit(changes: dict[str, object], tiny_mlm: Path, tmp_path: Path) -> None:
    """Dropout, masks, spans, order, schedule and optimiser are as without a stop; another seed gives another model."""
    whole, parts = (small(tiny_mlm, tmp_path / name / "run", **changes) for name in ("whole", "parts"))
    pretrain(whole)
    for step in (1, 3):
        with stopped_after(step):
            pretrain(parts)
    pretrain(parts)
    found, expected = Path(parts.run.output), Path(whole.run.output)
    assert differing(found, expected) == ["config.json"]  # it names its folder
    assert logged(found) == logged(expected) and (found / "curves.html").is_file()
    other = pretrain(whole.replace(seed=1, output=str(tmp_path / "other"))) / "model.safetensors"
    own = expected / "model" / "model.safetensors"
    assert load_file(other).keys() == load_file(own).keys() and other.read_bytes() != own.read_bytes()


@pytest.mark.parametrize(
    ("changes", "tolerance"), [({"gradient_checkpointing": True}, 1e-6), ({"precision": "bf16"}, 0.02)]
)
def test_arithmetic_changes_hardly_a_loss(
    changes: dict[str, object], tolerance: float, tiny_mlm: Path, tmp_path: Path
) -> None:
    for name, more in (("plain", {}), ("other", changes)):
        pretrain(small(tiny_mlm, tmp_path / name, steps=2, dropout=0.0, **more))
    plain, other = (logged(tmp_path / name) for name in ("plain", "other"))
    assert len(plain) == len(other) == 4
    for expected, found in zip(plain, other, strict=True):
        kind = "validation" if "validation" in expected else "loss"
        assert found[kind] == pytest.approx(expected[kind], rel=tolerance)


def test_the_output_is_a_plain_model(tiny_mlm: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = pretrain(small(tiny_mlm, tmp_path / "run", steps=2))
    assert not (folder / "taco_ir.json").exists()
    theirs, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    encoder = load_encoder(str(folder), pooling="first")
    passage = next(open_collection("sample").passages.at([0]))
    tokens = AutoTokenizer.from_pretrained(folder)(
        encoder.config.passage_text(passage), return_tensors="pt", truncation=True
    )
    with torch.no_grad():
        expected = theirs.eval()(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state[0, 0]
    assert np.allclose(encoder.encode_passages([passage])[0], expected.numpy(), atol=1e-5)
    trainable = TrainSettings(model=str(folder), pooling="first", passage_length=40, query_length=24)
    assert start_encoder(trainable, folder, ["nq"]).config.pooling == "first"
    again = start_encoder(small(folder, tmp_path / "again"), folder, ())
    assert isinstance(again, PretrainModel) and again.head_from == "own"
    assert all(
        torch.equal(value, again.mlm.state_dict()[name])
        for name, value in load_file(folder / "mlm_head.safetensors").items()
    )


def backbones(vocabulary: int) -> dict[str, Any]:
    """A small model with a head of each kind, with random weights."""
    import transformers

    torch.manual_seed(0)
    width = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    width["vocab_size"] = vocabulary
    distil = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16, "vocab_size": vocabulary}
    return {
        "BERT": transformers.BertForMaskedLM(transformers.BertConfig(**width)),
        "RoBERTa": transformers.RobertaForMaskedLM(transformers.RobertaConfig(**width)),
        "DistilBERT": transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**distil)),
        "ELECTRA": transformers.ElectraForMaskedLM(transformers.ElectraConfig(**width, embedding_size=8)),
        "ALBERT": transformers.AlbertForMaskedLM(transformers.AlbertConfig(**width, embedding_size=8)),
    }


def test_all_parts_reach_every_layer_of_other_backbones(tiny_mlm: Path, tmp_path: Path) -> None:
    for kind, model in backbones(len(json.loads((tiny_mlm / "tokenizer.json").read_text())["model"]["vocab"])).items():
        model.save_pretrained(tmp_path / kind)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_mlm / name, tmp_path / kind)
        ours = loaded(tmp_path / kind)
        assert ours.head_from == kind
        texts = texts_of(ours)
        losses = ours.losses(ours(texts), texts)
        assert list(losses) == list(ALL_PARTS)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        without = [name for name, param in ours.trained_parameters() if param.grad is None]
        assert not without, f"{kind}: no gradient for {without}"


def test_heads_of_other_backbones_are_found(tmp_path: Path) -> None:
    """The tensors' names that transformers writes, for each kind of model; the first BERT's spelling too."""
    from safetensors.torch import save_file

    models = backbones(50)
    assert models.keys() == PLACES.keys()
    for kind, model in models.items():
        model.save_pretrained(tmp_path / kind)
        head = MaskedLanguageHead(16, model.get_input_embeddings().weight.detach(), 1e-12, 0.02)
        assert head.load(tmp_path / kind) == kind
        dense, norm, _ = PLACES[kind]
        state = model.state_dict()
        assert torch.equal(head.dense.weight, state[f"{dense}.weight"]) and torch.equal(
            head.norm.bias, state[f"{norm}.bias"]
        )
    tensors = load_file(tmp_path / "BERT" / "model.safetensors")
    (tmp_path / "old").mkdir()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensors[name]
        for name in tensors
    }
    save_file(old, tmp_path / "old" / "model.safetensors")
    head = MaskedLanguageHead(16, models["BERT"].get_input_embeddings().weight.detach(), 1e-12, 0.02)
    assert head.load(tmp_path / "old") == "BERT"
    with pytest.raises(InputError, match="tensor dense.weight is .*, but this model needs"):
        MaskedLanguageHead(12, torch.zeros(50, 12), 1e-12, 0.02).load(tmp_path / "BERT")


def test_t5_is_pretrained_with_its_sentinel(tmp_path: Path) -> None:
    """The decoder learns where it pools, and by span_contrast alone."""
    folder = pretrain(
        small(t5(tmp_path), tmp_path / "run", objective=("mlm", "span_contrast"), pooling="decoder", steps=2)
    )
    assert load_encoder(str(folder), pooling="decoder").dim == 16
    assert set(logged(tmp_path / "run")[-1]["validation"]) == {"mlm", "span_contrast"}


def t5(tmp_path: Path) -> Path:
    from conftest import tiny_tokenizer
    from transformers import T5Config, T5Model

    folder = tmp_path / "t5"
    vocabulary = tiny_tokenizer(folder, ("$A </s>", ["</s>"]), "<extra_id_0>")
    config = T5Config(vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    config.decoder_start_token_id = 0
    T5Model(config).save_pretrained(folder)
    return folder


def test_a_step_that_is_not_finite_changes_nothing(tiny_mlm: Path, tmp_path: Path) -> None:
    config = small(tiny_mlm, tmp_path)
    model, _ = ready(tiny_mlm, tmp_path)
    data = cast(
        "TrainingData", SimpleNamespace(collection=open_collection("sample"), processes=Processes(torch.device("cpu")))
    )
    step, _ = make_step(config, model, Spans.of(work_of(config, model, data)))
    losses = model.losses
    model.losses = lambda *given: {
        part: loss * (math.nan if part == "mlm" else 1) for part, loss in losses(*given).items()
    }  # type: ignore[method-assign]
    found = step(0, 0.0)
    assert found.report is None and found.not_finite == ["mlm"]
    assert all(param.grad is None for param in step.params)
    model.losses = losses  # type: ignore[method-assign]
    assert step(0, 0.0).report is not None


def test_the_announced_memory_is_that_of_a_batch_of_spans(tiny_mlm: Path, tmp_path: Path) -> None:
    model, _ = ready(tiny_mlm, tmp_path)
    there = SimpleNamespace(collection=open_collection("sample"), processes=Processes(torch.device("cpu")))

    def announced(**changes: Any) -> float:
        (task,) = Spans.of(work_of(small(tiny_mlm, tmp_path, **changes), model, cast("TrainingData", there)))
        return task.activation_bytes(1000.0)

    assert announced(batch_size=16) == announced(length=48) == 2 * announced()
    assert announced(gradcache=4) == announced() / 4 and announced(gradcache=99) == announced()


def test_ten_steps_in_a_row_that_are_not_finite_stop_the_run(tiny_mlm: Path, tmp_path: Path) -> None:
    config = small(tiny_mlm, tmp_path / "run", learning_rate=1e30, warmup=0.0, clip=0.0, steps=20, held_out=0)
    with pytest.raises(InputError, match="the gradients of 10 steps in a row were infinite or NaN"):
        pretrain(config)
    skipped = [line["step"] for line in logged(tmp_path / "run") if "skipped" in line]
    assert skipped == list(range(skipped[0], skipped[0] + len(skipped))) and len(skipped) in (9, 10)


def ready(model_folder: Path, tmp_path: Path) -> tuple[PretrainModel, SpanTexts]:
    config = small(model_folder, tmp_path)
    model = start_encoder(config, model_folder, ())
    assert isinstance(model, PretrainModel)
    documents = read_documents(config.objectives, config.run, 8, 12, open_collection("sample"), model)
    return model, SpanTexts(config.objectives, config.run.seed, documents, model)


def test_texts_depend_on_seed_document_and_epoch_alone(tiny_mlm: Path, tmp_path: Path) -> None:
    model, spans = ready(tiny_mlm, tmp_path)
    words = model.vocabulary()

    def seen(document: int, epoch: int) -> list[list[int]]:
        return [text.ids.tolist() for text in spans.texts(document, epoch)]

    assert seen(3, 0) == seen(3, 0) != seen(3, 1)
    for document in range(20):
        for text in spans.texts(document, 0):
            assert text.labels is not None and len(text.labels) == len(text.ids) <= 24
            assert text.ids[0] == words.before[0] and text.ids[-1] == words.after[0]
            assert text.labels[0] == text.labels[-1] == UNLABELLED


def test_what_is_held_out_is_never_trained_on() -> None:
    trained, held_out = split(12, 0, 100)
    assert len(held_out) == 12 and sorted([*trained, *held_out]) == list(range(100))
    assert split(12, 1, 100)[1].tolist() != held_out.tolist()


def test_what_pre_training_says_otherwise_is_said_of_its_keys() -> None:
    assert PRETRAIN.help.keys() <= set(PRETRAIN.keys) and set(SPAN_KEYS) < set(PRETRAIN.keys) <= KEYS.keys()
    for key, default in PRETRAIN.defaults.items():
        assert check_value(key, default, *RULES[key]) == default


def test_the_verb_trains_what_it_says(tiny_mlm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text(
        "length = 24\nbatch_size = 8\nheld_out = 4\nsteps = 50\npooling = 'mean'\n", encoding="utf-8"
    )
    output, model = tmp_path / "run", tmp_path / "run" / "model"
    given = f"--config {tmp_path / 'run.toml'} --objective span_contrast,mlm --model {tiny_mlm} --output {output}"
    verb.main([*given.split(), "--steps", "2", "--max-passages", "100"])
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{model}\nnext: python -m taco_ir.train --model {model} --pooling mean")
    assert "100 passages" in printed.err and "pretrain: 2 of 2 steps" in printed.err
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["objective"] == ["mlm", "span_contrast"] and saved["steps"] == 2 and saved["length"] == 24
    verb.main([*given.split(), "--steps", "2", "--max-passages", "100"])
    assert "steps of" not in capsys.readouterr().err, "a finished run was run again"


BAD_FLAGS = {
    "--objective mlm,span_contrst": "--objective: 'span_contrst' is unknown; did you mean span_contrast?",
    "--objective nothing": "--objective: 'nothing' is unknown; valid: mlm, span_contrast, condenser, none",
    "--objective mlm --span-from page": "--span-from has an effect only with objective span_contrast",
    "--span-from passages": "--span-from is 'passages'; it must be one of passage, page (did you mean passage?)",
    "--length 15": "--length is 15; it must be a whole number, at least 16",
    "--mask-share 0.9": "--mask-share is 0.9; it must be a number, at most 0.5, above 0",
    "--batch-size 1": "batch_size is 1; it must be a whole number, at least 2",
    "--model=": "--model is needed",
    "--config missing.toml": "--config missing.toml: no such file",
}


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_bad_flags(flags: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        verb.main(["--model", "m", "--output", str(tmp_path / "run"), *flags.split()])
    assert str(caught.value).startswith(BAD_FLAGS[flags]) and "\n" not in str(caught.value)


def test_a_training_key_in_a_file_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("tasks = ['nq']\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"run.toml: unknown key 'tasks'"):
        verb.main(["--config", str(tmp_path / "run.toml"), "--model", "m", "--output", "o"])


def refused(config: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pretrain(config)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_models_that_do_not_fit(tiny_bert: Path, tiny_mlm: Path, tmp_path: Path) -> None:
    refused(
        small(t5(tmp_path), tmp_path / "a"), "--objective condenser: .* is a t5 model, but condenser needs a model like"
    )
    refused(small(tiny_bert, tmp_path / "b"), r"need a tokenizer with one of \[MASK\], <mask>, <extra_id_0>")
    refused(small(tiny_mlm, tmp_path / "c", length=129), r"--length is 129; .* takes 16 to 128 tokens")
    refused(small(tiny_mlm, tmp_path / "d", pooling=None), "does not record how to pool token vectors; give --pooling")
    refused(
        small(tiny_mlm, tmp_path / "f", pooling="mean"),
        "--objective condenser trains the first token's vector to summarise .* leave condenser out, or",
    )
    assert start_encoder(small(tiny_mlm, tmp_path / "g", pooling="mean", objective=("mlm",)), tiny_mlm, ()).dim == 1
    shutil.copytree(tiny_mlm, tmp_path / "mean")
    EncoderConfig("mean", query_length=32, passage_length=128).save(tmp_path / "mean")
    refused(small(tmp_path / "mean", tmp_path / "h", pooling=None), "uses pooling mean")
    for tower in ("query", "passage"):
        (tmp_path / "untied" / tower).mkdir(parents=True)
    refused(small(tmp_path / "untied", tmp_path / "e"), "two towers, but pre-training needs a single backbone")
    assert not any((tmp_path / name / "config.json").exists() for name in "abcdefh"), "what was refused is not begun"


def test_without_contrast_no_pooling_is_needed(tiny_mlm: Path, tmp_path: Path) -> None:
    config = small(tiny_mlm, tmp_path, pooling=None, objective=("mlm", "condenser"))
    assert start_encoder(config, tiny_mlm, ()).dim == 2


def test_documents_that_are_too_short(tiny_mlm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    folder.mkdir()
    passages = [
        {"id": f"{page}#{i}", "contents": "a" + " it" * (7 * i), "title": "t", "wikipedia_id": str(page)}
        for page in range(9)
        for i in range(3)
    ]
    (folder / "passages.jsonl").write_text(
        "".join(json.dumps(passage) + "\n" for passage in passages), encoding="utf-8"
    )
    words = (
        r"0 passages to take spans from \(passages of fewer than 16 tokens are left out\);"
        " --batch-size 8 and --held-out 12 need 20"
    )
    refused(small(tiny_mlm, tmp_path / "run", collection=str(folder)), words)
    refused(
        small(tiny_mlm, tmp_path / "run", collection=str(folder), span_from="page"),
        "9 pages to take spans from .*, and pages with one passage,",
    )


def test_folders_of_other_runs(tiny_mlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tiny_mlm, tmp_path / "run")
    with stopped_after(1):
        pretrain(config)
    refused(
        config.replace(objective=("mlm",), seed=3),
        "other settings: seed was 0, is 3, objective was .*, is .*; use the same settings",
    )
    other = tmp_path / "training"
    other.mkdir()
    save_settings(TrainSettings(model="m", output="o"), other)
    (other / "log.jsonl").write_text('{"learning_rate": 1}')
    refused(small(tiny_mlm, other), r"is a training with other settings: tasks was \('all',\), is \('none',\)")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    refused(small(tiny_mlm, tmp_path / "notes"), "notes exists and is not a training; give another folder")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(small(tiny_mlm, tmp_path / "two"), "pre-training runs in one process")
