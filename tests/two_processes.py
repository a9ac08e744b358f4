"""Training steps in one process or several, for comparison: `python two_processes.py MODEL FOLDER`, started as torchrun does."""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from small_steps import SMALL, encoder, step_of
from torch import Tensor

from taco_ir.training import step as step_module
from taco_ir.training.backward import Arithmetic, backward
from taco_ir.training.processes import Processes
from taco_ir.training.start import adamw
from taco_ir.training.step import BatchSettings, MultiTaskStep
from taco_ir.weighting import WEIGHTINGS

STEPS = 10
POISONED = 3  # the step in which a case may have a gradient that is not finite


class Case(NamedTuple):
    """Steps to compare. Two processes without `cross_device` equal one that accumulates twice as often.

    Of normalised embeddings: scores of some tens would carry rounding of 1e-6 into the losses.
    """

    weighting: str
    cross_device: bool
    steps: int = STEPS
    accumulate: int = 1
    gradcache: int = 0
    dropout: float = 0.0
    poisoned: int = -1  # the process in which a gradient is not finite; -1: none
    encoder: dict[str, Any] = {"normalize": True}  # noqa: RUF012  (only read)
    tolerance: float = 1e-5  # of parameters
    options: dict[str, Any] = {}  # noqa: RUF012  (only read)

    def settings(self, alone: bool) -> BatchSettings:
        twice = alone and not self.cross_device
        return BatchSettings(negatives=2, cross_device=self.cross_device, accumulate=self.accumulate * (2 if twice else 1))


def _tuned(method: str, roles: str) -> dict[str, Any]:
    """Modules of a width that they all take."""
    return {"tune": method, "tune_width": 4, "tune_roles": roles, "normalize": True}


TUNED = (("lora", "tower", "naive", True), ("adapter", "task", "taco", True), ("prompt", "task-frozen", "naive", False))
CASES = {
    **{f"{name} across": Case(name, True) for name in WEIGHTINGS},
    **{f"{name} apart": Case(name, False) for name in WEIGHTINGS},
    # rounding at random goes the other way for numbers at the edge
    "taco in bf16": Case("taco", True, 4, tolerance=5e-5, options={"importance": "bf16"}),
    "gradcache across": Case("naive", True, 3, gradcache=3),
    "gradcache apart": Case("naive", False, 3, gradcache=3),
    "untied across": Case("naive", True, 3, encoder={"untied": True, "normalize": True}),
    "parts without a query, apart": Case("naive", False, 3, accumulate=2),
    **{f"{method} by {roles}": Case(weighting, across, 4, encoder=_tuned(method, roles)) for method, roles, weighting, across in TUNED},
    "poisoned": Case("taco", True, 5, poisoned=1),
}
PARTED = {"parts without a query, across": Case("naive", True, 3, accumulate=3, gradcache=2)}  # 1 query in 3 turns of 2 processes
DROPOUT = {"dropout": Case("pcgrad", True, 3, dropout=0.3)}  # processes draw their own: only they agree with each other


def steps_of(case: Case, model: Path, processes: Processes, alone: bool) -> dict[str, Tensor]:
    """Losses [steps, T], norms, weights of each step (NaN: skipped), parameters and the weighting's state at the end."""
    torch.manual_seed(processes.rank)  # processes that differ in what they drew before
    dual = encoder(model, dropout=case.dropout, **case.encoder)
    step = step_of(dual, case.weighting, case.settings(alone), Arithmetic(gradcache=case.gradcache), processes, **case.options)
    optimizer = adamw(dual, replace(SMALL, learning_rate=2e-5))
    seen: dict[str, list[list[float]]] = {"losses": [], "norms": [], "weights": []}
    for number in range(case.steps):
        here = number == POISONED and case.poisoned >= 0 and (alone or processes.rank == case.poisoned)
        with poisoned(step) if here else nullcontext():
            result = step(number, number / case.steps)
        optimizer.step()
        optimizer.zero_grad()
        seen["losses"].append(list(result.losses.values()))
        seen["norms"].append(list(result.norms.values()))
        seen["weights"].append(list(result.report.weights) if result.report else [math.nan] * len(result.losses))
    found = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in seen.items()}
    found["params"] = torch.cat([param.detach().flatten() for param in step.params])
    state = {f"state {name}": value.double() for name, value in step.weighting.state_dict().items()}
    return found | state


def poisoned(step: MultiTaskStep) -> AbstractContextManager[object]:
    """Where the gradient of the second task is infinite in this process."""

    def spoiled(*args: Any) -> float:
        loss = backward(*args)
        if args[4][1] == "wow":  # the task, in the seed
            step.params[0].grad = torch.full_like(step.params[0], math.inf)
        return loss

    return patch.object(step_module, "backward", spoiled)


def exchanges(processes: Processes) -> dict[str, Tensor]:
    """What the operations between processes give, and the gradient that one's own rows get."""
    found = {"from_first": torch.tensor([processes.from_first(1.0 / (3 + processes.rank))], dtype=torch.float64)}
    found["sum"] = processes.sum(torch.tensor([1.0, 10.0 * (1 + processes.rank)]))
    for name, sizes in {"odd": (3, 1), "one empty": (0, 2), "other empty": (2, 0), "both empty": (0, 0)}.items():
        start = sum(sizes[: processes.rank])
        own_ND = torch.arange(2.0 * start, 2.0 * (start + sizes[processes.rank])).view(-1, 2).requires_grad_()
        rows_ND = processes.gather(own_ND, sizes)
        (rows_ND * torch.arange(1.0, 1.0 + rows_ND.numel()).view_as(rows_ND)).sum().backward()  # type: ignore[no-untyped-call]
        assert own_ND.grad is not None
        found |= {f"rows, {name}": rows_ND.detach(), f"gradient, {name}": own_ND.grad}
    return found


def main(model: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    processes = Processes(torch.device("cpu"))
    save_file(exchanges(processes), folder / f"exchanges-{processes.rank}")
    for name, case in (CASES | PARTED | DROPOUT).items():
        save_file(steps_of(case, model, processes, False), folder / f"{name}-{processes.rank}")
    processes.wait()
    processes.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
