"""One list of a query's negatives from several sources (unified negative mining; Tang, Wang and Yao, DPTDR, COLING 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from taco_ir.core.types import Ranking


class Merged(NamedTuple):
    """A query's negatives: `sources[i]` are the sources that hold `docids[i]`, the one with its best place first; `scores[i]` its score in each."""

    docids: list[str]
    sources: list[list[int]]
    scores: list[list[float]]


def merge(negatives: Sequence[Ranking], first: int = 0) -> Merged:
    """The union of what the sources hold, by a passage's best place among the negatives of a source, then by the order of the sources.

    So the first of every source come first, in turn, then the second of each. Scores decide nothing: those of different
    sources have different scales.

    Args:
        first: the source whose turn it is first, in [0, sources); after the last source comes source 0.

    Differs: the paper says which retrievers are united, not how; the order is ours.
    """
    held: dict[str, list[tuple[int, int, int]]] = {}  # place, turn, source
    for source, ranking in enumerate(negatives):
        for place, docid in enumerate(ranking.docids):
            held.setdefault(docid, []).append((place, (source - first) % len(negatives), source))
    places = {docid: sorted(each) for docid, each in held.items()}
    docids = sorted(places, key=places.__getitem__)
    scores = [ranking.scores.tolist() for ranking in negatives]
    return Merged(
        docids,
        [[source for _, _, source in places[docid]] for docid in docids],
        [[scores[source][place] for place, _, source in places[docid]] for docid in docids],
    )
