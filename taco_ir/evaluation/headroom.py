"""Headroom: how much better the best of several systems is than a baseline, and what difference could be detected.

The smallest difference is (t_.975 + t_.80) SE, which four of five repetitions would find at p < .05: Bloom 1995,
Minimum Detectable Effects, Evaluation Review 19. Let y be the values of S seeds by Q queries, as differences from the
baseline with the same seed. Then SE^2 = s^2(queries' means) / Q + s^2(seeds' means) / S - s^2(rest) / (S Q), the
variance of a mean over sampled queries and seeds (Searle, Casella, McCulloch 1992, 4.2); with one seed, only the first
term. For several topics it is the variance of the mean of their means. The degrees of freedom are Satterthwaite's
(1946). The best system is chosen on the same queries, so headroom is overestimated rather than underestimated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

import numpy as np

from taco_ir.core.files import InputError
from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.significance import SIGNIFICANT, Values
from taco_ir.evaluation.tables import Cell, Table, render

POWER = 0.8
MANY = 1000  # degrees of freedom from which Student's t is normal to three digits
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
Scores = Mapping[str, Mapping[int, Values]]  # topics -> seed -> values by query [Q]


class Headroom(NamedTuple):
    """How much better the best system is than the baseline, on some topics or in the macro average.

    Attributes:
        baseline: the baseline's score, over the compared seeds.
        best: name of the best system; empty for the macro average, which takes the best on each topic.
        score: the best system's score.
        headroom: `score` minus `baseline`; 0 if no system is better.
        deviation: standard deviation of the baseline over its seeds; None for one seed.
        smallest: the smallest detectable difference; None with fewer than two queries.
        seeds: number of compared seeds; with 1, `smallest` does not include the variation between seeds.
    """

    topics: str
    baseline: float
    best: str
    score: float
    headroom: float
    deviation: float | None
    smallest: float | None
    queries: int
    seeds: int


class Spread(NamedTuple):
    """The variance of the mean difference between two systems on one topic.

    Attributes:
        queries: the part of the mean's variance that comes from the choice of queries.
        rest: the residual part, which is subtracted when the variance over seeds is added.
        freedom: degrees of freedom of `queries`.
        by_seed: the mean difference with each seed, for the variance over seeds.
    """

    queries: float
    freedom: int
    rest: float
    by_seed: Mapping[int, float]


def find_headroom(baseline: Scores, systems: Mapping[str, Scores]) -> list[Headroom]:
    """Returns the headroom on each of the baseline's topics that another system has too, then in the macro average.

    Seeds that two systems share are paired. If they share no seed, each system's seeds are averaged, and `smallest` is
    based on queries only.

    Args:
        baseline: by topics name and seed, the score of each query [Q].
        systems: the same by system name; task-specific training may be a separate system for each topic.

    Raises:
        InputError: if no system shares topics with the baseline, or was scored on other queries than the baseline.
    """
    found, spreads, seeds_of = [], [], []
    for topics, own in baseline.items():
        rivals = {name: scores[topics] for name, scores in systems.items() if topics in scores}
        if not rivals:
            continue
        paired = {name: _pair(topics, name, own, theirs) for name, theirs in rivals.items()}
        best = max(paired, key=lambda name: float(np.mean(paired[name][1])))
        seeds, theirs_SQ, ours_SQ = paired[best]
        spread = _spread(theirs_SQ, ours_SQ, seeds)
        base, score = float(np.mean(ours_SQ)), float(np.mean(theirs_SQ))
        found.append(_headroom(topics, base, best, score, _deviation([own]), [spread], ours_SQ.shape[1]))
        spreads.append(spread)
        seeds_of.append(own)
    if not found:
        raise InputError("headroom: no other system was scored on the topics of the baseline; choose another baseline")
    if len(found) > 1:
        base, score = fmean(each.baseline for each in found), fmean(each.baseline + each.headroom for each in found)
        queries = sum(each.queries for each in found)
        found.append(_headroom(MACRO, base, "", score, _deviation(seeds_of), spreads, queries))
    return found


def _pair(
    topics: str, name: str, own: Mapping[int, Values], theirs: Mapping[int, Values]
) -> tuple[list[int], Values, Values]:
    """Returns the shared seeds and both systems' values [S, Q]; without shared seeds, [] and their means [1, Q]."""
    seeds = sorted(own.keys() & theirs.keys())
    chosen = [[values[seed] for seed in seeds or values] for values in (theirs, own)]
    if len(lengths := {len(values_Q) for each in chosen for values_Q in each}) > 1:
        raise InputError(
            f"headroom on {topics}: {name} and the baseline were scored on different numbers of queries, "
            f"{sorted(lengths)}; score both on the same queries"
        )
    theirs_SQ, ours_SQ = (np.stack(each) for each in chosen)
    return (seeds, theirs_SQ, ours_SQ) if seeds else ([], theirs_SQ.mean(0)[None], ours_SQ.mean(0)[None])


