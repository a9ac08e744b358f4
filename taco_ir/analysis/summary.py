"""Summarises how specific parameters are to single tasks, by layer and kind of module, in the paper's entropy bins.

Zhang, Xiong, Stratos, Overwijk, Improving Multitask Retrieval by Promoting Task Specialization, TACL 11, 2023, section
5.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from taco_ir.weighting import PAPER_ENTROPY, PAPER_TASKS, SPECIFIC, specific_entropy

# nats, the paper's, of 8 tasks; the first bin is "task-specific"
EDGES = (0.0, SPECIFIC, 0.66, 1.02, 1.38, 1.74, PAPER_ENTROPY)
NOT_ACTIVATED = 1e-8  # |g theta| below it for all tasks
DENSITY_EDGES = tuple(power / 4 for power in range(-56, 9))  # log10 of |g theta|: -14 to 2
PAPER = {"taco": 0.22, "naive": 0.19}
BY_SEED = ("seed", "model", "negatives")  # settings that may differ between seeds of one system
THEN = " > "  # between the weightings of episodes
NAMED = 4  # most differences of settings that a sentence names
KINDS = {
    "head": r"\.(head|pooler)\.",
    "layer norms": r"norm",
    "embeddings": r"embed|\.shared\.|relative_attention_bias",
    "biases": r"\bbias$",
    "attention query": r"\.(query|q|q_lin|q_proj)\.",
    "attention key": r"\.(key|k|k_lin|k_proj)\.",
    "attention value": r"\.(value|v|v_lin|v_proj)\.",
    "attention query, key, value": r"\.wqkv\.",
    "attention output": r"\.(attention\.output\.dense|attention\.dense|o|out_lin|o_proj|attn\.wo)\.",
    "feed-forward in": r"\.(intermediate\.dense|wi|wi_0|wi_1|lin1)\.|\.ffn\.weight",
    "feed-forward out": r"\.(output\.dense|wo|lin2|ffn_output)\.",
}


class Counts(NamedTuple):
    """Counts of the parameters of one or several tensors, by entropy and task.

    Attributes:
        by_bin: activated parameters [bins, T], by entropy bin and by the task with the largest weight.
        entropy: sum of the activated parameters' entropies, in nats.
    """

    name: str
    size: int
    by_bin: tuple[tuple[int, ...], ...]
    entropy: float

    @property
    def activated(self) -> int:
        return sum(map(sum, self.by_bin))

    @property
    def shares(self) -> list[float]:
        """Returns the share of all parameters in each bin, then the share that is not activated; the sum is 1."""
        return [sum(row) / self.size for row in self.by_bin] + [(self.size - self.activated) / self.size]

    @property
    def specific(self) -> float:
        """Returns the share of all parameters that are task-specific: in the bin of the lowest entropies."""
        return sum(self.by_bin[0]) / self.size

    @property
    def specific_of_activated(self) -> float | None:
        return sum(self.by_bin[0]) / self.activated if self.activated else None

    @property
    def mean_entropy(self) -> float | None:
        return self.entropy / self.activated if self.activated else None

    @property
    def leaders(self) -> list[float] | None:
        """Returns, for each task, the share of the activated parameters that have their largest weight on this task."""
        return [sum(column) / self.activated for column in zip(*self.by_bin, strict=True)] if self.activated else None

    @property
    def owners(self) -> list[float] | None:
        """Returns each task's share of the task-specific parameters; None if there are none."""
        specific = sum(self.by_bin[0])
        return [count / specific for count in self.by_bin[0]] if specific else None


class Sensitivity(NamedTuple):
    """Statistics of one task's sensitivities |g theta|, averaged over batches.

    Attributes:
        median: the median that sensitivities are divided by.
        counts: histogram of log10 |g theta| over DENSITY_EDGES; the first and last bins are open.
        zeros: number of parameters with |g theta| = 0.
    """

    median: float
    counts: tuple[int, ...]
    zeros: int


