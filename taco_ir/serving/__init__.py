"""Answers single queries in a terminal, keeping encoder and index loaded; for a browser, see `taco_ir.serving.page`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

from taco_ir.core.files import InputError
from taco_ir.core.processes import log, timed
from taco_ir.core.texts import snippet
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.retrieval.retriever import Hits, Retriever

TASK = "/task"
HELP = f"type one query per line; {TASK} NAME sets the task, {TASK} alone removes it; an empty line or Ctrl-D ends"


def show_hits(form: str, text: str, hits: Hits) -> None:
    """Print a query's hits: as text with the query's words marked if `form` is "table", otherwise in that format."""
    if not hits:
        log.warning("no hits: no passage has a word of %r (stop words do not count)", text)
    if form != "table":
        rows: list[list[Cell]] = [[hit.rank, hit.score, hit.docid, hit.title, hit.text] for hit in hits]
        print(render(Table(text, ["rank", "score", "docid", "title", "text"], rows), form), end="")
        return
    marks = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("*", "*")
    for hit in hits:
        print(f"{hit.rank:>3}  {hit.score:.4f}  {hit.title or '(no title)'}  [{hit.docid}]")
        print(f"     {snippet(text, hit.text, marks=marks)}", flush=True)


def ask(
    retriever: Retriever, task: str | None, hits: int, show: Callable[[str, Hits], None], lines: Iterable[str]
) -> None:
    """Answer queries, one per line; an invalid query prints an error, and the next line is read.

    A line `/task NAME` is not a query: it sets the task of later queries.

    Args:
        task: the task of the first queries; None: no task.
        hits: how many hits to find for each query.
        show: prints the hits of a query.
        lines: queries without line ends; an empty line ends the loop.
    """
    for line in lines:
        text = line.strip()
        if not text:
            return
        if text.split()[0] == TASK:
            task = text.removeprefix(TASK).strip() or None
            continue
        try:
            with timed() as seconds:
                found = retriever.search(text, task, hits)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        show(text, found)
        print(f"{1000 * seconds():.0f} ms", file=sys.stderr)


def typed_lines(prompt: str) -> Iterable[str]:
    """Yield lines that the user types (with a line editor if possible) or pipes in, until Ctrl-C or Ctrl-D."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    with suppress(ImportError):
        import readline  # noqa: F401 - `input` uses it
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            yield input(prompt)
    print(file=sys.stderr)
