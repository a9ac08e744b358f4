"""TACO against the T x P formula written from the paper, its laws, and the faults of the released code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from weighting_steps import SHAPES, TABLES, Oracle, flat, parameters, random_gradients, small_blocks, step, vector

from taco_ir.core.files import InputError
from taco_ir.weighting import blocks, median
from taco_ir.weighting.taco import Taco

__all__ = ["small_blocks"]  # a fixture of every test here
STEPS, TASKS = 50, 5
MANTISSA = 2.0**-7  # spacing of bfloat16 numbers, relative, at most


def worst_difference(dtype: torch.dtype, **options: Any) -> float:
    """Between streamed and formula's updates, in 50 steps across the end of burn-in, relative to the largest entry."""
    params = parameters(dtype=dtype)
    theta_P = flat(params, params)
    streamed = Taco(params, TASKS, TABLES, **options)
    known = {key: options[key] for key in ("tau", "beta", "bias_correction") if key in options}
    formula = Oracle(TASKS, len(theta_P), **known)
    worst = 0.0
    for turn in range(STEPS):
        rows = [[None if g is None else g.to(dtype) for g in row] for row in random_gradients(params, TASKS, turn)]
        update, _ = step(streamed, params, rows, turn / STEPS)
        expected = formula.step(torch.stack([flat(row, params) for row in rows]), theta_P, turn / STEPS >= 0.1)
        worst = max(worst, float((update.double() - expected).abs().max() / expected.abs().max()))
    return worst


@pytest.mark.parametrize(
    "options",
    [{}, {"beta": 0.9}, {"beta": 0.3}, {"beta": 0.0}, {"tau": 0.1}, {"tau": -2.0}, {"bias_correction": False}],
    ids=str,
)
def test_streaming_equals_the_formula(options: dict[str, Any]) -> None:
    """Exact up to rounding; beta 0.3 and 0.9 pass the point at which the importance is scaled anew."""
    assert worst_difference(torch.float64, **options) < 1e-10


def test_streaming_equals_the_formula_in_float32() -> None:
    assert worst_difference(torch.float32) < 1e-5


def test_bf16_importance_stays_within_its_digits() -> None:
    """Each of n updates rounds U, which only grows, by less than a spacing: S is off by less than n 2^-7 S.

    The update's derivative by the logit of task k is q_k (g_k - d), so a shift of all logits by at most e moves it by
    at most e times half the range of the tasks' gradients.
    """
    params = parameters(dtype=torch.float32)
    exact = Taco(params, TASKS, TABLES, burn_in=0.0)
    rounded = Taco(params, TASKS, TABLES, burn_in=0.0, importance="bf16")
    assert rounded.importance.dtype == torch.bfloat16
    formula = Oracle(TASKS, sum(param.numel() for param in params))
    theta_P = flat(params, params)
    moved = False
    for turn in range(6):
        grads_TP = torch.stack([flat(row, params) for row in random_gradients(params, TASKS, turn)])
        formula.step(grads_TP.float(), theta_P, True)
        corrected_TP = formula.moving_TP / (1 - formula.beta ** (turn + 1))
        logit_P = ((turn + 1) * MANTISSA * corrected_TP / formula.tau).max(0).values
        range_P = grads_TP.max(0).values - grads_TP.min(0).values
        update, _ = step(exact, params, grads_TP)
        approximate, _ = step(rounded, params, grads_TP)
        difference_P = (approximate - update).double().abs()
        assert bool((difference_P <= logit_P * range_P / 2 + 1e-5 * grads_TP.abs().max(0).values).all())
        moved = moved or float(difference_P.max()) > 0
    assert moved


def test_bf16_importance_does_not_stall() -> None:
    """With equal sensitivities in every step S stays 1 on average; rounding to nearest stalls after 256 updates."""
    params = vector(torch.float32, size=20_000)
    weighting = Taco(params, 1, importance="bf16")
    for _ in range(700):
        step(weighting, params, torch.ones(1, 20_000))
    mean = float(weighting.importance.float().mean()) * float(weighting.decay[0]) / (1 - 0.999**700)
    assert mean == pytest.approx(1, abs=0.01)


# ---- laws


