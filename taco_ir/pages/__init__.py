"""Shared by all HTML pages: a layout with header and themes, a stylesheet, and building blocks.

A page is one file that loads nothing: styles, plots and scripts are inline, and its content security policy lists their
hashes. Layout and stylesheet are `page.html` and `page.css`; the building blocks are macros in `parts.html`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import taco_ir
from taco_ir.core.processes import command_line, current_commit
from taco_ir.evaluation.tables import Cell, show

if TYPE_CHECKING:
    import jinja2

COMMIT = 10  # characters of a commit that are shown
STYLE = "page.css"


class Header(NamedTuple):
    """The content of the header on every page.

    Attributes:
        command: the command that made the page; "" if none did, as in a notebook.
        date: the day on which the page was made.
        code: the version of the package and, in a checkout, the commit.
    """

    title: str
    command: str
    date: str
    code: str


@cache
def describe_code() -> str:
    """Returns the version of this package and, in a checkout, its commit. They are read once per process."""
    version, commit = f"taco_ir {taco_ir.__version__}", current_commit()
    changed = ", changed since" * commit.endswith("+")
    return f"{version}, commit {commit[:COMMIT]}{changed}" if commit else version


def make_page(
    templates: jinja2.Environment,
    name: str,
    title: str,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    forms: bool = False,
    **values: Any,
) -> str:
    """Render a page as HTML, with every value escaped.

    Args:
        templates: the result of `templates_of`.
        name: name of the template, which extends `page.html`.
        styles: files with extra style rules for this page.
        scripts: files with the page's script; most pages have none.
        forms: True if the page has forms, which the browser sends to the page's server.
        values: further values for the template.
    """
    style, script = _join(templates, (STYLE, *styles)), _join(templates, scripts)
    policy = {"style": _hash_source(style), "script": _hash_source(script) if script else ""}
    policy["forms"] = "'self'" if forms else "'none'"
    page = templates.get_template(name)
    header = Header(title, command_line(), datetime.now(UTC).strftime("%Y-%m-%d"), describe_code())
    return page.render(header=header, style=style, script=script, policy=policy, **values)


def _join(templates: jinja2.Environment, names: Sequence[str]) -> str:
    assert templates.loader is not None
    return "".join(templates.loader.get_source(templates, name)[0] for name in names)


def _hash_source(text: str) -> str:
    """Returns the hash of an inline style or script, as a content security policy lists it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def templates_of(package: str, folder: str = ".") -> jinja2.Environment:
    """Returns the Jinja templates in a package's folder, together with the templates that all pages share.

    Every value is escaped. The filter `cell` formats a value as in tables.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package, folder), jinja2.PackageLoader("taco_ir.pages", ".")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    return environment


def _cell(value: Cell) -> str:
    """Returns a value as tables in a terminal show it."""
    if value is None:
        return "-"
    return show(value) if isinstance(value, int | float) else str(value)
