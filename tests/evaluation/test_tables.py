"""Law: every form shows every row, column by column, whatever the texts hold; then the exact renderings."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.evaluation.tables import FORMS, Marked, Table, render, without_empty

TABLE = Table(
    "page R-precision",
    ["run", "nq", "wow_dev"],
    [["BM25 | k1=0.9", 0.25, 7], ["TACO", Marked(0.54321, "*"), None], ["naive", 0.5, 12]],
    best=["nq", "wow_dev"],
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.floats(-10, 10)


@st.composite
def tables(draw):
    header = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
    marked = st.builds(Marked, numbers, st.sampled_from(["*", "†"]))
    cells = st.one_of(texts, numbers, st.none(), st.integers(-99, 99), marked)
    rows = draw(st.lists(st.lists(cells, min_size=len(header), max_size=len(header)), max_size=4))
    return Table(draw(texts), header, rows, draw(st.lists(st.sampled_from(header), unique=True)))


@given(tables(), st.sampled_from(sorted(FORMS)))
def test_every_table_renders_and_ends_in_a_newline(table, form):
    assert render(table, form).endswith("\n")


@given(tables())
def test_markdown_has_one_line_a_row_and_no_stray_columns(table):
    lines = [line for line in render(table, "markdown").split("\n") if line.startswith("| ") and line.endswith(" |")]
    lines = lines[-(len(table.rows) + 2) :]
    assert len(lines) == len(table.rows) + 2
    for line in lines:
        bars = re.sub(r"\\.", "", line).count("|")  # those that no backslash escapes
        assert bars == len(table.header) + 1


@given(tables())
def test_latex_has_one_separator_between_two_columns(table):
    body = render(table, "latex").split("\\toprule\n")[1].split("\\bottomrule")[0]
    rows = [line for line in body.split("\n") if line.endswith(r" \\")]
    assert len(rows) == len(table.rows) + 1
    for row in rows:
        bare = re.sub(r"\\[&%$#_{}]", "", row.removesuffix(r" \\"))
        assert bare.count("&") == len(table.header) - 1
        assert not re.search(r"[%$#_~^]", bare)


@given(tables())
def test_json_keeps_every_value_in_full(table):
    value = json.loads(render(table, "json"))
    assert (value["title"], value["header"]) == (table.title, list(table.header))
    for row, cells in zip(value["rows"], table.rows, strict=True):
        expected = [{"value": cell.value, "mark": cell.mark} if isinstance(cell, Marked) else cell for cell in cells]
        assert list(row.values()) == expected


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=5))
def test_the_largest_of_a_column_is_bold_and_nothing_else(rows):
    lines = render(Table("", ["a", "b", "c"], rows, ["b"]), "markdown").splitlines()[2:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    best = f"{max(row[1] for row in rows):z.3f}"
    for row in cells:
        assert row[1] in (f"**{best}**", row[1].strip("*"))
        assert (row[1].strip("*") == best) == row[1].startswith("**")
        assert "*" not in row[0] + row[2]


def test_plain_text():
    assert render(TABLE, "table").splitlines() == [
        "page R-precision",
        "run                nq  wow_dev",
        "-------------  ------  -------",
        "BM25 | k1=0.9   0.250        7",
        "TACO           0.543*        -",
        "naive           0.500       12",
    ]


def test_markdown():
    assert render(TABLE, "markdown").splitlines() == [
        "page R-precision",
        "",
        r"| run | nq | wow\_dev |",
        "| --- | ---: | ---: |",
        r"| BM25 \| k1=0.9 | 0.250 | 7 |",
        r"| TACO | **0.543**\* | - |",
        "| naive | 0.500 | **12** |",
    ]


def test_latex():
    assert render(TABLE, "latex").splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\caption{page R-precision}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"run & nq & wow\_dev \\",
        r"\midrule",
        r"BM25 | k1=0.9 & 0.250 & 7 \\",
        r"TACO & \textbf{0.543}* & - \\",
        r"naive & 0.500 & \textbf{12} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_wrong_tables_and_forms_are_refused():
    with pytest.raises(InputError, match="'html' is not known; allowed: table, markdown, json, latex"):
        render(TABLE, "html")
    with pytest.raises(ValueError, match="no repeats"):
        render(TABLE._replace(header=["a", "a", "b"], best=[]), "table")
    with pytest.raises(ValueError, match="hold"):
        render(TABLE._replace(best=["trex"]), "table")
    with pytest.raises(ValueError, match="does not fit"):
        render(TABLE._replace(rows=[["x"]]), "table")


def test_only_a_column_without_any_value_goes():
    table = Table("t", ["run", "base", "nq"], [["TACO", None, 0.5], ["naive", None, None]], best=["nq"])
    assert without_empty(table, "base") == Table("t", ["run", "nq"], [["TACO", 0.5], ["naive", None]], best=["nq"])
    for kept in (table._replace(rows=[*table.rows, ["BM25", "tiny", 0.2]]), table._replace(rows=[["TACO", 0, 0.5]])):
        assert without_empty(kept, "base") == kept
