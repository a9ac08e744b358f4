"""The report of an adaptation: scores of each task before and after, on held-out queries, with significance tests.

`report.json` is the record, and `report.md` shows it to readers. The reported queries are not those that chose the step
and the tasks that keep the adapter, except if a task has only one held-out query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.adaptation.measuring import TaskScores
from taco_ir.core.files import read_json, write_json, writing
from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.significance import Column, compare, paired_differences
from taco_ir.evaluation.tables import Cell, Marked, PValue, Table, render, without_empty

REPORT_FILE, PAGE_FILE = "report.json", "report.md"
MADE_OF_FILE = "made_of.json"  # settings and hashes of all inputs, written when an adaptation begins
ADAPTER = "adapter"
ADVICE = "remove it and run the same command again"


class TaskReport(NamedTuple):
    """The results of a task, or of the macro average over tasks, on the reported queries.

    Attributes:
        train: number of training queries.
        queries: number of reported queries.
        before, adapted: mean score of the original model, and of the model with the adapter.
        low, high: 95 % bootstrap interval of the difference.
        p_holm: p-value of the paired randomisation test, with Holm's correction.
        chosen_by: difference on the other held-out queries, which decides whether the adapter is kept.
        kept: True if queries of the task use the adapter.
        bm25: BM25's score; None if BM25 was not run.
        values: score of each reported query with the adapter; empty for the macro average.
    """

    task: str
    measure: str
    train: int
    queries: int
    before: float
    adapted: float
    low: float
    high: float
    p_holm: float
    chosen_by: float
    kept: bool
    bm25: float | None = None
    values: tuple[float, ...] = ()

    @property
    def difference(self) -> float:
        return self.adapted - self.before

    @property
    def after(self) -> float:
        """Returns the saved model's score: with the adapter if the task keeps the adapter, otherwise without."""
        return self.adapted if self.kept else self.before


class IndexFacts(NamedTuple):
    """Describes the index: its path and layout, and its SHA-256 before and after the adaptation."""

    path: str
    layout: str
    passages: int
    before: str
    after: str


class Report(NamedTuple):
    """The content of `report.json`.

    Attributes:
        tasks: results of each task; empty if no query is held out.
        macro: average over tasks; None for one task, or for different measures.
        steps, best_step: number of training steps, and the step of the saved adapter.
        trained, backbone: number of trained parameters, and of the backbone's parameters.
        seconds, peak_bytes: time and memory of the last process that worked on it.
        notes: sentences for readers.
    """

    tasks: tuple[TaskReport, ...]
    macro: TaskReport | None
    frozen: IndexFacts
    steps: int
    best_step: int
    trained: int
    backbone: int
    seconds: float
    peak_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def dropped(self) -> list[str]:
        """Returns the names of the tasks that keep the original model."""
        return [each.task for each in self.tasks if not each.kept]


