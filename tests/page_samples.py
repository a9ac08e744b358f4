"""A small page of each kind, with a text wherever data can put one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from study_results import fake_results

from taco_ir.analysis.specialisation_page import render_page
from taco_ir.analysis.summary import DENSITY_EDGES, Analysis, Counts, Measurement, ModelAnalysis, Sensitivity
from taco_ir.core.types import Query
from taco_ir.negatives.audit_counts import Audit, Example, Shown, Suspected, TaskAudit
from taco_ir.negatives.audit_page import html
from taco_ir.studies import board_page
from taco_ir.studies.board import make_boards
from taco_ir.training.curves import Curves, render_curves


def analysis(
    *models: tuple[str, str | None, int],
    tasks: Sequence[str] = ("nq", "fever"),
    settings: Sequence[dict[str, Any]] = (),
) -> Analysis:
    """Models by name, weighting, and how many of 1000 parameters are task-specific, with their other settings."""
    found = []
    for number, (name, weighting, specific) in enumerate(models):
        rows = [(specific, 0), *[(0, 0)] * 4, (800 - specific, 100)]
        counts = Counts("towers.passage.backbone.encoder.layer.0.output.dense.weight", 1000, tuple(rows), 900.0)
        one = Sensitivity(1e-6, (1000,) + (0,) * (len(DENSITY_EDGES) - 2), 0)
        logged = {"": [(1, {"nq": {"fever": 0.25}}), (3, {"nq": {"fever": -0.5}})]} if weighting == "taco" else {}
        setting = settings[number] if settings else {"steps": 6, "seed": 1} if weighting else None
        measured = Measurement([counts], [one, one], [[1.0, 0.5], [0.5, math.nan]], 0.05)
        found.append(ModelAnalysis(name, weighting, measured, logged, setting, weighting or ""))
    return Analysis(["a note"], tasks, found)


def audit_of(text: str) -> Audit:
    shown = Shown(1.5, text, text, text, True)
    example = Example("nq-train", Query(text, text, "nq", (text,)), [("", 2.0)], [shown._replace(score=None)], [shown])
    task = TaskAudit("nq-train", 1, 0, 1, 1, 0, 0, 1, np.array([0.5, -1.0]))
    suspected = [Suspected("nq-train", example.query, -0.5, shown), Suspected("nq-train", example.query, None, shown)]
    return Audit(text, [text], [task], [example], (), suspected)


def log_lines(steps: int, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """The log of a training that learns: validated every five steps, with cosines and a dose in even ones."""
    lines: list[dict[str, Any]] = []
    for step in range(steps + 1):
        if step:
            losses = {task: 3 / (1 + 0.1 * step + number) for number, task in enumerate(tasks)}
            lines.append({"step": step, "learning_rate": 1e-5, "seconds": 0.1, "loss": losses})
            lines[-1]["weight"] = dict.fromkeys(tasks, 1 / len(tasks))
            if step % 2 == 0:
                rows = {a: dict.fromkeys(tasks[i + 1 :], 0.5 - 0.01 * step) for i, a in enumerate(tasks[:-1])}
                dose = {"cosine": 0.9, "scaled_cosine": 0.8, "opposed": 0.1, "specific": None}
                lines[-1] |= {"cosine": rows, "dose": dose}
        if step % 5 == 0:
            scores = {task: 0.02 * step + 0.01 * number for number, task in enumerate(tasks)}
            lines.append({"step": step, "validation": scores | {"macro": sum(scores.values()) / len(scores)}})
    return lines


def curves_of(lines: Sequence[dict[str, Any]]) -> Curves:
    """The curves of one episode."""
    curves = Curves()
    curves.begin_episode()
    for line in lines:
        curves.add(line["step"], line)
    return curves


def _board(text: str) -> str:
    results = [replace(each, system=each.system + text) for each in fake_results(4, 3, 30, 2)]
    return board_page.render_page(make_boards(results, None, 0), results, [], None)


PAGES: dict[str, Callable[[str], str]] = {
    "board": _board,
    "analysis": lambda text: render_page(analysis((text, "taco", 250), ("b", "naive", 200), tasks=(text, "fever"))),
    "audit": lambda text: html(audit_of(text)),
    "curves": lambda text: render_curves(curves_of(log_lines(20, [text, "fever"]))),
}
