"""Reads the queries of an adaptation by task, finds their gold passages in the index, and holds some queries out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from taco_ir.adaptation.softmax import Gold, Rows
from taco_ir.core.files import InputError
from taco_ir.core.hashes import generator, hash_names
from taco_ir.core.processes import log
from taco_ir.core.tasks import TOPICS, canonical_task
from taco_ir.core.types import EvidenceSet, Query
from taco_ir.data.collection import Collection, Topics, is_topics_file, judge_by, read_topics_file
from taco_ir.data.examples import TrainExample
from taco_ir.data.held_out import split_by_page
from taco_ir.data.query_files import Qrels, read_qrels
from taco_ir.retrieval.frozen_base import FrozenIndex

LEAST = 10  # queries of a task


class Example(NamedTuple):
    """A query of a task, with its gold passages in the index."""

    query: Query
    gold: Gold

    def as_trained(self, task: str) -> TrainExample:
        """Returns the example in the form that samplers use."""
        return TrainExample(self.query.qid, self.query.text, task, (), frozenset(), ())


class Pages:
    """Maps the passages of an index to pages. A passage with an unknown page counts as its own page.

    Attributes:
        known: True if pages are known, so that page-level measures make sense.
        names: the page names, by page number.
        page_N: the page number of each row.
    """

    def __init__(self, index: FrozenIndex, collection: Collection | None) -> None:
        page_of = _page_names(index.docids, collection)
        names_N = np.array(page_of if page_of is not None else index.docids, dtype=object)
        self.known = page_of is not None
        self.names, self.page_N = np.unique(names_N, return_inverse=True)
        self._order_N = np.argsort(self.page_N, kind="stable")
        self._starts = np.searchsorted(self.page_N[self._order_N], np.arange(len(self.names) + 1))
        self._number = {name: number for number, name in enumerate(self.names.tolist())}

    def rows_of(self, page: str) -> Rows:
        """Returns the rows of a page's passages in order; empty if the index has no passage of the page."""
        number = self._number.get(page)
        if number is None:
            return np.empty(0, np.int64)
        return self._order_N[self._starts[number] : self._starts[number + 1]]

    def of(self, rows: Rows) -> list[str]:
        """Returns the page name of each of these rows."""
        found: list[str] = self.names[self.page_N[rows]].tolist()
        return found


def _page_names(docids: Sequence[str], collection: Collection | None) -> list[str] | None:
    """Returns the page of each docid, from the collection or the part before `#` in the docids; None if unknown."""
    if collection is not None and collection.passages.has_pages:
        store = collection.passages
        known = [docid for docid, row in zip(docids, store.rows(docids).tolist(), strict=True) if row >= 0]
        pages = store.page_of_known(known)
        there = set(known)
        return [pages[docid] if docid in there else docid for docid in docids]
    if all("#" in docid for docid in docids):
        return [docid.rpartition("#")[0] for docid in docids]
    return None


@dataclass(frozen=True)
class TaskQueries:
    """The queries of one task.

    Attributes:
        train: queries to train on.
        choose: held-out queries that decide which step is best and whether the adapter is kept.
        report: held-out queries for the report; the same as `choose` if there is only one.
        dropped: number of queries that are not used, because they share a page or text with held-out queries.
    """

    train: Sequence[Example]
    choose: Sequence[Example] = ()
    report: Sequence[Example] = ()
    dropped: int = 0


