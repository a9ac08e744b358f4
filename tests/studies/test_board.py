"""A board is a function of the set of records: its means, deviations and tests are those of their numbers."""

import itertools
import json
import random
import re
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import beir
from one_comparison import bootstrap_interval, randomisation_test
from study_results import fake_results, topic_scores
from verbs import passage, query, write_collection

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import write_trec
from taco_ir.core.types import Ranking, Run
from taco_ir.data.collection import open_collection
from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.significance import FLIPS, SIGNIFICANT, Comparison, Values, effect_size, holm
from taco_ir.evaluation.tables import render
from taco_ir.studies.board import Board, BoardRow, Stat, make_boards, select_topics
from taco_ir.studies.board_page import most_different_queries
from taco_ir.studies.jobs import make_home
from taco_ir.studies.records import Record, TopicScores
from taco_ir.studies.rescoring import sample_records, select_records
from taco_ir.studies.scores import deviations, score_runs
from taco_ir.studies.tables import (
    TITLE,
    board_json,
    board_tables,
    difference_table,
    quoted_beside,
    quoted_table,
    read_published,
    render_boards,
    score_table,
)

RPREC = "page R-precision"
RESULTS = fake_results(systems=4, topics=3, queries=60, seeds=3)
(BOARD,) = make_boards(RESULTS, "naive", seed=0)


def row(board: Board, system: str) -> BoardRow:
    (found,) = [row for row in board.rows if row.system == system]
    return found


def of(system: str, seed: int) -> Record:
    (found,) = [result for result in RESULTS if (result.system, result.seed) == (system, seed)]
    return found


def without(result: Record, *topics: str) -> Record:
    return replace(result, topics={name: scores for name, scores in result.topics.items() if name not in topics})


def replaced(results: Sequence[Record], old: Record, *new: Record) -> list[Record]:
    return [each for result in results for each in (new if result is old else [result])]


