"""Weights in 8 bits: at most half a step off, the same when stored again, and read by everything that reads a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_runs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from plain_encoding import plainly
from safetensors.torch import load_file, save_file

from taco_ir.core.files import InputError
from taco_ir.core.hashes import sha256_file
from taco_ir.data.collection import open_collection
from taco_ir.encoders.config import EncoderConfig
from taco_ir.encoders.exports import write_huggingface, write_sentence_transformers
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.encoders.weights import FEW, INT8_FILE, KEY, NUMBERS, PLAIN_FILE, SCALES, quantize, read_weights, to_int8
from taco_ir.release.compact import compact
from taco_ir.release.exports import open_merged
from taco_ir.studies.facts import count_parameters

CONFIG = EncoderConfig("mean", True, query_length=64, passage_length=64)
PASSAGES = list(open_collection("sample").passages.read())[:20]
TEXTS = ["which bach wrote the cello suites", "a claim that Rome is in France"]
ROOM = 10**7
matrices = st.tuples(st.integers(1, 6), st.integers(1, 9)).flatmap(
    lambda shape: arrays.arrays(np.float32, shape, elements=st.floats(-1e4, 1e4, width=32))
)


@pytest.fixture(scope="module")
def small(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    compact(tiny_bert, folder, CONFIG, [], ROOM, "int8")
    return folder


def steps(weights_NM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers, scales, and the restored matrix."""
    numbers_NM, scales_N = to_int8(weights_NM)
    return numbers_NM, scales_N.float(), numbers_NM.float() * scales_N.float()[:, None]


@given(matrices)
def test_a_weight_moves_by_half_a_step_at_most(weights: np.ndarray[Any, Any]) -> None:
    weights[np.abs(weights) < 1e-30] = 0  # smaller ones have no steps
    numbers_NM, scales_N, again_NM = steps(torch.from_numpy(weights))
    assert ((again_NM - torch.from_numpy(weights)).abs() <= scales_N[:, None] / 2 * (1 + 1e-6)).all()
    assert numbers_NM.dtype == torch.int8 and numbers_NM.abs().amax(1).eq(127).logical_or(scales_N == 0).all()


@given(matrices, st.randoms(use_true_random=False))
def test_a_row_depends_on_no_other(weights: np.ndarray[Any, Any], random: Any) -> None:
    order = random.sample(range(len(weights)), len(weights))
    _, _, again_NM = steps(torch.from_numpy(weights))
    assert torch.equal(steps(torch.from_numpy(weights[order]))[2], again_NM[order])


@given(matrices)
def test_what_was_loaded_is_stored_alike(weights: np.ndarray[Any, Any]) -> None:
    numbers_NM, scales_N, again_NM = steps(torch.from_numpy(weights))
    twice_NM, twice_N, _ = steps(again_NM)
    assert torch.equal(twice_NM, numbers_NM) and torch.equal(twice_N, scales_N)


def test_numbers() -> None:
    numbers_NM, scales_N, _ = steps(torch.tensor([[127.0, -63.4, 0.5001], [0.0, 0.0, 0.0], [-2.0, 1.0, 0.0]]))
    assert numbers_NM.tolist() == [[127, -63, 1], [0, 0, 0], [-127, 64, 0]]
    assert scales_N.tolist() == [1.0, 0.0, pytest.approx(2 / 127, rel=2**-8)]
    other = {"bias": torch.rand(40), "places": torch.arange(40)[:, None], "types": torch.rand(FEW, 3)}
    assert quantize(other) == other
    assert quantize({"w": torch.rand(FEW + 1, 3)}).keys() == {"w" + NUMBERS, "w" + SCALES}


def test_a_folder_is_stored_again_bit_for_bit(small: Path, tmp_path: Path) -> None:
    compact(small, tmp_path, CONFIG, [], ROOM, "int8")
    for path in small.iterdir():
        assert sha256_file(path) == sha256_file(tmp_path / path.name), path.name
    assert ModelFolder(small).fingerprint == ModelFolder(tmp_path).fingerprint


