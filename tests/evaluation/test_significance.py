"""Law: p-values fall with the difference and obey the test's symmetries; scipy and hand-computed cases agree."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_comparison import bootstrap_interval, randomisation_test

from taco_ir.core.files import InputError
from taco_ir.evaluation import significance
from taco_ir.evaluation.significance import (
    effect_size,
    flips,
    holm,
    mean_difference,
    paired_differences,
    resampled_means,
)

p_values = st.lists(st.floats(0, 1), max_size=6)
differences = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=12).map(np.array)
SMALL = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=1, max_size=4).map(np.array)


def exact_p(tasks):
    """Share of all sign flips whose statistic is at least as far from 0."""
    sizes = [len(task) for task in tasks]
    flipped = [np.concatenate(tasks) * signs for signs in itertools.product([-1, 1], repeat=sum(sizes))]
    found = [abs(mean_difference(np.split(values, np.cumsum(sizes)[:-1]))) for values in flipped]
    return np.mean(np.array(found) >= abs(mean_difference(tasks)) - 1e-12)


@settings(max_examples=20)
@given(differences, st.integers(0, 100))
def test_p_is_symmetric_positive_and_repeatable(task, seed):
    p = randomisation_test([task], seed, samples=500)
    assert 1 / 501 <= p <= 1
    assert p == randomisation_test([task], seed, samples=500) == randomisation_test([-task], seed, samples=500)
    assert p == pytest.approx(randomisation_test([task * 3], seed, samples=500))


@settings(max_examples=15)
@given(st.lists(SMALL, min_size=1, max_size=2))
def test_p_approaches_the_share_of_all_flips(tasks):
    assert randomisation_test(tasks, seed=1) == pytest.approx(exact_p(tasks), abs=0.03)


def test_no_difference_has_p_one():
    assert randomisation_test([np.zeros(5)], seed=1) == 1.0
    assert randomisation_test([np.array([1.0, -1.0])], seed=1) == 1.0


def test_the_smallest_p_is_one_in_samples_plus_one():
    assert randomisation_test([np.ones(200)], seed=1, samples=999) == 1 / 1000


def test_flips_stay_within_their_task_and_tasks_count_equally():
    small, large = np.array([1.0, 1.0]), np.zeros(1000)
    assert mean_difference([small, large]) == 0.5
    assert randomisation_test([small, large], seed=1) == pytest.approx(0.5, abs=0.02)  # 2 of the small task's 4 flips


def test_blocks_do_not_change_what_is_tested(monkeypatch):
    task = np.random.default_rng(0).normal(0.2, 1, 50)
    whole = randomisation_test([task], seed=1)
    monkeypatch.setattr(significance, "BLOCK", 1000)
    monkeypatch.setattr(significance, "AT_ONCE", 8)
    assert randomisation_test([task], seed=1) == pytest.approx(whole, abs=0.015)
    assert bootstrap_interval([task], seed=1, samples=2001)[0] < task.mean()


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.3])
def test_agrees_with_scipy(shift):
    from scipy.stats import permutation_test

    generator = np.random.default_rng(7)
    a, b = generator.random(60) + shift, generator.random(60)
    expected = permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=10_000, rng=generator
    )
    assert randomisation_test([a - b], seed=3) == pytest.approx(expected.pvalue, abs=0.02)


def flipped_means(differences_QS, generator, samples):
    return np.concatenate(list(flips(differences_QS, generator, samples)))


@pytest.mark.parametrize("resample", [flipped_means, resampled_means])
@settings(max_examples=30, deadline=None)
@given(systems=st.integers(1, 4), queries=st.integers(1, 30), seed=st.integers(0, 99))
def test_systems_are_resampled_alike_and_each_as_if_alone(resample, systems, queries, seed):
    values_QS = np.random.default_rng(seed).normal(size=(queries, systems))
    together_NS = resample(np.concatenate([values_QS, values_QS], axis=1), np.random.default_rng(seed), 50)
    np.testing.assert_allclose(together_NS[:, :systems], together_NS[:, systems:], atol=1e-12)
    for i in range(systems):
        alone_N1 = resample(values_QS[:, i : i + 1], np.random.default_rng(seed), 50)
        np.testing.assert_allclose(together_NS[:, i : i + 1], alone_N1, atol=1e-12)
    assert np.std(together_NS) > 0 or queries == 1


def test_null_p_values_are_uniform():
    generator = np.random.default_rng(5)
    found = [randomisation_test([generator.normal(size=30)], seed, samples=499) for seed in range(300)]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_bootstrap_agrees_with_scipy_and_widens_with_confidence():
    from scipy.stats import bootstrap

    task = np.random.default_rng(3).normal(0.3, 1, 80)
    low, high = bootstrap_interval([task], seed=1)
    expected = bootstrap((task,), np.mean, method="percentile", rng=np.random.default_rng(2)).confidence_interval
    assert (low, high) == pytest.approx(tuple(expected), abs=0.02)
    wide_low, wide_high = bootstrap_interval([task], seed=1, confidence=0.99)
    assert wide_low < low < task.mean() < high < wide_high
    assert (low, high) == bootstrap_interval([task], seed=1)


def test_bootstrap_of_a_macro_average_is_within_tasks():
    tasks = [np.full(3, 1.0), np.full(500, 0.0)]
    assert bootstrap_interval(tasks, seed=1, samples=100) == pytest.approx((0.5, 0.5))


@given(p_values, st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_procedure_rejects(values, alpha):
    order = sorted(range(len(values)), key=lambda index: values[index])
    rejected = set()
    for step, index in enumerate(order):  # stop at the first that is not rejected
        if (len(values) - step) * values[index] > alpha:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(values)) if p <= alpha} == rejected


@given(p_values)
def test_holm_keeps_order_and_only_raises(values):
    adjusted = holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))
    assert sorted(adjusted) == [q for _, q in sorted(zip(values, adjusted, strict=True))]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@settings(deadline=None)  # the first example imports statsmodels
@given(p_values)
def test_holm_agrees_with_statsmodels(values):
    from statsmodels.stats.multitest import multipletests

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.collect", lambda: 0)  # statsmodels collects at every call: a minute in a large process
        expected = multipletests(values, method="holm")[1].tolist() if values else []
    assert holm(values) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None)  # the first example imports scipy
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30).map(np.array).filter(lambda task: np.std(task) > 1e-3))
def test_the_effect_of_one_task_is_that_of_the_paired_t_test(task):
    from scipy.stats import ttest_1samp

    assert effect_size([task]) == pytest.approx(ttest_1samp(task, 0).statistic / np.sqrt(len(task)))
    assert effect_size([task * 5]) == pytest.approx(effect_size([task])) == pytest.approx(-effect_size([-task]))
    assert effect_size([task, task]) == pytest.approx(effect_size([task]))


def test_the_effect_of_several_tasks_by_hand():
    small, large = np.array([1.0, 3.0]), np.tile([0.0, 0.0, 1.0, -1.0], 250)  # variances 2 and 500/999
    assert effect_size([small, large]) == pytest.approx(1.0 / np.sqrt((2 + 500 / 999) / 2))
    assert effect_size([np.ones(4)]) is None
    assert effect_size([small, np.ones(1)]) is None


def test_pairs_are_by_query():
    assert paired_differences({"a": 1.0, "b": 0.5}, {"b": 0.25, "a": 0.0}).tolist() == [1.0, 0.25]
    with pytest.raises(InputError, match="2 queries, such as 'b', are in only one of them"):
        paired_differences({"a": 1.0, "b": 0.5}, {"a": 0.0, "c": 0.5})
