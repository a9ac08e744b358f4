"""Provides rankings for mining: from retrievers, whose runs are kept for filtering again, or from run files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import taco_ir
from taco_ir.core.files import InputError, write_json
from taco_ir.core.hashes import fingerprint, sha256_file
from taco_ir.core.processes import Progress, collector_paused, log
from taco_ir.core.run_formats import read_run, read_trec, write_trec
from taco_ir.core.types import Ranking, Run
from taco_ir.data.collection import Collection, Topics
from taco_ir.evaluation.run_files import PASSAGE_RUNS, refuse_foreign_docids
from taco_ir.retrieval.choices import BM25, ModelChoice, Shared
from taco_ir.retrieval.faiss_index import require_index
from taco_ir.retrieval.retrievers import BM25Retriever, DenseRetriever, Ranker
from taco_ir.retrieval.topic_runs import find_foreign, made_of, read_record, record_path


def open_sources(
    words: Sequence[str], collection: Collection, model: ModelChoice, index: str | None, shared: Shared | None = None
) -> list[Ranker | Path]:
    """Open the source that each word names: bm25, a model, a run file or a folder of runs. Equal words share a source.

    Args:
        model: how to encode with the models among the sources.
        index: a dense index for the only model among the sources.
        shared: the engine that encodes and searches for models without an index; None: this process does.

    Raises:
        InputError: for an unknown source, an unusable index, or an index given for several models.
    """
    models = select_models(words)
    if index is not None and len(models) > 1:
        names = f"{len(models)}: {' '.join(models)}"
        raise InputError(
            f"--index belongs to one model, but --source names {names}; search with each model and give the runs "
            "as sources"
        )
    if index is not None:
        require_index(Path(index))
    place = index or shared
    named = {word: _source(word, collection, replace(model, model=word), place) for word in dict.fromkeys(words)}
    return [named[word] for word in words]


def select_models(words: Sequence[str]) -> list[str]:
    """Returns the words that name models (not bm25, a run file or a folder of runs), each once."""
    return [word for word in dict.fromkeys(words) if word != BM25 and not _is_runs(Path(word))]


def _source(word: str, collection: Collection, model: ModelChoice, index: str | Shared | None) -> Ranker | Path:
    if word == BM25:
        return BM25Retriever(collection)
    if _is_runs(Path(word)):
        return Path(word)
    dense = DenseRetriever(collection, model, index)
    try:
        _ = dense.encoder
    except InputError as error:
        other = "is not bm25, a run or a folder of runs"
        raise InputError(f"--source {word!r} {other}; read as a model: {error}") from error
    return dense


def _is_runs(path: Path) -> bool:
    return path.is_file() or (
        path.is_dir()
        and not (path / "config.json").is_file()
        and any(file.suffix in PASSAGE_RUNS for file in path.iterdir())
    )


class Maker(NamedTuple):
    """The system that made rankings: its name, and its encoder's fingerprint ("" without an encoder)."""

    name: str
    checkpoint: str

    @classmethod
    def of(cls, name: str, inputs: Mapping[str, Any]) -> Maker:
        return cls(name, str(inputs.get("encoder", "")))


class Rankings(ABC):
    """Interface of sources of rankings for topics."""

    @abstractmethod
    def maker(self, topics: Sequence[Topics]) -> Maker:
        """Returns the system that ranks these topics. Raises: InputError if the rankings are not available."""

    @abstractmethod
    def prepare(self, topics: Sequence[Topics]) -> None:
        """Make the rankings that `run` will read."""

    @abstractmethod
    def run(self, topics: Topics) -> Run: ...


