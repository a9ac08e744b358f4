"""What every kind of task of a training has: batches of its examples, a loss, and its gradient. A kind is a file beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection as Group
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from taco_ir.core.settings import Settings
from taco_ir.core.types import Passage
from taco_ir.training.backward import Arithmetic
from taco_ir.training.batches import Dealt, TaskSampler, samplers_of
from taco_ir.training.distributed import Processes
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.stream import Stream

if TYPE_CHECKING:
    from taco_ir.data.collection import Collection
    from taco_ir.data.examples import TrainExample
    from taco_ir.negatives.file import Negatives
    from taco_ir.training.data import TrainingData
    from taco_ir.training.settings import TrainSettings
    from taco_ir.training.validation import Validation


class Texts(NamedTuple):
    """The passages that batches draw from, and their pages, by docid."""

    passages: dict[str, Passage]
    page_of: dict[str, str]


@dataclass(frozen=True)
class LossSettings(Settings):
    """What a task's batch is made of and how its loss is computed.

    Attributes:
        negatives: hard negatives of a query.
        temperature: scores are divided by it.
        cross_device: passages of all processes are negatives, not only one's own.
        accumulate: parts that a process computes one after another.
    """

    negatives: int = field(default=1, metadata={"min": 0})
    multi_positive: bool = False
    temperature: float = field(default=1.0, metadata={"above": 0})
    cross_device: bool = True
    accumulate: int = field(default=1, metadata={"min": 1})
    seed: int = field(default=0, metadata={"min": 0})


class Means(NamedTuple):
    """What batches are computed from and with."""

    texts: Texts
    settings: LossSettings
    arithmetic: Arithmetic
    processes: Processes


@dataclass
class Work:
    """What the tasks of an episode are made of.

    Attributes:
        before: how far the trainings before dealt their examples.
        readable: of tasks that are read and not retrieved for, the queries that are used, by task.
        texts: all passages that the tasks need, which each adds to.
    """

    settings: TrainSettings
    encoder: DualEncoder
    data: TrainingData
    negatives: Negatives | None = None
    before: Stream = Stream()  # noqa: RUF009  (a tuple)
    readable: Mapping[str, Group[str]] = field(default_factory=dict)
    texts: Texts = field(default_factory=lambda: Texts({}, {}))

    def means(self, negatives: int = 0, **more: Any) -> Means:
        """How batches of a kind of task are computed, with so many hard negatives."""
        optimiser = self.settings.optimiser
        settings = LossSettings(negatives, accumulate=optimiser.accumulate, seed=self.settings.run.seed, **more)
        return Means(
            self.texts, settings, Arithmetic(optimiser.precision == "bf16", optimiser.gradcache), self.data.processes
        )

    def samplers(
        self, names: Sequence[str], examples: Sequence[Sequence[TrainExample]], shares: Sequence[int], mined: bool
    ) -> list[TaskSampler]:
        """A sampler for each task, which continues where `before` says; the passages that it needs are there then."""
        made = samplers_of(
            names, examples, shares, self.settings.run.seed, self.negatives if mined else None, self.before.dealt
        )
        for own in examples:
            add_texts(self.texts, self.data.collection, passages_of(own))
        return made


def passages_of(examples: Iterable[TrainExample]) -> Iterator[str]:
    """Docids that batches of these examples may need."""
    return (docid for example in examples for group in (*example.positives, example.negatives) for docid in group)


def add_texts(texts: Texts, collection: Collection, docids: Iterable[str]) -> None:
    """Look up passages that are not there yet."""
    found = collection.passages.get([docid for docid in dict.fromkeys(docids) if docid not in texts.passages])
    texts.passages.update(found)
    texts.page_of.update((docid, passage.page) for docid, passage in found.items())


class Sampler(Protocol):
    """Deals out a task's examples.

    Attributes:
        share: examples of a batch.
        first: the number of the first batch of this training; those before were dealt by trainings before it.
    """

    task: str
    share: int
    first: int

    def __len__(self) -> int: ...
    def dealt(self, batches: int, /) -> Dealt: ...


class Objective(ABC):
    """One task of a training. A kind says what a batch is, and adds the gradient of a part of it.

    Attributes:
        sampler: deals its examples.
        phase: of a schedule, one of `schedules.PHASES`.
        examples: what people call its examples.
        weight: loss and gradient are multiplied by it.
    """

    phase: ClassVar[str]
    examples: ClassVar[str]

    def __init__(self, model: DualEncoder, sampler: Sampler, means: Means, weight: float = 1.0) -> None:
        self.model = model
        self.sampler = sampler
        self.means = means
        self.weight = weight
        self.params = [param for _, param in model.trained()]

    @property
    def task(self) -> str:
        return self.sampler.task

    def __str__(self) -> str:
        """What it is made of, for people."""
        return f"{self.task}: {len(self.sampler):,} {self.examples}, {self.sampler.share} in a batch, weight {self.weight:g}"

    @classmethod
    @abstractmethod
    def of(cls, work: Work) -> Sequence[Objective]:
        """The tasks of this kind that a training's settings ask for."""

    @abstractmethod
    def batch(self, number: int) -> Any:
        """Batch `number` of the task, those of trainings before counted; the same in every process."""

    @abstractmethod
    def add_gradient(self, batch: Any, turn: int) -> Tensor:
        """Add the gradient of this process's part of a batch in a turn of `accumulate`; that part's loss."""

    def backward(self, batch: Any) -> Tensor:
        """Leave the gradient of a batch, summed over processes, in .grad of the parameters; its loss, a scalar."""
        loss = torch.zeros((), device=self.model.device)
        for turn in range(self.means.settings.accumulate):
            loss += self.add_gradient(batch, turn)
        for param in self.params:
            if param.grad is not None and param.grad.is_sparse:
                param.grad = param.grad.coalesce()
        loss = self.means.processes.sum_gradients(self.params, loss)
        if self.weight == 1:
            return loss
        for param in self.params:
            if param.grad is not None:
                scaled = param.grad * self.weight
                param.grad = scaled.coalesce() if scaled.is_sparse else scaled
        return loss * self.weight

    def validation(self) -> Validation | None:
        """What a kind of task measures of itself, without queries; None: nothing."""
        return None

    def losses(self, loss: float) -> Mapping[str, float]:
        """The loss of the last batch by name: one, or the terms of a sum."""
        return {self.task: loss}
