"""A job's commands with their placeholders filled in, by paths to be run and by names to be recorded, and what they read."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, fingerprint, read_json, sha256_file, write_json
from taco_ir.studies.conditions import Job, Study, arguments, placeholders
from taco_ir.studies.curves import best_first

READ = 20  # passages that a reader is given
Choice = Mapping[str, Mapping[str, float]]  # placeholder of `best` -> what it may stand for, with held-out scores, the best first


class Commands:
    """Those of a study whose jobs work under `work`.

    Args:
        collection: name or folder of the collection.
        passages: its fingerprint.
        models: folder of each model that the conditions name.

    Raises:
        InputError: for a model that they do not name.
    """

    def __init__(self, study: Study, work: Path, collection: str, passages: str, models: Mapping[str, str]) -> None:
        if unknown := models.keys() - set(study.models):
            raise InputError(f"--models {min(unknown)}: the conditions name {', '.join(study.models) or 'no model'}")
        self.study = study
        self.work = work
        self.source = str(Path(collection).resolve()) if Path(collection).is_dir() else collection
        self._passages = passages
        self._models = {name: str(Path(folder).resolve()) for name, folder in models.items()}
        self._weights = cache(lambda name: _weights_hash(name, Path(self._models[name])))

    def folder(self, job: Job) -> Path:
        return self.work / job.condition / str(job.seed)

    def require_models(self, jobs: Collection[Job]) -> None:
        """Raise InputError for models that these jobs name and that were not given, naming them all, or for one without weights."""
        named = {name for job in jobs for name in self.study.conditions[job.condition].names()} & set(self.study.models)
        if missing := [f"{name}=FOLDER" for name in self.study.models if name in named - self._models.keys()]:
            raise InputError(f"--models {' '.join(missing)}: needed by what is to be run")
        for name in sorted(named):
            self._weights(name)

    def words(self, job: Job, template: str) -> list[str]:
        """A command to be run. What `best` stands for is chosen now at the latest. Raises: InputError for a model that was not given."""
        if missing := placeholders(template) & set(self.study.models) - self._models.keys():
            raise InputError(f"{job}: --models {min(missing)}=FOLDER is needed")
        self._choose(job)
        outs = {name: str(self.folder(needed) / "out") for name, needed in self.study.needs(job).items()}
        own = {"collection": self.source, "folder": str(self.study.folder), "out": str(self.folder(job) / "out")}
        return arguments(template, {**self._models, **outs, **own, **self._plain(job, self.choice(job))})

    def named(self, job: Job, template: str, choice: Choice | None = None) -> str:
        """The same for a record that means something elsewhere: names instead of paths.

        Args:
            choice: for `best`, instead of the one made here; a placeholder that is in none stays as it is.
        """
        return " ".join(arguments(template, self._names(job, self.choice(job) if choice is None else choice)))

    def scoring(self, job: Job) -> dict[str, str]:
        """The commands whose output is scored, by verb; they lack corpus and output."""
        condition = self.study.conditions[job.condition]
        topics = " ".join(condition.topics or self.study.topics)
        answer = f"answer --topics {topics} --hits {READ} --quiet {condition.answer}"
        search = f"search --topics {topics} --hits {self.study.hits} --no-compare {condition.search}"
        return {"search": search, **({"answer": answer} if condition.answer else {})}

    def reads(self, job: Job, template: str) -> dict[str, Any]:
        """What a command reads, by hashes: weights of the models given to it, files beside the conditions, and the collection's passages."""
        names = self._names(job, self.choice(job))
        beside = [word.partition("{folder}/")[2].format_map(names) for word in shlex.split(template) if "{folder}/" in word]
        paths = {name: self.study.folder / name for name in beside}
        read = {
            "models": {name: self._weights(name) for name in sorted(placeholders(template) & self._models.keys())},
            "files": {name: sha256_file(path) if path.is_file() else "" for name, path in paths.items()},
            "collection": self._passages if "collection" in placeholders(template) else "",
        }
        return {kind: hashes for kind, hashes in read.items() if hashes}

    def weights(self, job: Job) -> dict[str, str]:
        """Hash of the weights of each model, by name, that went into a job: those it names, and those that what it needs names."""
        named = {name for each in self.study.with_needs([job]) for name in self.study.conditions[each.condition].names()}
        return {name: self._weights(name) for name in sorted(named & self._models.keys())}

    def choice(self, job: Job) -> dict[str, dict[str, float]]:
        """What was chosen for `best`; nothing before that."""
        path = self._choice_file(job)
        found: dict[str, dict[str, float]] = read_json(path) if self.study.tried(job.condition) and path.is_file() else {}
        return found

    def _choose(self, job: Job) -> None:
        """For `best`, once: then it stays."""
        tried, path = self.study.tried(job.condition), self._choice_file(job)
        if tried and not path.is_file():
            outs = {name: self.folder(needed) / "out" for name, needed in self.study.needs(job).items()}
            write_json(path, {name: best_first({text: outs[each] for text, each in values.items()}) for name, values in tried.items()})

    def _choice_file(self, job: Job) -> Path:
        return self.folder(job) / "best.json"

    def _names(self, job: Job, choice: Choice) -> dict[str, str]:
        """What placeholders stand for in a record."""
        outs = {name: f"{needed.condition}/{needed.seed}" for name, needed in self.study.needs(job).items()}
        own = {"collection": "COLLECTION", "folder": "CONDITIONS", "out": f"{job.condition}/{job.seed}"}
        return {**{name: name for name in self.study.models}, **outs, **own, **self._plain(job, choice)}

    def _plain(self, job: Job, choice: Choice) -> dict[str, str]:
        """What placeholders of plain text stand for, to be run or recorded."""
        chosen = {name: next(iter(choice.get(name) or (f"{{{name}}}",))) for name in self.study.tried(job.condition)}
        return {"seed": str(job.seed), **chosen}


def _weights_hash(name: str, folder: Path) -> str:
    """Of all weights under a model's folder, two towers and backbones inside included. Raises: InputError where there are none."""
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise InputError(f"--models {name}={folder}: no weights in it (*.safetensors)")
    return fingerprint([sha256_file(path) for path in files])
