"""Texts that try to get out of a page, and what a page shows when it is read as text."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = '<script>alert("x")</script> & <img src=x onerror=y> | *a* [b](c) `d`'


class Text(HTMLParser):
    """The words that a browser shows, and the tags that it sees."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.shown, self.tags, self.links = "", [], []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.shown += data


class Rows(HTMLParser):
    """The cells of every row of a page's tables."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data