def test_discouraging_is_the_softmax_of_minus_s() -> None:
    params = parameters()
    grads_TP = torch.stack([flat(row, params) for row in random_gradients(params, 3, 0)])
    update, _ = step(Taco(params, 3, TABLES, discourage=True), params, grads_TP)
    torch.testing.assert_close(step(Taco(params, 3, TABLES, tau=-2.0), params, grads_TP)[0], update, rtol=0, atol=0)
    formula = Oracle(3, len(update), tau=-2.0)
    torch.testing.assert_close(update, formula.step(grads_TP, flat(params, params), True), rtol=1e-10, atol=1e-12)


def entropies(q_TP: Tensor) -> Tensor:
    return torch.special.entr(q_TP).sum(0)


@pytest.mark.parametrize("options", [{}, {"discourage": True}, {"bias_correction": False}], ids=str)
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_tau_by_share_is_the_largest_that_reaches_it(options: dict[str, Any], share: float) -> None:
    params = parameters()
    theta_P = flat(params, params)
    weighting = Taco(params, TASKS, TABLES, tau=f"share:{share}", burn_in=0.5, **options)
    formula = Oracle(TASKS, len(theta_P), bias_correction=options.get("bias_correction", True))
    sign = -1 if options.get("discourage") else 1
    for turn in range(8):
        rows = random_gradients(params, TASKS, turn)
        update, report = step(weighting, params, rows, turn / 8)
        grads_TP = torch.stack([flat(row, params) for row in rows])
        if turn == 3:
            assert not weighting.adaptive and weighting.specific_share() is None and "tau" not in report.details
            formula.step(grads_TP, theta_P, False)
            known_P = (formula.moving_TP > 0).any(0)
            chosen = formula.weights
        elif turn == 4:  # chosen under the statistics of the turns before
            tau = report.details["tau"]
            assert tau > 0

            def reached(tau: float, known_P: Tensor = known_P, weights: Any = chosen) -> float:
                formula.tau = sign * tau
                return float((entropies(weights()[:, known_P]) < 0.3 / 2.1 * math.log(TASKS)).double().mean())

            assert reached(tau * 1.001) < share <= reached(tau * (1 - 1e-9))
            reached(tau)
            expected = formula.step(grads_TP, theta_P, True)
            torch.testing.assert_close(update, expected, rtol=1e-8, atol=1e-10)
        else:
            formula.step(grads_TP, theta_P, True)
            assert turn < 4 or report.details["tau"] == tau
    everything = torch.cat([weighting.task_weights(place).flatten(1) for place in range(len(params))], 1)
    seen_P = (torch.cat([formula.moving_TP], 1) > 0).any(0)
    exact = (entropies(everything)[entropies(everything) < math.log(TASKS) - 1e-9] < 0.3 / 2.1 * math.log(TASKS)).sum()
    assert weighting.specific_share() == pytest.approx(int(exact) / int(seen_P.sum()), abs=1e-6)


def test_tau_by_share_waits_for_statistics_and_needs_burn_in() -> None:
    params = vector(size=400)
    weighting = Taco(params, 2, tau="share:0.2")
    even = torch.ones(2, 400, dtype=torch.float64)
    for grads_TP in (0 * even, 0 * even):  # nothing was sensitive to anything: uniform, whatever progress says
        assert step(weighting, params, grads_TP, 0.9)[1].weights == (0.5, 0.5)
    assert not weighting.adaptive
    with pytest.raises(
        InputError, match="burn_in: it is 0.0, but must be a share of the training above 0, since tau is given by share"
    ):
        Taco(params, 2, tau="share:0.2", burn_in=0.0)


def test_shares_of_many_parameters_are_counted_in_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters(dtype=torch.float32)
    weighting = Taco(params, 3, TABLES, burn_in=0.0, tau=0.5)
    for turn in range(3):
        step(weighting, params, random_gradients(params, 3, turn))
    exact = weighting.specific_share()
    monkeypatch.setattr("taco_ir.weighting.taco.SAMPLED", 2000)  # of 3,747
    found = weighting.specific_share()
    assert exact is not None and exact != found == pytest.approx(exact, abs=0.03)
    assert weighting.specific_share() == found