def compare_tasks(
    train: Mapping[str, int],
    before: Mapping[str, TaskScores],
    after: Mapping[str, TaskScores],
    chosen_by: Mapping[str, float],
    kept: Mapping[str, bool],
    bm25: Mapping[str, TaskScores],
    seed: int,
) -> tuple[tuple[TaskReport, ...], TaskReport | None]:
    """Returns the results of each task, and of their macro average (None for one task, or for different measures).

    Arguments are by task: number of training queries, scores before and after, the gain that decides, BM25's scores.
    """
    differences = {
        task: {Column(ADAPTER, "", own.measure): paired_differences(own.values, before[task].values)}
        for task, own in after.items()
    }
    compared = {each.topics: each for each in compare(differences, list(differences), (), seed)}
    found = []
    for task, own in after.items():
        test, values = compared[task], tuple(own.values.values())
        measured = (before[task].mean, own.mean, test.low, test.high, test.p_holm)
        other = bm25[task].mean if task in bm25 else None
        own_facts = (train[task], len(values), *measured, chosen_by[task], kept[task], other, values)
        found.append(TaskReport(task, own.measure, *own_facts))
    if len(found) < 2 or (test := compared.get(MACRO)) is None:  # type: ignore[assignment]
        return tuple(found), None
    means = (_mean([each.before for each in found]), _mean([each.adapted for each in found]))
    others = [each.bm25 for each in found if each.bm25 is not None]
    counts = (sum(each.train for each in found), sum(each.queries for each in found))
    chosen = (_mean([each.chosen_by for each in found]), any(each.kept for each in found))
    other = _mean(others) if len(others) == len(found) else None
    measured = (*means, test.low, test.high, test.p_holm)
    return tuple(found), TaskReport(MACRO, test.measure, *counts, *measured, *chosen, other)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def report_table(report: Report) -> Table:
    """Returns a table of scores before and after, by task; `+` and `-` mark significant differences."""
    header = ["task", "queries", "before", "adapter", "difference", "95 % from", "to", "p (Holm)", "BM25", "written"]
    rows: list[list[Cell]] = []
    for each in (*report.tasks, *([report.macro] if report.macro else [])):
        mark = "" if each.p_holm >= 0.05 else "+" if each.difference > 0 else "-"
        tested: list[Cell] = [Marked(each.difference, mark), each.low, each.high, PValue(each.p_holm)]
        after = each.after if each is not report.macro else _mean([own.after for own in report.tasks])
        rows.append([each.task, each.queries, each.before, each.adapted, *tested, each.bm25, after])
    measures = " and ".join(dict.fromkeys(each.measure for each in report.tasks))
    title = f"{measures} of held-out queries among {report.frozen.passages:,} passages"
    return without_empty(Table(title, header, rows), "BM25")


def summary(report: Report) -> list[str]:
    """Returns sentences about results that the table does not show."""
    lines = list(report.notes)
    if worse := [f"{each.task} ({each.difference:+.3f})" for each in report.tasks if each.difference < 0]:
        lines.append(f"these tasks got worse with the adapter: {', '.join(worse)}")
    if report.dropped:
        lines.append(
            f"these tasks keep the original model, since the adapter does not improve their held-out queries:"
            f" {', '.join(report.dropped)}"
        )
    share = 100 * report.trained / report.backbone
    lines.append(
        f"{report.trained:,} numbers were trained, {share:.3g} % of the backbone's; the saved adapter is from step"
        f" {report.best_step:,} of {report.steps:,}"
    )
    index = report.frozen
    same = "the same before and after" if index.before == index.after else f"but {index.after} after the adaptation"
    lines.append(f"index {index.path}: SHA-256 {index.before}, {same}")
    return lines


def write_report(report: Report, folder: Path) -> None:
    """Write `report.md`, then `report.json`; the latter marks the adaptation as finished."""
    table = f"{render(report_table(report), 'markdown')}\n" if report.tasks else ""
    text = f"# Report of the adaptation\n\n{table}{''.join(f'- {line}.{chr(10)}' for line in summary(report))}"
    with writing(folder / PAGE_FILE) as sink:
        sink.write(text)
    tasks = [each._asdict() for each in report.tasks]
    facts = {"frozen": report.frozen._asdict(), "macro": report.macro and report.macro._asdict()}
    values = report._asdict() | {"tasks": tasks, **facts}
    write_json(folder / REPORT_FILE, values)


def read_report(folder: Path) -> Report:
    """Read `report.json`. Raises: InputError if the file is not such a report."""
    return read_json(folder / REPORT_FILE, Report, ADVICE)


def read_made_of(folder: Path) -> Mapping[str, Any] | None:
    """Returns the inputs and settings of the finished adaptation in `folder`; None if none is finished."""
    path = folder / MADE_OF_FILE
    return read_json(path, dict[str, Any]) if path.is_file() and (folder / REPORT_FILE).is_file() else None
