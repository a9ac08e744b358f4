"""Runs the jobs of a study: the commands of each condition and seed, once, then search and scores.

A job works in `work/<condition>/<seed>/<content>/`, where `content` is a hash of all that its output depends on. So
nothing made under other conditions counts as done. Its commands write to `out`. `step-<n>.json` says that a command is
done and what it took, `output.txt` has what the commands printed, `best.json` what was chosen for `best`, and
`processes-<what>.json` counts a command's processes until the command is done. `<corpus>-<content>/` is one scoring,
with run files in `runs` and the scores in `record.json`. A step that is done is skipped. A training that was killed
resumes from its last checkpoint.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Collection as Container
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, data_home, exclusive, read_json, write_json
from taco_ir.core.hashes import fingerprint, sha256_once
from taco_ir.core.processes import current_commit, format_duration, log
from taco_ir.data.collection import Collection, open_collection
from taco_ir.data.subsets import make_subset
from taco_ir.studies.commands import Commands, run_process
from taco_ir.studies.conditions import CORPORA, WHOLE, Job, Study
from taco_ir.studies.facts import count_parameters, machine_facts, training_facts
from taco_ir.studies.records import RECORDS, Record, load_record, read_records, save_record, write_record
from taco_ir.studies.scores import ANSWERS, score_runs

ON_DEVICE = frozenset(("train", "pretrain", "adapt", "mine", "search", "answer", "encode"))  # verbs with --device
SHARED = ("hashes", "imported", "kilt", "layouts")  # folders of the data home
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def select_jobs(study: Study, patterns: Container[str], seeds: Container[int]) -> list[Job]:
    """Select jobs by patterns of conditions and by seeds (empty: all), and add all jobs that they need.

    Raises:
        InputError: if a pattern matches no condition, or if no selected condition has these seeds.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in study.conditions):
            raise InputError(f"--only {pattern!r} matches no condition; conditions: {', '.join(study.conditions)}")
    jobs = study.jobs()
    wanted = [job for job in jobs if not seeds or job.seed in seeds]
    if patterns:
        wanted = [job for job in wanted if any(fnmatchcase(job.condition, each) for each in patterns)]
    if not wanted:
        raise InputError(f"--seeds {' '.join(map(str, seeds))}: none of the selected conditions has these seeds")
    needed = study.with_needs(wanted)
    return [job for job in jobs if job in needed]


def run_jobs(study: Study, jobs: Container[Job], run: Callable[[Job], None], workers: int) -> dict[Job, str]:
    """Run jobs in order, `workers` at a time; return the failed jobs with the error message of each."""
    rank = {job: place for place, job in enumerate(jobs)}
    sorter = TopologicalSorter({job: [need for need in study.needs(job).values() if need in rank] for job in jobs})
    sorter.prepare()
    ready: list[Job] = []
    running: dict[Future[None], Job] = {}
    failed: dict[Job, str] = {}
    start, done = time.monotonic(), 0
    with ThreadPoolExecutor(workers) as pool:
        while True:
            ready = sorted([*ready, *sorter.get_ready()], key=rank.__getitem__)
            while ready and len(running) < workers:
                job = ready.pop(0)
                log.info("%s: begun", job)
                running[pool.submit(run, job)] = job
            if not running:
                return failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                done += 1
                error = future.exception()
                if isinstance(error, InputError | OSError):
                    failed[job] = str(error)
                    log.info("failed: %s", error)
                elif error is not None:
                    raise error
                else:
                    sorter.done(job)
                    left = (time.monotonic() - start) / done * (len(jobs) - done)
                    log.info("%s: done, %d of %d, about %s left", job, done, len(jobs), format_duration(left))


