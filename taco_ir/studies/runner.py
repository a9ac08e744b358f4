"""Runs a study's jobs, each once: its commands as processes of their own, then search and scores on each corpus.

`work / <condition> / <seed> / <content> /` holds a job; `content` is a hash of all that its output depends on, so that nothing is
skipped as done that was made under other conditions. `out` is what its commands write, `step-<n>.json` says that one is done and what it
took, `output.txt` is what they printed, `best.json` what was chosen. `<corpus>-<content> /` in it is one scoring: `runs` is what was
searched, `record.json` what it scores. A step that was done is not run again; a training that was killed continues from its last
checkpoint, as it does by itself, and `processes-<what>.json` counts its processes until it is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection as Container
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, data_home, exclusive, read_json, write_json
from taco_ir.core.hashes import fingerprint, sha256_once
from taco_ir.core.processes import log
from taco_ir.data.collection import Collection, open_collection
from taco_ir.data.subsets import make_subset
from taco_ir.studies.checks import CORPORA
from taco_ir.studies.commands import Commands
from taco_ir.studies.conditions import WHOLE, Job, Study
from taco_ir.studies.facts import commit, kept, machine, parameters
from taco_ir.studies.records import RECORDS, Record, load_record, read_records, save_record, write_record
from taco_ir.studies.running import run_process
from taco_ir.studies.scores import ANSWERS, score_runs

ON_DEVICE = frozenset(("train", "pretrain", "mine", "search", "answer", "encode"))  # verbs with --device


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
        self._gold = cache(lambda name: self.collection.load_topics(name).gold_fingerprint)
        self.commands = Commands(study, self.work, collection, _contents(self.collection), models)

    def folder(self, job: Job) -> Path:
        """Raises: InputError where models that it needs were not given."""
        return self.commands.folder(job)

    def done(self, job: Job) -> bool:
        """Whether all its steps are done and scored."""
        return self.made(job) and all(self.record(job, corpus).is_file() for corpus in self.corpora(job))

    def made(self, job: Job) -> bool:
        """Whether the study has it and all its steps are done, so that it can be searched."""
        condition = self.study.conditions.get(job.condition)
        return condition is not None and all(
            self.step(job, number).is_file() for number in range(len(condition.commands))
        )

    def corpora(self, job: Job) -> list[str]:
        """Where the job is scored."""
        named = self.study.conditions[job.condition].corpora
        return [
            corpus for corpus, seeds in named.items() if job.seed in seeds and (not self._only or corpus in self._only)
        ]

    def step(self, job: Job, number: int) -> Path:
        """What says that a command of the job is done."""
        return self.folder(job) / f"step-{number}.json"

    def runs(self, job: Job, corpus: str) -> Path:
        """What is searched of a corpus."""
        return self.folder(job) / f"{corpus}-{self.content(job, corpus)}" / "runs"

    def record(self, job: Job, corpus: str) -> Path:
        """The work folder's own record of the same, which says that it is scored."""
        return self.runs(job, corpus).with_name("record.json")

    def content(self, job: Job, corpus: str) -> str:
        """Hash of all that a score depends on: the job, its search, passages, how the part is drawn, slices, queries and their gold, labels."""
        condition, topics = self.study.conditions[job.condition], self._topics(job, self.collection)
        scored = {
            "job": self.commands.content(job),
            **self.commands.made_of(job, list(self.commands.scoring(job).values())),
            "passages": self.collection.passages.fingerprint,
            "corpus": [self.study.parts.get(corpus), self.study.topics],
            "slices": [each for each in self.study.slices if each.topics in topics],
            "gold": {name: self._gold(name) for name in topics},
            "row": [condition.system, condition.base],
        }
        return fingerprint(scored)

    def run(self, job: Job) -> None:
        """Do what is not done yet. Raises: InputError where a command fails, naming it and its log."""
        folder = self.folder(job)
        with exclusive(folder, wait=False):
            folder.mkdir(parents=True, exist_ok=True)
            for number, template in enumerate(self.study.conditions[job.condition].commands):
                if not self.step(job, number).is_file():
                    for before in folder.glob("*/record.json"):
                        before.unlink()
                    write_json(self.step(job, number), self._process(job, template, f"step-{number}"))
                    self._processes(job, f"step-{number}").unlink(missing_ok=True)
            for corpus in self.corpora(job):
                if not (path := self.record(job, corpus)).is_file():
                    save_record(path, self.score(job, corpus, self.runs(job, corpus)))
        self.keep([job])

    def keep(self, jobs: Container[Job]) -> list[tuple[Record, Record]]:
        """Add the scores of jobs to the study's records; one that was made under other conditions is replaced.

        Returns:
            The records that stay since others made them, under the same conditions or those of before records said which; and ours.
        """
        results = self.study.results
        known = {each.name: each for each in read_records(results)} if (results / RECORDS).is_file() else {}
        stay = []
        for path in (self.record(job, corpus) for job in jobs for corpus in self.corpora(job)):
            if not path.is_file() or (found := load_record(path)) == (recorded := known.get(found.name)):
                continue
            if recorded is not None and recorded.made.get("content") in (None, found.made["content"]):
                stay.append((recorded, found))
                continue
            if recorded is not None:
                log.info("%s: recorded under other conditions before; its record is replaced", found.name)
            write_record(results, found)
        return stay

    def score(self, job: Job, corpus: str, runs: Path) -> Record:
        """Search `corpus` as the condition says, into the folder `runs`, and score it."""
        condition = self.study.conditions[job.condition]
        collection, source = self._corpus(corpus)
        runs.parent.mkdir(parents=True, exist_ok=True)
        cache = runs.with_name(
            f"{runs.name}.cache"
        )  # vectors and index are as large as the model is many; they are not kept
        shutil.rmtree(runs, ignore_errors=True)
        scoring = self.commands.scoring(job)
        outputs = {"search": runs, "answer": runs / ANSWERS}
        spent = {}
        for verb, template in scoring.items():
            more = ["--collection", source, "--output", f"{outputs[verb]}/"]
            spent[verb] = self._process(job, template, f"{corpus}-{verb}", more, home=cache)
        shutil.rmtree(cache, ignore_errors=True)  # BM25 alone may leave none
        for verb in scoring:
            self._processes(job, f"{corpus}-{verb}").unlink(missing_ok=True)
        size = parameters(self.commands.words(job, template) for template in scoring.values())
        steps = [read_json(self.step(job, number), dict[str, Any]) for number in range(len(condition.commands))]
        return Record(
            condition=condition.name,
            system=condition.system,
            base=condition.base,
            seed=job.seed,
            corpus=corpus,
            passages=collection.passages.count,
            collection=collection.passages.fingerprint,
            topics=score_runs(collection, self._topics(job, collection), self.study.slices, runs),
            made={
                "commands": steps,
                **spent,
                **({"system_parameters": size} if size else {}),
                "content": self.content(job, corpus),
                "models": self.commands.weights(job),
                **({"best": best} if (best := self.commands.choice(job)) else {}),
                **kept(self.folder(job) / "out"),
                **machine(self.threads, self.device),
            },
        )

    def _corpus(self, name: str) -> tuple[Collection, str]:
        """A corpus and how it is named on the command line."""
        if name == WHOLE:
            return self.collection, self.commands.source
        part = self.study.parts[name]
        drawn = fingerprint(
            [self.collection.passages.fingerprint, part, {each: self._gold(each) for each in self.study.topics}]
        )
        folder = self.work / CORPORA / f"{name}-{drawn}"
        make_subset(
            self.collection, self.collection.expand(list(self.study.topics)), part.distractors, part.seed, folder
        )
        return open_collection(str(folder)), str(folder)

    def _topics(self, job: Job, collection: Collection) -> list[str]:
        return collection.expand(list(self.study.conditions[job.condition].topics or self.study.topics))

    def _processes(self, job: Job, what: str) -> Path:
        return self.folder(job) / f"processes-{what}.json"

    def _process(
        self, job: Job, template: str, what: str, more: Sequence[str] = (), home: Path | None = None
    ) -> dict[str, Any]:
        """Run a command of a job; what its record says of it.

        Args:
            what: it is, which its processes are counted under.
            more: words behind the command.
            home: a data home of its own.
        """
        words = [*self.commands.words(job, template), *more]
        device = ["--device", self.device] if words[0] in ON_DEVICE else []
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        if (
            words[0] == "export" and self._processes(job, what).is_file()
        ):  # it may have ended well before its end was seen
            words.append("--overwrite")
        began = commit()  # as it was when the process began
        spent = run_process(
            str(job),
            [*words, *device],
            threads | ({"TACO_IR_HOME": str(home)} if home else {}),
            self.folder(job) / "output.txt",
            self._processes(job, what),
        )
        return {"command": self.commands.named(job, template), **spent.facts(), "commit": began}


def _contents(collection: Collection) -> str:
    """Hash of a collection's passages, and of the topics that models are trained and validated on."""
    names = [str(topics) for topics in collection.topics_names if topics.split != "test"]
    return fingerprint(
        [collection.passages.fingerprint, {name: sha256_once(collection.topics_path(name)) for name in names}]
    )
