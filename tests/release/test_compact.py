"""A checkpoint made small reads every text, and gives the same vectors for texts whose tokens it kept."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer

from taco_ir.core.files import InputError
from taco_ir.data.collection import open_collection
from taco_ir.encoders.config import EncoderConfig
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.export import main as export
from taco_ir.release.compact import compact

ROOM = 10**7
MEAN = EncoderConfig("mean", True, query_length=128, passage_length=128)


def texts() -> list[str]:
    return [f"{each.title} {each.text}" for each in open_collection("sample").passages.read()]


def vocabulary(folder: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return found


def exact_limit(source: Path, target: Path, config: EncoderConfig, tokens: int, stored: str = "float16") -> int:
    """Bytes for so many tokens and no more, from what is said where there is too little room."""
    with pytest.raises(InputError) as caught:
        compact(source, target, config, [], 0, stored)
    room = int(str(caught.value).rpartition("room for ")[2])
    row = 2 * 32 if stored == "float16" else 32 + 2
    limit = row * (tokens - room)
    with pytest.raises(InputError, match=f"room for {room + 1}$"):
        compact(source, target, config, [], row, stored)
    return limit


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_all_tokens_stay_where_they_fit(tiny_bert: Path, tmp_path: Path, stored: str) -> None:
    """Whatever the texts are; with less room those go first that no text has, and the limit always holds."""
    whole = vocabulary(tiny_bert)
    limit = exact_limit(tiny_bert, tmp_path, MEAN, len(whole), stored)
    found = compact(tiny_bert, tmp_path, MEAN, [], limit, stored)
    assert found.tokens == found.of == len(whole) and found.size <= limit
    found = compact(tiny_bert, tmp_path, MEAN, texts(), limit - 64, stored)
    assert 1 <= len(whole) - found.tokens <= 3 and found.size <= limit - 64  # 32 numbers a row, and its token's line
    kept = vocabulary(tmp_path)
    gone = whole.keys() - kept.keys()
    encodings = Tokenizer.from_file(str(tiny_bert / "tokenizer.json")).encode_batch(texts())
    used = {token for each in encodings for token in each.tokens}
    assert not gone & used or used >= kept.keys()


def test_kept_tokens_give_the_same_vectors(tiny_bert: Path, tmp_path: Path) -> None:
    limit = exact_limit(tiny_bert, tmp_path, MEAN, 1500)
    found = compact(tiny_bert, tmp_path, MEAN, texts()[:100], limit)
    assert found.tokens == 1500 < found.of and found.size < limit
    before, after = load_encoder(str(tiny_bert), pooling="mean", normalize=True), load_encoder(str(tmp_path))
    passages = list(open_collection("sample").passages.read())
    same_ND, seen_ND = before.encode_passages(passages[:100]), after.encode_passages(passages[:100])
    np.testing.assert_allclose(seen_ND, same_ND, atol=2e-3)  # half precision
    others = after.encode_passages(passages[100:])
    assert np.isfinite(others).all()


def test_the_most_frequent_tokens_stay_and_every_character(tiny_bert: Path, tmp_path: Path) -> None:
    whole = vocabulary(tiny_bert)
    needed = {token for token in whole if len(token.removeprefix("##")) == 1 or token[0] in "[<"}
    frequent = [token for token in whole if len(token) > 3 and token not in needed and not token.startswith("##")][:3]
    rows_VD = load_file(tiny_bert / "model.safetensors")["embeddings.word_embeddings.weight"]
    limit = exact_limit(tiny_bert, tmp_path, MEAN, len(needed) + 3)
    found = compact(tiny_bert, tmp_path, MEAN, [" ".join(frequent)] * 5, limit)
    kept = vocabulary(tmp_path)
    assert set(kept) == needed | set(frequent) and sorted(kept.values()) == list(range(found.tokens))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
    small_VD = load_file(tmp_path / "model.safetensors")["embeddings.word_embeddings.weight"]
    for token, row in kept.items():
        assert (small_VD[row].float() - rows_VD[whole[token]]).abs().max() < 1e-3
    said = f"characters and prompts need {len(needed)} tokens, and there is room for {len(needed) - 1}"
    with pytest.raises(InputError, match=said):
        compact(tiny_bert, tmp_path, MEAN, texts()[:1], limit - 2 * rows_VD.shape[1] * 4)


def test_what_prompts_are_made_of_stays(tiny_bert: Path, tmp_path: Path) -> None:
    """A model learnt them as these tokens: however rare, they are not taken apart."""
    whole = vocabulary(tiny_bert)
    word = max((token for token in whole if token.isalpha()), key=len)
    prompted = EncoderConfig("mean", True, {"nq": f"{word} [SEP] "}, 128, {}, 128, f"{word}: {{title}} {{text}}")
    for config in (MEAN, prompted):
        compact(tiny_bert, tmp_path, config, ["a b c"], exact_limit(tiny_bert, tmp_path, config, 200))
        kept = vocabulary(tmp_path)
        assert (word in kept) == (config is prompted)


def test_a_tokenizer_that_renames_its_ends_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tiny_bert, tmp_path / "m")
    values = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    values["post_processor"]["special_tokens"]["[CLS]"]["id"] = "[SEP]"
    (source / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"its post-processor gives '\[CLS\]' the id '\[SEP\]'"):
        compact(source, tmp_path / "out", MEAN, texts(), ROOM)


def test_the_verb(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(tiny_bert), "--pooling", "mean", "--output", str(tmp_path / "out")]
    export([*flags, "--what", "compact", "--megabytes", "0.2"])
    said = re.fullmatch(
        r"0\.(\d\d) MB, ([\d,]+) of ([\d,]+) tokens kept; cosine .* on 305 passages: "
        r"least (0\.\d{4}), mean (0\.\d{6})\n.*\n",
        capsys.readouterr().out,
    )
    assert said and int(said[1]) <= 20 and int(said[2].replace(",", "")) < int(said[3].replace(",", ""))
    before, after = load_encoder(str(tiny_bert), pooling="mean"), load_encoder(str(tmp_path / "out" / "compact"))
    passages = list(open_collection("sample").passages.read())
    a_ND, b_ND = before.encode_passages(passages), after.encode_passages(passages)
    cosines_N = (a_ND * b_ND).sum(1) / np.linalg.norm(a_ND, axis=1) / np.linalg.norm(b_ND, axis=1)
    assert (float(said[4]), float(said[5])) == pytest.approx((cosines_N.min(), cosines_N.mean()), abs=1e-4)
    assert cosines_N.min() < 0.9995  # something was lost, or the numbers say nothing
    export([*flags, "--what", "compact", "--megabytes", "1", "--overwrite"])
    assert load_encoder(str(tmp_path / "out" / "compact")).config.pooling == "mean"
    assert sum(path.stat().st_size for path in (tmp_path / "out" / "compact").iterdir()) <= 1_000_000
    with pytest.raises(InputError, match=r"--megabytes is 0\.0; it must be a number above 0"):
        export([*flags, "--what", "compact", "--megabytes", "0"])
    for wrong in (["--what", "compact"], ["--what", "huggingface", "--megabytes", "1"]):
        with pytest.raises(InputError, match="--what compact and --megabytes must be given together"):
            export([*flags, *wrong])
    with pytest.raises(InputError, match="a compact folder cannot store a linear head"):
        compact(tiny_bert, tmp_path, EncoderConfig("mean", head=8), texts(), ROOM)


def test_models_that_cannot_be_made_small(tiny_t5: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is not a BERT-type model with word embeddings"):
        compact(tiny_t5, tmp_path, MEAN, texts(), ROOM)
    tokenizer = json.loads((tiny_t5 / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"] = {"type": "Unigram"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="of kind 'Unigram'; only WordPiece can drop tokens"):
        compact(tmp_path, tmp_path, MEAN, texts(), ROOM)
    with pytest.raises(InputError, match="are needed to make it compact"):
        compact(tmp_path / "none", tmp_path, MEAN, texts(), ROOM)