class Measurement(NamedTuple):
    """The measured figures of one model.

    Attributes:
        parameters: counts of each tensor.
        cosines: cosines [T, T] between the tasks' mean gradients; NaN if a gradient is zero.
        chance: task-specific share of all parameters if batches are assigned to tasks at random; None with one task or
            one batch.
    """

    parameters: Sequence[Counts]
    sensitivities: Sequence[Sensitivity]
    cosines: Sequence[Sequence[float]]
    chance: float | None = None


class ModelAnalysis(NamedTuple):
    """A model, its figures, and what is known about its training.

    Attributes:
        weighting: the weighting of the training; None if the training is not known.
        logged: by episode, the (step, cosines between pairs of tasks) in the training's log.
        setting: all settings of the training that affect the model, without the weighting; None if unknown.
        recipe: the weighting of each episode.
        dose: by episode, the (step, figures of `training.dose.Dose` by name) in the training's log.
    """

    name: str
    weighting: str | None
    measured: Measurement
    logged: Mapping[str, Sequence[tuple[int, Mapping[str, Mapping[str, float]]]]]
    setting: Mapping[str, Any] | None = None
    recipe: str = ""
    dose: Mapping[str, Sequence[tuple[int, Mapping[str, float | None]]]] = {}

    @property
    def all_naive(self) -> bool:
        """True if every episode of the training used naive weighting."""
        return set(self.recipe.split(THEN)) == {"naive"}

    @property
    def label(self) -> str:
        return f"{self.name} ({self.weighting})" if self.weighting else self.name

    @property
    def whole(self) -> Counts:
        return merge_counts("all", self.measured.parameters)


class Analysis(NamedTuple):
    """The measurements of models on the same batches."""

    notes: Sequence[str]
    tasks: Sequence[str]
    models: Sequence[ModelAnalysis]

    @property
    def bins(self) -> list[str]:
        edges = bin_edges(len(self.tasks))
        return [f"{round(low, 2):g}-{round(high, 2):g}" for low, high in pairwise(edges)] + ["not activated"]

    @property
    def specific(self) -> float:
        """Returns the entropy, in nats, below which a parameter is task-specific."""
        return bin_edges(len(self.tasks))[1]


def bin_edges(tasks: int) -> tuple[float, ...]:
    """Returns the paper's bin edges, which are for 8 tasks, scaled to the largest possible entropy, ln(tasks).

    With one task all entropies are 0, so all parameters are in the first bin.
    """
    scale = specific_entropy(tasks) / SPECIFIC
    return tuple(edge * scale for edge in EDGES)


def merge_counts(name: str, parts: Iterable[Counts]) -> Counts:
    """Returns the sum of the given counts, under a new name. `parts` must not be empty."""
    parts = list(parts)
    by_bin = tuple(
        tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*(part.by_bin for part in parts), strict=True)
    )
    return Counts(name, sum(part.size for part in parts), by_bin, math.fsum(part.entropy for part in parts))


def by_layer(parameters: Sequence[Counts]) -> list[Counts]:
    """Returns the counts of each layer: embeddings first, then the layers in order, then tensors outside any layer."""
    return _group(parameters, layer_of)


def by_kind(parameters: Sequence[Counts]) -> list[Counts]:
    """Returns the counts of each kind of module, in the order in which a layer computes them."""
    inside = [kind for kind in KINDS if kind.startswith(("attention", "feed"))]
    order = ["embeddings", *inside, "layer norms", "biases", "head", "other"]
    return sorted(_group(parameters, kind_of), key=lambda group: order.index(group.name))


def _group(parameters: Sequence[Counts], key: Callable[[str], str]) -> list[Counts]:
    groups: dict[str, list[Counts]] = {}
    for each in parameters:
        groups.setdefault(key(each.name), []).append(each)
    return [merge_counts(name, parts) for name, parts in groups.items()]


