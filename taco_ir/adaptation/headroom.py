"""What a weighting could gain, before one is chosen: what an adapter for each task has above a shared one.

Both are trained alike, naively, with adapters of the same width: T tasks have T times the numbers of the shared one. A
weighting is to win of that difference; where an adapter for each task is no better, there is nothing to win.
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
    """The headroom on the reported queries of each task, and in the macro average.

    Two adaptations are made in the output folder, and taken as they are where they are there already.

    Raises:
        InputError: for settings of what is compared, without held-out queries, or as `adapt` does.
    """
    for key in ("share", "weighting", "keep_if_better"):
        if (value := getattr(settings, key)) != DEFAULTS[key]:
            raise InputError(f"--headroom compares both ways to share, trained alike; {key} is {value!r}: leave it out")
    if not settings.measures:
        raise InputError("--headroom is measured on held-out queries; there are none with held_out 0")
    scores = {}
    for share in (ONE, TASK):
        compare = settings.compare and not settings.collection  # BM25 would be the same beside both
        own = replace(
            settings, share=share, keep_if_better=False, compare=compare, output=str(Path(settings.output) / share)
        )
        adapt(own, overwrite)
        tasks = read_report(Path(own.output)).tasks
        scores[share] = {each.task: {settings.seed: np.array(each.values)} for each in tasks}
    return find_headroom(scores[ONE], {OF_TASKS: scores[TASK]})
