"""Marks of roles: they change vectors, are kept in the checkpoint, and are refused where a backbone has none."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from backbones import BACKBONES, IDS_BL, MASK_BL, SIZES, backbone
from conftest import tiny_tokenizer
from small_steps import PASSAGES, SMALL, assert_near, encoder, gradient, gradients, step_of
from tokenizers import Tokenizer
from transformers import MPNetConfig, MPNetModel
from weighting_steps import TRAINED

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.hashes import fingerprint
from taco_ir.encoders.config import ROLE_MARKS, EncoderConfig, Role
from taco_ir.encoders.exports import write_sentence_transformers
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.pooling import embed
from taco_ir.encoders.role_marks import ADAPTER_MARKS, ADAPTER_NAMES, ROLE_FILE, RoleMarks, new_learned
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.reading.reader import InputBuilder, ReaderConfig, compute_logits, new_head
from taco_ir.training.backward import Arithmetic, backward
from taco_ir.training.base_model import start_encoder
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.loop import adamw
from taco_ir.training.settings import TrainSettings

MARKED = [kind for kind in ROLE_MARKS if kind != "none"]
LEARNED = ("embedding", *ADAPTER_MARKS)
TEXTS = ["the king of the sea", "a year", "who was it that came first"]


@pytest.fixture(scope="module")
def reserved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT whose vocabulary has reserved tokens, with weights so large that marks show."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "reserved"
    vocabulary = tiny_tokenizer(folder, ("[CLS] $A [SEP]", ["[CLS]", "[SEP]"]), "[unused1]", "[unused2]", "[unused3]")
    torch.manual_seed(1)
    shape = SIZES | {"vocab_size": vocabulary, "max_position_embeddings": 64}
    BertModel(BertConfig(initializer_range=0.2, **shape)).save_pretrained(folder)
    return folder


def moved(model: DualEncoder) -> DualEncoder:
    """With other numbers for learned marks, as after a training: adapters begin with zeros."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if ".roles." in name:
                param.add_(torch.randn(param.shape, generator=generator), alpha=0.2)
    return model


@pytest.mark.parametrize("kind", MARKED)
def test_a_mark_changes_vectors_by_role_and_survives_the_checkpoint(kind: str, reserved: Path, tmp_path: Path) -> None:
    """A text as a query and as a passage: the same vector only unmarked; the loaded folder encodes as the model did."""
    for marks, equal in (("none", True), (kind, False)):
        config = SMALL.replace(roles=marks, prompts=False, query_length=24, passage_template="{text}{title}")
        model = moved(start_encoder(config, reserved, ["nq"]))
        model.save(tmp_path / marks)
        loaded = load_encoder(str(tmp_path / marks))
        assert loaded.config.roles == marks and (tmp_path / marks / ROLE_FILE).exists() == (marks in LEARNED)
        passages = [PASSAGES[0]._replace(title="", text=text) for text in TEXTS]
        queries_BD, passages_BD = loaded.encode_queries(TEXTS, None), loaded.encode_passages(passages)
        assert np.allclose(queries_BD, passages_BD, atol=1e-5) == equal
        live = model.as_text_encoder()
        assert np.allclose(live.encode_queries(TEXTS, None), queries_BD, atol=1e-6)
        with torch.no_grad():
            texts = [*model.tokenize_queries(TEXTS, "nq"), *model.tokenize_passages(passages)]
            passes = [texts[:3], texts[3:]] if marks in ADAPTER_MARKS else [texts]  # others read both roles in one pass
            found_BD = torch.cat([model(each) for each in passes]).numpy()
            assert np.allclose(found_BD, np.concatenate([queries_BD, passages_BD]), atol=1e-5)
    plain, marked = (load_encoder(str(tmp_path / name)) for name in ("none", kind))
    assert plain.fingerprint != marked.fingerprint and plain.passage_fingerprint != marked.passage_fingerprint


def test_without_marks_the_fingerprint_is_as_before_marks(reserved: Path, tmp_path: Path) -> None:
    model = start_encoder(SMALL, reserved, ["nq"])
    model.save(tmp_path / "m")
    values = json.loads((tmp_path / "m" / "taco_ir.json").read_text())
    assert values.pop("roles") == "none"
    expected = fingerprint([ModelFolder(tmp_path / "m").fingerprint, values, "float32"])
    assert load_encoder(str(tmp_path / "m")).fingerprint == expected


