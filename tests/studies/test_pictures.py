"""Boards as pictures: bars of averages, points of topics, and lines over a number."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from study_results import fake_results

from taco_ir.core.files import InputError
from taco_ir.evaluation.measures import MACRO
from taco_ir.studies.board import Board, Stat, make_boards
from taco_ir.studies.pictures import plot_averages, plot_lines, plot_topics

RPREC = "page R-precision"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("topics", [3, 1])
def test_bars_are_proportional_and_best_first(topics: int) -> None:
    results = [replace(each, system=each.system + " <b>&") for each in fake_results(6, topics, 50, seeds=3)]
    (board,) = make_boards(results, None, 0)
    root = ET.fromstring(plot_averages(board, RPREC))
    means = [stat.mean for row in board.rows if (stat := row.stat(MACRO if topics > 1 else board.topics[0], RPREC))]
    lengths = [float(rect.get("width", "")) for rect in root.iter(f"{SVG}rect")]
    assert len(lengths) == 6 and lengths == sorted(lengths, reverse=True)
    assert [length / lengths[0] for length in lengths] == pytest.approx([mean / means[0] for mean in means], abs=1e-3)
    assert len(list(root.iter(f"{SVG}circle"))) == 5 * 3  # BM25 has one seed, which needs no dot
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert any("<b>&" in text for text in texts) and f"{means[0]:.3f}" in texts


def test_a_board_without_values_has_no_bars() -> None:
    (board,) = make_boards(fake_results(1, 1, 5), None, 0)
    empty = replace(board, rows=())
    assert not list(ET.fromstring(plot_averages(empty, RPREC)).iter(f"{SVG}rect"))


def points(board: Board) -> dict[str, list[float]]:
    """The places across of each system's points, by its name, in the order of topics."""
    root = ET.fromstring(plot_topics(board, RPREC))
    found: dict[str, list[float]] = {}
    for circle in root.iter(f"{SVG}circle"):
        if (title := circle.find(f"{SVG}title")) is not None:
            found.setdefault(str(title.text).rpartition(", ")[0], []).append(float(circle.get("cx", "")))
    return found


@pytest.fixture
def board() -> Board:
    (found,) = make_boards(fake_results(3, 2, 50, seeds=2), "naive", 0)
    return found


def test_points_lie_where_the_scores_say(board: Board) -> None:
    found, means = points(board), {row.name: row.stat(board.topics[0], RPREC) for row in board.rows}
    places = [(found[name][0] - 170) / stat.mean for name, stat in means.items() if stat]
    assert len(places) == 3 and places == pytest.approx([places[0]] * 3, rel=1e-3)


def test_a_way_leads_from_the_baseline_to_what_is_better_on_its_base(board: Board) -> None:
    """...and there is none where nothing on that base is better."""
    for baseline in (row.name for row in board.rows):
        start = next(row for row in board.rows if row.name == baseline)
        better = [
            topics
            for topics in board.topics
            if any(
                row.base == start.base and row.scores[topics][RPREC].mean > start.scores[topics][RPREC].mean
                for row in board.rows
            )
        ]
        root = ET.fromstring(plot_topics(replace(board, baseline=baseline), RPREC))
        assert len(list(root.iter(f"{SVG}path"))) == len(better)
        first = next(text for text in root.iter(f"{SVG}text") if text.text in {row.name for row in board.rows})
        assert first.text == baseline


def test_a_gain_smaller_than_its_points_has_no_arrow(board: Board) -> None:
    low = board.rows[0]
    scores = {topics: {RPREC: Stat(own[RPREC].mean + 0.003, None, ())} for topics, own in low.scores.items()}
    near = low._replace(system="a little better", scores=scores)
    assert "<path" not in plot_topics(replace(board, rows=(low, near), baseline=low.name), RPREC)


def test_more_systems_than_colours_are_refused(board: Board) -> None:
    with pytest.raises(InputError, match="svg-topics can show 1 to 4 systems, not 6; hide some by --without"):
        plot_topics(replace(board, rows=board.rows * 2), RPREC)


@pytest.fixture
def widths() -> Board:
    """naive and two others at widths 1, 4 and 16, with two seeds; and one that has a single width."""
    kinds = ("naive", "TACO", "PCGrad")
    names = [f"{kind}, width {width}" for kind in kinds for width in (1, 4, 16)] + ["static, width 4"]
    own = fake_results(len(names) + 1, 3, 50, seeds=2)[1:]  # without BM25, which has one seed
    order = list(dict.fromkeys((each.system, each.base) for each in own))
    renamed = [replace(each, system=names[order.index((each.system, each.base))], base="b") for each in own]
    (found,) = make_boards(renamed, "naive, width 1", 0)
    return found


def drawn(board: Board) -> dict[str, float]:
    """Where the large points lie, from the bottom up, by their titles."""
    root = ET.fromstring(plot_lines(board, RPREC))
    large = [circle for circle in root.iter(f"{SVG}circle") if circle.find(f"{SVG}title") is not None]
    return {str(circle.findtext(f"{SVG}title")): -float(circle.get("cy", "")) for circle in large}


def test_lines_are_differences_to_the_baseline_of_the_same_number(widths: Board) -> None:
    found = drawn(widths)
    means = {row.system: stat.mean for row in widths.rows if (stat := row.stat(MACRO, RPREC))}
    expected = {
        f"{kind}, width {width}: {means[f'{kind}, width {width}'] - means[f'naive, width {width}']:+.4f}"
        for kind in ("TACO", "PCGrad")
        for width in (1, 4, 16)
    }
    assert set(found) == expected
    order = sorted(found, key=lambda title: float(title.rpartition(" ")[2]))
    assert [found[title] for title in order] == sorted(found.values())


def test_lines_without_a_baseline_are_the_scores(widths: Board) -> None:
    found = drawn(replace(widths, baseline=""))
    means = {row.system: stat.mean for row in widths.rows if (stat := row.stat(MACRO, RPREC))}
    kinds = ("naive", "TACO", "PCGrad")
    assert set(found) == {
        f"{kind}, width {width}: {means[f'{kind}, width {width}']:.4f}" for kind in kinds for width in (1, 4, 16)
    }


def test_a_difference_is_of_the_seeds_that_both_have(widths: Board) -> None:
    rows = [
        row if row.system != "TACO, width 4" else row._replace(seeds=(row.seeds[0], 7))  # the second seed is another's
        for row in widths.rows
    ]
    first = {row.system: stat.by_seed[0] for row in rows if (stat := row.stat(MACRO, RPREC))}
    found = drawn(replace(widths, rows=tuple(rows)))
    assert f"TACO, width 4: {first['TACO, width 4'] - first['naive, width 4']:+.4f}" in found


def test_systems_that_no_number_tells_apart_have_no_lines(board: Board) -> None:
    with pytest.raises(InputError, match="svg-lines shows 1 to 4 systems, each at several numbers of one thing"):
        plot_lines(board, RPREC)
