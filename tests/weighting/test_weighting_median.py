"""The median of sensitivities: exact by counting and picking, in a bracket that a sample gives."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from taco_ir.weighting import blocks
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


@pytest.fixture(autouse=True, params=["processor", "accelerator"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways of computing it, on the processor: as there, and as where reading a number waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "read_at_once", lambda _: request.param == "processor")
        yield request.param


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([0.0, 0.0, 1e-20, 0.5, 1.0, 3.0, 1e20]), min_size=1, max_size=40), st.booleans())
def test_of_few_values(values: list[float], active_only: bool) -> None:
    given_values = torch.tensor(values)
    assert median(of(given_values), active_only) == lower_median(given_values, active_only)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    assert median(of(values), active_only) == lower_median(values, active_only)


def test_pieces_are_one_vector() -> None:
    values = torch.rand(LARGE)
    assert median(of(values, cut=100_001), True) == lower_median(values, True)


@pytest.mark.parametrize("size", [1000, LARGE])
def test_rounding_noise_is_not_active(size: int) -> None:
    """Entries without a gradient are now 0, now 1e-18 of the others: the median must not depend on it."""
    values = torch.rand(size, dtype=torch.float32) + 0.1
    values[::3] = 0
    noisy = values.clone()
    noisy[::6] = 1e-18  # where it was 0
    assert median(of(noisy), True) == median(of(values), True)
    assert median(of(noisy), False) < 0.5 < median(of(values), True)


def test_a_bracket_that_misses_is_noticed(device: str) -> None:
    values = torch.rand(LARGE)
    select = module.select_in_bracket if device == "processor" else module.select_by_one_reading
    for bracket in ((0.6, 0.61), (0.1, 0.11)):
        assert select(of(values), bracket, floor=0.0) is None
    assert select(of(values), (0.49, 0.51), floor=0.0) == lower_median(values, True)
    if device == "accelerator":  # more lies inside than there is room for
        assert select(of(values), (0.4, 0.6), floor=0.0) is None


@pytest.mark.parametrize("zeros", [1, 1000, LARGE // 2, LARGE - 1, LARGE, 3 * LARGE])
@pytest.mark.parametrize("count", [100, LARGE])
def test_zeros_that_are_nowhere_count(count: int, zeros: int) -> None:
    """As if they were there, unless only what is active counts."""
    values = torch.rand(count) + 0.5
    sensitivities = Sensitivities([(values, torch.ones(count))], 4096, zeros)
    assert median(sensitivities, False) == lower_median(torch.cat([values, torch.zeros(zeros)]), False)
    assert median(sensitivities, True) == lower_median(values, True)


def test_a_sample_prefers_no_column() -> None:
    """Columns of a matrix differ by far; an even distance that divides its width would see one of them only."""
    values = (torch.arange(384.0) + 1).expand(8000, 384).flatten()
    assert float(of(values).sample(module.SAMPLE).median()) == pytest.approx(192.5, rel=0.02)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("size", [10, LARGE])
def test_values_that_are_not_finite_are_reported(bad: float, size: int) -> None:
    values = torch.ones(size)
    values[7] = bad
    assert math.isnan(median(of(values), True))
