"""The encoder and the step of a training, with the data of its tasks: retrieval, and those of other kinds that are beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.core.files import InputError
from taco_ir.core.progress import log
from taco_ir.data.examples import TrainExample, read_examples
from taco_ir.negatives.file import Negatives
from taco_ir.reading.data import ReadingData, find_answers, read_reading
from taco_ir.training.data import TrainingData, samplers_of, texts_of
from taco_ir.training.documents import drawn_rows
from taco_ir.training.objectives.cloze_examples import passage_examples
from taco_ir.training.pools import Pool
from taco_ir.training.settings import INVERSE_CLOZE, NOTHING, TrainSettings
from taco_ir.training.task_shares import steps_per_epoch

if TYPE_CHECKING:
    from taco_ir.reading.reader import InputBuilder
    from taco_ir.training.encoder import DualEncoder
    from taco_ir.training.loop import Plan
    from taco_ir.training.step import MultiTaskStep, Texts
    from taco_ir.training.stream import Stream
    from taco_ir.training.validation import PoolValidation


def check_schedule(config: TrainSettings) -> None:
    """Raise InputError for a schedule that has nothing to order, or a weighting that needs every task in every step."""
    if config.objectives.schedule == "joint":
        return
    if not config.objectives.shared:
        raise InputError(
            f"schedule is {config.objectives.schedule}; it orders tasks of several kinds; name some by reading or self_supervised"
        )
    if config.weighting.weighting != "naive":
        raise InputError(
            f"weighting is {config.weighting.weighting}; it combines the gradients of all tasks, of which a step has some with schedule"
            f" {config.objectives.schedule}; give weighting naive, or schedule joint"
        )


def encoder_for(config: TrainSettings, start: Path, data: TrainingData) -> DualEncoder:
    """The model in `start` as `config` trains it, with heads for tasks beside retrieval. Raises: InputError for one that cannot do that."""
    from taco_ir.training.setup import start_encoder
    from taco_ir.training.shared import start_shared

    return (start_shared if config.objectives.shared else start_encoder)(config, start, data.tasks)


def step_for(
    config: TrainSettings, encoder: DualEncoder, data: TrainingData, negatives: Negatives | None, pools: Sequence[Pool], before: Stream
) -> tuple[MultiTaskStep, Plan]:
    """The step that `config` describes, which goes on where the trainings `before` ended, and for how long it is repeated.

    Raises:
        InputError: for answers that no passage holds, or passages that are none for inverse cloze.
    """
    from taco_ir.training.loop import Plan
    from taco_ir.training.mixed import Samplers, mixed_step
    from taco_ir.training.setup import step_of
    from taco_ir.training.shared import SharedEncoder

    retrieval = data.samplers(config, negatives, before)
    if not isinstance(encoder, SharedEncoder):
        epoch = steps_per_epoch([len(sampler.examples) for sampler in retrieval], [sampler.share for sampler in retrieval])
        plan = Plan(config.optimiser.steps or max(1, round(config.optimiser.epochs * epoch)), config.validation.validate_every or epoch)
        return step_of(config, encoder, retrieval, data.texts(retrieval, pools), data.processes), plan
    used = {sampler.task: sampler.examples for sampler in retrieval}
    read = [_questions(task, used.get(task) or data.examples(task, negatives), encoder.inputs, data, negatives) for task in data.reading]
    names = [f"{each.task} reading" for each in read]
    questions = samplers_of(
        config, names, [each.examples for each in read], [config.objectives.reading_batch] * len(read), negatives, before
    )
    tasks = [task for task in config.objectives.self_supervised if config.objectives.self_supervised != NOTHING]
    passages = samplers_of(
        config, tasks, [_passages(config, data, task) for task in tasks], [config.objectives.passage_batch] * len(tasks), None, before
    )
    samplers = Samplers(retrieval, questions, passages, [each.spans for each in read])
    return mixed_step(config, encoder, samplers, data.texts([*retrieval, *questions, *passages], pools), data.processes, before.steps)


def validation_for(config: TrainSettings, encoder: DualEncoder, data: TrainingData, pools: Sequence[Pool], texts: Texts) -> PoolValidation:
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
            example._replace(negatives=pool.beside_gold(example.qid, 2 * most, config.run.seed))  # some of which may hold the answer
            for example in read_examples(data.collection, pool.task, config.validation.validate_on, only=queries)
        ]
        found = find_answers(data.collection, pool.task, pool.queries, examples).examples
        shown = [(example.positives[0][0], *example.negatives[:most]) for example in found]
        passages = data.collection.passages.get(list({docid for docids in shown for docid in docids}))
        read = [(example.text, [passages[docid] for docid in docids]) for example, docids in zip(found, shown, strict=True)]
        if read:
            questions.append(Questions(pool.task, read, [queries[example.qid].answers for example in found]))
    return SharedValidation(encoder, pools, texts.passages, questions)


def _questions(
    task: str, used: Sequence[TrainExample], inputs: InputBuilder, data: TrainingData, negatives: Negatives | None
) -> ReadingData:
    """Of the queries that are used, which retrieval trains on as well, those whose answer is found."""
    from taco_ir.training.objectives.reading import readable

    found = read_reading(data.collection, task, negatives=negatives, qids={example.qid for example in used})
    usable = readable(found, inputs, texts_of(data.collection, found.examples).passages)
    log.info("%s: %d of the %d queries that are used have an answer to read", task, len(usable.examples), len(used))
    return usable


def _passages(config: TrainSettings, data: TrainingData, task: str) -> list[TrainExample]:
    store = data.collection.passages
    rows = drawn_rows(store.count, config.objectives.max_passages, config.run.seed)
    examples = list(passage_examples(store.at(rows), task, task == INVERSE_CLOZE))
    if len(examples) < config.objectives.passage_batch:
        raise InputError(
            f"self_supervised {task}: {len(examples)} of {len(rows)} passages of collection {data.collection.name} can be used"
            f"{' (they have several sentences)' * (task == INVERSE_CLOZE)}; passage_batch is {config.objectives.passage_batch}"
        )
    return examples
