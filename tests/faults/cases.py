"""Every verb that writes, on data so small that a run takes a second, in processes forked from one that is loaded."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from string import Formatter
from threading import Lock
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
ROOT = Path(__file__).resolve().parents[2]
# what differs from run to run: how long it took, when it began and ended, and the hash of a record that says so
CLOCK = ("seconds", "peak_bytes", "processes", "begun", "finished", "check")
LOGS = ("output.txt",)  # what is printed
HUB_CACHE = "home/hub"  # in the working directory of a command
COMMIT = "0123456789" * 4
KEPT = "kilt"  # of the data home; the rest is made when it is needed
BLOCK_ROWS = 4  # of a block of vectors: six blocks of the small collection
READING = {  # verbs that write nothing, or that cannot run here
    "evaluate": "prints",
    "completion": "prints",
    "pyserini": "runs Pyserini's commands",
    "push": "writes to a hub, in one commit; tests/release/test_hub.py has one",
    "data list": "prints",
    "data get": "takes KILT's files alone, by size and md5; tests/data/test_downloads.py stops it in all places",
}
TRAIN = (
    "train --collection {c} --model {model} --pooling first --query-length 16 --passage-length 40 --batch-size 4"
    " --pool-queries 2 --pool-hard 0 --pool-random 4 --checkpoint-every 2 --output out"
)
READ = (
    "train --collection {c} --model {model} --negatives {c}/negatives.jsonl --tasks none --reading nq"
    " --passage-length 40 --reading-batch 4 --steps 6 --reading-negatives 1 --checkpoint-every 2 --output out"
)
EPISODES = """
pooling = "mean"
tasks = ["fever", "nq"]
passage_length = 40
query_length = 24
batch_size = 6
learning_rate = 1e-3
mine_depth = 20
mine_keep = 4
pool_queries = 4
pool_hard = 2
pool_random = 20
validate_every = 4
checkpoint_every = 3
[[episode]]
steps = 12
[[episode]]
steps = 12
negatives = "ance"
weighting = "taco"
weighting_options = { beta = 0.9, burn_in = 0.2 }
"""
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
commands = ["COMMAND"]
search = "--model {out}/model"
base = "tiny"
whole = [1]
""".replace(
    "COMMAND",
    "train --tasks nq --pooling first --query-length 16 --passage-length 40 --batch-size 4 --steps 2 --negatives none"
    " --pool-queries 2 --pool-hard 0 --pool-random 4 --model {tiny} --collection {collection} --seed {seed}"
    " --output {out}",
)
Contents = dict[str, bytes]


class Case(NamedTuple):
    """A command, whose outputs lie in the working directory; `{...}` stands for what `prepared` made.

    Attributes:
        setup: what lies there before.
    """

    words: str
    setup: Callable[[Path, Path], object] = lambda *_: None

    @property
    def needs(self) -> set[str]:
        """What the command reads of what other commands make."""
        named = {name for _, name, _, _ in Formatter().parse(self.words)}
        return named & MADE_BY.keys() | ({"bm25"} if self.setup is _episodes else set())


def _study(world: Path, folder: Path) -> None:
    (folder / "conditions.toml").write_text(STUDY)


def _encoder(world: Path, folder: Path) -> None:
    shutil.copytree(ROOT / "taco_ir" / "encoder_mini", folder / "encoder")


def _episodes(world: Path, folder: Path) -> None:
    (folder / "run.toml").write_text(EPISODES)
    shutil.copytree(world / "bm25", folder / "home")  # the index that negatives are mined with


def _hub_cache(world: Path, folder: Path) -> None:
    """What the hub's client keeps of a model that it downloaded."""
    cached = folder / HUB_CACHE / "models--somebody--model"
    shutil.copytree(world / "model", cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)