class Runner:
    """Runs the jobs of a study in the folder `work`, by default `studies/<name>` in the data home.

    Args:
        collection: name or folder of the collection.
        models: folder of each model that the conditions name.
        threads: number of threads for each process.
        corpora: names of the corpora to score on; empty: all in the conditions.
        device: device for each process.

    Raises:
        InputError: for a corpus or a model that the conditions do not name.
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
        if unknown := set(corpora) - set(study.corpora):
            raise InputError(
                f"--corpora {min(unknown)}: no such corpus; the conditions have {', '.join(study.corpora)}"
            )
        self.work = (work or data_home() / "studies" / study.name).resolve()
        self.threads = threads
        self.device = device
        self.collection = open_collection(collection)
        self.study = study = _with_topics(study, self.collection)
        self.commands = Commands(study, self.work, collection, _hash_collection(self.collection), models)
        self._scored = set(corpora or study.corpora)
        self._gold = cache(lambda name: self.collection.load_topics(name).gold_fingerprint)

    def folder(self, job: Job) -> Path:
        """Return the folder of a job. Raises: InputError if a model that the job needs was not given."""
        return self.commands.folder(job)

    def is_done(self, job: Job) -> bool:
        """Return whether the job has run and is scored."""
        return self.has_run(job) and all(self.record(job, corpus).is_file() for corpus in self.corpora(job))

    def has_run(self, job: Job) -> bool:
        """Return whether the job is in the study and all its commands are done, so that it can be scored."""
        condition = self.study.conditions.get(job.condition)
        return condition is not None and all(self.step(job, n).is_file() for n in range(len(condition.commands)))

    def corpora(self, job: Job) -> list[str]:
        """Return the corpora that the job is scored on."""
        corpora = self.study.conditions[job.condition].corpora
        return [corpus for corpus, seeds in corpora.items() if job.seed in seeds and corpus in self._scored]

    def step(self, job: Job, number: int) -> Path:
        """Return the file that marks command `number` of the job as done."""
        return self.folder(job) / f"step-{number}.json"

    def runs(self, job: Job, corpus: str) -> Path:
        """Return the folder of the job's run files on a corpus."""
        return self.folder(job) / f"{corpus}-{self.content(job, corpus)}" / "runs"

    def record(self, job: Job, corpus: str) -> Path:
        """Return the file of the job's record on a corpus. If it exists, the runs are scored."""
        return self.runs(job, corpus).with_name("record.json")

    def content(self, job: Job, corpus: str) -> str:
        """Return a hash of all that scores depend on: job, search, passages, subset, slices, queries, gold, labels."""
        condition, topics = self.study.conditions[job.condition], self._topics(job, self.collection)
        scored = {
            "job": self.commands.content(job),
            **self.commands.made_of(job, list(self.commands.scoring_commands(job).values())),
            "passages": self.collection.passages.fingerprint,
            "corpus": [self.study.subsets.get(corpus), self.study.topics],
            "slices": [each for each in self.study.slices if each.topics in topics],
            "gold": {name: self._gold(name) for name in topics},
            "row": [condition.system, condition.base],
        }
        return fingerprint(scored)

    def run(self, job: Job) -> None:
        """Run and score what is not done yet. Raises: InputError if a command fails, naming the command and its log."""
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
        """Add the scores of jobs to the study's records, replacing records made under other conditions.

        Returns:
            Pairs (recorded, ours) for records of other machines that are kept, because their conditions are the same
            or unknown.
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
        """Search a corpus as the condition says, write the run files to `runs`, and return their scores as a record."""
        condition = self.study.conditions[job.condition]
        collection, source = self._open_corpus(corpus)
        runs.parent.mkdir(parents=True, exist_ok=True)
        home = runs.with_name(f"{runs.name}.cache")  # vectors and index of each model would fill the disk
        shutil.rmtree(runs, ignore_errors=True)
        make_home(home)
        scoring = self.commands.scoring_commands(job)
        outputs = {"search": runs, "answer": runs / ANSWERS}
        spent = {}
        for verb, template in scoring.items():
            more = ["--collection", source, "--output", f"{outputs[verb]}/"]
            spent[verb] = self._process(job, template, f"{corpus}-{verb}", more, home)
        shutil.rmtree(home, ignore_errors=True)  # BM25 alone may leave none
        for verb in scoring:
            self._processes(job, f"{corpus}-{verb}").unlink(missing_ok=True)
        size = count_parameters(self.commands.fill(job, template) for template in scoring.values())
        best = self.commands.best(job)
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
                "commands": [read_json(self.step(job, n), dict[str, Any]) for n in range(len(condition.commands))],
                **spent,
                **({"system_parameters": size} if size else {}),
                "content": self.content(job, corpus),
                "models": self.commands.weights(job),
                **({"best": best} if best else {}),
                **training_facts(self.folder(job) / "out"),
                **machine_facts(self.threads, self.device),
            },
        )

    def _open_corpus(self, name: str) -> tuple[Collection, str]:
        """Return a corpus and its name on the command line."""
        if name == WHOLE:
            return self.collection, self.commands.collection
        subset = self.study.subsets[name]
        gold = {each: self._gold(each) for each in self.study.topics}
        folder = self.work / CORPORA / f"{name}-{fingerprint([self.collection.passages.fingerprint, subset, gold])}"
        topics = self.collection.expand(list(self.study.topics))
        make_subset(self.collection, topics, subset.distractors, subset.seed, folder)
        return open_collection(str(folder)), str(folder)

    def _topics(self, job: Job, collection: Collection) -> list[str]:
        return collection.expand(list(self.study.conditions[job.condition].topics or self.study.topics))

    def _processes(self, job: Job, what: str) -> Path:
        return self.folder(job) / f"processes-{what}.json"

    def _process(
        self, job: Job, template: str, what: str, more: Sequence[str] = (), home: Path | None = None
    ) -> dict[str, Any]:
        """Run a command of a job; return what the job's record says about it.

        Args:
            what: the name under which its processes are counted.
            more: words to add to the command.
            home: a separate data home for the command.
        """
        words = [*self.commands.fill(job, template), *more]
        if words[0] == "export" and self._processes(job, what).is_file():
            words.append("--overwrite")  # the command may have succeeded before this was noted
        if words[0] in ON_DEVICE:
            words += ["--device", self.device]
        environment = dict.fromkeys(THREADS, str(self.threads)) | ({"TACO_IR_HOME": str(home)} if home else {})
        commit = current_commit()  # as it was when the process began
        output = self.folder(job) / "output.txt"
        spent = run_process(str(job), words, environment, output, self._processes(job, what))
        return {"command": self.commands.describe(job, template), **spent.facts(), "commit": commit}


def make_home(home: Path) -> None:
    """Make a data home of links to the real one, without models, so that collections are not imported again."""
    home.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        (data_home() / name).mkdir(parents=True, exist_ok=True)
        if not (home / name).is_symlink():  # a killed job leaves links
            (home / name).symlink_to((data_home() / name).resolve(), target_is_directory=True)


def _with_topics(study: Study, collection: Collection) -> Study:
    """Return the study with names such as `all-dev` replaced by the topics of every task."""
    named = {name: [name] for name in study.topics}
    for name in named:
        if name.startswith("all-"):
            named[name] = [collection.load_topics(each).name for each in collection.expand([name])]
    return replace(study, topics=tuple(dict.fromkeys(each for names in named.values() for each in names)))


def _hash_collection(collection: Collection) -> str:
    """Return a hash of the passages, and of the topics for training and validation."""
    names = [str(topics) for topics in collection.topics_names if topics.split != "test"]
    topics = {name: sha256_once(collection.topics_path(name)) for name in names}
    return fingerprint([collection.passages.fingerprint, topics])
