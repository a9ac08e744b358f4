"""Every verb that writes, on data so small that a run takes a second, in processes forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
ROOT = Path(__file__).resolve().parents[2]
# what differs from run to run by its nature: how long it took, when it began and ended, and the hash of a record that says so
CLOCK = ("seconds", "peak_bytes", "processes", "begun", "finished", "check")
LOGS = ("output.txt",)  # what is printed
HUB_CACHE = "home/hub"  # in the working directory of a command
COMMIT = "0123456789" * 4
KEPT = "kilt"  # of the data home; the rest is made when it is needed
READING = {  # verbs that write nothing, or that cannot run here
    "evaluate": "prints",
    "pyserini": "runs Pyserini's commands",
    "push": "writes to a hub, in one commit; tests/release/test_hub.py has one",
    "data list": "prints",
    "data get": "takes KILT's files alone, by size and md5; tests/test_download.py stops it in all places",
}
TRAIN = (
    "--tasks nq --pooling first --query-length 16 --passage-length 40 --batch-size 4 --steps 8 --pool-queries 2 --pool-hard 0"
    " --pool-random 4 --validate-every 4 --checkpoint-every 2 --model {model} --collection {c}"
)
READ = "--tasks none --reading nq --passage-length 40 --reading-batch 4 --steps 6 --reading-negatives 1 --checkpoint-every 2 --model {model} --collection {c} --negatives {c}/negatives.jsonl"
STUDY = """
name = "small"
models = ["tiny"]
topics = ["nq-dev"]
hits = 5
tolerance = 0.01

[[condition]]
name = "trained"
system = "trained"
seeds = [1]
commands = ["train --tasks nq --pooling first --query-length 16 --passage-length 40 --batch-size 4 --steps 2 --negatives none --pool-queries 2 --pool-hard 0 --pool-random 4 --model {tiny} --collection {collection} --seed {seed} --output {out}"]
search = "--model {out}/model"
base = "tiny"
whole = [1]
"""
Contents = dict[str, bytes]


class Case(NamedTuple):
    """A command, whose outputs lie in the working directory; `{...}` stands for what `prepared` made.

    Attributes:
        setup: what lies there before.
    """

    words: str
    setup: Callable[[Path, Path], object] = lambda *_: None


def _study(world: Path, folder: Path) -> None:
    (folder / "conditions.toml").write_text(STUDY)


def _encoder(world: Path, folder: Path) -> None:
    shutil.copytree(ROOT / "taco_ir" / "encoder_mini", folder / "encoder")


def _hub_cache(world: Path, folder: Path) -> None:
    """What the hub's client keeps of a model that it downloaded."""
    cached = folder / HUB_CACHE / "models--somebody--model"
    shutil.copytree(world / "model", cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)


CASES = {
    "encode": Case("encode --collection {c} --model {model} --pooling first --output out"),
    "index": Case("index --vectors {vectors} --output out"),
    "search": Case(
        "search --collection {c} --topics nq-dev nq-train --model {model} --pooling first --no-compare --output out/"
    ),
    "search bm25": Case("search --collection {c} --topics nq-dev --retriever bm25 --no-compare --output out.trec"),
    "mine": Case("mine --collection {c} --tasks nq --source {model} --pooling first --depth 10 --output n.jsonl"),
    "export": Case("export --model {model} --pooling first --collection {c} --topics nq-dev nq-train --output out"),
    "submission": Case("submission --runs {runs}/nq-dev.trec --topics nq-dev --collection {c} --output s.zip"),
    "train": Case(f"train {TRAIN} --negatives {{c}}/negatives.jsonl --output out"),
    "pretrain": Case(
        "pretrain --objective mlm --pooling first --length 24 --batch-size 6 --held-out 6 --steps 6 --validate-every 3 --checkpoint-every 2"
        " --collection {c} --model {model} --output out"
    ),
    "train reading": Case(f"train {READ} --output out"),
    "answer": Case(
        "answer --collection {c} --topics nq-dev --model {model} --pooling first --reader {reader} --hits 3 --quiet --output a.jsonl"
    ),
    "analyze": Case("analyze {trained} --batches 1 --output out"),
    "leaderboard": Case("leaderboard {study} --format json --output board.json"),
    "card": Case("card encoder --study {root}/runs/minikilt", _encoder),
    "reproduce": Case(
        "reproduce --conditions conditions.toml --collection {c} --models tiny={model} --work work", _study
    ),
    "pull": Case("pull somebody/model --output out", _hub_cache),
    "data subset": Case("data subset --collection {c} --topics nq-dev --distractors 5 --output out"),
    "data hold-out": Case("data hold-out --collection {c} --tasks nq --share 0.2 --output out"),
    "data passages": Case("data passages --source {source} --words 20"),
}


