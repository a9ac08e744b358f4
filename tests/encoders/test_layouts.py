"""Layouts of other people's models: vectors and exports are those of the libraries that wrote the folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.types import Passage, Vectors
from taco_ir.data.collection import open_collection
from taco_ir.encoders.config import Role
from taco_ir.encoders.exports import write_huggingface, write_sentence_transformers
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.pooling import pool
from taco_ir.encoders.text_encoder import TextEncoder, load_encoder
from taco_ir.training.base_model import config_for_tasks
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.settings import EncoderSettings

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
        ids = tokenizer(text)["input_ids"]
        if other:  # the tiny tokenizer knows no pairs
            ids += [*tokenizer(other[place])["input_ids"][1:]]
        with torch.no_grad():
            found.append(vector(model(torch.tensor([[*ids[:127], ids[-1]] if len(ids) > 128 else ids])))[0].numpy())
    return np.stack(found)


def exported(encoder: TextEncoder, folder: Path, base: Path | None = None) -> None:
    """The export to sentence-transformers encodes as its source, there and here."""
    folder.mkdir()
    write_sentence_transformers(encoder.folder, encoder.config, folder, base and str(base))
    theirs, again = SentenceTransformer(str(folder), device="cpu"), load_encoder(str(folder))
    for queries_BD in (theirs.encode_query(QUERIES), again.encode_queries(QUERIES, None)):
        near(queries_BD, encoder.encode_queries(QUERIES, None))
    for passages_ND in (theirs.encode_document(WHOLE), again.encode_passages(PASSAGES)):
        near(passages_ND, encoder.encode_passages(PASSAGES))


@pytest.mark.parametrize("width", [0, 24])
def test_dpr_reads_its_pairs_of_folders(
    tiny_bert: Path, tmp_path: Path, width: int, caplog: pytest.LogCaptureFixture
) -> None:
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
    (tmp_path / "passages").mkdir()
    write_sentence_transformers(pair / "passage", encoder.towers[Role.PASSAGE].config, tmp_path / "passages")
    their_texts = [f"{passage.title} [SEP] {passage.text}" for passage in PASSAGES]
    near(SentenceTransformer(str(tmp_path / "passages"), device="cpu").encode_document(their_texts), encoded_ND)
    assert "encode_document(['title [SEP] text'])" in (tmp_path / "passages" / "README.md").read_text()
    assert "a passage is one text, 'title [SEP] text', which users of the folder write" in caplog.text
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
    with pytest.raises(
        InputError, match=r"reader: it is a DPRReader, which does not make vectors; allowed: DPRQuestionE"
    ):
        load_encoder(str(tmp_path / "reader"))
    made(tiny_bert, tmp_path / "query", "DPRQuestionEncoder", **SIZES)
    with pytest.raises(InputError, match=r"query: DPR models always use the pooler; leave out --pooling mean"):
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


def theirs(folder: Path, *modules: torch.nn.Module, **config: Any) -> TextEncoder:
    """A folder that sentence-transformers writes, encoded by both; `config` replaces what the Transformer's says."""
    SentenceTransformer(modules=list(modules), device="cpu").save(str(folder))
    for path in folder.rglob("sentence_bert_config.json"):
        write_json(path, read_json(path, dict[str, Any]) | config)
    return alike(folder)


def alike(folder: Path) -> TextEncoder:
    """The encoder of a folder, once its vectors are those of sentence-transformers."""
    model, encoder = SentenceTransformer(str(folder), device="cpu"), load_encoder(str(folder))
    near(encoder.encode_queries(QUERIES, None), model.encode_query(QUERIES))
    near(encoder.encode_passages(PASSAGES), model.encode_document(WHOLE))
    return encoder


def dense(inputs: int, outputs: int, **said: Any) -> Dense:
    layer = Dense(inputs, outputs, **said)
    torch.nn.init.normal_(layer.linear.weight, std=0.3)
    return layer


