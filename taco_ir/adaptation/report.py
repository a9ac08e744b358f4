"""What an adaptation changed: per task before and after on held-out queries, tested in pairs, and what was kept.

`report.json` is the record, `report.md` the same for readers. Queries that are reported chose neither the step nor
which tasks keep the adapter, where a task has enough of them for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.adaptation.measuring import means_of
from taco_ir.core.files import read_json, write_json, writing
from taco_ir.evaluation.measures import MACRO, Scores
from taco_ir.evaluation.significance import Column, compare, paired_differences
from taco_ir.evaluation.tables import Cell, Marked, PValue, Table, render, without_empty

REPORT_FILE, PAGE_FILE = "report.json", "report.md"
MADE_OF_FILE = "made_of.json"  # settings and hashes of what is given, written when an adaptation begins
ADAPTER = "adapter"
ADVICE = "remove it and run the same command again"


class TaskReport(NamedTuple):
    """A task, or the macro average over tasks, on its reported queries.

    Attributes:
        train: queries that were learnt from.
        queries: reported ones.
        before, adapted: the mean score of the model as it was, and with the adapter.
        low, high: 95 % bootstrap interval of the difference.
        p_holm: of the paired randomisation test, after Holm's correction.
        chosen_by: the difference on the queries that decide whether the adapter is kept.
        kept: whether queries of the task go through the adapter.
        bm25: BM25's score; None where it was not searched.
        values: of `adapted`, one for each reported query; none for the macro average.
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
        """The score of the model that is written."""
        return self.adapted if self.kept else self.before


class IndexFacts(NamedTuple):
    """The index that stayed: where and what it is, and its SHA-256 before and after."""

    path: str
    layout: str
    passages: int
    before: str
    after: str


class Report(NamedTuple):
    """The content of `report.json`.

    Attributes:
        tasks: empty where no query is held out.
        macro: of all tasks, where there are several of one measure.
        steps, best_step: steps made, and the one whose adapter was kept.
        trained, backbone: numbers that were trained, and those of the backbone.
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
        """Tasks that stay with the model as it was."""
        return [each.task for each in self.tasks if not each.kept]


def compare_tasks(
    train: Mapping[str, int],
    before: Mapping[str, Scores],
    after: Mapping[str, Scores],
    chosen_by: Mapping[str, float],
    kept: Mapping[str, bool],
    bm25: Mapping[str, Scores],
    seed: int,
) -> tuple[tuple[TaskReport, ...], TaskReport | None]:
    """Reports of tasks, and of their macro average where all have one measure."""
    differences = {}
    for task, scores in after.items():
        measure, values = next(iter(scores.by_query.items()))
        old = before[task].by_query[measure]
        assert values is not None and old is not None
        differences[task] = {Column(ADAPTER, "", str(measure)): paired_differences(values, old)}
    compared = {each.topics: each for each in compare(differences, list(differences), (), seed)}
    old_means, new_means, bm25_means = means_of(before), means_of(after), means_of(bm25)
    found = []
    for task in after:
        test = compared[task]
        tested = (test.low, test.high, test.p_holm)
        (values,) = after[task].by_query.values()
        own = tuple((values or {}).values())
        means = (old_means[task], new_means[task])
        gain, keep, other = chosen_by[task], kept[task], bm25_means.get(task)
        found.append(TaskReport(task, test.measure, train[task], len(own), *means, *tested, gain, keep, other, own))
    if len(found) < 2 or (test := compared.get(MACRO)) is None:  # type: ignore[assignment]
        return tuple(found), None
    means = (_mean([each.before for each in found]), _mean([each.adapted for each in found]))
    others = [each.bm25 for each in found if each.bm25 is not None]
    macro = TaskReport(
        MACRO,
        test.measure,
        sum(each.train for each in found),
        sum(each.queries for each in found),
        *means,
        *(test.low, test.high, test.p_holm),
        _mean([each.chosen_by for each in found]),
        any(each.kept for each in found),
        _mean(others) if len(others) == len(found) else None,
    )
    return tuple(found), macro


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def report_table(report: Report) -> Table:
    """Before and after by task. `+` and `-` mark differences that are significant after Holm's correction."""
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
    """What the table does not say, in sentences."""
    lines = list(report.notes)
    if worse := [f"{each.task} ({each.difference:+.3f})" for each in report.tasks if each.difference < 0]:
        lines.append(f"with the adapter these got worse: {', '.join(worse)}")
    if report.dropped:
        lines.append(
            f"left to the model as it was, since the adapter does not help their held-out queries:"
            f" {', '.join(report.dropped)}"
        )
    share = 100 * report.trained / report.backbone
    lines.append(
        f"{report.trained:,} numbers were trained, {share:.3g} % of the backbone's; the adapter of step"
        f" {report.best_step:,} of {report.steps:,}"
    )
    index = report.frozen
    same = "the same before and after" if index.before == index.after else f"but {index.after} afterwards"
    lines.append(f"index {index.path}: SHA-256 {index.before}, {same}")
    return lines


def write_report(report: Report, folder: Path) -> None:
    """Write `report.md`, then `report.json`, which marks the adaptation finished."""
    table = f"{render(report_table(report), 'markdown')}\n" if report.tasks else ""
    text = f"# What the queries were taught\n\n{table}{''.join(f'- {line}.{chr(10)}' for line in summary(report))}"
    with writing(folder / PAGE_FILE) as sink:
        sink.write(text)
    tasks = [each._asdict() for each in report.tasks]
    facts = {"frozen": report.frozen._asdict(), "macro": report.macro and report.macro._asdict()}
    values = report._asdict() | {"tasks": tasks, **facts}
    write_json(folder / REPORT_FILE, values)


def read_report(folder: Path) -> Report:
    """Read `report.json`. Raises: InputError for another file of that name."""
    return read_json(folder / REPORT_FILE, Report, ADVICE)


def read_made_of(folder: Path) -> Mapping[str, Any] | None:
    """What a finished adaptation in a folder is made of; None where there is none."""
    path = folder / MADE_OF_FILE
    return read_json(path, dict[str, Any]) if path.is_file() and (folder / REPORT_FILE).is_file() else None
