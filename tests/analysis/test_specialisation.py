"""Specialisation: entropies against the T x P formula, laws of the shares, names of modules, and what the page says."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from page_samples import analysis
from small_steps import encoder, gradient, gradients, step_of
from torch import Tensor
from torch.nn import Parameter

from taco_ir.analysis.measure import OnlineEntropy, measure, shuffle
from taco_ir.analysis.specialisation_page import render_page
from taco_ir.analysis.summary import (
    DENSITY_EDGES,
    EDGES,
    NOT_ACTIVATED,
    Counts,
    bin_edges,
    by_kind,
    by_layer,
    kind_of,
    layer_of,
    merge_counts,
    pair_runs,
    to_dict,
    verdict,
)
from taco_ir.core.files import InputError
from taco_ir.weighting.median import Sensitivities, median

TAU, BATCHES = 2.0, 3


class _Model:
    def __init__(self, params: Sequence[Parameter]) -> None:
        name = "towers.passage.backbone.encoder.layer.{}.output.dense.weight"
        self._named = [(name.format(number), param) for number, param in enumerate(params)]

    def trained_parameters(self) -> list[tuple[str, Parameter]]:
        return self._named


class ToyTask:
    """Gradients of a task's batches that are written down, one tensor for each parameter."""

    def __init__(self, task: str, params: Sequence[Parameter], given: Sequence[Sequence[Tensor]]) -> None:
        self.task = task
        self.params = list(params)
        self.model = _Model(params)
        self.batch = given.__getitem__

    def backward(self, batch: Sequence[Tensor]) -> Tensor:
        for param, grad in zip(self.params, batch, strict=True):
            param.grad = grad.clone()
        return torch.zeros(())


def toy_tasks(params: Sequence[Parameter], given: Sequence[Sequence[Sequence[Tensor]]]) -> list[Any]:
    return [ToyTask(f"task{number}", params, batches) for number, batches in enumerate(given)]


def toy(tasks: int, seed: int = 0) -> tuple[list[Parameter], list[list[list[Tensor]]]]:
    """Parameters in float64 and gradients over many decades; a part is sensitive to one task alone, a part to none."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    params = [Parameter(normal(7, 11)), Parameter(normal(13)), Parameter(normal(40))]
    found = [
        [[normal(*param.shape) * (normal(*param.shape) * 2).exp() for param in params] for _ in range(BATCHES)]
        for _ in range(tasks)
    ]
    for task, batches in enumerate(found):
        for grads in batches:
            grads[1][: 5 + task] = 0 if task else 1.5
            grads[2][:9] = 0
            grads[2][9:12] *= 1e-12
    return params, found


def brute_force(
    params: Sequence[Parameter], given: Sequence[Sequence[Sequence[Tensor]]], tau: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropies [P], leading tasks [P] and activated ones [P] from the whole T x P matrix."""
    theta_P = torch.cat([param.detach().flatten() for param in params])
    scaled_TP, plain_TP = [], []
    for batches in given:
        s_BP = torch.stack([(torch.cat([grad.flatten() for grad in grads]) * theta_P).abs() for grads in batches])
        middles = [row[row > row[row > 0].mean() * torch.finfo(row.dtype).eps].median() for row in s_BP]
        scaled_TP.append(torch.stack([row / middle for row, middle in zip(s_BP, middles, strict=True)]).mean(0))
        plain_TP.append(s_BP.mean(0))
    q_TP = torch.softmax(torch.stack(scaled_TP) / tau, 0)
    return torch.special.entr(q_TP).sum(0), q_TP.argmax(0), (torch.stack(plain_TP) >= NOT_ACTIVATED).any(0)


@pytest.mark.parametrize("tasks", [1, 2, 5, 8])
def test_entropies_are_those_of_the_whole_matrix(tasks: int) -> None:
    params, given = toy(tasks)
    found = measure(toy_tasks(params, given), BATCHES, TAU, lambda: None)
    entropy_P, leader_P, active_P = brute_force(params, given, TAU)
    assert 0 < int((~active_P).sum()) < len(active_P)
    edges = bin_edges(tasks)
    start = 0
    for counts, param in zip(found.parameters, params, strict=True):
        own = slice(start, start := start + param.numel())
        active = active_P[own]
        expected = entropy_P[own][active]
        assert counts.entropy == pytest.approx(float(expected.sum()), abs=1e-9)
        for number, (low, high) in enumerate(pairwise(edges)):
            inside = (expected >= low) & (expected < high)
            by_task = torch.bincount(leader_P[own][active][inside], minlength=tasks).tolist()
            assert list(counts.by_bin[number]) == by_task
    assert sum(counts.activated for counts in found.parameters) == int(active_P.sum())


