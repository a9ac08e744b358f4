"""Measures how much a task weighting could gain at most: how much better separate adapters are than a shared one.

Both are trained with the same settings, without weighting and with adapters of the same width, so T separate adapters
have T times the parameters of the shared one. A weighting tries to close this gap; if separate adapters are no better,
there is nothing to gain.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from taco_ir.adaptation.report import read_report
from taco_ir.adaptation.run import adapt
from taco_ir.adaptation.settings import DEFAULTS, ONE, TASK, AdaptSettings
from taco_ir.core.files import InputError
from taco_ir.evaluation.headroom import Headroom, find_headroom

SHARED, OF_TASKS = "one adapter for all", "one for each task"


def adaptation_headroom(settings: AdaptSettings, overwrite: bool = False) -> list[Headroom]:
    """Train one shared adapter and one adapter for each task; returns how much better the separate adapters score.

    The scores are on the reported held-out queries, for each task and in the macro average. The output folder holds
    two adaptations; finished adaptations there are reused.

    Raises:
        InputError: if share, weighting or keep_if_better is given, without held-out queries, or as in `adapt`.
    """
    for key in ("share", "weighting", "keep_if_better"):
        if (value := getattr(settings, key)) != DEFAULTS[key]:
            raise InputError(
                f"--headroom trains shared and separate adapters with the same settings, but {key} is {value!r}: leave "
                f"{key} out"
            )
    if not settings.measures:
        raise InputError("--headroom is measured on held-out queries, but held_out is none; give --held-out 0.2")
    scores = {}
    for share in (ONE, TASK):
        compare = settings.compare and not settings.collection  # BM25's scores would be the same in both
        own = replace(
            settings, share=share, keep_if_better=False, compare=compare, output=str(Path(settings.output) / share)
        )
        adapt(own, overwrite)
        tasks = read_report(Path(own.output)).tasks
        scores[share] = {each.task: {settings.seed: np.array(each.values)} for each in tasks}
    return find_headroom(scores[ONE], {OF_TASKS: scores[TASK]})
