"""Finds run files and folders that a user named, and sorts them by system and topics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from taco_ir.core.dpr_runs import is_dpr_run, read_dpr
from taco_ir.core.files import InputError
from taco_ir.core.processes import log
from taco_ir.core.run_formats import read_run
from taco_ir.core.types import Run
from taco_ir.data.collection import Collection, Topics

PASSAGE_RUNS = (".trec", ".tsv")  # as search names them: TREC's and MS MARCO's
RUN_SUFFIXES = (*PASSAGE_RUNS, ".jsonl", ".run", ".txt", ".res")
BATCH = 200  # rankings checked together, so that look-ups stay small
Systems = dict[str, dict[str, Run]]  # system -> topics -> run


class RunFile(NamedTuple):
    """A run file: its path, the name of its system, and its runs by the name of their topics."""

    path: Path
    system: str
    runs: dict[str, Run]

    def of_passages(self) -> RunFile:
        """Returns a copy in which runs of pages count as runs of passages: each page is one passage."""
        return self._replace(runs={name: run._replace(level="passage") for name, run in self.runs.items()})


def list_run_files(paths: Sequence[Path]) -> dict[Path, tuple[Path, str | None]]:
    """Find run files, also in folders. Returns {resolved path: (path, folder's name)}; a single file's name is None.

    Raises:
        InputError: for a folder without run files.
    """
    found: dict[Path, tuple[Path, str | None]] = {}
    for path in paths:
        if not path.is_dir():
            found.setdefault(path.resolve(), (path, None))
            continue
        files = sorted(file for file in path.iterdir() if Path(file.name.removesuffix(".gz")).suffix in RUN_SUFFIXES)
        if not files:
            raise InputError(f"{path}: no run files in it (names end in {', '.join(RUN_SUFFIXES)})")
        for file in files:
            found.setdefault(file.resolve(), (file, path.resolve().name))
    return found


def read_run_files(paths: Sequence[Path], topics: Sequence[Topics], some: bool = False) -> dict[Path, RunFile]:
    """Read run files; returns them by resolved path.

    Args:
        some: drop queries that are in none of the topics, with a warning, instead of raising an error.

    Raises:
        InputError: for a file with queries that are in none of the topics.
    """
    found = {}
    for real, (path, named) in list_run_files(paths).items():
        found[real] = RunFile(path, *_split(path, topics, named, some))
    return found


def sort_by_system(files: Iterable[RunFile], topics: Sequence[Topics]) -> Systems:
    """Returns runs by the name of their system and the name of their topics.

    Raises:
        InputError: for two runs of one system on the same topics, or a system without a run for some topics.
    """
    systems: dict[str, dict[str, Run]] = defaultdict(dict)
    for path, name, runs in files:
        if twice := systems[name].keys() & runs.keys():
            clash = f"system {name!r} has another run for {min(twice)}"
            raise InputError(f"{path}: {clash}; give each system its own file name")
        systems[name] |= runs
    for name, runs in systems.items():
        if lacking := [topic.name for topic in topics if topic.name not in runs]:
            names = ", ".join(lacking)
            raise InputError(f"system {name!r} has no run for {names}; give its run files, or fewer --topics")
    return dict(systems)


def leave_out_unjudged(run: Run, topics: Sequence[Topics], where: str | Path) -> Run:
    """Drop queries that are in none of the topics, and log a warning. A run with only such queries is not changed.

    Args:
        where: name of the run in messages.
    """
    known = {query.qid for topic in topics for query in topic.queries}
    foreign = [qid for qid in run.rankings if qid not in known]
    if not foreign or len(foreign) == len(run.rankings):
        return run
    count, names = f"{len(foreign)} of its {len(run.rankings)} topics", " ".join(topic.name for topic in topics)
    log.warning("%s: %s, first %r, are not judged in %s; they are left out", where, count, foreign[0], names)
    return run._replace(rankings={qid: hits for qid, hits in run.rankings.items() if qid in known})


def split_by_topics(run: Run, topics: Sequence[Topics], where: str | Path, flag: str = "") -> dict[str, Run]:
    """Split a run into a run for each of the topics, by name. Raises: InputError for queries that no topics have."""
    known = {query.qid for topic in topics for query in topic.queries}
    if foreign := [qid for qid in run.rankings if qid not in known]:
        count, names = f"{len(foreign)} of its {len(run.rankings)} topics", " ".join(topic.name for topic in topics)
        raise InputError(f"{where}: {count}, such as {foreign[0]!r}, are not in {flag}{names}; give all its topics")
    runs = {}
    for topic in topics:
        qids = {query.qid for query in topic.queries}
        runs[topic.name] = run._replace(rankings={qid: hits for qid, hits in run.rankings.items() if qid in qids})
    return runs


def _split(path: Path, topics: Sequence[Topics], named: str | None, some: bool) -> tuple[str, dict[str, Run]]:
    """Returns a run file's system and its runs by topics, from the file's name if possible, otherwise by query ids."""
    queries = [query for topic in topics for query in topic.queries]
    found_by_text = is_dpr_run(path) and any(query.text for query in queries)  # judgments alone have no texts
    run = read_dpr(path, queries) if found_by_text else read_run(path)
    if some:
        run = leave_out_unjudged(run, topics, path)
    for topic in topics:
        if path.name.startswith(f"{topic.name}."):
            system = _stem(path).removeprefix(topic.name).lstrip(".") or path.parent.name or _stem(path)
            return named or system, {topic.name: run}
    return named or _stem(path), split_by_topics(run, topics, path, "" if some else "--topics ")


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem


def refuse_foreign_docids(run: Run, collection: Collection, path: Path) -> None:
    """Raise InputError for docids, or pages in a run of pages, that are not in the collection."""
    missing_in = collection.passages.missing_pages if run.level == "page" else collection.passages.missing_docids
    missing: dict[str, None] = {}
    rankings = iter(run.rankings.values())
    while batch := list(islice(rankings, BATCH)):
        missing |= dict.fromkeys(missing_in(dict.fromkeys(chain.from_iterable(ranking.docids for ranking in batch))))
    if missing:
        count = len({name for ranking in run.rankings.values() for name in ranking.docids})
        what = f"{len(missing)} of {count} {'pages' if run.level == 'page' else 'docids'}"
        raise InputError(
            f"{path}: {what}, such as {next(iter(missing))!r}, are not in collection {collection.name}; it is a "
            "run of another collection"
        )


def warn_of_unjudged(file: RunFile, topics: Sequence[Topics]) -> None:
    """Log a warning if no hit of a run file is judged, since the run may be of another collection."""
    judged = {docid for topic in topics for query in topic.queries for docid in query.grades}
    hits = (docid for run in file.runs.values() for ranking in run.rankings.values() for docid in ranking.docids)
    if judged.isdisjoint(hits):
        names = " ".join(topic.name for topic in topics)
        log.warning("%s: none of its hits is judged in %s; do both use the same docids?", file.path, names)
