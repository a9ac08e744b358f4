"""What all HTML pages share: one layout with a header and themes, one stylesheet, and parts to build from.

A page is one file that asks for nothing: style, plots and scripts are inline, and its content security policy names
them by their hashes. Layout and stylesheet are `page.html` and `page.css`, parts are macros in `parts.html`.
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
    """What stands at the top of every page.

    Attributes:
        command: the command that made it; "" where none did, as in a notebook.
        date: the day.
        code: the version of the package, and the commit of a checkout.
    """

    title: str
    command: str
    date: str
    code: str


def make_header(title: str) -> Header:
    """The header of a page that this process makes now."""
    return Header(title, command_line(), datetime.now(UTC).strftime("%Y-%m-%d"), describe_code())


@cache
def describe_code() -> str:
    """The version of this package, and its commit where it is a checkout, as it was when this process first asked."""
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
    """A page as HTML, every value escaped.

    Args:
        templates: as `templates_of` gives them.
        name: of the template, which extends `page.html`.
        styles: files of rules that only this page needs.
        scripts: files of its script; most pages have none.
        forms: whether it has forms, which ask the server that it came from.
    """
    style, script = _join(templates, (STYLE, *styles)), _join(templates, scripts)
    policy = {"style": _hash_source(style), "script": _hash_source(script) if script else ""}
    policy["forms"] = "'self'" if forms else "'none'"
    page = templates.get_template(name)
    return page.render(header=make_header(title), style=style, script=script, policy=policy, **values)


def _join(templates: jinja2.Environment, names: Sequence[str]) -> str:
    assert templates.loader is not None
    return "".join(templates.loader.get_source(templates, name)[0] for name in names)


def _hash_source(text: str) -> str:
    """The hash by which a content security policy names an inline style or script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def templates_of(package: str, folder: str = ".") -> jinja2.Environment:
    """The templates in a package's folder, and the shared ones.

    Every value is escaped; the filter `cell` shows one as tables do.
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
    """A table's value as tables in a terminal show it."""
    if value is None:
        return "-"
    return show(value) if isinstance(value, int | float) else str(value)
