"""Laws that every task weighting obeys, then the values of each paper worked out by hand."""

from __future__ import annotations

import math
import re
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch.nn import Parameter
from weighting_steps import OWN, SHAPES, TABLES, TORCHJD, flat, parameters, random_gradients, small_blocks, step, vector

from taco_ir.core import resolve
from taco_ir.core.files import InputError
from taco_ir.weighting import WEIGHTINGS
from taco_ir.weighting.base import TaskWeighting
from taco_ir.weighting.cgd import agreement
from taco_ir.weighting.fixed import Static
from taco_ir.weighting.pcgrad import project
from taco_ir.weighting.taco import Taco

__all__ = ["small_blocks"]  # a fixture of every test here
JD = pytest.mark.skipif(not TORCHJD, reason="TorchJD is not installed")
NAMES = [*OWN, *(pytest.param(name, marks=JD) for name in sorted(set(WEIGHTINGS) - set(OWN)))]
MEANS = sorted(set(OWN) - {"uw", "pcgrad"})  # weights sum to 1 whatever the gradients
SCALED = {"uw", "jd:nash", "jd:cagrad", "jd:fairgrad"}  # an update may be longer or shorter than the tasks' gradients
NEAR = {name: {"rtol": 1e-9, "atol": 1e-12} for name in WEIGHTINGS} | {"jd:nash": {"rtol": 1e-5, "atol": 1e-8}}


def make(
    name: str, params: list[Parameter], tasks: int, embeddings: tuple[int, ...] = (), **options: Any
) -> TaskWeighting:
    return resolve(WEIGHTINGS[name])(params, tasks, embeddings, **options)


def gradients(params: list[Parameter], tasks: int, seed: int) -> torch.Tensor:
    return torch.stack([flat(row, params) for row in random_gradients(params, tasks, seed, spread=0.3)])


# ---- laws


