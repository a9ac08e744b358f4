"""Chunks, GradCache and recomputed activations leave vectors and gradients as one padded pass gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_steps import PASSAGES, assert_near, encoder, gradients
from torch import Tensor

from taco_ir.core.types import Passage
from taco_ir.training import backward as backward_module
from taco_ir.training.backward import Arithmetic, backward, plan_cuts
from taco_ir.training.encoder import DualEncoder, Text

QUERIES = ["", "Bach", *(passage.text[: 10 * row] for row, passage in enumerate(PASSAGES[:7], 1))]
EMPTY = Passage("empty#0", "empty", "", "")
COLUMNS = [EMPTY, *(passage._replace(text=passage.text[: 40 * row]) for row, passage in enumerate(PASSAGES[10:18]))]
Loss = Callable[[Tensor], Tensor]


def texts_of(model: DualEncoder) -> list[Text]:
    """Texts of many lengths, in no order of theirs, an empty one in each tower."""
    return model.tokenize_queries(QUERIES, "nq") + model.tokenize_passages(COLUMNS)


def spread(vectors_ND: Tensor) -> Tensor:
    """A loss in which every vector counts, and differs for another order of them."""
    places = torch.linspace(-1, 1, vectors_ND.numel()).view_as(vectors_ND)
    return (vectors_ND * places).sum() + (vectors_ND @ vectors_ND.T).tanh().sum()


def run(
    model: DualEncoder, arithmetic: Arithmetic, seed: Sequence[int | str] = (0, "nq"), loss: Loss = spread
) -> tuple[float, list[Tensor]]:
    return float(backward(model, texts_of(model), loss, arithmetic, seed)), gradients(model)


def vectors_of(model: DualEncoder, arithmetic: Arithmetic = Arithmetic()) -> Tensor:  # noqa: B008  (a tuple)
    """What the loss is given."""
    seen: list[Tensor] = []

    def loss(vectors_ND: Tensor) -> Tensor:
        seen.append(vectors_ND.detach().clone())
        return vectors_ND.sum()

    backward(model, texts_of(model), loss, arithmetic, (0,))
    model.zero_grad()
    return seen[0]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("base", ["tiny_bert", "tiny_t5"])
def test_gradcache_is_the_plain_backward(
    base: str, untied: bool, dropout: float, request: pytest.FixtureRequest
) -> None:
    """With dropout too, where both draw the same: one text a chunk makes their chunks alike."""
    model = encoder(request.getfixturevalue(base), untied=untied, dropout=dropout)
    for size in (1, 3, 100) if not dropout else (1,):
        with pytest.MonkeyPatch.context() as patch:
            if dropout:
                patch.setitem(backward_module.CHUNK_TOKENS, "cpu", 1)
            plain_loss, plain = run(model, Arithmetic())
            loss, cached = run(model, Arithmetic(gradcache=size))
        assert loss == pytest.approx(plain_loss, rel=1e-6)
        assert_near(cached, plain, 1e-6 if dropout else 5e-6)  # other chunks are summed in another order


@pytest.mark.parametrize("base", ["tiny_bert", "tiny_t5"])
def test_gradcache_repeats_its_dropout(base: str, request: pytest.FixtureRequest) -> None:
    """The second pass computes the gradient of the first pass's loss, as a plain backward over the same chunks does."""
    model = encoder(request.getfixturevalue(base), dropout=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            backward_module,
            "_plan_chunks",
            lambda model, texts, most: iter([[3, 0], [5, 1, 2, 4], list(range(6, len(texts)))]),
        )
        plain_loss, plain = run(model, Arithmetic())
        loss, cached = run(model, Arithmetic(gradcache=4))
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    assert_near(cached, plain, 1e-6)


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("untied", [False, True])
def test_chunks_change_no_vector_and_keep_the_order(
    tiny_bert: Path, pooling: str, untied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = encoder(tiny_bert, pooling=pooling, untied=untied)
    if untied:
        with torch.no_grad():
            for param in model.towers["query"].parameters():
                param.mul_(1.1)
    queries, passages = model.tokenize_queries(QUERIES, "nq"), model.tokenize_passages(COLUMNS)
    with torch.no_grad():
        padded_ND = torch.cat([model(queries), model(passages)])
    assert torch.pdist(padded_ND[1:]).min() > 1e-3  # texts are told apart, so that their order is seen
    monkeypatch.setattr(backward_module, "PASS_TOKENS", {"cpu": 1})  # many chunks
    for most in (0, 1, 2, 7):
        assert_near([vectors_of(model, Arithmetic(gradcache=most))], [padded_ND], 1e-6)


def test_no_texts_are_no_work(tiny_bert: Path) -> None:
    """A process whose part of a batch is empty."""
    model = encoder(tiny_bert)
    for arithmetic in (Arithmetic(), Arithmetic(gradcache=2)):
        assert backward(model, [], lambda vectors_ND: vectors_ND.sum() + 3, arithmetic, (0,)) == 3
        assert all(param.grad is None for param in model.parameters())


def test_gradients_add_up(tiny_bert: Path) -> None:
    model = encoder(tiny_bert)
    _, once = run(model, Arithmetic())
    backward(model, texts_of(model), spread, Arithmetic(), (0,))
    _, twice = run(model, Arithmetic())
    assert_near(twice, [2 * grad for grad in once], 1e-6)


@pytest.mark.parametrize("gradcache", [0, 3])
def test_dropout_is_the_seed_s(tiny_bert: Path, gradcache: int) -> None:
    model = encoder(tiny_bert, dropout=0.3)
    arithmetic = Arithmetic(gradcache=gradcache)
    losses = []
    for seed in ((1, "nq", 0), (1, "nq", 0), (2, "nq", 0), (1, "wow", 0), (1, "nq", 1)):
        torch.rand(3)  # what was drawn before is of no account
        losses.append(run(model, arithmetic, seed)[0])
    assert losses[0] == losses[1]
    assert len(set(losses)) == 4


def test_chunks_do_not_share_their_dropout(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder(tiny_bert, dropout=0.5)
    texts = [model.tokenize_queries(["the same text"], "nq")[0]] * 2
    seen: list[Tensor] = []

    def loss(vectors_ND: Tensor) -> Tensor:
        seen.append(vectors_ND.detach())
        return vectors_ND.sum()

    backward(model, texts, loss, Arithmetic(gradcache=1), (0,))
    assert not torch.allclose(seen[0][0], seen[0][1], atol=1e-3)


@pytest.mark.parametrize("gradcache", [0, 4])
def test_bfloat16_is_close_to_float32(tiny_bert: Path, gradcache: int) -> None:
    model = encoder(tiny_bert)
    _, exact = run(model, Arithmetic(gradcache=gradcache))
    _, rough = run(model, Arithmetic(bf16=True, gradcache=gradcache))
    assert all(grad.dtype == torch.float32 for grad in rough)
    flat, near = (torch.cat([grad.flatten() for grad in grads]) for grads in (exact, rough))
    difference = float((flat - near).norm() / flat.norm())
    assert 1e-5 < difference < 0.03  # it is another arithmetic, of 8 bits


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("base", "pooling"), [("tiny_bert", "mean"), ("tiny_t5", "mean"), ("tiny_t5", "decoder")])
def test_activations_computed_again_are_the_same(
    base: str, pooling: str, dropout: float, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(base)
    plain, again = (
        encoder(folder, pooling=pooling, dropout=dropout, gradient_checkpointing=on) for on in (False, True)
    )
    assert again.towers["passage"]["backbone"].is_gradient_checkpointing  # type: ignore[index]
    for gradcache in (0, 3):
        loss, expected = run(plain, Arithmetic(gradcache=gradcache))
        other, found = run(again, Arithmetic(gradcache=gradcache))
        assert other == pytest.approx(loss, rel=1e-6)
        assert_near(found, expected, 1e-6)


def cost(lengths: Sequence[int], ends: Sequence[int], fixed: int) -> int:
    return sum(lengths[start] * (end - start) + fixed for start, end in zip([0, *ends], ends, strict=False))


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=8),
    st.integers(1, 8),
    st.integers(1, 900),
    st.sampled_from([0, 200, 1 << 15]),
)
def test_cuts_cost_the_least_of_all_allowed(lengths: list[int], most: int, tokens: int, fixed: int) -> None:
    lengths.sort(reverse=True)

    def ways(start: int) -> list[list[int]]:
        if start == len(lengths):
            return [[]]
        ends = range(start + 1, min(start + most, len(lengths)) + 1)
        allowed = [end for end in ends if end == start + 1 or lengths[start] * (end - start) <= tokens]
        return [[end, *rest] for end in allowed for rest in ways(end)]

    found = plan_cuts(lengths, most, tokens, fixed)
    assert found in ways(0)
    assert cost(lengths, found, fixed) == min(cost(lengths, each, fixed) for each in ways(0))


