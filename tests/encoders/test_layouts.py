"""Layouts of other people's models: vectors and exports are those of the libraries that wrote the folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

from taco_ir.core.files import InputError
from taco_ir.core.types import Passage, Vectors
from taco_ir.data.collection import open_collection
from taco_ir.encoders.exports import write_huggingface, write_sentence_transformers
from taco_ir.encoders.pooling import pool
from taco_ir.encoders.text_encoder import TextEncoder, load_encoder

PASSAGES = [*list(open_collection("sample").passages.read())[:5], Passage("x#0", "x", "A", "b")]
WHOLE = [f"{passage.title} {passage.text}" for passage in PASSAGES]
QUERIES = ["who wrote it", "The Painter of the year", "a", "what is the capital of the country " * 3]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SIZES |= {"max_position_embeddings": 128}
T5_SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}


def near(ours: Vectors, expected: Any) -> None:
    expected = np.asarray(expected)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def made(source: Path, target: Path, kind: str, **sizes: Any) -> Path:
    """A random model of a class of transformers with the tokenizer of `source`."""
    target.mkdir(parents=True)
    for path in source.glob("*token*.json"):
        shutil.copy(path, target)
    words = transformers.AutoTokenizer.from_pretrained(source).backend_tokenizer.get_vocab_size()
    model = getattr(transformers, kind)
    torch.manual_seed(1)
    model(model.config_class(vocab_size=words, pad_token_id=0, **sizes)).eval().save_pretrained(target)
    return target


def by_transformers(
    folder: Path, kind: str, vector: Callable[[Any], torch.Tensor], texts: Sequence[str], other: Sequence[str] = ()
) -> Vectors:
    """The vector of each text, or pair of texts, one at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    found = []
    for place, text in enumerate(texts):
        pair = {"text_pair": other[place]} if other else {}
        ids = tokenizer(text, truncation=True, max_length=128, return_tensors="pt", **pair)["input_ids"]
        with torch.no_grad():
            found.append(vector(model(ids))[0].numpy())
    return np.stack(found)


def exported(encoder: TextEncoder, folder: Path) -> None:
    """The export to sentence-transformers encodes as its source, there and here."""
    folder.mkdir()
    write_sentence_transformers(encoder.folder, encoder.config, folder)
    theirs, again = SentenceTransformer(str(folder), device="cpu"), load_encoder(str(folder))
    for queries_BD in (theirs.encode_query(QUERIES), again.encode_queries(QUERIES, None)):
        near(queries_BD, encoder.encode_queries(QUERIES, None))
    for passages_ND in (theirs.encode_document(WHOLE), again.encode_passages(PASSAGES)):
        near(passages_ND, encoder.encode_passages(PASSAGES))


@pytest.mark.parametrize("width", [0, 24])
def test_dpr_reads_its_pairs_of_folders(tiny_bert: Path, tmp_path: Path, width: int) -> None:
    """Vectors are `pooler_output` of a question, and of a passage's title and text as two texts, as DPR has them."""
    pair = tmp_path / "dpr"
    kinds = {"query": "DPRQuestionEncoder", "passage": "DPRContextEncoder"}
    for tower, kind in kinds.items():
        made(tiny_bert, pair / tower, kind, projection_dim=width, **SIZES)
    encoder = load_encoder(str(pair))
    assert encoder.dim == (width or 32)

    def pooled(output: Any) -> torch.Tensor:
        vectors: torch.Tensor = output.pooler_output
        return vectors

    questions_BD = by_transformers(pair / "query", kinds["query"], pooled, QUERIES)
    titles, texts = zip(*((passage.title, passage.text) for passage in PASSAGES), strict=True)
    near(encoder.encode_queries(QUERIES, None), questions_BD)
    encoded_ND = by_transformers(pair / "passage", kinds["passage"], pooled, titles, texts)
    near(encoder.encode_passages(PASSAGES), encoded_ND)
    alone = load_encoder(str(pair / "query"), pooling="pooler")
    near(alone.encode_queries(QUERIES, None), questions_BD)
    if not width:
        (tmp_path / "plain").mkdir()
        write_huggingface(pair / "passage", replace(alone.config), tmp_path / "plain", "plain")
        near(
            by_transformers(
                tmp_path / "plain", "AutoModel", lambda found: found.last_hidden_state[:, 0], titles, texts
            ),
            encoded_ND,
        )
    alone.config = replace(alone.config, passage_template="{title} {text}")
    exported(alone, tmp_path / "theirs")


