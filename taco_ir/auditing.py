"""The audit of a negatives file: what `evaluation.audit` counts, read from the file that was written, and examples to read."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from taco_ir.data.collections import Collection, Topics
from taco_ir.data.negatives import NegativesHeader
from taco_ir.data.topics import json_lines
from taco_ir.evaluation.audit import Audit, Example, Shown, TaskAudit, audit_task
from taco_ir.evaluation.report import html, markdown
from taco_ir.files import collector_paused, writing
from taco_ir.mining import WITHOUT_SPANS, Retrieved, answers_of, audit_paths, canonical_name
from taco_ir.records import Passage, Query, Ranking
from taco_ir.retrieval.mining import AnswerTexts, gold_of
from taco_ir.retrieval.snippet import snippet

EXAMPLES = 20  # of all tasks together
SHOWN = 3  # gold passages and negatives of an example, each at most
MARKS = ("«", "»")  # around a query's words in a snippet: the same in Markdown and HTML


def audit_file(collection: Collection, topics: Sequence[Topics], retrieved: Mapping[str, Retrieved], output: Path) -> list[TaskAudit]:
    """Audit the negatives in `output`, write the report in both forms beside it, and return its numbers.

    Args:
        topics: those that were mined, in the order of the file.
        retrieved: what `mine_file` saw of them.
    """
    lines = json_lines(output)
    _, first = next(lines)
    header = NegativesHeader(**{key: first[key] for key in NegativesHeader._fields})
    by_name = {canonical_name(collection, topic): topic for topic in topics}
    tasks: list[TaskAudit] = []
    examples: list[Example] = []
    for name, rows in groupby((row for _, row in lines), key=lambda row: str(row["topics"])):
        with collector_paused():
            kept = {str(row["qid"]): Ranking.of(row["docids"], row["scores"]) for row in rows}
            task = _Task(collection, by_name[name], kept, retrieved[name])
            tasks.append(task.count())
            drawn = random.Random(f"{header.seed} {name}")
            examples += task.examples(drawn, _quota(len(by_name), len(tasks) - 1))
    report = Audit(f"Negatives in {output.name}", _notes(collection, header), tasks, examples)
    for path, text in zip(audit_paths(output), (markdown(report), html(report)), strict=True):
        with writing(path) as sink:
            sink.write(text)
    return tasks


def _quota(tasks: int, place: int) -> int:
    """Examples of the task at `place`, so that all tasks together have EXAMPLES."""
    return EXAMPLES // tasks + (place < EXAMPLES % tasks)


def _notes(collection: Collection, header: NegativesHeader) -> list[str]:
    return [
        f"collection {collection.name} (fingerprint {header.collection})",
        f"mined from {header.source}" + (f", encoder {header.checkpoint}" if header.checkpoint else ""),
        f"ranks {header.skip + 1} to {header.depth}, at most {header.keep} negatives a query, filters: {', '.join(header.filters)}",
        f"examples drawn with seed {header.seed}",
    ]


class _Task:
    """One topics' negatives with the passages that they name."""

    def __init__(self, collection: Collection, topics: Topics, kept: Mapping[str, Ranking], retrieved: Retrieved) -> None:
        self._collection, self._topics, self._kept, self._retrieved = collection, topics, kept, retrieved
        docids = list(dict.fromkeys(docid for ranking in kept.values() for docid in ranking.docids))
        self._page_of = collection.passages.page_of(docids)
        self._passages = collection.passages.get(docids)
        self._texts = AnswerTexts(self._passages)
        self._answers = {query.qid: answers_of(query, topics.task) for query in topics.queries}

    def count(self) -> TaskAudit:
        return audit_task(
            self._topics.name,
            self._topics.queries,
            self._kept,
            self._page_of,
            self._retrieved.gold_scores,
            (self._retrieved.seen, self._retrieved.on_gold),
            None if self._topics.task in WITHOUT_SPANS else self._has_answer,
        )

    def _has_answer(self, query: Query, docid: str) -> bool:
        answers = self._answers[query.qid]
        return bool(answers) and self._texts.holds(docid, answers)

    def examples(self, drawn: random.Random, count: int) -> Iterator[Example]:
        """Up to `count` queries that have negatives."""
        queries = [query for query in self._topics.queries if query.qid in self._kept and self._kept[query.qid].docids]
        queries = drawn.sample(queries, min(count, len(queries)))
        gold = self._gold(queries)
        for query in queries:
            ranking = self._kept[query.qid]
            negatives = [
                self._shown(query, self._passages[docid], float(score))
                for docid, score in zip(ranking.docids[:SHOWN], ranking.scores, strict=False)
            ]
            yield Example(self._topics.name, query, self._retrieved.gold_scores.get(query.qid), gold[query.qid], negatives)

    def _shown(self, query: Query, passage: Passage, score: float | None) -> Shown:
        has_answer = passage.docid in self._passages and self._has_answer(query, passage.docid)
        around = " ".join(query.answers) if has_answer else query.plain_text
        return Shown(score, passage.docid, passage.title, snippet(around, passage.text, marks=MARKS), has_answer)

    def _gold(self, queries: Sequence[Query]) -> dict[str, list[Shown]]:
        """Gold passages of each query, the first few; of pages that count as a whole, their first passages."""
        store = self._collection.passages
        gold = {query.qid: gold_of(query, {}) for query in queries}
        of_page = store.docids_of({page for each in gold.values() for page in each.whole_pages})
        named = {}
        for query in queries:
            docids = [docid for evidence in query.evidence for docid in evidence.passages]
            docids += [docid for page in sorted(gold[query.qid].whole_pages) for docid in of_page[page]]
            rows = store.rows(docids)
            held = [docid for docid, row in zip(docids, rows.tolist(), strict=True) if row >= 0]
            named[query.qid] = list(dict.fromkeys(held))[:SHOWN]
        passages = store.get(list(dict.fromkeys(docid for docids in named.values() for docid in docids)))
        return {query.qid: [self._shown(query, passages[docid], None) for docid in named[query.qid]] for query in queries}
