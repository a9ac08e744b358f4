"""Headroom against brute force, and the smallest difference that can be shown against simulated repetitions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from taco_ir.core.files import InputError
from taco_ir.evaluation.headroom import find_headroom, headroom_table, headroom_text, headroom_verdict, student_quantile
from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.tables import render

Values = npt.NDArray[np.float64]


@pytest.mark.parametrize("freedom", [1, 2, 2.7, 5, 30, 300, 999, 5000, 1e6])
@pytest.mark.parametrize("probability", [0.8, 0.975])
def test_quantiles_of_student(freedom: float, probability: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=2e-3)
    if freedom < 1000:
        assert student_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9)


def sampled(rng: np.random.Generator, queries: float, seeds: float, rest: float, shape: tuple[int, int]) -> Values:
    """Differences of seeds by queries with these deviations."""
    by_query, by_seed = rng.normal(0, queries, shape[1]), rng.normal(0, seeds, shape[0])
    return by_query + by_seed[:, None] + rng.normal(0, rest, shape)


def scores(values_SQ: Values, first: int = 0) -> dict[int, Values]:
    return dict(enumerate(values_SQ, first))


def test_headroom_by_hand() -> None:
    """Of two topics the best is taken on each; where none is better there is no headroom."""
    nq, fever = np.array([[0.0, 1.0], [0.5, 1.0]]), np.array([[1.0, 1.0, 0.4], [1.0, 0.8, 0.0]])
    baseline = {"nq": scores(nq), "fever": scores(fever)}
    systems = {
        "own": {"nq": scores(nq + np.array([[0.25, 0.0], [0.5, -0.25]])), "fever": scores(fever - 0.2)},
        "other": {"nq": scores(nq + 0.1)},
    }
    first, second, macro = find_headroom(baseline, systems)
    assert (first.topics, first.best, first.queries, first.seeds) == ("nq", "own", 2, 2)
    assert (first.baseline, first.score, first.headroom) == pytest.approx((0.625, 0.75, 0.125))
    assert first.deviation == pytest.approx(np.std([0.5, 0.75], ddof=1))
    assert (second.best, second.headroom) == ("own", 0.0) and second.score == pytest.approx(0.5)
    assert (macro.topics, macro.best, macro.queries) == (MACRO, "", 5)
    assert macro.headroom == pytest.approx(0.0625) and macro.baseline == pytest.approx((0.625 + 0.7) / 2)
    assert macro.deviation == pytest.approx(np.std([(0.5 + 0.8) / 2, (0.75 + 0.6) / 2], ddof=1))


def brute_force(topics: list[Values]) -> float:
    """The formula in the module, written with sums of squares."""
    variance, parts, count = 0.0, [], len(topics)
    for y_SQ in topics:
        seeds, queries = y_SQ.shape
        of_query = sum((q - y_SQ.mean()) ** 2 for q in y_SQ.mean(0)) / (queries - 1) / queries / count**2
        parts.append((of_query, queries - 1))
        rest = sum(
            (y_SQ[s, q] - y_SQ[s].mean() - y_SQ[:, q].mean() + y_SQ.mean()) ** 2
            for s in range(seeds)
            for q in range(queries)
        ) / max(1, (seeds - 1) * (queries - 1))
        variance += of_query - rest / (seeds * queries) / count**2 * (seeds > 1)
    if seeds > 1:
        of_seed = np.var(np.mean([y_SQ.mean(1) for y_SQ in topics], axis=0), ddof=1) / seeds
        parts.append((float(of_seed), seeds - 1))
        variance += of_seed
    variance = max(variance, sum(part for part, _ in parts[:count]))
    freedom = variance**2 / sum(part**2 / free for part, free in parts)
    return float((stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom)) * math.sqrt(variance))


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_the_smallest_difference_is_brute_force(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    base = [rng.uniform(size=(seeds, queries)) for queries in (40, 90)]
    better = [sampled(rng, 0.3, 0.05, 0.2, each.shape) for each in base]
    found = find_headroom(
        {name: scores(own) for name, own in zip("ab", base, strict=True)},
        {"x": {name: scores(own + more) for name, own, more in zip("ab", base, better, strict=True)}},
    )
    expected = [brute_force([better[0]]), brute_force([better[1]]), brute_force(better)]
    assert [each.smallest for each in found] == pytest.approx(expected, rel=1e-6)
    assert [each.seeds for each in found] == [seeds] * 3


def test_a_difference_of_that_size_is_found_in_four_of_five_repetitions() -> None:
    """With a t test over both queries and seeds, whose variances it has to estimate each time."""
    rng = np.random.default_rng(1)
    shape, deviations = (30, 200), (0.3, 0.05, 0.2)
    true = math.sqrt(0.3**2 / 200 + 0.05**2 / 30 + 0.2**2 / (30 * 200))
    found = 0
    for _ in range(400):
        y_SQ = sampled(rng, *deviations, shape) + 2.8 * true
        (only,) = find_headroom({"a": scores(np.zeros(shape))}, {"x": {"a": scores(y_SQ)}})
        assert only.smallest is not None and only.smallest == pytest.approx(2.8 * true, rel=0.35)
        found += only.headroom > only.smallest * 1.96 / 2.8
    assert found / 400 == pytest.approx(0.8, abs=0.06)


def test_seeds_are_paired_where_both_have_them() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(size=(4, 60))
    shared = {"a": scores(base + 0.1)}
    (paired,) = find_headroom({"a": scores(base)}, {"x": shared})
    assert paired.seeds == 4 and paired.smallest == pytest.approx(0, abs=1e-12)  # the same gain everywhere
    (apart,) = find_headroom({"a": scores(base)}, {"x": {"a": scores(base + 0.1, first=10)}})
    assert apart.seeds == 1 and apart.headroom == pytest.approx(0.1) and apart.deviation == paired.deviation
    (some,) = find_headroom({"a": scores(base)}, {"x": {"a": scores(base + 0.1, first=3)}})
    assert some.seeds == 1 and some.baseline == pytest.approx(base[3].mean())


def test_what_it_says() -> None:
    rng = np.random.default_rng(0)
    base, noise = rng.uniform(size=(1, 50)), rng.normal(0, 0.1, (1, 50))
    small = find_headroom({"nq": scores(base)}, {"task-specific": {"nq": scores(base + noise - noise.mean() + 0.001)}})
    assert headroom_verdict(small).startswith("headroom 0.001 (nq), smallest difference that these seeds and queries")
    assert headroom_verdict(small).endswith(
        "and other seeds may change more: a weighting that gained all of it could not be shown"
    )
    large = find_headroom({"nq": scores(base)}, {"task-specific": {"nq": scores(base + noise + 0.5)}})
    assert headroom_verdict(large).endswith(": a weighting that gained all of it could be shown")
    table = render(headroom_table(large, "naive", "part"), "table")
    assert table.startswith("part: headroom of naive: what the best system has above it") and "task-specific" in table
    worse = find_headroom({"nq": scores(base)}, {"task-specific": {"nq": scores(base - 0.1)}})
    texts = [headroom_text(found, "naive", "table") for found in (large, worse)]
    assert ["task-specific (not better)" in text for text in texts] == [False, True]
    (one,) = find_headroom({"nq": scores(base[:, :1])}, {"x": {"nq": scores(base[:, :1] + 1)}})
    assert one.smallest is None and headroom_verdict([one]) == "headroom: with one query nothing can be shown"


def test_what_cannot_be_compared_is_refused() -> None:
    base = {"a": scores(np.zeros((1, 5)))}
    with pytest.raises(InputError, match="no other system was scored on the topics of the baseline"):
        find_headroom(base, {"x": {"b": base["a"]}})
    with pytest.raises(
        InputError, match=r"headroom on a: x and the baseline were scored on different numbers of queries, \[4, 5\]"
    ):
        find_headroom(base, {"x": {"a": scores(np.zeros((1, 4)))}})