def compared(lengths: Sequence[int], most: int, tokens: int, fixed: int) -> list[int]:
    """The cheapest cuts, by trying every start of every chunk; of equal ones those with the longest last chunks."""
    cost, start_of = [0], [0]
    for end in range(1, len(lengths) + 1):
        starts = range(max(end - most, 0), end)
        ways = [(cost[start] + lengths[start] * (end - start) + fixed, start) for start in starts]
        best = min(way for way in ways if way[1] == end - 1 or lengths[way[1]] * (end - way[1]) <= tokens)
        cost.append(best[0])
        start_of.append(best[1])
    ends = [len(lengths)]
    while start_of[ends[-1]]:
        ends.append(start_of[ends[-1]])
    return ends[::-1]


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=120),
    st.sampled_from([1, 2, 3, 7, 50, 120, 1000]),
    st.sampled_from([1, 40, 300, 900, 2048, 1 << 17]),
    st.sampled_from([0, 1, 13, 200, 1 << 15]),
    st.sampled_from([1, 16, 100]),
)
def test_cuts_are_those_of_comparing_all_starts(
    lengths: list[int], most: int, tokens: int, fixed: int, step: int
) -> None:
    """Among equal lengths and ways of equal cost too."""
    lengths = sorted((length // step for length in lengths), reverse=True)
    assert plan_cuts(lengths, most, tokens, fixed) == compared(lengths, most, tokens, fixed)


class Reads(list[int]):
    """A list that counts how often its items are asked for."""

    count = 0

    def __getitem__(self, place: Any) -> Any:
        self.count += 1
        return super().__getitem__(place)


@pytest.mark.parametrize(("tokens", "fixed"), [(2048, 200), (1 << 17, 1 << 15)])
def test_planning_looks_at_each_text_a_few_times(tokens: int, fixed: int) -> None:
    """All starts of every chunk would be 25 looks at each text."""
    lengths = Reads(sorted((8 + 7919 * place % 250 for place in range(3072)), reverse=True))
    assert plan_cuts(lengths, 3072, tokens, fixed)[-1] == len(lengths)
    assert lengths.count < 10 * len(lengths)