LAYERS: dict[str, Callable[[], list[Dense]]] = {
    "bias and tanh": lambda: [dense(32, 24)],
    "neither": lambda: [dense(32, 24, bias=False, activation_function=torch.nn.Identity())],
    "two": lambda: [dense(32, 40, activation_function=torch.nn.GELU()), dense(40, 16, bias=False)],
}


@pytest.mark.parametrize("layers", LAYERS)
def test_linear_layers_of_sentence_transformers(tiny_bert: Path, tmp_path: Path, layers: str) -> None:
    """Also the old folder, whose Transformer is in `0_Transformer`; the layers' weights are in the fingerprint."""
    torch.manual_seed(4)
    folder = tmp_path / "new"
    encoder = theirs(folder, Transformer(str(tiny_bert)), Pooling(32, "mean"), *LAYERS[layers](), Normalize())
    exported(encoder, tmp_path / "theirs")
    with pytest.raises(InputError, match="this format cannot store a linear head"):
        write_huggingface(folder, encoder.config, tmp_path, "plain")
    trained = DualEncoder(folder, ModelFolder(folder).config(), False)
    trained.save(tmp_path / "trained")
    near(load_encoder(str(tmp_path / "trained")).encode_passages(PASSAGES), encoder.encode_passages(PASSAGES))
    weights = folder / "2_Dense" / "model.safetensors"
    save_file({name: value * 2 for name, value in load_file(weights).items()}, weights)
    assert load_encoder(str(folder)).fingerprint != encoder.fingerprint


def old_layout(source: Path, folder: Path) -> Path:
    """A folder as sentence-transformers once wrote them: the Transformer's files one folder down."""
    shutil.copytree(source, folder)
    modules = read_json(folder / "modules.json", list[dict[str, Any]])
    own = {entry["path"] for entry in modules} | {"modules.json", "config_sentence_transformers.json"}
    (folder / "0_Transformer").mkdir()
    for path in list(folder.iterdir()):
        if path.name not in own and path.name != "0_Transformer":
            path.rename(folder / "0_Transformer" / path.name)
    write_json(folder / "modules.json", [{**modules[0], "path": "0_Transformer"}, *modules[1:]])
    return folder


def test_the_old_folders_of_sentence_transformers(tiny_bert: Path, tmp_path: Path) -> None:
    encoder = theirs(tmp_path / "new", Transformer(str(tiny_bert), max_seq_length=20), Pooling(32, "cls"))
    old = alike(old_layout(tmp_path / "new", tmp_path / "old"))
    near(old.encode_passages(PASSAGES), encoder.encode_passages(PASSAGES))
    exported(old, tmp_path / "theirs")
    near(
        by_transformers(tmp_path / "theirs", "AutoModel", lambda out: out.last_hidden_state[:, 0], QUERIES[:1]),
        old.encode_queries(QUERIES[:1], None),
    )


def test_texts_are_lowercased_where_the_folder_says_so(tiny_t5: Path, tmp_path: Path) -> None:
    """By `do_lower_case`, with a tokenizer that keeps capitals, which training keeps too."""
    source = tmp_path / "source"
    shutil.copytree(tiny_t5, source)
    tokenizer = read_json(source / "tokenizer.json", dict[str, Any])
    write_json(source / "tokenizer.json", tokenizer | {"normalizer": None})
    as_is = theirs(tmp_path / "m", Transformer(str(source)), Pooling(32, "mean"))
    encoder = theirs(tmp_path / "lower", Transformer(str(source)), Pooling(32, "mean"), do_lower_case=True)
    capitals_BD = as_is.encode_queries(QUERIES[1:2], None) - encoder.encode_queries(QUERIES[1:2], None)
    assert np.abs(capitals_BD).max() > 1e-3 and as_is.passage_fingerprint != encoder.passage_fingerprint
    exported(encoder, tmp_path / "theirs")
    DualEncoder(tmp_path / "lower", encoder.config, False).save(tmp_path / "trained")
    near(load_encoder(str(tmp_path / "trained")).encode_passages(PASSAGES), encoder.encode_passages(PASSAGES))