def test_vectors_stay_near_and_the_file_is_small(tiny_bert: Path, small: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(tiny_bert, tmp_path / "whole")
    CONFIG.save(whole)
    before, after = load_encoder(str(whole)), load_encoder(str(small))
    for a_BD, b_BD in (
        (before.encode_passages(PASSAGES), after.encode_passages(PASSAGES)),
        (before.encode_queries(TEXTS, None), after.encode_queries(TEXTS, None)),
    ):
        assert ((a_BD * b_BD).sum(1) > 0.999).all() and np.abs(a_BD - b_BD).max() > 1e-6  # another file
    assert after.fingerprint != before.fingerprint and after.passage_fingerprint != before.passage_fingerprint
    assert 3 * (small / INT8_FILE).stat().st_size < (tiny_bert / PLAIN_FILE).stat().st_size  # a scale for 32 numbers
    others = {"config.json", "tokenizer.json", "tokenizer_config.json", "taco_ir.json"}
    assert {path.name for path in small.iterdir()} == {INT8_FILE, *others}


def plain_again(small: Path, folder: Path) -> Path:
    """The same numbers in plain float32."""
    write_huggingface(small, CONFIG, folder, "plain")
    CONFIG.save(folder)
    return folder


def same(folder: Path, expected: Path) -> None:
    ours, theirs = load_encoder(str(folder)), load_encoder(str(expected))
    np.testing.assert_allclose(ours.encode_passages(PASSAGES), theirs.encode_passages(PASSAGES), rtol=0, atol=1e-6)


def test_others_read_plain_folders_only(small: Path, tmp_path: Path) -> None:
    """transformers finds no weights in ours, where it could have taken random ones; it reads exports as we do."""
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModel.from_pretrained(small)
    (tmp_path / "plain").mkdir()
    plain = plain_again(small, tmp_path / "plain")
    same(small, plain)
    expected_BD = load_encoder(str(small)).encode_queries(TEXTS, None)
    np.testing.assert_allclose(plainly(plain, TEXTS, "mean", True), expected_BD, rtol=0, atol=1e-5)
    assert AutoModel.from_pretrained(plain).dtype == torch.float32 and KEY not in (plain / "config.json").read_text()
    (tmp_path / "st").mkdir()
    write_sentence_transformers(small, CONFIG, tmp_path / "st")
    theirs_BD = SentenceTransformer(str(tmp_path / "st"), device="cpu").encode_query(TEXTS)
    np.testing.assert_allclose(theirs_BD, expected_BD, rtol=0, atol=1e-5)


def trained(small: Path, output: Path) -> Path:
    training_runs.episode(training_runs.small(small, output, pooling=None, steps=2), output, validated=False).run()
    return output / "model"


def pretrained(small: Path, output: Path) -> Path:
    from pretraining_runs import small as small_run

    from taco_ir.training.run import train as pretrain

    return pretrain(small_run(small, output, objective=("span_contrast",), pooling=None, steps=2))


@pytest.mark.parametrize("train", [trained, pretrained])
def test_training_starts_from_it_and_writes_a_plain_model(
    small: Path, tmp_path: Path, train: Callable[[Path, Path], Path]
) -> None:
    (tmp_path / "plain").mkdir()
    plain = plain_again(small, tmp_path / "plain")
    from_8_bits, from_plain = train(small, tmp_path / "a"), train(plain, tmp_path / "b")
    assert KEY not in (from_8_bits / "config.json").read_text() and not (from_8_bits / INT8_FILE).exists()
    expected = load_file(from_plain / PLAIN_FILE)
    found = load_file(from_8_bits / PLAIN_FILE)
    moved = 0.0
    for name, before in read_weights(small).items():
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
        moved = max(moved, float((found[name] - before).abs().max()))
    assert moved > 1e-4


def test_adapters_are_trained_on_it_and_merged(small: Path, tmp_path: Path) -> None:
    from adapter_models import saved

    folder = saved(tmp_path / "tuned", small, "lora", "shared")
    tuned = load_encoder(str(folder))
    with open_merged(tuned, None) as merged:
        assert KEY not in (merged / "config.json").read_text() and not (merged / INT8_FILE).exists()
        found_BD = load_encoder(str(merged)).encode_queries(TEXTS, "nq")
    np.testing.assert_allclose(found_BD, tuned.encode_queries(TEXTS, "nq"), rtol=0, atol=2e-5)


def test_a_reader_and_pyserini_read_it(small: Path) -> None:
    from taco_ir.encoders.backbone import load_backbone
    from taco_ir.reading.reader import load_reader_config
    from taco_ir.retrieval.pyserini_bridge import TacoDocumentEncoder, TacoQueryEncoder

    encoder = load_encoder(str(small))
    query_D = TacoQueryEncoder(str(small)).encode(TEXTS[0])
    np.testing.assert_array_equal(query_D, encoder.encode_queries(TEXTS[:1], None)[0])
    texts, titles = [passage.text for passage in PASSAGES], [passage.title for passage in PASSAGES]
    passages_ND = TacoDocumentEncoder(str(small)).encode(texts=texts, titles=titles)
    np.testing.assert_array_equal(passages_ND, encoder.encode_passages(PASSAGES))
    backbone, _, _ = load_backbone(ModelFolder(small), load_reader_config(small))
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(dict(backbone.named_parameters())[name], read_weights(small)[name])


def test_scales_are_no_parameters(tiny_bert: Path, small: Path) -> None:
    assert count_parameters([["--model", str(small)]]) == count_parameters([["--model", str(tiny_bert)]])


def without(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / INT8_FILE)
        del tensors[name]
        save_file(tensors, folder / INT8_FILE, {"format": "pt"})

    return change


def configured(value: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), KEY: value}))

    return change