@pytest.mark.parametrize("name", NAMES)
def test_identical_tasks_give_their_gradient(name: str) -> None:
    params = parameters()
    weighting = make(name, params, 4, TABLES)
    for turn in range(4):
        grad_P = gradients(params, 1, turn)[0]
        update, _ = step(weighting, params, grad_P.expand(4, -1), turn / 3, losses=[2.0] * 4)
        cosine = torch.dot(update, grad_P) / update.norm() / grad_P.norm()
        assert cosine == pytest.approx(1, abs=1e-12)
        if name not in SCALED:
            torch.testing.assert_close(update, grad_P, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_one_task_is_its_gradient(name: str) -> None:
    params = parameters()
    weighting = make(name, params, 1, TABLES)
    grad_P = gradients(params, 1, 0)[0]
    update, report = step(weighting, params, grad_P[None], 1.0)
    scale = report.weights[0] if name in SCALED else 1.0
    torch.testing.assert_close(update, scale * grad_P, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_numbering_of_tasks_does_not_matter(name: str) -> None:
    """Renumbered tasks give the same update and renumbered weights. PCGrad's order is random from three tasks on."""
    tasks, new = (2, [1, 0]) if name == "pcgrad" else (4, [2, 0, 3, 1])
    params = parameters()
    one, other = make(name, params, tasks, TABLES), make(name, params, tasks, TABLES)
    losses = [0.5, 1.5, 3.0, 2.0][:tasks]
    for turn in range(5):
        grads_TP = gradients(params, tasks, turn)
        update, report = step(one, params, grads_TP, turn / 4, losses)
        renumbered, report_renumbered = step(other, params, grads_TP[new], turn / 4, [losses[task] for task in new])
        torch.testing.assert_close(renumbered, update, **NEAR[name])
        assert report_renumbered.weights == pytest.approx([report.weights[task] for task in new])


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_adding_does_not_matter(name: str) -> None:
    params = parameters()
    one, other = make(name, params, 3, TABLES), make(name, params, 3, TABLES)
    for turn in range(4):
        grads_TP = gradients(params, 3, turn)
        update, _ = step(one, params, grads_TP, turn / 3, [1.0, 2.0, 3.0])
        found, _ = step(other, params, grads_TP, turn / 3, [1.0, 2.0, 3.0], order=[2, 0, 1])
        torch.testing.assert_close(found, update, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_tables_given_as_such_change_nothing(name: str) -> None:
    """Touched rows instead of dense gradients, and sparse gradients, give the same update."""
    params = parameters()
    dense, rows, sparse = make(name, params, 3), make(name, params, 3, TABLES), make(name, params, 3, TABLES)
    for turn in range(5):
        grads = random_gradients(params, 3, turn, spread=0.3)
        update, _ = step(dense, params, grads, turn / 4)
        torch.testing.assert_close(step(rows, params, grads, turn / 4)[0], update, **NEAR[name])
        grads = [[g.to_sparse(1) if i in TABLES and g is not None else g for i, g in enumerate(row)] for row in grads]
        torch.testing.assert_close(step(sparse, params, grads, turn / 4)[0], update, **NEAR[name])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
def test_the_loss_of_every_task_falls(name: str, optimiser: type[torch.optim.Optimizer]) -> None:
    """The released code trained nothing with every strategy but naive, since its update was never written back."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3)).double()
    inputs = torch.randn(64, 6, dtype=torch.float64)
    shared = inputs @ torch.randn(6, dtype=torch.float64)
    targets = [scale * torch.sin(shared + 0.5 * inputs[:, task]) for task, scale in enumerate((0.5, 1.0, 2.0))]
    params = list(model.parameters())
    weighting = make(name, params, 3)
    descent = optimiser(params, lr=0.05 if optimiser is torch.optim.SGD else 0.003)  # type: ignore[call-arg]
    history = []
    for turn in range(120):
        weighting.begin(turn / 120)
        losses = []
        for task in range(3):
            loss = torch.nn.functional.mse_loss(model(inputs)[:, task], targets[task])
            loss.backward()
            losses.append(loss.item())
            weighting.add(task, loss.detach(), params)
            assert all(param.grad is None for param in params)
        weighting.combine(params)
        descent.step()
        descent.zero_grad()
        history.append(losses)
    most = 0.96 if name == "jd:mgda" else 0.8  # its updates are short: the shortest vector among the gradients
    for task in range(3):
        assert history[-1][task] < most * history[0][task], (name, task)


@pytest.mark.parametrize("name", MEANS)
def test_weights_sum_to_one_before_and_after_burn_in(name: str) -> None:
    params = parameters()
    weighting = make(name, params, 4, TABLES)
    for turn in range(10):
        _, report = step(weighting, params, gradients(params, 4, turn), turn / 10, [1.0, 2.0, 0.1, 5.0])
        assert sum(report.weights) == pytest.approx(1, abs=1e-12)
        assert all(weight > 0 for weight in report.weights)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_the_same_to_the_bit(name: str) -> None:
    params = parameters(dtype=torch.float32)
    options: list[dict[str, Any]] = [{}]
    if name == "taco":  # tau is chosen in turn 1, and in turn 4, after the state was written
        options += [{"importance": "bf16"}, {"tau": "share:0.2"}, {"tau": "share:.2", "burn_in": 0.4}]
    for chosen in options:
        whole, resumed = make(name, params, 3, TABLES, **chosen), make(name, params, 3, TABLES, **chosen)
        for turn in range(8):
            grads_TP = gradients(params, 3, turn)
            losses = [1.0 + turn, 2.0, 3.0 / (turn + 1)]
            update, report = step(whole, params, grads_TP, turn / 8, losses)
            if turn >= 4:
                again, report_again = step(resumed, params, grads_TP, turn / 8, losses)
                assert torch.equal(again, update), (name, turn)
                assert report_again == report
            if turn == 3:
                resumed.load_state_dict(load(save(whole.state_dict())))


@pytest.mark.parametrize("name", NAMES)
def test_a_dropped_step_leaves_no_trace_that_matters(name: str) -> None:
    """A NaN either stops `add` or `combine`, or meets no state; after `drop` the next step is sound."""
    params = parameters()
    weighting = make(name, params, 2, TABLES)
    grads_TP = gradients(params, 2, 0)
    step(weighting, params, grads_TP, 0.5)
    before = [param.detach().clone() for param in params]
    for bad in (math.nan, math.inf):
        poisoned_TP = gradients(params, 2, 1)
        poisoned_TP[1, 1000] = bad
        try:
            step(weighting, params, poisoned_TP, 0.5)
        except FloatingPointError:
            weighting.drop()
    with pytest.raises(FloatingPointError, match="loss of task 1 is nan"):
        step(weighting, params, grads_TP, 0.5, [1.0, math.nan])
    weighting.drop()
    assert all(bool(torch.isfinite(value).all()) for value in weighting.state_dict().values())
    update, _ = step(weighting, params, grads_TP, 0.5)
    assert bool(torch.isfinite(update).all())
    assert all(torch.equal(param, old) for param, old in zip(params, before, strict=True))


EAGER = {
    "uw": {"rate": 5.0},
    "gradnorm": {"rate": 5.0, "alpha": 10.0},
    "cgd": {"rate": 50.0},
    "taco": {"beta": 0.5, "tau": 1e-3},
}
EXTREMES = [0.0, 1e-30, 1e-12, 1e-4, 1.0, 1e4, 1e12, 1e30]


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_no_losses_and_gradients_run_away(name: str, eager: bool, data: st.DataObject) -> None:
    """Whatever finite numbers come, a step gives a finite update or is said to be none, and the state stays finite."""
    params = vector(torch.float32, 4)
    weighting = make(name, params, 2, **(EAGER.get(name, {}) if eager else {}))
    sizes = st.sampled_from([*EXTREMES, *(-size for size in EXTREMES)])
    rows = st.lists(st.tuples(*[sizes] * 4), min_size=2, max_size=2)
    steps = data.draw(
        st.lists(st.tuples(rows, st.lists(st.sampled_from(EXTREMES), min_size=2, max_size=2)), min_size=1, max_size=8)
    )
    for turn, (grads, losses) in enumerate(steps):
        try:
            update, report = step(weighting, params, torch.tensor(grads), turn / 8, losses)
        except FloatingPointError:
            weighting.drop()
        else:
            assert bool(torch.isfinite(update).all())
            assert all(map(math.isfinite, [*report.weights, *report.details.values(), report.norm]))
        state = weighting.state_dict()
        assert all(bool(torch.isfinite(value).all()) for value in state.values()), state


def test_a_projection_on_a_vanishing_gradient_is_no_update() -> None:
    """PCGrad's coefficient is g_i g_j / |g_j|^2, which leaves float32's range long before its gradients do."""
    params = vector(torch.float32, 4)
    weighting = make("pcgrad", params, 2)
    with pytest.raises(FloatingPointError):
        step(weighting, params, torch.tensor([[-1e19, 0.0, 0.0, 0.0], [1e-22, 0.0, 0.0, 0.0]]), 0.0, [1.0, 1.0])
    weighting.drop()


@pytest.mark.parametrize("name", NAMES)
def test_an_update_that_is_not_finite_is_none(name: str) -> None:
    """Each task's gradient is finite, their sum is not."""
    params = vector(torch.float32)
    with pytest.raises(FloatingPointError):
        step(make(name, params, 3), params, torch.full((3, 3), 3e38), 0.0)
    assert params[0].grad is None


@pytest.mark.parametrize("name", sorted({"taco", "gradnorm", "cgd"}))
def test_state_never_meets_a_gradient_that_is_not_finite(name: str) -> None:
    params = parameters()
    weighting = make(name, params, 2, TABLES)
    poisoned_TP = gradients(params, 2, 1)
    poisoned_TP[1, 5] = math.nan  # in a table
    with pytest.raises(FloatingPointError, match="not finite"):
        step(weighting, params, poisoned_TP, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_no_task_reached_has_no_gradient(name: str) -> None:
    params = parameters()
    weighting = make(name, params, 2, TABLES)
    for turn in range(2):
        rows = [[None if i in (2, 4) else g for i, g in enumerate(row)] for row in random_gradients(params, 2, 1)]
        rows[0][0] = None  # a table that one task reached
        step(weighting, params, rows, float(turn))
        assert [param.grad is None for param in params] == [False, False, True, False, True]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_in_bfloat16_get_gradients_in_bfloat16(name: str) -> None:
    params, exact = parameters(dtype=torch.bfloat16), parameters()
    grads_TP = gradients(exact, 2, 0)
    update, _ = step(make(name, params, 2, TABLES), params, grads_TP, 0.0)
    assert update.dtype == torch.bfloat16
    expected, _ = step(make(name, exact, 2, TABLES), exact, grads_TP, 0.0)
    torch.testing.assert_close(update.double(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_whole(name: str) -> None:
    params = vector()
    weighting = make(name, params, 2)
    weighting.begin(0.0)
    params[0].grad = torch.ones_like(params[0])
    weighting.add(0, torch.tensor(1.0), params)
    with pytest.raises(ValueError, match="task 0 of 2"):
        weighting.add(0, torch.tensor(1.0), params)
    with pytest.raises(ValueError, match="only tasks"):
        weighting.combine(params)


def test_a_linear_weighting_of_parts_sums_to_that_of_the_whole() -> None:
    """Four processes with a quarter of every gradient have, after one sum, the update of one process."""
    linear = [name for name in OWN if resolve(WEIGHTINGS[name]).linear]
    assert linear == ["naive", "static", "uw"]
    for name in linear:
        params = parameters()
        whole, part = make(name, params, 3), make(name, params, 3)
        part.total = lambda params: [param.grad.mul_(4) for param in params if param.grad is not None]
        for turn in range(3):
            grads = random_gradients(params, 3, turn)
            quarters = [[None if grad is None else grad / 4 for grad in row] for row in grads]
            losses = [1.0, 0.2 + turn, 3.0]
            update_P, report = step(whole, params, grads, losses=losses)
            assert report == (found := step(part, params, quarters, losses=losses))[1]
            assert torch.equal(found[0], update_P)


@pytest.mark.parametrize("name", NAMES)
def test_memory_announced(name: str) -> None:
    """T P floats for kept gradients, or for S; nothing for a streaming sum."""
    extra = resolve(WEIGHTINGS[name]).extra_bytes(1000, 8)
    kept = {"pcgrad": 28_000, "cgd": 28_000, "taco": 40_000}.get(name, 0)
    assert extra == (28_000 if name.startswith("jd:") else kept)
    assert Taco.extra_bytes(1000, 8, importance="bf16") == 24_000


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *(("static", "weights", (1.0, 0.0)), ("static", "weights", (1.0, math.inf)), ("static", "weights", (1.0,))),
        *(("uw", "rate", -1.0), ("gradnorm", "alpha", -0.5), ("gradnorm", "rate", math.nan), ("pcgrad", "seed", -1)),
        *(("cgd", "rate", -1.0), ("jd:cagrad", "c", -1.0), ("jd:fairgrad", "alpha", math.inf)),
        *(("jd:nash", "max_norm", -1.0), ("taco", "tau", 0.0), ("taco", "tau", "share:1.5"), ("taco", "tau", "hot")),
        *(("taco", "beta", 1.0), ("taco", "burn_in", 1.5), ("taco", "importance", "int8")),
    ],
)
def test_wrong_options_are_named(name: str, option: str, value: object) -> None:
    with pytest.raises(InputError, match=f"option {option}: it is {re.escape(repr(value))}, but must be "):
        make(name, vector(), 2, **{option: value})


# ---- TorchJD's methods


@JD
@pytest.mark.parametrize("name", sorted(set(WEIGHTINGS) - set(OWN)))
def test_weights_of_torchjd_are_those_of_its_aggregators(name: str) -> None:
    """On the whole T x P matrix, step after step: Nash-MTL begins with the weights of the step before."""
    from torchjd import aggregation

    params = parameters()
    ours = make(name, params, 4, TABLES)
    given = {"jd:cagrad": {"c": 0.4}, "jd:fairgrad": {"alpha": 1.0}, "jd:nash": {"n_tasks": 4}}.get(name, {})
    theirs = getattr(aggregation, ours.aggregator)(**given)  # type: ignore[arg-type]
    naive = make("naive", params, 4)
    for turn in range(3):
        grads_TP = gradients(params, 4, turn)
        grads_TP[1] -= 2 * grads_TP[0]  # a conflict
        update, _ = step(ours, params, grads_TP)
        expected_P = theirs(grads_TP)
        assert float((update - expected_P).norm() / expected_P.norm()) < 1e-6
        assert float((update - step(naive, params, grads_TP)[0]).norm()) > 0.1 * float(update.norm())


@JD
def test_a_step_without_weights_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    weighting = make("jd:upgrad", vector(), 2)
    monkeypatch.setattr(weighting.weigher, "forward", lambda _: 1 / 0)
    with pytest.raises(FloatingPointError, match="UPGrad found no weights: division by zero"):
        step(weighting, vector(), torch.ones(2, 3))


@pytest.mark.parametrize("name", ["jd:upgrad", "jd:nash"])
def test_what_is_not_installed_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(
        InputError, match=r"needs TorchJD and its dependencies; install them with `pip install 'torchjd\[full\]'`"
    ):
        make(name, vector(), 2)


# ---- static weights


def test_equal_static_weights_are_naive_training_to_the_bit() -> None:
    params = parameters(dtype=torch.float32)
    for tasks in (3, 7):
        grads_TP = gradients(params, tasks, 0)
        update, report = step(make("naive", params, tasks), params, grads_TP)
        for weight in (1.0, 0.1, 3.3e7):
            found, own = step(make("static", params, tasks, weights=(weight,) * tasks), params, grads_TP)
            assert torch.equal(found, update) and own == report


def test_static_weights_by_name() -> None:
    """nq counts three times fever, and wow, which is not named, as fever: 3/5, 1/5, 1/5."""
    options = Static.read_options({"fev": 1, "nq": 3.0}, ["nq", "fever", "wow"])
    update, report = step(make("static", vector(), 3, **options), vector(), torch.eye(3))
    assert report.weights == (0.6, 0.2, 0.2) == tuple(update.tolist())
    own = Static.read_options({"draw": 2}, ["nq", "draw"])
    assert own == {"weights": (1.0, 2.0)}  # a task of that name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ng": 2}, r"weighting_options: unknown task 'ng'; did you mean nq\? valid: fever, nq"),
        ({"nq": -1.0}, "weighting_options: nq is -1.0; it must be a number, above 0"),
        ({"nq": "much"}, "weighting_options: nq is 'much'; it must be a number, above 0"),
        ({"fever": 1, "fev": 2}, "fever and fev are one task, fever; leave one of them out"),
        ({"draw": -1}, "weighting_options: draw is -1; it must be a whole number, at least 0"),
    ],
)
def test_wrong_static_weights_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Static.read_options(given, ["nq", "fever"])


def test_drawn_weights_depend_on_number_and_name_alone() -> None:
    def drawn(number: int, *tasks: str, **given: float) -> dict[str, float]:
        options = Static.read_options({"draw": number, **given}, tasks)
        return dict(zip(tasks, options["weights"], strict=True))

    one = drawn(1, "nq", "fever")
    assert drawn(1, "fever", "wow", "nq").items() >= one.items() != drawn(2, "nq", "fever").items()
    assert drawn(1, "nq", "fever", nq=5.0) == {"nq": 5.0, "fever": one["fever"]}
    weights = [weight for number in range(50) for weight in drawn(number, "nq", "fever").values()]
    assert 0.25 <= min(weights) < 0.3 and 3.3 < max(weights) <= 4
    assert sum(weight > 1 for weight in weights) == pytest.approx(50, abs=15)


# ---- what a task's scale does


def test_naive_follows_the_scale_of_a_task() -> None:
    params = parameters()
    grads_TP = gradients(params, 3, 0)
    scaled_TP = grads_TP * torch.tensor([1.0, 5.0, 1.0])[:, None]
    scaled, _ = step(make("naive", params, 3), params, scaled_TP)
    update, _ = step(make("naive", params, 3), params, grads_TP)
    torch.testing.assert_close(scaled - update, grads_TP[1] * 4 / 3)


def test_taco_weights_do_not_depend_on_the_scale_of_a_task() -> None:
    params = parameters()
    one, other = make("taco", params, 3, TABLES), make("taco", params, 3, TABLES)
    for turn in range(3):
        grads_TP = gradients(params, 3, turn)
        step(one, params, grads_TP)
        step(other, params, grads_TP * torch.tensor([1.0, 1000.0, 1e-3])[:, None])
    for position in range(len(SHAPES)):
        weights = one.task_weights(position)  # type: ignore[operator]
        torch.testing.assert_close(other.task_weights(position), weights, rtol=1e-9, atol=0)  # type: ignore[operator]


def test_pcgrad_projects_on_directions_only() -> None:
    """With two tasks, c g_2 in place of g_2 keeps the first one's part and multiplies the second one's by c."""
    params = vector()
    grads_TP = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
    first = grads_TP[0] - grads_TP[0] @ grads_TP[1] / (grads_TP[1] @ grads_TP[1]) * grads_TP[1]
    second = grads_TP[1] - grads_TP[0] @ grads_TP[1] / (grads_TP[0] @ grads_TP[0]) * grads_TP[0]
    update, _ = step(make("pcgrad", params, 2), params, grads_TP * torch.tensor([[1.0], [7.0]]))
    torch.testing.assert_close(update, (first + 7 * second) / 2)


def test_gradnorm_evens_out_norms() -> None:
    """At rest w_k |g_k| are equal where all tasks learn alike; the released GradNorm never moved its weights."""
    params = vector(size=2)
    weighting = make("gradnorm", params, 2)
    for _ in range(300):
        _, report = step(weighting, params, torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    assert report.weights[0] / report.weights[1] == pytest.approx(4, rel=0.1)


def test_cgd_weights_depend_on_losses_not_on_norms() -> None:
    params = parameters()
    one, other = make("cgd", params, 3, TABLES), make("cgd", params, 3, TABLES)
    for turn in range(3):
        grads_TP = gradients(params, 3, turn)
        _, report = step(one, params, grads_TP, losses=[1.0, 2.0, 3.0])
        _, scaled = step(other, params, grads_TP * torch.tensor([1.0, 50.0, 0.1])[:, None], losses=[1.0, 2.0, 3.0])
        assert scaled.weights == pytest.approx(report.weights, rel=1e-9)


# ---- values


def test_pcgrad_value() -> None:
    """J = [[-4,1,1],[6,1,1]]: the sum that TorchJD publishes is [0.5848, 3.8012, 3.8012]; here it is the mean.

    g1.g2 = -22, |g1|^2 = 18, |g2|^2 = 38; g1 + 22/38 g2 = [-10, 30, 30]/19 and g2 + 22/18 g1 = [10, 20, 20]/9.
    """
    grads_TP = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
    update, report = step(make("pcgrad", vector(), 2), vector(), grads_TP)
    expected = [-10 / 19 + 10 / 9, 30 / 19 + 20 / 9, 30 / 19 + 20 / 9]
    torch.testing.assert_close(2 * update, torch.tensor(expected, dtype=torch.float64))
    assert (2 * update).tolist() == pytest.approx([0.5848, 3.8012, 3.8012], abs=1e-4)
    assert report.weights == pytest.approx([(1 + 22 / 18) / 2, (1 + 22 / 38) / 2])
    assert report.details == {"conflicts": 1.0}


def test_pcgrad_never_projects_a_task_on_itself() -> None:
    """The released one did: a gradient that lost a part pointed against its former self. Three conflict here."""
    grads_TP = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]], dtype=torch.float64)
    gramian = (grads_TP @ grads_TP.T).tolist()
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        coefficients, _ = project(gramian, [order] * 3)
        for i, row in enumerate(coefficients):
            assert row[i] == 1.0
            expected = grads_TP[i].clone()
            for j in order:
                if j != i and expected @ grads_TP[j] < 0:
                    expected -= expected @ grads_TP[j] / (grads_TP[j] @ grads_TP[j]) * grads_TP[j]
            torch.testing.assert_close(torch.tensor(row, dtype=torch.float64) @ grads_TP, expected)