def warm() -> None:
    """Import what verbs use, once; nothing here starts a thread or a JVM."""
    os.environ.update({"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)})
    os.environ.update({"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": HUB_CACHE})
    import faiss  # noqa: F401
    import pandas  # noqa: F401
    import torch
    from transformers import AutoConfig, AutoModel, BertForMaskedLM, BertModel  # noqa: F401

    from taco_ir import analyze, answer, encode, export, index, mine, pretrain, pull, reproduce, search, train  # noqa: F401
    from taco_ir.training import loop, validation  # noqa: F401
    from taco_ir.training import run as episodes  # noqa: F401

    torch.set_num_threads(1)


def prepared(world: Path) -> Path:
    """Make what the commands read, in `world`."""
    import torch
    from cities import write_cities
    from conftest import tiny_tokenizer
    from study_results import fake_results
    from transformers import BertConfig, BertForMaskedLM

    from taco_ir.studies.records import write_record

    os.environ["TACO_IR_HOME"] = str(world / "home")
    size = tiny_tokenizer(world / "model", ("[CLS] $A [SEP]", ["[CLS]", "[SEP]"]), "[MASK]")
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
    }
    BertForMaskedLM(BertConfig(vocab_size=size, **shape)).save_pretrained(world / "model")
    write_cities(world / "c", ". It has many fish in it. Nobody lives there now")
    for result in fake_results(2, 2, 20):
        write_record(world / "study" / "results", result)
    shutil.copy(ROOT / "runs" / "minikilt" / "conditions.toml", world / "study")
    pages = [
        {"wikipedia_id": str(n), "wikipedia_title": f"T{n}", "text": [f"T{n}", "one two three " * 40]}
        for n in range(200)
    ]
    (world / "source.json").write_text("".join(json.dumps(page) + "\n" for page in pages))
    for verb, made in (("encode", "vectors"), ("search", "runs"), ("train", "trained"), ("train reading", "reader")):
        folder = world / f"making {verb}"
        if (code := ended(start(verb, world, folder))) != 0:
            raise SystemExit(f"{verb} ended with code {code}\n{log(folder)}")
        (folder / "out").rename(world / made)
    return world


def argv(verb: str, world: Path) -> list[str]:
    made = {
        "model": "model",
        "c": "c",
        "vectors": "vectors",
        "runs": "runs",
        "trained": "trained",
        "study": "study",
        "source": "source.json",
    }
    names = {name: str(world / path) for name, path in made.items()} | {
        "reader": str(world / "reader" / "model"),
        "root": str(ROOT),
    }
    return [word.format_map(names) for word in CASES[verb].words.split(" ")]


def make(verb: str, world: Path, folder: Path) -> Path:
    """The working directory of a command."""
    folder.mkdir(parents=True, exist_ok=True)
    CASES[verb].setup(world, folder)
    return folder


def start(verb: str, world: Path, folder: Path, again: bool = False, said: str = "log") -> int:
    """Run the command of a case in `folder`, in a process group of its own; its process id. What it says goes beside it."""
    if not again:
        make(verb, world, folder)
    from taco_ir.cli import run_verb

    words = argv(verb, world)
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # it has done so itself, or has ended
            os.setpgid(child, child)
        return child
    code = 70
    try:
        os.setpgid(0, 0)
        descriptor = os.open(folder.with_name(f"{folder.name}.{said}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(folder)
        os.environ["TACO_IR_HOME"] = "home"
        sys.argv = [f"taco_ir.{words[0]}", *words[1:]]
        run_verb(
            importlib.import_module(
                f"taco_ir.{words[0]}.__main__" if words[0] == "data" else f"taco_ir.{words[0]}"
            ).main
        )
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ended(child: int) -> int:
    """The code with which a process ends; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def log(folder: Path) -> str:
    return folder.with_name(f"{folder.name}.log").read_text(encoding="utf-8", errors="replace")


def contents(folder: Path) -> Contents:
    """Every file but what is printed and what is kept in a cache, without the clock's readings and the place."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and path.name not in LOGS and (name.parts[0] != "home" or KEPT in name.parts):
            found[str(name)] = _comparable(path, folder)
    return found


def _comparable(path: Path, folder: Path) -> bytes:
    data = path.read_bytes().replace(str(folder).encode(), b"")
    if path.suffix == ".jsonl" and b'"seconds"' in data:
        return b"".join(json.dumps(_timeless(json.loads(line))).encode() for line in data.splitlines())
    return json.dumps(_timeless(json.loads(data))).encode() if path.suffix == ".json" else data


def _timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    return (
        {key: _timeless(each) for key, each in value.items() if key not in CLOCK} if isinstance(value, dict) else value
    )


def differing(found: Contents, expected: Contents) -> list[str]:
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def fault_of(folder: Path, code: int) -> str:
    """What is wrong with how a command ended: a trace, another code, more or less than one line of error."""
    said = log(folder)
    if "Traceback" in said or code not in (0, 2):
        return f"code {code}\n{said}"
    if code == 2 and not (said.splitlines() or [""])[-1].startswith("error: "):
        return f"code 2 without a line of error\n{said}"
    return ""


def finish(verb: str, world: Path, folder: Path, expected: Contents) -> str:
    """Run the command again; what is wrong with its end. One that had ended well may be told that its output exists."""
    code = ended(start(verb, world, folder, again=True))
    if code and not (code == 2 and " exists" in log(folder)):
        return f"the command failed when it ran again: code {code}\n{log(folder)}"
    if names := differing(contents(folder), expected):
        return f"{', '.join(names)} differ from the undisturbed run\n{log(folder)}"
    return ""


@contextlib.contextmanager
def undisturbed(verb: str, world: Path) -> Iterator[tuple[Contents, float]]:
    """What the command writes, and the seconds it takes."""
    import time

    folder = world / "whole"
    began = time.perf_counter()
    if code := ended(start(verb, world, folder)):
        raise SystemExit(f"{verb}: the undisturbed command ended with code {code}\n{log(folder)}")
    seconds = time.perf_counter() - began
    yield contents(folder), seconds
    shutil.rmtree(folder)
