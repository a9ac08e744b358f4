"""Weightings in a loop of one's own: `backward` on any model, its heads, and what a user may get wrong in it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter, functional
from weighting_steps import TRAINED, Oracle, flat

from taco_ir.core import resolve
from taco_ir.core.files import InputError
from taco_ir.weighting import WEIGHTINGS
from taco_ir.weighting.base import TaskWeighting
from taco_ir.weighting.fixed import Naive
from taco_ir.weighting.taco import Taco

BATCH, STEPS = 12, 40


class TwoTasks(nn.Module):
    """A small convolutional network for pictures of 8 x 8: where a bar lies, and how bright it is."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, 16), nn.ReLU()
        )
        self.place, self.brightness = nn.Linear(16, 8), nn.Linear(16, 1)
        self.to(dtype)

    def losses(self, step: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(step)
        place = torch.randint(0, 8, (BATCH,), generator=generator)
        brightness = torch.rand(BATCH, 1, dtype=torch.float64, generator=generator) + 0.5
        pictures = torch.zeros(BATCH, 1, 8, 8, dtype=torch.float64)
        pictures[torch.arange(BATCH), 0, place] = brightness
        features = self.trunk(pictures.to(self.place.weight.dtype))
        return [
            functional.cross_entropy(self.place(features), place),
            functional.mse_loss(self.brightness(features), brightness.to(features.dtype)),
        ]

    @property
    def shared(self) -> list[Parameter]:
        return list(self.trunk.parameters())


def task_gradients(model: TwoTasks, losses: list[Tensor]) -> Tensor:
    """The T x P matrix of what each loss alone gives the shared parameters."""
    rows = [torch.autograd.grad(loss, model.shared, retain_graph=True) for loss in losses]
    return torch.stack([flat(row, model.shared) for row in rows])


def test_a_loop_with_taco_is_the_formula_on_the_matrix_of_gradients() -> None:
    """Parameters change from step to step, and both sides see the same ones; heads have their own loss's gradient."""
    model = TwoTasks()
    weighting = Taco(model.trunk.parameters(), tasks=2)
    formula = Oracle(2, sum(param.numel() for param in model.shared))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        optimiser.zero_grad()
        losses = model.losses(step)
        theta_P = flat(model.shared, model.shared)
        expected_P = formula.step(task_gradients(model, losses), theta_P, step / STEPS >= 0.1)
        heads = [*model.place.parameters(), *model.brightness.parameters()]
        of_heads = torch.autograd.grad(sum(losses), heads, retain_graph=True)
        report = weighting.backward(losses, step / STEPS)
        torch.testing.assert_close(
            flat([p.grad for p in model.shared], model.shared), expected_P, rtol=1e-9, atol=1e-13
        )
        for param, grad in zip(heads, of_heads, strict=True):
            torch.testing.assert_close(param.grad, grad)
        assert sum(report.weights) == pytest.approx(1)
        optimiser.step()
    assert float(formula.weights().std()) > 0.01  # tasks differ, so that the naive mean would have been noticed


@pytest.mark.parametrize("name", TRAINED)
def test_every_weighting_trains_a_network_of_two_tasks(name: str) -> None:
    model = TwoTasks(torch.float32)
    weighting: TaskWeighting = resolve(WEIGHTINGS[name])(model.trunk.parameters(), 2)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    first = [float(loss.detach()) for loss in model.losses(1000)]
    for step in range(STEPS):
        optimiser.zero_grad()
        weighting.backward(model.losses(step), step / STEPS)
        optimiser.step()
    last = [float(loss.detach()) for loss in model.losses(1000)]
    assert all(after < 0.8 * before for before, after in zip(first, last, strict=True)), (first, last)


@pytest.mark.parametrize("name", TRAINED)
def test_backward_is_begin_add_and_combine(name: str) -> None:
    model = TwoTasks()
    one, other = (resolve(WEIGHTINGS[name])(model.shared, 2) for _ in range(2))
    for step in range(3):
        report = one.backward(model.losses(step), step / 3)
        update_P = flat([param.grad for param in model.shared], model.shared)
        other.begin(step / 3)
        for param in model.parameters():
            param.grad = None
        for task, loss in enumerate(model.losses(step)):
            loss.backward(retain_graph=True)
            other.add(task, loss.detach(), model.shared)
        assert other.combine(model.shared) == report
        torch.testing.assert_close(flat([param.grad for param in model.shared], model.shared), update_P, rtol=0, atol=0)


@pytest.mark.parametrize("name", TRAINED)
def test_parameters_and_losses_may_be_a_list_a_tuple_or_an_iterator(name: str) -> None:
    updates = []
    for made in (list, tuple, iter, lambda params: (param for param in params)):
        model = TwoTasks()
        weighting = resolve(WEIGHTINGS[name])(made(model.shared), 2)
        weighting.backward(made(model.losses(0)), 1.0)
        updates.append(flat([param.grad for param in model.shared], model.shared))
        weighting.begin(1.0)
        for task, loss in enumerate(model.losses(0)):
            loss.backward(retain_graph=True)
            weighting.add(task, loss.detach(), made(model.shared))
        weighting.combine(made(model.shared))
    assert all(torch.equal(update, updates[0]) for update in updates)


def test_what_was_in_grad_of_shared_parameters_does_not_count() -> None:
    """Without zero_grad the update of the step before would be added to the first task's gradient."""
    model = TwoTasks()
    weighting = Naive(model.shared, 2)
    weighting.backward(model.losses(0), 0.0)
    weighting.backward(model.losses(1), 0.5)
    found_P = flat([param.grad for param in model.shared], model.shared)
    torch.testing.assert_close(found_P, task_gradients(model, model.losses(1)).mean(0))


def test_the_head_of_a_task_may_be_weighted_too() -> None:
    """Then the other task counts as zeros: the naive mean halves its gradient."""
    model = TwoTasks()
    (alone,) = torch.autograd.grad(model.losses(0)[0], [model.place.weight])
    Naive(model.parameters(), 2).backward(model.losses(0), 0.0)
    torch.testing.assert_close(model.place.weight.grad, alone / 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda model: model, "params must .* found a TwoTasks"),
        (lambda model: model.trunk, "params must .* found a Sequential"),
        (lambda model: model.named_parameters(), "params must .* found a tuple"),
        (lambda model: [{"params": model.parameters()}], "params must .* found a dict"),
        (lambda model: model.place.weight, "params must .* found a Parameter"),
        (lambda model: iter(()), "there is no trainable parameter"),
    ],
)
def test_what_is_no_list_of_parameters_is_told(given: object, said: str) -> None:
    with pytest.raises(InputError, match=f"task weighting: {said}[^\n]*$"):
        Taco(given(TwoTasks()), 2)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda losses: losses[:1], "1 losses; one for each of 2 tasks is needed"),
        (lambda losses: [losses[0], losses[1].detach()], r"the loss of task 1 is a tensor of shape \[\] without a gr"),
        (
            lambda losses: [losses[0].expand(3), losses[1]],
            r"the loss of task 0 is a tensor of shape \[3\]; it must be a scalar",
        ),
        (
            lambda losses: [losses[0], losses[1].item()],
            "the loss of task 1 is no tensor but float; it must be a scalar with a graph",
        ),
        (lambda losses: dict(enumerate(losses)), "the loss of task 0 is no tensor but int"),
        (
            lambda losses: [losses[0], Parameter(torch.ones(())) * 2],
            "the loss of task 1 does not depend on any of the 4 par",
        ),
    ],
)
def test_losses_that_give_no_gradients_are_told(given: object, said: str) -> None:
    model = TwoTasks()
    weighting = Taco(model.shared, 2)
    with pytest.raises(InputError, match=f"task weighting: {said}[^\n]*$"):
        weighting.backward(given(model.losses(0)), 0.0)  # type: ignore[operator]
    weighting.backward(model.losses(0), 0.0)  # nothing is left of the step before


@pytest.mark.parametrize("name", TRAINED)
def test_a_forgotten_backward_is_told(name: str) -> None:
    model = TwoTasks()
    weighting = resolve(WEIGHTINGS[name])(model.shared, 2)
    for forgotten in (0, 1):  # one of them is enough
        weighting.begin(0.0)
        for task, loss in enumerate(model.losses(0)):
            if task == forgotten:
                with pytest.raises(
                    InputError, match=rf"task {task} has no gradient; call backward\(\) on its loss bef"
                ):
                    weighting.add(task, loss.detach(), model.shared)
                break
            loss.backward(retain_graph=True)
            weighting.add(task, loss.detach(), model.shared)
    weighting.backward(model.losses(0), 0.0)  # the step that was begun is dropped
    assert all(param.grad is not None for param in model.shared)


def test_a_loss_that_is_not_finite_drops_the_step() -> None:
    model = TwoTasks()
    weighting = Taco(model.shared, 2)
    first, second = model.losses(0)
    with pytest.raises(FloatingPointError, match="the loss of task 1 is inf"):
        weighting.backward([first, second * torch.inf], 0.0)
    assert all(param.grad is None for param in model.shared)
    weighting.backward(model.losses(0), 0.0)