def kind_of(name: str) -> str:
    """Returns a kind of module from a parameter's name (BERT, RoBERTa, ELECTRA, MPNet, DistilBERT, ModernBERT, T5)."""
    inside = re.sub(r"^towers\.\w+", "", name).lower()  # a tower is called query too
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, inside)), "other")


def layer_of(name: str) -> str:
    """Returns the name of a parameter's layer, such as "layer 3" (from 1), with its tower or stack if there are two."""
    tower = "query tower, " if name.startswith("towers.query.") else ""
    stack = "decoder " if ".decoder." in name else ""
    if found := re.search(r"\.(?:layer|layers|block|h)\.(\d+)\.", name):
        return f"{tower}{stack}layer {int(found[1]) + 1}"
    kind = kind_of(name)
    return tower + (kind if kind in ("embeddings", "head") else "embeddings" if "embed" in name else f"{stack}other")


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


class Comparison(NamedTuple):
    """Pairs of trainings, with TACO and naive, that differ only in the weighting; one pair for each seed.

    Attributes:
        recipe: the weighting of each episode of the TACO trainings.
        pairs: a TACO and a naive training with the same configuration and seed.
    """

    recipe: str
    pairs: Sequence[tuple[ModelAnalysis, ModelAnalysis]]

    @property
    def points(self) -> list[float]:
        """Returns the task-specific share of TACO minus naive in each pair, in percentage points of all parameters."""
        return [round(100 * (taco.whole.specific - naive.whole.specific), 1) for taco, naive in self.pairs]

    @property
    def mean(self) -> float:
        points = [100 * (taco.whole.specific - naive.whole.specific) for taco, naive in self.pairs]
        return round(math.fsum(points) / len(points), 1)

    def sentence(self) -> str:
        """Returns a sentence that says whether the pairs show the paper's result."""
        count, mean = len(self.pairs), self.mean
        in_order = sum(points > 0 for points in self.points)
        seen = "is seen" if mean > 0 else "is not seen: there is no difference"
        if mean < 0:
            seen = "is not seen: it is the other way round"
        if 0 < abs(mean) < 1:
            seen += ", by less than a point"
        pairs = f"{count} pairs of runs, {in_order} of them in this order"
        if count == 1:
            pairs = "one pair of runs, so chance is not ruled out"
        return (
            f"{'TACO' if self.recipe == 'taco' else self.recipe} minus naive: {mean:+.1f} points; this order {seen} "
            f"({pairs}, which differ only in the weighting)"
        )


def pair_runs(models: Sequence[ModelAnalysis]) -> list[Comparison]:
    """Pair TACO trainings with naive trainings; pairs that differ only in the seed form one comparison."""
    groups: dict[tuple[str, str], list[tuple[ModelAnalysis, ModelAnalysis]]] = defaultdict(list)
    for taco in models:
        naive = next((model for model in models if model.all_naive and model.setting == taco.setting), None)
        if taco.weighting == "taco" and taco.setting is not None and naive is not None:
            shared = {key: value for key, value in taco.setting.items() if key.rpartition(" ")[2] not in BY_SEED}
            groups[taco.recipe, json.dumps(shared, sort_keys=True, default=str)].append((taco, naive))
    return [Comparison(recipe, pairs) for (recipe, _), pairs in groups.items()]


def _differing_settings(models: Sequence[ModelAnalysis]) -> str:
    """Returns the settings in which the first TACO run and the most similar naive run differ; "" if one is missing."""
    naive = [model for model in models if model.all_naive and model.setting is not None]
    taco = next((model for model in models if model.weighting == "taco" and model.setting is not None), None)
    if taco is None or not naive:
        return ""
    own = taco.setting or {}
    lists = []
    for other in (each.setting or {} for each in naive):
        keys = sorted(key for key in {*own, *other} if own.get(key) != other.get(key))
        lists.append([f"{key} {own.get(key)} and {other.get(key)}" for key in keys])
    return "; ".join(min(lists, key=len)[:NAMED])