def test_a_high_temperature_is_the_naive_mean() -> None:
    params = parameters()
    grads_TP = torch.stack([flat(row, params) for row in random_gradients(params, 3, 0, spread=0.2)])
    update, _ = step(Taco(params, 3, TABLES, tau=1e12), params, grads_TP)
    torch.testing.assert_close(update, grads_TP.mean(0), rtol=1e-6, atol=1e-9)


def test_a_parameter_follows_the_task_that_is_sensitive_to_it() -> None:
    params = vector(size=4)
    grads_TP = torch.tensor([[9.0, 1, 1, 1], [1, 9, 1, 1]], dtype=torch.float64)
    weighting = Taco(params, 2, tau=1.0)
    update, report = step(weighting, params, grads_TP)
    share = 1 / (1 + math.exp(-8))
    assert update.tolist() == pytest.approx([9 * share + 1 - share, 9 * share + 1 - share, 1, 1])
    assert weighting.task_weights(0)[:, 0].tolist() == pytest.approx([share, 1 - share])
    assert report.weights == pytest.approx([0.5, 0.5])
    assert 0 < report.details["weight_entropy"] < math.log(2)


def test_task_weights_are_those_of_the_update() -> None:
    params = parameters()
    weighting = Taco(params, TASKS, TABLES)
    for turn in range(3):
        rows = random_gradients(params, TASKS, turn)
        update, _ = step(weighting, params, rows)
    q_TP = torch.cat([weighting.task_weights(position).flatten(1) for position in range(len(SHAPES))], 1)
    torch.testing.assert_close(q_TP.sum(0), torch.ones_like(q_TP[0]))
    grads_TP = torch.stack([flat(row, params) for row in rows])
    torch.testing.assert_close((q_TP * grads_TP).sum(0), update, rtol=1e-10, atol=1e-12)


def test_large_logits_do_not_overflow() -> None:
    """S differs by factors of a million, beyond what exp can hold, in either order of the tasks."""
    params = vector(torch.float32, size=5)
    grads_TP = torch.tensor([[1.0, 1, 1, 1e6, 1e-6], [1, 1, 1, 1e-6, 1e6]])
    for rows_TP in (grads_TP, grads_TP.flip(0)):
        update, _ = step(Taco(params, 2, tau=0.01), params, rows_TP)
        assert update.tolist() == pytest.approx([1, 1, 1, 1e6, 1e6])


# ---- faults of the released code


def alike(params: list[torch.nn.Parameter], seed: int) -> Tensor:
    """Four tasks that differ by a tenth."""
    grad_P = flat(random_gradients(params, 1, seed + 1, spread=0.1)[0], params)
    generator = torch.Generator().manual_seed(seed)
    return grad_P * (1 + 0.1 * torch.randn(4, len(grad_P), dtype=torch.float64, generator=generator))


@pytest.mark.parametrize(("released", "ratio"), [(False, 1.0), (True, 0.25)])
def test_the_update_does_not_jump_at_the_end_of_burn_in(released: bool, ratio: float) -> None:
    """The released code divides weights that sum to 1 by T again: T times smaller, reproduced by the option."""
    params = parameters()
    weighting = Taco(params, 4, TABLES, burn_in=0.5, released_scaling=released)
    norms = [
        step(weighting, params, alike(params, turn), turn / 10)[0].norm() / alike(params, turn).mean(0).norm()
        for turn in range(10)
    ]
    assert float(norms[4]) == pytest.approx(1)
    assert float(norms[5]) == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize("importance", ["fp32", "bf16"])
