"""Task weightings: T task gradients, handed over one at a time, become one update. One strategy, one file, one paper."""

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