def test_pcgrad_order_changes_from_step_to_step_and_with_the_seed() -> None:
    grads_TP = torch.tensor([[1.0, 0.0, 0.2], [-1.0, 0.5, 0.0], [-0.5, -1.0, 0.3]], dtype=torch.float64)

    def updates(seed: int) -> list[tuple[float, ...]]:
        params = vector()
        weighting = make("pcgrad", params, 3, seed=seed)
        return [tuple(step(weighting, params, grads_TP)[0].tolist()) for _ in range(8)]

    assert updates(0) == updates(0)
    assert updates(0) != updates(1)
    assert len(set(updates(0))) > 1


def test_gradnorm_value() -> None:
    """Two tasks with |g| = 3 and 1, losses 2 and 2 at first, then 1 and 2; alpha 1.

    Step 1: G = [3, 1], mean 2, ratios 1, target 2 for both: signs [+, -], relative norms [1.5, 0.5], rate 0.1:
    w = [0.85, 1.05] * 2 / 1.9. Step 2 uses them; progress [0.5, 1], over its mean [2/3, 4/3].
    G = [2.6842, 1.1053], mean 1.8947, target [1.2632, 2.5263]: signs [+, -] again.
    """
    params = vector(size=2)
    weighting = make("gradnorm", params, 2, alpha=1.0, rate=0.1)
    grads_TP = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    update, report = step(weighting, params, grads_TP, losses=[2.0, 2.0])
    assert report.weights == (0.5, 0.5)
    assert update.tolist() == pytest.approx([1.5, 0.5])
    update, report = step(weighting, params, grads_TP, losses=[1.0, 2.0])
    first, second = 0.85 / 1.9, 1.05 / 1.9
    assert report.weights == pytest.approx([first, second])
    assert update.tolist() == pytest.approx([3 * first, second])
    moved = [2 * first - 0.15, 2 * second + 0.05]
    _, report = step(weighting, params, grads_TP, losses=[1.0, 2.0])
    assert report.weights == pytest.approx([weight / sum(moved) for weight in moved])


