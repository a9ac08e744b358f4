"""Runs a study's jobs, each once: its commands as processes of their own, then search and scores on each corpus.

`work / <condition> / <seed> /` holds a job: `out` is what its commands write, `step-<n>.json` says that one is done, what it took and
what it read, `output.txt` is what they printed, `best.json` what was chosen, `runs-<corpus>` what was searched, and `scored-<corpus>.json`
says that its scores were recorded, or compared with a record that was there before. A step that was done is not run again; a training
that was killed goes on from its last checkpoint, as it does by itself, and `attempts-<what>.json` counts its processes until it is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, claim_output, data_home, exclusive, fingerprint, read_json, was_begun, write_json
from taco_ir.data.collection import Collection, open_collection
from taco_ir.data.subsets import make_part
from taco_ir.studies.checks import CORPORA
from taco_ir.studies.commands import Commands
from taco_ir.studies.conditions import WHOLE, Job, Study
from taco_ir.studies.curves import kept
from taco_ir.studies.machine import commit, machine
from taco_ir.studies.parameters import parameters
from taco_ir.studies.processes import run_process
from taco_ir.studies.records import SUFFIX, Result, read_result, write_result
from taco_ir.studies.scores import ANSWERS, score_runs
from taco_ir.studies.standing import compared

RECORDING = "record"  # what a stamp is claimed for
ON_DEVICE = frozenset(("train", "pretrain", "train_reader", "mine", "search", "answer", "encode"))  # verbs with --device


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
        self.commands = Commands(study, self.work, collection, self.collection.passages.fingerprint, models)

    def folder(self, job: Job) -> Path:
        return self.commands.folder(job)

    def done(self, job: Job) -> bool:
        """Whether all its steps are done, its records are there, and its scores went into them or were compared with them."""
        return self.made(job) and all(self._settled(job, corpus) for corpus in self.corpora(job))

    def made(self, job: Job) -> bool:
        """Whether the study has it and all its steps are done, so that it can be searched."""
        condition = self.study.conditions.get(job.condition)
        return condition is not None and all(self.step(job, number).is_file() for number in range(len(condition.commands)))

    def corpora(self, job: Job) -> list[str]:
        """Where the job is scored."""
        named = self.study.conditions[job.condition].corpora
        return [corpus for corpus, seeds in named.items() if job.seed in seeds and (not self._only or corpus in self._only)]

    def record(self, job: Job, corpus: str) -> Path:
        return self.study.results / f"{job.condition}.{job.seed}.{corpus}{SUFFIX}"

    def step(self, job: Job, number: int) -> Path:
        """What says that a command of the job is done."""
        return self.folder(job) / f"step-{number}.json"

    def stamp(self, job: Job, corpus: str) -> Path:
        """What says that the work folder's own scores are settled with the record."""
        return self.folder(job) / f"scored-{corpus}.json"

    def run(self, job: Job) -> None:
        """Do what is not done yet. Raises: InputError where a command fails, naming it and its log."""
        with exclusive(self.folder(job), wait=False):
            self.folder(job).mkdir(parents=True, exist_ok=True)
            for number, template in enumerate(self.study.conditions[job.condition].commands):
                if not self.step(job, number).is_file():
                    for before in self.folder(job).glob("scored-*.json"):
                        before.unlink()
                    write_json(self.step(job, number), self._process(job, template, f"step-{number}"))
                    self._attempts(job, f"step-{number}").unlink(missing_ok=True)
            for corpus in self.corpora(job):
                if not self._settled(job, corpus):
                    self._settle(job, corpus)

    def score(self, job: Job, corpus: str, runs: Path) -> Result:
        """Search `corpus` as the condition says, into the folder `runs`, and score it."""
        condition = self.study.conditions[job.condition]
        collection, source = self._corpus(corpus)
        self.folder(job).mkdir(parents=True, exist_ok=True)
        cache = runs.with_name(f"{runs.name}.cache")  # vectors and index are as large as the model is many; they are not kept
        shutil.rmtree(runs, ignore_errors=True)
        scoring = self.commands.scoring(job)
        outputs = {"search": runs, "answer": runs / ANSWERS}
        spent = {}
        for verb, template in scoring.items():
            more = ["--collection", source, "--output", f"{outputs[verb]}/"]
            spent[verb] = self._process(job, template, f"{runs.name}-{verb}", more, home=cache)
        shutil.rmtree(cache, ignore_errors=True)  # BM25 alone may leave none
        for verb in scoring:
            self._attempts(job, f"{runs.name}-{verb}").unlink(missing_ok=True)
        size = parameters(self.commands.words(job, template) for template in scoring.values())
        return Result(
            condition=condition.name,
            system=condition.system,
            base=condition.base,
            seed=job.seed,
            corpus=corpus,
            passages=collection.passages.count,
            collection=collection.passages.fingerprint,
            topics=score_runs(collection, self._topics(job, collection), self.study.slices, runs),
            made=self._made(job, {**spent, **({"system_parameters": size} if size else {})}),
        )

    def moved(self, jobs: Iterable[Job]) -> list[int]:
        """Of each record that another work folder made: how many scores are not as this one's."""
        stamps = [path for job in jobs for corpus in self.corpora(job) if (path := self.stamp(job, corpus)).is_file()]
        return [stamp["moved"] for stamp in map(read_json, stamps) if "moved" in stamp]

    def scope(self, job: Job, corpus: str) -> dict[str, str]:
        """What a job is scored on beyond its commands: passages, how the part is drawn, slices, queries and their gold."""
        topics, part = self._topics(job, self.collection), self.study.parts.get(corpus)
        slices = [f"{each.name} ({each.field} = {each.value!r})" for each in self.study.slices if each.topics in topics]
        drawn = f"{part.distractors} distractors, seed {part.seed}, gold of {' '.join(self.study.topics)}" if part else "all passages"
        gold = fingerprint({name: self._gold(name) for name in topics})
        passages = self.collection.passages.fingerprint
        return {"collection": passages, "corpus": drawn, "slices": "; ".join(slices) or "none", "queries and gold": gold}

    def _corpus(self, name: str) -> tuple[Collection, str]:
        """A corpus and how it is named on the command line."""
        if name == WHOLE:
            return self.collection, self.commands.source
        part, folder = self.study.parts[name], self.work / CORPORA / name
        make_part(self.collection, self.collection.expand(list(self.study.topics)), part.distractors, part.seed, folder)
        return open_collection(str(folder)), str(folder)

    def _topics(self, job: Job, collection: Collection) -> list[str]:
        return collection.expand(list(self.study.conditions[job.condition].topics or self.study.topics))

    def _attempts(self, job: Job, what: str) -> Path:
        return self.folder(job) / f"attempts-{what}.json"

    def _settled(self, job: Job, corpus: str) -> bool:
        return self.record(job, corpus).is_file() and self.stamp(job, corpus).is_file()

    def _settle(self, job: Job, corpus: str) -> None:
        """Score a job and record it; where a record is there that this folder did not make, compare with that one, which stays."""
        found = self.score(job, corpus, self.folder(job) / f"runs-{corpus}")
        scored = {verb: found.made[verb] for verb in self.commands.scoring(job)} | {"of": self.scope(job, corpus)}
        stamp = self.stamp(job, corpus)
        if self.record(job, corpus).is_file() and not was_begun(stamp, RECORDING):
            scored["moved"] = compared(read_result(self.record(job, corpus)), found, self.study.tolerance)
            write_json(stamp, scored)
            return
        with claim_output(stamp, RECORDING, overwrite=True, resume=True):  # killed between record and stamp, it is ours still
            write_result(self.study.results, found)
            write_json(stamp, scored)

    def _process(self, job: Job, template: str, what: str, more: Sequence[str] = (), home: Path | None = None) -> dict[str, Any]:
        """Run a command of a job; what its stamp and its record say of it.

        Args:
            what: it is, which its attempts are kept under.
            more: words behind the command.
            home: a data home of its own.
        """
        words = [*self.commands.words(job, template), *more]
        device = ["--device", self.device] if words[0] in ON_DEVICE else []
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        if words[0] == "export" and self._attempts(job, what).is_file():  # it may have ended well before its end was seen
            words.append("--overwrite")
        read = self.commands.reads(job, template) | {"commit": commit()}  # as it was when the process began
        spent = run_process(
            str(job),
            [*words, *device],
            threads | ({"TACO_IR_HOME": str(home)} if home else {}),
            self.folder(job) / "output.txt",
            self._attempts(job, what),
        )
        return {"command": self.commands.named(job, template), **spent.facts(), **read}

    def _made(self, job: Job, scored: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "commands": [read_json(self.step(job, number)) for number in range(len(self.study.conditions[job.condition].commands))],
            **scored,
            "models": self.commands.weights(job),
            **({"best": best} if (best := self.commands.choice(job)) else {}),
            **kept(self.folder(job) / "out"),
            **machine(self.threads, self.device),
        }
