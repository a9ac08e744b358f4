"""The contrastive loss and its gradient, against the definition written out query by query in float64."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_steps import written_out
from torch import Tensor

from taco_ir.training.objectives.contrastive import contrastive_loss

LAW = settings(deadline=None, max_examples=60)


class Case(NamedTuple):
    query_BD: Tensor
    passage_ND: Tensor
    positives: list[tuple[int, ...]]
    blocked_BN: Tensor
    temperature: float


@st.composite
def cases(draw: st.DrawFn) -> Case:
    queries, width = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    counts = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=queries, max_size=queries))
    positives, columns = [], 0
    for own, others in counts:
        positives.append(tuple(range(columns, columns + own)))
        columns += own + others
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    scale = draw(st.sampled_from([0.1, 1.0, 6.0]))
    blocked_BN = torch.rand(queries, columns, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    for row, own_columns in enumerate(positives):
        blocked_BN[row, list(own_columns)] = False
    query_BD, passage_ND = (scale * torch.randn(rows, width, generator=generator) for rows in (queries, columns))
    return Case(query_BD, passage_ND, positives, blocked_BN, draw(st.sampled_from([0.05, 0.5, 1.0, 2.0])))


def with_gradient(case: Case) -> Case:
    return case._replace(
        query_BD=case.query_BD.clone().requires_grad_(), passage_ND=case.passage_ND.clone().requires_grad_()
    )


def gradients(case: Case) -> tuple[Tensor, Tensor]:
    assert case.query_BD.grad is not None and case.passage_ND.grad is not None
    return case.query_BD.grad, case.passage_ND.grad


@LAW
@given(cases())
def test_loss_and_gradient_are_those_of_the_definition(case: Case) -> None:
    ours, plain = with_gradient(case), with_gradient(case)
    loss, expected = contrastive_loss(*ours), written_out(*plain)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-5, atol=2e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    expected.backward()  # type: ignore[no-untyped-call]
    for found, wanted in zip(gradients(ours), gradients(plain), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@LAW
@given(cases())
def test_a_blocked_passage_is_as_good_as_absent(case: Case) -> None:
    """Vectors of passages that are blocked for a query neither change its loss nor get a gradient from it."""
    for row, columns in enumerate(case.positives):
        one = with_gradient(
            Case(case.query_BD[row : row + 1], case.passage_ND, [columns], case.blocked_BN[row : row + 1], 1.0)
        )
        loss = contrastive_loss(*one)
        loss.backward()  # type: ignore[no-untyped-call]
        blocked_N = case.blocked_BN[row]
        assert not gradients(one)[1][blocked_N].any()
        moved_ND = torch.where(blocked_N[:, None], torch.tensor(1e6), case.passage_ND)
        assert float(contrastive_loss(*one._replace(passage_ND=moved_ND)).detach()) == float(loss.detach())


def test_gradient_by_differences() -> None:
    generator = torch.Generator().manual_seed(3)
    query_BD, passage_ND = (
        torch.randn(rows, 3, generator=generator, dtype=torch.float64, requires_grad=True) for rows in (2, 5)
    )
    blocked_BN = torch.tensor([[False, False, False, True, False], [False, True, False, False, False]])

    def loss(query_BD: Tensor, passage_ND: Tensor) -> Tensor:
        return contrastive_loss(query_BD, passage_ND, [(0, 1), (3,)], blocked_BN, 0.7)

    # the loss itself is in float32, so steps are large and tolerances what its rounding leaves
    assert torch.autograd.gradcheck(loss, (query_BD, passage_ND), eps=1e-2, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("size", [0.1, 1.0, 1000.0])
def test_a_query_whose_negatives_are_all_blocked_learns_nothing(size: float) -> None:
    query_BD = (size * torch.tensor([[1.0, 2.0], [0.5, -1.0]])).requires_grad_()
    passage_ND = (size * torch.tensor([[-3.0, 0.0], [1.0, 1.0], [2.0, 1.0]])).requires_grad_()
    blocked_BN = torch.tensor([[False, True, True], [True, False, True]])
    loss = contrastive_loss(query_BD, passage_ND, [(0,), (1,)], blocked_BN)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    for tensor in (query_BD, passage_ND):
        assert tensor.grad is not None and not tensor.grad.any()  # NaN would count as any


def test_it_takes_part_in_the_mean() -> None:
    """A query without negatives halves the other one's loss: the mean is over all queries."""
    vectors = torch.eye(2)
    alone = contrastive_loss(vectors[:1], vectors, [(0,)], torch.zeros(1, 2, dtype=torch.bool))
    both = contrastive_loss(vectors, vectors, [(0,), (1,)], torch.tensor([[False, False], [True, False]]))
    torch.testing.assert_close(both, alone / 2)


def test_values_by_hand() -> None:
    query_BD, passage_ND = torch.tensor([[1.0]]), torch.tensor([[2.0], [1.0], [0.0]])
    free_BN = torch.zeros(1, 3, dtype=torch.bool)
    e = math.e
    # one positive: exp(2) of exp(2) + exp(1) + exp(0)
    assert float(contrastive_loss(query_BD, passage_ND, [(0,)], free_BN)) == pytest.approx(
        -math.log(e**2 / (e**2 + e + 1))
    )
    # temperature 0.5 doubles the scores
    halved = -math.log(e**4 / (e**4 + e**2 + 1))
    assert float(contrastive_loss(query_BD, passage_ND, [(0,)], free_BN, 0.5)) == pytest.approx(halved)
    # two positives do not compete: each against the third passage alone
    two = (math.log(1 + e**-2) + math.log(1 + e**-1)) / 2
    assert float(contrastive_loss(query_BD, passage_ND, [(0, 1)], free_BN)) == pytest.approx(two)


def test_vectors_of_half_precision_are_scored_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    query_BD, passage_ND = (torch.randn(4, 8, generator=generator).bfloat16() for _ in range(2))
    case = ([(row,) for row in range(4)], torch.zeros(4, 4, dtype=torch.bool))
    loss = contrastive_loss(query_BD, passage_ND, *case)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), written_out(query_BD, passage_ND, *case), rtol=1e-6, atol=1e-6)
