"""Task weightings, which combine the gradients of T tasks into one update. Each paper's method is one file."""

import math

SPECIFIC = 0.3  # nats: an entropy of weights over tasks below it makes a parameter task-specific, in the paper of TACO
PAPER_TASKS = 8  # of the paper
PAPER_ENTROPY = 2.1  # above ln 8, the end of its last bin

WEIGHTINGS = {
    "naive": "taco_ir.weighting.fixed:Naive",
    "static": "taco_ir.weighting.fixed:Static",
    "uw": "taco_ir.weighting.uw:UncertaintyWeighting",
    "gradnorm": "taco_ir.weighting.gradnorm:GradNorm",
    "pcgrad": "taco_ir.weighting.pcgrad:PCGrad",
    "cgd": "taco_ir.weighting.cgd:CommonGradientDescent",
    "taco": "taco_ir.weighting.taco:Taco",
    "jd:upgrad": "taco_ir.weighting.jd:UPGrad",
    "jd:dualproj": "taco_ir.weighting.jd:DualProj",
    "jd:mgda": "taco_ir.weighting.jd:MGDA",
    "jd:imtlg": "taco_ir.weighting.jd:IMTLG",
    "jd:aligned": "taco_ir.weighting.jd:AlignedMTL",
    "jd:cagrad": "taco_ir.weighting.jd:CAGrad",
    "jd:fairgrad": "taco_ir.weighting.jd:FairGrad",
    "jd:nash": "taco_ir.weighting.jd:NashMTL",
}


def specific_entropy(tasks: int) -> float:
    """Returns the entropy of task weights, in nats, below which a parameter counts as task-specific.

    It is the paper's value, scaled to ln(tasks). With one task all entropies are 0, so all parameters are specific.
    """
    return SPECIFIC if tasks in (1, PAPER_TASKS) else SPECIFIC / PAPER_ENTROPY * math.log(tasks)
