"""Task weightings combine T task gradients, given one at a time, into one update. Each file is one strategy from one paper."""

from taco_ir.weighting.base import StepReport, TaskWeighting
from taco_ir.weighting.cgd import CommonGradientDescent
from taco_ir.weighting.gradnorm import GradNorm
from taco_ir.weighting.naive import Naive
from taco_ir.weighting.pcgrad import PCGrad
from taco_ir.weighting.taco import Taco
from taco_ir.weighting.uw import UncertaintyWeighting

WEIGHTINGS: dict[str, type[TaskWeighting]] = {
    "naive": Naive,
    "uw": UncertaintyWeighting,
    "gradnorm": GradNorm,
    "pcgrad": PCGrad,
    "cgd": CommonGradientDescent,
    "taco": Taco,
}

__all__ = ["WEIGHTINGS", "StepReport", "TaskWeighting"]