@given(st.integers(1, 9), st.integers(0, 1000), st.sampled_from([1e-3, 1.0, 40.0, 1e5]))
def test_one_task_at_a_time_is_the_softmax_over_all(tasks: int, seed: int, spread: float) -> None:
    logits_TN = torch.randn(tasks, 50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread
    online = OnlineEntropy(logits_TN[0])
    for task, logits in enumerate(logits_TN):
        online.fold(task, logits)
    expected = torch.special.entr(torch.softmax(logits_TN, 0)).sum(0)
    assert float((online.entropy() - expected).abs().max()) < 1e-9
    assert online.leader.tolist() == logits_TN.argmax(0).tolist()


def test_identical_tasks_share_everything() -> None:
    params, given = toy(1)
    whole = merge_counts("all", measure(toy_tasks(params, given * 4), BATCHES, TAU, lambda: None).parameters)
    assert whole.specific == 0 and whole.activated > 0
    assert whole.mean_entropy == pytest.approx(math.log(4), abs=1e-12)
    assert sum(whole.by_bin[-1]) == whole.activated  # ln 4 is the largest


def test_parameters_of_one_task_each_have_no_entropy() -> None:
    """For a small tau, whatever the scale of a task's gradients."""
    param = Parameter(torch.rand(30, dtype=torch.float64) + 1)
    given = []
    for task in range(3):
        grad = torch.zeros(30, dtype=torch.float64)
        grad[10 * task : 10 * task + 10] = 10.0**task
        given.append([[grad]])
    whole = merge_counts("all", measure(toy_tasks([param], given), 1, 0.01, lambda: None).parameters)
    assert whole.specific == 1 and whole.mean_entropy == pytest.approx(0, abs=1e-9)
    assert whole.owners == pytest.approx([1 / 3] * 3) and whole.leaders == whole.owners


def test_the_cosines_are_those_of_the_mean_gradients() -> None:
    params, given = toy(3)
    found = measure(toy_tasks(params, given), BATCHES, TAU, lambda: None).cosines
    flat_TBP = torch.stack([torch.stack([torch.cat([g.flatten() for g in grads]) for grads in each]) for each in given])
    mean_TP = flat_TBP.mean(1)
    expected_TT = torch.nn.functional.cosine_similarity(mean_TP[:, None], mean_TP[None], dim=2)
    assert torch.allclose(torch.tensor(found, dtype=torch.float64), expected_TT)


def test_densities_count_every_parameter() -> None:
    params, given = toy(2)
    for each in measure(toy_tasks(params, given), BATCHES, TAU, lambda: None).sensitivities:
        assert sum(each.counts) + each.zeros == sum(param.numel() for param in params)
        assert each.zeros >= 9 and len(each.counts) == len(DENSITY_EDGES) - 1 and each.median > 0


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (math.nan, "task task1: the gradient of batch 2 contains infinite numbers or NaN"),
        (0.0, "task task1: .* is zero"),
    ],
)
def test_a_gradient_that_says_nothing(bad: float, said: str) -> None:
    params, given = toy(2)
    for grads in given[1][1:] if math.isnan(bad) else given[1]:
        for grad in grads:
            grad.fill_(bad)
    with pytest.raises(InputError, match=said):
        measure(toy_tasks(params, given), BATCHES, TAU, lambda: None)


def test_a_batch_without_gradient_does_not_count() -> None:
    """For S; the others are averaged as if it were not there."""
    params, given = toy(2)
    shorter = [batches[:2] for batches in given]
    for grad in given[0][2]:
        grad.zero_()
    given[1] = [*given[1][:2], [torch.zeros_like(grad) for grad in given[1][2]]]
    measured = (measure(toy_tasks(params, each), len(each[0]), TAU, lambda: None) for each in (given, shorter))
    all_three, two = (merge_counts("", each.parameters).entropy for each in measured)
    assert all_three == pytest.approx(two, abs=1e-9)


