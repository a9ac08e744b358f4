"""How far the parameters of a model belong to single tasks: entropies in the paper's bins, by layer and kind of module, and in words.

Zhang, Xiong, Stratos, Overwijk, Improving Multitask Retrieval by Promoting Task Specialization, TACL 11, 2023, section 5.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

EDGES = (0.0, 0.3, 0.66, 1.02, 1.38, 1.74, 2.1)  # nats, the paper's, of 8 tasks; the first bin is "task-specific"
NOT_ACTIVATED = 1e-8  # |g theta| below it for all tasks
DENSITY_EDGES = tuple(power / 4 for power in range(-56, 9))  # log10 of |g theta|: -14 to 2
PAPER = {"taco": 0.22, "naive": 0.19}
PAPER_TASKS = 8
BY_SEED = ("seed", "model", "negatives")  # of a configuration: what may differ between seeds of one system
THEN = " > "  # between the weightings of episodes
NAMED = 4  # differences that are told
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
    """The parameters of one tensor, or of several, counted.

    Attributes:
        by_bin: those activated, bins x T: by the bin of their entropy and the task that has the largest weight.
        entropy: the sum of their entropies, in nats.
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
        """Of all parameters: in each bin, then not activated; their sum is 1."""
        return [sum(row) / self.size for row in self.by_bin] + [(self.size - self.activated) / self.size]

    @property
    def specific(self) -> float:
        """Share of all parameters that is task-specific."""
        return sum(self.by_bin[0]) / self.size

    @property
    def specific_of_activated(self) -> float | None:
        return sum(self.by_bin[0]) / self.activated if self.activated else None

    @property
    def mean_entropy(self) -> float | None:
        return self.entropy / self.activated if self.activated else None

    @property
    def leaders(self) -> list[float] | None:
        """For each task, the share of the activated parameters in which it has the largest weight."""
        return [sum(column) / self.activated for column in zip(*self.by_bin, strict=True)] if self.activated else None

    @property
    def owners(self) -> list[float] | None:
        """For each task, its share of the task-specific parameters."""
        specific = sum(self.by_bin[0])
        return [count / specific for count in self.by_bin[0]] if specific else None


class Sensitivity(NamedTuple):
    """Of one task: |g theta|, averaged over batches, and the median that it is divided by.

    Attributes:
        counts: of log10 |g theta| between DENSITY_EDGES; those beyond are in the first and last.
        zeros: parameters without any.
    """

    median: float
    counts: tuple[int, ...]
    zeros: int


class Measured(NamedTuple):
    """What was measured on one model.

    Attributes:
        parameters: counts of each tensor.
        cosines: of the tasks' mean gradients, T x T; NaN where one is zero.
        chance: the share of all parameters that is task-specific where the batches are dealt to the tasks at random; None where a task
            has one batch, which cannot be dealt otherwise.
    """

    parameters: Sequence[Counts]
    sensitivities: Sequence[Sensitivity]
    cosines: Sequence[Sequence[float]]
    chance: float | None = None


class ModelAnalysis(NamedTuple):
    """A model and all that the page says of it.

    Attributes:
        weighting: None where the model's folder does not tell.
        logged: for each episode, its name and (step, cosines by task and later task) in its log.
        setting: of its training, seed and all, what is not the weighting's and may change the model; None where nothing tells.
        recipe: how each episode of its training weighs.
    """

    name: str
    weighting: str | None
    measured: Measured
    logged: Mapping[str, Sequence[tuple[int, Mapping[str, Mapping[str, float]]]]]
    setting: Mapping[str, Any] | None = None
    recipe: str = ""

    @property
    def all_naive(self) -> bool:
        """Whether every episode of its training was naive."""
        return set(self.recipe.split(THEN)) == {"naive"}

    @property
    def label(self) -> str:
        return f"{self.name} ({self.weighting})" if self.weighting else self.name

    @property
    def whole(self) -> Counts:
        return merged("all", self.measured.parameters)


