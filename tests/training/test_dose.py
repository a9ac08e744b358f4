"""The dose of a weighting: equal to brute force on whole vectors, and naive training's where weights are equal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_steps import SMALL, encoder, step_of
from torch import Tensor
from torch.nn import Parameter
from training_runs import logged, small
from weighting_steps import TABLES, flat, parameters, random_gradients

from taco_ir.core import resolve
from taco_ir.training.dose import NAIVE, Dose, DoseMeter
from taco_ir.training.logged import logged_dose
from taco_ir.training.loop import adamw
from taco_ir.training.run import train
from taco_ir.training.step import MultiTaskStep
from taco_ir.weighting import WEIGHTINGS
from taco_ir.weighting.base import TaskWeighting

TASKS = 3


def optimiser(params: list[Parameter]) -> torch.optim.AdamW:
    groups = [{"params": params[:2]}, {"params": params[2:], "betas": (0.8, 0.9), "eps": 1e-3}]
    return torch.optim.AdamW(groups, lr=1e-3)


def steps(name: str, count: int, every: int = 1, sparse: bool = False, **options: Any) -> list[tuple[Any, ...]]:
    """Doses of steps of random gradients, with update, mean and the divisor of AdamW as vectors."""
    params = parameters()
    weighting: TaskWeighting = resolve(WEIGHTINGS[name])(params, TASKS, TABLES, **options)
    meter, optimizer = DoseMeter(params, weighting, every), optimiser(params)
    found = []
    for turn in range(count):
        weighting.begin(turn / count)
        meter.begin(turn, TASKS)
        rows = random_gradients(params, TASKS, turn, spread=0.3)
        for first, second in zip(rows[0], rows[1], strict=True):
            if first is not None and second is not None:
                second.sub_(first, alpha=2)  # a conflict
        for task, row in enumerate(rows):
            for place, (param, grad) in enumerate(zip(params, row, strict=True)):
                param.grad = grad.to_sparse(1) if sparse and place in TABLES and grad is not None else grad
            mean = flat([grad if grad is None else grad.clone() for grad in row], params) / TASKS
            rows[task] = [mean]
            meter.add()
            weighting.add(task, 1.0, params)
        weighting.combine(params)
        update = flat([param.grad for param in params], params)
        torch.nn.utils.clip_grad_norm_(params, 0.1)
        optimizer.step()
        sizes = []
        for param in params:
            group = optimizer.param_groups[int(any(param is each for each in params[2:]))]
            state = optimizer.state.get(param) or {"exp_avg_sq": torch.zeros_like(param), "step": torch.tensor(1.0)}
            correction = 1 - group["betas"][1] ** float(state["step"])
            sizes.append((state["exp_avg_sq"] / correction).sqrt() + group["eps"])
        mean = torch.stack([row[0] for row in rows]).sum(0)  # type: ignore[arg-type]
        found.append((meter.measure(optimizer), update, mean, flat(sizes, params)))
        assert meter.measure(optimizer) is None  # once
        optimizer.zero_grad()
    return found


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a, b) / a.norm() / b.norm())


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [("taco", {"tau": 0.3, "burn_in": 0.2}), ("pcgrad", {}), ("static", {"weights": (5.0, 1.0, 1.0)})],
)
def test_dose_is_brute_force(name: str, options: dict[str, Any], sparse: bool) -> None:
    for dose, update, mean, size in steps(name, 5, sparse=sparse, **options):
        assert dose.cosine == pytest.approx(cosine(update, mean), abs=2e-6)
        assert dose.scaled_cosine == pytest.approx(cosine(update / size, mean / size), abs=2e-6)
        reached = (update != 0) | (mean != 0)
        assert 0 < reached.sum() < len(update)
        assert dose.opposed == pytest.approx(float((update * mean < 0).sum() / reached.sum()), abs=2e-6)
    assert dose.cosine < 0.999 and dose.scaled_cosine != dose.cosine and dose.opposed > 0
    assert (dose.specific is not None) == (name == "taco")


def test_the_share_of_specific_parameters_is_the_weighting_s() -> None:
    first, *_, last = (dose for dose, *_ in steps("taco", 6, tau="share:0.25", burn_in=0.3))
    assert first.specific is None and first.cosine == pytest.approx(1) and first.opposed == 0  # burn-in
    assert last.specific == pytest.approx(0.25, abs=0.15)  # chosen in the second step, and drifting since


def test_equal_weights_are_naive_training_and_that_is_not_measured() -> None:
    assert [dose for dose, *_ in steps("static", 2)] == [Dose(1.0, 1.0, 0.0, None)] * 2
    params = parameters()
    weighting = resolve(WEIGHTINGS["naive"])(params, TASKS)
    meter = DoseMeter(params, weighting, 1)
    meter.begin(0, TASKS)
    assert meter.extra_bytes == 0 and meter.measure(optimiser(params)) == NAIVE
    meter.begin(1, TASKS - 1)  # a step of some tasks only
    assert meter.measure(optimiser(params)) is None
    alone = DoseMeter(params, resolve(WEIGHTINGS["naive"])(params, 1), 1)
    alone.begin(0, 1)
    assert alone.measure(optimiser(params)) is None


def test_steps_between_measurements_and_memory() -> None:
    assert [dose is not None for dose, *_ in steps("taco", 6, every=3)] == [False, False, True] * 2
    assert [dose for dose, *_ in steps("taco", 2, every=0)] == [None, None]
    params = parameters()
    weighting = resolve(WEIGHTINGS["taco"])(params, TASKS)
    assert DoseMeter(params, weighting, 3).extra_bytes == 4 * sum(param.numel() for param in params)
    assert DoseMeter(params, weighting, 0).extra_bytes == 0


def test_an_update_of_zeros_has_no_cosine() -> None:
    params = parameters()
    weighting = resolve(WEIGHTINGS["taco"])(params, 2)
    meter, optimizer = DoseMeter(params, weighting, 1), optimiser(params)
    weighting.begin(0.0)
    meter.begin(0, 2)
    for task in range(2):
        for param in params:
            param.grad = torch.zeros_like(param)
        meter.add()
        weighting.add(task, 1.0, params)
    weighting.combine(params)
    optimizer.step()
    assert meter.measure(optimizer) == Dose(None, None, None, None)


def test_a_step_that_is_skipped_has_no_dose(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = step_of(encoder(tiny_bert), "taco")
    measured = MultiTaskStep(step.model, step.objectives, step.weighting, log_dose=1)
    optimizer = adamw(step.model, SMALL.optimiser)
    task = measured.objectives[1]
    with monkeypatch.context() as poisoned:
        poisoned.setattr(task, "backward", lambda *_: torch.tensor(math.nan))
        assert measured(0, 0.5).report is None
    assert measured.dose.measure(optimizer) is None
    assert measured(1, 0.5).report is not None
    optimizer.step()
    found = measured.dose.measure(optimizer)
    assert found is not None and found.cosine is not None and 0 < found.cosine < 1


def test_a_training_logs_its_dose(tiny_bert: Path, tmp_path: Path) -> None:
    """By default every 20 steps; of naive training as well, where it is known."""
    keys = {"steps": 40, "validate_every": 40, "checkpoint_every": 40, "pool_random": 20}
    for weighting in ("naive", "taco"):
        train(small(tiny_bert, tmp_path / weighting, weighting=weighting, **keys))
    assert logged_dose(tmp_path / "naive") == [(20, NAIVE), (40, NAIVE)]
    (first, dose), (second, _) = logged_dose(tmp_path / "taco")
    assert (first, second) == (20, 40) and dose.specific is not None and dose.cosine is not None and dose.cosine < 1
    assert [line["step"] for line in logged(tmp_path / "taco") if "dose" in line] == [20, 40]