def routes(tiny_bert: Path, target: Path) -> dict[str, list[torch.nn.Module]]:
    """Modules of two towers that share nothing but the width of their vectors."""
    other = made(tiny_bert, target, "BertModel", **SIZES)
    return {
        "query": [Transformer(str(tiny_bert), max_seq_length=12), Pooling(32, "cls"), dense(32, 24)],
        "document": [Transformer(str(other)), Pooling(32, "mean"), dense(32, 24, bias=False)],
    }


@pytest.mark.parametrize("old", [False, True], ids=["Router", "Asym"])
def test_queries_and_documents_have_routes_of_their_own(tiny_bert: Path, tmp_path: Path, old: bool) -> None:
    folder = tmp_path / "m"
    encoder = theirs(folder, Router(routes(tiny_bert, tmp_path / "other")), Normalize())
    if old:
        modules = (folder / "modules.json").read_text()
        (folder / "modules.json").write_text(modules.replace("base.modules.router.Router", "models.Asym"))
        path = next(folder.rglob("router_config.json"))
        path.rename(path.with_name("config.json"))
        near(load_encoder(str(folder)).encode_passages(PASSAGES), encoder.encode_passages(PASSAGES))
    assert encoder.towers[Role.QUERY].config.pooling == "first" and encoder.config.passage_length == 128
    with pytest.raises(
        InputError, match="this model has two towers, but the format holds only one; use --encoder-class taco"
    ):
        write_sentence_transformers(folder, encoder.config, tmp_path)
    with pytest.raises(InputError, match=r"modules\.json: a (Router|Asym), which has separate modules for queries and"):
        DualEncoder(folder, encoder.config, False)


def test_a_route_that_is_missing_is_named(tiny_bert: Path, tmp_path: Path) -> None:
    made_of = routes(tiny_bert, tmp_path / "other")
    SentenceTransformer(modules=[Router({"query": made_of["query"], "image": made_of["document"]})]).save(
        str(tmp_path / "m")
    )
    with pytest.raises(
        InputError, match=r"key 'structure' has no route document or passage or corpus or doc, only query, im"
    ):
        load_encoder(str(tmp_path / "m"))


def changed(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    write_json(path, (read_json(path, dict[str, Any]) if path.is_file() else {}) | values)


def with_one_more_token(folder: Path) -> None:
    vocabulary = read_json(folder / "tokenizer.json", dict[str, Any])
    vocabulary["model"]["vocab"]["onemore"] = len(vocabulary["model"]["vocab"])
    write_json(folder / "tokenizer.json", vocabulary)


def with_a_slow_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "vocab.txt")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def one_folder_down(folder: Path) -> None:
    shutil.copytree(folder, folder / "checkpoint-2")
    (folder / "model.safetensors").unlink()


def with_a_linear_head(folder: Path) -> None:
    weights = folder / "model.safetensors"
    save_file({**load_file(weights), "linear.weight": torch.ones(8, 32)}, weights, {"format": "pt"})


def of_other_code(folder: Path) -> None:
    changed(folder, "config.json", model_type="new", auto_map={"AutoModel": "modeling.NewModel"})
    (folder / "modeling.py").write_text("raise SystemExit('run')")


