"""Audits a negatives file: reads it, counts its contents (audit_counts.py), and selects examples to read."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from taco_ir.core.files import writing
from taco_ir.core.processes import collector_paused
from taco_ir.core.texts import snippet
from taco_ir.core.types import Passage, Query, Ranking
from taco_ir.data.collection import Collection, Topics
from taco_ir.data.topics import read_json_lines
from taco_ir.negatives.audit_counts import (
    Audit,
    Example,
    Shown,
    SourceAudit,
    Suspected,
    TaskAudit,
    audit_task,
    overlaps,
)
from taco_ir.negatives.audit_page import html
from taco_ir.negatives.file import NegativesHeader, read_sources
from taco_ir.negatives.filters import AnswerTexts, gold_of
from taco_ir.negatives.miner import WITHOUT_SPANS, Retrieved, answers_of, audit_path, canonical_name

EXAMPLES = 20  # of all tasks together
SHOWN = 3  # most gold passages, and most negatives, of an example
MARKS = ("«", "»")  # around a query's words in a snippet


def audit_file(
    collection: Collection, topics: Sequence[Topics], retrieved: Mapping[str, Sequence[Retrieved]], output: Path
) -> Audit:
    """Audit the negatives file `output`, write an HTML page next to it, and return the audit.

    Args:
        topics: the mined topics, in the order of the file.
        retrieved: the statistics that `mine_file` returned.
    """
    sources = read_sources(output)
    names = source_names(sources)
    lines = read_json_lines(output)
    next(lines)
    by_name = {canonical_name(collection, topic): topic for topic in topics}
    tasks: list[TaskAudit] = []
    by_source: list[SourceAudit] = []
    examples: list[Example] = []
    suspected: list[Suspected] = []
    for name, of_topics in groupby((row for _, row in lines), key=lambda row: str(row["topics"])):
        with collector_paused():
            task = _Task(collection, by_name[name], Kept.of(of_topics, len(sources)), retrieved[name], names)
            tasks.append(task.count())
            by_source += task.count_by_source()
            rng = random.Random(f"{sources[0].seed} {name}")
            count = EXAMPLES // len(by_name) + (len(tasks) <= EXAMPLES % len(by_name))
            examples += task.examples(rng, count)
            suspected += task.suspected(tasks[-1], count)
    report = Audit(
        f"Negatives in {output.name}", _notes(collection, sources, names), tasks, examples, by_source, suspected
    )
    page = html(report)
    with writing(audit_path(output)) as sink:
        sink.write(page)
    return report


def source_names(sources: Sequence[NegativesHeader]) -> list[str]:
    """The names of the sources; several sources are numbered, since two models may have the same name."""
    if len(sources) == 1:
        return [sources[0].source]
    return [f"{number} {each.source}" for number, each in enumerate(sources, 1)]


class Kept(NamedTuple):
    """The negatives of one query set by qid: of all sources together, of each source, and the sources of each one."""

    together: dict[str, Ranking]
    by_source: list[dict[str, Ranking]]
    sources_of: dict[tuple[str, str], list[int]]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], sources: int) -> Kept:
        kept = cls({}, [{} for _ in range(sources)], {})
        for row in rows:
            qid, docids, scores = str(row["qid"]), row["docids"], row["scores"]
            if sources == 1:
                kept.together[qid] = kept.by_source[0][qid] = Ranking.of(docids, scores)
                continue
            found: list[dict[str, float]] = [{} for _ in range(sources)]
            for docid, places, scored in zip(docids, row["sources"], scores, strict=True):
                kept.sources_of[qid, docid] = places
                for place, score in zip(places, scored, strict=True):
                    found[place][docid] = score
            kept.together[qid] = Ranking(docids, np.array([scored[0] for scored in scores], dtype=np.float32))
            for rankings, own in zip(kept.by_source, found, strict=True):
                rankings[qid] = Ranking.of(list(own), list(own.values()))
        return kept


def _notes(collection: Collection, sources: Sequence[NegativesHeader], names: Sequence[str]) -> list[str]:
    notes = [f"collection {collection.name} (fingerprint {sources[0].collection})"]
    for header, name in zip(sources, names, strict=True):
        notes += [
            f"mined from {name}" + (f", encoder {header.checkpoint}" if header.checkpoint else ""),
            f"ranks {header.skip + 1} to {header.depth}, at most {header.keep} negatives a query, "
            f"filters: {', '.join(header.filters)}",
        ]
    return [*notes, f"examples sampled with seed {sources[0].seed}"]


class _Task:
    """One topics' negatives with the passages that they name."""

    def __init__(
        self, collection: Collection, topics: Topics, kept: Kept, retrieved: Sequence[Retrieved], names: Sequence[str]
    ) -> None:
        self._collection, self._topics, self._retrieved, self._names = collection, topics, retrieved, names
        self._all, self._kept = kept, kept.together
        docids = list(dict.fromkeys(docid for ranking in self._kept.values() for docid in ranking.docids))
        self._page_of = collection.passages.page_of(docids)
        self._passages = collection.passages.get(docids)
        self._texts = AnswerTexts(self._passages)
        self._answers = {query.qid: answers_of(query, topics.task) for query in topics.queries}

    def count(self) -> TaskAudit:
        """Returns counts over all negatives; no margins for several sources, since their scores differ in scale."""
        if len(self._names) == 1:
            return self._count(self._kept, self._retrieved[0])
        seen, dropped = sum(each.seen for each in self._retrieved), sum(each.on_gold for each in self._retrieved)
        return self._count(self._kept, Retrieved(seen, dropped, {}, sum(each.lost for each in self._retrieved)))

    def count_by_source(self) -> list[SourceAudit]:
        """Returns counts over the negatives of each source; [] for a single source."""
        if len(self._names) == 1:
            return []
        kept = self._all.by_source
        shared_SS, alone_S = overlaps(kept)
        each_S = zip(self._names, kept, self._retrieved, shared_SS.tolist(), alone_S.tolist(), strict=True)
        return [
            SourceAudit(name, self._count(own, seen), tuple(shared), alone) for name, own, seen, shared, alone in each_S
        ]

    def _count(self, kept: Mapping[str, Ranking], retrieved: Retrieved) -> TaskAudit:
        return audit_task(
            self._topics.name,
            self._topics.queries,
            kept,
            self._page_of,
            retrieved.gold_scores,
            (retrieved.seen, retrieved.on_gold, retrieved.lost),
            None if self._topics.task in WITHOUT_SPANS else self._has_answer,
        )

    def _has_answer(self, query: Query, docid: str, texts: AnswerTexts | None = None) -> bool:
        """True if a passage contains an answer of the query; `texts` has the passage if it is not a negative."""
        answers = self._answers[query.qid]
        return bool(answers) and (texts or self._texts).holds(docid, answers)

    def examples(self, rng: random.Random, count: int) -> Iterator[Example]:
        """Sample up to `count` queries that have negatives."""
        queries = [query for query in self._topics.queries if query.qid in self._kept and self._kept[query.qid].docids]
        queries = rng.sample(queries, min(count, len(queries)))
        gold = self._gold(queries)
        for query in queries:
            ranking = self._kept[query.qid]
            negatives = []
            for docid, score in zip(ranking.docids[:SHOWN], ranking.scores, strict=False):
                places = self._all.sources_of.get((query.qid, docid), ())  # the source whose score is shown first
                shown = self._shown(query, self._passages[docid], float(score))
                negatives.append(shown._replace(source=", ".join(self._names[place] for place in places)))
            names = self._names if len(self._names) > 1 else [""]
            found = [each.gold_scores.get(query.qid) for each in self._retrieved]
            gold_scores = list(zip(names, found, strict=True))
            yield Example(self._topics.name, query, gold_scores, gold[query.qid], negatives)

    def suspected(self, counted: TaskAudit, count: int) -> Iterator[Suspected]:
        """Yield up to `count` of the most likely false negatives, for people to read."""
        queries = {query.qid: query for query in self._topics.queries}
        for each in counted.suspects[:count]:
            query, margin = queries[each.qid], each.margin if math.isfinite(each.margin) else None
            shown = self._shown(query, self._passages[each.docid], each.score)
            yield Suspected(self._topics.name, query, margin, shown)

    def _shown(self, query: Query, passage: Passage, score: float | None, texts: AnswerTexts | None = None) -> Shown:
        has_answer = self._has_answer(query, passage.docid, texts)
        around = " ".join(query.answers) if has_answer else query.plain_text
        return Shown(score, passage.docid, passage.title, snippet(around, passage.text, marks=MARKS), has_answer)

    def _gold(self, queries: Sequence[Query]) -> dict[str, list[Shown]]:
        """Returns the first few gold passages of each query; for a page without gold passages, its first passages."""
        store = self._collection.passages
        gold = {query.qid: gold_of(query, {}) for query in queries}
        of_page = store.docids_of({page for each in gold.values() for page in each.whole_pages})
        named = {}
        for query in queries:
            of_pages = (docid for page in sorted(gold[query.qid].whole_pages) for docid in of_page[page])
            docids = [*query.gold_passages, *of_pages]
            rows = store.rows(docids)
            present = [docid for docid, row in zip(docids, rows.tolist(), strict=True) if row >= 0]
            named[query.qid] = list(dict.fromkeys(present))[:SHOWN]
        passages = store.get(list(dict.fromkeys(docid for docids in named.values() for docid in docids)))
        texts = AnswerTexts(passages)
        return {
            query.qid: [self._shown(query, passages[docid], None, texts) for docid in named[query.qid]]
            for query in queries
        }