def _spread(theirs_SQ: Values, ours_SQ: Values, seeds: Sequence[int]) -> Spread:
    difference_SQ = theirs_SQ - ours_SQ
    count, queries = difference_SQ.shape
    by_query_Q, by_seed_S = difference_SQ.mean(0), difference_SQ.mean(1)
    variance = float(np.var(by_query_Q, ddof=1)) / queries if queries > 1 else math.nan
    rest = 0.0
    if count > 1 and queries > 1:
        rest_SQ = difference_SQ - by_query_Q - by_seed_S[:, None] + difference_SQ.mean()
        rest = float((rest_SQ**2).sum()) / ((count - 1) * (queries - 1)) / (count * queries)
    return Spread(variance, queries - 1, rest, dict(zip(seeds, by_seed_S.tolist(), strict=False)))


def _headroom(
    topics: str, base: float, best: str, score: float, deviation: float | None, spreads: Sequence[Spread], queries: int
) -> Headroom:
    common = sorted(set.intersection(*(set(each.by_seed) for each in spreads)))
    parts = [(each.queries / len(spreads) ** 2, each.freedom) for each in spreads]
    variance = math.fsum(part for part, _ in parts)
    if len(common) > 1:
        by_seed = [fmean(each.by_seed[seed] for each in spreads) for seed in common]
        of_seeds = stdev(by_seed) ** 2 / len(common)
        rest = math.fsum(each.rest for each in spreads) / len(spreads) ** 2
        parts.append((of_seeds, len(common) - 1))
        variance = max(variance, variance + of_seeds - rest)
    smallest = None if math.isnan(variance) else 0.0
    if variance > 0:
        freedom = variance**2 / math.fsum(part**2 / free for part, free in parts)
        t = student_quantile(1 - SIGNIFICANT / 2, freedom) + student_quantile(POWER, freedom)
        smallest = t * math.sqrt(variance)
    return Headroom(
        topics, base, best, score, max(0.0, score - base), deviation, smallest, queries, max(1, len(common))
    )


def _deviation(topics: Sequence[Mapping[int, Values]]) -> float | None:
    """Returns the standard deviation over seeds of the mean of the topics' means; None for fewer than two seeds."""
    common = set.intersection(*(set(each) for each in topics))
    means = [fmean(float(np.mean(each[seed])) for each in topics) for seed in sorted(common)]
    return stdev(means) if len(means) > 1 else None


def student_quantile(probability: float, freedom: float) -> float:
    """Returns the quantile of Student's t for a probability of at least one half, found by bisection.

    With t = sqrt(f) tan(a) the density is proportional to cos(a)^(f - 1), which is integrated by Gauss-Legendre
    quadrature.
    """
    if freedom >= MANY:
        return NormalDist().inv_cdf(probability)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        inside = scale * angle / 2 * float(WEIGHTS @ np.cos(angle / 2 * (NODES + 1)) ** (freedom - 1))
        low, high = (angle, high) if inside < probability - 0.5 else (low, angle)
    return math.sqrt(freedom) * math.tan(high)


def headroom_table(found: Sequence[Headroom], baseline: str, where: str = "") -> Table:
    """Returns the headroom as a table; its title begins with `where`, such as "held-out queries"."""
    rows: list[list[Cell]] = [
        [each.topics, each.baseline, each.best or None, *each[3:7], each.queries, each.seeds] for each in found
    ]
    title = (
        f"{where}{': ' * bool(where)}headroom of {baseline}: what the best system has above it; and the smallest "
        f"difference found at p < {SIGNIFICANT:g} in {POWER:.0%} of repetitions with other queries and seeds"
    )
    header = ["topics", baseline, "best", "its score", "headroom", "± seeds", "smallest", "queries", "seeds"]
    return Table(title, header, rows)


def headroom_verdict(found: Sequence[Headroom]) -> str:
    """Returns a sentence that says whether a gain as large as the headroom could be detected."""
    last = found[-1]
    if last.smallest is None:
        return "headroom: with one query nothing can be shown"
    said = "could be shown" if last.headroom >= last.smallest else "could not be shown"
    seeds = "" if last.seeds > 1 else ", and other seeds may change more"
    return (
        f"headroom {last.headroom:.3f} ({last.topics}), smallest difference that these seeds and queries can show "
        f"{last.smallest:.3f}{seeds}: a weighting that gained all of it {said}"
    )


def headroom_text(found: Sequence[Headroom], baseline: str, form: str) -> str:
    """Returns the headroom on held-out queries as a table in the format `form`, and a sentence about it."""
    told = [
        each if each.headroom or not each.best else each._replace(best=f"{each.best} (not better)") for each in found
    ]
    return f"{render(headroom_table(told, baseline, 'held-out queries'), form)}{headroom_verdict(found)}"
