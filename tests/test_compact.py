"""A checkpoint made small reads every text, and gives the same vectors for texts whose tokens it kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from taco_ir.data.collections import open_collection
from taco_ir.export import main as export
from taco_ir.files import InputError
from taco_ir.models.compact import compact
from taco_ir.models.config import EncoderConfig
from taco_ir.models.encoder import load_encoder

ROOM = 10**7
MEAN = EncoderConfig("mean", True, query_length=128, passage_length=128)


def texts() -> list[str]:
    return [f"{each.title} {each.text}" for each in open_collection("sample").passages.read()]


def test_kept_tokens_give_the_same_vectors(tiny_bert: Path, tmp_path: Path) -> None:
    found = compact(tiny_bert, tmp_path, MEAN, texts()[:100], ROOM)
    assert found.tokens < found.of and found.size < ROOM
    before, after = load_encoder(str(tiny_bert), pooling="mean", normalize=True), load_encoder(str(tmp_path))
    passages = list(open_collection("sample").passages.read())
    same_ND, seen_ND = before.encode_passages(passages[:100]), after.encode_passages(passages[:100])
    np.testing.assert_allclose(seen_ND, same_ND, atol=2e-3)  # half precision
    others = after.encode_passages(passages[100:])
    assert np.isfinite(others).all()


def test_the_most_frequent_tokens_stay_and_every_character(tiny_bert: Path, tmp_path: Path) -> None:
    whole = json.loads((tiny_bert / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    needed = {token for token in whole if len(token.removeprefix("##")) == 1 or token[0] in "[<"}
    frequent = [token for token in whole if len(token) > 3 and token not in needed and not token.startswith("##")][:3]
    weights = load_file(tiny_bert / "model.safetensors")
    rows_VD = weights["embeddings.word_embeddings.weight"]
    size = sum(value.numel() for name, value in weights.items() if "pooler" not in name) - rows_VD.numel()
    limit = 2 * size + (tiny_bert / "tokenizer.json").stat().st_size + 2 * rows_VD.shape[1] * (len(needed) + 3)
    found = compact(tiny_bert, tmp_path, MEAN, [" ".join(frequent)] * 5, limit)
    kept = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert set(kept) == needed | set(frequent) and sorted(kept.values()) == list(range(found.tokens))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
    small_VD = load_file(tmp_path / "model.safetensors")["embeddings.word_embeddings.weight"]
    for token, row in kept.items():
        assert (small_VD[row].float() - rows_VD[whole[token]]).abs().max() < 1e-3
    with pytest.raises(InputError, match=f"characters alone are {len(needed)} tokens, and there is room for {len(needed) - 1}"):
        compact(tiny_bert, tmp_path, MEAN, texts()[:1], limit - 2 * rows_VD.shape[1] * 4)


def test_the_verb(tiny_bert: Path, tmp_path: Path) -> None:
    flags = ["--model", str(tiny_bert), "--pooling", "mean", "--output", str(tmp_path / "out")]
    export([*flags, "--what", "compact", "--megabytes", "1"])
    assert load_encoder(str(tmp_path / "out" / "compact")).config.pooling == "mean"
    assert sum(path.stat().st_size for path in (tmp_path / "out" / "compact").iterdir()) <= 1_000_000
    for wrong in (["--what", "compact"], ["--what", "huggingface", "--megabytes", "1"]):
        with pytest.raises(InputError, match="--what compact and --megabytes go together"):
            export([*flags, *wrong])
    with pytest.raises(InputError, match="a linear head is not kept"):
        compact(tiny_bert, tmp_path, EncoderConfig("mean", head=8), texts(), ROOM)


def test_models_that_cannot_be_made_small(tiny_t5: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no word embeddings of a BERT-type model"):
        compact(tiny_t5, tmp_path, MEAN, texts(), ROOM)
    tokenizer = json.loads((tiny_t5 / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"] = {"type": "Unigram"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="of kind 'Unigram'; only WordPiece can lose tokens"):
        compact(tmp_path, tmp_path, MEAN, texts(), ROOM)
    with pytest.raises(InputError, match="are needed to make it small"):
        compact(tmp_path / "none", tmp_path, MEAN, texts(), ROOM)
