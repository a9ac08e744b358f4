"""Task weightings: combine T task gradients, given one at a time, into one update. A file for each paper's strategy."""

WEIGHTINGS = {
    "naive": "taco_ir.weighting.naive:Naive",
    "uw": "taco_ir.weighting.uw:UncertaintyWeighting",
    "gradnorm": "taco_ir.weighting.gradnorm:GradNorm",
    "pcgrad": "taco_ir.weighting.pcgrad:PCGrad",
    "cgd": "taco_ir.weighting.cgd:CommonGradientDescent",
    "taco": "taco_ir.weighting.taco:Taco",
}