def test_every_vector_of_a_role_that_is_read_gets_a_gradient(reserved: Path) -> None:
    model = encoder(reserved, roles="embedding")
    step = step_of(model)
    gradient(step.objectives[0], 0)
    found = dict(zip([name for name, _ in model.trained_parameters()], gradients(model), strict=True))
    (rows_3E,) = (grad for name, grad in found.items() if "roles" in name)
    assert rows_3E[Role.QUERY].any() and rows_3E[Role.PASSAGE].any() and not rows_3E[Role.READER].any()


@pytest.mark.parametrize("kind", ADAPTER_MARKS)
@pytest.mark.parametrize("arithmetic", [Arithmetic(), Arithmetic(gradcache=2)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_role_trains_its_own_adapter_and_all_of_them_the_backbone(
    kind: str, arithmetic: Arithmetic, checkpointing: bool, reserved: Path
) -> None:
    """Texts of both roles in one batch have the same vectors and gradients as each in a pass of its own."""
    model = moved(encoder(reserved, roles=kind, gradient_checkpointing=checkpointing))
    pairs = zip(model.tokenize_queries(TEXTS, "nq"), model.tokenize_passages(PASSAGES[:3]), strict=True)
    texts = [text for pair in pairs for text in pair]
    weights_ND = torch.randn(6, model.dim, generator=torch.Generator().manual_seed(4))
    loss = float(backward(model, texts, lambda vectors_ND: (vectors_ND * weights_ND).sum(), arithmetic, (0,)))
    names, found = [name for name, _ in model.trained_parameters()], gradients(model)
    plain = moved(encoder(reserved, roles=kind))
    expected = sum((plain([text]) * weights_D).sum() for text, weights_D in zip(texts, weights_ND, strict=True))
    assert isinstance(expected, torch.Tensor) and loss == pytest.approx(float(expected.detach()), rel=1e-5)
    expected.backward()  # type: ignore[no-untyped-call]
    assert_near(found, gradients(plain), 1e-5)
    moving = [name for name, grad in zip(names, found, strict=True) if ".roles." in name and grad.any()]
    assert {name.split(".sets.")[1].split(".")[0] for name in moving} == {"queries", "passages"}
    assert sum(".roles." in name for name in names) % 3 == 0
    assert found[names.index("towers.passage.backbone.encoder.layer.0.attention.self.value.weight")].any()


@pytest.mark.parametrize("weighting", TRAINED)
def test_an_adapter_without_gradient_does_not_harm_any_weighting(weighting: str, reserved: Path) -> None:
    """Without a reading task, the reader's adapter has no gradient of any task, and stays as it is."""
    model = encoder(reserved, roles="adapter")
    step, optimizer = step_of(model, weighting), adamw(model, SMALL.optimiser)
    before = {name: param.detach().clone() for name, param in model.trained_parameters()}
    for number in range(2):
        assert step(number, number / 2).report is not None
        optimizer.step()
        optimizer.zero_grad()
    found = {
        of: [torch.equal(param, before[name]) for name, param in model.trained_parameters() if f".sets.{of}." in name]
        for of in ADAPTER_NAMES.values()
    }
    assert all(found["reader"]) and not any(found["queries"] + found["passages"])


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("marks", ADAPTER_MARKS)
def test_adapters_of_roles_work_on_any_backbone(kind: str, marks: str, reserved: Path) -> None:
    """Three roles have three results, always the same for each, and none of them the backbone's alone."""
    model = backbone(kind)
    config = EncoderConfig("decoder" if kind == "t5" else "mean")
    with torch.no_grad():
        bare_BD = embed(model, config, IDS_BL, MASK_BL)
        learned = new_learned(marks, model)
        assert learned is not None and all(param.requires_grad for param in model.parameters())
        for number, param in enumerate(learned.parameters()):
            param.add_(torch.randn(param.shape, generator=torch.Generator().manual_seed(number)), alpha=0.3)
        of = RoleMarks(marks, model, Tokenizer.from_file(str(reserved / "tokenizer.json")), learned.eval())
        found = [
            embed(model, config, IDS_BL, MASK_BL, **of.inputs(IDS_BL, torch.tensor([[role], [role]])))
            for role in (Role.QUERY, Role.PASSAGE, Role.READER, Role.QUERY)
        ]
    assert torch.equal(found[0], found[3])
    assert min(float((a - b).abs().max()) for a, b in combinations([bare_BD, *found[:3]], 2)) > 1e-3


@pytest.mark.parametrize("kind", BACKBONES)
def test_vectors_are_added_to_the_embeddings_of_any_backbone(kind: str, reserved: Path) -> None:
    """Vectors of zeros change nothing; others change the result of the texts of that role only."""
    model = backbone(kind)
    config = EncoderConfig("decoder" if kind == "t5" else "mean")
    vectors = cast("torch.nn.Embedding", new_learned("embedding", model))
    marks = RoleMarks("embedding", model, Tokenizer.from_file(str(reserved / "tokenizer.json")), vectors)
    role_B1 = torch.tensor([[Role.QUERY], [Role.READER]])
    with torch.no_grad():
        bare_BD = embed(model, config, IDS_BL, MASK_BL)
        vectors.weight.zero_()
        zero_BD = embed(model, config, IDS_BL, MASK_BL, **marks.inputs(IDS_BL, role_B1))
        assert torch.allclose(zero_BD, bare_BD, atol=1e-6)
        vectors.weight[Role.READER] = 1.0 + torch.arange(vectors.embedding_dim)
        marked_BD = embed(model, config, IDS_BL, MASK_BL, **marks.inputs(IDS_BL, role_B1))
    assert torch.allclose(marked_BD[0], bare_BD[0], atol=1e-6)
    assert not torch.allclose(marked_BD[1], bare_BD[1], atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "said"), [("roberta", "one token type"), ("distilbert", "no token types"), ("t5", "no token types")]
)
def test_a_backbone_without_token_types_is_refused(kind: str, said: str, reserved: Path) -> None:
    model = backbone(kind)
    if kind == "roberta":
        model.config.type_vocab_size = 1  # as those that were trained
    with pytest.raises(InputError, match=rf"roles is token_type; a {kind} model has {said}, but 2 are needed"):
        RoleMarks("token_type", model, Tokenizer.from_file(str(reserved / "tokenizer.json")))


def test_a_marker_is_behind_the_first_token_and_counts(reserved: Path) -> None:
    model = encoder(reserved, roles="marker")
    tokenizer = Tokenizer.from_file(str(reserved / "tokenizer.json"))
    for role, name, (text,), most in (
        (Role.QUERY, "[unused1]", model.tokenize_queries(["word " * 50], "nq"), model.config.max_query_tokens("nq")),
        (Role.PASSAGE, "[unused2]", model.tokenize_passages([PASSAGES[0]]), model.config.passage_length),
    ):
        first, second = map(tokenizer.token_to_id, ("[CLS]", name))
        assert (text.role, text.ids[0], text.ids[1], len(text.ids)) == (role, first, second, most)


@pytest.mark.parametrize("kind", MARKED)
def test_a_reader_is_marked_too(kind: str, reserved: Path) -> None:
    """A reader's inputs have a vector or token of their own, or two token types; their logits differ from unmarked."""
    model = moved(encoder(reserved, roles=kind)).eval()
    tokenizer = Tokenizer.from_file(str(reserved / "tokenizer.json"))
    backbone, learned = model.backbone("passage"), dict(model.towers["passage"].items()).get("roles")  # type: ignore[operator]
    marks = RoleMarks(kind, backbone, tokenizer, learned)
    inputs = InputBuilder(tokenizer, ReaderConfig(12, 24), marks.marker(Role.READER))("who came first", PASSAGES[:2])
    bare = InputBuilder(tokenizer, ReaderConfig(12, 24))("who came first", PASSAGES[:2])
    torch.manual_seed(0)
    head = new_head(32)
    with torch.no_grad():
        plain = compute_logits(backbone, head, bare, torch.device("cpu"), None)
        marked = compute_logits(backbone, head, inputs, torch.device("cpu"), marks)
    assert not torch.allclose(marked.relevance_N, plain.relevance_N, atol=1e-5)
    assert (inputs[0].ids[1] == tokenizer.token_to_id("[unused3]")) == (kind == "marker")
    if kind == "token_type":
        asked = len(tokenizer.encode("who came first").ids)
        assert marks.reader_roles([asked], asked + 2).tolist() == [[0] * asked + [1] * 2] and inputs[0].asked == asked


def test_what_cannot_be_marked_is_refused(reserved: Path, tiny_bert: Path, tiny_t5: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"roles is token_type; a t5 model has no token types, but 2 are needed"):
        start_encoder(SMALL.replace(roles="token_type"), tiny_t5, ["nq"])
    said = r"roles is marker; the tokenizer has no reserved tokens \(\[unused1\], <extra_id_97>"
    with pytest.raises(InputError, match=said):
        start_encoder(SMALL.replace(roles="marker"), tiny_bert, ["nq"])
    with pytest.raises(InputError, match=r"roles is embedding, but tune is bitfit"):
        start_encoder(SMALL.replace(roles="embedding", tune="bitfit"), reserved, ["nq"])
    model = start_encoder(SMALL.replace(roles="embedding"), reserved, ["nq"])
    model.save(tmp_path / "m")
    with pytest.raises(InputError, match=r"roles is marker, but the base model .* has embedding; leave roles out"):
        start_encoder(SMALL.replace(pooling=None, roles="marker"), tmp_path / "m", ["nq"])
    assert start_encoder(SMALL.replace(pooling=None), tmp_path / "m", ["nq"]).config.roles == "embedding"
    with pytest.raises(InputError, match="trained with roles embedding; give a model without roles"):
        start_encoder(TrainSettings(objective=("span_contrast",), length=16), tmp_path / "m", ())
    with pytest.raises(InputError, match=r"this format cannot store role marks \(roles embedding\)"):
        write_sentence_transformers(tmp_path / "m", model.config, tmp_path / "st")
    said = r"roles is adapter; a backbone of type 'mpnet' has no known hook points; .*; roles embedding works with any"
    with pytest.raises(InputError, match=said):
        new_learned("adapter", MPNetModel(MPNetConfig(**SIZES)))
    for kind, said in (
        ("embedding", r"1 tensors .* such as 'weight' of shape \[3, 32\]"),
        ("prompt", r"6 tensors .* 'queries.0' of shape \[2, 32, 32\]"),
    ):
        start_encoder(SMALL.replace(roles=kind), reserved, ["nq"]).save(tmp_path / kind)
        (tmp_path / kind / ROLE_FILE).unlink()
        with pytest.raises(InputError, match=rf"roles.safetensors: {said}"):
            load_encoder(str(tmp_path / kind))
        (tmp_path / kind / ROLE_FILE).write_bytes(b"no tensors")
        with pytest.raises(InputError, match=r"roles.safetensors: cannot be read"):
            load_encoder(str(tmp_path / kind))
    said = r"--precision int8: .*prompt has adapters \(roles prompt\), which work only in float32"
    with pytest.raises(InputError, match=said):
        load_encoder(str(tmp_path / "prompt"), precision="int8")
    EncoderConfig("mean").save(tmp_path / "m")
    path = tmp_path / "m" / "taco_ir.json"
    write_json(path, read_json(path) | {"roles": "tails"})
    said = r"taco_ir.json: roles is 'tails'; it must be one of none, token_type, marker, embedding, prompt"
    with pytest.raises(InputError, match=said):
        load_encoder(str(tmp_path / "m"))


@pytest.mark.parametrize("kind", LEARNED)
def test_untied_towers_mark_each_their_own(kind: str, reserved: Path, tmp_path: Path) -> None:
    model = moved(start_encoder(SMALL.replace(roles=kind, untied=True), reserved, ["nq"]))
    model.save(tmp_path / "m")
    assert (tmp_path / "m" / "query" / ROLE_FILE).is_file() and (tmp_path / "m" / "passage" / ROLE_FILE).is_file()
    loaded = load_encoder(str(tmp_path / "m"))
    assert np.allclose(
        model.as_text_encoder().encode_queries(TEXTS, "nq"), loaded.encode_queries(TEXTS, "nq"), atol=1e-6
    )
