"""Law: an impossible command fails before slow work: loading models or indexes, mining, tokenising, testing."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from study_results import fake_results
from verbs import passage, query, write_collection

from taco_ir.core.files import InputError, write_json
from taco_ir.data.collection import open_collection
from taco_ir.negatives.file import NegativesHeader, write_negatives
from taco_ir.reading.answering import write_answers
from taco_ir.retrieval.retrievers import BM25Retriever
from taco_ir.retrieval.topic_runs import made_of
from taco_ir.studies.records import write_record

SLOW = """
    taco_ir.encoders.text_encoder.load_backbone taco_ir.reading.reader.load_backbone
    taco_ir.training.encoder.load_backbone taco_ir.retrieval.retrievers.build_bm25 taco_ir.retrieval.retrievers.BM25
    taco_ir.retrieval.retrievers.DenseIndex taco_ir.training.data.mine_topics
    taco_ir.training.objectives.spans.read_documents taco_ir.studies.tables.make_boards
    taco_ir.evaluation.run_files.read_run
""".split()
TRAIN = (
    "--collection c --tasks nq --model {model} --pooling first --output out --steps 2 --batch-size 2 "
    "--passage-length 40 --pool-queries 1"
)
PRETRAIN = "--collection c --model {model} --pooling first --output out --steps 2"
READ = "--collection c --tasks none --reading nq --model {model} --output out --steps 2"
ENCODE = "--collection c --model {model} --pooling first --output out"
SEARCH = "--collection c --topics nq-dev --model {model} --pooling first"
C = " --collection c"
ADAPT = "--model {model} --pooling first --topics nq-train --output out" + C
EXPORT = "--model {model} --pooling first --output out" + C


class Case(NamedTuple):
    """A command, what its one line says, and what is done to the working directory or process before."""

    command: str
    said: str
    make: Callable[[pytest.MonkeyPatch], object] = lambda _: None


def without(package: str) -> Callable[[pytest.MonkeyPatch], object]:
    """A machine on which a package is not installed."""
    found = importlib.util.find_spec

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *more: None if name == package else found(name, *more)
        )

    return patch


def file(path: str, text: str = "precious") -> Callable[[pytest.MonkeyPatch], object]:
    return lambda _: Path(path).write_text(text)


def logged_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client has no token and is not offline."""
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "no-token")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