def test_gradnorm_pulls_the_task_that_learns_slowly() -> None:
    """Equal norms, but the second loss has not fallen: its target is above the mean, so its weight rises."""
    params = vector(size=2)
    weighting = make("gradnorm", params, 2)
    grads_TP = torch.eye(2, dtype=torch.float64)
    step(weighting, params, grads_TP, losses=[4.0, 4.0])
    for _ in range(5):
        _, report = step(weighting, params, grads_TP, losses=[1.0, 4.0])
    assert report.weights[1] > report.weights[0]


def test_uw_value() -> None:
    """s = 0 at first: the naive mean. Then s_k = -rate (1/2 - L_k) = [0.25, -0.05] for losses 3 and 0, rate 0.1."""
    params = vector(size=2)
    weighting = make("uw", params, 2, rate=0.1)
    grads_TP = torch.eye(2, dtype=torch.float64)
    _, report = step(weighting, params, grads_TP, losses=[3.0, 0.0])
    assert report.weights == (0.5, 0.5)
    update, report = step(weighting, params, grads_TP, losses=[3.0, 0.0])
    assert report.weights == pytest.approx([math.exp(-0.25) / 2, math.exp(0.05) / 2])
    assert update.tolist() == pytest.approx(report.weights)


def test_uw_rests_where_the_weighted_loss_is_one_half() -> None:
    params = vector(size=2)
    weighting = make("uw", params, 2, rate=0.1)
    for _ in range(400):
        _, report = step(weighting, params, torch.eye(2), losses=[3.0, 0.8])
    weighted = [2 * weight * loss for weight, loss in zip(report.weights, [3.0, 0.8], strict=True)]
    assert weighted == pytest.approx([0.5, 0.5], abs=1e-6)


