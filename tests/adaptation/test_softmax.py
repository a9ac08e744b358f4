"""The loss over a whole index is the one written out, in value and gradient, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from small_steps import written_out
from stand_in import MatrixIndex, gold, golds_of, unit
from torch import Tensor

from taco_ir.adaptation import softmax
from taco_ir.adaptation.softmax import Gold, Targets, sampled_losses, whole_losses

PASSAGES, DIM, TEMPERATURE = 700, 24, 0.05


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "ROWS", 128)  # of 700 passages: five whole blocks and a part


def brute_force(queries_BD: Tensor, vectors_ND: Tensor, golds: Sequence[Gold], temperature: float) -> Tensor:
    """-log softmax of each positive over itself and all negatives, one query and one positive at a time, in float64."""
    losses = []
    for query_D, (positives, weights, others) in zip(queries_BD.double(), golds, strict=True):
        scores_N = vectors_ND.double() @ query_D / temperature
        negatives = sorted({*range(len(vectors_ND))} - {*positives.tolist(), *others.tolist()})
        each = [-torch.log_softmax(scores_N[[row, *negatives]], 0)[0] for row in positives.tolist()]
        losses.append((torch.stack(each) * torch.from_numpy(weights)).sum())
    return torch.stack(losses)


def value_and_gradient(losses_B: Tensor, queries_BD: Tensor) -> tuple[Tensor, Tensor]:
    weights_B = torch.arange(1.0, 1 + len(losses_B), dtype=losses_B.dtype)
    (grad,) = torch.autograd.grad((losses_B * weights_B).sum(), queries_BD)
    return losses_B.detach(), grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
@pytest.mark.parametrize("temperature", [TEMPERATURE, 1.0])
def test_value_and_gradient_are_those_of_a_brute_force_softmax(
    dtype: Any, tolerance: float, temperature: float
) -> None:
    rng = np.random.default_rng(0)
    index, golds = MatrixIndex(unit(rng, PASSAGES, DIM, dtype)), golds_of(rng, 9, PASSAGES)
    queries_BD = torch.from_numpy(unit(rng, 9, DIM, dtype)).requires_grad_()
    ours = value_and_gradient(whole_losses(queries_BD, index, Targets.of(golds), temperature), queries_BD)
    expected = value_and_gradient(
        brute_force(queries_BD, torch.from_numpy(index.vectors_ND), golds, temperature), queries_BD
    )
    for found, wanted in zip(ours, expected, strict=True):
        assert torch.allclose(
            found.double(), wanted.double(), rtol=tolerance, atol=tolerance * float(wanted.abs().max())
        )
    assert index.largest == 128


def test_it_is_the_loss_of_a_batch_that_holds_the_whole_index() -> None:
    rng = np.random.default_rng(1)
    index, golds = MatrixIndex(unit(rng, PASSAGES, DIM)), [gold([3, 400]), gold([699], [0, 1])]
    queries_BD, vectors_ND = torch.from_numpy(unit(rng, 2, DIM)), torch.from_numpy(index.vectors_ND)
    blocked_BN = np.zeros((2, PASSAGES), bool)
    blocked_BN[1, [0, 1]] = True
    expected = written_out(queries_BD, vectors_ND, [each.positives.tolist() for each in golds], blocked_BN, TEMPERATURE)
    ours = whole_losses(queries_BD, index, Targets.of(golds), TEMPERATURE).mean()
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)


def test_scores_of_any_size_give_finite_losses() -> None:
    rng = np.random.default_rng(2)
    index = MatrixIndex(1000 * unit(rng, 300, DIM))
    queries_BD = torch.from_numpy(1000 * unit(rng, 3, DIM)).requires_grad_()
    targets = Targets.of([gold([0]), gold([150]), gold([299])])
    losses_B, grad = value_and_gradient(whole_losses(queries_BD, index, targets, TEMPERATURE), queries_BD)
    assert losses_B.isfinite().all() and grad.isfinite().all() and losses_B.max() > 1e6


def test_a_query_without_any_negative_costs_nothing() -> None:
    index = MatrixIndex(unit(np.random.default_rng(3), 4, DIM))
    queries_BD = torch.from_numpy(unit(np.random.default_rng(4), 2, DIM)).requires_grad_()
    targets = Targets.of([gold([0, 2], [1, 3]), gold([0], [1, 2])])
    losses_B, grad = value_and_gradient(whole_losses(queries_BD, index, targets, TEMPERATURE), queries_BD)
    assert losses_B[0] == 0 and not grad[0].any()
    assert losses_B[1] > 0 and grad[1].any()


def test_no_query_at_all_is_no_loss() -> None:
    index = MatrixIndex(unit(np.random.default_rng(5), 4, DIM))
    losses_B = whole_losses(torch.zeros(0, DIM, requires_grad=True), index, Targets.of([]), TEMPERATURE)
    assert losses_B.shape == (0,)


def test_read_only_vectors_are_no_reason_for_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    vectors_ND = unit(np.random.default_rng(6), 40, DIM)
    vectors_ND.flags.writeable = False
    whole_losses(torch.from_numpy(vectors_ND[:1].copy()), MatrixIndex(vectors_ND), Targets.of([gold([1])]), 1.0)
    assert not recwarn.list


def sampled(queries_BD: Tensor, index: MatrixIndex, golds: Sequence[Gold], hits: int, random: int, seed: int) -> Tensor:
    drawn = np.random.default_rng(seed).choice(len(index), random, replace=False)
    return sampled_losses(queries_BD, index, Targets.of(golds), TEMPERATURE, hits, drawn)


@pytest.mark.parametrize(("hits", "random"), [(1, PASSAGES), (40, PASSAGES), (PASSAGES, 1)])
def test_the_sampled_loss_of_all_passages_is_the_whole_one(hits: int, random: int) -> None:
    rng = np.random.default_rng(7)
    index, golds = MatrixIndex(unit(rng, PASSAGES, DIM, np.float64)), golds_of(rng, 9, PASSAGES)
    queries_BD = torch.from_numpy(unit(rng, 9, DIM, np.float64)).requires_grad_()
    ours = value_and_gradient(sampled(queries_BD, index, golds, hits, random, 0), queries_BD)
    expected = value_and_gradient(whole_losses(queries_BD, index, Targets.of(golds), TEMPERATURE), queries_BD)
    for found, wanted in zip(ours, expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-10)


def test_the_sampled_loss_converges_to_the_whole_one() -> None:
    """The error of value and gradient falls as the root of the number of random passages, and hits lower it."""
    rng = np.random.default_rng(8)
    index, golds = MatrixIndex(unit(rng, 4000, DIM, np.float64)), golds_of(rng, 4, 4000)
    queries_BD = torch.from_numpy(unit(rng, 4, DIM, np.float64)).requires_grad_()
    expected = value_and_gradient(whole_losses(queries_BD, index, Targets.of(golds), TEMPERATURE), queries_BD)

    def error(hits: int, random: int) -> tuple[float, float]:
        found = [value_and_gradient(sampled(queries_BD, index, golds, hits, random, n), queries_BD) for n in range(40)]
        value, grad = (torch.stack(each) for each in zip(*found, strict=True))
        gaps = ((value - expected[0]).pow(2).mean().sqrt(), (grad - expected[1]).pow(2).mean().sqrt())
        return tuple(map(float, gaps))  # type: ignore[return-value]

    few, many, more_hits = error(20, 50), error(20, 800), error(400, 50)
    for place in range(2):
        assert many[place] < few[place] / 3  # 16 times as many: a quarter of the error
        assert more_hits[place] < few[place] / 2


def test_the_estimated_sum_is_unbiased() -> None:
    """The mean of exp(logsumexp) over all samples of one random passage is the sum over all negatives."""
    rng = np.random.default_rng(9)
    index, golds = MatrixIndex(unit(rng, 30, DIM, np.float64)), [gold([4], [5, 6])]
    query_D = torch.from_numpy(unit(rng, 1, DIM, np.float64))
    score = float(query_D[0] @ torch.from_numpy(index.vectors_ND[4])) / TEMPERATURE

    def sum_of_negatives(loss: Tensor) -> float:
        return math.expm1(float(loss)) * math.exp(score)  # loss = log(1 + sum / exp(score))

    hits = set(index.search(query_D.numpy(), 3)[0].tolist())
    rest = [row for row in range(30) if row not in {4, 5, 6} | hits]
    sums = [
        sum_of_negatives(sampled_losses(query_D, index, Targets.of(golds), TEMPERATURE, 3, np.array([row])))
        for row in rest
    ]
    whole = sum_of_negatives(whole_losses(query_D, index, Targets.of(golds), TEMPERATURE))
    assert np.mean(sums) == pytest.approx(whole, rel=1e-9)
    assert np.std(sums) > 0


def test_a_sampled_loss_does_not_depend_on_the_other_queries() -> None:
    rng = np.random.default_rng(10)
    index, golds = MatrixIndex(unit(rng, PASSAGES, DIM, np.float64)), golds_of(rng, 5, PASSAGES)
    queries_BD = torch.from_numpy(unit(rng, 5, DIM, np.float64))
    together = sampled(queries_BD, index, golds, 20, 60, 0)
    alone = [sampled(queries_BD[row : row + 1], index, golds[row : row + 1], 20, 60, 0) for row in range(5)]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-12)
