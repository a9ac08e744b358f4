"""Collections: passages, and topics for each task.

`sample` comes with the package, `kilt` is the full benchmark, and any other name is a path or PREFIX:PLACE.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import parse_qsl

from taco_ir.core import resolve
from taco_ir.core.files import InputError, data_home
from taco_ir.core.hashes import fingerprint
from taco_ir.core.processes import log
from taco_ir.core.run_formats import numbered_lines
from taco_ir.core.tasks import SPLITS, TopicsName, canonical_task, resolve_topics
from taco_ir.core.typed import abbreviate
from taco_ir.core.types import Query, refuse_text
from taco_ir.data.formats import FORMATS
from taco_ir.data.formats.base import PASSAGES, Format, Source, find_file, import_source
from taco_ir.data.passage_store import PassageStore
from taco_ir.data.query_files import Qrels, read_qrels, read_query_texts, relevant
from taco_ir.data.topics import read_topics

PACKAGE = Path(__file__).resolve().parents[1]
ALIKE = 0.8  # similarity of file names; 1 means equal
OWN = SAMPLE, KILT = "sample", "kilt"  # names that are not paths
OURS = "KILT-style folder"
TOPIC_SUFFIXES = (".jsonl", ".tsv", ".txt", ".trec", ".topics")
DPR_PASSAGES = "psgs_w100.tsv"
PASSAGE_FILES = tuple(f"{name}{packed}" for name in (PASSAGES, DPR_PASSAGES) for packed in ("", ".gz"))
TOPIC_FILE = re.compile(r"(?P<task>.+)-(?P<split>train|dev|test)(?:_without_answers)?(?:-kilt)?\.jsonl(?:\.gz)?")


class Topics(NamedTuple):
    """A query set: the queries of one task and split.

    Attributes:
        name: the file's name without suffixes, such as nq-dev.
        task: the task of all queries; "" if each query has its own task.
    """

    name: str
    task: str
    queries: list[Query]

    @property
    def has_gold(self) -> bool:
        return any(query.evidence or query.grades for query in self.queries)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that a search depends on: the queries' ids, texts and tasks."""
        return fingerprint([[query.qid, query.text, query.task] for query in self.queries])

    @property
    def gold_fingerprint(self) -> str:
        """Hash of everything that scores depend on: ids, texts, tasks, answers, evidence and grades of the queries."""
        asked = ((each, [each.grades] if each.grades else []) for each in self.queries)
        return fingerprint([[own.qid, own.text, own.task, own.answers, own.evidence, *more] for own, more in asked])


def judge_by(topics: Sequence[Topics], qrels: Qrels, path: str) -> list[Topics]:
    """Replace the gold of topics by graded judgments, and drop queries without judgments.

    Args:
        path: the file of the judgments, for error messages.

    Raises:
        InputError: if one of the topics has no judged query.
    """
    judged = []
    for each in topics:
        queries = [
            query._replace(evidence=relevant(qrels[query.qid]), grades=qrels[query.qid])
            for query in each.queries
            if query.qid in qrels
        ]
        if not queries:
            said = f"none of its {len(qrels)} queries, first {next(iter(qrels))!r}, is in {each.name}"
            raise InputError(f"--qrels {path}: {said}; give judgments for these topics")
        judged.append(each._replace(queries=queries))
    return judged


def judged_topics(path: Path) -> Topics:
    """Read a qrels file as topics. Their queries have no texts, which scoring does not need. Raises: InputError."""
    return topics_of_qrels(read_qrels(path), path.name.removesuffix(".gz").partition(".")[0])


def topics_of_qrels(qrels: Qrels, name: str) -> Topics:
    """Make topics of the queries in `qrels`; these queries have ids and gold, but no texts."""
    queries = [Query(qid, "", "", evidence=relevant(grades), grades=grades) for qid, grades in qrels.items()]
    return Topics(name, "", queries)


