"""The search page: results of each retriever side by side, with gold passages marked if they are known.

It is one page without scripts, rendered for each query; the server listens only on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from taco_ir.core.files import InputError
from taco_ir.core.processes import log, timed
from taco_ir.core.texts import snippet
from taco_ir.core.types import Query
from taco_ir.data.collection import Collection
from taco_ir.pages import make_page, templates_of
from taco_ir.retrieval.retriever import Hit, Retriever

if TYPE_CHECKING:
    from markupsafe import Markup

HOST = "127.0.0.1"
LONGEST = 4000  # characters of a query
EXAMPLES = 8  # queries of a task to choose from
SECONDS = 10.0  # that a browser may take to send its request
MARKS = "\x02", "\x03"  # around words of the query, until the text is escaped
GOLD, PAGE = "gold passage", "gold page"


class Found(NamedTuple):
    """A hit as the web page shows it.

    Attributes:
        gold: GOLD for a gold passage, PAGE for another passage of a gold Wikipedia page, otherwise empty.
        text: a snippet with the query's words marked.
    """

    hit: Hit
    gold: str
    text: Markup


class Answer(NamedTuple):
    """The results of a query: hits by system, and seconds. `judged` is True if the query's gold is known."""

    systems: Mapping[str, Sequence[Found]]
    seconds: float
    judged: bool


class SearchPage:
    """Answers queries as HTML.

    Args:
        hits: number of hits to show for each system.
    """

    def __init__(self, retriever: Retriever, hits: int) -> None:
        self._retriever, self._hits = retriever, hits
        self._collection: Collection = retriever.collection
        self.tasks = sorted(self._collection.tasks)

    @cached_property
    def _known(self) -> dict[str, dict[str, Query]]:
        """Returns the queries of all dev topics by task and text."""
        found: dict[str, dict[str, Query]] = {}
        for name in self._collection.topics_names:
            if name.split == "dev":
                topics = self._collection.load_topics(str(name))
                found.setdefault(name.task, {}).update({query.text: query for query in topics.queries})
        return found

    def warm_up(self) -> None:
        """Read the topics and run two queries; the second query makes copies that speed up all later queries."""
        for _ in range(2):
            self._retriever.search_each("what is this about", self.tasks[0] if self.tasks else None, 1)
        log.info("%s queries with gold are known", f"{sum(map(len, self._known.values())):,}")

    def render(self, text: str, task: str) -> str:
        """Returns the page for a query: results, an error message if it is invalid, or only a form if it is empty."""
        text, answer, wrong = text.strip()[:LONGEST], None, ""
        try:
            answer = self._ask(text, task) if text else None
        except InputError as error:
            wrong = str(error)
        shown = task or next(iter(self._known), "")
        said: dict[str, Any] = {"text": text, "task": task, "answer": answer, "wrong": wrong, "shown": shown}
        said |= {"tasks": self.tasks, "examples": list(self._known.get(shown, {}))[:EXAMPLES]}
        title = f"Search in {self._collection.name}"
        return make_page(templates_of("taco_ir.serving"), "search.html", title, ["search.css"], forms=True, **said)

    def _ask(self, text: str, task: str) -> Answer:
        known = self._known.get(task, {}).get(text)
        if known is None:
            known = next((own[text] for own in self._known.values() if text in own), None)
        with timed() as seconds:
            found = self._retriever.search_each(text, task or None, self._hits)
        systems = {
            name: [Found(hit, _gold(hit, known), _mark(text, hit.text)) for hit in hits] for name, hits in found.items()
        }
        return Answer(systems, seconds(), known is not None)


def _gold(hit: Hit, query: Query | None) -> str:
    """Returns GOLD for a gold passage of a known query, PAGE for another passage on a gold page, otherwise ""."""
    if query is None:
        return ""
    if query.grades.get(hit.docid, 0) > 0 or hit.docid in query.gold_passages:
        return GOLD
    return PAGE if hit.page and hit.page in query.gold_pages else ""


def _mark(query: str, text: str) -> Markup:
    from markupsafe import Markup, escape

    plain = text.translate(dict.fromkeys(map(ord, "".join(MARKS))))
    marked = str(escape(snippet(query, plain, marks=MARKS)))
    return Markup(marked.replace(MARKS[0], "<mark>").replace(MARKS[1], "</mark>"))


def make_server(page: SearchPage, port: int) -> HTTPServer:
    """Returns a server for the page on this machine; port 0: any free port. Raises: InputError for a port in use."""

    class Handler(BaseHTTPRequestHandler):
        timeout = SECONDS

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
                # another web site with a name that resolves to this machine
                self.send_error(HTTPStatus.FORBIDDEN, f"ask for http://{HOST}:{server.server_port}/")
            elif url.path != "/":
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                asked = parse_qs(url.query)
                body = page.render(asked.get("query", [""])[0], asked.get("task", [""])[0]).encode()
                self.send_response(HTTPStatus.OK)
                for name, value in (
                    ("Content-Type", "text/html; charset=utf-8"),
                    ("Content-Length", str(len(body))),
                    ("Cache-Control", "no-store"),
                    ("X-Content-Type-Options", "nosniff"),
                    ("Referrer-Policy", "no-referrer"),
                ):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    try:
        server = HTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--serve {port}: {reason}; give another port, or 0 for any that is free") from error
    return server


def serve(page: SearchPage, port: int) -> None:
    """Serve the page until Ctrl-C. Raises: InputError for a port in use."""
    with make_server(page, port) as server:
        page.warm_up()
        print(f"http://{HOST}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("ended")