class Analysis(NamedTuple):
    """Models measured on the same batches."""

    notes: Sequence[str]
    tasks: Sequence[str]
    models: Sequence[ModelAnalysis]

    @property
    def bins(self) -> list[str]:
        edges = bin_edges(len(self.tasks))
        return [f"{round(low, 2):g}-{round(high, 2):g}" for low, high in pairwise(edges)] + ["not activated"]

    @property
    def specific(self) -> float:
        """The entropy below which a parameter is task-specific."""
        return bin_edges(len(self.tasks))[1]


def bin_edges(tasks: int) -> tuple[float, ...]:
    """The paper's edges for its 8 tasks; for another number, as large shares of ln(tasks), the largest entropy, as they are of 2.1.

    One task has no entropy at all: all its parameters are in the first bin.
    """
    if tasks in (1, PAPER_TASKS):
        return EDGES
    return tuple(edge / EDGES[-1] * math.log(tasks) for edge in EDGES)


def merged(name: str, parts: Iterable[Counts]) -> Counts:
    """Counts of several tensors together; at least one."""
    parts = list(parts)
    by_bin = tuple(
        tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*(part.by_bin for part in parts), strict=True)
    )
    return Counts(name, sum(part.size for part in parts), by_bin, math.fsum(part.entropy for part in parts))


def by_layer(parameters: Sequence[Counts]) -> list[Counts]:
    """Embeddings, then the layers in their order, then what belongs to none."""
    return _grouped(parameters, layer_of)


def by_kind(parameters: Sequence[Counts]) -> list[Counts]:
    """Kinds of modules, in the order of a layer's computation."""
    order = [
        "embeddings",
        *(kind for kind in KINDS if kind.startswith(("attention", "feed"))),
        "layer norms",
        "biases",
        "head",
        "other",
    ]
    return sorted(_grouped(parameters, kind_of), key=lambda group: order.index(group.name))


def _grouped(parameters: Sequence[Counts], key: Callable[[str], str]) -> list[Counts]:
    groups: dict[str, list[Counts]] = {}
    for each in parameters:
        groups.setdefault(key(each.name), []).append(each)
    return [merged(name, parts) for name, parts in groups.items()]


def kind_of(name: str) -> str:
    """What a parameter does in its layer, by its name in BERT, RoBERTa, ELECTRA, MPNet, DistilBERT, ModernBERT or T5."""
    inside = re.sub(r"^towers\.\w+", "", name).lower()  # a tower is called query too
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, inside)), "other")


def layer_of(name: str) -> str:
    """The layer, counted from 1, that a parameter belongs to; with tower and stack where there are two of these."""
    tower = "query tower, " if name.startswith("towers.query.") else ""
    stack = "decoder " if ".decoder." in name else ""
    if found := re.search(r"\.(?:layer|layers|block|h)\.(\d+)\.", name):
        return f"{tower}{stack}layer {int(found[1]) + 1}"
    kind = kind_of(name)
    return tower + (kind if kind in ("embeddings", "head") else "embeddings" if "embed" in name else f"{stack}other")


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


class Comparison(NamedTuple):
    """TACO runs beside naive ones that differ from them in the weighting alone, seed for seed.

    Attributes:
        recipe: how the TACO runs weigh, episode by episode.
        pairs: of a TACO and a naive run, of one configuration and seed.
    """

    recipe: str
    pairs: Sequence[tuple[ModelAnalysis, ModelAnalysis]]

    @property
    def points(self) -> list[float]:
        """TACO's task-specific share less naive's, of each pair, in per cent of all parameters."""
        return [round(100 * (taco.whole.specific - naive.whole.specific), 1) for taco, naive in self.pairs]

    @property
    def mean(self) -> float:
        return round(
            math.fsum(100 * (taco.whole.specific - naive.whole.specific) for taco, naive in self.pairs)
            / len(self.pairs),
            1,
        )

    def told(self) -> str:
        """What the pairs say of the paper's order."""
        count, mean = len(self.pairs), self.mean
        kept = sum(points > 0 for points in self.points)
        seen = (
            "is seen"
            if mean > 0
            else "is not seen: it is the other way round"
            if mean < 0
            else "is not seen: there is no difference"
        )
        seen += ", by less than a point" if 0 < abs(mean) < 1 else ""
        of = (
            "one pair of runs, so chance is not ruled out"
            if count == 1
            else f"{count} pairs of runs, {kept} of them in this order"
        )
        return f"{'TACO' if self.recipe == 'taco' else self.recipe} less naive: {mean:+.1f} points; this order {seen} ({of}, that differ in the weighting alone)"


