"""The interface of training objectives, which make batches of examples and compute the gradient of a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Collection as Group
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from taco_ir.core.files import InputError
from taco_ir.core.settings import Settings
from taco_ir.core.types import Passage
from taco_ir.data.examples import TrainExample
from taco_ir.encoders.config import EncoderConfig
from taco_ir.training.backward import Arithmetic
from taco_ir.training.documents import sample_rows
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.processes import Processes
from taco_ir.training.sampling import EpochSampler, Stream, TaskSampler, build_samplers

if TYPE_CHECKING:
    from taco_ir.data.collection import Collection
    from taco_ir.negatives.file import Negatives
    from taco_ir.training.data import TrainingData
    from taco_ir.training.settings import BatchSettings, ObjectiveSettings, OptimiserSettings, RunSettings
    from taco_ir.training.validation import Validation

NORMALIZED_TEMPERATURE = 0.05
Item = TypeVar("Item")


class Texts(NamedTuple):
    """The passages that batches need, and the page of each passage, both by docid."""

    passages: dict[str, Passage]
    page_of: dict[str, str]


@dataclass(frozen=True)
class LossSettings(Settings):
    """Settings for a task's batches and loss.

    Attributes:
        negatives: number of hard negatives for each query.
        multi_positive: use all passages of a query's evidence set as positives, instead of one.
        temperature: scores are divided by this number.
        cross_device: use the passages of all processes as negatives, not only those of the same process.
        accumulate: number of slices of a batch that a process computes one after another.
        passage_length: maximum number of tokens of a passage in a batch; 0: as in search.
    """

    negatives: int = field(default=1, metadata={"min": 0})
    multi_positive: bool = False
    temperature: float = field(default=1.0, metadata={"above": 0})
    cross_device: bool = True
    accumulate: int = field(default=1, metadata={"min": 1})
    seed: int = field(default=0, metadata={"min": 0})
    passage_length: int = field(default=0, metadata={"min": 0})


class Means(NamedTuple):
    """What a task needs to compute its batches and loss: passages, settings, number formats, and processes."""

    texts: Texts
    settings: LossSettings
    arithmetic: Arithmetic
    processes: Processes


@dataclass
class Work:
    """The settings, encoder and data from which the tasks of an episode are made.

    Attributes:
        held_out: number of documents that pre-training holds out.
        before: how many of each task's examples earlier trainings have used.
        readable: for tasks that are trained only for reading, the ids of the queries to use.
        negatives: mined negatives, by task.
        texts: the passages of the training's collection that the tasks need; each task adds its own.
        other_texts: the same for other collections.
    """

    run: RunSettings
    batch: BatchSettings
    objectives: ObjectiveSettings
    optimiser: OptimiserSettings
    encoder: DualEncoder
    data: TrainingData
    held_out: int = 0
    negatives: Mapping[str, Negatives] = field(default_factory=dict)
    before: Stream = Stream()  # noqa: RUF009  (a tuple)
    readable: Mapping[str, Group[str]] = field(default_factory=dict)
    texts: Texts = field(default_factory=lambda: Texts({}, {}))
    other_texts: dict[Collection, Texts] = field(default_factory=dict)

    def means(self, negatives: int = 0, multi_positive: bool = False, task: str = "") -> Means:
        """Returns what a task needs to compute its batches and loss.

        Args:
            negatives: number of hard negatives for each query.
            multi_positive: use all passages of a query's evidence set as positives, instead of one.
            task: use the collection and settings of this task; empty: those of the training.
        """
        optimiser, batch, texts = self.optimiser, self.batch, self.texts
        temperature, length = batch.temperature, 0
        if task:
            place = self.data.places[task]
            texts, temperature = self.texts_of(place.collection), place.own.temperature or temperature
            if self.data.tables:
                length = place.own.passage_length or self.data.encoder.passage_length
        temperature = loss_temperature(temperature, self.encoder.config)
        loss = (negatives, multi_positive, temperature, batch.cross_device, optimiser.accumulate, self.run.seed, length)
        arithmetic = Arithmetic(optimiser.precision == "bf16", optimiser.gradcache)
        return Means(texts, LossSettings(*loss), arithmetic, self.data.processes)

    def texts_of(self, collection: Collection) -> Texts:
        """Returns the passages of a collection that the tasks need."""
        if collection is self.data.collection:
            return self.texts
        return self.other_texts.setdefault(collection, Texts({}, {}))

    def samplers(
        self,
        names: Sequence[str],
        examples: Sequence[Sequence[TrainExample]],
        shares: Sequence[int],
        tasks: Sequence[str] = (),
    ) -> list[TaskSampler]:
        """Returns a sampler for each task name, which continues where earlier trainings stopped. Reads the passages
        needed.

        Args:
            examples: for each sampler, its examples.
            shares: for each sampler, the number of examples in a batch.
            tasks: for each sampler, the task of its examples; empty: examples are passages of the collection.
        """
        mined = [self.negatives.get(task) for task in tasks]
        made = build_samplers(names, examples, shares, self.run.seed, mined, self.before)
        collections = [self.data.places[task].collection for task in tasks] or [self.data.collection] * len(names)
        for own, collection in zip(examples, collections, strict=True):
            add_texts(self.texts_of(collection), collection, passages_of(own))
        return made

    def passage_sampler(self, task: str, usable: Callable[[str], object], lacking: str = "") -> TaskSampler:
        """Returns a sampler for the passages of the training's collection, or for a random subset.

        Args:
            usable: tells whether a passage's text can be used; `lacking` says in the error what usable texts have.

        Raises:
            InputError: if there are fewer usable passages than a batch needs.
        """
        passages, batch = self.data.collection.passages, self.objectives.passage_batch
        rows = sample_rows(passages.count, self.objectives.max_passages, self.run.seed)
        examples = list(passage_examples(passages.at(rows), task, usable))
        if len(examples) < batch:
            raise InputError(
                f"self_supervised {task}: {len(examples)} of {len(rows)} passages of collection"
                f" {self.data.collection.name} can be used{lacking}; lower passage_batch, which is {batch}"
            )
        return self.samplers([task], [examples], [batch])[0]


def loss_temperature(given: float, encoder: EncoderConfig) -> float:
    """Returns the temperature `given` or, if it is 0, the default: 0.05 for vectors of length 1, otherwise 1."""
    return given or (NORMALIZED_TEMPERATURE if encoder.normalize else 1.0)


def passage_examples(passages: Iterable[Passage], task: str, usable: Callable[[str], object]) -> Iterator[TrainExample]:
    """Yields passages with usable text as examples. Each is its own positive; its query is made when it is sampled."""
    for docid, page, _, text in passages:
        if usable(text):
            yield TrainExample(docid, "", task, ((docid,),), frozenset((page,)), ())


def passages_of(examples: Iterable[TrainExample]) -> Iterator[str]:
    """Returns the docids of all passages that batches of these examples may need."""
    return (docid for example in examples for group in (*example.positives, example.negatives) for docid in group)


def add_texts(texts: Texts, collection: Collection, docids: Iterable[str]) -> None:
    """Reads the passages that are missing from `texts`, and adds them."""
    found = collection.passages.get([docid for docid in dict.fromkeys(docids) if docid not in texts.passages])
    texts.passages.update(found)
    texts.page_of.update((docid, passage.page) for docid, passage in found.items())


class Objective(ABC):
    """One task of a training. Each subclass is for one sort of task, such as retrieval or reading.

    Attributes:
        phase: the phase of a sequential schedule that trains such tasks, one of `schedules.PHASES`.
        examples: the word for examples in messages, such as "queries".
        weight: factor for loss and gradient.
    """

    phase: ClassVar[str]
    examples: ClassVar[str]

    def __init__(self, model: DualEncoder, sampler: EpochSampler, means: Means, weight: float = 1.0) -> None:
        self.model = model
        self.sampler = sampler
        self.means = means
        self.weight = weight
        self.params = [param for _, param in model.trained_parameters()]

    @property
    def task(self) -> str:
        return self.sampler.task

    @property
    def slice_size(self) -> int:
        """Maximum number of examples of a batch that a process computes at once."""
        return -(-self.sampler.share // (self.means.settings.accumulate * self.means.processes.world))

    def slice_of(self, examples: Sequence[Item], turn: int) -> Sequence[Item]:
        """Returns the examples that this process computes in slice number `turn` of a batch; may be empty."""
        accumulate, processes = self.means.settings.accumulate, self.means.processes
        return examples[turn * processes.world + processes.rank :: accumulate * processes.world]

    def __str__(self) -> str:
        """The task in a line of the announcement."""
        size = f"{len(self.sampler):,} {self.examples}, {self.sampler.share} in a batch"
        return f"{self.task}: {size}, weight {self.weight:g}"

    @classmethod
    def of(cls, work: Work) -> Sequence[Objective]:  # noqa: ARG003 - there are kinds that no setting asks for
        """Makes the tasks of this class that the settings of a training ask for."""
        return ()

    @abstractmethod
    def activation_bytes(self, token_bytes: float) -> float:
        """Returns the bytes that one process needs for the longest texts' activations; `token_bytes`: for one token."""

    @abstractmethod
    def batch(self, number: int) -> Any:
        """Makes the task's batch with this number, the same in all processes; earlier trainings used lower numbers."""

    @abstractmethod
    def add_gradient(self, batch: Any, turn: int) -> Tensor:
        """Computes slice number `turn` of a batch in this process, and adds its gradient; returns the slice's loss."""

    def backward(self, batch: Any, total: bool = True) -> Tensor:
        """Leaves the gradient of a batch in `.grad` of the parameters; returns the loss.

        Args:
            total: sum both over all processes; otherwise they are those of this process's part of the batch.
        """
        loss = torch.zeros((), device=self.model.device)
        for turn in range(self.means.settings.accumulate):
            loss += self.add_gradient(batch, turn)
        for param in self.params:
            if param.grad is not None and param.grad.is_sparse:
                param.grad = param.grad.coalesce()
        if total:
            loss = self.means.processes.sum_gradients(self.params, loss)
        if self.weight == 1:
            return loss
        for param in self.params:
            if param.grad is not None:
                scaled = param.grad * self.weight
                param.grad = scaled.coalesce() if scaled.is_sparse else scaled
        return loss * self.weight

    def validation(self) -> Validation | None:
        """Returns a validation for this task that needs no queries; None if the task has none."""
        return None

    def losses(self, loss: float) -> Mapping[str, float]:
        """Returns the loss of the last batch under the task's name, or each term of the loss under its own name."""
        return {self.task: loss}
