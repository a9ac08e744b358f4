"""Runs a study's jobs, each once: its commands as processes of their own, then search and scores on each corpus.

`work / <condition> / <seed> /` holds a job: `out` is what its commands write, `step-<n>.json` says that one is done and what it
took, `output.txt` is what they printed, `best.json` what was chosen, `runs-<corpus>` what was searched. A step that was done is not run again; a training
that was killed goes on from its last checkpoint, as it does by itself.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import taco_ir
from taco_ir.data.collections import Collection, open_collection
from taco_ir.data.part import make_part
from taco_ir.evaluation.results import SUFFIX, Result, read_result, write_result
from taco_ir.files import InputError, data_home, exclusive, read_json, write_json
from taco_ir.study.conditions import WHOLE, Job, Study, arguments, placeholders
from taco_ir.study.curves import best_first, kept
from taco_ir.study.parameters import parameters
from taco_ir.study.scores import ANSWERS, score_runs

LIBRARIES = ("torch", "transformers", "faiss-cpu", "pyserini", "numpy")
READ = 20  # passages that a reader is given
ON_DEVICE = frozenset(("train", "pretrain", "train_reader", "mine", "search", "answer", "encode"))  # verbs with --device


class Spent(NamedTuple):
    """What a process took: seconds on the clock, and bytes of memory at its peak."""

    seconds: float
    peak_bytes: int


class Runner:
    """Runs the jobs of `study` under `work`, by default `studies/<name>` under the data home.

    Args:
        collection: name or folder of the collection.
        models: folder of each model that the conditions name.
        threads: of each process.
        corpora: those to score on, of the ones that the conditions name; none: all.
        device: of each process.
    """

    def __init__(
        self,
        study: Study,
        collection: str,
        models: Mapping[str, str],
        work: Path | None,
        threads: int,
        corpora: Sequence[str] = (),
        device: str = "cpu",
    ) -> None:
        if unknown := set(corpora) - {WHOLE, *study.parts}:
            raise InputError(f"--corpora {min(unknown)}: the conditions have {', '.join([WHOLE, *study.parts])}")
        self.study = study
        self.work = (work or data_home() / "studies" / study.name).resolve()
        self.threads = threads
        self.device = device
        self._only = set(corpora)
        self.collection = open_collection(collection)
        self._source = str(Path(collection).resolve()) if Path(collection).is_dir() else collection
        self._models = {name: str(Path(folder).resolve()) for name, folder in models.items()}
        if unknown := models.keys() - set(study.models):
            raise InputError(f"--models {min(unknown)}: the conditions name {', '.join(study.models) or 'no model'}")

    def folder(self, job: Job) -> Path:
        return self.work / job.condition / str(job.seed)

    def done(self, job: Job) -> bool:
        """Whether all its steps are done and its results are written."""
        return self.made(job) and all(self.record(job, corpus).is_file() for corpus in self.corpora(job))

    def made(self, job: Job) -> bool:
        """Whether the study has it and all its steps are done, so that it can be searched."""
        condition = self.study.conditions.get(job.condition)
        return condition is not None and all(self._stamp(job, number).is_file() for number in range(len(condition.commands)))

    def corpora(self, job: Job) -> list[str]:
        """Where the job is scored."""
        named = self.study.conditions[job.condition].corpora
        return [corpus for corpus, seeds in named.items() if job.seed in seeds and (not self._only or corpus in self._only)]

    def record(self, job: Job, corpus: str) -> Path:
        return self.study.results / f"{job.condition}.{job.seed}.{corpus}{SUFFIX}"

    def run(self, job: Job) -> None:
        """Do what is not done yet. Raises: InputError where a command fails, naming it and its log, or was another one when it was done."""
        with exclusive(self.folder(job), wait=False):
            self.folder(job).mkdir(parents=True, exist_ok=True)
            for number, template in enumerate(self.study.conditions[job.condition].commands):
                self._step(job, number, template)
            for corpus in self.corpora(job):
                if not self.record(job, corpus).is_file():
                    write_result(self.study.results, self.score(job, corpus, self.folder(job) / f"runs-{corpus}"))

    def score(self, job: Job, corpus: str, runs: Path) -> Result:
        """Search `corpus` as the condition says, into the folder `runs`, and score it."""
        condition = self.study.conditions[job.condition]
        collection, source = self._corpus(corpus)
        topics = condition.topics or self.study.topics
        template = f"search --topics {' '.join(topics)} --hits {self.study.hits} --no-compare {condition.search}"
        self.folder(job).mkdir(parents=True, exist_ok=True)
        cache = runs.with_name(f"{runs.name}.cache")  # vectors and index are as large as the model is many; they are not kept
        shutil.rmtree(runs, ignore_errors=True)
        scored = {"search": (template, runs)}
        if condition.answer:
            scored["answer"] = (f"answer --topics {' '.join(topics)} --hits {READ} --quiet {condition.answer}", runs / ANSWERS)
        spent = {}
        for verb, (command, output) in scored.items():
            words = [*self._words(job, command), "--collection", source, "--output", f"{output}/"]
            spent[verb] = {
                "command": " ".join(arguments(command, self._symbols(job))),
                **self._process(job, words, {"TACO_IR_HOME": str(cache)})._asdict(),
            }
        shutil.rmtree(cache)
        size = parameters(self._words(job, command) for command, _ in scored.values())
        names = collection.expand(list(topics))
        return Result(
            condition=condition.name,
            system=condition.system,
            base=condition.base,
            seed=job.seed,
            corpus=corpus,
            passages=collection.passages.count,
            collection=collection.passages.fingerprint,
            topics=score_runs(collection, names, self.study.slices, runs),
            made=self._made(job, {**spent, **({"system_parameters": size} if size else {})}),
        )

    def recorded(self, job: Job, corpus: str) -> Result:
        return read_result(self.record(job, corpus))

    def _corpus(self, name: str) -> tuple[Collection, str]:
        """A corpus and how it is named on the command line."""
        if name == WHOLE:
            return self.collection, self._source
        part, folder = self.study.parts[name], self.work / "corpora" / name
        make_part(self.collection, self.collection.expand(list(self.study.topics)), part.distractors, part.seed, folder)
        return open_collection(str(folder)), str(folder)

    def _step(self, job: Job, number: int, template: str) -> None:
        stamp, command = self._stamp(job, number), " ".join(arguments(template, self._symbols(job)))
        if stamp.is_file():
            if (before := read_json(stamp)["command"]) != command:
                raise InputError(f"{job}: done with another command ({before}); remove {self.folder(job)} to run it anew")
            return
        spent = self._process(job, self._words(job, template), {})
        write_json(stamp, {"command": command, **spent._asdict()})

    def _stamp(self, job: Job, number: int) -> Path:
        return self.folder(job) / f"step-{number}.json"

    def _process(self, job: Job, words: Sequence[str], environment: Mapping[str, str]) -> Spent:
        log = self.folder(job) / "output.txt"
        device = ["--device", self.device] if words[0] in ON_DEVICE else []
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        start = time.monotonic()
        with log.open("a", encoding="utf-8") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", f"taco_ir.{words[0]}", *words[1:], *device],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threads, **environment},
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            last = next((line for line in reversed(log.read_text(encoding="utf-8").splitlines()) if line.strip()), "no output")
            raise InputError(f"{job}: {words[0]} ended with code {process.returncode}: {last} (all of it: {log})")
        return Spent(round(time.monotonic() - start, 1), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))

    def _words(self, job: Job, template: str) -> list[str]:
        """A command with its placeholders filled in. Raises: InputError for a model that was not given."""
        if missing := placeholders(template) & set(self.study.models) - self._models.keys():
            raise InputError(f"{job}: --models {min(missing)}=FOLDER is needed")
        outs = {name: str(self.folder(needed) / "out") for name, needed in self.study.needs(job).items()}
        own = {"collection": self._source, "folder": str(self.study.folder), "out": str(self.folder(job) / "out"), "seed": str(job.seed)}
        return arguments(template, {**self._models, **outs, **own, **self._chosen(job)})

    def _symbols(self, job: Job) -> dict[str, str]:
        """The same for a record that means something elsewhere: names instead of paths."""
        outs = {name: f"{needed.condition}/{needed.seed}" for name, needed in self.study.needs(job).items()}
        own = {"collection": "COLLECTION", "folder": "CONDITIONS", "out": f"{job.condition}/{job.seed}", "seed": str(job.seed)}
        return {**{name: name for name in self.study.models}, **outs, **own, **self._chosen(job)}

    def _chosen(self, job: Job) -> dict[str, str]:
        """What the placeholders of `best` stand for."""
        return {placeholder: next(iter(scores)) for placeholder, scores in self._best(job).items()}

    def _best(self, job: Job) -> dict[str, dict[str, float]]:
        """For each placeholder of `best` what it may stand for, with held-out scores, the best first; once chosen it stays."""
        tried, path = self.study.tried(job.condition), self.folder(job) / "best.json"
        if tried and not path.is_file():
            outs = {name: self.folder(needed) / "out" for name, needed in self.study.needs(job).items()}
            write_json(path, {name: best_first({text: outs[each] for text, each in values.items()}) for name, values in tried.items()})
        found: dict[str, dict[str, float]] = read_json(path) if tried else {}
        return found

    def _made(self, job: Job, scored: Mapping[str, Any]) -> dict[str, Any]:
        commands = [read_json(self._stamp(job, number)) for number in range(len(self.study.conditions[job.condition].commands))]
        return {
            "commands": commands,
            **scored,
            **({"best": best} if (best := self._best(job)) else {}),
            **kept(self.folder(job) / "out"),
            "threads": self.threads,
            "processor": _processor(self.device),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "versions": {
                "taco_ir": taco_ir.__version__,
                "python": platform.python_version(),
                **{name: found for name in LIBRARIES if (found := _version(name))},
            },
        }


def _processor(device: str) -> str:
    """What computes: the processor with its cores, and the accelerator where there is one."""
    processor = f"{platform.machine()}, {os.cpu_count()} cores"
    if device == "cpu":
        return processor
    import torch

    return f"{processor}, {torch.cuda.get_device_name(device)}"


def _version(library: str) -> str:
    """Of an installed library; "" for one that is not there: dense retrieval needs no Pyserini."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """Of the checkout that this package runs from; "" for an installed package, a `+` behind it where files differ from it."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return ""
    git = ["git", "-C", str(checkout)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "--", "taco_ir"], capture_output=True, text=True, check=False).stdout.strip()
    return commit + "+" * bool(changed)
