"""Scores quoted from papers, each with its source; they stand in a block of their own and are never mixed with measured ones."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from taco_ir.evaluation.tables import Cell, Table

TITLE = "quoted from papers: full KILT, page R-precision in %, not comparable with the rows above"
FILE = Path(__file__).with_name("published.toml")


class Quoted(NamedTuple):
    """A paper's row: per cent by task (only those that the paper gives), their average, and where it stands."""

    system: str
    scores: Mapping[str, float]
    average: float
    source: str


def published() -> list[Quoted]:
    """All rows of published.toml, in its order."""
    return [Quoted(**row) for row in tomllib.loads(FILE.read_text(encoding="utf-8"))["row"]]


def quoted_table(rows: list[Quoted]) -> Table:
    """The block as a table; two decimals, as the papers print."""
    tasks = list(dict.fromkeys(task for row in rows for task in row.scores))
    cells: list[list[Cell]] = [
        [row.system, *(f"{row.scores[task]:5.2f}" if task in row.scores else None for task in tasks), f"{row.average:5.2f}", row.source]
        for row in rows
    ]
    return Table(TITLE, ["system", *tasks, "average", "source"], cells)
