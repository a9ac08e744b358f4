"""Law: a board is a function of the set of records; means, spreads and tests are those of the numbers in them, wins and losses alike."""

import dataclasses
import itertools
import json
import random
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
from taco_ir.studies.board import Board, BoardRow, Stat, boards
from taco_ir.studies.board_tables import (
    TITLE,
    board_json,
    board_tables,
    difference_table,
    published,
    quoted_table,
    score_table,
)
from taco_ir.studies.records import Record, TopicScores
from taco_ir.studies.rescoring import sample_records, select_records
from taco_ir.studies.scores import deviations, score_runs

RPREC = "page R-precision"
RESULTS = fake_results(systems=4, topics=3, queries=60, seeds=3)
(BOARD,) = boards(RESULTS, "naive", seed=0)


def row(board: Board, system: str) -> BoardRow:
    (found,) = [row for row in board.rows if row.system == system]
    return found


def of(system: str, seed: int) -> Record:
    (found,) = [result for result in RESULTS if (result.system, result.seed) == (system, seed)]
    return found


def without(result: Record, *topics: str) -> Record:
    return dataclasses.replace(
        result, topics={name: scores for name, scores in result.topics.items() if name not in topics}
    )


def replaced(results: Sequence[Record], old: Record, *new: Record) -> list[Record]:
    return [each for result in results for each in (new if result is old else [result])]


