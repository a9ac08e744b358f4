"""Marks of roles: they change vectors, are kept in the checkpoint, and are refused in one line where they cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from backbones import BACKBONES, IDS_BL, MASK_BL, backbone
from conftest import tiny_tokenizer
from small_steps import PASSAGES, SMALL, encoder, gradients, step_of
from tokenizers import Tokenizer

from taco_ir.files import InputError, fingerprint
from taco_ir.models.config import EncoderConfig
from taco_ir.models.encoder import load_encoder, weights_digest
from taco_ir.models.export import write_sentence_transformers
from taco_ir.models.pooling import embed
from taco_ir.models.reader import InputBuilder, ReaderConfig, head_logits, new_head
from taco_ir.models.roles import PASSAGE, QUERY, READER, ROLE_FILE, ROLE_MARKS, RoleMarks, new_vectors
from taco_ir.training.pretrain_keys import PretrainConfig
from taco_ir.training.pretrain_model import start_pretraining
from taco_ir.training.start import start_encoder

MARKED = [kind for kind in ROLE_MARKS if kind != "none"]
TEXTS = ["the king of the sea", "a year", "who was it that came first"]


@pytest.fixture(scope="module")
def reserved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT whose vocabulary has reserved tokens, with weights that are not small: marks show."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "reserved"
    vocabulary = tiny_tokenizer(folder, ("[CLS] $A [SEP]", ["[CLS]", "[SEP]"]), "[unused1]", "[unused2]", "[unused3]")
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
    BertModel(BertConfig(vocab_size=vocabulary, initializer_range=0.2, **shape)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", MARKED)
def test_a_mark_changes_vectors_by_role_and_survives_the_checkpoint(kind: str, reserved: Path, tmp_path: Path) -> None:
    """One text as a query and as a passage: the same vector unmarked, another marked; the loaded folder encodes as the model did."""
    for marks, equal in (("none", True), (kind, False)):
        model = start_encoder(
            replace(SMALL, roles=marks, prompts=False, query_length=24, passage_template="{text}{title}"), reserved, ["nq"]
        )
        model.save(tmp_path / marks)
        loaded = load_encoder(str(tmp_path / marks))
        assert loaded.config.roles == marks and (tmp_path / marks / ROLE_FILE).exists() == (marks == "embedding")
        passages = [PASSAGES[0]._replace(title="", text=text) for text in TEXTS]
        queries_BD, passages_BD = loaded.encode_queries(TEXTS, None), loaded.encode_passages(passages)
        assert np.allclose(queries_BD, passages_BD, atol=1e-5) == equal
        live = model.text_encoder()
        assert np.allclose(live.encode_queries(TEXTS, None), queries_BD, atol=1e-6)
        with torch.no_grad():
            texts = [*model.queries(TEXTS, "nq"), *model.passages(passages)]
            assert np.allclose(model(texts).numpy(), np.concatenate([queries_BD, passages_BD]), atol=1e-5)  # both roles in one pass
    plain, marked = (load_encoder(str(tmp_path / name)) for name in ("none", kind))
    assert plain.fingerprint != marked.fingerprint and plain.passage_fingerprint != marked.passage_fingerprint


def test_without_marks_the_fingerprint_is_the_one_that_it_always_was(reserved: Path, tmp_path: Path) -> None:
    model = start_encoder(SMALL, reserved, ["nq"])
    model.save(tmp_path / "m")
    values = json.loads((tmp_path / "m" / "taco_ir.json").read_text())
    assert values.pop("roles") == "none"
    assert load_encoder(str(tmp_path / "m")).fingerprint == fingerprint([weights_digest(tmp_path / "m"), values, "float32"])


def test_every_vector_of_a_role_that_is_read_gets_a_gradient(reserved: Path) -> None:
    model = encoder(reserved, roles="embedding")
    step = step_of(model)
    step.task_gradient(step.samplers[0], 0)
    found = dict(zip([name for name, _ in model.trained()], gradients(model), strict=True))
    (rows_3E,) = (grad for name, grad in found.items() if "roles" in name)
    assert rows_3E[QUERY].any() and rows_3E[PASSAGE].any() and not rows_3E[READER].any()


@pytest.mark.parametrize("kind", BACKBONES)
def test_vectors_are_added_to_the_embeddings_of_any_backbone(kind: str, reserved: Path) -> None:
    """Vectors of zeros change nothing; others change what the backbone says, of the text of that role alone."""
    model = backbone(kind)
    config = EncoderConfig("decoder" if kind == "t5" else "mean")
    vectors = cast("torch.nn.Embedding", new_vectors(model))
    marks = RoleMarks("embedding", model, Tokenizer.from_file(str(reserved / "tokenizer.json")), vectors)
    role_B1 = torch.tensor([[QUERY], [READER]])
    with torch.no_grad():
        bare_BD = embed(model, config, IDS_BL, MASK_BL)
        vectors.weight.zero_()
        assert torch.allclose(embed(model, config, IDS_BL, MASK_BL, **marks.inputs(IDS_BL, role_B1)), bare_BD, atol=1e-6)
        vectors.weight[READER] = 1.0 + torch.arange(vectors.embedding_dim)
        marked_BD = embed(model, config, IDS_BL, MASK_BL, **marks.inputs(IDS_BL, role_B1))
    assert torch.allclose(marked_BD[0], bare_BD[0], atol=1e-6) and not torch.allclose(marked_BD[1], bare_BD[1], atol=1e-3)


@pytest.mark.parametrize(("kind", "said"), [("roberta", "one token type"), ("distilbert", "no token types"), ("t5", "no token types")])
def test_a_backbone_without_token_types_is_refused(kind: str, said: str, reserved: Path) -> None:
    model = backbone(kind)
    if kind == "roberta":
        model.config.type_vocab_size = 1  # as those that were trained
    with pytest.raises(InputError, match=rf"roles is token_type; a {kind} model has {said}, and 2 are needed"):
        RoleMarks("token_type", model, Tokenizer.from_file(str(reserved / "tokenizer.json")))


def test_a_marker_is_behind_the_first_token_and_counts(reserved: Path) -> None:
    model = encoder(reserved, roles="marker")
    tokenizer = Tokenizer.from_file(str(reserved / "tokenizer.json"))
    for role, name, (text,), most in (
        (QUERY, "[unused1]", model.queries(["word " * 50], "nq"), model.config.max_query_tokens("nq")),
        (PASSAGE, "[unused2]", model.passages([PASSAGES[0]]), model.config.passage_length),
    ):
        assert (text.role, text.ids[0], text.ids[1]) == (role, tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id(name))
        assert len(text.ids) == most


@pytest.mark.parametrize("kind", MARKED)
def test_a_reader_is_marked_too(kind: str, reserved: Path) -> None:
    """The reader's inputs: their own vector or token, or a question's token type and a passage's; other logits than unmarked."""
    model = encoder(reserved, roles=kind).eval()
    tokenizer = Tokenizer.from_file(str(reserved / "tokenizer.json"))
    backbone, vectors = model.backbone("passage"), dict(model.towers["passage"].items()).get("roles")  # type: ignore[operator]
    marks = RoleMarks(kind, backbone, tokenizer, vectors)
    inputs = InputBuilder(tokenizer, ReaderConfig(12, 24), marks.marker(READER))("who came first", PASSAGES[:2])
    bare = InputBuilder(tokenizer, ReaderConfig(12, 24))("who came first", PASSAGES[:2])
    torch.manual_seed(0)
    head = new_head(32)
    with torch.no_grad():
        marked, plain = (head_logits(backbone, head, rows, torch.device("cpu"), of) for rows, of in ((inputs, marks), (bare, None)))
    assert not torch.allclose(marked.relevance_N, plain.relevance_N, atol=1e-5)
    assert (inputs[0].ids[1] == tokenizer.token_to_id("[unused3]")) == (kind == "marker")
    if kind == "token_type":
        asked = len(tokenizer.encode("who came first").ids)
        assert marks.of_reader([asked], asked + 2).tolist() == [[0] * asked + [1] * 2] and inputs[0].asked == asked