class Reader:
    """Reads query sets, groups their queries by task, and finds the gold passages in the index.

    Args:
        qrels: files with the judgments of all query sets.

    Attributes:
        pages: the pages of the index.
        files: all files that were read, by name.
    """

    def __init__(self, index: FrozenIndex, collection: Collection | None, qrels: Sequence[Path] = ()) -> None:
        self.index = index
        self.pages = Pages(index, collection)
        self.files = {str(path): path for path in qrels}
        self._collection = collection
        self._judgments = qrels
        self._qrels = _read_judgments(qrels)

    def read(self, flag: str, names: Sequence[str]) -> dict[str, list[Example]]:
        """Read query sets and group their queries by task. Queries without gold in the index are left out.

        Raises:
            InputError: for names of query sets without a collection, queries without gold, or if no gold passage is in
                the index.
        """
        if self._collection is None:
            if named := [name for name in names if not is_topics_file(name)]:
                raise InputError(
                    f"{flag} {named[0]}: this names topics of a collection, so --collection is needed; file names "
                    "end in .jsonl, .tsv, .txt, .trec or .topics"
                )
            paths = {name: Path(name) for name in names}
            topics = [read_topics_file(path) for path in paths.values()]
        else:
            known = self._collection
            paths = {
                name: Path(name) if is_topics_file(name) else known.topics_path(name) for name in known.expand(names)
            }
            topics = [known.load_topics(name) for name in paths]
        self.files |= paths
        if self._qrels:
            topics = judge_by(topics, self._qrels, " ".join(map(str, self._judgments)))
        found: dict[str, dict[str, Query]] = {}
        for each in topics:
            if not each.has_gold:
                raise InputError(f"{flag} {each.name}: its queries have no gold; give judgments with --qrels FILE")
            for query in each.queries:
                own = found.setdefault(_task_of(query, each), {})
                if own.setdefault(query.qid, query) is not query:
                    raise InputError(f"{flag}: query id {query.qid!r} appears twice in one task; ids must be unique")
        return {task: self._examples(flag, task, list(queries.values())) for task, queries in found.items()}

    def _examples(self, flag: str, task: str, queries: Sequence[Query]) -> list[Example]:
        """Returns the queries with gold in the index. Raises: InputError if there are none."""
        graded = [self._positives(query) for query in queries]
        docids = list(dict.fromkeys(docid for grades in graded for docid in grades))
        row_of = dict(zip(docids, self.index.rows(docids).tolist(), strict=True))
        missing = [docid for docid in docids if row_of[docid] < 0]
        found = [
            Example(query, gold)
            for query, grades in zip(queries, graded, strict=True)
            if (gold := self._gold(query, {row_of[docid]: grade for docid, grade in grades.items()})) is not None
        ]
        if missing or len(found) < len(queries):
            said = (
                f"{flag}, task {task}: {self.index.path} lacks {len(missing):,} of {len(docids):,} gold docids"
                f"{f', first {missing[0]!r}' if missing else ''}; {len(queries) - len(found):,} of {len(queries):,}"
                " queries have no gold there"
            )
            if not found:
                raise InputError(f"{said}; give queries for the passages of this index")
            log.warning("%s and are left out", said)
        return found

    def _positives(self, query: Query) -> dict[str, float]:
        """Returns a query's positives by docid with their weights: grades, or 1 for all gold passages or pages."""
        if query.grades:
            return {docid: float(grade) for docid, grade in query.grades.items() if grade > 0}
        found = dict[str, float]()
        for each in query.evidence:
            rows = (row for page in each.pages for row in self.pages.rows_of(page).tolist())
            found |= dict.fromkeys(each.passages or (self.index.docids[row] for row in rows), 1.0)
        return found

    def _gold(self, query: Query, grades: Mapping[int, float]) -> Gold | None:
        """Returns a query's gold as rows, with all passages of its gold pages; None without a positive."""
        positives = np.array(sorted(row for row in grades if row >= 0), dtype=np.int64)
        if not len(positives):
            return None
        weights = np.array([grades[row] for row in positives.tolist()])
        named = set(query.gold_pages) if self.pages.known else set()
        pages = [self.pages.rows_of(page) for page in sorted(named.union(self.pages.of(positives)))]
        others = np.setdiff1d(np.concatenate(pages), positives)
        return Gold(positives, weights / weights.sum(), others)


def _read_judgments(paths: Sequence[Path]) -> Qrels:
    """Read the judgments of several files. Raises: InputError for a query in two of them."""
    found: Qrels = {}
    for path in paths:
        own = read_qrels(path)
        if twice := next((qid for qid in own if qid in found), None):
            raise InputError(
                f"--qrels {path}: another file also judges query {twice!r}; give each query in only one file"
            )
        found |= own
    return found


def _task_of(query: Query, topics: Topics) -> str:
    """Returns the task of a query: the task in its record, or the name of its file without the split."""
    if query.task:
        return query.task
    named = TOPICS.fullmatch(topics.name)
    return canonical_task(named["task"] if named else topics.name)


def take(tasks: Mapping[str, Sequence[Example]], most: int, seed: int) -> dict[str, list[Example]]:
    """Sample at most `most` examples of each task (0: all) with the seed, keeping their order."""
    found = {}
    for task, examples in tasks.items():
        rows = range(len(examples))
        if 0 < most < len(examples):
            rows = sorted(generator(seed, task, "examples").choice(len(examples), most, replace=False).tolist())  # type: ignore[assignment]
        found[task] = [examples[row] for row in rows]
    return found


def hold_out(examples: Sequence[Example], pages: Pages, share: float, most: int, seed: int, task: str) -> TaskQueries:
    """Hold out a `share` of a task's queries, at most `most`; no training query shares a page or text with them.

    Raises:
        InputError: for too few queries, or too few pages to split them by.
    """
    by_page = [_with_pages(each, pages) for each in examples]
    wanted = min(share, most / len(examples))
    try:
        split = split_by_page(by_page, wanted, seed, task)
    except InputError as error:
        raise InputError(f"{error}; give other queries with --validate-on, or --held-out none") from error
    of = {each.query.qid: each for each in examples}
    train, held = ([of[query.qid] for query in part] for part in (split.train, split.dev))
    choose, report = halve(held, pages, most, seed, task)
    return TaskQueries(train, choose, report, split.dropped)


def halve(
    examples: Sequence[Example], pages: Pages, most: int, seed: int, task: str
) -> tuple[list[Example], list[Example]]:
    """Split at most `most` held-out queries into one half to choose by and one to report; a single query is in both."""
    drawn = generator(seed, task, "held out").permutation(len(examples))[:most].tolist()
    order = sorted(drawn, key=lambda row: (hash_names(seed, *pages.of(examples[row].gold.positives[:1])), row))
    middle = len(order) // 2
    choose, report = ([examples[row] for row in sorted(part)] for part in (order[:middle], order[middle:]))
    return choose or report, report


def _with_pages(example: Example, pages: Pages) -> Query:
    """Returns the query with one evidence set: all pages of its positives and of its evidence."""
    named = example.query.gold_pages if pages.known else ()
    own: Iterable[str] = dict.fromkeys([*named, *pages.of(example.gold.positives)])
    return example.query._replace(evidence=(EvidenceSet(tuple(own), ()),))


def require_enough(tasks: Mapping[str, Sequence[Example]], what: str) -> None:
    """Raise InputError for a task with fewer than ten queries."""
    for task, examples in tasks.items():
        if len(examples) < LEAST:
            raise InputError(f"task {task}: {len(examples)} {what}; at least {LEAST} are needed to learn from")
