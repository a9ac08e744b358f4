"""Passages as training examples of their own, for tasks that need no queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from taco_ir.core.files import InputError
from taco_ir.core.types import Passage
from taco_ir.data.examples import TrainExample
from taco_ir.training.batches import TaskSampler
from taco_ir.training.documents import drawn_rows
from taco_ir.training.objectives.base import Work


def passage_examples(passages: Iterable[Passage], task: str, usable: Callable[[str], object]) -> Iterator[TrainExample]:
    """Each passage whose text is usable as an example whose one positive it is; what is asked of it is drawn when it is dealt."""
    for docid, page, _, text in passages:
        if usable(text):
            yield TrainExample(docid, "", task, ((docid,),), frozenset((page,)), ())


def passage_sampler(work: Work, task: str, usable: Callable[[str], object], lacking: str = "") -> TaskSampler:
    """Deals out the collection's passages, or some that the seed draws.

    Raises:
        InputError: where fewer are usable than a batch takes; `lacking` says what usable ones have.
    """
    settings, collection = work.settings.objectives, work.data.collection
    rows = drawn_rows(collection.passages.count, settings.max_passages, work.settings.run.seed)
    examples = list(passage_examples(collection.passages.at(rows), task, usable))
    if len(examples) < settings.passage_batch:
        raise InputError(
            f"self_supervised {task}: {len(examples)} of {len(rows)} passages of collection {collection.name} can be used"
            f"{lacking}; passage_batch is {settings.passage_batch}"
        )
    return work.samplers([task], [examples], [settings.passage_batch], mined=False)[0]
