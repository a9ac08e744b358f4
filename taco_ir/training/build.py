"""Builds the encoder, the tasks and the training step of an episode from the settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.core.files import InputError
from taco_ir.core.registry import resolve
from taco_ir.data.examples import read_examples
from taco_ir.reading.data import find_answers
from taco_ir.training.data import TrainingData
from taco_ir.training.objectives import OBJECTIVES
from taco_ir.training.pools import Pool
from taco_ir.training.settings import NOTHING, ObjectiveSettings, TrainSettings

if TYPE_CHECKING:
    from taco_ir.training.encoder import DualEncoder
    from taco_ir.training.loop import Plan
    from taco_ir.training.objectives.base import Objective, Texts, Work
    from taco_ir.training.step import MultiTaskStep
    from taco_ir.training.validation import PoolValidation


def check_schedule(settings: ObjectiveSettings, weighting: str) -> None:
    """Raise InputError for a schedule with a weighting that needs every task in every step."""
    if settings.schedule != "joint" and weighting != "naive":
        raise InputError(
            f"weighting is {weighting}; it combines the gradients of all tasks, of which a step has some with schedule"
            f" {settings.schedule}; give weighting naive, or schedule joint"
        )


def encoder_for(config: TrainSettings, base: Path, checkpoint: Path | None, tasks: Sequence[str]) -> DualEncoder:
    """The model in `base`, or in a checkpoint that was made of it, as the settings train it, with the heads that their tasks need.

    Raises:
        InputError: for one that cannot do that.
    """
    from taco_ir.training.pretraining_encoder import start_pretraining
    from taco_ir.training.setup import start_encoder
    from taco_ir.training.shared import start_shared

    if config.objectives.pretrains:
        return start_pretraining(config, base, checkpoint)
    return (start_shared if config.objectives.shared else start_encoder)(config, checkpoint or base, tasks)


def kinds_of(settings: ObjectiveSettings) -> list[str]:
    """Kinds of tasks that settings ask for, in the order in which a step takes them: names of `OBJECTIVES`."""
    if settings.pretrains:
        return ["documents"]
    return ["retrieval", "reading", *(name for name in settings.self_supervised if (name,) != NOTHING)]


def objectives_of(work: Work) -> list[Objective]:
    """The tasks of an episode. Raises: InputError for answers that no passage holds, or passages that are none for inverse cloze."""
    return [
        objective for kind in kinds_of(work.settings.objectives) for objective in resolve(OBJECTIVES[kind]).of(work)
    ]


def step_of(
    config: TrainSettings, model: DualEncoder, objectives: Sequence[Objective], before: int = 0
) -> tuple[MultiTaskStep, Plan]:
    """The step that the settings describe, and for how long it is repeated.

    An epoch is over when every query of retrieval and reading was dealt once, or, where there are none, every passage.

    Args:
        before: steps of the trainings before, after which the schedule's draws go on.
    """
    from taco_ir.training.loop import Plan
    from taco_ir.training.schedules import Schedule, Scheduled, active, epoch_steps, last_phase
    from taco_ir.training.setup import weighting_of
    from taco_ir.training.step import MultiTaskStep

    settings, optimiser, validation = config.objectives, config.optimiser, config.validation
    scheduled = [Scheduled(each.phase, len(each.sampler)) for each in objectives]
    epoch = epoch_steps(settings, scheduled, [each.sampler.share for each in objectives])
    steps = optimiser.steps or max(1, round(optimiser.epochs * epoch))
    plan = Plan(steps, validation.validate_every or epoch, last_phase(settings, scheduled, steps))
    schedule = (
        None if settings.schedule == "joint" else Schedule(active(settings, config.run.seed, scheduled, steps, before))
    )
    weighting = weighting_of(config.weighting, model, len(objectives))
    return MultiTaskStep(model, objectives, weighting, schedule, validation.log_cosines), plan


def validation_for(
    config: TrainSettings, encoder: DualEncoder, data: TrainingData, pools: Sequence[Pool], texts: Texts
) -> PoolValidation:
    """What is measured of queries that validation holds out: how they rank in pools, and the answers of those that are read.

    They are read in a gold passage among others of the pool without an answer, as many as `config` says: its hard ones, or random ones.
    """
    from taco_ir.training.shared import SharedEncoder
    from taco_ir.training.validation import PoolValidation, Questions, SharedValidation

    if not isinstance(encoder, SharedEncoder) or not data.reading:
        return PoolValidation(encoder, pools, texts.passages)
    questions = []
    most = config.objectives.reading_negatives
    for pool in (pool for pool in pools if pool.task in data.reading):
        queries = {query.qid: query for query in pool.queries}
        examples = [
            example._replace(
                negatives=pool.beside_gold(example.qid, 2 * most, config.run.seed)
            )  # some of which may hold the answer
            for example in read_examples(data.collection, pool.task, config.validation.validate_on, only=queries)
        ]
        found = find_answers(data.collection, pool.task, pool.queries, examples).examples
        shown = [(example.positives[0][0], *example.negatives[:most]) for example in found]
        passages = data.collection.passages.get(list({docid for docids in shown for docid in docids}))
        read = [
            (example.text, [passages[docid] for docid in docids]) for example, docids in zip(found, shown, strict=True)
        ]
        if read:
            questions.append(Questions(pool.task, read, [queries[example.qid].answers for example in found]))
    return SharedValidation(encoder, pools, texts.passages, questions)