CASES = {
    "encode": Case("encode --collection {c} --model {model} --pooling first --output out"),
    "encode workers": Case(
        "encode --collection {c} --model {model} --pooling first --output out --engine processes --workers 2 --shards 4"
    ),
    "index": Case("index --vectors {vectors} --output out"),
    "index on disk": Case("index --vectors {vectors} --factory IVF1,Flat --on-disk --output out"),
    "search vectors": Case(
        "search --collection {c} --topics nq-dev nq-train --model {model} --pooling first --no-compare"
        " --vectors {vectors} --output out/"
    ),
    "search": Case(
        "search --collection {c} --topics nq-dev nq-train --model {model} --pooling first --no-compare --output out/"
    ),
    "search bm25": Case("search --collection {c} --topics nq-dev --retriever bm25 --no-compare --output out.trec"),
    "search weights": Case(
        "search --collection {c} --topics nq-train --model {model} --pooling first --choose-weights --output out/"
    ),
    "mine": Case("mine --collection {c} --tasks nq --source {model} --pooling first --mine-depth 10 --output n.jsonl"),
    "export": Case("export --model {model} --pooling first --collection {c} --topics nq-dev nq-train --output out"),
    "export vectors": Case(
        "export --what vectors --vectors {vectors} --collection {c} --format lucene-json --output out"
    ),
    "submission": Case("submission --runs {runs}/nq-dev.trec --topics nq-dev --collection {c} --output s.zip"),
    "train": Case(f"{TRAIN} --tasks nq --negatives {{c}}/negatives.jsonl --steps 8 --validate-every 4"),
    "train episodes": Case("train --config run.toml --model {model} --output out", _episodes),
    "train kinds": Case(
        f"{TRAIN} --tasks nq --negatives {{c}}/negatives.jsonl --reading nq --self-supervised mlm,inverse_cloze"
        " --schedule sequential --rehearsal 0.4 --roles embedding --reading-batch 3 --passage-batch 2"
        " --reading-negatives 1 --steps 24 --validate-on train --validate-every 9"
    ),
    "train reading": Case(READ),
    "pretrain": Case(
        "pretrain --model {model} --objective mlm,span_contrast,condenser --pooling first --length 24 --batch-size 6"
        " --held-out 6 --steps 24 --validate-every 5 --checkpoint-every 2 --output out"
    ),
    "adapt": Case(
        "adapt --index {vectors} --model {model} --pooling first --collection {c} --topics nq-train --no-compare"
        " --method adapter --width 2 --steps 8 --validate-every 4 --checkpoint-every 2 --batch-size 4"
        " --no-keep-if-better --output out"
    ),
    "answer": Case(
        "answer --collection {c} --topics nq-dev --model {model} --pooling first --reader {reader}/model --hits 3"
        " --quiet --output a.jsonl"
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
# what the commands of some cases read: which command makes it, and where
MADE_BY = {
    "vectors": (CASES["encode"], "out"),
    "runs": (CASES["search"], "out"),
    "trained": (CASES["train"], "out"),
    "reader": (CASES["train reading"], "out"),
    "bm25": (Case("search --topics nq-dev --retriever bm25 --no-compare --output out.trec"), "home"),
}


def prepared(world: Path, cases: Collection[str]) -> Path:
    """Import what verbs use, and make what these cases read, in `world`."""
    import warm
    from cities import write_cities
    from conftest import write_masked_bert
    from huggingface_hub import constants
    from study_results import fake_results

    from taco_ir.retrieval import vectors
    from taco_ir.scale import processes
    from taco_ir.studies.records import write_record

    warm.load()
    os.environ["PYTHONPATH"] = str(ROOT)
    vectors.BLOCK_ROWS = BLOCK_ROWS
    processes.subprocess.Popen = Forked  # type: ignore[misc]
    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = HUB_CACHE, True
    write_masked_bert(world / "model")
    os.environ["TACO_IR_HOME"] = str(world / "home")
    write_cities(world / "c", ". It has many fish in it. Nobody lives there now")
    for result in fake_results(2, 2, 20):
        write_record(world / "study" / "results", result)
    shutil.copy(ROOT / "runs" / "minikilt" / "conditions.toml", world / "study")
    pages = [
        {"wikipedia_id": str(n), "wikipedia_title": f"T{n}", "text": [f"T{n}", "one two three " * 40]}
        for n in range(200)
    ]
    (world / "source.json").write_text("".join(json.dumps(page) + "\n" for page in pages))
    for name in sorted(set().union(*(CASES[case].needs for case in cases))):
        case, place = MADE_BY[name]
        folder = make(case, world, world / f"making {name}")
        if (code := ended(start(case, world, folder))) != 0:
            raise SystemExit(f"{case.words} ended with code {code}\n{log(folder)}")
        (folder / place).rename(world / name)
    return world


class Forked(subprocess.Popen):  # type: ignore[type-arg]
    """A worker of `encode --engine processes` as a fork of its driver, which has imported all that it needs."""

    def __init__(self, args: Sequence[Any], **options: Any) -> None:
        if list(args[1:]) != ["-m", "taco_ir.scale.processes"]:
            super().__init__(args, **options)
            return
        from taco_ir.scale import processes

        units, answers = os.pipe(), os.pipe()
        if pid := os.fork():
            os.close(units[0])
            os.close(answers[1])
            self.args, self.pid, self.returncode, self._child_created = args, pid, None, True
            self._waitpid_lock = Lock()
            self.stdin, self.stdout, self.stderr = os.fdopen(units[1], "w"), os.fdopen(answers[0]), None
            return
        try:
            os.setsid()
            os.environ.update(options["env"])
            os.dup2(units[0], 0)
            os.dup2(answers[1], 1)
            for each in (*units, *answers):
                os.close(each)
            sys.stdin = os.fdopen(0)
            processes.main()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)


def make(case: Case, world: Path, folder: Path) -> Path:
    """The working directory of a command."""
    folder.mkdir(parents=True, exist_ok=True)
    case.setup(world, folder)
    return folder


def start(case: Case, world: Path, folder: Path, said: str = "log") -> int:
    """Run a command in `folder`, in a process group of its own; its process id. What it says goes beside the folder."""
    from taco_ir.cli import run_verb

    places = {name: str(world / name) for name in (*MADE_BY, "model", "c", "study")}
    places |= {"source": str(world / "source.json"), "root": str(ROOT)}
    words = [word.format_map(places) for word in case.words.split(" ")]
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
        verb = "data.__main__" if words[0] == "data" else words[0]
        run_verb(importlib.import_module(f"taco_ir.{verb}").main)
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


def log(folder: Path, said: str = "log") -> str:
    return folder.with_name(f"{folder.name}.{said}").read_text(encoding="utf-8", errors="replace")


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


def finish(case: Case, world: Path, folder: Path, expected: Contents) -> str:
    """Run the command again; what is wrong with its end. One that had ended well may be told that its output exists."""
    code = ended(start(case, world, folder))
    if code and not (code == 2 and " exists" in log(folder)):
        return f"the command failed when it ran again: code {code}\n{log(folder)}"
    if names := differing(contents(folder), expected):
        return f"{', '.join(names)} differ from the undisturbed run\n{log(folder)}"
    return ""


def walk(folder: Path) -> Iterator[Path]:
    """A folder and all that is below it, whatever comes and goes meanwhile."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in (".", *names))
