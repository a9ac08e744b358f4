"""Fills in the placeholders of a job's commands, hashes what they depend on, and runs each one as a process."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.hashes import fingerprint, sha256_file
from taco_ir.core.processes import PARENT
from taco_ir.encoders.names import BUILTIN, SHIPPED
from taco_ir.studies.conditions import Job, Study, placeholders
from taco_ir.studies.facts import rank_trainings

READ = 20  # passages that a reader reads for a query


class Commands:
    """The commands of a study. Each job (a condition with a seed) works in its own folder under `work`.

    Args:
        collection: name or folder of the collection.
        passages: fingerprint of the collection's passages.
        models: the folder of each model that the conditions name.

    Raises:
        InputError: for a model that the conditions do not name.
    """

    def __init__(self, study: Study, work: Path, collection: str, passages: str, models: Mapping[str, str]) -> None:
        if unknown := models.keys() - set(study.models):
            raise InputError(
                f"--models {min(unknown)}: no such model; the conditions name {', '.join(study.models) or 'no model'}"
            )
        self.study = study
        self.work = work
        self.collection = str(Path(collection).resolve()) if Path(collection).is_dir() else collection
        self._passages = passages
        self._models = {name: str(Path(folder).resolve()) for name, folder in models.items()}
        self._weights = cache(self._hash_weights)
        self.content = cache(self._content)

    def folder(self, job: Job) -> Path:
        """Return the folder of a job, named by a hash of all that it depends on. A changed job gets a new folder."""
        return self.work / job.condition / str(job.seed) / self.content(job)

    def require_models(self, jobs: Collection[Job]) -> None:
        """Raise InputError if a model that these jobs need was not given or has no weights."""
        named = self._named_models(jobs)
        if missing := [f"{name}=FOLDER" for name in self.study.models if name in named - self._models.keys()]:
            raise InputError(f"--models: the jobs also need {' '.join(missing)}")
        for name in sorted(named):
            self._weights(name)

    def made_of(self, job: Job, templates: Sequence[str]) -> dict[str, Any]:
        """Return what the output of commands depends on: their words, weights, files, passages and other jobs."""
        names = {name for template in templates for name in placeholders(template)}
        candidates = {name: values for name, values in self.study.candidates(job.condition).items() if name in names}
        others = names | {each for values in candidates.values() for each in values.values()}
        words = [word for template in templates for word in shlex.split(template)]
        beside = {word.partition("{folder}/")[2] for word in words if "{folder}/" in word}
        paths = {name: self.study.folder / name.format_map(self._names(job, {})) for name in beside}
        models = names & set(self.study.models) | builtin_models(templates)
        return {
            "commands": list(templates),
            "seed": job.seed,
            "models": {name: self._weights(name) for name in sorted(models)},
            "files": {name: sha256_file(path) if path.is_file() else "" for name, path in paths.items()},
            "collection": self._passages if "collection" in names else "",
            "best": candidates,
            "jobs": {name: self.content(needed) for name, needed in self.study.needs(job).items() if name in others},
        }

    def fill(self, job: Job, template: str) -> list[str]:
        """Return the words of a command, with placeholders filled in. If `best` is not chosen yet, this chooses it."""
        outputs = {name: self.folder(needed) / "out" for name, needed in self.study.needs(job).items()}
        candidates, path = self.study.candidates(job.condition), self._best_file(job)
        if candidates and not path.is_file():
            ranked = {
                name: rank_trainings({text: outputs[each] for text, each in values.items()})
                for name, values in candidates.items()
            }
            write_json(path, ranked)
        own = {"collection": self.collection, "folder": self.study.folder, "out": self.folder(job) / "out"}
        return fill_command(template, {**self._models, **outputs, **own, **self._texts(job, self.best(job))})

    def describe(self, job: Job, template: str) -> str:
        """Return a command as records store it: with names instead of paths."""
        return " ".join(fill_command(template, self._names(job, self.best(job))))

    def scoring_commands(self, job: Job) -> dict[str, str]:
        """Return the search command and the answer command (if any), by verb, without --collection and --output."""
        condition = self.study.conditions[job.condition]
        topics = " ".join(condition.topics or self.study.topics)
        answer = f"answer --topics {topics} --hits {READ} --quiet {condition.answer}"
        search = f"search --topics {topics} --hits {self.study.hits} --no-compare {condition.search}"
        return {"search": search, **({"answer": answer} if condition.answer else {})}

    def weights(self, job: Job) -> dict[str, str]:
        """Return the hash of the weights of each model that a job uses, directly or through jobs that it needs."""
        templates = [*self.scoring_commands(job).values()]
        for needed in self.study.with_needs([job]):
            templates += self.study.conditions[needed.condition].commands
        return {name: self._weights(name) for name in sorted(self._named_models([job]) | builtin_models(templates))}

    def best(self, job: Job) -> dict[str, dict[str, float]]:
        """Return, for each placeholder of `best`, its values with held-out scores, best first; empty if not chosen."""
        path = self._best_file(job)
        chosen = self.study.candidates(job.condition) and path.is_file()
        return read_json(path, dict[str, dict[str, float]]) if chosen else {}

    def _content(self, job: Job) -> str:
        self.require_models([job])
        return fingerprint(self.made_of(job, self.study.conditions[job.condition].commands))

    def _hash_weights(self, name: str) -> str:
        """Return a hash of all weights in a model's folder, including its subfolders."""
        folder = Path(self._models[name]) if name in self._models else BUILTIN[name]()
        files = sorted(folder.rglob("*.safetensors"))
        if not files:
            raise InputError(f"--models {name}={folder}: no weights in it; give a folder with *.safetensors files")
        return fingerprint([sha256_file(path) for path in files])

    def _named_models(self, jobs: Collection[Job]) -> set[str]:
        conditions = [self.study.conditions[job.condition] for job in self.study.with_needs(jobs)]
        return {name for condition in conditions for name in condition.names()} & set(self.study.models)

    def _best_file(self, job: Job) -> Path:
        return self.folder(job) / "best.json"

    def _names(self, job: Job, best: Mapping[str, Mapping[str, float]]) -> dict[str, object]:
        """Return the values of the placeholders in a record."""
        outputs = {name: f"{needed.condition}/{needed.seed}" for name, needed in self.study.needs(job).items()}
        own = {"collection": "COLLECTION", "folder": "CONDITIONS", "out": f"{job.condition}/{job.seed}"}
        return {**{name: name for name in self.study.models}, **outputs, **own, **self._texts(job, best)}

    def _texts(self, job: Job, best: Mapping[str, Mapping[str, float]]) -> dict[str, object]:
        """Return the values of the placeholders that are not paths."""
        values = {name: next(iter(best.get(name) or (f"{{{name}}}",))) for name in self.study.candidates(job.condition)}
        return {"seed": job.seed, **values}