def test_uw_is_bounded() -> None:
    """A loss of 0 pulls its weight up for ever, a loss of 1 after 1e-4 pushed it to 1e-51: both are bounded now."""
    params = vector(size=2)
    weighting = make("uw", params, 2)
    for _ in range(8_000):
        _, report = step(weighting, params, torch.eye(2), losses=[0.0, 1e-4])
    assert [2 * weight for weight in report.weights] == pytest.approx([1000, 1000])
    step(weighting, params, torch.eye(2), losses=[0.0, 1.0])
    _, report = step(weighting, params, torch.eye(2), losses=[0.0, 1e-4])
    assert [2 * weight for weight in report.weights] == pytest.approx([1000, 1000 / math.e])
    eager = make("uw", params, 2, rate=5)
    for _ in range(60):
        _, report = step(eager, params, torch.eye(2), losses=[3.0, 0.1])
    assert all(1e-3 <= 2 * weight <= 1e3 for weight in report.weights)


def test_cgd_value() -> None:
    """g1 = [2, 0], g2 = [3, 4] (cosine 3/5), losses 4 and 1: agreements [[4, 1.2], [1.2, 1]], means [2.6, 1.1].

    At rate 0.5 the weights are exp(1.3) : exp(0.55), and count in the same step.
    """
    params = vector(size=2)
    grads_TP = torch.tensor([[2.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    found_TT = agreement(grads_TP @ grads_TP.T, torch.tensor([4.0, 1.0]).double())
    torch.testing.assert_close(found_TT, torch.tensor([[4, 1.2], [1.2, 1]]).double())
    weighting = make("cgd", params, 2, rate=0.5)
    update, report = step(weighting, params, grads_TP, losses=[4.0, 1.0])
    share = 1 / (1 + math.exp(0.55 - 1.3))
    assert report.weights == pytest.approx([share, 1 - share])
    assert update.tolist() == pytest.approx([2 * share + 3 * (1 - share), 4 * (1 - share)])


def test_cgd_raises_the_task_that_serves_the_others() -> None:
    """Two tasks agree, a third opposes both: it loses weight; it never vanishes."""
    params = vector(size=2)
    weighting = make("cgd", params, 3, rate=1.0)
    for _ in range(60):
        _, report = step(weighting, params, torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]]))
    assert report.weights[2] == pytest.approx(1e-5, rel=0.01)
    assert report.weights[0] == pytest.approx(report.weights[1], rel=0.5)
