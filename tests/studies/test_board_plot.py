"""The picture of a board: bars are as long as averages are large, and every text is escaped."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET

import pytest
from study_results import fake_results

from taco_ir.evaluation.measures import MACRO
from taco_ir.studies.board import boards
from taco_ir.studies.page import macro_plot

SVG = "{http://www.w3.org/2000/svg}"
MEASURE = "page R-precision"


@pytest.mark.parametrize("topics", [3, 1])
def test_bars_are_proportional_and_best_first(topics: int) -> None:
    (board,) = boards(
        [dataclasses.replace(each, system=each.system + " <b>&") for each in fake_results(6, topics, 50, seeds=3)],
        None,
        0,
    )
    root = ET.fromstring(macro_plot(board, MEASURE))
    means = [stat.mean for row in board.rows if (stat := row.stat(MACRO if topics > 1 else board.topics[0], MEASURE))]
    lengths = [float(rect.get("width", "")) for rect in root.iter(f"{SVG}rect")]
    assert len(lengths) == 6 and lengths == sorted(lengths, reverse=True)
    assert [length / lengths[0] for length in lengths] == pytest.approx([mean / means[0] for mean in means], abs=1e-3)
    assert len(list(root.iter(f"{SVG}circle"))) == 5 * 3  # BM25 has one seed, which needs no dot
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert any("<b>&" in text for text in texts) and f"{means[0]:.3f}" in texts


def test_a_board_without_values_has_no_bars() -> None:
    (board,) = boards(fake_results(1, 1, 5), None, 0)
    empty = dataclasses.replace(board, rows=())
    assert not list(ET.fromstring(macro_plot(empty, MEASURE)).iter(f"{SVG}rect"))
