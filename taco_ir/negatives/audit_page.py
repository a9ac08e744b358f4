"""The audit of a negatives file as Markdown and as one HTML file that needs nothing else: the same words and numbers in both."""

from __future__ import annotations

from collections.abc import Iterator

from taco_ir.evaluation.pages import templates_of
from taco_ir.evaluation.tables import escape_markdown, render
from taco_ir.negatives.audit_counts import LEGEND, Audit, example_table, facts, histogram, margin_table, summary
from taco_ir.negatives.audit_sources import LEGEND as SOURCES_LEGEND
from taco_ir.negatives.audit_sources import source_tables

HEADINGS = ("Tasks", "Score margins", "Examples")
SOURCES_HEADING = "Sources"


def markdown(audit: Audit) -> str:
    """The report as Markdown; text of passages and queries is escaped."""
    return "\n".join(_blocks(audit))


def _blocks(audit: Audit) -> Iterator[str]:
    yield f"# {escape_markdown(audit.title)}\n"
    yield "".join(f"- {escape_markdown(note)}\n" for note in audit.notes)
    yield f"## {HEADINGS[0]}\n"
    yield render(summary(audit.tasks), "markdown")
    yield "".join(f"- {escape_markdown(line)}\n" for line in LEGEND)
    if audit.sources:
        yield f"## {SOURCES_HEADING}\n"
        yield from (render(table, "markdown") for table in source_tables(audit.sources))
        yield "".join(f"- {escape_markdown(line)}\n" for line in SOURCES_LEGEND)
    yield f"## {HEADINGS[1]}\n"
    yield from (render(margin_table(task), "markdown") for task in audit.measured)
    yield f"## {HEADINGS[2]}\n"
    for example in audit.examples:
        yield f"### {example.topics} {escape_markdown(example.query.qid)}\n"
        yield f"> {escape_markdown(example.query.text)}\n"
        yield "".join(f"- {escape_markdown(fact)}\n" for fact in facts(example))
        yield render(example_table(example), "markdown")


def html(audit: Audit) -> str:
    """The report as HTML: style and plots inline, every value escaped."""
    plotted = [(task, histogram(task.margins)) for task in audit.measured]
    sources = {"heading": SOURCES_HEADING, "tables": source_tables(audit.sources), "legend": SOURCES_LEGEND}
    page = templates_of("taco_ir.negatives").get_template("audit.html")
    own = {"facts": facts, "example_table": example_table}
    return page.render(audit=audit, headings=HEADINGS, legend=LEGEND, summary=summary(audit.tasks), plotted=plotted, sources=sources, **own)
