"""A checkpoint's folder is a folder of sentence-transformers as it is, where that library can say what ours does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_steps import PASSAGES, encoder

from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.text_encoder import load_encoder

TEXTS = [f"{passage.title} {passage.text}" for passage in PASSAGES[:6]]
QUERIES = ["who was Bach", "a composer of the Baroque era who was born in Eisenach and had many sons " * 4]
FORMS: dict[str, dict[str, Any]] = {
    "mean": {},
    "first token, normalised": {"pooling": "first", "normalize": True},
    "last token, without prompts": {"pooling": "last", "prompts": False},
    "normalised, one length, a prompt of passages": {"normalize": True, "query_length": 24, "passage_prompt": "text: "},
}


@pytest.mark.parametrize("name", FORMS)
def test_sentence_transformers_encodes_as_we_do(tiny_bert: Path, tmp_path: Path, name: str) -> None:
    from sentence_transformers import SentenceTransformer

    model = encoder(tiny_bert, **FORMS[name])
    model.save(tmp_path / "m")
    ours, theirs = load_encoder(tmp_path / "m"), SentenceTransformer(str(tmp_path / "m"), device="cpu")
    assert len(set(model.config.prompts.values())) == len(model.config.prompts)
    for task in ("nq", "fever"):
        found = theirs.encode_query(QUERIES, prompt_name=task if model.config.prompts else None)
        np.testing.assert_allclose(found, ours.encode_queries(QUERIES, task), rtol=0, atol=1e-5)
    passages_ND = ours.encode_passages(PASSAGES[:6])
    np.testing.assert_allclose(theirs.encode_document(TEXTS), passages_ND, rtol=0, atol=1e-5)
    scores_NN = theirs.similarity(passages_ND, passages_ND).numpy()
    np.testing.assert_allclose(scores_NN, passages_ND @ passages_ND.T, rtol=1e-4)  # what search ranks by
    assert theirs.max_seq_length == max(model.config.query_length, model.config.passage_length)


def test_the_files_change_nothing_for_us(tiny_bert: Path, tmp_path: Path) -> None:
    """Our own configuration, which says more, is read; the model is the same one with and without them."""
    model = encoder(tiny_bert, query_length=0)
    model.save(tmp_path / "m")
    assert model.config.query_lengths["nq"] < model.config.query_length  # theirs have one length
    folder = ModelFolder(tmp_path / "m")
    made, loaded = folder.fingerprint, load_encoder(folder.path)
    assert loaded.config == model.config and encoder(folder.path, pooling=None, query_length=0).config == model.config
    added = {"modules.json", "1_Pooling", "config_sentence_transformers.json", "sentence_bert_config.json"}
    assert added < {path.name for path in folder.path.iterdir()}
    assert not any(path.suffix == ".safetensors" for path in (folder.path / "1_Pooling").iterdir())
    for name in added - {"1_Pooling"}:
        (folder.path / name).unlink()
    assert folder.fingerprint == made and load_encoder(folder.path).fingerprint == loaded.fingerprint


def test_each_of_two_towers_is_such_a_folder(tiny_bert: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = encoder(tiny_bert, untied=True)
    for param in model.backbone("query").parameters():
        param.data.mul_(1.1)
    model.save(tmp_path / "m")
    ours = load_encoder(tmp_path / "m")
    queries, passages = (SentenceTransformer(str(tmp_path / "m" / tower), device="cpu") for tower in model.towers)
    found = queries.encode_query(QUERIES, prompt_name="nq")
    np.testing.assert_allclose(found, ours.encode_queries(QUERIES, "nq"), rtol=0, atol=1e-5)
    expected_ND = ours.encode_passages(PASSAGES[:6])
    np.testing.assert_allclose(passages.encode_document(TEXTS), expected_ND, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("base", "values"),
    [
        ("tiny_bert", {"head": 8}),
        ("tiny_t5", {"pooling": "decoder"}),
        ("tiny_bert", {"roles": "token_type"}),
        ("tiny_bert", {"passage_template": "{text} {title}"}),
    ],
)
def test_what_their_files_cannot_say_is_not_said(
    base: str, values: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A folder that they would read otherwise than we do claims nothing."""
    encoder(request.getfixturevalue(base), **values).save(tmp_path / "m")
    assert not list(tmp_path.glob("m/modules.json")) and (tmp_path / "m" / "taco_ir.json").is_file()
