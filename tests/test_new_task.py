"""docs/new-task.md: its commands give a new task an adapter; the index and the other tasks stay as they are."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from conftest import tiny_tokenizer
from documents import ROOT, blocks, command, module, runnable
from test_docs import run_in_a_process
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, BertModel

from taco_ir.core.files import InputError
from taco_ir.core.hashes import sha256_file
from taco_ir.core.run_formats import read_trec
from taco_ir.data.collection import open_collection
from taco_ir.encoders import names as builtin
from taco_ir.encoders.config import EncoderConfig
from taco_ir.evaluation.measures import Measure, score_run
from taco_ir.release.exports import read_texts
from taco_ir.search import main as search

TEXT = (ROOT / "docs" / "new-task.md").read_text(encoding="utf-8")
LINES = [line for _, block in runnable(TEXT) for line in block.splitlines()]
(MIXED,) = (block for fence, block in blocks(TEXT) if fence == "jsonl")
TINY = "--passage-length 60 --query-length 48 --tune-width 32 --learning-rate 1e-2 --steps 40 --validate-every 99"
MORE = TINY.split()


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A backbone that is of use untrained: its vectors are little more than means of word vectors."""
    folder = tmp_path / "words"
    tiny_tokenizer(folder, ("[CLS] $A [SEP]", ["[CLS]", "[SEP]"]))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items())]
    split = [
        word
        for text in read_texts(open_collection("sample"))
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text.lower())
    ]
    number_of = {word: number for number, word in enumerate([*special, *sorted(set(split))])}
    tokenizer.model = WordLevel(number_of, unk_token="[UNK]")
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
    }
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(number_of), **sizes))
    with torch.no_grad():
        for name, param in model.named_parameters():
            if name == "embeddings.word_embeddings.weight":
                param.normal_()
            elif name.startswith("embeddings.") and "LayerNorm" not in name:
                param.zero_()
            elif name.endswith("output.dense.weight"):
                param.mul_(0.1)
    model.save_pretrained(folder)
    EncoderConfig("mean", True, query_length=128, passage_length=128).save(folder)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"
    }


def quality(model: str) -> float:
    """MRR@10 of the queries that the new task's adapter trains on: a random backbone learns nothing for others."""
    search(["--model", model, "--topics", "trex-train", "--no-compare", "--output", "learned.trec", "--overwrite"])
    collection, measure = open_collection("sample"), Measure.parse("MRR@10")
    queries = collection.load_topics("trex-train").queries
    return (
        score_run(read_trec(Path("learned.trec")), queries, collection.passages.page_of, [measure]).mean(measure) or 0.0
    )


def test_the_page_works_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(builtin.BUILTIN, builtin.SHIPPED_BACKBONE, lambda: words)
    Path("mixed.jsonl").write_text(MIXED, encoding="utf-8")
    index: dict[str, str] = {}
    for line in LINES:
        verb, argv = command(line)
        importlib.import_module(module(verb)).main([*argv, *(MORE if verb == "train" else [])])
        if verb == "index":
            index = hashes(Path("index")) | hashes(Path("vectors"))
            with pytest.raises(
                InputError, match="has (prompts for .*, but not for|adapters for .*, but not of) task 'trex'"
            ):
                search(
                    ["--model", "first/model", "--index", "index", "--topics", "trex-dev", "--output", "refused.trec"]
                )
    assert index and index == hashes(Path("index")) | hashes(Path("vectors"))
    assert quality("second/model") > quality(builtin.SHIPPED_BACKBONE) + 0.1
    for name in ("nq-dev", "fever-dev", "wow-dev"):
        first, second = (Path(f"runs/{run}/{name}.trec").read_bytes() for run in ("first", "second"))
        assert second.replace(b" second\n", b" first\n") == first  # all but the run's tag
    assert set(read_trec(Path("mixed.trec")).rankings) == {"a", "b", "c"}
    assert "against before" in capsys.readouterr().out


def test_the_page_works_in_a_process_without_java(tmp_path: Path, words: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mixed.jsonl").write_text(MIXED, encoding="utf-8")
    run_in_a_process("docs/new-task.md", tmp_path / "folder", str(words), *MORE, "--steps", "4")
    assert set(read_trec(tmp_path / "folder" / "mixed.trec").rankings) == {"a", "b", "c"}