def without_matrices(folder: Path) -> None:
    save_file({"w": torch.ones(2)}, folder / INT8_FILE)


LAYER, NORM = "encoder.layer.0.output.dense.weight", "embeddings.LayerNorm.weight"
NEEDED = f"{LAYER} needs {LAYER}{NUMBERS}, an int8 matrix, and {LAYER}{SCALES}, with a scale for each row"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(LAYER + SCALES), f"{INT8_FILE}: {NEEDED}"),
        (without(LAYER + NUMBERS), f"{INT8_FILE}: {NEEDED}"),
        (without(NORM), f"weights lack 1 tensors of a bert model, such as '{NORM}'"),
        (lambda folder: (folder / INT8_FILE).write_bytes(b"no tensors"), f"{INT8_FILE}: cannot be read"),
        (lambda folder: (folder / INT8_FILE).rename(folder / PLAIN_FILE), f"{INT8_FILE}: cannot be read"),
        (without_matrices, f"{INT8_FILE}: it has no matrix in 8 bits, although config.json says"),
        (
            configured("int4"),
            r"config.json: taco_ir_weights is 'int4'; valid: 'int8', or no such key for plain weights",
        ),
        (configured(None), r"no file named model\.safetensors"),
    ],
)
def test_what_is_damaged_or_foreign_is_one_line(
    small: Path, tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    compact(small, tmp_path, CONFIG, [], ROOM, "int8")
    change(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        load_encoder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_numbers_that_are_none_are_not_stored(tiny_bert: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tiny_bert, tmp_path / "m")
    tensors = load_file(source / PLAIN_FILE)
    tensors[LAYER][0, 0] = float("nan")
    save_file(tensors, source / PLAIN_FILE, {"format": "pt"})
    for stored in ("int8", "float16"):
        with pytest.raises(InputError, match=f"{LAYER}.* contains infinite numbers or NaN"):
            compact(source, tmp_path, CONFIG, [], ROOM, stored)