def test_what_cannot_be_marked_is_refused(reserved: Path, tiny_bert: Path, tiny_t5: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"roles is token_type; a t5 model has no token types, and 2 are needed"):
        start_encoder(replace(SMALL, roles="token_type"), tiny_t5, ["nq"])
    with pytest.raises(InputError, match=r"roles is marker; the tokenizer has no reserved tokens \(\[unused1\], <extra_id_97>"):
        start_encoder(replace(SMALL, roles="marker"), tiny_bert, ["nq"])
    with pytest.raises(InputError, match=r"roles is embedding; with tune bitfit the modules tell roles apart"):
        start_encoder(replace(SMALL, roles="embedding", tune="bitfit"), reserved, ["nq"])
    model = start_encoder(replace(SMALL, roles="embedding"), reserved, ["nq"])
    model.save(tmp_path / "m")
    with pytest.raises(InputError, match=r"roles is marker; the base .* says embedding; leave roles out"):
        start_encoder(replace(SMALL, pooling=None, roles="marker"), tmp_path / "m", ["nq"])
    assert start_encoder(replace(SMALL, pooling=None), tmp_path / "m", ["nq"]).config.roles == "embedding"
    with pytest.raises(InputError, match=r"it marks roles \(embedding\); pre-training takes a backbone that does not"):
        start_pretraining(PretrainConfig(objective=("span_contrast",), length=16), tmp_path / "m", None)
    with pytest.raises(InputError, match=r"marks of roles \(embedding\) are nothing that this format holds"):
        write_sentence_transformers(tmp_path / "m", model.config, tmp_path / "st")
    (tmp_path / "m" / ROLE_FILE).unlink()
    with pytest.raises(InputError, match=r"roles.safetensors: vectors of 3 roles of 32 numbers, named 'weight', are needed"):
        load_encoder(str(tmp_path / "m"))
    EncoderConfig("mean", roles="tails").save(tmp_path / "m")
    with pytest.raises(InputError, match=r"taco_ir.json: roles 'tails'; valid: none, token_type, marker, embedding"):
        load_encoder(str(tmp_path / "m"))


def test_untied_towers_mark_each_their_own(reserved: Path, tmp_path: Path) -> None:
    model = start_encoder(replace(SMALL, roles="embedding", untied=True), reserved, ["nq"])
    model.save(tmp_path / "m")
    assert (tmp_path / "m" / "query" / ROLE_FILE).is_file() and (tmp_path / "m" / "passage" / ROLE_FILE).is_file()
    loaded = load_encoder(str(tmp_path / "m"))
    assert np.allclose(model.text_encoder().encode_queries(TEXTS, "nq"), loaded.encode_queries(TEXTS, "nq"), atol=1e-6)