def verdict(analysis: Analysis) -> str:
    """Returns a sentence: does TACO make more parameters task-specific than naive training, as the paper found?"""
    found = []
    for model in analysis.models:
        chance = model.measured.chance
        by_chance = "" if chance is None else f" (by chance {percent(chance)})"
        found.append(f"{model.label} {percent(model.whole.specific)}{by_chance}")
    paper = (
        f"the paper reports {100 * PAPER['taco']:.0f} % with TACO and {100 * PAPER['naive']:.0f} % with naive training"
    )
    start = f"Task-specific (entropy below {analysis.specific:.2g} nats) of all parameters: {'; '.join(found)}"
    compared = pair_runs(analysis.models)
    if not compared and (differ := _differing_settings(analysis.models)):
        return (
            f"{start}; {paper}; no TACO and naive training here differ only in the weighting ({differ}), "
            "so nothing is concluded from them."
        )
    if not compared:
        return f"{start}; {paper}, and to compare with that, models of a TACO and of a naive training run are needed."
    caveat = ""
    if (tasks := len(analysis.tasks)) != PAPER_TASKS:
        caveat = f"; with {tasks} tasks, not {PAPER_TASKS}, the shares are not comparable with the paper's"
    return f"{start}; {paper}; {'; '.join(each.sentence() for each in compared)}{caveat}."


def to_dict(analysis: Analysis) -> dict[str, Any]:
    """Returns all figures as JSON values: shares from 0 to 1, entropies in nats."""
    compared = []
    for each in pair_runs(analysis.models):
        pairs = [
            {"taco": taco.name, "naive": naive.name, "points": points}
            for (taco, naive), points in zip(each.pairs, each.points, strict=True)
        ]
        compared.append({"weighting": each.recipe, "pairs": pairs, "mean_points": each.mean})
    return {
        "verdict": verdict(analysis),
        "comparisons": compared,
        "notes": list(analysis.notes),
        "tasks": list(analysis.tasks),
        "entropy_edges": list(bin_edges(len(analysis.tasks))),
        "density_edges": list(DENSITY_EDGES),
        "models": [_model_dict(analysis.tasks, model) for model in analysis.models],
    }


def _model_dict(tasks: Sequence[str], model: ModelAnalysis) -> dict[str, Any]:
    measured = model.measured
    logged = {
        episode: [
            {"step": step, "cosine": {a: {b: _number(value) for b, value in row.items()} for a, row in cosines.items()}}
            for step, cosines in rows
        ]
        for episode, rows in model.logged.items()
    }
    return {
        "name": model.name,
        "weighting": model.weighting,
        "all": _counts_dict(tasks, model.whole),
        "task_specific_by_chance": measured.chance,
        "layers": [_counts_dict(tasks, group) for group in by_layer(measured.parameters)],
        "kinds": [_counts_dict(tasks, group) for group in by_kind(measured.parameters)],
        "parameters": [_counts_dict(tasks, each) for each in measured.parameters],
        "sensitivities": {task: each._asdict() for task, each in zip(tasks, measured.sensitivities, strict=True)},
        "cosines": [[_number(value) for value in row] for row in measured.cosines],
        "logged_cosines": logged,
        "logged_dose": {
            episode: [{"step": step, **figures} for step, figures in rows] for episode, rows in model.dose.items()
        },
    }


def _counts_dict(tasks: Sequence[str], counts: Counts) -> dict[str, Any]:
    def by_task(shares: list[float] | None) -> dict[str, float] | None:
        return dict(zip(tasks, shares, strict=True)) if shares else None

    return {
        "name": counts.name,
        "parameters": counts.size,
        "counts": [sum(row) for row in counts.by_bin] + [counts.size - counts.activated],
        "shares": counts.shares,
        "task_specific": counts.specific,
        "task_specific_of_activated": counts.specific_of_activated,
        "mean_entropy": counts.mean_entropy,
        "largest_weight": by_task(counts.leaders),
        "task_specific_by_task": by_task(counts.owners),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
