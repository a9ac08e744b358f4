"""HTML pages that need nothing else, from the Jinja templates that lie in a package beside the code that fills them in."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from taco_ir.evaluation.tables import Cell, show

if TYPE_CHECKING:
    import jinja2


@cache
def templates_of(package: str, folder: str = ".") -> jinja2.Environment:
    """The templates in a package's folder, or one inside it; every value is escaped, and the filter `cell` spells it as tables do."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    return environment


def _cell(value: Cell) -> str:
    """A table's value as `render` spells it."""
    if value is None:
        return "-"
    return show(value) if isinstance(value, int | float) else str(value)