def test_a_real_model_with_sparse_tables(tiny_bert: Path) -> None:
    """The same as dense gradients of a T x P matrix, in float64."""
    model = encoder(tiny_bert).double().eval()
    step = step_of(model)
    theta = [param.detach() for param in step.params]
    q, plain = [], []
    for task in step.objectives:
        sums = [torch.zeros(sum(param.numel() for param in theta), dtype=torch.float64) for _ in range(2)]
        for batch in range(2):
            gradient(task, batch)
            pairs = zip(gradients(model), theta, strict=True)
            s_P = torch.cat([(grad * param).abs().flatten() for grad, param in pairs])
            middle = median(Sensitivities([(s_P, torch.ones_like(s_P))], 1 << 16), True)
            sums[0] += s_P / middle / 2
            sums[1] += s_P / 2
        q.append(sums[0] / TAU)
        plain.append(sums[1])
    active_P = (torch.stack(plain) >= NOT_ACTIVATED).any(0)
    entropy_P = torch.special.entr(torch.softmax(torch.stack(q), 0)).sum(0)
    found = measure(step.objectives, 2, TAU, lambda: None)
    whole = merge_counts("all", found.parameters)
    assert any(param.grad is not None for param in step.params) is False
    assert whole.activated == int(active_P.sum()) < whole.size
    assert whole.entropy == pytest.approx(float(entropy_P[active_P].sum()), rel=1e-9)
    assert sum(whole.by_bin[0]) == int((entropy_P[active_P] < bin_edges(len(q))[1]).sum()) > 0
    assert {group.name for group in by_layer(found.parameters)} == {"embeddings", "layer 1", "layer 2"}
    kinds = by_kind(found.parameters)
    assert [kind.name for kind in kinds[:4]] == [
        "embeddings",
        *(f"attention {each}" for each in ("query", "key", "value")),
    ]
    assert sum(kind.size for kind in kinds) == whole.size


def test_the_bins_are_the_papers_and_hold_the_largest_entropy() -> None:
    assert bin_edges(8) == bin_edges(1) == EDGES and math.log(8) < EDGES[-1]
    for tasks in (2, 3, 7, 9, 60):
        edges = bin_edges(tasks)
        assert edges[-1] == pytest.approx(math.log(tasks)) and len(edges) == len(EDGES)
        assert [edge / edges[-1] for edge in edges] == pytest.approx([edge / EDGES[-1] for edge in EDGES])


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("passage.embeddings.word_embeddings.weight", "embeddings", "embeddings"),
        ("passage.embeddings.LayerNorm.bias", "embeddings", "layer norms"),
        ("passage.encoder.layer.0.attention.self.query.weight", "layer 1", "attention query"),
        ("passage.encoder.layer.11.attention.self.key.bias", "layer 12", "biases"),
        ("query.encoder.layer.1.attention.output.dense.weight", "query tower, layer 2", "attention output"),
        ("passage.encoder.layer.1.attention.output.LayerNorm.weight", "layer 2", "layer norms"),
        ("passage.encoder.layer.1.intermediate.dense.weight", "layer 2", "feed-forward in"),
        ("passage.encoder.layer.1.output.dense.weight", "layer 2", "feed-forward out"),
        ("passage.transformer.layer.3.attention.v_lin.weight", "layer 4", "attention value"),
        ("passage.transformer.layer.3.ffn.lin2.weight", "layer 4", "feed-forward out"),
        ("passage.layers.2.attn.Wqkv.weight", "layer 3", "attention query, key, value"),
        ("passage.layers.2.attn.Wo.weight", "layer 3", "attention output"),
        ("passage.layers.2.mlp.Wo.weight", "layer 3", "feed-forward out"),
        ("passage.shared.weight", "embeddings", "embeddings"),
        ("passage.encoder.block.0.layer.0.SelfAttention.q.weight", "layer 1", "attention query"),
        ("passage.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "layer 1", "embeddings"),
        ("passage.decoder.block.5.layer.1.EncDecAttention.o.weight", "decoder layer 6", "attention output"),
        ("passage.decoder.block.5.layer.2.DenseReluDense.wi_0.weight", "decoder layer 6", "feed-forward in"),
        ("passage.decoder.final_layer_norm.weight", "decoder other", "layer norms"),
        ("passage:head.weight", "head", "head"),
        ("passage.something.weight", "other", "other"),
    ],
)
def test_names_of_layers_and_kinds(name: str, layer: str, kind: str) -> None:
    name = "towers." + (name.replace(":", ".") if ":" in name else name.replace(".", ".backbone.", 1))
    assert (layer_of(name), kind_of(name)) == (layer, kind)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=6, max_size=6), st.integers(0, 100))
