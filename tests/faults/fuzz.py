"""Damaged files for everything that reads one: `python fuzz.py [COUNT] [SEED]`. An answer or one line for the user.

Each input is a whole file with one fault: bytes flipped, cut or of another encoding; a key missing, twice, or of
another name; a value of another type, a number of 5,000 digits, lists 100,000 deep, half a character.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from taco_ir.core.files import InputError, write_json

Read = Callable[[], object]
MOST = 400  # characters of a message
DEEP = 100_000
HOLE = "a hole for raw text"
# instead of a value, as it stands in a file
VALUES = 'true -1 0 3 0.5 1e999 "" "x" [] {} [[]] ["x"] "\\ud800" "\\u0000"'
JSON_VALUES = 'null NaN Infinity [null] [{"x":1}] {"x":"y"} {"":null} ["\\udfff"] {"\\ud800":1}'
TOML_VALUES = "nan inf [1,[2]] {x=1} [{x=1}] 1979-05-27"
LONG_VALUES = (f'"{"x" * 3000}"', "9" * 300, "9" * 4000, "9" * 5000, "[" * DEEP + "]" * DEEP)
RAW = (*VALUES.split(), *JSON_VALUES.split(), *LONG_VALUES, "-" + "9" * 300, '{"a":' * DEEP + "1" + "}" * DEEP)
RAW_TOML = (*VALUES.split(), *TOML_VALUES.split(), *LONG_VALUES, "0x" + "f" * 5000, "{a=" * DEEP + "1" + "}" * DEEP)

NEEDED = {"model": "bert", "output": "out"}
SETTINGS = """model = "bert"
output = "out"
tasks = ["nq", "fever"]
learning_rate = 1e-4
batch_size = 8
prompts = true
weighting = "taco"
[weighting_options]
tau = 2.0
[[episode]]
negatives = "bm25"
steps = 10
[[episode]]
negatives = "ance"
repeat = 2
"""
PRETRAINING = """model = "bert"
output = "out"
objective = ["mlm"]
length = 32
learning_rate = 1e-4
pooling = "mean"
"""


ADAPTATION = """index = "pyserini-index"
model = "bert"
output = "out"
topics = ["nq-train", "faq.tsv"]
collection = "sample"
share = "group"
groups = ["a=nq,squad"]
width = 8
learning_rate = 1e-3
weighting = "taco"
[weighting_options]
tau = 2.0
"""


class Reader(NamedTuple):
    """A file, and what reads it.

    Attributes:
        keyed: whether the values are ours to check, so that a message names the key.
        weight: how often it is drawn.
    """

    path: Path
    read: Read
    keyed: bool = True
    weight: int = 4


class Fault(NamedTuple):
    """A damaged file, how it was damaged, and the keys of which a message should name one."""

    data: bytes
    what: str
    keys: tuple[str, ...] = ()


# ---- the files


def readers(world: Path) -> dict[str, Reader]:
    """Every reader by name, with a whole file of its own in `world`."""
    os.environ["TACO_IR_HOME"] = str(world / "home")
    found = {**models(world), **stores(world), **trainings(world), **studies(world), **lines(world), **formats(world)}
    found |= {**frozen(world), **adaptations(world)}
    for name, reader in found.items():
        try:
            reader.read()
        except Exception as error:
            raise SystemExit(f"{name}: the whole file is not read: {error}") from error
    return found


def models(world: Path) -> dict[str, Reader]:
    import peft
    import torch
    from conftest import tiny_tokenizer
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    from taco_ir.encoders.adapters.folder import read_record
    from taco_ir.encoders.config import EncoderConfig
    from taco_ir.encoders.model_folder import ModelFolder
    from taco_ir.encoders.text_encoder import load_encoder
    from taco_ir.encoders.weights import read_weights
    from taco_ir.release.compact import compact
    from taco_ir.release.model_card import read_facts

    torch.manual_seed(0)
    plain, ours, theirs, tuned = (world / name for name in ("plain", "ours", "theirs", "tuned"))
    size = tiny_tokenizer(plain, ("[CLS] $A [SEP]", ["[CLS]", "[SEP]"]), "[MASK]")
    shape = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 64,
    }
    BertModel(BertConfig(vocab_size=size, **shape)).save_pretrained(plain)
    weights = dict.fromkeys(("embeddings.word_embeddings.weight", "pooler.dense.bias"), "model.safetensors")
    for folder in (ours, theirs):
        shutil.copytree(plain, folder)
    config = EncoderConfig("mean", True, {"nq": "query: "}, 16, {"nq": 12}, 32)
    config.save(ours)
    write_json(ours / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": weights})
    (theirs / "1_Pooling").mkdir()
    write_json(
        theirs / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(KINDS)
        ],
    )
    write_json(
        theirs / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": 8,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "include_prompt": True,
        },
    )
    (theirs / "2_Dense").mkdir()
    write_json(
        theirs / "2_Dense" / "config.json",
        {"in_features": 8, "out_features": 4, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"},
    )
    routed = world / "routed"
    shutil.copytree(plain, routed / "0_Router" / "text")
    shutil.copytree(theirs / "1_Pooling", routed / "0_Router" / "pool")
    router = {"idx": 0, "name": "0", "path": "0_Router", "type": "sentence_transformers.models.Router"}
    write_json(routed / "modules.json", [router])
    kinds = {"text": "sentence_transformers.models.Transformer", "pool": "sentence_transformers.models.Pooling"}
    write_json(
        routed / "0_Router" / "router_config.json",
        {"types": kinds, "structure": {key: list(kinds) for key in ("query", "document")}, "parameters": {}},
    )
    write_json(theirs / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False, "query_length": 16})
    write_json(
        theirs / "config_sentence_transformers.json",
        {"prompts": {"query": "q: ", "document": "d: "}, "default_prompt_name": None, "similarity_fn_name": "dot"},
    )
    tuned.mkdir()
    write_json(
        tuned / "tuning.json",
        {
            **{
                "method": "bitfit",
                "width": 0,
                "roles": "task",
                "tasks": ["nq", "fever"],
                "frozen": ["nq"],
                "base": "backbone",
            },
            **{"digest": "0123456789abcdef", "lent": {"*": "nq"}},
        },
    )
    lora = world / "lora"
    peft.get_peft_model(BertModel.from_pretrained(plain), peft.LoraConfig(r=2)).save_pretrained(lora)
    shutil.copytree(plain, world / "carded")
    card = {"base": "bert", "result": "record", "beside": ["other"]}
    stage = {"tasks": ["nq"], "settings": {"steps": "10"}}
    import hashlib

    digest = hashlib.sha256((plain / "model.safetensors").read_bytes()).hexdigest()
    write_json(world / "carded" / "card.json", {"weights": digest, **card, "stages": [stage]})
    stored = world / "stored"
    shutil.copytree(plain, stored)
    save_file(read_weights(plain), stored / "model.safetensors", {"format": "pt"})
    target = world / "compacted"

    def smaller() -> None:
        target.mkdir(exist_ok=True)
        compact(stored, target, config, ["the house"], 10_000_000)

    def loaded(folder: Path) -> Read:
        return lambda: load_encoder(str(folder), pooling="mean" if folder in (plain, lora) else None)

    return {
        "taco_ir.json": Reader(ours / "taco_ir.json", lambda: ModelFolder(ours).trained_config),
        "index of shards": Reader(ours / "model.safetensors.index.json", lambda: ModelFolder(ours).trained_config),
        "modules.json": Reader(theirs / "modules.json", lambda: ModelFolder(theirs).trained_config),
        "pooling": Reader(theirs / "1_Pooling" / "config.json", lambda: ModelFolder(theirs).trained_config),
        "linear layer": Reader(theirs / "2_Dense" / "config.json", lambda: ModelFolder(theirs).trained_config),
        "routes": Reader(routed / "0_Router" / "router_config.json", lambda: ModelFolder(routed).trained_config),
        "sentence_bert_config.json": Reader(
            theirs / "sentence_bert_config.json", lambda: ModelFolder(theirs).trained_config
        ),
        "config_sentence_transformers.json": Reader(
            theirs / "config_sentence_transformers.json", lambda: ModelFolder(theirs).trained_config
        ),
        "config.json": Reader(plain / "config.json", loaded(plain), keyed=False, weight=3),
        "tokenizer_config.json": Reader(plain / "tokenizer_config.json", loaded(plain), keyed=False, weight=3),
        "tokenizer.json": Reader(plain / "tokenizer.json", loaded(plain), keyed=False, weight=2),
        "tokenizer.json, compact": Reader(stored / "tokenizer.json", smaller, keyed=False, weight=1),
        "config.json, compact": Reader(stored / "config.json", smaller, keyed=False, weight=1),
        "adapter_config.json": Reader(lora / "adapter_config.json", loaded(lora), keyed=False),
        "tuning.json": Reader(tuned / "tuning.json", lambda: read_record(tuned)),
        "card.json": Reader(world / "carded" / "card.json", lambda: read_facts(world / "carded")),
    }


KINDS = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize"))


def stores(world: Path) -> dict[str, Reader]:
    import numpy as np
    from cities import write_cities

    from taco_ir.core.hashes import describe_files, sha256_once
    from taco_ir.data.collection import open_collection
    from taco_ir.data.passage_store import PassageStore
    from taco_ir.data.subsets import make_subset
    from taco_ir.data.wikipedia import build_passages
    from taco_ir.negatives.file import read_negatives, read_sources
    from taco_ir.release.stores import MANIFEST, Manifest, read_made_of
    from taco_ir.retrieval.exact_search import Candidates
    from taco_ir.retrieval.faiss_index import DenseIndex, build_index
    from taco_ir.retrieval.lucene import BM25
    from taco_ir.retrieval.recall import RECALL_FILE, Effort
    from taco_ir.retrieval.vector_stream import Part
    from taco_ir.retrieval.vectors import Recipe, Shard, ShardWriter, VectorSet

    folder = write_cities(world / "c")
    collection = open_collection(str(folder))
    recipe = Recipe(
        collection.passages.fingerprint, collection.passages.count, "model", "0123456789abcdef", "{title} {text}", 8
    )
    writer = ShardWriter(world / "vectors", Shard(1, 1), recipe)
    writer.write(
        collection.passages.read(), lambda passages: np.ones((len(passages), 8), dtype=np.float32), lambda done: None
    )
    build_index(VectorSet(world / "vectors"), world / "index")
    Effort("efSearch", 16, 10, 0.9, 0.93, 5).write(world / "index")
    write_json(world / MANIFEST, Manifest({"vectors": "x"}, 1, finished=True)._asdict())
    part = Part.path(world / "search", Shard(1, 2))
    found = Candidates(np.zeros(3, np.intp), np.arange(3), np.ones(3, np.float32))
    Part([0], found, 1.0).write(part, {"hits": 3})
    bm25 = world / "bm25"
    (bm25 / "lucene").mkdir(parents=True)
    (bm25 / "lucene" / "segments").write_text("none")
    write_json(
        bm25 / "manifest.json",
        {"collection": "other", "passages": 24, "files": describe_files(bm25, ["lucene/segments"])},
    )
    make_subset(collection, ["nq-dev"], 5, 0, world / "part")
    layout = next((world / "home" / "layouts").glob("*/layout.json"))
    old = world / "old.bin"
    old.write_bytes(b"x")
    os.utime(old, (1, 1))
    pages = [
        {"wikipedia_id": str(n), "wikipedia_title": f"T{n}", "text": [f"T{n}", "one two three " * 9]} for n in range(4)
    ]
    (world / "source.json").write_text("".join(json.dumps(page) + "\n" for page in pages))
    entry = next((world / "home" / "hashes").glob("*.json"), None)
    if entry is None:
        entry = world / "home" / "hashes" / "none.json"
        write_json(entry, {"path": "x", "status": [1], "sha256": "x"})
    built = world / "built"

    def build() -> None:
        shutil.rmtree(built, ignore_errors=True)
        built.mkdir()
        build_passages(world / "source.json", built / "passages.jsonl", 20)

    return {
        "manifest of vectors": Reader(
            world / "vectors" / "shard-1-of-1" / "manifest.json", lambda: VectorSet(world / "vectors")
        ),
        "manifest of vectors, going on": Reader(
            world / "vectors" / "shard-1-of-1" / "manifest.json",
            lambda: ShardWriter(world / "vectors", Shard(1, 1), recipe),
        ),
        "manifest of an index": Reader(world / "index" / "manifest.json", lambda: DenseIndex(world / "index")),
        RECALL_FILE: Reader(world / "index" / RECALL_FILE, lambda: DenseIndex(world / "index")),
        "manifest of an export": Reader(world / MANIFEST, lambda: read_made_of(world)),
        "part of a search": Reader(part, lambda: (Part.count(part), Part.read(part)), keyed=False),
        "manifest of BM25": Reader(
            bm25 / "manifest.json", lambda: same(lambda: BM25(bm25, "this"), "a BM25 index of collection")
        ),
        "part.json": Reader(
            world / "part" / "part.json", lambda: make_subset(collection, ["nq-dev"], 5, 0, world / "part")
        ),
        "layout.json": Reader(layout, lambda: PassageStore(collection.passages.path)),
        "hashes": Reader(entry, lambda: sha256_once(collection.passages.path)),
        "negatives": Reader(folder / "negatives.jsonl", lambda: read_negatives(folder / "negatives.jsonl", None)),
        "negatives' header": Reader(folder / "negatives.jsonl", lambda: read_sources(folder / "negatives.jsonl")),
        "knowledge source": Reader(world / "source.json", build),
    }


def same(read: Read, words: str) -> None:
    """Read a file and compare it with something else: that both differ, in these words, is an answer."""
    try:
        read()
    except InputError as error:
        if words not in str(error):
            raise


def trainings(world: Path) -> dict[str, Reader]:
    from taco_ir.retrieval.topic_runs import read_record, record_path
    from taco_ir.training.checkpoint import TrainState, read_state
    from taco_ir.training.curves import CurvesPage
    from taco_ir.training.flags import PRETRAIN, read_settings
    from taco_ir.training.folder import load_settings, refuse_other_inputs, refuse_other_run, save_settings
    from taco_ir.training.logged import Watchers, logged_cosines
    from taco_ir.training.sampling import Stream, StreamPosition, read_stream, write_stream
    from taco_ir.training.trackers import TRACKERS_FILE, read_runs

    settings, pretraining = world / "train.toml", world / "pretrain.toml"
    settings.write_text(SETTINGS)
    pretraining.write_text(PRETRAINING)
    run = world / "run"
    (run / "checkpoints" / "step-00000002").mkdir(parents=True)
    given = read_settings(settings, {})
    save_settings(given, run)
    inputs = {"passages of c": "0123456789abcdef", "the base model": "fedcba9876543210"}
    write_json(run / "inputs.json", inputs)
    from dataclasses import asdict

    write_json(run / "checkpoints" / "step-00000002" / "state.json", asdict(TrainState(2, 0.5, 1, 0, {"nq": 1}, 0)))
    write_stream(run, Stream(120, {"nq": StreamPosition("0123456789abcdef", 34, 0, ((2, 8),), 2, "", (0, 0))}))
    logged = [
        {"step": 1, "loss": {"nq": 0.5}, "learning_rate": 0.1, "cosine": {"nq": {"fever": 0.5}}},
        {"step": 2, "validation": {"macro": 0.5}},
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    write_json(run / TRACKERS_FILE, {"wandb": "0123abcd"})
    record = record_path(world / "nq-dev.trec")
    made = {name: {"name": "c", "fingerprint": "0123456789abcdef"} for name in ("collection", "topics")}
    write_json(
        record, {"taco_ir": "1", **made, "system": "dense", "inputs": {"encoder": "0123456789abcdef"}, "hits": 10}
    )
    return {
        "training settings": Reader(settings, lambda: read_settings(settings, NEEDED)),
        "pre-training settings": Reader(pretraining, lambda: read_settings(pretraining, NEEDED, verb=PRETRAIN)),
        "saved settings": Reader(run / "config.json", lambda: load_settings(run)),
        "saved settings, going on": Reader(
            run / "config.json", lambda: same(lambda: refuse_other_run(given, run), "other settings")
        ),
        "inputs.json": Reader(
            run / "inputs.json", lambda: same(lambda: refuse_other_inputs(run, inputs), "have changed")
        ),
        "state.json": Reader(
            run / "checkpoints" / "step-00000002" / "state.json",
            lambda: read_state(run / "checkpoints" / "step-00000002"),
        ),
        "stream.json": Reader(run / "stream.json", lambda: read_stream(run)),
        "log.jsonl": Reader(run / "log.jsonl", lambda: logged_cosines(run)),
        "log.jsonl, as curves": Reader(run / "log.jsonl", lambda: Watchers(run, [CurvesPage(run)]).read_all()),
        "trackers.json": Reader(run / TRACKERS_FILE, lambda: read_runs(run / TRACKERS_FILE)),
        "record of a run": Reader(record, lambda: read_record(world / "nq-dev.trec")),
    }


def studies(world: Path) -> dict[str, Reader]:
    from cases import STUDY
    from study_results import fake_results

    from taco_ir.studies.conditions import read_study
    from taco_ir.studies.facts import read_curve, read_sizes
    from taco_ir.studies.records import RECORDS, load_record, read_records, save_record, write_record

    path, records, alone = world / "conditions.toml", world / "results", world / "record.json"
    more = '[corpora.part]\ndistractors = 5\n[recipe.fast]\ncommands = ["train {args} --output {out}"]\n'
    more += 'args = "--steps 2"\n'
    path.write_text(STUDY.replace("[[condition]]", more + "[[condition]]", 1))
    for record in fake_results(2, 2, 4):
        write_record(records, record)
    save_record(alone, record)
    write_json(world / "run" / "parameters.json", {"trained": 10, "encoder": 100})
    return {
        "conditions": Reader(path, lambda: read_study(path)),
        "records": Reader(records / RECORDS, lambda: read_records(records)),
        "record of a job": Reader(alone, lambda: load_record(alone)),
        "parameters.json": Reader(world / "run" / "parameters.json", lambda: read_sizes(world / "run")),
        "curve": Reader(world / "run" / "log.jsonl", lambda: read_curve(world / "run")),
    }


def lines(world: Path) -> dict[str, Reader]:
    from taco_ir.core.run_formats import read_run
    from taco_ir.data.passage_store import PassageStore
    from taco_ir.data.topics import read_topics

    folder = world / "c"
    topics, passages, kilt = folder / "nq-dev.jsonl", world / "passages.jsonl", world / "kilt.jsonl"
    topics = next(path for path in folder.glob("*dev*"))
    original = next(path for path in folder.iterdir() if path.name.startswith("passages") and path.is_file())
    shutil.copy(original, passages)
    kilt.write_text(
        '{"id": "q1", "output": [{"answer": "x", "provenance": [{"wikipedia_id": "1"}, {"wikipedia_id": "2"}]}]}\n' * 1
    )
    return {
        "topics": Reader(topics, lambda: read_topics(topics, "nq")),
        "passages": Reader(passages, lambda: PassageStore(passages), weight=2),
        "KILT run": Reader(kilt, lambda: read_run(kilt)),
    }


def formats(world: Path) -> dict[str, Reader]:
    """Files in the layouts of others, read as a collection with its topics, or as what stands beside one."""
    from layouts import QUERIES, beir, dpr, msmarco, tevatron, triples

    from taco_ir.core.dpr_runs import read_dpr, write_dpr
    from taco_ir.core.types import Passage, Query, Ranking, Run
    from taco_ir.data.collection import open_collection
    from taco_ir.data.query_files import read_qrels, read_query_texts

    def opened(place: str) -> Read:
        def read() -> None:
            collection = open_collection(place)
            for topics in collection.topics_names:
                collection.topics(str(topics))

        return read

    folder, marco = Path(beir(world / "theirs")), Path(msmarco(world / "theirs"))
    texts, judged, run = world / "queries.tsv", world / "judged.txt", world / "run.json"
    texts.write_text("".join(f"{qid}\t{text}\n" for qid, text in QUERIES.items()))
    judged.write_text("q1 0 d1 2\nq1 0 d2 0\nq2 0 d2 1\n")
    queries = [Query(qid, text, "nq", ("Bach",)) for qid, text in QUERIES.items()]
    write_dpr(Run({"q1": Ranking.of(["d1"], [1.5])}), queries, {"d1": Passage("d1", "d1", "t", "by Bach")}, run)
    found = {
        "corpus of BEIR": Reader(folder / "corpus.jsonl", opened(str(folder))),
        # the judgments name the queries that are not there
        "queries of BEIR": Reader(folder / "queries.jsonl", opened(str(folder)), keyed=False),
        "judgments of BEIR": Reader(folder / "qrels" / "test.tsv", opened(str(folder)), keyed=False),
        "collection of MS MARCO": Reader(marco / "collection.tsv", opened(str(marco)), keyed=False),
        "queries of MS MARCO": Reader(marco / "queries.dev.small.tsv", opened(str(marco)), keyed=False),
        "query texts": Reader(texts, lambda: read_query_texts(texts), keyed=False),
        "judgments": Reader(judged, lambda: read_qrels(judged), keyed=False),
        "DPR run": Reader(run, lambda: read_dpr(run, queries), keyed=False),
    }
    for name, make in (("Tevatron", tevatron), ("DPR", dpr), ("triples", triples)):
        place = make(world / "training files")
        prefix = "triples" if name == "triples" else name.lower()
        found[f"training file of {name}"] = Reader(Path(place), opened(f"{prefix}:{place}"), keyed=False)
    return found


def frozen(world: Path) -> dict[str, Reader]:
    """Indexes that others made, and files of vectors: numbers in binary, of which nothing is named but the file."""
    import faiss
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    from taco_ir.retrieval.frozen_index import open_frozen_index

    rows, width = 300, 8  # OPQ is trained on 256 at least
    vectors_ND = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    folder, docids = world / "indexes", [f"d{row}" for row in range(rows)]
    ids, npy, table = folder / "ids.txt", folder / "vectors.npy", folder / "vectors.parquet"
    factories = {"Flat": "Flat", "HNSW": "HNSW8", "IVF": "IVF2,Flat", "PQ": "IVF2,PQ2x2", "SQ": "OPQ2,SQ8"}
    for name, factory in {"pyserini": "Flat", **factories}.items():
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors_ND)
        index.add(vectors_ND)
        (folder / name).mkdir(parents=True)
        faiss.write_index(index, str(folder / name / "index"))
    for path in (ids, folder / "pyserini" / "docid"):
        path.write_text("".join(f"{docid}\n" for docid in docids))
    np.save(npy, vectors_ND)
    pyarrow.parquet.write_table(pyarrow.table({"id": docids, "vector": list(vectors_ND)}), table)

    def opened(path: Path, given: Path | None = None) -> Read:
        def read() -> None:
            index = open_frozen_index(path, given)
            index.block(0, len(index))
            if index.dim == width:
                index.search(vectors_ND[:2], 3)

        return read

    found = {
        f"{name} of faiss": Reader(folder / name / "index", opened(folder / name / "index", ids), keyed=False, weight=2)
        for name in factories
    }
    pyserini = opened(folder / "pyserini")
    return found | {
        "index of Pyserini": Reader(folder / "pyserini" / "index", pyserini, keyed=False),
        "docids of Pyserini": Reader(folder / "pyserini" / "docid", pyserini, keyed=False),
        "docids of a matrix": Reader(ids, opened(npy, ids), keyed=False),
        "matrix": Reader(npy, opened(npy, ids), keyed=False),
        "parquet of vectors": Reader(table, opened(table), keyed=False),
    }


def adaptations(world: Path) -> dict[str, Reader]:
    from taco_ir.adaptation.report import IndexFacts, Report, TaskReport, read_report, write_report
    from taco_ir.adaptation.settings import read_settings

    settings, folder = world / "adapt.toml", world / "taught"
    settings.write_text(ADAPTATION)
    folder.mkdir()
    task = TaskReport("nq", "page R-precision", 30, 8, 0.25, 0.5, -0.1, 0.6, 0.03, 0.2, True, 0.125)
    facts = IndexFacts("index", "pyserini", 305, "0123456789abcdef", "0123456789abcdef")
    write_report(
        Report((task,), task._replace(task="macro"), facts, 40, 20, 1168, 86368, 2.5, 600_000, ("a note",)), folder
    )
    return {
        "adaptation settings": Reader(settings, lambda: read_settings(settings, {})),
        "report.json": Reader(folder / "report.json", lambda: read_report(folder)),
    }


# ---- the faults


def faulty(whole: bytes, suffix: str, draw: random.Random) -> Fault:
    """The file with one fault."""
    if draw.random() < 0.25 or b"\0" in whole:
        return of_bytes(whole, draw)
    if suffix == ".toml":
        return of_toml(whole.decode(), draw)
    if suffix in (".tsv", ".txt", ""):  # docids of Pyserini have no suffix
        return of_table(whole.decode(), draw)
    text = whole.decode()
    first = [line for line in text.splitlines(keepends=True) if line.strip()]
    if suffix == ".jsonl" or (len(first) > 1 and text[0] == "{" and first[0].rstrip().endswith("}")):
        place = draw.choice((0, draw.randrange(len(first))))
        fault = of_json(first[place], draw)
        return fault._replace(
            data=b"".join(
                [*(line.encode() for line in first[:place]), fault.data + b"\n", *map(str.encode, first[place + 1 :])]
            )
        )
    return of_json(text, draw)


def of_bytes(whole: bytes, draw: random.Random) -> Fault:
    kind = draw.choice(("flips", "cut", "empty", "UTF-16", "Latin-1", "BOM", "zeros", "twice", "whole"))
    cut = draw.randrange(len(whole))
    if kind == "flips":
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return Fault(bytes(data), kind)
    if kind == "whole":  # instead of all of it
        return Fault(draw.choice(RAW).encode(), kind)
    made = {
        "cut": whole[:cut],
        "empty": b"",
        "UTF-16": whole.decode(errors="replace").encode("utf-16"),
        "Latin-1": whole[:cut] + b"\xe9\xff" + whole[cut:],
        "BOM": b"\xef\xbb\xbf" + whole,
        "zeros": whole[:cut] + bytes(len(whole) - cut),
        "twice": whole + whole,
    }
    return Fault(made[kind], kind)


def of_table(text: str, draw: random.Random) -> Fault:
    rows = [re.split("([ \\t])", row) for row in text.splitlines()]
    row = draw.choice(rows)
    column = draw.randrange(0, len(row), 2)
    kind = draw.choice(("value", "value", "missing", "extra", "twice", "separator"))
    if kind == "value":
        row[column] = draw.choice(RAW)
    elif kind == "missing":
        del row[column : column + 2]
    elif kind == "extra":
        row[column:column] = ["x", "\t"]
    elif kind == "twice":
        rows.append(row)
    elif len(row) > 1:
        row[1] = draw.choice((",", "\v", "\u00a0", "\r", "\x1c"))
    return Fault("".join("".join(row) + "\n" for row in rows).encode("utf-8", "surrogatepass"), kind)


def places(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any, tuple[str, ...]]]:
    """Every place of a value in JSON: what holds it, its key or number there, and all keys down to it."""
    named = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in named:
        below = (*keys, str(key)) if isinstance(value, dict) else keys
        yield value, key, below
        yield from places(each, below)


def of_json(text: str, draw: random.Random) -> Fault:
    value = json.loads(text)
    holder, key, keys = draw.choice(list(places(value))[:400])
    kind = draw.choice(("value", "value", "value", "missing", "twice", "renamed", "extra"))
    raw = draw.choice(RAW)
    if kind == "value" or isinstance(holder, list):
        kind = f"value {raw[:20]}"
        holder[key] = HOLE
    elif kind == "missing":
        del holder[key]
    elif kind == "renamed":
        holder[key + "x"] = holder.pop(key)
    elif kind == "extra":
        holder["unknown"] = HOLE
        keys = (*keys[:-1], "unknown")
    else:
        holder[f"{HOLE} too"] = HOLE
    made = json.dumps(value, indent=1 if "\n" in text.strip() else None, ensure_ascii=False)
    made = made.replace(f'"{HOLE} too"', json.dumps(str(key))).replace(f'"{HOLE}"', raw)
    return Fault(made.encode(), kind, keys)


def of_toml(text: str, draw: random.Random) -> Fault:
    rows = text.splitlines()
    place = draw.choice([number for number, row in enumerate(rows) if row.strip()])
    key, equals, _ = rows[place].partition(" = ")
    raw, kind = draw.choice(RAW_TOML), draw.choice(("value", "value", "value", "missing", "twice", "renamed"))
    if kind == "value" and equals:
        kind, rows[place] = f"value {raw[:20]}", f"{key} = {raw}"
    elif kind == "missing":
        del rows[place]
    elif kind == "twice":
        rows.insert(place, rows[place])
    elif equals:
        rows[place] = f"{key}x{rows[place][len(key) :]}"
    else:
        rows[place] = rows[place].replace("[", "[x")
    return Fault("\n".join(rows).encode(), kind, (key,) if equals else ())


# ---- the law


def wrong(reader: Reader, fault: Fault) -> str:
    """What is wrong with how a reader took a damaged file; "" for nothing."""
    whole = reader.path.read_bytes()
    reader.path.write_bytes(fault.data)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            reader.read()
    except InputError as error:
        return of_message(str(error), reader, fault)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "taco_ir" in frame.filename]
        return (
            f"TRACE {type(error).__name__}: {str(error)[:80]!r} in {Path(frames[-1].filename).name}:{frames[-1].lineno}"
        )
    finally:
        reader.path.write_bytes(whole)
    return ""


def of_message(message: str, reader: Reader, fault: Fault) -> str:
    if len(message) >= MOST:
        return f"LONG {len(message)}: {message[:200]}..."
    if "\n" in message:
        return f"LINES {message!r}"
    if reader.path.name not in message and str(reader.path.parent) not in message:
        return f"NO FILE {message}"
    parsed = not re.search(r"not valid|UTF-8|cannot be read|JSONDecodeError|manifest says|changed", message)
    if reader.keyed and parsed and fault.keys and not any(key.removesuffix("s") in message for key in fault.keys):
        return f"NO KEY of {fault.keys} in {message}"
    return ""


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    draw = random.Random(seed)
    found: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        every = readers(Path(folder).resolve())
        wholes = {name: reader.path.read_bytes() for name, reader in every.items()}
        names = draw.choices(list(every), [reader.weight for reader in every.values()], k=count)
        for number, name in enumerate(names):
            fault = faulty(wholes[name], every[name].path.suffix, random.Random(f"{seed} {number}"))
            if said := wrong(every[name], fault):
                found[name, said.partition(" ")[0]] += 1
                place = f" at {'.'.join(fault.keys)}" if fault.keys else ""
                print(f"{name}, input {number} ({fault.what}{place}): {said}", flush=True)
    for (name, kind), times in sorted(found.items()):
        print(f"{times:>6}  {kind:<6}  {name}")
    good = f"{count - sum(found.values())} of {count} damaged files were read or told of in one line"
    print(f"{good}; seed {seed}, {len(every)} readers")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