def of_other_modules(kind: str) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}])


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a token without a row": (
        with_one_more_token,
        r"m: its tokenizer has \d+ tokens, but its embedding table only \d+ rows; giv",
    ),
    "a slow tokenizer": (
        with_a_slow_tokenizer,
        r"m: its tokenizer \(ByT5Tokenizer\) has no fast version, which is needed",
    ),
    "pickles": (
        pickled,
        r"m: a model folder needs config.json and .*pytorch_model\.bin is pickled, and pickles run code; if you",
    ),
    "pickles of DPR": (
        lambda folder: [changed(folder, "config.json", architectures=["DPRContextEncoder"]), pickled(folder)],
        r"from transformers import DPRContextEncoder, AutoTokenizer; \[each\.from_pretrained\('.*m'\)\.save_pretrained",
    ),
    "one folder down": (one_folder_down, r"missing: both, but .*checkpoint-2 has them; give that folder"),
    "code for a model": (of_other_code, r"m: config\.json requires custom code \(auto_map\), which taco_ir never runs"),
    "code for a module": (
        of_other_modules("custom_st.Transformer"),
        r"type is 'custom_st.Transformer': code; taco_ir never runs",
    ),
    "PyLate": (
        of_other_modules("pylate.models.Dense.Dense"),
        r"a ColBERT model of PyLate, with a vector for each token",
    ),
    "ColBERT by its class": (
        lambda folder: changed(folder, "config.json", architectures=["HF_ColBERT"]),
        r"m: a ColBERT model, which has a",
    ),
    "ColBERT by its file": (
        lambda folder: changed(folder, "artifact.metadata"),
        r"m: a ColBERT model, which has a vec",
    ),
    "ColBERT by its weights": (with_a_linear_head, r"m: a ColBERT model, which has a vector for each token"),
    "a cross-encoder": (
        lambda folder: changed(folder, "config.json", architectures=["BertForSequenceClassification"]),
        r"m: it is a cross-encoder or classifier \(BertForSequenceClassification\), which scores texts",
    ),
    "a cross-encoder's modules": (
        lambda folder: [
            changed(folder, "config_sentence_transformers.json", model_type="CrossEncoder"),
            of_other_modules("sentence_transformers.models.Transformer")(folder),
        ],
        r"model_type is 'CrossEncoder'; a SentenceTransformer is needed",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_models_that_are_no_encoders_are_named(tiny_bert: Path, tmp_path: Path, other: str) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_bert, folder)
    change, said = OTHERS[other]
    change(folder)
    with pytest.raises(InputError, match=said) as caught:
        load_encoder(str(folder), pooling=None if (folder / "modules.json").is_file() else "mean")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_prompt_of_passages_is_before_each_and_in_what_vectors_are_made_of(tiny_bert: Path, tmp_path: Path) -> None:
    plain = load_encoder(str(tiny_bert), pooling="mean")
    encoder = load_encoder(str(tiny_bert), pooling="mean", prompt="query: ", passage_prompt="passage: ")
    near(encoder.encode_queries(QUERIES, None), plain.encode_queries([f"query: {text}" for text in QUERIES], None))
    near(encoder.encode_passages(PASSAGES), plain.encode_queries([f"passage: {text}" for text in WHOLE], None))
    assert (plain.passage_template, encoder.passage_template) == ("{title} {text}", "passage: {title} {text}")
    assert encoder.passage_fingerprint != plain.passage_fingerprint
    exported(encoder, tmp_path / "theirs")
    other = load_encoder(str(tmp_path / "theirs"), passage_prompt="")
    near(other.encode_passages(PASSAGES), plain.encode_passages(PASSAGES))
    write_huggingface(tiny_bert, encoder.config, tmp_path, "plain")
    assert (
        "no flag gives the passage template 'passage: {title} {text}'" in (tmp_path / "pyserini-flags.txt").read_text()
    )
    encoder.config.save(tmp_path)
    saved = read_json(tmp_path / "taco_ir.json", dict[str, Any])
    assert saved["passage_prompt"] == "passage: " and "passage_prompt" not in plain.config.described
    plain.config.save(tmp_path)
    assert "passage_prompt" not in read_json(tmp_path / "taco_ir.json", dict[str, Any])


def test_training_keeps_the_prompt_of_passages(tiny_bert: Path) -> None:
    base = load_encoder(str(tiny_bert), pooling="mean", passage_prompt="base: ").config
    for given, expected in ((None, "base: "), ("", ""), ("passage: ", "passage: ")):
        settings = EncoderSettings(passage_prompt=given)
        assert config_for_tasks(settings, base, ["nq"], ":", 128).passage_prompt == expected


def adapter_of(base: Path, folder: Path, model: torch.nn.Module, **settings: Any) -> Path:
    """A LoRA of PEFT with random weights, as PEFT writes it."""
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **settings))
    torch.manual_seed(5)
    for name, param in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(param, std=0.3)
    tuned.save_pretrained(folder)
    changed(folder, "adapter_config.json", base_model_name_or_path=str(base))
    return folder


