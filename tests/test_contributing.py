"""The example in CONTRIBUTING is a weighting that works."""

import re
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

from taco_ir.weighting.base import TaskWeighting

TEXT = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def seventh() -> type[TaskWeighting]:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    found: type[TaskWeighting] = names["LossProportional"]
    return found


def test_the_seventh_weighting_weighs_by_the_losses_of_the_step_before() -> None:
    param = Parameter(torch.zeros(2))
    weighting = seventh()([param], 2)
    for expected in ([0.5, 0.5], [0.25, 0.75]):
        weighting.begin(0.0)
        for task, (loss, grad) in enumerate(((1.0, [1.0, 0.0]), (3.0, [0.0, 1.0]))):
            param.grad = torch.tensor(grad)
            weighting.add(task, torch.tensor(loss), [param])
        report = weighting.combine([param])
        assert param.grad is not None and param.grad.tolist() == expected == list(report.weights)
