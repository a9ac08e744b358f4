"""Shares of a batch sum to it, leave no task out and follow the sizes; TACO's own batch sizes come out."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.training.schedules import RETRIEVAL, Scheduled, epoch_steps
from taco_ir.training.settings import ObjectiveSettings
from taco_ir.training.task_shares import HOW, batch_shares

SIZES = st.lists(st.integers(1, 10**6), min_size=1, max_size=12)
TACO_SIZES = [76_000, 53_000, 69_000, 80_000, 95_000, 71_000, 100_000, 18_000]


@given(SIZES, st.integers(0, 500), st.sampled_from(HOW), st.floats(0.5, 20))
def test_shares_sum_to_the_batch_and_follow_the_sizes(
    sizes: list[int], spare: int, how: str, temperature: float
) -> None:
    batch = len(sizes) + spare
    shares = batch_shares(sizes, batch, how, temperature)
    assert sum(shares) == batch and min(shares) >= 1
    by_size = sorted(zip(sizes, shares, strict=True), key=lambda pair: pair[0])
    for (size, share), (larger, larger_share) in pairwise(by_size):
        assert share <= larger_share + (size == larger or how == "uniform")


@given(SIZES, st.integers(0, 500), st.floats(0.5, 20))
def test_a_share_is_its_quota_rounded_down_or_up(sizes: list[int], spare: int, temperature: float) -> None:
    batch = len(sizes) + spare
    weights = [size ** (1 / temperature) for size in sizes]
    quotas = [batch * weight / math.fsum(weights) for weight in weights]
    if min(quotas) >= 1:
        for share, quota in zip(batch_shares(sizes, batch, "temperature", temperature), quotas, strict=True):
            assert quota - 1 - 1e-6 < share < quota + 1 + 1e-6


def test_a_higher_temperature_is_more_even() -> None:
    spreads = [
        max(shares) - min(shares) for c in (1, 2, 4, 64) if (shares := batch_shares(TACO_SIZES, 120, "temperature", c))
    ]
    assert spreads == sorted(spreads, reverse=True) and spreads[0] > spreads[-1]
    assert batch_shares(TACO_SIZES, 120, "proportional") == batch_shares(TACO_SIZES, 120, "temperature", 1)


def test_shares_of_taco() -> None:
    assert batch_shares(TACO_SIZES, 120, "temperature") == [16, 14, 15, 16, 16, 15, 17, 11]
    assert batch_shares(TACO_SIZES, 120, "uniform") == [15] * 8


def test_small_tasks_keep_one_at_the_cost_of_the_large() -> None:
    assert batch_shares([1_000_000, 1, 1], 6, "proportional") == [4, 1, 1]
    assert batch_shares([1_000_000, 1_000_000, 1, 1, 1], 6, "proportional") == [2, 1, 1, 1, 1]


def test_explicit_shares_set_the_batch() -> None:
    assert batch_shares([10, 20], 999, [3, 1]) == [3, 1]


@pytest.mark.parametrize("shares", [[3], [3, 1, 1], [3, 0], [3, -1], []])
def test_explicit_shares_are_checked(shares: list[int]) -> None:
    with pytest.raises(InputError, match="2 tasks need 2 whole numbers, each at least 1"):
        batch_shares([10, 20], 8, shares)


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match="batch of 1 for 2 tasks; .*at least 2"):
        batch_shares([10, 20], 1, "uniform")
    with pytest.raises(InputError, match="task mixing 'even'; valid: proportional, temperature, uniform"):
        batch_shares([10, 20], 8, "even")
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="temperature"):
            batch_shares([10, 20], 8, "temperature", temperature)


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 50)), min_size=1, max_size=8))
def test_an_epoch_is_the_longest_task(tasks: list[tuple[int, int]]) -> None:
    sizes, shares = [size for size, _ in tasks], [share for _, share in tasks]
    steps = steps_of(sizes, shares)
    assert all(steps * share >= size for size, share in tasks)
    assert any((steps - 1) * share < size for size, share in tasks)


def test_steps_of_an_epoch() -> None:
    assert steps_of([100, 7], [16, 2]) == 7


def steps_of(sizes: list[int], shares: list[int]) -> int:
    """Steps of an epoch of tasks of retrieval that every step takes."""
    return epoch_steps(ObjectiveSettings(), [Scheduled(RETRIEVAL, size) for size in sizes], shares)
