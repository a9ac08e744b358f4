"""What a training is about to do, said before it starts: the mix of tasks, negatives, parameters, memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from taco_ir.core.files import human_bytes
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.retrieval.vectors import held_memory, peak_memory
from taco_ir.training.batches import TaskSampler
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.loop import Plan
from taco_ir.training.objectives.masked_tokens import MASK_SHARE
from taco_ir.training.schedules import READING, RETRIEVAL, SELF_SUPERVISED
from taco_ir.training.settings import BatchSettings, OptimiserSettings, TrainSettings
from taco_ir.training.shared import QUESTION_TOKENS
from taco_ir.training.step import MultiTaskStep
from taco_ir.training.tuning import describe_tuning

STATE_BYTES = 16  # of a trained parameter in float32: itself, its gradient, AdamW's two moments
SCORE_BYTES = 12  # of a masked token and a token of the vocabulary: the score, its softmax and its gradient
ACTIVATION_BYTES = (
    68  # of a token, layer and hidden unit in float32: twice the 34 of Korthikanti et al., 2022, eq. 2, for 16 bits
)


class Mix(NamedTuple):
    """What the batches of an episode are made of."""

    samplers: Sequence[TaskSampler]
    processes: int
    other_bytes: float = 0.0  # of the activations of the largest batch of another kind of task


def announce(config: TrainSettings, step: MultiTaskStep, plan: Plan, processes: int, validated: bool = True) -> str:
    """All of it, for a training in so many processes."""
    retrieval = [each for each in step.objectives if each.phase == RETRIEVAL]
    beside = [each for each in step.objectives if each.phase != RETRIEVAL]
    parameters = sum(param.numel() for param in step.params)
    memory = step.weighting.extra_bytes(parameters, len(step.objectives), **config.weighting.weighting_options)
    others = _other_bytes(config, step.model, {each.phase for each in beside}, processes)
    samplers = [each.sampler for each in retrieval if isinstance(each.sampler, TaskSampler)]
    lines = [describe(config, step.model, Mix(samplers, processes, others), memory)]
    if beside:
        lines.append(f"schedule: {config.objectives.schedule}{'; beside retrieval:' if retrieval else ':'}")
        lines += [f"  {each}" for each in beside]
    counted = retrieval or beside
    counts = f"; the best model is one of the last phase, after step {plan.judged_after:,}" if plan.judged_after else ""
    judged = (
        f"validated every {plan.validate_every:,}{counts}"
        if validated
        else f"never validated{', for want of topics' * bool(retrieval)}; the last model is kept"
    )
    return "\n".join(
        [
            *lines,
            f"{plan.steps:,} steps of {sum(each.sampler.share for each in counted)} {counted[0].examples}, {judged}",
        ]
    )


def describe(config: TrainSettings, model: DualEncoder, mix: Mix, weighting_bytes: float) -> str:
    """The mix as a table, and in a few lines what the training takes."""
    own = config.optimiser.accumulate * (1 if config.batch.cross_device else mix.processes)
    rows: list[list[Cell]] = []
    for sampler in mix.samplers:
        columns = 1 + min(
            config.batch.hard_negatives, max((len(example.negatives) for example in sampler.examples), default=0)
        )
        queries = -(-sampler.share // own)
        seen = queries * columns - 1
        lengths = f"{model.config.max_query_tokens(sampler.task)} / {model.config.passage_length}"
        prompt = model.config.prompt(sampler.task).strip() or "-"
        rows.append([sampler.task, len(sampler.examples), sampler.share, seen, columns - 1, lengths, prompt])
    header = ("task", "queries", "in a batch", "negatives seen", "of them hard", "tokens (query / passage)", "prompt")
    trained = sum(param.numel() for _, param in model.trained())
    every = sum(param.numel() for param in model.parameters())
    memory = (
        STATE_BYTES * trained
        + 4 * (every - trained)
        + weighting_bytes
        + _activations(config.batch, config.optimiser, model, mix)
    )
    return (
        (render(Table("", header, rows), "table") if rows else "")
        + describe_tuning(model)
        + f"{trained:,} of {every:,} parameters are trained; weighting: {config.weighting.weighting}; at most about {human_bytes(memory)} of memory"
        + _with_held(model, memory - 4 * every)
        + (f" for each of {mix.processes} processes" if mix.processes > 1 else "")
    )


def _with_held(model: DualEncoder, more: float) -> str:
    """Where the model is in the process's own memory: what that comes to with what it holds already, weights and all."""
    if model.device.type != "cpu":
        return f" on {model.device}"
    held = held_memory()
    return f", about {human_bytes(held + more)} with the {human_bytes(held)} that are held by now"


def told_peak(model: DualEncoder) -> str:
    """What a training took, to be held against what was said before it."""
    import torch

    device = model.device
    beside = f", {human_bytes(torch.cuda.max_memory_allocated(device))} on {device}" if device.type == "cuda" else ""
    return f"memory at its peak: {human_bytes(peak_memory())}{beside}"


def _activations(batch: BatchSettings, optimiser: OptimiserSettings, model: DualEncoder, mix: Mix) -> float:
    """Bytes of the activations of the largest task's part of a batch, were all its texts as long as they may be."""
    most = 0
    for sampler in mix.samplers:
        queries = -(-sampler.share // (optimiser.accumulate * mix.processes))
        texts = queries * (2 + batch.hard_negatives)
        tokens = queries * (
            model.config.max_query_tokens(sampler.task) + (1 + batch.hard_negatives) * model.config.passage_length
        )
        if optimiser.gradcache:
            tokens = min(tokens, tokens * optimiser.gradcache // texts)
        most = max(most, tokens)
    return max(most * _bytes_of_token(optimiser, model), mix.other_bytes)


def _bytes_of_token(optimiser: OptimiserSettings, model: DualEncoder) -> float:
    """Of a token's activations, in all layers that keep them."""
    backbone = model.towers["passage"]["backbone"].config  # type: ignore[index]
    layers = backbone.num_hidden_layers * (2 if model.config.pooling == "decoder" else 1)
    kept = 1 if optimiser.gradient_checkpointing else layers
    return kept * int(backbone.hidden_size) * ACTIVATION_BYTES * (0.5 if optimiser.precision == "bf16" else 1.0)


def _other_bytes(config: TrainSettings, model: DualEncoder, phases: Collection[str], processes: int) -> float:
    """As `_activations`, of a batch of reading, or of passages whose masked tokens are scored against the vocabulary."""
    parts, token = config.optimiser.accumulate * processes, _bytes_of_token(config.optimiser, model)
    read = -(-config.objectives.reading_batch // parts) * (1 + config.objectives.reading_negatives)
    read *= (config.encoder.query_length or QUESTION_TOKENS) + config.encoder.passage_length
    passages = -(-config.objectives.passage_batch // parts) * config.encoder.passage_length
    vocabulary = int(model.towers["passage"]["backbone"].config.vocab_size)  # type: ignore[index]
    masked = passages * (token + SCORE_BYTES * MASK_SHARE * vocabulary)
    return max(read * token if READING in phases else 0.0, masked if SELF_SUPERVISED in phases else 0.0)