class Collection:
    """A collection: passages and query sets, which are read on first use.

    Args:
        tasks: the task of topics that are not named TASK-SPLIT; for example, `msmarco-small-dev` has task `msmarco`.

    Attributes:
        layout: the format of the collection's files, such as "BEIR folder".
    """

    def __init__(
        self,
        name: str,
        passage_path: Path,
        topic_paths: dict[TopicsName, Path],
        layout: str = OURS,
        tasks: Mapping[TopicsName, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.layout = layout
        self.passage_path = passage_path
        self._topic_paths = topic_paths
        self._tasks = tasks

    @property
    def why_no_topics(self) -> str:
        """A sentence on where topics were expected, if the collection has no topics; otherwise ""."""
        if self._topic_paths:
            return ""
        said = f"collection {self.name} has no topics"
        if not self.layout.startswith(OURS):
            return f"{said}; --topics FILE reads queries from a file"
        folder = self.passage_path.parent
        others = [path.name for path in sorted(folder.glob("*.jsonl*")) if path.name not in PASSAGE_FILES]
        found = f"; it has {abbreviate(', '.join(others))}" if others else ""
        return f"{said}: {folder} has no file <task>-<split>.jsonl[.gz] with a split of {', '.join(SPLITS)}{found}"

    @cached_property
    def passages(self) -> PassageStore:
        return PassageStore(self.passage_path)

    @property
    def topics_names(self) -> list[TopicsName]:
        return sorted(self._topic_paths)

    @property
    def tasks(self) -> set[str]:
        return {name.task for name in self._topic_paths} | {*self._tasks.values()}

    def expand(self, names: Sequence[str]) -> list[str]:
        """Return full names of topics, without repeats. `all-dev` (or -train, -test) means the topics of every task.

        Raises:
            InputError: for an unknown name, or for two files with the same name, because their runs would clash.
        """
        refuse_text(names, "topics")
        if self.why_no_topics and not all(map(is_topics_file, names)):
            raise InputError(f"topics {' '.join(names)}: {self.why_no_topics}")
        wanted: list[str] = []
        for name in names:
            every = [str(topics) for topics in self.topics_names if name == f"all-{topics.split}"]
            wanted += every or [name if is_topics_file(name) else str(resolve_topics(name, self._topic_paths))]
        named: dict[str, str] = {}
        for name in dict.fromkeys(wanted):
            topics = _file_name(Path(name)) if is_topics_file(name) else _file_name(self.topics_path(name))
            if (other := named.setdefault(topics, name)) != name:
                raise InputError(
                    f"topics {other} and {name} are both called {topics!r}, so their runs would have the same "
                    "name; give one of them, or rename one"
                )
        return list(named.values())

    def topics(self, name: str) -> Topics:
        """Read topics by name (`nq-dev`, `kilt/nq/dev`, `zsre-dev`); warn about missing gold pages.

        Raises:
            InputError: for an unknown name or a file that cannot be read.
        """
        loaded = self.load_topics(name)
        queries = loaded.queries
        pages = {page for query in queries for page in query.gold_pages}
        if missing := set(self.passages.missing_pages(sorted(pages))):
            lacking = sum(any(not missing.isdisjoint(each.pages) for each in query.evidence) for query in queries)
            said = f"{len(missing)} of {len(pages)} evidence pages are not in collection {self.name}"
            named = f"(first {min(missing)!r}); {lacking} of {len(queries)} queries name one"
            log.warning("%s: %s %s", loaded.name, said, named)
        return loaded

    def judge(self, topics: Sequence[Topics], path: Path) -> list[Topics]:
        """Replace the gold of topics by the judgments in a qrels file, and drop queries without judgments.

        Raises:
            InputError: if the file cannot be read, or judges no query of the topics or no passage of the collection.
        """
        qrels = read_qrels(path)
        docids = list(dict.fromkeys(docid for grades in qrels.values() for docid in grades))
        passages = self.passages
        if missing := passages.missing_pages(passages.missing_docids(docids)):
            said = f"{path}: {len(missing)} of {len(docids)} passages that it judges, first {missing[0]!r}, are not"
            if len(missing) == len(docids):
                raise InputError(
                    f"--qrels {said} in collection {self.name}; are these judgments for another collection?"
                )
            log.warning("%s in collection %s", said, self.name)
        return judge_by(topics, qrels, str(path))

    def load_topics(self, name: str, only: Container[str] | None = None) -> Topics:
        """Read topics by name or from a file, but no passages. `only`: ids of queries to keep. Raises: InputError."""
        if is_topics_file(name):
            return read_topics_file(Path(name), only)
        topics = resolve_topics(name, self._topic_paths)
        path, task = self._topic_paths[topics], self._tasks.get(topics, topics.task)
        return Topics(_file_name(path), task, read_topics(path, task, only))

    def topics_path(self, name: str) -> Path:
        """Return the file of the topics with this name. Raises: InputError for an unknown name."""
        return self._topic_paths[resolve_topics(name, self._topic_paths)]


def is_topics_file(name: str) -> bool:
    """Return whether `name` is the path of a topics file, judged by its suffix, and not the name of topics."""
    return name.removesuffix(".gz").endswith(TOPIC_SUFFIXES)


def read_topics_file(path: Path, only: Container[str] | None = None) -> Topics:
    """Read a file of topics: KILT records, or query texts in BEIR's, MS MARCO's or TREC's format.

    KILT records must name their tasks, except in a file named <task>-<split>.jsonl, such as nq-dev.jsonl.

    Args:
        only: ids of the queries to keep; None keeps all.

    Raises:
        InputError: for a file in none of these formats.
    """
    name = _file_name(path)
    first = next(numbered_lines(path), (0, ""))[1].lstrip()
    if path.name.removesuffix(".gz").endswith(".jsonl") and not ('"_id"' in first and '"input"' not in first):
        named = None if '"task"' in first else TOPIC_FILE.fullmatch(path.name)
        task = canonical_task(named["task"]) if named else None
        return Topics(name, task or "", read_topics(path, task, only))
    texts = read_query_texts(path)
    return Topics(name, "", [Query(qid, text, "") for qid, text in texts.items() if only is None or qid in only])


def open_collection(name: str | Path | Collection) -> Collection:
    """Open a collection: `sample` (shipped with the package), `kilt`, a folder or file, or `PREFIX:PLACE`.

    The format of a folder or file is recognised from its contents. A collection in another format than ours is read
    once and kept in the data home in our format (see `taco_ir.data.formats`). Names of columns can be given after a
    question mark, as in `docs.parquet?id=docno&text=body`.

    Raises:
        InputError: if the collection does not exist, or if its files fit no format or several formats.

    Examples:
        >>> collection = taco_ir.open_collection("sample")
        >>> collection.passages.count, [str(name) for name in collection.topics_names][:2]
        (305, ['aidayago2-dev', 'aidayago2-train'])
        >>> topics = collection.topics("nq-dev")
        >>> topics.queries[0].task
        'nq'
    """
    if isinstance(name, Collection):
        return name
    name = str(name)
    if name == SAMPLE:
        installed = PACKAGE / "topics"
        topics = installed if installed.is_dir() else PACKAGE.parent / "topics"
        return Collection(name, PACKAGE / "data" / "sample" / "passages.jsonl", _topic_paths(topics))
    folder = data_home() / KILT if name == KILT else Path(name)
    if folder.is_file() and folder.name in PASSAGE_FILES:
        folder, name = folder.parent, str(folder.parent)
    passages = find_file(folder, PASSAGES, DPR_PASSAGES)
    source = None if name == KILT else _find_source(name)
    if passages and source:
        raise InputError(
            f"--collection {name}: it contains {passages.name}, but also looks like a {source.layout}; keep one of them"
        )
    if source:
        path, topics_folder = import_source(source)
        trained = {topics.task for topics in source.topics if topics.split == "train"}
        tasks = {topics: task for topics, task in source.tasks.items() if topics.task not in trained}
        return Collection(source.name, path, _topic_paths(topics_folder), source.layout, tasks)
    if passages is None:
        build = "; build it with `python -m taco_ir.data passages`" if name == KILT else ""
        found = "a file in no known format" if folder.is_file() else "no such folder"
        if folder.is_dir() or build:
            found = f"{folder} holds none of {', '.join(PASSAGE_FILES)}{build}{_nearest(folder)}"
        raise InputError(
            f"--collection {name!r}: {found}. Give sample, kilt, a folder with {PASSAGES} or {DPR_PASSAGES} and "
            f"<task>-<split>.jsonl, or a collection in one of these formats: {', '.join(FORMATS)} "
            "(docs/collections.md)"
        )
    layout = OURS if passages.name.startswith(PASSAGES) else f"{OURS} with DPR's passages"
    return Collection(name if name == KILT else folder.resolve().name, passages, _topic_paths(folder), layout)


def _find_source(name: str) -> Source | None:
    """Recognise a collection in another format: `PREFIX:PLACE` by its prefix, a path by its files; None if none fits.

    Raises:
        InputError: if two formats fit; the message says how to choose one.
    """
    place, asked, told = (name, "", "") if Path(name).exists() else name.partition("?")
    columns = dict(pairs := parse_qsl(told))
    names = [column for column, _ in pairs]
    if twice := sorted({column for column in names if names.count(column) > 1}):
        raise InputError(f"--columns {' '.join(map('='.join, pairs))}: give {' and '.join(twice)} only once")
    if asked and not columns:
        raise InputError(f"--collection {name}: after ?, write columns like {place}?id=docno&text=body")
    prefix, colon, rest = place.partition(":")
    if colon and prefix in FORMATS:
        return _format(prefix).opens(rest, columns)
    fitting = [prefix for prefix in FORMATS if Path(place).exists() and _format(prefix).recognises(Path(place))]
    if len(fitting) > 1:
        raise InputError(
            f"--collection {name}: it could be {' or '.join(fitting)}; choose one, such as {fitting[0]}:{name}"
        )
    if columns and not fitting and (Path(place).exists() or place in OWN):
        raise InputError(f"--columns has an effect only with tables, and --collection {place} is not one; leave it out")
    return _format(fitting[0]).opens(place, columns) if fitting else None


def _nearest(folder: Path) -> str:
    """Describe the format with the most similar file names, and the file that is missing; "" if none is similar."""
    files = sorted(folder.glob("*"))
    for path in (path for path in files if path.is_file()):
        if fitting := [prefix for prefix in FORMATS if _format(prefix).recognises(path)]:
            return f"; {path} is of the layout {fitting[0]}; give this file"
    there = [path.name.removesuffix(".gz") for path in files]
    best, said = 0, ""
    for layout, names in {"ours": (PASSAGES,), **{prefix: _format(prefix).files for prefix in FORMATS}}.items():
        alike = {name: near[0] for name in names if (near := get_close_matches(name, there, 1, ALIKE))}
        if len(alike) > best:
            has = f", not {alike[names[0]]}" if names[0] in alike else ""
            best, said = len(alike), f"; the nearest layout is {layout}, which needs {names[0]}{has}"
    return said


def _format(prefix: str) -> Format:
    found = resolve(FORMATS[prefix])
    assert isinstance(found, Format)
    return found


def _topic_paths(folder: Path) -> dict[TopicsName, Path]:
    """Return the topics files of a folder, by canonical name. Raises: InputError if two files have the same topics."""
    paths: dict[TopicsName, Path] = {}
    for path in sorted(folder.iterdir()):
        if matched := TOPIC_FILE.fullmatch(path.name):
            name = TopicsName(canonical_task(matched["task"]), matched["split"])
            if name in paths:
                raise InputError(f"{path} and {paths[name].name} both contain {name}; keep one of them")
            paths[name] = path
    return paths


def _file_name(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    suffix = next((each for each in TOPIC_SUFFIXES if name.endswith(each)), "")
    return name.removesuffix(suffix).removesuffix("-kilt").replace("test_without_answers", "test")