def test_an_accelerator_s_way_is_the_same(importance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where reading a number waits for the device, none is read on the way, and the result is the same."""
    expected = worst_difference(torch.float32, importance=importance)
    monkeypatch.setattr(blocks, "read_at_once", lambda _: False)
    assert worst_difference(torch.float32, importance=importance) == pytest.approx(expected, abs=1e-6)


def test_a_median_of_zero_is_refused_and_left_out_by_default() -> None:
    """More than half of the entries are structural zeros, as in small models with large vocabularies."""
    params = vector(size=5)
    grads_TP = torch.tensor([[1.0, 3, 0, 0, 0], [2.0, 1, 0, 0, 0]], dtype=torch.float64)
    with pytest.raises(InputError, match="because the median sensitivity of task 0 is 0"):
        step(Taco(params, 2, active_only=False), params, grads_TP)
    update, _ = step(Taco(params, 2), params, grads_TP)
    torch.testing.assert_close(update, Oracle(2, 5).step(grads_TP, torch.ones(5), True))


def test_a_median_over_all_entries_counts_zeros() -> None:
    params = vector(size=5)
    weighting = Taco(params, 1, active_only=False, beta=0.0)
    step(weighting, params, torch.tensor([[0.0, 0, 1, 2, 8]], dtype=torch.float64))
    assert weighting.importance[0].tolist() == pytest.approx([0, 0, 1, 2, 8])
    other = Taco(params, 1, beta=0.0)
    step(other, params, torch.tensor([[0.0, 0, 1, 2, 8]], dtype=torch.float64))
    assert other.importance[0].tolist() == pytest.approx([0, 0, 0.5, 1, 4])


@pytest.mark.parametrize("large", [False, True])
def test_rows_that_no_text_touched_are_zeros_of_the_median(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The median over all entries is the same for a table given as such, with a sparse or dense gradient, or not."""
    monkeypatch.setattr(median, "SMALL", 100 if large else median.SMALL)
    monkeypatch.setattr(median, "SAMPLE", 1000)
    params = [Parameter(torch.rand(400, 8) + 0.5), Parameter(torch.rand(6000) + 0.5)]
    table_VD = torch.rand(400, 8) * (torch.arange(400)[:, None] % 5 == 0)
    dense_P = torch.rand(6000)
    found = []
    for embeddings, grad in (((), table_VD), ((0,), table_VD), ((0,), table_VD.to_sparse(1)), ((0,), None)):
        weighting = Taco(params, 1, embeddings, active_only=False, beta=0.0)
        step(weighting, params, [[grad, dense_P]])
        vector_P = torch.cat([table_VD.flatten() if grad is not None else torch.zeros(3200), dense_P])
        values = (vector_P * torch.cat([param.detach().flatten() for param in params])).sort().values
        middle = float(values[(len(values) - 1) // 2])
        found.append(float(weighting.importance[0].max()) * middle / float(values.max()))
    assert found == pytest.approx([1.0] * 4, rel=1e-5)


def test_a_task_without_gradient_keeps_its_importance() -> None:
    params = vector(size=3)
    weighting = Taco(params, 2)
    grads_TP = torch.tensor([[1.0, 2, 3], [3, 2, 1]], dtype=torch.float64)
    step(weighting, params, grads_TP)
    before = weighting.task_weights(0)
    grads_TP[1] = 0
    update, _ = step(weighting, params, grads_TP)
    assert weighting.updates.tolist() == [2, 1]
    torch.testing.assert_close(weighting.task_weights(0), before)
    torch.testing.assert_close(update, before[0] * grads_TP[0])


def test_a_dropped_step_counts_for_the_tasks_that_were_added() -> None:
    """S of a task that was seen has moved, and its count with it, so its bias correction stays right."""
    params = parameters()
    theta_P = flat(params, params)
    weighting, formula = Taco(params, 2, TABLES), Oracle(2, len(theta_P))
    first, second = (torch.stack([flat(row, params) for row in random_gradients(params, 2, seed)]) for seed in (0, 1))
    weighting.begin(0.5)
    for param, part in zip(params, first[0].split([param.numel() for param in params]), strict=True):
        param.grad = part.view(param.shape).clone()
    weighting.add(0, torch.tensor(1.0), params)
    weighting.drop()
    formula.see(0, first[0], theta_P)
    update, _ = step(weighting, params, second)
    assert weighting.updates.tolist() == [2, 1]
    torch.testing.assert_close(update, formula.step(second, theta_P, True), rtol=1e-10, atol=1e-12)


def test_memory_of_the_step_is_given_back() -> None:
    params = parameters()
    weighting = Taco(params, 2, TABLES)
    state = set(weighting.state_dict())
    step(weighting, params, random_gradients(params, 2, 0))
    assert set(weighting.state_dict()) == state == {"importance", "decay", "updates"}
    assert not weighting._running
    assert not weighting._values
    assert not list(weighting.parameters())
