"""What a training is about to do, said before it starts: the mix of tasks, negatives, parameters, memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from taco_ir.data.batches import TaskSampler
from taco_ir.evaluation.table import Cell, Table, render
from taco_ir.files import human_bytes
from taco_ir.training.config import TrainConfig
from taco_ir.training.dual import DualEncoder
from taco_ir.training.tuning import describe_tuning

STATE_BYTES = 16  # of a trained parameter in float32: itself, its gradient, AdamW's two moments
ACTIVATION_BYTES = 68  # of a token, layer and hidden unit in float32: twice the 34 of Korthikanti et al., 2022, eq. 2, for 16 bits


class Mix(NamedTuple):
    """What the batches of an episode are made of."""

    samplers: Sequence[TaskSampler]
    processes: int


def describe(config: TrainConfig, model: DualEncoder, mix: Mix, weighting_bytes: float) -> str:
    """The mix as a table, and in a few lines what the training takes."""
    own = config.accumulate * (1 if config.cross_device else mix.processes)
    rows: list[list[Cell]] = []
    for sampler in mix.samplers:
        columns = 1 + (config.hard_negatives if any(example.negatives for example in sampler.examples) else 0)
        queries = -(-sampler.share // own)
        seen = queries * columns - 1
        lengths = f"{model.config.max_query_tokens(sampler.task)} / {model.config.passage_length}"
        prompt = model.config.prompt(sampler.task).strip() or "-"
        rows.append([sampler.task, len(sampler.examples), sampler.share, seen, columns - 1, lengths, prompt])
    header = ("task", "queries", "in a batch", "negatives seen", "of them hard", "tokens (query / passage)", "prompt")
    trained = sum(param.numel() for _, param in model.trained())
    every = sum(param.numel() for param in model.parameters())
    memory = STATE_BYTES * trained + 4 * (every - trained) + weighting_bytes + _activations(config, model, mix)
    return (
        render(Table("", header, rows), "table")
        + describe_tuning(model)
        + f"{trained:,} of {every:,} parameters are trained; weighting: {config.weighting}; at most about {human_bytes(memory)} of memory"
        + (f" for each of {mix.processes} processes" if mix.processes > 1 else "")
    )


def _activations(config: TrainConfig, model: DualEncoder, mix: Mix) -> float:
    """Bytes of the activations of the largest task's part of a batch, were all its texts as long as they may be."""
    backbone = model.towers["passage"]["backbone"].config  # type: ignore[index]
    layers = backbone.num_hidden_layers * (2 if model.config.pooling == "decoder" else 1)
    most = 0
    for sampler in mix.samplers:
        queries = -(-sampler.share // (config.accumulate * mix.processes))
        texts = queries * (2 + config.hard_negatives)
        tokens = queries * (model.config.max_query_tokens(sampler.task) + (1 + config.hard_negatives) * model.config.passage_length)
        if config.gradcache:
            tokens = min(tokens, tokens * config.gradcache // texts)
        most = max(most, tokens)
    kept = 1 if config.gradient_checkpointing else layers
    return most * kept * int(backbone.hidden_size) * ACTIVATION_BYTES * (0.5 if config.precision == "bf16" else 1.0)