def test_shares_of_bins_and_not_activated_sum_to_1(by_bin: list[tuple[int, int]], inactive: int) -> None:
    size = sum(map(sum, by_bin)) + inactive
    if size:
        counts = Counts("x", size, tuple(by_bin), 0.0)
        assert sum(counts.shares) == pytest.approx(1) and len(counts.shares) == 7
        assert merge_counts("both", [counts, counts]).shares == pytest.approx(counts.shares)


def seeds(*numbers: int) -> list[dict[str, Any]]:
    """Settings of as many runs that start from a model of their own seed."""
    return [{"steps": 6, "seed": seed, "model": f"first/{seed}"} for seed in numbers]


ONE = [("a", "taco", 250), ("b", "naive", 200)]
FOUR = [(str(n), "taco" if n % 2 else "naive", 200 + n) for n in range(4)]


@pytest.mark.parametrize(
    ("models", "settings", "said"),
    [
        (ONE, (), r"a \(taco\) 25.0 % \(by chance 5.0 %\); b \(naive\) 20.0 %"),
        (ONE, (), r"TACO minus naive: \+5.0 points; this order is seen \(one pair"),
        (
            [("b", "naive", 200), ("a", "taco", 150)],
            (),
            r"TACO minus naive: -5.0 points; this order is not seen: it is the other way round",
        ),
        ([("a", "taco", 200), ("b", "naive", 200)], (), r"is not seen: there is no difference"),
        (
            [("a", None, 200), ("b", "naive", 200)],
            (),
            r"a 20.0 %.*; the paper reports 22 % with TACO and 19 % .*, models of a TACO and of",
        ),
        (
            FOUR,
            seeds(1, 1, 2, 2),
            r"\+0.1 points; this order is seen, by less than a point \(2 pairs of runs, 2 of them in this order, which",
        ),
        (
            [*ONE, ("c", "taco", 190), ("d", "naive", 200)],
            seeds(1, 1, 2, 2),
            r"\+2.0 points; this order is seen \(2 pairs of runs, 1 of them",
        ),
        (
            FOUR,
            seeds(1, 2, 3, 4),
            r"no TACO and naive training here differ only in the weighting "
            r"\(model first/2 and first/1; seed 2 and 1\), so nothing",
        ),
        (
            ONE,
            [{"steps": 6, "seed": 1}, {"steps": 100, "seed": 1}],
            r"no TACO and naive training .* \(steps 6 and 100\), so nothing is concluded",
        ),
        (ONE, [{"steps": 6}, {"steps": 6, "episode 2: steps": 6}], r"\(episode 2: steps None and 6\), so nothing is"),
        (
            [*ONE, ("c", "taco", 300), ("d", "naive", 200)],
            [*seeds(1, 1), {"steps": 9}, {"steps": 9}],
            r"\+5.0 points.*one pair.*\+10.0 points.*one",
        ),
    ],
)
def test_the_verdict_says_what_is_seen(
    models: list[tuple[str, str | None, int]], settings: list[dict[str, Any]], said: str
) -> None:
    sentence = verdict(analysis(*models, settings=settings))
    assert re.search(said, sentence), sentence
    assert ("not comparable" in sentence) == ("this order" in sentence)  # two tasks, not eight


