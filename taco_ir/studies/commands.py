"""A job's commands with their placeholders filled in, by paths to be run and by names to be recorded, and a hash of all that they depend on."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.hashes import fingerprint, sha256_file
from taco_ir.studies.conditions import Job, Study, arguments, placeholders
from taco_ir.studies.facts import best_first

READ = 20  # passages that a reader is given
Choice = Mapping[
    str, Mapping[str, float]
]  # placeholder of `best` -> what it may stand for, with held-out scores, the best first


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
        self.content = cache(self._content)

    def folder(self, job: Job) -> Path:
        """Where a job is made: named by its content, so that one that was edited since is made anew, and what was made stays."""
        return self.work / job.condition / str(job.seed) / self.content(job)

    def require_models(self, jobs: Collection[Job]) -> None:
        """Raise InputError for models that these jobs and what they need name and that were not given, or for one without weights."""
        named = self._named_models(jobs)
        if missing := [f"{name}=FOLDER" for name in self.study.models if name in named - self._models.keys()]:
            raise InputError(f"--models {' '.join(missing)}: needed by what is to be run")
        for name in sorted(named):
            self._weights(name)

    def made_of(self, job: Job, templates: Sequence[str]) -> dict[str, Any]:
        """All that the output of commands depends on: their words, weights of models, files beside the conditions, passages, other jobs."""
        names = {name for template in templates for name in placeholders(template)}
        tried = {name: values for name, values in self.study.tried(job.condition).items() if name in names}
        others = names | {each for values in tried.values() for each in values.values()}
        beside = {
            word.partition("{folder}/")[2]
            for template in templates
            for word in shlex.split(template)
            if "{folder}/" in word
        }
        paths = {name: self.study.folder / name.format_map(self._names(job, {})) for name in beside}
        return {
            "commands": list(templates),
            "seed": job.seed,
            "models": {name: self._weights(name) for name in sorted(names & set(self.study.models))},
            "files": {name: sha256_file(path) if path.is_file() else "" for name, path in paths.items()},
            "collection": self._passages if "collection" in names else "",
            "best": tried,
            "jobs": {name: self.content(needed) for name, needed in self.study.needs(job).items() if name in others},
        }

    def words(self, job: Job, template: str) -> list[str]:
        """A command to be run. What `best` stands for is chosen now at the latest."""
        self._choose(job)
        outs = {name: str(self.folder(needed) / "out") for name, needed in self.study.needs(job).items()}
        own = {"collection": self.source, "folder": str(self.study.folder), "out": str(self.folder(job) / "out")}
        return arguments(template, {**self._models, **outs, **own, **self._plain(job, self.choice(job))})

    def named(self, job: Job, template: str) -> str:
        """The same for a record that means something elsewhere: names instead of paths."""
        return " ".join(arguments(template, self._names(job, self.choice(job))))

    def scoring(self, job: Job) -> dict[str, str]:
        """The commands whose output is scored, by verb; they lack corpus and output."""
        condition = self.study.conditions[job.condition]
        topics = " ".join(condition.topics or self.study.topics)
        answer = f"answer --topics {topics} --hits {READ} --quiet {condition.answer}"
        search = f"search --topics {topics} --hits {self.study.hits} --no-compare {condition.search}"
        return {"search": search, **({"answer": answer} if condition.answer else {})}

    def weights(self, job: Job) -> dict[str, str]:
        """Hash of the weights of each model, by name, that went into a job: those it names, and those that what it needs names."""
        return {name: self._weights(name) for name in sorted(self._named_models([job]))}

    def choice(self, job: Job) -> dict[str, dict[str, float]]:
        """What was chosen for `best`; nothing before that."""
        path = self._choice_file(job)
        return (
            read_json(path, dict[str, dict[str, float]]) if self.study.tried(job.condition) and path.is_file() else {}
        )

    def _content(self, job: Job) -> str:
        self.require_models([job])
        return fingerprint(self.made_of(job, self.study.conditions[job.condition].commands))

    def _named_models(self, jobs: Collection[Job]) -> set[str]:
        return {
            name for job in self.study.with_needs(jobs) for name in self.study.conditions[job.condition].names()
        } & set(self.study.models)

    def _choose(self, job: Job) -> None:
        """For `best`, once: then it stays."""
        tried, path = self.study.tried(job.condition), self._choice_file(job)
        if tried and not path.is_file():
            outs = {name: self.folder(needed) / "out" for name, needed in self.study.needs(job).items()}
            write_json(
                path,
                {
                    name: best_first({text: outs[each] for text, each in values.items()})
                    for name, values in tried.items()
                },
            )

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