NOWHERE = "--device 'abacus'|'abacus': torch cannot use this device here"
NO_JAVA = "BM25 needs the Java classes in the pyserini package"
CASES = {
    "train: device": Case(f"train {TRAIN} --negatives none --device abacus", NOWHERE),
    "train: device that is not there": Case(
        f"train {TRAIN} --negatives none --device cuda:99", "--device 'cuda:99': torch cannot use this device here"
    ),
    "train: output under a file": Case("train " + TRAIN.replace("out", "kept/out"), "kept", file("kept")),
    "train: no Java": Case(f"train {TRAIN} --pool-hard 0", NO_JAVA, without("pyserini")),
    "train: no Java for pools": Case(f"train {TRAIN} --negatives none", NO_JAVA, without("pyserini")),
    "train: no such negatives": Case(f"train {TRAIN} --negatives gone.jsonl", "gone.jsonl: no such file"),
    "train: other negatives": Case(
        f"train {TRAIN} --negatives other.jsonl",
        "other.jsonl: mined from collection 'another', but the given collection is",
    ),
    "train: no negatives": Case(f"train {TRAIN} --negatives kept", "kept, line 1: ", file("kept", "{}\n")),
    "train: task": Case("train " + TRAIN.replace("--tasks nq", "--tasks trex"), "trex"),
    "train: weighting": Case(
        f"train {TRAIN} --weighting taco --weighting-options tao=2", "unknown option 'tao' of taco"
    ),
    "pretrain: device": Case(f"pretrain {PRETRAIN} --device abacus", NOWHERE),
    "pretrain: output": Case("pretrain " + PRETRAIN.replace("out", "kept/out"), "kept", file("kept")),
    "train to read: device": Case(f"train {READ} --device abacus", NOWHERE),
    "train to read: no Java": Case(f"train {READ}", NO_JAVA, without("pyserini")),
    "train to read: no such negatives": Case(f"train {READ} --negatives gone.jsonl", "gone.jsonl: no such file"),
    "train to read: weighting": Case(
        f"train {READ} --weighting taco --weighting-options tao=2", "unknown option 'tao' of taco"
    ),
    "search: device": Case(f"search {SEARCH} --device abacus", NOWHERE),
    "search: no Java": Case("search --collection c --topics nq-dev --retriever bm25", NO_JAVA, without("pyserini")),
    "search: no Java to compare": Case(f"search {SEARCH} --compare", NO_JAVA, without("pyserini")),
    "search: no index": Case(f"search {SEARCH} --index gone", "--index gone: no manifest.json"),
    "search: no vectors": Case(f"search {SEARCH} --vectors gone", "gone: no vectors"),
    "search: output that is there": Case(f"search {SEARCH} --output kept", "--output kept exists", file("kept")),
    "search: comparison without gold": Case(
        f"search {SEARCH.replace('nq-dev', 'nq-test')} --compare",
        "so their runs cannot be scored; leave --compare out",
    ),
    "search: topics": Case("search " + SEARCH.replace("nq-dev", "nq-deb"), "nq-deb"),
    "answer: collection": Case(
        f"answer {SEARCH.replace('--collection c', '--collection ./gone')} --reader {{model}}", "./gone"
    ),
    "answer: topics": Case(f"answer {SEARCH.replace('nq-dev', 'nq-deb')} --reader {{model}}", "nq-deb"),
    "answer: output under a file": Case(f"answer {SEARCH} --reader {{model}} --output kept/out", "kept", file("kept")),
    "answer: device": Case(f"answer {SEARCH} --reader {{model}} --device abacus", NOWHERE),
    "encode: output under a file": Case(
        "encode --collection c --model {model} --pooling first --output kept/out", "kept", file("kept")
    ),
    "encode: device": Case(
        "encode --collection c --model {model} --pooling first --output out --device abacus", NOWHERE
    ),
    "encode shards: device": Case(f"encode {ENCODE} --shards 2 --device abacus", NOWHERE),
    "encode shards: GPU": Case(
        f"encode {ENCODE} --engine processes --device cuda:99", "'cuda:99': torch cannot use this device"
    ),
    "encode shards: output": Case(
        "encode " + ENCODE.replace(" out", " kept/out") + " --engine processes", "kept", file("kept")
    ),
    "encode shards: no Ray": Case(f"encode {ENCODE} --engine ray", "Ray is not installed", without("ray")),
    "encode shards: no cluster": Case(
        f"encode {ENCODE} --engine ray --address 127.0.0.1:1", "127.0.0.1:1 does not answer within 10 s"
    ),
    "mine: name": Case(
        "mine --collection c --tasks nq --source {model} --pooling first --output out.txt",
        "the name of a negatives file must end in .jsonl",
    ),
    "mine: no gold": Case(
        "mine --collection c --tasks nq --split test --source {model} --pooling first --output out.jsonl",
        "nq-test: these topics have no gold",
    ),
    "mine: output under a file": Case(
        "mine --collection c --tasks nq --source {model} --pooling first --output kept/out.jsonl", "kept", file("kept")
    ),
    "mine: no Java": Case(
        "mine --collection c --tasks nq --source bm25 --output out.jsonl", NO_JAVA, without("pyserini")
    ),
    "export: topics": Case(f"export {EXPORT} --topics nq-deb", "nq-deb"),
    "export: output": Case(
        "export " + EXPORT.removesuffix(C).replace(" out", " kept"), "--output kept is a file", file("kept")
    ),
    "analyze: device": Case(
        "analyze {model} --collection c --tasks nq --negatives none --device abacus --output out", NOWHERE
    ),
    "evaluate: no gold": Case(
        "evaluate kept --collection c --topics nq-test",
        "nq-test: these topics have no gold to score against",
        file("kept"),
    ),
    "evaluate: measure": Case(
        "evaluate kept --collection c --topics nq-dev --measures nonsense", "nonsense", file("kept")
    ),
    "submission: name": Case(
        "submission --collection c --runs kept --output out.tar", "the name must end in .zip", file("kept")
    ),
    "push: no token": Case(
        "push {model} org/name", "no token for .*: run `hf auth login`, or set HF_TOKEN", logged_out
    ),
    "pull: output": Case("pull org/name --output kept", "--output kept is a file", file("kept")),
    "adapt: index": Case(f"adapt {ADAPT} --index nowhere", "--index nowhere: no such file or folder"),
    "leaderboard: output": Case("leaderboard study --output kept", "--output kept exists", file("kept")),
    "leaderboard: systems": Case("leaderboard study --without nobody", "no system matches 'nobody'"),
    "leaderboard: measure": Case("leaderboard study --measures nonsense", "nonsense"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A collection `c`, negatives of another, and a study."""
    monkeypatch.chdir(tmp_path)
    passages = [passage(f"{n}#0", f"text number {n} about the year of the king", f"T{n}") for n in range(6)]
    gold = [query("q1", "who", ["1#0"]), query("q2", "where", ["2#0"])]
    verdict = [{**each, "output": [{**each["output"][0], "answer": "SUPPORTS"}]} for each in gold]
    topics = {"nq-dev": gold, "nq-train": gold, "nq-test": [query("q3", "when")], "fever-train": verdict}
    write_collection(tmp_path / "c", passages, topics)
    write_negatives(
        Path("other.jsonl"),
        NegativesHeader("mine", "", "another", 9, 0, 2, (), 0),
        [("nq-train", "q1", ["3#0"], [1.0])],
    )
    for result in fake_results(2, 2, 5, seeds=1):
        write_record(tmp_path / "study" / "results", result)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_it_is_told_before_the_work(name: str, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """... in one line, and nothing is left."""
    case = CASES[name]
    verb, *argv = case.command.replace("{model}", str(tiny_bert)).split()
    open_collection("c").passages  # noqa: B018 - its layout is made at the first use
    case.make(monkeypatch)
    for place in SLOW:
        monkeypatch.setattr(place, slow)
    before = set(Path().rglob("*"))
    with pytest.raises((InputError, OSError), match=case.said) as caught:
        importlib.import_module(f"taco_ir.{verb}").main(argv)
    assert "\n" not in str(caught.value) and set(Path().rglob("*")) == before


def test_answers_that_were_made_otherwise_are_told_before_an_index_is_built() -> None:
    class Unindexed(BM25Retriever):
        @property
        def inputs(self) -> dict[str, Any]:
            raise AssertionError("the index is built")

    collection = open_collection("c")
    Path("kept").write_text("precious")
    write_json(Path("kept.json"), {**made_of(collection, collection.topics("nq-dev")), "system": "bm25", "hits": 3})
    reader = SimpleNamespace(fingerprint="r")
    asked = ([collection.topics("nq-dev")], Unindexed(collection), reader, collection, 5, None)
    with pytest.raises(InputError, match="--output kept exists and was made differently \\(hits is 3, not 5\\)"):
        write_answers(*asked, output="kept", overwrite=False, name="r")  # type: ignore[arg-type]


def slow(*_: Any, **__: Any) -> None:
    raise AssertionError("the slow work has begun")


def test_every_verb_that_does_slow_work_is_here() -> None:
    verbs = {
        path.stem
        for path in Path(importlib.import_module("taco_ir").__path__[0]).glob("*.py")
        if "run_verb(main)" in path.read_text()
    }
    assert verbs - {case.command.split()[0] for case in CASES.values()} == {
        "index",
        "reproduce",
        "card",
        "completion",
        "pyserini",
    }
