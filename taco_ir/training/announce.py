"""Describes a training before it starts: tasks, negatives, parameters, memory, and number of steps."""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.core.processes import format_bytes, peak_memory, resident_memory
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.training.adapters import describe_adapters
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.objectives.base import Objective
from taco_ir.training.sampling import TaskSampler
from taco_ir.training.schedules import RETRIEVAL, Plan
from taco_ir.training.settings import OptimiserSettings

STATE_BYTES = 16  # for a trained parameter in float32: the parameter, its gradient, AdamW's two moments
# for each token, layer and hidden unit in float32: twice the 34 of Korthikanti et al., 2022, eq. 2 (16 bits)
ACTIVATION_BYTES = 68
HEADER = ("task", "queries", "in a batch", "negatives seen", "of them hard", "tokens (query / passage)", "prompt")


def announce(
    objectives: Sequence[Objective],
    plan: Plan,
    schedule: str,
    optimiser: OptimiserSettings,
    weighting: str,
    weighting_bytes: float,
    validated: bool = True,
) -> str:
    """Returns the text that is printed before the first step: the tasks, and what the training needs.

    Args:
        schedule: the name of the schedule, such as joint.
        weighting: the name of the weighting.
        weighting_bytes: memory of the weighting in bytes, in addition to the gradients of one task.
        validated: whether the model is validated during training.
    """
    retrieval = [each for each in objectives if each.phase == RETRIEVAL]
    beside = [each for each in objectives if each.phase != RETRIEVAL]
    lines = [describe(objectives, optimiser, weighting, weighting_bytes)]
    if beside:
        lines.append(f"schedule: {schedule}{'; in addition to retrieval:' if retrieval else ':'}")
        lines += [f"  {each}" for each in beside]
    counted = retrieval or beside
    validation = f"never validated{', because there are no topics' * bool(retrieval)}; the last model is kept"
    if validated:
        validation = plan.when_validated
        if plan.choose_after:
            validation += f"; the best model is chosen in the last phase, after step {plan.choose_after:,}"
    examples = f"{sum(each.sampler.share for each in counted)} {counted[0].examples}"
    return "\n".join([*lines, f"{plan.steps:,} steps of {examples}, {validation}"])


def describe(
    objectives: Sequence[Objective], optimiser: OptimiserSettings, weighting: str, weighting_bytes: float
) -> str:
    """Returns a table of the retrieval tasks, then sentences on adapters, trained parameters and expected memory."""
    rows = [
        _row(each, each.sampler)
        for each in objectives
        if isinstance(each.sampler, TaskSampler) and each.phase == RETRIEVAL
    ]
    table = render(Table("", HEADER, rows), "table") if rows else ""
    cost = describe_cost(objectives, optimiser, weighting, weighting_bytes)
    return table + describe_adapters(objectives[0].model) + cost


def describe_cost(
    objectives: Sequence[Objective], optimiser: OptimiserSettings, weighting: str, weighting_bytes: float
) -> str:
    """Returns a sentence on the number of trained parameters and the expected peak memory."""
    model, processes = objectives[0].model, objectives[0].means.processes.world
    trained = sum(param.numel() for _, param in model.trained_parameters())
    every = sum(param.numel() for param in model.parameters())
    activations = max(each.activation_bytes(_token_bytes(optimiser, model)) for each in objectives)
    memory = STATE_BYTES * trained + 4 * (every - trained) + weighting_bytes + activations
    return (
        f"{trained:,} of {every:,} parameters are trained; weighting: {weighting}; "
        + f"at most about {format_bytes(memory)} of memory"
        + _with_held(model, memory - 4 * every)
        + (f" for each of {processes} processes" if processes > 1 else "")
    )


def _row(objective: Objective, sampler: TaskSampler) -> list[Cell]:
    settings, config, task = objective.means.settings, objective.model.config, sampler.task
    parts = settings.accumulate * (1 if settings.cross_device else objective.means.processes.world)
    hard = min(settings.negatives, max((len(example.negatives) for example in sampler.examples), default=0))
    seen = -(-sampler.share // parts) * (1 + hard) - 1
    lengths = f"{config.max_query_tokens(task)} / {settings.passage_length or config.passage_length}"
    return [task, len(sampler), sampler.share, seen, hard, lengths, config.prompt(task).strip() or "-"]


def _with_held(model: DualEncoder, more: float) -> str:
    """Says on which device the memory is; on a CPU, adds the memory that the process uses already."""
    if model.device.type != "cpu":
        return f" on {model.device}"
    held = resident_memory()
    return f", about {format_bytes(held + more)} with the {format_bytes(held)} that are in use now"


def describe_peak(model: DualEncoder) -> str:
    """Returns a sentence on the peak memory that a training needed, to compare with the text of `announce`."""
    import torch

    device = model.device
    beside = f", {format_bytes(torch.cuda.max_memory_allocated(device))} on {device}" if device.type == "cuda" else ""
    return f"memory at its peak: {format_bytes(peak_memory())}{beside}"


def _token_bytes(optimiser: OptimiserSettings, model: DualEncoder) -> float:
    """Returns the memory in bytes that one token needs for the activations that are kept."""
    backbone = model.backbone("passage").config
    layers = backbone.num_hidden_layers * (2 if model.config.pooling == "decoder" else 1)
    kept = 1 if optimiser.gradient_checkpointing else layers
    return kept * int(backbone.hidden_size) * ACTIVATION_BYTES * (0.5 if optimiser.precision == "bf16" else 1.0)