def test_runs_that_weigh_otherwise_in_another_episode_are_no_naive_ones() -> None:
    made = analysis(*ONE)
    mixed = made.models[1]._replace(recipe="taco > naive")
    assert not pair_runs([made.models[0], mixed])
    assert pair_runs(made.models)[0].points == [5.0]
    tuned = made.models[0]._replace(recipe="taco tau=1")
    assert [each.recipe for each in pair_runs([*made.models, tuned])] == ["taco", "taco tau=1"]


def test_chance_is_what_is_left_where_batches_are_assigned_at_random() -> None:
    """Fewer parameters are task-specific by chance than with tasks that differ, as many as with equal ones."""
    generator = torch.Generator().manual_seed(0)

    def some() -> Tensor:
        return torch.rand(40, generator=generator, dtype=torch.float64) + 0.5

    params = [Parameter(some()) for _ in range(5)]
    apart = [[[some() * (16 if n == task else 1) for n in range(5)] for _ in range(BATCHES)] for task in range(5)]
    found, again, other = (measure(toy_tasks(params, apart), BATCHES, TAU, lambda: None, seed) for seed in (1, 1, 2))
    specific = merge_counts("all", found.parameters).specific
    assert found.chance is not None and found.chance < specific - 0.2
    assert found.chance == again.chance != other.chance and found.parameters == other.parameters
    assert measure(toy_tasks(params, apart), 1, TAU, lambda: None).chance is None  # one batch has one assignment
    same = [[apart[0][0]] * BATCHES] * 5
    alike = measure(toy_tasks(params, same), BATCHES, TAU, lambda: None)
    assert alike.chance == merge_counts("all", alike.parameters).specific == 0


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_a_shuffle_has_every_batch_once(tasks: int, batches: int, seed: int) -> None:
    own: Any = [[(task, batch) for batch in range(batches)] for task in range(tasks)]
    groups = shuffle(own, seed)
    assert sorted(each for group in groups for each in group) == [each for group in own for each in group]
    assert list(map(len, groups)) == [batches] * tasks


def test_the_page_escapes_names_and_shows_all_models() -> None:
    page = render_page(analysis(("<b>&x", "taco", 250), ("run-b", "naive", 200), tasks=("n<q", "fever")))
    assert "<b>&x" not in page and "&lt;b&gt;&amp;x (taco)" in page and "n<q" not in page and "run-b (naive)" in page
    assert page.count("<rect") == 2 * 7 * (1 + 2)
    assert "nq and fever: 0.25 first, -0.50 last" in page
    assert "<h2>Pairs</h2>" in page and "+5.0" in page and "5.0 %" in page
    alone = render_page(analysis(("run-b", "naive", 200)))
    assert "No TACO and naive training here differ only in the weighting" in alone and "--log-cosines" in alone


def test_layers_by_task_are_a_heat_map_on_one_scale() -> None:
    """A layer's shares add up to its task-specific share, and the largest of all models is the darkest."""
    made = analysis(("a", "taco", 250), ("b", "naive", 200))
    page = render_page(made)
    cells = re.findall(r'<td class="cell up (h\d+)">([\d.]+)</td>', page[page.index("Layers by task") :])
    assert cells[:4] == [("h10", "25.0"), ("h0", "0.0"), ("h8", "20.0"), ("h0", "0.0")]
    for place, model in enumerate(made.models):
        assert sum(float(share) for _, share in cells[2 * place : 2 * place + 2]) == 100 * model.whole.specific


def test_the_figures_are_json() -> None:
    figures = to_dict(analysis(("a", "taco", 250), ("b", "naive", 200)))
    one = figures["models"][0]
    assert one["task_specific_by_chance"] == 0.05
    pairs = [{"taco": "a", "naive": "b", "points": 5.0}]
    assert figures["comparisons"] == [{"weighting": "taco", "pairs": pairs, "mean_points": 5.0}]
    assert one["all"]["task_specific"] == 0.25 and one["all"]["task_specific_of_activated"] == pytest.approx(250 / 900)
    assert one["cosines"] == [[1.0, 0.5], [0.5, None]]
    assert one["all"]["largest_weight"] == pytest.approx({"nq": 800 / 900, "fever": 100 / 900})
    assert one["logged_cosines"][""][1] == {"step": 3, "cosine": {"nq": {"fever": -0.5}}}
