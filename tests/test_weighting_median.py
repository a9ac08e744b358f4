"""The median of sensitivities: exact by counting and picking, and that of a sample."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taco_ir.weighting import median as module
from taco_ir.weighting.median import Sensitivities, median

LARGE = module.SMALL + 50_000  # long enough for the bracket


def lower_median(values: Tensor, active_only: bool) -> float:
    """Of all values, or of those above the rounding noise of the module's sample."""
    if active_only:
        sample = of(values).sample(len(values) if len(values) <= module.SMALL else module.SAMPLE)
        noise = torch.finfo(values.dtype).eps * float(sample.sum()) / max(1, int((sample > 0).sum()))
        values = values[values > noise]
    return float(values.sort().values[(len(values) - 1) // 2]) if len(values) else 0.0


def of(values: Tensor, cut: int = 0) -> Sensitivities:
    """`values` as sensitivities of parameters that are 1, in one or two pieces."""
    pieces = [values] if not cut else [values[:cut], values[cut:]]
    return Sensitivities([(piece, torch.ones_like(piece)) for piece in pieces], 4096)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([0.0, 0.0, 1e-20, 0.5, 1.0, 3.0, 1e20]), min_size=1, max_size=40), st.booleans())
def test_of_few_values(values: list[float], active_only: bool) -> None:
    given_values = torch.tensor(values)
    assert median(of(given_values), active_only, exact=True) == lower_median(given_values, active_only)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 1000),
    zeros=st.sampled_from([0.0, 0.3, 0.8]),
    spread=st.sampled_from([0.1, 3.0]),
    levels=st.sampled_from([0, 3, 1000]),
    ordered=st.booleans(),
    active_only=st.booleans(),
)
def test_of_many_values(seed: int, zeros: float, spread: float, levels: int, ordered: bool, active_only: bool) -> None:
    """Zeros, heavy tails, ties and sorted values."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.exp(spread * torch.randn(LARGE, generator=generator))
    if levels:
        values = torch.ceil(values * levels) / levels
    values[torch.rand(LARGE, generator=generator) < zeros] = 0
    values = values.sort().values if ordered else values
    assert median(of(values), active_only, exact=True) == lower_median(values, active_only)


def test_pieces_are_one_vector() -> None:
    values = torch.rand(LARGE)
    assert median(of(values, cut=100_001), True, exact=True) == lower_median(values, True)


@pytest.mark.parametrize("size", [1000, LARGE])
def test_rounding_noise_is_not_active(size: int) -> None:
    """Entries without a gradient are now 0, now 1e-18 of the others: the median must not depend on it."""
    values = torch.rand(size, dtype=torch.float32) + 0.1
    values[::3] = 0
    noisy = values.clone()
    noisy[::6] = 1e-18  # where it was 0
    assert median(of(noisy), True, exact=True) == median(of(values), True, exact=True)
    assert median(of(noisy), False, exact=True) < 0.5 < median(of(values), True, exact=True)


def test_a_bracket_that_misses_is_noticed() -> None:
    values = torch.rand(LARGE)
    for bracket in (module._Bracket(0.6, 0.7), module._Bracket(0.1, 0.2)):
        assert module._select(of(values), bracket, floor=0.0) is None
    assert module._select(of(values), module._Bracket(0.4, 0.6), floor=0.0) == lower_median(values, True)


def test_a_sample_is_near() -> None:
    """Of n = 130,000 from a log-normal of spread 1 the median's relative error has a deviation of 1.25 / sqrt(n) = 0.35 %."""
    values = torch.exp(torch.randn(2_000_000, generator=torch.Generator().manual_seed(0)))
    assert median(of(values), True, exact=False) == pytest.approx(lower_median(values, True), rel=5 * 0.0035)


def test_a_sample_prefers_no_column() -> None:
    """Columns of a matrix differ by far; an even distance that divides its width would see one of them only."""
    values = (torch.arange(384.0) + 1).expand(8000, 384).flatten()
    assert median(of(values), True, exact=False) == pytest.approx(192.5, rel=0.02)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("exact", [True, False])
def test_values_that_are_not_finite_are_reported(bad: float, size: int, exact: bool) -> None:
    values = torch.ones(size)
    values[7] = bad
    assert math.isnan(median(of(values), True, exact))