@settings(max_examples=5, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_records_does_not_matter(generator: random.Random) -> None:
    shuffled = list(RESULTS)
    generator.shuffle(shuffled)
    (board,) = boards(shuffled, "naive", seed=0)
    assert board.rows == BOARD.rows
    assert set(board.comparisons) == set(BOARD.comparisons)


def test_conditions_of_one_system_are_one_row() -> None:
    whole = of("TACO", 1)
    topics = list(whole.topics)
    parts = [
        dataclasses.replace(without(whole, *(each for each in topics if each != topic)), condition=f"taco-{topic}")
        for topic in topics
    ]
    assert boards(replaced(RESULTS, whole, *parts), "naive", seed=0) == [BOARD]


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
            assert row(BOARD, system).scores[topic][RPREC].by_seed == tuple(
                run.topics[topic].means[RPREC] for run in runs
            )
        macros = [statistics.mean(run.topics[topic].means[RPREC] for topic in BOARD.topics) for run in runs]
        assert row(BOARD, system).scores[MACRO][RPREC].by_seed == pytest.approx(tuple(macros))
    assert row(BOARD, "BM25").scores[MACRO][RPREC].sd is None
    assert (row(BOARD, "TACO").scores[MACRO][RPREC].sd or 0) > 0


def test_slices_are_shown_beside_topics() -> None:
    assert (BOARD.topics, BOARD.slices) == (("nq-dev", "fever-dev", "hotpotqa-dev"), ("hotpotqa-dev unseen",))


def test_rows_are_in_the_order_of_the_macro_average() -> None:
    macros = [row.scores[MACRO][RPREC].mean for row in BOARD.rows]
    assert macros == sorted(macros, reverse=True)
    (by_rank,) = boards(RESULTS, None, seed=0, measures=["passage MRR@10"])
    macros = [row.scores[MACRO]["passage MRR@10"].mean for row in by_rank.rows]
    assert macros == sorted(macros, reverse=True)


def test_an_incomplete_row_has_no_macro_average_and_says_so() -> None:
    results = [without(result, "fever-dev") if result.system == "TACO" else result for result in RESULTS]
    (board,) = boards(results, "naive", seed=0)
    assert MACRO not in row(board, "TACO").scores and board.rows[-1].system == "TACO"
    assert not [test for test in board.comparisons if test.system == "TACO" and test.topics in (MACRO, "fever-dev")]
    assert [test for test in board.comparisons if test.system == "TACO" and test.topics == "nq-dev"]
    assert board.notes == tuple(f"TACO (minilm-l6): seed {seed} lacks fever-dev; no macro average" for seed in range(3))
    cells = render(score_table(board, RPREC), "markdown").splitlines()[-1].split(" | ")
    assert (cells[0], cells[4], cells[6]) == ("| TACO", "-", "-")


def test_an_incomplete_seed_is_left_out_and_named() -> None:
    taco = of("TACO", 1)
    (board,) = boards(replaced(RESULTS, taco, without(taco, "nq-dev")), "naive", seed=0)
    (expected,) = boards([result for result in RESULTS if result is not taco], "naive", seed=0)
    assert (board.rows, board.comparisons) == (expected.rows, expected.comparisons)
    assert row(board, "TACO").seeds == (0, 2)
    assert (
        board.notes[0] == "TACO (minilm-l6): seed 1 lacks nq-dev; it is left out" and board.notes[1:] == expected.notes
    )


def test_where_the_baseline_lacks_topics_the_others_are_tested() -> None:
    results = [without(result, "fever-dev") if result.system == "naive" else result for result in RESULTS]
    (board,) = boards(results, "naive", seed=0)
    assert {test.topics for test in board.comparisons} == {*board.topics, *board.slices} - {"fever-dev"}
    for test in board.comparisons:
        (same,) = [
            each
            for each in BOARD.comparisons
            if (each.system, each.topics, each.measure) == (test.system, test.topics, test.measure)
        ]
        assert (test.p, test.difference) == (same.p, same.difference)


def differences(system: str, topic: str) -> Values:
    """Values less naive's, each averaged over seeds."""
    means = [
        np.mean([result.topics[topic].by_query[RPREC] for result in RESULTS if result.system == name], axis=0)
        for name in (system, "naive")
    ]
    found: Values = means[0] - means[1]
    return found


@pytest.mark.parametrize(
    "test",
    [test for test in BOARD.comparisons if test.measure == RPREC],
    ids=lambda test: f"{test.system} {test.topics}",
)
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
        family = [
            test for test in BOARD.comparisons if test.measure == measure and (test.topics in BOARD.slices) == slices
        ]
        assert len(family) == 3 * (1 if slices else 4)
        assert [test.p_holm for test in family] == holm([test.p for test in family])


def test_turning_the_comparison_round_turns_its_sign() -> None:
    (turned,) = boards(RESULTS, "TACO", seed=0)
    one = {(test.topics, test.measure): test for test in BOARD.comparisons if test.system == "TACO"}
    other = {(test.topics, test.measure): test for test in turned.comparisons if test.system == "naive"}
    assert one.keys() == other.keys() and len(one) == 5 * 3
    for key, test in one.items():
        assert test.difference == pytest.approx(-other[key].difference)
        assert test.effect == pytest.approx(-(other[key].effect or 0.0))
        assert test.p == other[key].p
        assert (test.low, test.high) == pytest.approx((-other[key].high, -other[key].low))


def test_a_test_does_not_depend_on_the_other_systems_and_measures() -> None:
    (small,) = boards(
        [result for result in RESULTS if result.system in ("naive", "BM25")], "naive", seed=0, measures=[RPREC]
    )
    wanted = {test._replace(p_holm=0) for test in BOARD.comparisons if (test.system, test.measure) == ("BM25", RPREC)}
    for test in small.comparisons:
        (same,) = [each for each in wanted if each.topics == test.topics]
        assert test.p == same.p and test.low == pytest.approx(same.low)


def test_a_twin_of_the_baseline_is_not_different() -> None:
    twins = [dataclasses.replace(result, system="twin") for result in RESULTS if result.system == "naive"]
    (board,) = boards([*RESULTS, *twins], "naive", seed=0)
    for test in board.comparisons:
        if test.system == "twin":
            assert (test.difference, test.effect, test.p, test.mark) == (0.0, None, 1.0, "")


def study_of_a_winner_and_a_loser() -> list[Record]:
    """The winner is far better than the middle system on nq-dev and far worse on fever-dev; the loser worse on both."""
    skills = {"middle": (0.0, 0.0), "winner": (1.5, -1.5), "loser": (-1.5, -1.5)}
    noise = np.random.default_rng(0).normal(size=(2, 120))
    model = of("naive", 0)
    return [
        dataclasses.replace(
            model,
            condition=system,
            system=system,
            topics={
                topic: topic_scores(topic, skill + noise[i])
                for i, (topic, skill) in enumerate(zip(("nq-dev", "fever-dev"), skill, strict=True))
            },
        )
        for system, skill in skills.items()
    ]


def test_wins_and_losses_are_marked_in_every_form() -> None:
    (board,) = boards(study_of_a_winner_and_a_loser(), "middle", seed=0)
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
    (board,) = json.loads(board_json([BOARD], published()))["boards"]
    for read, row in zip(board["rows"], BOARD.rows, strict=True):
        assert (read["system"], read["base"], read["seeds"]) == (row.system, row.base, list(row.seeds))
        for topics, by_measure in row.scores.items():
            for measure, stat in by_measure.items():
                assert read["scores"][topics][measure] == {
                    "mean": stat.mean,
                    "sd": stat.sd,
                    "by_seed": list(stat.by_seed),
                }
    assert [test["p_holm"] for test in board["comparisons"]] == [test.p_holm for test in BOARD.comparisons]


def test_one_topics_has_no_macro_average_of_its_own() -> None:
    (board,) = boards([without(result, *BOARD.topics[1:], *BOARD.slices) for result in RESULTS], "naive", seed=0)
    assert {test.topics for test in board.comparisons} == {"nq-dev"}
    assert list(score_table(board, RPREC).header) == ["system", "base", "seeds", "nq-dev"]
    assert len(difference_table(board, RPREC).rows) == 3


def test_where_only_means_were_kept_nothing_is_tested() -> None:
    bare = [
        dataclasses.replace(
            result, topics={name: dataclasses.replace(scores, by_query={}) for name, scores in result.topics.items()}
        )
        if result.system == "TACO"
        else result
        for result in RESULTS
    ]
    (board,) = boards(bare, "naive", seed=0)
    assert board.rows == BOARD.rows
    assert {test.system for test in board.comparisons} == {"BM25", "task-specific"}
    (note,) = board.notes
    assert note.startswith("TACO (minilm-l6): no values by query of fever-dev")
    assert [cell for cell in difference_table(board, RPREC).rows if cell[0] == "TACO"] == [
        ["TACO", "minilm-l6", *[None] * 8]
    ]
    assert render(board_tables(board)[-1], "table").startswith("notes on whole\n")


def test_corpora_are_boards_of_their_own_the_largest_first() -> None:
    part = [dataclasses.replace(result, corpus="part", passages=10) for result in RESULTS if result.system != "naive"]
    first, second = boards([*part, *RESULTS], "naive", seed=0)
    assert (first, second.corpus, second.baseline, second.comparisons) == (BOARD, "part", "", ())
    assert second.notes == ("naive has no results on this corpus: nothing is tested",)


def test_what_cannot_be_put_side_by_side_is_refused() -> None:
    taco = of("TACO", 0)
    twice = dataclasses.replace(without(taco, "nq-dev"), condition="taco-again")
    with pytest.raises(
        InputError,
        match=r"TACO \(minilm-l6\), seed 0: fever-dev is in taco-minilm-l6.0.whole and in taco-again.0.whole",
    ):
        boards([*RESULTS, twice], None, seed=0)
    with pytest.raises(
        InputError,
        match="corpus 'whole': bm25.0.whole searched 120000 passages .* taco-minilm-l6.0.whole 120000 .other",
    ):
        boards(replaced(RESULTS, taco, dataclasses.replace(taco, collection="other")), None, seed=0)
    foreign = {**taco.topics, "nq-dev": dataclasses.replace(taco.topics["nq-dev"], fingerprint="other")}
    with pytest.raises(
        InputError, match="topics 'nq-dev': bm25.0.whole has 60 queries .* taco-minilm-l6.0.whole 60 .other"
    ):
        boards(replaced(RESULTS, taco, dataclasses.replace(taco, topics=foreign)), None, seed=0)
    fewer = {**taco.topics, "nq-dev": dataclasses.replace(taco.topics["nq-dev"], by_query={RPREC: [1.0] * 7})}
    with pytest.raises(InputError, match=r"TACO \(minilm-l6\).* \[7, 60\] queries on nq-dev"):
        boards(replaced(RESULTS, taco, dataclasses.replace(taco, topics=fewer)), "naive", seed=0)
    alone = [result for result in RESULTS if result.system in ("naive", "BM25")] + [
        dataclasses.replace(taco, topics=fewer)
    ]
    with pytest.raises(
        InputError,
        match=r"nq-dev, page R-precision: TACO \(minilm-l6\) has values of 7 queries, naive \(minilm-l6\) of 60",
    ):
        boards(alone, "naive", seed=0)


def test_records_of_two_models_under_one_name_are_refused() -> None:
    known = [dataclasses.replace(result, made={"models": {"minilm-l6": "aa"}}) for result in RESULTS]
    assert boards([*known[1:], RESULTS[0]], None, seed=0)[0].rows, "records of before do not say"
    other = dataclasses.replace(known[-1], made={"models": {"minilm-l6": "bb"}})
    with pytest.raises(
        InputError,
        match=rf"model 'minilm-l6': {known[0].name} began with aa, {other.name} with bb; give each model a name",
    ):
        boards([*known[:-1], other], None, seed=0)


def test_records_of_several_machines_are_said() -> None:
    made = [
        dataclasses.replace(result, made={"processor": "many cores" if number else "few"})
        for number, result in enumerate(RESULTS)
    ]
    assert boards(made[1:], None, seed=0)[0].notes == ()
    assert boards(made, None, seed=0)[0].notes == (
        f"machines that the records were made on: many cores: {len(made) - 1}; few: 1",
    )


def test_baselines_and_measures_that_mean_nothing_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"baseline 'nave' is no system of the results; allowed: BM25, naive \(minilm-l6\)"
    ):
        boards(RESULTS, "nave", seed=0)
    bases = [dataclasses.replace(result, base="bert-mini") for result in RESULTS if result.system == "naive"]
    (board,) = boards([*RESULTS, *bases], "naive (bert-mini)", seed=0, measures=[RPREC])
    assert board.baseline == "naive (bert-mini)"
    assert {(test.system, test.base) for test in board.comparisons} == {
        ("BM25", ""),
        *((name, "minilm-l6") for name in ("naive", "TACO", "task-specific")),
    }
    with pytest.raises(
        InputError, match="measure 'page recall@20' is not in the results; they have page R-precision, page recall@5"
    ):
        boards(RESULTS, None, seed=0, measures=["page recall@20"])


