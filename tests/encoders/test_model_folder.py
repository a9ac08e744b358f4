"""Model folders: every file that can move vectors is in the fingerprint, and no door opens to pickled weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pretraining_runs
import pytest
import torch
import training_runs
from adapter_models import saved
from safetensors.torch import load_file, save_file

from taco_ir.core.files import InputError
from taco_ir.encoders.config import EncoderConfig, Role
from taco_ir.encoders.exports import copy_backbone, write_sentence_transformers
from taco_ir.encoders.model_folder import Kind, ModelFolder
from taco_ir.encoders.names import HUB_FILES
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.reading.reader import ReaderConfig, load_reader, new_head, save_head
from taco_ir.training.base_model import start_encoder
from taco_ir.training.encoder import DualEncoder

CONFIG = EncoderConfig("mean", True, {}, 64, {}, 64)
TEXTS = ["The painter Francis Bacon", "a poem of the year"]
READ = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "merges.txt", "bpe.codes")
UNREAD = ("README.md", ".gitattributes", "pytorch_model.bin", "model.onnx", "modeling_custom.py", "card.json")


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """A whole model of our own, to change."""
    shutil.copytree(tiny_bert, tmp_path / "m")
    CONFIG.save(tmp_path / "m")
    return tmp_path / "m"


def fingerprints(folder: Path) -> tuple[str, str]:
    encoder = load_encoder(str(folder))
    return encoder.fingerprint, encoder.passage_fingerprint


def test_a_folder_is_of_one_kind(tiny_bert: Path, folder: Path, tmp_path: Path) -> None:
    assert ModelFolder(folder).kind is Kind.OURS and ModelFolder(tiny_bert).kind is Kind.PLAIN
    assert ModelFolder(saved(tmp_path / "adapters", tiny_bert)).kind is Kind.ADAPTERS
    write_sentence_transformers(folder, CONFIG, made_folder(tmp_path / "theirs"))
    assert ModelFolder(tmp_path / "theirs").kind is Kind.SENTENCE_TRANSFORMERS
    for tower in ("query", "passage"):
        shutil.copytree(folder, tmp_path / "two" / tower)
    assert ModelFolder(tmp_path / "two").kind is Kind.TOWERS


def test_every_kind_has_the_properties_of_its_backbone(tiny_bert: Path, folder: Path, tmp_path: Path) -> None:
    """Configuration and longest input are the backbone's; tied towers are one object in the encoder as well."""
    for tower in ("query", "passage"):
        shutil.copytree(folder, tmp_path / "two" / tower)
    adapters = ModelFolder(saved(tmp_path / "adapters", tiny_bert))
    assert adapters.record is not None and adapters.record.base == str(tiny_bert)
    assert adapters.backbone() == ModelFolder(tiny_bert)
    for each in (ModelFolder(tiny_bert), ModelFolder(folder), ModelFolder(tmp_path / "two"), adapters):
        assert each.longest == 128
        if each.path != tiny_bert:
            encoder = load_encoder(str(each))
            assert each.trained_config.passage_length == encoder.config.passage_length
            tied = each.towers[Role.QUERY] == each.towers[Role.PASSAGE]
            assert (encoder.towers[Role.QUERY] is encoder.towers[Role.PASSAGE]) == tied == (each.path.name != "two")


def made_folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("name", (*READ, "more.safetensors"))
def test_files_that_a_loader_can_read_are_in_the_fingerprint(folder: Path, name: str) -> None:
    """New and changed files, whatever their names: somebody would forget to extend a list."""
    found = {ModelFolder(folder).fingerprint}
    for value in ({}, {"a": 1}):
        if name.endswith(".safetensors"):
            save_file({"x": torch.ones(1 + len(value))}, folder / name)
        else:
            (folder / name).write_text(json.dumps(value))
        found.add(ModelFolder(folder).fingerprint)
    assert len(found) == 3


@pytest.mark.parametrize("name", UNREAD)
def test_files_that_change_no_vector_are_not(folder: Path, name: str) -> None:
    before = fingerprints(folder)
    (folder / name).write_text("{}")
    assert fingerprints(folder) == before


def test_a_tokenizer_that_keeps_capitals_is_another_encoder(tiny_bert: Path, folder: Path) -> None:
    """`do_lower_case` is only in tokenizer_config.json, and moves vectors."""
    path = folder / "tokenizer_config.json"
    found = []
    for lower in (True, False):
        values = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        encoder = load_encoder(str(folder))
        found.append((encoder.encode_queries(TEXTS[:1], None)[0], encoder.fingerprint, encoder.passage_fingerprint))
    assert float(found[0][0] @ found[1][0]) < 0.99
    assert found[0][1] != found[1][1] and found[0][2] != found[1][2]


def test_a_fingerprint_follows_what_is_changed_after_loading(tiny_bert: Path, folder: Path) -> None:
    EncoderConfig("mean", True, {"nq": "question "}, 64, {}, 64).save(folder)
    encoder = load_encoder(str(folder))
    before, passages = encoder.fingerprint, encoder.passage_fingerprint
    encoder.borrow({"fever": "nq"})
    assert encoder.fingerprint != before and encoder.passage_fingerprint == passages
    encoder.config = encoder.config.with_prompt("other ")
    towers = folder.parent / "towers"
    for tower in ("query", "passage"):
        shutil.copytree(folder, towers / tower)
    untied = load_encoder(str(towers))
    before = untied.fingerprint
    untied.config = untied.config.with_prompt("other ")
    assert untied.fingerprint != before


