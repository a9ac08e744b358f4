"""Measures the headroom of weightings: how much better a separate model for each task is than one shared model.

A weighting tries to close this gap; if separate models are no better, there is nothing to gain. All models are trained
without a weighting. A task has the same number of batches in both, and the same number of queries in a batch.

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
    """Trains one model for all tasks and one for each task; returns how much better the separate models score.

    The score is page R-precision of held-out queries, for each task and as the macro average. The trainings are in the
    output folder, in `shared` and `tasks/TASK`; finished ones are reused.

    Args:
        overwrite: replace trainings in the output folder that were made with other settings, as in `train`.

    Raises:
        InputError: if there are fewer than two tasks, or a task without queries to validate on; if settings give a
            weighting, episodes, tables of tasks, or tasks other than retrieval; and as in `train`.
    """
    if settings.weighting.weighting != "naive":
        raise InputError(
            f"--headroom needs weighting naive, but it is {settings.weighting.weighting}; leave weighting out"
        )
    if settings.episodes or settings.task_tables or settings.objectives.shared:
        raise InputError(
            "--headroom needs one episode, retrieval tasks only, and no tables [tasks.NAME]; leave out the rest"
        )
    shared, validation = settings.replace(output=str(Path(settings.run.output) / "shared")), settings.validation
    place = Path(shared.run.output)
    data = TrainingData(shared.run, shared.encoder, (), validation, place, Processes(usable_device(shared.run.device)))
    if len(data.tasks) < 2 or len(data.pools) < len(data.tasks):
        raise InputError(
            f"--headroom needs at least two tasks, each with {validation.validate_on} queries to validate on; tasks: "
            f"{', '.join(data.tasks)}; with such queries: {', '.join(pool.task for pool in data.pools) or 'none'}"
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
