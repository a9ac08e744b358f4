"""CONTRIBUTING is true: the files and packages that it names exist, and its example is a weighting that works."""

import re
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

from taco_ir.weighting.base import TaskWeighting

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def seventh() -> type[TaskWeighting]:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    found: type[TaskWeighting] = names["LossProportional"]
    return found


def test_the_files_and_packages_that_it_names_exist() -> None:
    folders = (ROOT, ROOT / "taco_ir", ROOT / "taco_ir" / "training" / "objectives")
    named = re.findall(r"`([\w/]+(?:\.py|/))`", TEXT)
    assert len(named) > 40 and [name for name in named if not any((each / name).exists() for each in folders)] == []
    packages = {
        path.parent.relative_to(ROOT / "taco_ir").as_posix() for path in (ROOT / "taco_ir").rglob("__init__.py")
    }
    assert packages - {name.rstrip("/") for name in named} <= {"."}


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