class RetrieverRankings(Rankings):
    """A retriever's runs, kept in `folder` with records; finished runs of at least `depth` hits are reused."""

    def __init__(self, collection: Collection, retriever: Ranker, folder: Path, depth: int) -> None:
        self._collection, self._retriever, self._folder, self._depth = collection, retriever, folder, depth

    def maker(self, topics: Sequence[Topics]) -> Maker:  # noqa: ARG002 - it ranks whatever it is given
        return Maker.of(self._retriever.name, self._retriever.inputs)

    def prepare(self, topics: Sequence[Topics]) -> None:
        missing = []
        for topic in topics:
            if self._kept(topic):
                log.info("%s: kept run %s is used again", topic.name, self._path(topic))
            else:
                missing.append(topic)
        self._retriever.prepare(missing, self._depth)
        for topic in missing:
            self._retrieve(topic)
        self._retriever.forget()

    def run(self, topics: Topics) -> Run:
        with collector_paused():
            return read_trec(self._path(topics))

    def _path(self, topics: Topics) -> Path:
        return self._folder / f"{topics.name}.trec"

    def _record(self, topics: Topics) -> dict[str, Any]:
        return made_of(self._collection, topics) | {"system": self._retriever.name, "inputs": self._retriever.inputs}

    def _kept(self, topics: Topics) -> bool:
        found = read_record(self._path(topics))
        equal = all(found.get(key) == value for key, value in self._record(topics).items())
        return equal and found.get("hits", 0) >= self._depth and self._path(topics).is_file()

    def _retrieve(self, topics: Topics) -> None:
        """Rank, batch by batch. The record is written last, so that a run with a record is complete."""
        path, record = self._path(topics), self._record(topics)
        record_path(path).unlink(missing_ok=True)
        rankings: dict[str, Ranking] = {}
        progress = Progress(f"{topics.name} with {self._retriever.name}", len(topics.queries), "queries")
        with collector_paused():
            for batch in self._retriever.search_batches(topics, self._depth):
                rankings |= batch.rankings
                progress.at(len(rankings))
            write_trec(Run(rankings), path, self._retriever.name)
        write_json(record_path(path), {"taco_ir": taco_ir.__version__, **record, "hits": self._depth})


class FileRankings(Rankings):
    """Rankings from one run file for all topics, or from a folder with a run file for each, as search writes them."""

    def __init__(self, collection: Collection, path: Path) -> None:
        self._collection, self._path = collection, path

    def maker(self, topics: Sequence[Topics]) -> Maker:
        """Returns the system that made the runs. Raises: InputError for missing or changed topics, or many systems."""
        if lacking := [topic.name for topic in topics if not self._has(topic)]:
            files = f"; {' '.join(f'{name}{PASSAGE_RUNS[0]}' for name in lacking)} expected" * self._path.is_dir()
            missing = f"no run for {', '.join(lacking)}{files}"
            raise InputError(f"--source {self._path} has {missing}; give these runs, or fewer --tasks")
        self._refuse_shared(topics)
        records = {file: read_record(file) for file in map(self._file, topics)}
        for topic in topics:
            file = self._file(topic)
            if difference := find_foreign(records[file], self._collection, topic):
                raise InputError(f"{file}: {difference}; search again")
        return self._made_by(records)

    def prepare(self, topics: Sequence[Topics]) -> None:
        """Do nothing: the files already exist."""

    def run(self, topics: Topics) -> Run:
        """Read the run for these topics. Raises: InputError for queries of other topics, or unknown docids."""
        file = self._file(topics)
        run = self._one if self._path.is_file() else self._read(file)
        known = {query.qid for query in topics.queries}
        if self._path.is_dir() and (foreign := [qid for qid in run.rankings if qid not in known]):
            others = f"{len(foreign)} of its queries, such as {foreign[0]!r}"
            raise InputError(f"{file}: {others}, are not in {topics.name}; give a run of these topics")
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
            raise InputError(
                f"{file}: this run ranks {run.level}s, but negatives are passages; give a TREC or MS MARCO run"
            )
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
        """Raise InputError if queries of several topics would share one ranking."""
        if self._path.is_dir():
            return
        counts = Counter(query.qid for topic in topics for query in topic.queries if query.qid in self._one.rankings)
        if twice := [qid for qid, count in counts.items() if count > 1]:
            names = ", ".join(topic.name for topic in topics)
            several = f"query {twice[0]!r} is in several of {names}"
            raise InputError(f"--source {self._path}: {several}; give a folder with a run for each")

    def _made_by(self, records: Mapping[Path, Mapping[str, Any]]) -> Maker:
        """Returns retriever and encoder, if all runs' records name the same; otherwise the files' name and hash."""
        makers = {(record.get("system", ""), fingerprint(record.get("inputs", {}))) for record in records.values()}
        if len(makers) > 1:
            names = ", ".join(sorted(name or "unknown" for name, _ in makers))
            raise InputError(f"--source {self._path} has runs of several systems ({names}); give runs of one system")
        ((name, _),) = makers
        if name:
            return Maker.of(name, next(iter(records.values())).get("inputs", {}))
        return Maker(f"{self._path.name} {fingerprint([sha256_file(file) for file in records])}", "")
