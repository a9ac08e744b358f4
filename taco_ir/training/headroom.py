"""Measures how much a task weighting could gain at most: how much better one model per task is than a shared one.

All see the same queries of each task in a batch and the same number of batches, without weighting. A weighting tries to
close this gap; if models of single tasks are no better, there is nothing to gain.

Each training keeps the model that validates best on the same held-out queries, so all scores are a little too high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from taco_ir.core.files import InputError
from taco_ir.encoders.backbone import usable_device
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.evaluation.headroom import Headroom, Scores, find_headroom
from taco_ir.evaluation.significance import Values
from taco_ir.training.data import TrainingData
from taco_ir.training.processes import Processes
from taco_ir.training.run import train
from taco_ir.training.settings import TrainSettings
from taco_ir.training.validation import Pool, score_pools

SHARED, OF_TASKS = "one model for all", "one for each task"


def training_headroom(settings: TrainSettings, overwrite: bool = False) -> list[Headroom]:
    """Train one model for all tasks and one for each; returns how much better the separate models score.

    The score is page R-precision of held-out queries, on each task and in the macro average. The output folder holds
    the trainings, in `shared` and `tasks/TASK`; those already finished there are reused.

    Args:
        overwrite: replace trainings in the output folder that were made with other settings, as in `train`.

    Raises:
        InputError: for settings that the comparison itself sets or does not cover, for fewer than two tasks, for no
            queries to validate on, or as in `train`.
    """
    if settings.weighting.weighting != "naive":
        raise InputError(f"--headroom trains without a weighting, but weighting is {settings.weighting.weighting}")
    if settings.episodes or settings.task_tables or settings.objectives.shared:
        raise InputError("--headroom compares trainings of one episode, for retrieval alone, on one collection")
    shared, validation = settings.replace(output=str(Path(settings.run.output) / "shared")), settings.validation
    place = Path(shared.run.output)
    data = TrainingData(shared.run, shared.encoder, (), validation, place, Processes(usable_device(shared.run.device)))
    if len(data.tasks) < 2 or len(data.pools) < len(data.tasks):
        raise InputError(
            f"--headroom needs two tasks or more, each with {validation.validate_on} queries to validate on; there are "
            f"{', '.join(data.tasks)}, and validation has {', '.join(pool.task for pool in data.pools) or 'none'}"
        )
    passages = data.collection.passages.get(list({docid for pool in data.pools for docid in pool.docids}))

    def scores_of(model: Path, pools: Sequence[Pool]) -> Scores:
        values = score_pools(load_encoder(model, device=shared.run.device), pools, passages)
        return {task: {shared.run.seed: np.array(own)} for task, own in values.items()}

    baseline = scores_of(train(shared, overwrite), data.pools)
    mined = data.mined_path(shared.negatives, place, data.collection)
    negatives = str(mined) if mined else shared.negatives.negatives
    alone = dict[str, Mapping[int, Values]]()
    for sampler in data.samplers(shared.batch, None):
        folder = str(place.with_name("tasks") / sampler.task)
        own = shared.replace(tasks=[sampler.task], batch_size=sampler.share, negatives=negatives, output=folder)
        model = train(own.replace(shares="uniform"), overwrite)
        alone |= scores_of(model, [pool for pool in data.pools if pool.task == sampler.task])
    return find_headroom(baseline, {OF_TASKS: alone})
