"""Measures of ranked passages by their ir_measures names, such as `AP`, `P@5`, `Judged@10` or `nDCG(dcg='exp-log2')@10`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from taco_ir.core.types import Run
from taco_ir.data.qrels import Qrels


def canonical_name(text: str) -> str | None:
    """The canonical name of a measure that ir_measures can compute here; None for any other text."""
    import ir_measures

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its parser, on Python 3.12
        try:
            measure = ir_measures.parse_measure(text)
            known = ir_measures.DefaultPipeline.supports(measure)  # type: ignore[no-untyped-call]
            return str(measure) if known else None
        except (NameError, ValueError, TypeError, AssertionError, SyntaxError):
            return None


def named_scores(run: Run, qrels: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Name -> query id -> value for each judged query; one that is missing from the run scores 0.

    The hits are handed over with minus their rank as score, so the run's own order is measured.
    """
    import ir_measures

    ranked = {
        qid: {docid: -float(rank) for rank, docid in enumerate(run.rankings[qid].docids, 1)}
        for qid in qrels
        if qid in run.rankings
    }
    judged: Qrels = {qid: dict(grades) for qid, grades in qrels.items()}
    scores = {name: dict.fromkeys(qrels, 0.0) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        by_measure = {ir_measures.parse_measure(name): name for name in names}
    for found in ir_measures.iter_calc(list(by_measure), judged, ranked):
        scores[by_measure[found.measure]][found.query_id] = float(found.value)
    return scores