@settings(max_examples=5, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_records_does_not_matter(generator: random.Random) -> None:
    shuffled = list(RESULTS)
    generator.shuffle(shuffled)
    (board,) = make_boards(shuffled, "naive", seed=0)
    assert board.rows == BOARD.rows
    assert set(board.comparisons) == set(BOARD.comparisons)


def test_conditions_of_one_system_are_one_row() -> None:
    whole = of("TACO", 1)
    topics = list(whole.topics)
    alone = {topic: without(whole, *(each for each in topics if each != topic)) for topic in topics}
    parts = [replace(each, condition=f"taco-{topic}") for topic, each in alone.items()]
    assert make_boards(replaced(RESULTS, whole, *parts), "naive", seed=0) == [BOARD]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_a_stat_is_mean_and_sample_deviation(values: list[float]) -> None:
    stat = Stat.of(values)
    assert stat.mean == pytest.approx(statistics.mean(values))
    assert stat.sd == pytest.approx(statistics.stdev(values))
    assert stat.by_seed == tuple(values)


def test_scores_are_those_of_the_records() -> None:
    for system in ("BM25", "naive", "TACO", "task-specific"):
        runs = [result for result in RESULTS if result.system == system]
        for topic in BOARD.topics:
            means = tuple(run.topics[topic].means[RPREC] for run in runs)
            assert row(BOARD, system).scores[topic][RPREC].by_seed == means
        macros = [statistics.mean(run.topics[topic].means[RPREC] for topic in BOARD.topics) for run in runs]
        assert row(BOARD, system).scores[MACRO][RPREC].by_seed == pytest.approx(tuple(macros))
    assert row(BOARD, "BM25").scores[MACRO][RPREC].sd is None
    assert (row(BOARD, "TACO").scores[MACRO][RPREC].sd or 0) > 0


def test_slices_are_shown_beside_topics() -> None:
    assert (BOARD.topics, BOARD.slices) == (("nq-dev", "fever-dev", "hotpotqa-dev"), ("hotpotqa-dev unseen",))


def test_rows_are_in_the_order_of_the_macro_average() -> None:
    macros = [row.scores[MACRO][RPREC].mean for row in BOARD.rows]
    assert macros == sorted(macros, reverse=True)
    (by_rank,) = make_boards(RESULTS, None, seed=0, measures=["passage MRR@10"])
    macros = [row.scores[MACRO]["passage MRR@10"].mean for row in by_rank.rows]
    assert macros == sorted(macros, reverse=True)


def test_an_incomplete_row_has_no_macro_average_and_says_so() -> None:
    results = [without(result, "fever-dev") if result.system == "TACO" else result for result in RESULTS]
    (board,) = make_boards(results, "naive", seed=0)
    assert MACRO not in row(board, "TACO").scores and board.rows[-1].system == "TACO"
    assert not [test for test in board.comparisons if test.system == "TACO" and test.topics in (MACRO, "fever-dev")]
    assert [test for test in board.comparisons if test.system == "TACO" and test.topics == "nq-dev"]
    assert board.notes == tuple(f"TACO (minilm-l6): seed {seed} lacks fever-dev; no macro average" for seed in range(3))
    cells = render(score_table(board, RPREC), "markdown").splitlines()[-1].split(" | ")
    assert (cells[0], cells[4], cells[6]) == ("| TACO", "-", "-")


def test_an_incomplete_seed_is_left_out_and_named() -> None:
    taco = of("TACO", 1)
    (board,) = make_boards(replaced(RESULTS, taco, without(taco, "nq-dev")), "naive", seed=0)
    (expected,) = make_boards([result for result in RESULTS if result is not taco], "naive", seed=0)
    assert (board.rows, board.comparisons) == (expected.rows, expected.comparisons)
    assert row(board, "TACO").seeds == (0, 2)
    assert board.notes == ("TACO (minilm-l6): seed 1 lacks nq-dev; it is left out", *expected.notes)


def test_where_the_baseline_lacks_topics_the_others_are_tested() -> None:
    results = [without(result, "fever-dev") if result.system == "naive" else result for result in RESULTS]
    (board,) = make_boards(results, "naive", seed=0)
    assert {test.topics for test in board.comparisons} == {*board.topics, *board.slices} - {"fever-dev"}
    known = {(test.system, test.topics, test.measure): (test.p, test.difference) for test in BOARD.comparisons}
    for test in board.comparisons:
        assert known[test.system, test.topics, test.measure] == (test.p, test.difference)


def differences(system: str, topic: str) -> Values:
    """Values less naive's, each averaged over seeds."""
    means = [
        np.mean([result.topics[topic].by_query[RPREC] for result in RESULTS if result.system == name], axis=0)
        for name in (system, "naive")
    ]
    found: Values = means[0] - means[1]
    return found


TESTS = [test for test in BOARD.comparisons if test.measure == RPREC]


@pytest.mark.parametrize("test", TESTS, ids=lambda test: f"{test.system} {test.topics}")
def test_tests_are_over_queries_averaged_over_seeds(test: Comparison) -> None:
    tasks = [differences(test.system, topic) for topic in (BOARD.topics if test.topics == MACRO else [test.topics])]
    assert test.difference == pytest.approx(np.mean([task.mean() for task in tasks]))
    assert test.effect == pytest.approx(effect_size(tasks))
    assert test.p == pytest.approx(randomisation_test(tasks, seed=1), abs=0.03)
    assert (test.low, test.high) == pytest.approx(bootstrap_interval(tasks, seed=1), abs=0.02)
    means = [row(BOARD, name).scores[test.topics][RPREC].mean for name in (test.system, "naive")]
    assert test.difference == pytest.approx(means[0] - means[1]), "the difference of what the board shows"


def test_holm_is_over_systems_and_topics_of_a_measure_and_apart_over_slices() -> None:
    for measure, slices in itertools.product(BOARD.measures, (False, True)):
        tests = [test for test in BOARD.comparisons if test.measure == measure]
        family = [test for test in tests if (test.topics in BOARD.slices) == slices]
        assert len(family) == 3 * (1 if slices else 4)
        assert [test.p_holm for test in family] == holm([test.p for test in family])


def test_turning_the_comparison_round_turns_its_sign() -> None:
    (turned,) = make_boards(RESULTS, "TACO", seed=0)
    one = {(test.topics, test.measure): test for test in BOARD.comparisons if test.system == "TACO"}
    other = {(test.topics, test.measure): test for test in turned.comparisons if test.system == "naive"}
    assert one.keys() == other.keys() and len(one) == 5 * 3
    for key, test in one.items():
        assert test.difference == pytest.approx(-other[key].difference)
        assert test.effect == pytest.approx(-(other[key].effect or 0.0))
        assert test.p == other[key].p
        assert (test.low, test.high) == pytest.approx((-other[key].high, -other[key].low))


def test_a_test_does_not_depend_on_the_other_systems_and_measures() -> None:
    few = [result for result in RESULTS if result.system in ("naive", "BM25")]
    (small,) = make_boards(few, "naive", seed=0, measures=[RPREC])
    known = {test.topics: test for test in TESTS if test.system == "BM25"}
    for test in small.comparisons:
        assert test.p == known[test.topics].p and test.low == pytest.approx(known[test.topics].low)


def test_a_twin_of_the_baseline_is_not_different() -> None:
    twins = [replace(result, system="twin") for result in RESULTS if result.system == "naive"]
    (board,) = make_boards([*RESULTS, *twins], "naive", seed=0)
    for test in board.comparisons:
        if test.system == "twin":
            assert (test.difference, test.effect, test.p, test.mark) == (0.0, None, 1.0, "")


def study_of_a_winner_and_a_loser() -> list[Record]:
    """The winner is far better than the middle system on nq-dev and far worse on fever-dev; the loser worse on both."""
    skills = {"middle": (0.0, 0.0), "winner": (1.5, -1.5), "loser": (-1.5, -1.5)}
    noise = np.random.default_rng(0).normal(size=(2, 120))
    results = []
    for system, skill in skills.items():
        shifted = zip(("nq-dev", "fever-dev"), skill, noise, strict=True)
        topics = {topic: topic_scores(topic, shift + noise_Q) for topic, shift, noise_Q in shifted}
        results.append(replace(of("naive", 0), condition=system, system=system, topics=topics))
    return results


def test_wins_and_losses_are_marked_in_every_form() -> None:
    (board,) = make_boards(study_of_a_winner_and_a_loser(), "middle", seed=0)
    marks = {(test.system, test.topics): test.mark for test in board.comparisons if test.measure == RPREC}
    assert (marks["winner", "nq-dev"], marks["winner", "fever-dev"]) == ("+", "-")
    assert (marks["loser", "nq-dev"], marks["loser", MACRO]) == ("-", "-")
    for form in ("table", "markdown", "latex"):
        scores, tests = (render(table(board, RPREC), form) for table in (score_table, difference_table))
        (line,) = [line for line in scores.splitlines() if "winner" in line]
        assert re.search(r"\d\}?\**\}? \+ .*\d\}?\**\}? -", line), line
        assert "+ better, - worse than middle" in scores
        (line,) = [line for line in tests.splitlines() if "winner" in line]
        assert line.index("nq-dev") < line.index("fever-dev"), "better on, worse on"
    told = json.loads(board_json([board], []))["boards"][0]["comparisons"]
    assert {(test["system"], test["topics"]): test["mark"] for test in told if test["measure"] == RPREC} == marks


def test_numbers_stand_below_each_other() -> None:
    lines = render(score_table(BOARD, RPREC), "table").splitlines()[3:]
    points = [[place.start() for place in re.finditer(r"(?<=\d)\.", line)] for line in lines]
    assert len(points) == len(BOARD.rows) and len(points[0]) == 5
    assert all(each == points[0] for each in points)
    assert any("±" in line for line in lines) and any("±" not in line for line in lines)


def test_json_holds_numbers() -> None:
    (board,) = json.loads(board_json([BOARD], read_published()))["boards"]
    for read, row in zip(board["rows"], BOARD.rows, strict=True):
        assert (read["system"], read["base"], read["seeds"]) == (row.system, row.base, list(row.seeds))
        for topics, by_measure in row.scores.items():
            for measure, stat in by_measure.items():
                assert read["scores"][topics][measure] == stat._asdict() | {"by_seed": list(stat.by_seed)}
    assert [test["p_holm"] for test in board["comparisons"]] == [test.p_holm for test in BOARD.comparisons]


def test_one_topics_has_no_macro_average_of_its_own() -> None:
    (board,) = make_boards([without(result, *BOARD.topics[1:], *BOARD.slices) for result in RESULTS], "naive", seed=0)
    assert {test.topics for test in board.comparisons} == {"nq-dev"}
    assert list(score_table(board, RPREC).header) == ["system", "base", "seeds", "nq-dev"]
    assert len(difference_table(board, RPREC).rows) == 3


def test_where_only_means_were_kept_nothing_is_tested() -> None:
    bare = list(RESULTS)
    for place, result in enumerate(RESULTS):
        if result.system == "TACO":
            means = {name: replace(scores, by_query={}) for name, scores in result.topics.items()}
            bare[place] = replace(result, topics=means)
    (board,) = make_boards(bare, "naive", seed=0)
    assert board.rows == BOARD.rows
    assert {test.system for test in board.comparisons} == {"BM25", "task-specific"}
    (note,) = board.notes
    assert note.startswith("TACO (minilm-l6): no values by query of fever-dev")
    (line,) = [line for line in difference_table(board, RPREC).rows if line[0] == "TACO"]
    assert line == ["TACO", "minilm-l6", *[None] * 8]
    assert render(board_tables(board)[-1], "table").startswith("notes on whole\n")


def test_corpora_are_boards_of_their_own_the_largest_first() -> None:
    part = [replace(result, corpus="part", passages=10) for result in RESULTS if result.system != "naive"]
    first, second = make_boards([*part, *RESULTS], "naive", seed=0)
    assert (first, second.corpus, second.baseline, second.comparisons) == (BOARD, "part", "", ())
    assert second.notes == ("naive has no results on this corpus: nothing is tested",)


def test_what_cannot_be_put_side_by_side_is_refused() -> None:
    taco = of("TACO", 0)
    twice = replace(without(taco, "nq-dev"), condition="taco-again")
    scores = taco.topics["nq-dev"]
    foreign = replace(taco, topics={**taco.topics, "nq-dev": replace(scores, fingerprint="other")})
    fewer = replace(taco, topics={**taco.topics, "nq-dev": replace(scores, by_query={RPREC: [1.0] * 7})})
    alone = [result for result in RESULTS if result.system in ("naive", "BM25")]
    system = r"TACO \(minilm-l6\)"
    for results, baseline, said in (
        (
            [*RESULTS, twice],
            None,
            f"{system}, seed 0: fever-dev is in both taco-minilm-l6.0.whole and taco-again.0.whole",
        ),
        (
            replaced(RESULTS, taco, replace(taco, collection="other")),
            None,
            "corpus 'whole': bm25.0.whole searched 120000 passages .* taco-minilm-l6.0.whole searched 120000 .other",
        ),
        (
            replaced(RESULTS, taco, foreign),
            None,
            "topics 'nq-dev': bm25.0.whole has 60 queries .* taco-minilm-l6.0.whole has 60 .other",
        ),
        (replaced(RESULTS, taco, fewer), "naive", rf"{system}.* different numbers of queries, \[7, 60\], on nq-dev"),
        (
            [*alone, fewer],
            "naive",
            rf"nq-dev, page R-precision: {system} was scored on 7 queries, naive \(minilm-l6\) on 60",
        ),
    ):
        with pytest.raises(InputError, match=said):
            make_boards(results, baseline, seed=0)


def test_records_of_two_models_under_one_name_are_refused() -> None:
    known = [replace(result, made={"models": {"minilm-l6": "aa"}}) for result in RESULTS]
    assert make_boards([*known[1:], RESULTS[0]], None, seed=0)[0].rows, "records of before do not say"
    other = replace(known[-1], made={"models": {"minilm-l6": "bb"}})
    said = rf"are called 'minilm-l6': record {known[0].name} started from aa, record {other.name} started from bb"
    with pytest.raises(InputError, match=said):
        make_boards([*known[:-1], other], None, seed=0)


def test_records_of_several_machines_are_said() -> None:
    made = [replace(result, made={"processor": "many cores"}) for result in RESULTS]
    made[0] = replace(made[0], made={"processor": "few"})
    assert make_boards(made[1:], None, seed=0)[0].notes == ()
    (note,) = make_boards(made, None, seed=0)[0].notes
    assert note == f"records were made on several machines: {len(made) - 1} on many cores, 1 on few"


def test_baselines_and_measures_that_mean_nothing_are_refused() -> None:
    said = r"baseline 'nave' is not a system of the results; allowed: BM25, naive \(minilm-l6\)"
    with pytest.raises(InputError, match=said):
        make_boards(RESULTS, "nave", seed=0)
    bases = [replace(result, base="bert-mini") for result in RESULTS if result.system == "naive"]
    (board,) = make_boards([*RESULTS, *bases], "naive (bert-mini)", seed=0, measures=[RPREC])
    assert board.baseline == "naive (bert-mini)"
    assert {(test.system, test.base) for test in board.comparisons} == {
        ("BM25", ""),
        *((name, "minilm-l6") for name in ("naive", "TACO", "task-specific")),
    }
    said = "measure 'page recall@20' is not in the results; they have page R-precision, page recall@5"
    with pytest.raises(InputError, match=said):
        make_boards(RESULTS, None, seed=0, measures=["page recall@20"])


def test_a_baseline_of_several_bases_is_one_for_each() -> None:
    worse = []
    for result in RESULTS:
        if result.system in ("naive", "TACO"):
            topics = {name: halved(each) for name, each in result.topics.items()}
            worse.append(replace(result, base="bert-mini", condition=f"mini-{result.condition}", topics=topics))
    (board,) = make_boards([*RESULTS, *worse], "naive", seed=0, measures=[RPREC])
    assert board.baseline == "naive on the same base"
    assert {row.name: row.against for row in board.rows if row.against} == {
        **{f"{name} (minilm-l6)": "naive (minilm-l6)" for name in ("TACO", "task-specific")},
        "TACO (bert-mini)": "naive (bert-mini)",
    }
    found = {(test.topics, test.base): test.difference for test in board.comparisons if test.system == "TACO"}
    for topic in (*board.topics, MACRO):
        assert found[topic, "bert-mini"] == pytest.approx(found[topic, "minilm-l6"] / 2)


def halved(scores: TopicScores) -> TopicScores:
    by_query = {name: [value / 2 for value in values] for name, values in scores.by_query.items()}
    return replace(scores, means={name: mean / 2 for name, mean in scores.means.items()}, by_query=by_query)


def test_seeds_that_one_system_alone_has_do_not_count_where_two_are_compared() -> None:
    fewer = [result for result in RESULTS if (result.system, result.seed) not in (("TACO", 2), ("task-specific", 0))]
    (board,) = make_boards(fewer, "naive", seed=0, measures=[RPREC])
    assert row(board, "naive").seeds == (0, 1, 2), "all are shown"
    for system, seeds in {"TACO": (0, 1), "task-specific": (1, 2)}.items():
        (alike,) = make_boards([each for each in RESULTS if each.seed in seeds], "naive", seed=0, measures=[RPREC])
        found, expected = (
            [test._replace(p_holm=0) for test in each.comparisons if test.system == system] for each in (board, alike)
        )
        assert found == expected
        had = f"by which it has {row(alike, 'naive').scores[MACRO][RPREC].mean:.3f}"
        named = f"seeds {', '.join(map(str, seeds))}"
        rows = f"rows with only {named} are compared with its {named}"
        assert f"naive (minilm-l6): {rows}, {had}" in board.notes
    assert len(board.notes) == 2, "BM25's only seed is no training's"


def test_marks_do_not_depend_on_the_seed_of_the_flips() -> None:
    """p-values of two seeds differ as two samples of flips do; enough flips lie at Holm's limit."""
    first, second = (
        [test.p for test in make_boards(RESULTS, "naive", seed=seed, measures=[RPREC])[0].comparisons]
        for seed in (0, 1)
    )
    for one, other in zip(first, second, strict=True):
        assert one == pytest.approx(other, abs=3 * np.sqrt(2 * one * (1 - one) / FLIPS) + 2 / FLIPS)
    assert first != second, "flips are sampled by the seed"
    assert 0.05 / 160 * FLIPS > 50, "so many flips lie at the limit of a family as large as a study's"


def test_without_a_baseline_nothing_is_tested() -> None:
    (board,) = make_boards(RESULTS, None, seed=0)
    assert (board.baseline, board.comparisons) == ("", ())
    assert board.rows == tuple(row._replace(against="") for row in BOARD.rows)
    assert len(board_tables(board)) == len(board.measures)


def test_significance_is_five_per_cent_after_holm() -> None:
    for test in BOARD.comparisons:
        assert bool(test.mark) == (test.p_holm < SIGNIFICANT)
        assert test.mark in ("", "+" if test.difference > 0 else "-")


def test_quoted_rows_have_sources_and_their_own_block() -> None:
    rows = read_published()
    assert len(rows) >= 12 and TITLE.startswith("quoted from papers") and "not comparable" in TITLE
    for quoted in rows:
        assert re.search(r"[A-Z]\w+ et al\., (TACL|ACL|CIKM) 20\d\d", quoted.source), quoted.system
        if quoted.scores:
            assert len(quoted.scores) == 8
            assert statistics.mean(quoted.scores.values()) == pytest.approx(quoted.average, abs=0.0051)
    assert {quoted.system: quoted.average for quoted in rows}["TACO"] == 73.74
    shown = render(quoted_table(rows), "table")
    assert "73.74" in shown and "TACO without prompts" in shown and shown.startswith(TITLE)
    assert not any(TITLE in render(table, "table") for table in board_tables(BOARD))


@given(st.floats(-0.01, 0.01), st.floats(0, 0.01))
def test_a_score_deviates_when_it_moves_up_or_down_by_more_than_the_tolerance(shift: float, tolerance: float) -> None:
    scores = of("TACO", 0).topics["nq-dev"]
    means = (scores.means[RPREC], scores.means[RPREC] + shift)
    recorded, found = (replace(of("TACO", 0), topics={"nq-dev": replace(scores, means={RPREC: m})}) for m in means)
    lines = deviations(recorded, found, tolerance)
    assert len(lines) == len(deviations(found, recorded, tolerance)) == (abs(means[1] - means[0]) > tolerance)


def test_deviations_in_words() -> None:
    recorded = of("TACO", 0)
    assert deviations(recorded, recorded, 0.0) == []
    scores = recorded.topics["nq-dev"]
    lower = replace(scores, means={**scores.means, RPREC: scores.means[RPREC] - 0.1, "page recall@1": 0.5})
    renamed = replace(recorded.topics["fever-dev"], fingerprint="f00")
    topics = {"nq-dev": lower, "fever-dev": renamed, "zsre-dev": scores}
    topics["hotpotqa-dev"] = recorded.topics["hotpotqa-dev"]
    lines = deviations(recorded, replace(recorded, topics=topics, passages=7), 0.002)
    assert len(lines) == 6
    assert "found on 7" in lines[0]
    assert re.fullmatch(
        r"taco-minilm-l6.0.whole: nq-dev, page R-precision: "
        r"recorded 0\.\d{6}, found 0\.\d{6}, moved by -0.100000; allowed 0.002",
        lines[1],
    )
    assert lines[2] == "taco-minilm-l6.0.whole: nq-dev, page recall@1: only found"
    assert "fever-dev: recorded on other queries" in lines[3]
    assert lines[4:] == [
        "taco-minilm-l6.0.whole: hotpotqa-dev unseen: only recorded",
        "taco-minilm-l6.0.whole: zsre-dev: only found",
    ]
    broken = replace(scores, means={RPREC: float("nan")})
    found = replace(recorded, topics={**recorded.topics, "nq-dev": broken})
    assert any("found nan" in line for line in deviations(recorded, found, 1.0))


def test_records_are_chosen_by_name_or_by_lot() -> None:
    names = [result.name for result in RESULTS]
    assert [result.name for result in select_records(RESULTS, [])] == names
    for name, count in (("TACO", 3), ("TACO (minilm-l6)", 3), ("taco-minilm-l6", 3), ("taco-minilm-l6.1.whole", 1)):
        assert len(select_records(RESULTS, [name])) == count
    assert {result.system for result in select_records(RESULTS, ["TACO", "BM25"])} == {"TACO", "BM25"}
    lots = [tuple(result.name for result in sample_records(RESULTS, 3, seed)) for seed in range(20)]
    assert all(len(set(each)) == 3 for each in lots) and len(set(lots)) > 5
    with pytest.raises(InputError, match=r"--rows 'TAKO': no such row; allowed: BM25, TACO \(minilm-l6\)"):
        select_records(RESULTS, ["TACO", "TAKO"])
    with pytest.raises(InputError, match="--random is 11, but there are only 10 records"):
        sample_records(RESULTS, 11, 0)


def test_systems_judged_by_different_gold_are_not_put_side_by_side(tmp_path: Path) -> None:
    """Equal queries, equal runs, other evidence: scores of the two cannot be paired."""
    results = []
    for name, gold in (("one", "1#0"), ("two", "2#0")):
        passages = [passage(f"{n}#0", "a text") for n in range(3)]
        folder = write_collection(tmp_path / name, passages, {"nq-dev": [query("q", "who", [gold])]})
        collection = open_collection(str(folder))
        write_trec(Run({"q": Ranking.of(["1#0", "0#0"], [2, 1])}), tmp_path / name / "runs" / "nq-dev.trec", "t")
        scores = score_runs(collection, ["nq-dev"], (), tmp_path / name / "runs")
        results.append(Record(name, name, "", 0, "whole", 3, collection.passages.fingerprint, scores))
    assert results[0].collection == results[1].collection
    with pytest.raises(InputError, match="topics 'nq-dev': .* only on the same queries with the same gold"):
        make_boards(results, None, seed=0)
    with pytest.raises(InputError, match="only on the same queries with the same gold"):
        make_boards([results[0], replace(results[1], system="one", seed=1)], None, seed=0)


def test_without_pages_a_board_has_measures_of_graded_judgments_and_quotes_nobody(tmp_path: Path) -> None:
    collection = open_collection(beir(tmp_path))
    results = []
    for number, docids in enumerate((["d1", "d2"], ["d2", "d1"])):
        runs = tmp_path / str(number)
        write_trec(Run(dict.fromkeys(("q1", "q2"), Ranking.of(docids, [2, 1]))), runs / "scifact-test.trec", "t")
        scores = score_runs(collection, ["scifact-test"], (), runs)
        results.append(Record(str(number), str(number), "", 0, "whole", 3, collection.passages.fingerprint, scores))
    assert list(scores["scifact-test"].means) == ["passage nDCG@10", "passage MRR@10", "passage R@20"]
    boards = make_boards(results, "0", 0)
    shown = render_boards(boards, "table", brief=False)
    assert "whole, 3 passages: passage nDCG@10" in shown and TITLE not in shown and not quoted_beside(boards)
    assert quoted_beside([replace(BOARD, topics=("zsre-dev",))]) == read_published()
    assert most_different_queries(results, "scifact-test") == [0, 1]


def test_a_data_home_of_its_own_shares_collections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """...and nothing of them is removed with it."""
    monkeypatch.setenv("TACO_IR_HOME", str(tmp_path / "home"))
    path = open_collection(beir(tmp_path)).passage_path
    for _ in range(2):
        make_home(tmp_path / "own")
    monkeypatch.setenv("TACO_IR_HOME", str(tmp_path / "own"))
    again = open_collection(str(tmp_path / "scifact"))
    assert again.passage_path.is_relative_to(tmp_path / "own") and again.passage_path.samefile(path)
    shutil.rmtree(tmp_path / "own")
    assert path.is_file()


def test_a_board_of_some_topics_has_their_macro_average_and_slices() -> None:
    results = fake_results(3, 3, 20, seeds=2)
    lacking = [replace(each, topics=dict(list(each.topics.items())[:1])) for each in results[1:2]]
    kept = select_topics([*results[:1], *lacking, *results[2:]], ["nq-dev", "hotpotqa-dev"])
    (board,) = make_boards(kept, None, 0)
    assert board.topics == ("nq-dev", "hotpotqa-dev") and board.slices == ("hotpotqa-dev unseen",)
    for row in board.rows:
        means = [stat.mean for name in board.topics if (stat := row.stat(name, RPREC))]
        macro = row.stat(MACRO, RPREC)
        assert macro is None or macro.mean == pytest.approx(sum(means) / 2)
    only_first = select_topics([*results[2:], *lacking], ["fever-dev"])
    assert len(only_first) == len(results) - 2  # a record that has none of them is left out
    assert select_topics(results, ()) == results
    with pytest.raises(InputError, match=r"--topics 'nq' is not in the results; allowed: nq-dev, fever-dev"):
        select_topics(results, ["nq"])
