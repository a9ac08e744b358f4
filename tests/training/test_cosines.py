"""Cosines of gradients from sketches: exact for small gradients, unbiased for large ones; logs change no training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_steps import encoder, gradient, gradients, step_of
from torch import Tensor
from training_runs import TASKS as LOGGED_TASKS
from training_runs import StopAfter, Stopped, differing, encoder_of, episode, last_checkpoint, logged, real_step, small

from taco_ir.training.cosines import SKETCH_WIDTH, GradientSketch, compute_cosines, pair_cosines
from taco_ir.training.folder import differing_keys
from taco_ir.training.log import Reporter
from taco_ir.training.logged import logged_cosines, logged_dose
from taco_ir.training.loop import Loop
from taco_ir.training.schedules import Plan
from taco_ir.training.settings import TrainSettings
from taco_ir.training.step import MultiTaskStep


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


def test_a_small_gradient_is_kept_as_it_is() -> None:
    params = [torch.randn(30, 20), torch.randn(7)]
    sketch = GradientSketch(params)
    assert sketch.exact
    a, b = ([torch.randn_like(param) for param in params] for _ in range(2))
    flat = [torch.cat([grad.flatten() for grad in grads]) for grads in (a, b)]
    assert compute_cosines([sketch(a), sketch(b)])[0][1] == pytest.approx(cosine(*flat), abs=1e-6)
    kept = sketch(a)
    a[0].zero_()
    assert kept.abs().sum() > sketch(a).abs().sum()  # a copy: the gradient's memory is used again


def test_none_and_sparse_gradients_are_what_they_stand_for() -> None:
    params = [torch.zeros(3000, 40), torch.zeros(50)]
    sketch = GradientSketch(params)
    assert not sketch.exact
    rows = torch.tensor([[5, 2999]])
    sparse = torch.sparse_coo_tensor(rows, torch.randn(2, 40), (3000, 40))
    assert torch.equal(sketch([sparse, None]), sketch([sparse.to_dense(), torch.zeros(50)]))
    assert sketch([None, None]).count_nonzero() == 0


@pytest.mark.parametrize("heavy", [False, True])
def test_a_sketch_keeps_cosines_to_within_its_error(heavy: bool) -> None:
    """Where a matrix' column or a few entries hold all the energy as well."""
    drawn = torch.Generator().manual_seed(1)
    shape = (2000, 384)
    common = torch.randn(shape, generator=drawn)
    a, b = (common + torch.randn(shape, generator=drawn) for _ in range(2))
    if heavy:
        for each in (a, b):
            each[:, 7] *= 300
            each[3] *= 100
    found = compute_cosines([GradientSketch([a])([each]) for each in (a, b)])[0][1]
    assert found == pytest.approx(cosine(a, b), abs=4 * (2 / (2000 if heavy else SKETCH_WIDTH)) ** 0.5)


def test_a_sketch_is_linear_and_a_function_of_nothing_else() -> None:
    a, b = torch.randn(3, 40_000), torch.randn(3, 40_000)
    before = torch.get_rng_state()
    sketch = GradientSketch([a])
    assert torch.allclose(sketch([a]) + 2 * sketch([b]), GradientSketch([b])([a + 2 * b]), atol=1e-4)
    assert torch.equal(torch.get_rng_state(), before)


def exact_cosines(step: MultiTaskStep, number: int) -> list[list[float]]:
    rows = []
    for task in step.objectives:
        gradient(task, number)
        rows.append(torch.cat([grad.flatten() for grad in gradients(step.model)]))
    return compute_cosines(rows)


@pytest.mark.parametrize("weighting", ["naive", "taco"])
def test_a_step_compares_its_tasks(weighting: str, tiny_bert: Path) -> None:
    step = step_of(encoder(tiny_bert), weighting)
    compared = MultiTaskStep(step.model, step.objectives, step.weighting, log_cosines=2)
    exact = []
    for number in range(3):
        expected = exact_cosines(step, number)
        found = compared(number, 0.5).cosines
        step.model.zero_grad()
        if number % 2:
            assert found is None
            continue
        assert found is not None
        assert {task: list(row) for task, row in found.items()} == {"nq": ["wow", "fever"], "wow": ["fever"]}
        assert found["nq"]["wow"] == pytest.approx(expected[0][1], abs=0.02)
        assert found["wow"]["fever"] == pytest.approx(expected[1][2], abs=0.02)
        assert abs(expected[0][1]) > 0.02
        exact += [expected[0][1], expected[1][2]]
    assert max(map(abs, exact)) > 0.1  # what a sketch that finds nothing would miss
    assert step(0, 0.5).cosines is None


def compared_episode(config: TrainSettings, folder: Path, reporter: Reporter | None = None) -> Loop:
    folder.mkdir(parents=True, exist_ok=True)
    step = real_step(config, encoder_of(config, folder))
    plan = Plan(config.optimiser.steps, config.validation.validate_every)
    sections = (config.optimiser, config.weighting, config.validation)
    return Loop(*sections, step, plan, folder, step.objectives[0].means.processes, reporter or Reporter())


def test_the_log_changes_no_weight_and_goes_on_as_if_never_stopped(tiny_bert: Path, tmp_path: Path) -> None:
    config = small(tiny_bert, tmp_path, log_cosines=2, log_dose=2, weighting="taco")
    compared_episode(config, tmp_path / "whole").run()
    with pytest.raises(Stopped):
        compared_episode(config, tmp_path / "cut", StopAfter(3)).run()
    assert last_checkpoint(tmp_path / "cut").is_dir()
    compared_episode(config, tmp_path / "cut").run()
    assert differing(tmp_path / "cut", tmp_path / "whole") == []
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    episode(small(tiny_bert, tmp_path, weighting="taco", log_dose=0), tmp_path / "plain", validated=False).run()
    assert differing(tmp_path / "plain", tmp_path / "whole") == []
    found = logged_cosines(tmp_path / "whole")
    assert [step for step, _ in found] == [1, 3, 5]
    assert logged_cosines(tmp_path / "plain") == [] == logged_cosines(tmp_path / "none")
    assert [step for step, _ in logged_dose(tmp_path / "whole")] == [2, 4, 6] and logged_dose(tmp_path / "plain") == []
    assert list(found[0][1]) == list(LOGGED_TASKS[:-1])


def test_a_zero_gradient_has_no_cosine() -> None:
    (row,) = pair_cosines(["a", "b"], [torch.zeros(3), torch.ones(3)]).values()
    assert row["b"] != row["b"]


def test_a_run_from_before_the_key_can_go_on_with_it() -> None:
    values = TrainSettings(model="m", output="o").flat()
    del values["log_cosines"]
    old = TrainSettings(**values)
    assert differing_keys(old.flat(), TrainSettings(model="m", output="o", log_cosines=5).flat()) == []
