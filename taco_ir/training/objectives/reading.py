"""Extractive question answering as a training task: DPR's reader (Karpukhin et al., EMNLP 2020, section 6.1).

It selects a passage, and maximises the marginal likelihood of all answer spans in the positive passage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from taco_ir.core.files import InputError
from taco_ir.core.hashes import hash_names
from taco_ir.core.processes import log
from taco_ir.data.examples import sample_examples
from taco_ir.data.topics import plain_text
from taco_ir.reading.answer_spans import ReadingData, Span, read_reading_data
from taco_ir.reading.reader import InputBuilder, Logits, ReaderInput
from taco_ir.training.backward import seed_dropout
from taco_ir.training.batches import choose_negatives, choose_positive
from taco_ir.training.objectives.base import Means, Objective, Work
from taco_ir.training.sampling import Sampled, TaskSampler
from taco_ir.training.schedules import READING
from taco_ir.training.shared_encoder import SharedEncoder

if TYPE_CHECKING:
    from taco_ir.data.collection import Collection
    from taco_ir.training.data import TrainingData

Spans = Mapping[str, Mapping[str, Sequence[Span]]]  # qid -> docid -> spans


class Placed(NamedTuple):
    """Where a question is in a batch: its passages are the rows `first` to `stop` - 1, the positive first.

    `spans` has the (first token, last token) of each answer in the positive.
    """

    first: int
    stop: int
    spans: Sequence[tuple[int, int]]


def reader_loss(logits: Logits, questions: Sequence[Placed]) -> Tensor:
    """Returns the mean over questions of -log p(positive passage) - log sum over answer spans of p(start) p(end).

    Passages compete within a question, start and end tokens within the positive passage (DPR, equations 3 to 5).
    """
    start_NL, end_NL = logits.start_NL.log_softmax(1), logits.end_NL.log_softmax(1)
    losses = []
    for first, stop, spans in questions:
        starts, ends = torch.tensor(list(zip(*spans, strict=True)), device=start_NL.device)
        found = (start_NL[first, starts] + end_NL[first, ends]).logsumexp(0)
        losses.append(-logits.relevance_N[first:stop].log_softmax(0)[0] - found)
    return torch.stack(losses).mean()


def readable(data: ReadingData, inputs: InputBuilder, collection: Collection) -> ReadingData:
    """Removes positives in which all answers are cut off or too long, and questions that have no positive left.

    Raises:
        InputError: if no question is left.
    """
    kept, spans = [], {}
    passages = collection.passages.get(list({docid for found in data.spans.values() for docid in found}))
    for example in data.examples:
        docids = list(data.spans[example.qid])
        pairs = zip(docids, inputs(example.text, [passages[docid] for docid in docids]), strict=True)
        seen = {
            docid for docid, each in pairs if each.token_spans(data.spans[example.qid][docid], inputs.config.answer)
        }
        if seen:
            sets = (tuple(docid for docid in each if docid in seen) for each in example.positives)
            kept.append(example._replace(positives=tuple(dict.fromkeys(each for each in sets if each))))
            spans[example.qid] = {docid: data.spans[example.qid][docid] for docid in docids if docid in seen}
    if not kept:
        raise InputError(
            f"{data.task}: no answer lies within passage_length {inputs.config.passage} and has at most"
            f" {inputs.config.answer} tokens; try a larger passage_length"
        )
    if cut := len(data.examples) - len(kept):
        log.warning(
            f"{data.task}: {cut} of {len(data.examples)} queries have no answer of at most {inputs.config.answer}"
            f" tokens in the first {inputs.config.passage} of a passage; they are left out"
        )
    return data._replace(examples=kept, spans=spans)


def readable_queries(data: TrainingData, inputs: InputBuilder) -> dict[str, set[str]]:
    """Returns the ids of queries with a usable answer, by task, for tasks that are trained only for reading."""
    found = {}
    for task in (task for task in data.reading if task not in data.tasks):
        place = data.places[task]
        whole, held_out = read_reading_data(place.collection, place.task), data.held_out(task)
        left = whole._replace(examples=[each for each in whole.examples if plain_text(each.text) not in held_out])
        examples = readable(left, inputs, place.collection).examples
        drawn = sample_examples(examples, data.run.max_examples, data.run.seed, task, data.run.train_share)
        found[task] = {example.qid for example in drawn}
    return found


class Questions(NamedTuple):
    """A batch of questions, each with its epoch, and the number of the batch."""

    number: int
    drawn: Sequence[Sampled]


class Reading(Objective):
    """Trains the reader to find which of a question's passages contains the answer, and where.

    Args:
        spans: the answer spans by question id, then by docid.
    """

    phase = READING
    examples = "questions"
    model: SharedEncoder
    sampler: TaskSampler

    def __init__(
        self, model: SharedEncoder, sampler: TaskSampler, spans: Spans, means: Means, weight: float = 1.0
    ) -> None:
        super().__init__(model, sampler, means, weight)
        self._spans = spans

    @classmethod
    def of(cls, work: Work) -> Sequence[Reading]:
        data, settings = work.data, work.objectives
        if not data.reading:
            return []
        assert isinstance(work.encoder, SharedEncoder)
        found = []
        for task in data.reading:
            used = {example.qid for example in data.examples(task)} if task in data.tasks else work.readable[task]
            place, negatives = data.places[task], work.negatives.get(task)
            read = read_reading_data(place.collection, place.task, negatives=negatives, qids=used)
            found.append(readable(read, work.encoder.inputs, place.collection)._replace(task=task))
            read_count = len(found[-1].examples)
            log.info("%s: %d of the %d queries that are used have an answer to read", task, read_count, len(used))
        samplers = work.samplers(
            data.reading_names, [each.examples for each in found], [settings.reading_batch] * len(found), data.reading
        )
        means = [work.means(settings.reading_negatives, task=task) for task in data.reading]
        made = zip(samplers, found, means, strict=True)
        return [cls(work.encoder, sampler, each.spans, own, settings.reading_weight) for sampler, each, own in made]

    def activation_bytes(self, token_bytes: float) -> float:
        limits = self.model.inputs.config
        read = self.slice_size * (1 + self.means.settings.negatives)
        return read * (limits.question + limits.passage) * token_bytes

    def batch(self, number: int) -> Questions:
        return Questions(number, self.sampler.sample(number))

    def add_gradient(self, batch: Questions, turn: int) -> Tensor:
        settings, processes = self.means.settings, self.means.processes
        own = self.slice_of(batch.drawn, turn)
        if not own:
            return torch.zeros((), device=self.model.device)
        seed_dropout(hash_names(settings.seed, self.task, batch.number, turn, processes.rank) >> 1, self.model.device)
        with self.means.arithmetic.context(self.model.device):
            loss = self._loss(own) * len(own) / len(batch.drawn)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _loss(self, drawn: Sequence[Sampled]) -> Tensor:
        """Returns the loss of questions, each with the positive and negatives of its epoch."""
        settings, passages = self.means.settings, self.means.texts.passages
        rows: list[ReaderInput] = []
        placed = []
        for example, epoch in drawn:
            positive = choose_positive(example, epoch, settings.seed)
            docids = [positive, *choose_negatives(example, settings.negatives, epoch)]
            inputs = self.model.inputs(example.text, [passages[docid] for docid in docids])
            answers = inputs[0].token_spans(self._spans[example.qid][positive], self.model.inputs.config.answer)
            placed.append(Placed(len(rows), len(rows) + len(inputs), answers))
            rows += inputs
        return reader_loss(self.model.logits(rows), placed)
