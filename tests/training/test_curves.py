"""Learning curves are those of the log, at any moment, however long it is, and whoever made the page when."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_samples import curves_of, log_lines
from training_runs import StopAfter

from taco_ir.training.curves import CURVES_FILE, POINTS, Curves, CurvesPage, render_curves, summary
from taco_ir.training.log import TrainingLog
from taco_ir.training.logged import LOG_FILE, Watcher, Watchers

TASKS = ["nq", "fever"]


def write_log(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def main_of(page: str) -> str:
    return page[page.index("<main") :]


def test_a_short_training_is_shown_step_by_step() -> None:
    lines = log_lines(20, TASKS)
    curves = curves_of(lines)
    for task in TASKS:
        logged = [(line["step"], line["loss"][task]) for line in lines if "loss" in line]
        assert list(zip(*curves.group("loss")[task], strict=True)) == logged
    scores = curves.group("validation")
    assert list(scores) == [*TASKS, "macro"] and list(scores["nq"].steps) == [0, 5, 10, 15, 20]
    assert curves.best == (20, pytest.approx(0.405)) and curves.group("cosine").keys() == {"nq and fever"}
    assert "specific" not in curves.group("dose") and curves.group("weight")["nq"].values == (0.5,) * 20


@given(st.integers(1, 3000), st.lists(st.floats(-9, 9), min_size=1, max_size=7))
def test_points_are_means_of_all_steps(steps: int, cycle: list[float]) -> None:
    """Few points, no value lost: weighted by their steps they give the mean of the log."""
    values = [cycle[step % len(cycle)] for step in range(1, steps + 1)]
    curves = curves_of([{"step": step, "loss": {"nq": value}} for step, value in enumerate(values, 1)])
    at, means = curves.group("loss")["nq"]
    assert len(at) <= POINTS and (steps <= POINTS) == (curves.width == 1)
    counts = [min(curves.width, steps - number * curves.width) for number in range(len(at))]
    assert np.dot(counts, means) == pytest.approx(sum(values), abs=1e-6)
    assert np.dot(counts, at) == pytest.approx(steps * (steps + 1) / 2)


def test_what_is_not_finite_and_what_was_skipped() -> None:
    lines = [{"step": 1, "loss": {"nq": None, "fever": 1.0}, "skipped": ["nq"]}, {"step": 2, "loss": {"nq": 2.0}}]
    curves = curves_of(lines)
    assert curves.group("loss")["nq"] == ((2.0,), (2.0,)) and curves.skipped == {"nq": 1}
    assert "infinite or NaN: nq (1)" in render_curves(curves)


def test_episodes_follow_each_other(tmp_path: Path) -> None:
    """A page made in one go is the page of a training that went on from one episode to the next."""
    one, two = log_lines(10, TASKS), log_lines(5, TASKS)
    for number, lines in ((1, one), (2, two)):
        write_log(tmp_path / f"episode-{number}", lines)
    Watchers(tmp_path, [CurvesPage(tmp_path)]).read_all()
    whole = (tmp_path / CURVES_FILE).read_text(encoding="utf-8")
    (tmp_path / CURVES_FILE).unlink()
    (tmp_path / "episode-2" / LOG_FILE).unlink()
    watchers = Watchers(tmp_path, [CurvesPage(tmp_path)])
    watchers.begin(tmp_path / "episode-1")
    watchers.begin(tmp_path / "episode-2")
    for line in two:
        watchers.line(line)
    watchers.pause()
    assert (tmp_path / CURVES_FILE).read_text(encoding="utf-8") == whole
    assert "After 15 steps of 2 episodes" in whole and "<title>episode 2 begins</title>" in whole


def test_lines_that_a_resume_drops_are_not_shown(tmp_path: Path) -> None:
    lines = log_lines(10, TASKS)
    write_log(tmp_path, lines)
    watchers = Watchers(tmp_path, [CurvesPage(tmp_path)])
    log = TrainingLog(tmp_path, StopAfter(99), 5, watchers)
    log.pause()
    kept = render_curves(curves_of([line for line in lines if line["step"] <= 5]))
    assert main_of((tmp_path / CURVES_FILE).read_text(encoding="utf-8")) == main_of(kept)


def test_a_watcher_knows_what_is_new(tmp_path: Path) -> None:
    write_log(tmp_path / "episode-1", log_lines(4, TASKS))
    write_log(tmp_path / "episode-2", log_lines(2, TASKS))
    seen: list[Any] = []

    class Noted(Watcher):
        def episode(self) -> None:
            seen.append("episode")

        def line(self, step: int, record: Any) -> None:
            seen.append(step)

        def begin(self) -> None:
            seen.append("new")

    watchers = Watchers(tmp_path, [Noted()])
    watchers.begin(tmp_path / "episode-2")
    watchers.line({"step": 3})
    assert seen == ["episode", 0, 1, 2, 3, 4, "episode", 4, 5, 6, "new", 7]


def test_the_page_says_in_a_sentence_what_it_shows() -> None:
    said = summary(curves_of(log_lines(20, TASKS)))
    assert said.startswith("After 20 steps, the loss, averaged over tasks, fell from 2.08 to ")
    assert said.endswith("validation (macro average) was best at step 20 with 0.405, and is 0.405 now.")
    assert summary(Curves()) == "After 0 steps, nothing was logged."


def test_every_curve_is_drawn_and_named() -> None:
    page = render_curves(curves_of(log_lines(20, ["nq", "fever", "wow"])))
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(titles) == 5 and page.count("<polyline") == 3 + 4 + 3 + (3 + 1) + 3
    for name in ("nq and wow: ", "mean of all pairs: ", "macro: 0.41", "signs that differ: 0.1"):
        assert name in page
