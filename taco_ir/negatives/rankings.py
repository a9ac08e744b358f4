"""Where mining takes rankings from: a system, whose runs are kept so that the next mining only filters, or run files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import taco_ir
from taco_ir.core.files import InputError, collector_paused, fingerprint, read_json, sha256_file, write_json
from taco_ir.core.progress import Progress, log
from taco_ir.core.types import Ranking, Run, read_trec, write_trec
from taco_ir.data.collection import Collection, Topics
from taco_ir.evaluation.run_files import PASSAGE_RUNS, refuse_foreign_docids
from taco_ir.evaluation.run_formats import read_run
from taco_ir.retrieval.systems import System

SHORT = 6  # digits of a hash in a name


def record_path(run: Path) -> Path:
    """Beside each run: what made it."""
    return run.with_name(run.name + ".json")


def made_of(collection: Collection, topics: Topics) -> dict[str, Any]:
    """What a run belongs to, by content, as its record says it."""
    return {
        "collection": {"name": collection.name, "fingerprint": collection.passages.fingerprint},
        "topics": {"name": topics.name, "fingerprint": topics.fingerprint},
    }


def models_of(record: Mapping[str, Any]) -> list[str]:
    """Fingerprints of the models that a record names: encoders, those of a hybrid's parts included, and a reader."""
    inputs = record.get("inputs", {})
    found = [str(each["encoder"]) for each in (inputs, *inputs.get("of", ())) if "encoder" in each]
    return [*found, *([str(record["reader"])] if "reader" in record else [])]


def unlike_others(paths: Sequence[Path], models: Sequence[str], suffix: str) -> list[Path]:
    """Default names, with a short hash of the models before the suffix where one of them is the run of other models, which stays."""
    if all(not path.exists() or models_of(record_of(path)) in ([], list(models)) for path in paths):
        return list(paths)
    return [path.with_name(f"{path.name.removesuffix(suffix)}-{fingerprint(list(models))[:SHORT]}{suffix}") for path in paths]


class Maker(NamedTuple):
    """What ranked: a system's name, and its encoder's fingerprint ("" where there is none)."""

    name: str
    checkpoint: str

    @classmethod
    def of(cls, system: str, inputs: Mapping[str, Any]) -> Maker:
        return cls(system, str(inputs.get("encoder", "")))


class Rankings(ABC):
    """Where the rankings of topics come from."""

    @abstractmethod
    def maker(self, topics: Sequence[Topics]) -> Maker:
        """What ranks, or ranked, the topics. Raises: InputError where that cannot be, such as a run that lacks some."""

    @abstractmethod
    def prepare(self, topics: Sequence[Topics]) -> None:
        """Make what `run` will read."""

    @abstractmethod
    def run(self, topics: Topics) -> Run: ...


class SystemRankings(Rankings):
    """A system's runs, kept in `folder` with a record of what made each; finished ones of at least `depth` hits are used again."""

    def __init__(self, collection: Collection, system: System, folder: Path, depth: int) -> None:
        self._collection, self._system, self._folder, self._depth = collection, system, folder, depth

    def maker(self, topics: Sequence[Topics]) -> Maker:  # noqa: ARG002 - it ranks whatever it is given
        return Maker.of(self._system.name, self._system.inputs)

    def prepare(self, topics: Sequence[Topics]) -> None:
        for topic in topics:
            if self._kept(topic):
                log.info("%s: kept run %s is used again", topic.name, self._path(topic))
            else:
                self._retrieve(topic)

    def run(self, topics: Topics) -> Run:
        with collector_paused():
            return read_trec(self._path(topics))

    def _path(self, topics: Topics) -> Path:
        return self._folder / f"{topics.name}.trec"

    def _record(self, topics: Topics) -> dict[str, Any]:
        return made_of(self._collection, topics) | {"system": self._system.name, "inputs": self._system.inputs}

    def _kept(self, topics: Topics) -> bool:
        found = record_of(self._path(topics))
        equal = all(found.get(key) == value for key, value in self._record(topics).items())
        return equal and found.get("hits", 0) >= self._depth and self._path(topics).is_file()

    def _retrieve(self, topics: Topics) -> None:
        """Rank, part by part; the record is written last, so that a run that has one is whole."""
        path, record = self._path(topics), self._record(topics)
        record_path(path).unlink(missing_ok=True)
        rankings: dict[str, Ranking] = {}
        progress = Progress(f"{topics.name} with {self._system.name}", len(topics.queries), "queries")
        with collector_paused():
            for part in self._system.search_in_parts(topics, self._depth):
                rankings |= part.rankings
                progress.at(len(rankings))
            write_trec(Run(rankings), path, self._system.name)
        write_json(record_path(path), {"taco_ir": taco_ir.__version__, **record, "hits": self._depth})