def test_a_reader_is_another_with_another_tokenizer(folder: Path) -> None:
    save_head(new_head(32), ReaderConfig(), folder)
    before = load_reader(str(folder)).fingerprint
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": False}))
    assert load_reader(str(folder)).fingerprint != before


def sharded(folder: Path, *names: str) -> Path:
    """Write the weights as shards of these names, as transformers does, with their index."""
    tensors = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    where = {}
    for place, name in enumerate(names):
        part = dict(tensors[place :: len(names)])
        where |= dict.fromkeys(part, name)
        if name.endswith(".safetensors"):
            save_file(part, folder / name, {"format": "pt"})
        else:
            torch.save(part, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def test_shards_of_safetensors_are_read_and_hashed(folder: Path) -> None:
    whole = load_encoder(str(folder)).encode_queries(TEXTS, None)
    sharded(folder, "a.safetensors", "b.safetensors")
    encoder = load_encoder(str(folder))
    assert (encoder.encode_queries(TEXTS, None) == whole).all()
    copied = folder.parent / "copied"
    copied.mkdir()
    copy_backbone(ModelFolder(folder), copied, 64)
    shards = ("a.safetensors", "b.safetensors")
    assert {path.name for path in copied.glob("*.safetensors*")} == {*shards, "model.safetensors.index.json"}
    for shard in shards:
        before = ModelFolder(folder).fingerprint
        doubled = {name: value * 2 for name, value in load_file(folder / shard).items()}
        save_file(doubled, folder / shard, {"format": "pt"})
        assert ModelFolder(folder).fingerprint != before


def pickled(folder: Path) -> str:
    """A shard that torch would load, beside a decoy."""
    sharded(folder, "weights.bin")
    save_file({"x": torch.ones(1)}, folder / "decoy.safetensors", {"format": "pt"})
    return r"names 'weights\.bin'; pickled weights are not read"


def adapter(folder: Path) -> str:
    """An adapter of PEFT for another base; transformers would load that base, or apply the adapter."""
    values = {"peft_type": "LORA", "base_model_name_or_path": str(folder), "r": 1}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    save_file({"x": torch.ones(1)}, folder / "adapter_model.safetensors", {"format": "pt"})
    return r"adapter_config\.json makes it a PEFT adapter"


def elsewhere(folder: Path) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transformers_weights": "decoy.safetensors"}))
    shutil.copy(folder / "model.safetensors", folder / "decoy.safetensors")
    return r"transformers_weights is 'decoy\.safetensors'"


def outside(folder: Path) -> str:
    shutil.copy(folder / "model.safetensors", folder.parent / "w.safetensors")
    sharded(folder, "w.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(path.read_text().replace('"w.safe', '"../w.safe'))
    return r"names '\.\./w\.safetensors', but there is no such file beside it"


DOORS: dict[str, Callable[[Path], object]] = {
    "search": lambda folder: load_encoder(str(folder)),
    "train": lambda folder: start_encoder(training_runs.small(folder, Path("o"), pooling=None), folder, ["nq"]),
    "go on with two towers": lambda folder: DualEncoder(folder, CONFIG, True),
    "pretrain": lambda folder: start_encoder(pretraining_runs.small(folder, Path("o"), pooling=None), folder, ()),
    "go on from a checkpoint": pretraining_runs.loaded,
    "read": lambda folder: load_reader(str(folder)),
    "hash": lambda folder: ModelFolder(folder).fingerprint,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("fault", [pickled, adapter, elsewhere, outside])
def test_other_weights_get_through_no_door(folder: Path, door: str, fault: Callable[[Path], str]) -> None:
    save_head(new_head(32), ReaderConfig(), folder)
    message = fault(folder)
    with pytest.raises(InputError, match=message):
        DOORS[door](folder)


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', "[]", "{"])
def test_an_index_that_says_nothing_is_refused(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match=r"model\.safetensors\.index\.json"):
        load_encoder(str(folder))


def test_pickled_weights_beside_safetensors_are_left_alone(folder: Path) -> None:
    """As on the hub: nothing names them, and nothing reads them."""
    before = fingerprints(folder)
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    assert fingerprints(folder) == before


def test_a_trained_model_keeps_every_file_of_its_tokenizer(folder: Path, tmp_path: Path) -> None:
    more = ("special_tokens_map.json", "added_tokens.json", "sentencepiece.bpe.model")
    for name in more:
        (folder / name).write_text("{}")
    DualEncoder(folder, CONFIG, False).save(tmp_path / "out")
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert {*more, "tokenizer.json", "tokenizer_config.json"} <= kept


def test_a_hub_is_asked_for_no_pickled_weights() -> None:
    weights = ("pytorch_model.bin", "adapter_model.bin", "2_Dense/pytorch_model.bin", "model.pt", "rust_model.ot")
    for name in (*weights, "modeling_x.py"):
        assert not any(fnmatch(name, pattern) for pattern in HUB_FILES)