def test_what_dpr_is_not_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    made(tiny_bert, tmp_path / "reader", "DPRReader", **SIZES)
    with pytest.raises(InputError, match=r"reader: it is a DPRReader, which gives no vectors; valid: DPRQuestionE"):
        load_encoder(str(tmp_path / "reader"))
    made(tiny_bert, tmp_path / "query", "DPRQuestionEncoder", **SIZES)
    with pytest.raises(InputError, match=r"query: DPR pools by its first token \(pooler\); leave out --pooling mean"):
        load_encoder(str(tmp_path / "query"), pooling="mean")


def test_a_pooler_is_the_models_own(tiny_bert: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(tiny_bert), pooling="pooler")
    near(
        encoder.encode_queries(QUERIES, None),
        by_transformers(tiny_bert, "AutoModel", lambda output: output.pooler_output, QUERIES),
    )
    for write in (
        lambda: write_sentence_transformers(tiny_bert, encoder.config, tmp_path),
        lambda: write_huggingface(tiny_bert, encoder.config, tmp_path, "plain"),
    ):
        with pytest.raises(InputError, match=r"no pooling 'pooler', only .*mean"):
            write()
    folder = made(tiny_bert, tmp_path / "m", "DistilBertModel", dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    with pytest.raises(InputError, match=r"m: pooling 'pooler' needs a model with a pooler; a distilbert model has"):
        load_encoder(str(folder), pooling="pooler")


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_token_is_before_the_padding(tiny_t5: Path, tmp_path: Path, side: str) -> None:
    """A causal model whose tokenizer appends its end of text."""
    folder = made(tiny_t5, tmp_path / "m", "Qwen3Model", head_dim=8, num_key_value_heads=2, **SIZES)
    encoder = load_encoder(str(folder), pooling="last", normalize=True)
    queries_BD = encoder.encode_queries(QUERIES, None)

    def last(output: Any) -> torch.Tensor:
        return torch.nn.functional.normalize(output.last_hidden_state[:, -1], dim=-1)

    near(queries_BD, by_transformers(folder, "AutoModel", last, QUERIES))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side=side)
    inputs = tokenizer(QUERIES, padding=True, truncation=True, max_length=128, return_tensors="pt")
    mask_BL = inputs["attention_mask"]
    positions = {"position_ids": (mask_BL.cumsum(1) - 1).clamp(min=0)}
    with torch.no_grad():
        output = transformers.AutoModel.from_pretrained(folder).eval()(inputs["input_ids"], mask_BL, **positions)
    near(queries_BD, pool(output, encoder.config, mask_BL))
    exported(encoder, tmp_path / "theirs")
    (tmp_path / "plain").mkdir()
    with pytest.raises(InputError, match=r"no pooling 'last', only first, mean"):
        write_huggingface(folder, encoder.config, tmp_path / "plain", "plain")


@pytest.mark.parametrize("kind", ["MT5", "UMT5", "LongT5"])
@pytest.mark.parametrize("whole", [False, True], ids=["encoder", "encoder-decoder"])
def test_relatives_of_t5_are_encoders_too(tiny_t5: Path, tmp_path: Path, kind: str, whole: bool) -> None:
    folder = made(tiny_t5, tmp_path / "m", f"{kind}Model" if whole else f"{kind}EncoderModel", **T5_SIZES)
    encoder = load_encoder(str(folder), pooling="mean")
    expected_BD = by_transformers(
        folder, f"{kind}EncoderModel", lambda output: output.last_hidden_state.mean(1), QUERIES
    )
    near(encoder.encode_queries(QUERIES, None), expected_BD)
    if whole:
        decoded = load_encoder(str(folder), pooling="decoder").encode_queries(QUERIES, None)
        assert decoded.shape == expected_BD.shape and np.abs(decoded - expected_BD).max() > 1e-3
    with pytest.raises(InputError, match="cannot run T5"):
        write_huggingface(folder, encoder.config, tmp_path, "plain")
