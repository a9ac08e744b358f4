"""Which of a tuned model's modules reads a text: one for all, one for each tower, or one for each task's queries."""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.core.files import InputError

ROLES = ("shared", "tower", "task", "task-frozen")
QUERY, PASSAGE = "query", "passage"


def names(roles: str, tasks: Sequence[str]) -> list[str]:
    """The modules that a model with these roles and tasks has."""
    if roles == "shared":
        return ["shared"]
    if roles == "tower":
        return [QUERY, PASSAGE]
    return [*map(of_task, tasks), *([PASSAGE] if roles == "task" else [])]


def of_task(task: str) -> str:
    """The module of a task's queries."""
    return f"task {task}".replace(".", "-")  # a dot separates the names of modules


def query_module(roles: str, tasks: Sequence[str], task: str | None) -> str:
    """The module that reads queries of `task`. Raises: InputError where the model has none for it."""
    if roles in ("shared", "tower"):
        return "shared" if roles == "shared" else QUERY
    if task is None or task not in tasks:
        raise InputError(f"the model has no module for queries of task {task!r}, only for {', '.join(sorted(tasks))}")
    return of_task(task)


def passage_module(roles: str) -> str | None:
    """The module that reads passages; None: the frozen backbone alone."""
    return {"shared": "shared", "task-frozen": None}.get(roles, PASSAGE)
