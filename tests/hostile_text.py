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