@pytest.mark.parametrize("kind", ["Qwen3Model", "Qwen3ForCausalLM"])
def test_an_adapter_of_peft_is_merged_into_its_base(tiny_t5: Path, tmp_path: Path, kind: str) -> None:
    base = made(tiny_t5, tmp_path / "base", kind, head_dim=8, num_key_value_heads=2, **SIZES)
    model = getattr(transformers, kind).from_pretrained(base)
    folder = adapter_of(base, tmp_path / "m", model, task_type="CAUSAL_LM" if "Causal" in kind else None)
    encoder = load_encoder(str(folder), pooling="last")
    merged = peft.PeftModel.from_pretrained(
        getattr(transformers, kind).from_pretrained(base), folder
    ).merge_and_unload()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    whole = getattr(merged, "model", merged).eval()
    with torch.no_grad():
        expected = [whole(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1].numpy() for text in QUERIES]
    near(encoder.encode_queries(QUERIES, None), expected)
    alone = load_encoder(str(base), pooling="last")
    assert np.abs(alone.encode_queries(QUERIES, None) - expected).max() > 1e-3
    assert alone.fingerprint != encoder.fingerprint
    exported(encoder, tmp_path / "theirs")
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"makes it a PEFT adapter, and its base .* is missing; give --base FOLDER"):
        load_encoder(str(folder), pooling="last")
    again = load_encoder(str(folder), pooling="last", base=str(moved))
    near(again.encode_queries(QUERIES, None), expected)
    exported(again, tmp_path / "elsewhere", moved)


def test_sentence_transformers_folders_may_be_adapters_of_peft(tiny_t5: Path, tmp_path: Path) -> None:
    base = made(tiny_t5, tmp_path / "base", "Qwen3Model", head_dim=8, num_key_value_heads=2, **SIZES)
    model = SentenceTransformer(modules=[Transformer(str(base)), Pooling(32, "lasttoken"), Normalize()], device="cpu")
    model.add_adapter(peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.save(str(tmp_path / "m"))
    changed(tmp_path / "m", "adapter_config.json", base_model_name_or_path=str(base))
    assert not (tmp_path / "m" / "model.safetensors").exists()
    exported(alike(tmp_path / "m"), tmp_path / "theirs")


def test_adapters_of_peft_that_cannot_be_merged_are_refused(tiny_t5: Path, tmp_path: Path) -> None:
    base = made(tiny_t5, tmp_path / "base", "Qwen3Model", head_dim=8, num_key_value_heads=2, **SIZES)
    folder = adapter_of(base, tmp_path / "m", transformers.AutoModel.from_pretrained(base))
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file(dict(list(tensors.items())[1:]), weights)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: it lacks 1 tensors, such as 'base_model"):
        load_encoder(str(folder), pooling="last")
    changed(folder, "adapter_config.json", peft_type="PROMPT_TUNING")
    with pytest.raises(InputError, match=r"PEFT adapter \(PROMPT_TUNING\); only LORA with adapter_model\.safetens"):
        load_encoder(str(folder), pooling="last")


def test_a_slow_tokenizers_files_are_made_a_fast_one(tmp_path: Path) -> None:
    """As transformers makes it of RoBERTa's vocabulary and merges."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"whoit", "\u0120", "wh", "who"]
    write_json(tmp_path / "vocab.json", {word: number for number, word in enumerate(words)})
    (tmp_path / "merges.txt").write_text("#version: 0.2\nw h\nwh o\n")
    torch.manual_seed(2)
    config = transformers.RobertaConfig(vocab_size=len(words), **SIZES | {"max_position_embeddings": 130})
    transformers.RobertaModel(config).save_pretrained(tmp_path)
    texts = ["who it", "it who who", "wo"]
    expected_BD = by_transformers(tmp_path, "AutoModel", lambda output: output.last_hidden_state[:, 0], texts)
    near(load_encoder(str(tmp_path), pooling="first").encode_queries(texts, None), expected_BD)