def test_a_baseline_of_several_bases_is_one_for_each() -> None:
    worse = [
        dataclasses.replace(
            result,
            base="bert-mini",
            condition=f"mini-{result.condition}",
            topics={name: halved(each) for name, each in result.topics.items()},
        )
        for result in RESULTS
        if result.system in ("naive", "TACO")
    ]
    (board,) = boards([*RESULTS, *worse], "naive", seed=0, measures=[RPREC])
    assert board.baseline == "naive on the same base"
    assert {row.name: row.against for row in board.rows if row.against} == {
        **{f"{name} (minilm-l6)": "naive (minilm-l6)" for name in ("TACO", "task-specific")},
        "TACO (bert-mini)": "naive (bert-mini)",
    }
    for topics in (*board.topics, MACRO):
        differences = {
            test.base: test.difference for test in board.comparisons if (test.system, test.topics) == ("TACO", topics)
        }
        assert differences["bert-mini"] == pytest.approx(differences["minilm-l6"] / 2)


def halved(scores: TopicScores) -> TopicScores:
    return dataclasses.replace(
        scores,
        means={name: mean / 2 for name, mean in scores.means.items()},
        by_query={name: [value / 2 for value in values] for name, values in scores.by_query.items()},
    )


def test_seeds_that_one_system_alone_has_do_not_count_where_two_are_compared() -> None:
    fewer = [result for result in RESULTS if (result.system, result.seed) not in (("TACO", 2), ("task-specific", 0))]
    (board,) = boards(fewer, "naive", seed=0, measures=[RPREC])
    assert row(board, "naive").seeds == (0, 1, 2), "all are shown"
    for system, seeds in {"TACO": (0, 1), "task-specific": (1, 2)}.items():
        (alike,) = boards([result for result in RESULTS if result.seed in seeds], "naive", seed=0, measures=[RPREC])
        assert [test._replace(p_holm=0) for test in board.comparisons if test.system == system] == [
            test._replace(p_holm=0) for test in alike.comparisons if test.system == system
        ]
        had = row(alike, "naive").scores[MACRO][RPREC].mean
        named = ", ".join(map(str, seeds))
        assert (
            f"naive (minilm-l6): rows with seeds {named} alone are compared with the same of it, by which it has {had:.3f}"
            in board.notes
        )
    assert len(board.notes) == 2, "BM25's only seed is no training's"


