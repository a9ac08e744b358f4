"""Prints tables as plain text, markdown, JSON or LaTeX; HTML pages (taco_ir/pages) format values in the same way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.types import to_frame

if TYPE_CHECKING:
    import pandas


class Marked(NamedTuple):
    """A number with a mark after it, such as a mark of significance."""

    value: float
    mark: str


class PValue(float):
    """A p-value; it is never 0, so it is never printed as 0."""


Cell = str | float | int | Marked | None
Escape = Callable[[str], str]
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    mark: f"\\{mark}" for mark in "&%$#_{}"
}


class Table(NamedTuple):
    """Rows under a header; None is a missing value. In the columns `best`, the largest number is bold if possible."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    best: Sequence[str] = ()

    def to_pandas(self) -> pandas.DataFrame:
        """Returns the rows as a DataFrame, without marks. Raises: InputError if pandas is not installed."""
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.header)
        plain = ([cell.value if isinstance(cell, Marked) else cell for cell in column] for column in columns)
        return to_frame(dict(zip(self.header, plain, strict=True)))


def without_empty(table: Table, name: str) -> Table:
    """Returns the table without the column `name`, if that column has no value in any row."""
    place = table.header.index(name)
    if any(row[place] is not None for row in table.rows):
        return table
    rows = [[*row[:place], *row[place + 1 :]] for row in table.rows]
    return table._replace(header=[*table.header[:place], *table.header[place + 1 :]], rows=rows)


def render(table: Table, form: str) -> str:
    """Returns the table as text in the format `form`. Numbers have three decimals; JSON has all digits.

    Raises:
        InputError: for a form that is not in FORMS.
        ValueError: for a repeated header, a row of another length, or a `best` that is not in the header.
    """
    if form not in FORMS:
        raise InputError(f"format {form!r} is not known; allowed: {', '.join(FORMS)}")
    if len(set(table.header)) < len(table.header) or not set(table.best) <= set(table.header):
        header = f"header {list(table.header)} must have no repeats and hold {list(table.best)}"
        raise ValueError(f"table {table.title!r}: {header}")
    if wrong := [row for row in table.rows if len(row) != len(table.header)]:
        raise ValueError(f"table {table.title!r}: row {wrong[0]} does not fit the header {list(table.header)}")
    return FORMS[form](table)


def render_all(tables: Sequence[Table], form: str) -> str:
    """Returns tables as one text in the format `form`: one below the other, or for JSON in one array."""
    texts = [render(table, form) for table in tables]
    if form == "json" and len(texts) > 1:
        return "[\n" + ",\n".join(text.rstrip() for text in texts) + "\n]\n"
    return "\n".join(texts)


def _plain(table: Table) -> str:
    rows = _texts(table, _one_line, str)
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    rows.insert(1, ["-" * width for width in widths])
    places = list(zip(widths, _numeric_columns(table), strict=True))
    lines = [_one_line(table.title)] if table.title else []
    for row in rows:
        cells = zip(row, places, strict=True)
        lines.append("  ".join(f"{text:{'>' if right else '<'}{width}}" for text, (width, right) in cells))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _markdown(table: Table) -> str:
    rows = _texts(table, escape_markdown, lambda text: f"**{text}**")
    rule = ["---:" if right else "---" for right in _numeric_columns(table)]
    title = f"{escape_markdown(table.title)}\n\n" if table.title else ""
    return title + "".join(f"| {' | '.join(row)} |\n" for row in [rows[0], rule, *rows[1:]])


def _latex(table: Table) -> str:
    rows = _texts(table, _escape_latex, lambda text: f"\\textbf{{{text}}}")
    columns = "".join("r" if right else "l" for right in _numeric_columns(table))
    body = [" & ".join(row) + r" \\" for row in rows]
    caption = [f"\\caption{{{_escape_latex(table.title)}}}"] if table.title else []
    head = ["% needs \\usepackage{booktabs}", r"\begin{table}", r"\centering", *caption]
    head += [f"\\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule"]
    return "\n".join([*head, *body[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _json(table: Table) -> str:
    cells = [[cell._asdict() if isinstance(cell, Marked) else cell for cell in row] for row in table.rows]
    rows = [dict(zip(table.header, row, strict=True)) for row in cells]
    value = {"title": table.title, "header": list(table.header), "rows": rows}
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


FORMS: dict[str, Callable[[Table], str]] = {"table": _plain, "markdown": _markdown, "json": _json, "latex": _latex}


def _texts(table: Table, escape: Escape, bold: Escape) -> list[list[str]]:
    """Returns header and rows as escaped texts, with the best number of a column in bold (ties as shown)."""
    numbers = [[_number(cell) for cell in row] for row in table.rows]
    best = {}
    for column, name in enumerate(table.header):
        values = [value for row in numbers if (value := row[column]) is not None]
        if name in table.best and values:
            best[column] = show(max(values))
    texts = [[escape(name) for name in table.header]]
    for row, values_of_row in zip(table.rows, numbers, strict=True):
        texts.append([])
        for column, (cell, value) in enumerate(zip(row, values_of_row, strict=True)):
            if value is None:
                texts[-1].append("-" if cell is None else escape(str(cell)))
                continue
            shown = bold(show(value)) if best.get(column) == show(value) else show(value)
            texts[-1].append(shown + (escape(cell.mark) if isinstance(cell, Marked) else ""))
    return texts


def _number(cell: Cell) -> float | int | None:
    if isinstance(cell, Marked):
        return cell.value
    return cell if isinstance(cell, float | int) else None


def show(value: float | int) -> str:
    if isinstance(value, PValue) and value < 0.0005:
        return f"{value:.0e}"
    return str(value) if isinstance(value, int) else f"{value:z.3f}"


def _numeric_columns(table: Table) -> list[bool]:
    """Returns, for each column, True if it contains no text and is aligned to the right."""
    return [not any(isinstance(row[column], str) for row in table.rows) for column in range(len(table.header))]


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<|])", r"\\\1", _one_line(text))


def _escape_latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in _one_line(text))