class FileRankings(Rankings):
    """A run file over all the topics, or a folder of a file for each, as search and mining write them; runs of passages."""

    def __init__(self, collection: Collection, path: Path) -> None:
        self._collection, self._path = collection, path

    def maker(self, topics: Sequence[Topics]) -> Maker:
        """Raises: InputError for runs that lack some of the topics, were made of others, or by several systems."""
        if lacking := [topic.name for topic in topics if not self._has(topic)]:
            names = f"; {' '.join(f'{name}{PASSAGE_RUNS[0]}' for name in lacking)} expected" if self._path.is_dir() else ""
            raise InputError(f"--source {self._path} has no run for {', '.join(lacking)}{names}; give the runs, or fewer --tasks")
        self._refuse_shared(topics)
        records = {file: record_of(file) for file in map(self._file, topics)}
        for topic in topics:
            self._refuse_foreign(self._file(topic), records[self._file(topic)], topic)
        return self._made_by(records)

    def prepare(self, topics: Sequence[Topics]) -> None:
        """Nothing to do: the files are there."""

    def run(self, topics: Topics) -> Run:
        """Raises: InputError for queries of other topics (in a folder's file), or a docid that the collection lacks."""
        file = self._file(topics)
        run = self._one if self._path.is_file() else self._read(file)
        known = {query.qid for query in topics.queries}
        if self._path.is_dir() and (foreign := [qid for qid in run.rankings if qid not in known]):
            raise InputError(f"{file}: {len(foreign)} of its queries, first {foreign[0]!r}, are not in {topics.name}")
        rankings = {qid: ranking for qid, ranking in run.rankings.items() if qid in known}
        refuse_foreign_docids(Run(rankings), self._collection, file)
        return Run(rankings)

    @cached_property
    def _one(self) -> Run:
        return self._read(self._path)

    def _read(self, file: Path) -> Run:
        with collector_paused():
            run = read_run(file)
        if run.level != "passage":
            raise InputError(f"{file}: a run of {run.level}s; negatives are passages, give a TREC or MS MARCO run")
        return run

    def _file(self, topics: Topics) -> Path:
        if not self._path.is_dir():
            return self._path
        files = [self._path / f"{topics.name}{suffix}" for suffix in PASSAGE_RUNS]
        return next((file for file in files if file.is_file()), files[0])

    def _has(self, topics: Topics) -> bool:
        if self._path.is_dir():
            return self._file(topics).is_file()
        return any(query.qid in self._one.rankings for query in topics.queries)

    def _refuse_shared(self, topics: Sequence[Topics]) -> None:
        """Raise InputError where one file's ranking would be that of queries of several topics."""
        if self._path.is_dir():
            return
        asked = Counter(query.qid for topic in topics for query in topic.queries if query.qid in self._one.rankings)
        if twice := [qid for qid, count in asked.items() if count > 1]:
            raise InputError(
                f"--source {self._path}: query {twice[0]!r} is in several of {', '.join(topic.name for topic in topics)}; "
                "give a folder with a run for each"
            )

    def _refuse_foreign(self, file: Path, record: Mapping[str, Any], topics: Topics) -> None:
        """Raise InputError where the record says that the run is of another collection, or of topics that were otherwise."""
        ours = made_of(self._collection, topics)
        for key in ("collection", "topics"):
            theirs = record.get(key, ours[key])
            if key == "topics" and theirs["name"] != topics.name:
                continue
            if theirs["fingerprint"] != ours[key]["fingerprint"]:
                raise InputError(
                    f"{file}: made of {key} {theirs['name']} with fingerprint {theirs['fingerprint']}, "
                    f"{ours[key]['name']} has {ours[key]['fingerprint']}; search again"
                )

    def _made_by(self, records: Mapping[Path, Mapping[str, Any]]) -> Maker:
        """System and encoder, where records say so of all; else the name of what was given, and its hash."""
        makers = {(record.get("system", ""), fingerprint(record.get("inputs", {}))) for record in records.values()}
        if len(makers) > 1:
            raise InputError(
                f"--source {self._path}: runs of several systems ({', '.join(sorted(name or 'unknown' for name, _ in makers))}); give those of one"
            )
        ((name, _),) = makers
        if name:
            return Maker.of(name, next(iter(records.values())).get("inputs", {}))
        return Maker(f"{self._path.name} {fingerprint([sha256_file(file) for file in records])}", "")


def record_of(run: Path) -> Mapping[str, Any]:
    """What the record beside a run says; nothing where there is none. Raises: InputError for one that is no record."""
    path = record_path(run)
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise InputError(f"{path}: a JSON object is expected, this is {str(found)[:60]!r}")
    return found
