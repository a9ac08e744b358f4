"""Shows the audit of a negatives file as tables and as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from taco_ir.evaluation.tables import Cell, Table, show
from taco_ir.negatives.audit_counts import Audit, Example, SourceAudit, Suspected, TaskAudit, histogram
from taco_ir.pages import make_page, templates_of

HEADINGS = ("Likely false negatives", "Tasks", "Score margins", "Examples")
ALL = "all"
QUALITY = ("gold dropped", "gold kept", "with answer", "above gold", "margin", "lost")  # as `LEGEND` explains them
LEGEND = (
    "without: queries without any negative",
    "gold dropped: share of the hits looked at that are gold or on a gold page",
    "gold kept: negatives in the file that are gold or on a gold page; must be 0",
    "with answer: share of negatives with an answer in the text, likely false negatives; "
    "- where answers are no spans of text",
    "above gold: share of negatives that score at least as high as the best gold hit, where gold is among the hits",
    "margin: median of best gold score less negative's score",
    "lost: queries that lost all hits to a filter by margin because gold is not among the hits; of several sources, "
    "the sum",
)
SOURCES_LEGEND = (
    "alone: share of a source's negatives that no other source has",
    f"{', '.join(QUALITY)}: as above, of one source; scores and margins are those of its own ranking, and are never "
    "compared with another's",
    "overlap: share of a row's negatives that the column's source has for the same query",
)


def share(count: int, whole: int) -> float | None:
    return count / whole if whole else None


def measure_quality(task: TaskAudit) -> list[Cell]:
    """Returns a task's table cells for the columns in QUALITY."""
    return [
        share(task.dropped, task.seen),
        task.on_gold,
        None if task.with_answer is None else share(task.with_answer, task.negatives),
        share(int((task.margins <= 0).sum()), len(task.margins)),
        float(np.median(task.margins)) if len(task.margins) else None,
        task.lost,
    ]


def summary(tasks: Sequence[TaskAudit]) -> Table:
    """Returns a table with a row for each task; shares are between 0 and 1."""
    header = ["topics", "queries", "without", "negatives", "per query", *QUALITY]
    rows = [[each.topics, each.queries, each.without, *_counts(each), *measure_quality(each)] for each in tasks]
    return Table("", header, rows)


def _counts(task: TaskAudit) -> list[Cell]:
    """Returns the number of negatives, in all and per query."""
    return [task.negatives, task.negatives / task.queries]


def source_tables(sources: Sequence[SourceAudit]) -> list[Table]:
    """Returns a table with a row for each query set and source, and a table of overlaps; [] for a single source."""
    if not sources:
        return []
    names = list(dict.fromkeys(each.source for each in sources))
    header = ["topics", "source", "negatives", "per query", "alone", *QUALITY]
    rows: list[list[Cell]] = []
    for each in sources:
        alone = share(each.alone, each.task.negatives)
        rows.append([each.task.topics, each.source, *_counts(each.task), alone, *measure_quality(each.task)])
    return [Table("", header, rows), Table("", ["overlap", "source", *names], _overlap_rows(sources, names))]


def _overlap_rows(sources: Sequence[SourceAudit], names: Sequence[str]) -> list[list[Cell]]:
    """Returns the overlaps within each of the topics and, if there are several, over all topics."""
    by_topics = [list(rows) for _, rows in groupby(sources, key=lambda each: each.task.topics)]
    rows = [
        _overlap_row(each.task.topics, each.source, np.array(each.shared), place)
        for own in by_topics
        for place, each in enumerate(own)
    ]
    if len(by_topics) > 1:
        for place, name in enumerate(names):
            rows.append(_overlap_row(ALL, name, np.sum([own[place].shared for own in by_topics], axis=0), place))
    return rows


def _overlap_row(topics: str, name: str, shared_S: npt.NDArray[np.int64], place: int) -> list[Cell]:
    return [topics, name, *(share(int(count), int(shared_S[place])) for count in shared_S)]


def facts(example: Example) -> list[str]:
    """Returns lines of text about an example: the answers, and the best gold score of each source."""
    lines = [f"Answers: {' | '.join(example.query.answers)}"] if example.query.answers else []
    for name, score in example.gold_scores:
        gold = "Gold is not among the hits" if score is None else f"Best gold score: {show(score)}"
        lines.append(gold + (f" ({name})" if name else ""))
    return lines


def example_table(example: Example) -> Table:
    """Returns a table of an example's passages: gold passages first, then the hardest negatives."""
    parts = [("gold", shown) for shown in example.gold]
    parts += [
        (f"negative {place}" + (f" ({shown.source})" if shown.source else ""), shown)
        for place, shown in enumerate(example.negatives, 1)
    ]
    rows: list[list[Cell]] = [
        [what, shown.score, shown.title or "(no title)", shown.docid, "answer" if shown.has_answer else "", shown.text]
        for what, shown in parts
    ]
    return Table("", ["kind", "score", "title", "docid", "holds", "text"], rows)


def suspects_table(suspected: Sequence[Suspected]) -> Table:
    """Returns a table of likely false negatives and why they are suspected, by query set, the most likely first."""
    rows: list[list[Cell]] = []
    for each in suspected:
        why = ["holds an answer"] if each.passage.has_answer else []
        if each.margin is not None and each.margin <= 0:
            why.append(f"scores {show(-each.margin)} above the best gold passage")
        passage = f"{each.passage.title or '(no title)'} {each.passage.docid}"
        rows.append([each.topics, each.query.text, passage, " and ".join(why), each.passage.text])
    return Table("", ["topics", "query", "negative", "why", "text"], rows)


def lead(audit: Audit) -> str:
    """Returns a sentence that summarises the audit."""
    negatives = sum(task.negatives for task in audit.tasks)
    found = [f"{negatives:,} negatives of {sum(task.queries for task in audit.tasks):,} queries"]
    spans = [task for task in audit.tasks if task.with_answer is not None]
    if whole := sum(task.negatives for task in spans):
        holding = sum(task.with_answer or 0 for task in spans) / whole
        of = "" if len(spans) == len(audit.tasks) else f" of {', '.join(task.topics for task in spans)}"
        found.append(f"{holding:.1%}{of} contain an answer and so are likely false negatives")
    if count := sum(len(task.margins) for task in audit.measured):
        above = sum(int((task.margins <= 0).sum()) for task in audit.measured) / count
        found.append(f"{above:.1%} score at least as high as the best gold passage")
    wrong = sum(task.on_gold for task in audit.tasks)
    return f"{'; '.join(found)}; {f'{wrong:,} are gold, which is an error' if wrong else 'none is gold'}."


def html(audit: Audit) -> str:
    """Returns the audit as an HTML page with all styles and plots inline."""
    plotted = [(task, histogram(task.margins)) for task in audit.measured]
    sources = {"heading": "Sources", "tables": source_tables(audit.sources), "legend": SOURCES_LEGEND}
    suspects = suspects_table(audit.suspected) if audit.suspected else None
    found: dict[str, Any] = {"audit": audit, "lead": lead(audit), "summary": summary(audit.tasks), "suspects": suspects}
    shown: dict[str, Any] = {"sources": sources, "plotted": plotted, "facts": facts, "example_table": example_table}
    shown |= {"headings": HEADINGS, "legend": LEGEND}
    return make_page(templates_of("taco_ir.negatives"), "audit.html", audit.title, ("audit.css",), **found, **shown)
