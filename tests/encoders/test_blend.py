"""Weights between a model and its base: at the ends one of both, between them on the line, and only for models that are alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_models import saved
from safetensors.torch import load_file, save_file

from taco_ir.core.files import InputError
from taco_ir.data.collection import open_collection
from taco_ir.encoders.blend import BLENDED_FILE, Blend, model_hash, read_blend, write_blended
from taco_ir.encoders.config import EncoderConfig
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.encoders.weights import PLAIN_FILE
from taco_ir.export import main as export

CONFIG = EncoderConfig("mean", True, {"nq": "NQ [SEP] "}, 40, {"nq": 40}, 60)
PASSAGES = list(open_collection("sample").passages.read())[:10]
LAYER = "encoder.layer.0.output.dense.weight"


def changed(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None], config: EncoderConfig | None = CONFIG) -> Path:
    """A copy with other weights."""
    shutil.copytree(source, target)
    tensors = load_file(target / PLAIN_FILE)
    change(tensors)
    save_file(tensors, target / PLAIN_FILE, {"format": "pt"})
    if config:
        config.save(target)
    return target


def moved(tensors: dict[str, torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    for value in tensors.values():
        value.add_(torch.randn(value.shape, generator=generator), alpha=0.05)


@pytest.fixture
def model(tiny_bert: Path, tmp_path: Path) -> Path:
    """What training could have made of the base."""
    return changed(tiny_bert, tmp_path / "trained", moved)


def blended(model: Path, other: Path, share: float, output: Path) -> Path:
    export(["--model", str(model), "--what", "blended", "--with", str(other), "--share", str(share), "--output", str(output)])
    return output / "blended"


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_weights_lie_on_the_line(model: Path, tiny_bert: Path, tmp_path: Path, share: float) -> None:
    folder = blended(model, tiny_bert, share, tmp_path / "out")
    ours, base, found = (load_file(each / PLAIN_FILE) for each in (model, tiny_bert, folder))
    assert found.keys() == ours.keys() == base.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, share * ours[name] + (1 - share) * base[name], rtol=0, atol=1e-6)
        if share in (0, 1):
            assert torch.equal(value, (base, ours)[int(share)][name])
    encoder = load_encoder(str(folder))
    assert encoder.config == CONFIG
    CONFIG.save(shutil.copytree(tiny_bert, tmp_path / "base"))
    end = load_encoder(str(tmp_path / "base" if share == 0 else model))
    same = np.array_equal(end.encode_passages(PASSAGES), encoder.encode_passages(PASSAGES))
    assert same == (share in (0, 1))
    assert read_blend(folder) == Blend(share, model_hash(model), "tiny-bert", model_hash(tiny_bert))
    assert str(tmp_path) not in (folder / BLENDED_FILE).read_text()


def test_it_does_not_matter_which_is_the_model(model: Path, tiny_bert: Path, tmp_path: Path) -> None:
    CONFIG.save(shutil.copytree(tiny_bert, tmp_path / "base"))
    one, other = (blended(a, b, share, tmp_path / str(share)) for a, b, share in ((model, tiny_bert, 0.3), (tmp_path / "base", model, 0.7)))
    for name, value in load_file(one / PLAIN_FILE).items():
        torch.testing.assert_close(load_file(other / PLAIN_FILE)[name], value, rtol=0, atol=1e-6)


def no_pooler(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("pooler.")]:
        del tensors[name]


def test_a_pooler_that_one_lacks_is_the_others(model: Path, tiny_bert: Path, tmp_path: Path) -> None:
    base = changed(tiny_bert, tmp_path / "base", no_pooler)
    for number, (ours, theirs) in enumerate(((model, base), (base, model), (base, base))):
        found = load_file(blended(ours, theirs, 0.5, tmp_path / f"out{number}") / PLAIN_FILE)
        assert ("pooler.dense.weight" in found) == (model in (ours, theirs))
        if model in (ours, theirs):
            assert torch.equal(found["pooler.dense.weight"], load_file(model / PLAIN_FILE)["pooler.dense.weight"])
            middle = (load_file(model / PLAIN_FILE)[LAYER] + load_file(base / PLAIN_FILE)[LAYER]) / 2
            torch.testing.assert_close(found[LAYER], middle, rtol=0, atol=1e-6)


def test_t5_is_blended_with_its_tied_table_once(tiny_t5: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, prompts={}, query_lengths={})
    model = changed(tiny_t5, tmp_path / "trained", moved, config)
    found = load_file(blended(model, tiny_t5, 0.5, tmp_path / "out") / PLAIN_FILE)
    middle = (load_file(model / PLAIN_FILE)["shared.weight"] + load_file(tiny_t5 / PLAIN_FILE)["shared.weight"]) / 2
    torch.testing.assert_close(found["shared.weight"], middle, rtol=0, atol=1e-6)
    loaded = load_encoder(str(tmp_path / "out" / "blended"))
    assert torch.equal(dict(loaded._backbone.named_parameters())["shared.weight"], found["shared.weight"])


def test_tuned_and_small_models_are_blended_and_small_ones_keep_the_record(tiny_bert: Path, tmp_path: Path) -> None:
    tuned = saved(tmp_path / "tuned", tiny_bert, "lora", "shared")
    folder = blended(tuned, tiny_bert, 0.5, tmp_path / "out")
    record = read_blend(folder)
    assert record and record.model == model_hash(tuned)
    flags = ["--what", "compact", "--weights", "int8", "--megabytes", "1"]
    export(["--model", str(folder), *flags, "--output", str(tmp_path / "small")])
    small = tmp_path / "small" / "compact"
    assert read_blend(small) == record
    again = blended(small, tiny_bert, 0.5, tmp_path / "again")  # from 8 bits to plain weights
    assert "taco_ir_weights" not in (again / "config.json").read_text() and {path.name for path in again.glob("*.safetensors")} == {
        PLAIN_FILE
    }
    assert read_blend(again) == Blend(0.5, model_hash(small), "tiny-bert", model_hash(tiny_bert))
    from transformers import AutoModel

    assert AutoModel.from_pretrained(again).dtype == torch.float32


def other_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    rows = values["model"]["vocab"]
    a, b = (token for token in list(rows)[-2:])
    rows[a], rows[b] = rows[b], rows[a]
    path.write_text(json.dumps(values), encoding="utf-8")


def configured(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def wider(folder: Path) -> None:
    configured(max_position_embeddings=130)(folder)
    tensors = load_file(folder / PLAIN_FILE)
    tensors["embeddings.position_embeddings.weight"] = torch.zeros(130, 32)
    save_file(tensors, folder / PLAIN_FILE, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_vocabulary, "it has another vocabulary than the model"),
        (configured(num_attention_heads=2), "its num_attention_heads is 2, the model's 4"),
        (wider, r"its embeddings\.position_embeddings\.weight is \[130, 32\], the model's \[128, 32\]; they must be alike"),
        (lambda folder: replace(CONFIG, pooling="first").save(folder), "it pools by 'first', the model by 'mean'"),
        (lambda folder: replace(CONFIG, head=8).save(folder), "it has a linear head or marks of roles"),
        (lambda folder: (folder / "config.json").unlink(), "missing: config.json"),
    ],
)
def test_models_that_are_not_alike_are_refused(
    model: Path, tiny_bert: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    base = shutil.copytree(tiny_bert, tmp_path / "base")
    change(base)
    with pytest.raises(InputError, match=said) as caught:
        blended(model, base, 0.5, tmp_path / "out")
    assert "\n" not in str(caught.value) and str(base) in str(caught.value) and not (tmp_path / "out" / "blended").exists()


def test_one_backbone_alone_is_blended(model: Path, tiny_bert: Path, tiny_t5: Path, tmp_path: Path) -> None:
    for name in ("query", "passage"):
        shutil.copytree(model, tmp_path / "two" / name)
    with pytest.raises(InputError, match="--with .*two: it is two towers"):
        blended(model, tmp_path / "two", 0.5, tmp_path / "out")
    with pytest.raises(InputError, match="two has two towers, a linear head or marks of roles"):
        blended(tmp_path / "two", tiny_bert, 0.5, tmp_path / "out")
    with pytest.raises(InputError, match="it is a tuned model"):
        blended(model, saved(tmp_path / "tuned", tiny_bert, "lora", "shared"), 0.5, tmp_path / "out")
    with pytest.raises(InputError, match="its model_type is 't5', the model's 'bert'"):
        blended(model, tiny_t5, 0.5, tmp_path / "out")
    (tmp_path / "into").mkdir()
    with pytest.raises(InputError, match="a linear head or marks of roles; one backbone"):
        write_blended(model, replace(CONFIG, head=8), str(tiny_bert), 0.5, tmp_path / "into", "")


def test_a_record_that_says_something_else_is_refused(tmp_path: Path) -> None:
    assert read_blend(tmp_path) is None
    for text in ("[]", '{"share": "half"}', '{"share": 1, "model": "a", "other": "b", "other_hash": "c", "more": 1}'):
        (tmp_path / BLENDED_FILE).write_text(text)
        with pytest.raises(InputError, match=r"blended\.json: a JSON object is needed, with the keys share, model, other, other_hash"):
            read_blend(tmp_path)


def test_flags_go_together(model: Path, tiny_bert: Path, tmp_path: Path) -> None:
    output = ["--model", str(model), "--output", str(tmp_path / "out")]
    other = ["--with", str(tiny_bert)]
    for wrong, said in (
        (["--what", "blended"], "--what blended, --with and --share go together"),
        (["--what", "blended", *other], "go together"),
        (other, "go together"),
        (["--share", "0.5"], "go together"),
        (["--what", "huggingface", *other, "--share", "0.5"], "go together"),
        ([*other, "--share", "1.5"], r"--share 1\.5: a number from 0 to 1 is needed"),
        ([*other, "--share", "nan"], "--share nan: a number from 0 to 1"),
        (["--weights", "int8"], "--weights are those of a compact folder, which --megabytes asks for"),
    ):
        with pytest.raises(InputError, match=said):
            export([*output, *wrong])
    export([*output, *other, "--share", "0.5"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"huggingface", "sentence-transformers", "blended"}