def builtin_models(templates: Sequence[str]) -> set[str]:
    """Return the names of built-in models in commands. A command without --model uses the default model."""
    found = set()
    for words in map(shlex.split, templates):
        found |= BUILTIN.keys() & set(words)
        if words[0] in ("encode", "search") and not {"--model", "bm25"} & set(words):
            found.add(SHIPPED)
    return found


def fill_command(template: str, names: Mapping[str, object]) -> list[str]:
    """Split a command into words and fill in its placeholders. A value never splits into several words."""
    return [word.format_map(names) for word in shlex.split(template)]


class Spent(NamedTuple):
    """The resources that a command used over all its processes: seconds, peak memory in bytes, number of processes."""

    seconds: float
    peak_bytes: int
    processes: int = 1

    def facts(self) -> dict[str, float]:
        """Return the figures as records store them. The number of processes is left out if there was only one."""
        return {name: value for name, value in self._asdict().items() if name != "processes" or value > 1}


def run_process(name: str, words: Sequence[str], environment: Mapping[str, str], log: Path, begun: Path) -> Spent:
    """Run `python -m taco_ir.<words>` as a process that ends when this process ends.

    Args:
        name: name of the job, for errors.
        environment: added to this process's own.
        log: file for the command's output.
        begun: file that notes when each process of the command began and, after it ended, its seconds and peak memory.
            If this process is killed, a later call continues the file. The caller removes it after storing the result.

    Raises:
        InputError: if the process fails; the message has its last line of output.
    """
    made = read_json(begun, list[dict[str, Any]]) if begun.is_file() else []
    made.append({"begun": datetime.now(UTC).isoformat(timespec="seconds")})
    write_json(begun, made)
    start = time.monotonic()
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"taco_ir.{words[0]}", *words[1:]],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, PARENT: str(os.getpid())},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    made[-1] |= {"seconds": round(time.monotonic() - start, 1), "peak_bytes": peak}
    write_json(begun, made)
    if process.returncode:
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()] or ["no output"]
        raise InputError(f"{name}: {words[0]} ended with exit code {process.returncode}: {lines[-1]} (full log: {log})")
    seen = [each for each in made if "seconds" in each]
    return Spent(round(sum(each["seconds"] for each in seen), 1), max(each["peak_bytes"] for each in seen), len(made))
