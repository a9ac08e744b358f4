"""Training steps in one process or several, for comparison: `python two_processes.py MODEL MLM FOLDER` by torchrun.

MLM is a model with a mask token, for steps of several kinds of tasks.
"""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from small_steps import SMALL, all_kinds, encoder, step_of
from torch import Tensor
from weighting_steps import TRAINED

from taco_ir.encoders.adapters.methods import METHODS
from taco_ir.training.backward import Arithmetic, backward
from taco_ir.training.base_model import start_encoder
from taco_ir.training.dose import DoseMeter
from taco_ir.training.loop import adamw
from taco_ir.training.objectives import contrastive as step_module
from taco_ir.training.objectives.base import LossSettings
from taco_ir.training.processes import Processes
from taco_ir.training.run import make_step
from taco_ir.training.shared_encoder import SharedEncoder
from taco_ir.training.step import MultiTaskStep

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
    schedule: str = ""  # of steps of several kinds of tasks; "": steps of retrieval alone
    log_dose: int = 2  # measure every so many steps; 0: never

    def settings(self, alone: bool) -> LossSettings:
        twice = alone and not self.cross_device
        return LossSettings(
            negatives=2, cross_device=self.cross_device, accumulate=self.accumulate * (2 if twice else 1)
        )


def _tuned(method: str, roles: str) -> dict[str, Any]:
    """Adapters of a width that all methods take but BitFit, which has one."""
    width = {} if method == "bitfit" else {"tune_width": 4}
    return {"tune": method, **width, "tune_roles": roles, "normalize": True}


TUNED = (("lora", "tower", "naive", True), ("adapter", "task", "taco", True), ("prompt", "task-frozen", "naive", False))
KINDS = {"roles": "adapter", "reading": ("nq",), "self_supervised": ("mlm", "inverse_cloze"), "reading_negatives": 1}
OPTIONS: dict[str, dict[str, Any]] = {"static": {"nq": 4.0}}  # of weightings that are naive without any
CASES = {
    **{f"{name} across": Case(name, True, options=OPTIONS.get(name, {})) for name in TRAINED},
    **{f"{name} apart": Case(name, False, options=OPTIONS.get(name, {})) for name in TRAINED},
    # rounding at random goes the other way for numbers at the edge
    "taco by share": Case("taco", True, options={"tau": "share:0.8"}),
    "taco in bf16": Case("taco", True, 4, tolerance=5e-5, options={"importance": "bf16"}),
    "gradcache across": Case("naive", True, 3, gradcache=3),
    "gradcache apart": Case("naive", False, 3, gradcache=3),
    "untied across": Case("naive", True, 3, encoder={"untied": True, "normalize": True}),
    "parts without a query, apart": Case("naive", False, 3, accumulate=2),
    **{
        f"{method} by {roles}": Case(weighting, across, 4, encoder=_tuned(method, roles))
        for method, roles, weighting, across in TUNED
    },
    **{f"{method} alone": Case("naive", True, 3, encoder=_tuned(method, "shared")) for method in METHODS},
    **{f"{name} of several kinds": Case(name, True, 4, schedule="joint") for name in TRAINED},
    # a step leaves out what other tasks' heads and modules alone would move
    **{
        f"{name} {how}": Case("naive", how == "across", 12, schedule=name)
        for name in ("alternating", "sequential")
        for how in ("across", "apart")
    },
    **{f"poisoned {name}": Case(name, True, 5, poisoned=1) for name in ("taco", "naive", "uw")},
}
PARTED = {
    "parts without a query, across": Case("naive", True, 3, accumulate=3, gradcache=2)
}  # 1 query in 3 turns of 2 processes
UNLOGGED = {"uw unlogged": CASES["uw across"]._replace(log_dose=0)}
DROPOUT = {"dropout": Case("pcgrad", True, 3, dropout=0.3)}  # processes draw their own: only they agree with each other


def several_kinds(case: Case, model: Path, processes: Processes, alone: bool) -> MultiTaskStep:
    """A step of three tasks of retrieval, one of reading with the first words as answers, mlm and inverse cloze."""
    settings = case.settings(alone)
    alpha = {"schedule_alpha": 0.0} if case.schedule == "alternating" else {}
    values = {
        **case.encoder,
        **KINDS,
        **alpha,
        "schedule": case.schedule,
        "weighting": case.weighting,
        "steps": case.steps,
        "hard_negatives": 2,
    }
    config = SMALL.replace(
        **values, accumulate=settings.accumulate, cross_device=settings.cross_device, query_length=16, passage_length=48
    )
    shared = start_encoder(config, model, ["nq", "wow", "fever"])
    assert isinstance(shared, SharedEncoder)
    shared.train()
    return make_step(config, shared, all_kinds(shared, config, processes))[0]


def steps_of(case: Case, model: Path, mlm: Path, processes: Processes, alone: bool) -> dict[str, Tensor]:
    """Losses [S, T], norms, weights of each step (NaN: skipped), parameters and the weighting's state at the end."""
    torch.manual_seed(processes.rank)  # processes that differ in what they drew before
    if case.schedule:
        step = several_kinds(case, mlm, processes, alone)
    else:
        dual = encoder(model, dropout=case.dropout, **case.encoder)
        step = step_of(
            dual, case.weighting, case.settings(alone), Arithmetic(gradcache=case.gradcache), processes, **case.options
        )
    step.dose = DoseMeter(step.params, step.weighting, case.log_dose)
    # AdamW moves a number whose gradient is rounding alone, such as the bias of a reader, by up to its rate, either way
    optimizer = adamw(step.model, SMALL.replace(learning_rate=2e-6 if case.schedule else 2e-5).optimiser)
    tasks = [objective.task for objective in step.objectives]
    seen: dict[str, list[list[float]]] = {"losses": [], "norms": [], "weights": []}
    for number in range(case.steps):
        here = number == POISONED and case.poisoned >= 0 and (alone or processes.rank == case.poisoned)
        with poisoned(step) if here else nullcontext():
            result = step(number, number / case.steps)
        optimizer.step()
        optimizer.zero_grad()
        seen["losses"].append([result.losses.get(task, math.nan) for task in tasks])
        seen["norms"].append([result.norms.get(task, math.nan) for task in tasks])
        weights = dict(zip(result.losses, result.report.weights, strict=True)) if result.report else {}
        seen["weights"].append([weights.get(task, math.nan) for task in tasks])
    found = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in seen.items()}
    found["params"] = torch.cat([param.detach().flatten() for param in step.params])
    state = {f"state {name}": value.double() for name, value in step.weighting.state_dict().items()}
    return found | state


def poisoned(step: MultiTaskStep) -> AbstractContextManager[object]:
    """Where the gradient of the second task is infinite in this process."""

    def spoiled(*args: Any) -> Tensor:
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


def main(model: Path, mlm: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    processes = Processes(torch.device("cpu"))
    save_file(exchanges(processes), folder / f"exchanges-{processes.rank}")
    for name, case in (CASES | PARTED | UNLOGGED | DROPOUT).items():
        save_file(steps_of(case, model, mlm, processes, False), folder / f"{name}-{processes.rank}")
    processes.wait()
    processes.end()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