def comparisons(models: Sequence[ModelAnalysis]) -> list[Comparison]:
    """Pairs of runs, together where they differ in the seed and in what comes of it."""
    groups: dict[str, Comparison] = {}
    for taco in models:
        naive = next((model for model in models if model.all_naive and model.setting == taco.setting), None)
        if taco.weighting == "taco" and taco.setting is not None and naive is not None:
            shared = {key: value for key, value in taco.setting.items() if key.rpartition(" ")[2] not in BY_SEED}
            key = json.dumps([taco.recipe, shared], sort_keys=True, default=str)
            found = groups.setdefault(key, Comparison(taco.recipe, []))
            groups[key] = found._replace(pairs=[*found.pairs, (taco, naive)])
    return list(groups.values())


def unlike(models: Sequence[ModelAnalysis]) -> str:
    """In what the first TACO run and the naive run that is most like it differ beside the weighting; "" where either is missing."""
    naive = [model for model in models if model.all_naive and model.setting is not None]
    taco = next((model for model in models if model.weighting == "taco" and model.setting is not None), None)
    if taco is None or not naive:
        return ""
    own = taco.setting or {}
    lists = [
        [
            f"{key} {own.get(key)} and {(each.setting or {}).get(key)}"
            for key in sorted({*own, *(each.setting or {})})
            if own.get(key) != (each.setting or {}).get(key)
        ]
        for each in naive
    ]
    return "; ".join(min(lists, key=len)[:NAMED])


def verdict(analysis: Analysis) -> str:
    """What is seen of the paper's finding, more task-specific parameters with TACO than with naive training, in one sentence."""
    found = "; ".join(
        f"{model.label} {percent(model.whole.specific)}"
        + (f" (by chance {percent(model.measured.chance)})" if model.measured.chance is not None else "")
        for model in analysis.models
    )
    paper = (
        f"the paper reports {100 * PAPER['taco']:.0f} % with TACO and {100 * PAPER['naive']:.0f} % with naive training"
    )
    start = f"Task-specific (entropy below {analysis.specific:.2g} nats) of all parameters: {found}"
    compared = comparisons(analysis.models)
    if not compared and (differ := unlike(analysis.models)):
        return f"{start}; {paper}; no TACO and naive run here differ in the weighting alone ({differ}), so nothing is concluded from them."
    if not compared:
        return f"{start}; {paper}, and to compare with that, models of a TACO and of a naive training run are needed."
    caveat = (
        ""
        if len(analysis.tasks) == PAPER_TASKS
        else f"; with {len(analysis.tasks)} tasks, not {PAPER_TASKS}, the shares themselves compare badly with the paper's"
    )
    return f"{start}; {paper}; {'; '.join(each.told() for each in compared)}{caveat}."


def to_dict(analysis: Analysis) -> dict[str, Any]:
    """All figures, for JSON: shares are of 1, entropies in nats."""
    return {
        "verdict": verdict(analysis),
        "comparisons": [
            {
                "weighting": each.recipe,
                "pairs": [
                    {"taco": a.name, "naive": b.name, "points": points}
                    for (a, b), points in zip(each.pairs, each.points, strict=True)
                ],
                "mean_points": each.mean,
            }
            for each in comparisons(analysis.models)
        ],
        "notes": list(analysis.notes),
        "tasks": list(analysis.tasks),
        "entropy_edges": list(bin_edges(len(analysis.tasks))),
        "density_edges": list(DENSITY_EDGES),
        "models": [_model_dict(analysis.tasks, model) for model in analysis.models],
    }


def _model_dict(tasks: Sequence[str], model: ModelAnalysis) -> dict[str, Any]:
    measured = model.measured
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
        "logged_cosines": {
            episode: [
                {
                    "step": step,
                    "cosine": {a: {b: _number(value) for b, value in row.items()} for a, row in cosines.items()},
                }
                for step, cosines in rows
            ]
            for episode, rows in model.logged.items()
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