def test_marks_do_not_depend_on_the_seed_of_the_flips() -> None:
    """p-values of two seeds are those of two samples of the same flips, enough of which lie at Holm's limit to tell one side from the other."""
    by_seed = {
        seed: [test.p for test in boards(RESULTS, "naive", seed=seed, measures=[RPREC])[0].comparisons]
        for seed in range(3)
    }
    for one, other in zip(by_seed[0], by_seed[1], strict=True):
        assert one == pytest.approx(other, abs=3 * np.sqrt(2 * one * (1 - one) / FLIPS) + 2 / FLIPS)
    assert by_seed[0] != by_seed[1], "flips are drawn by the seed"
    assert 0.05 / 160 * FLIPS > 50, "so many flips lie at the limit of a family as large as a study's"


def test_without_a_baseline_nothing_is_tested() -> None:
    (board,) = boards(RESULTS, None, seed=0)
    assert (board.baseline, board.comparisons, board.rows) == (
        "",
        (),
        tuple(row._replace(against="") for row in BOARD.rows),
    )
    assert len(board_tables(board)) == len(board.measures)


def test_significance_is_five_per_cent_after_holm() -> None:
    for test in BOARD.comparisons:
        assert bool(test.mark) == (test.p_holm < SIGNIFICANT)
        assert test.mark in ("", "+" if test.difference > 0 else "-")


