"""Collections: passages, and topics for each task.

`sample` comes with the package, `kilt` is the full benchmark, any other name is a folder.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from taco_ir.core.files import InputError, data_home
from taco_ir.core.hashes import fingerprint
from taco_ir.core.tasks import TopicsName, canonical_task, resolve_topics
from taco_ir.core.types import Query, refuse_text
from taco_ir.data.passage_store import PassageStore
from taco_ir.data.topics import read_topics

log = logging.getLogger("taco_ir")
PACKAGE = Path(__file__).resolve().parents[1]
PASSAGE_FILES = ("passages.jsonl", "passages.jsonl.gz", "psgs_w100.tsv", "psgs_w100.tsv.gz")
TOPIC_FILE = re.compile(r"(?P<task>.+)-(?P<split>train|dev|test)(?:_without_answers)?(?:-kilt)?\.jsonl")


class Topics(NamedTuple):
    """The queries of one task and split.

    Attributes:
        name: as the file spells it.
        task: "" if each query has its own.
    """

    name: str
    task: str
    queries: list[Query]

    @property
    def has_gold(self) -> bool:
        return any(query.evidence for query in self.queries)

    @property
    def fingerprint(self) -> str:
        """Hash of all that a search depends on: ids, texts and tasks."""
        return fingerprint([[query.qid, query.text, query.task] for query in self.queries])

    @property
    def gold_fingerprint(self) -> str:
        """Hash of all that scores depend on: also answers and evidence."""
        return fingerprint(
            [[query.qid, query.text, query.task, query.answers, query.evidence] for query in self.queries]
        )


class Collection:
    """Passages and topics under one name, both read on first use."""

    def __init__(self, name: str, passage_path: Path, topic_paths: dict[TopicsName, Path]) -> None:
        self.name = name
        self.passage_path = passage_path
        self._topic_paths = topic_paths

    @cached_property
    def passages(self) -> PassageStore:
        return PassageStore(self.passage_path)

    @property
    def topics_names(self) -> list[TopicsName]:
        return sorted(self._topic_paths)

    @property
    def tasks(self) -> set[str]:
        return {name.task for name in self._topic_paths}

    def expand(self, names: Sequence[str]) -> list[str]:
        """Resolve names of topics, without repeats: `all-dev` (or -train, -test) becomes the topics of every task.

        Raises:
            InputError: for an unknown name, or two files of the same name, whose runs would be one file.
        """
        refuse_text(names, "topics")
        wanted: list[str] = []
        for name in names:
            every = [str(topics) for topics in self.topics_names if name == f"all-{topics.split}"]
            wanted += every or [name if is_mixed(name) else str(resolve_topics(name, self._topic_paths))]
        named: dict[str, str] = {}
        for name in dict.fromkeys(wanted):
            topics = Path(name).stem if is_mixed(name) else _file_name(self.topics_path(name))
            if (other := named.setdefault(topics, name)) != name:
                raise InputError(
                    f"topics {other} and {name}: both are called {topics!r}, as their runs would be; give one, or "
                    "rename one"
                )
        return list(named.values())

    def topics(self, name: str) -> Topics:
        """Read topics by name (`nq-dev`, `kilt/nq/dev`, `zsre-dev`) and warn of evidence that the collection lacks.

        Raises:
            InputError: for an unknown name or a file that cannot be read.
        """
        loaded = self.load_topics(name)
        queries = loaded.queries
        pages = {page for query in queries for evidence in query.evidence for page in evidence.pages}
        if missing := set(self.passages.missing_pages(sorted(pages))):
            lacking = sum(any(not missing.isdisjoint(each.pages) for each in query.evidence) for query in queries)
            said = f"{len(missing)} of {len(pages)} evidence pages are not in collection {self.name}"
            named = f"(first {min(missing)!r}); {lacking} of {len(queries)} queries name one"
            log.warning("%s: %s %s", loaded.name, said, named)
        return loaded

    def load_topics(self, name: str, only: Container[str] | None = None) -> Topics:
        """Read topics by name, or a file of mixed tasks, without looking at the passages.

        Args:
            only: ids of the queries to read; None: all.

        Raises:
            InputError: as in `topics`.
        """
        if is_mixed(name):
            return Topics(Path(name).stem, "", read_topics(Path(name), None, only))
        task = resolve_topics(name, self._topic_paths).task
        path = self.topics_path(name)
        return Topics(_file_name(path), task, read_topics(path, task, only))

    def topics_path(self, name: str) -> Path:
        """The file of topics by name. Raises: InputError for an unknown name."""
        return self._topic_paths[resolve_topics(name, self._topic_paths)]


def is_mixed(name: str) -> bool:
    """Whether `name` is a file with queries of several tasks, not the name of a collection's topics."""
    return name.endswith(".jsonl")


def open_collection(name: str) -> Collection:
    """Open a collection: `sample`, `kilt` (under the data home), or a folder with passages and topics.

    Raises:
        InputError: for a folder that is missing or has no passages.
    """
    if name == "sample":
        installed = PACKAGE / "topics"
        topics = installed if installed.is_dir() else PACKAGE.parent / "topics"
        return Collection(name, PACKAGE / "data" / "sample" / "passages.jsonl", _topic_paths(topics))
    folder = data_home() / "kilt" if name == "kilt" else Path(name)
    if not folder.is_dir() and name != "kilt":
        raise InputError(
            f"--collection {name!r}: no such folder; give sample, kilt, or a folder with {PASSAGE_FILES[0]} and "
            "<task>-<split>.jsonl files"
        )
    found = [folder / file for file in PASSAGE_FILES if (folder / file).is_file()]
    if not found:
        build = "; build it with `python -m taco_ir.data passages`" if name == "kilt" else ""
        raise InputError(f"--collection {name}: {folder} holds none of {', '.join(PASSAGE_FILES)}{build}")
    return Collection(name if name == "kilt" else folder.resolve().name, found[0], _topic_paths(folder))


def _topic_paths(folder: Path) -> dict[TopicsName, Path]:
    """Topic files of a folder by canonical name. Raises: InputError if two files have the same topics."""
    paths: dict[TopicsName, Path] = {}
    for path in sorted(folder.glob("*.jsonl")):
        if matched := TOPIC_FILE.fullmatch(path.name):
            name = TopicsName(canonical_task(matched["task"]), matched["split"])
            if name in paths:
                raise InputError(f"{path} and {paths[name].name} both hold {name}; keep one")
            paths[name] = path
    return paths


def _file_name(path: Path) -> str:
    return path.name.removesuffix(".jsonl").removesuffix("-kilt").replace("test_without_answers", "test")