def test_quoted_rows_have_sources_and_their_own_block() -> None:
    rows = published()
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
    result = of("TACO", 0)
    means = {RPREC: result.topics["nq-dev"].means[RPREC] + shift}
    recorded = dataclasses.replace(
        result,
        topics={
            "nq-dev": dataclasses.replace(result.topics["nq-dev"], means={RPREC: result.topics["nq-dev"].means[RPREC]})
        },
    )
    found = dataclasses.replace(result, topics={"nq-dev": dataclasses.replace(result.topics["nq-dev"], means=means)})
    moved = abs(means[RPREC] - recorded.topics["nq-dev"].means[RPREC])
    lines = deviations(recorded, found, tolerance)
    assert len(lines) == len(deviations(found, recorded, tolerance)) == (moved > tolerance)


def test_deviations_in_words() -> None:
    recorded = of("TACO", 0)
    assert deviations(recorded, recorded, 0.0) == []
    scores = recorded.topics["nq-dev"]
    lower = dataclasses.replace(scores, means={**scores.means, RPREC: scores.means[RPREC] - 0.1, "page recall@1": 0.5})
    renamed = dataclasses.replace(recorded.topics["fever-dev"], fingerprint="f00")
    topics = {
        "nq-dev": lower,
        "fever-dev": renamed,
        "hotpotqa-dev": recorded.topics["hotpotqa-dev"],
        "zsre-dev": scores,
    }
    lines = deviations(recorded, dataclasses.replace(recorded, topics=topics, passages=7), 0.002)
    assert len(lines) == 6
    assert "found on 7" in lines[0]
    assert re.fullmatch(
        r"taco-minilm-l6.0.whole: nq-dev, page R-precision: recorded 0\.\d{6}, found 0\.\d{6}, moved by -0.100000; allowed 0.002",
        lines[1],
    )
    assert lines[2] == "taco-minilm-l6.0.whole: nq-dev, page recall@1: only found"
    assert "fever-dev: recorded on other queries" in lines[3]
    assert lines[4:] == [
        "taco-minilm-l6.0.whole: hotpotqa-dev unseen: only recorded",
        "taco-minilm-l6.0.whole: zsre-dev: only found",
    ]
    broken = dataclasses.replace(scores, means={RPREC: float("nan")})
    assert any(
        "found nan" in line
        for line in deviations(
            recorded, dataclasses.replace(recorded, topics={**recorded.topics, "nq-dev": broken}), 1.0
        )
    )


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
    with pytest.raises(InputError, match="--random 11: there are 10 records"):
        sample_records(RESULTS, 11, 0)


def test_systems_judged_by_different_gold_are_not_put_side_by_side(tmp_path: Path) -> None:
    """Equal queries, equal runs, other evidence: scores of the two cannot be paired."""
    results = []
    for name, gold in (("one", "1#0"), ("two", "2#0")):
        passages = [passage(f"{n}#0", "a text") for n in range(3)]
        collection = open_collection(
            str(write_collection(tmp_path / name, passages, {"nq-dev": [query("q", "who", [gold])]}))
        )
        write_trec(Run({"q": Ranking.of(["1#0", "0#0"], [2, 1])}), tmp_path / name / "runs" / "nq-dev.trec", "t")
        scores = score_runs(collection, ["nq-dev"], (), tmp_path / name / "runs")
        results.append(Record(name, name, "", 0, "whole", 3, collection.passages.fingerprint, scores))
    assert results[0].collection == results[1].collection
    with pytest.raises(InputError, match="topics 'nq-dev': .* on the same queries with the same gold only"):
        boards(results, None, seed=0)
    with pytest.raises(InputError, match="with the same gold only"):
        boards([results[0], dataclasses.replace(results[1], system="one", seed=1)], None, seed=0)
