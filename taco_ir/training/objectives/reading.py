"""Extractive question answering as a training task: the encoder with a reader's head, its loss, and its step.

DPR's reader (Karpukhin et al., EMNLP 2020, section 6.1): selection of the passage, and the marginal likelihood of all spans
of the positive passage that answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.core.files import InputError
from taco_ir.core.seeds import number_of
from taco_ir.core.types import Passage
from taco_ir.encoders.config import Role
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.reading.data import ReadingData, Span
from taco_ir.reading.reader import (
    READER_FILE,
    InputBuilder,
    Logits,
    ReaderConfig,
    ReaderInput,
    head_logits,
    load_head,
    new_head,
    reader_base,
    save_head,
)
from taco_ir.training.backward import Arithmetic, seed_dropout
from taco_ir.training.batches import Drawn, TaskSampler, choose_negatives, choose_positive
from taco_ir.training.distributed import Processes
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.settings import TrainSettings
from taco_ir.training.step import BatchSettings, MultiTaskStep, Texts
from taco_ir.weighting.base import TaskWeighting

QUESTION_TOKENS = 64
Spans = Mapping[str, Mapping[str, Sequence[Span]]]  # qid -> docid -> spans


class Placed(NamedTuple):
    """A question's rows among the inputs: its positive is the first; `spans` are first and last tokens of the answers there."""

    first: int
    stop: int
    spans: Sequence[tuple[int, int]]


def reader_loss(logits: Logits, questions: Sequence[Placed]) -> Tensor:
    """Mean over questions of -log p(positive passage) - log sum over spans of p(start) p(end); a scalar.

    The passage is one of the question's, start and end are tokens of the positive passage (DPR, equations 3 to 5).
    """
    start_NL, end_NL = logits.start_NL.log_softmax(1), logits.end_NL.log_softmax(1)
    losses = []
    for first, stop, spans in questions:
        starts, ends = torch.tensor(list(zip(*spans, strict=True)), device=start_NL.device)
        found = (start_NL[first, starts] + end_NL[first, ends]).logsumexp(0)
        losses.append(-logits.relevance_N[first:stop].log_softmax(0)[0] - found)
    return torch.stack(losses).mean()


class Reads(Protocol):
    """An encoder with a reader's head."""

    inputs: InputBuilder

    @property
    def device(self) -> torch.device: ...
    def trained(self) -> list[tuple[str, Parameter]]: ...
    def logits(self, inputs: Sequence[ReaderInput], /) -> Logits: ...


def check_inputs(inputs: InputBuilder, folder: Path) -> None:
    """Raise InputError where the longest input has more tokens than the model in `folder` takes."""
    limits = inputs.config
    if inputs.longest > (limit := ModelFolder(folder).longest):
        raise InputError(
            f"query_length {limits.question} and passage_length {limits.passage} make inputs of {inputs.longest} tokens; "
            f"{folder} takes 1 to {limit}"
        )


class ReadingEncoder(DualEncoder):
    """A tied encoder with a reader's head; its checkpoint is a model folder with `reader.safetensors` in it."""

    def __init__(self, folder: Path, limits: ReaderConfig) -> None:
        super().__init__(folder, reader_base(folder), False)
        width = int(self.towers["passage"]["backbone"].config.hidden_size)  # type: ignore[index]
        self.reader = load_head(folder, width)[0] if (folder / READER_FILE).is_file() else new_head(width)
        self.inputs = InputBuilder(self._tokenizers["passage"], limits, self._marks["passage"].marker(Role.READER))
        check_inputs(self.inputs, folder)

    def logits(self, inputs: Sequence[ReaderInput]) -> Logits:
        return head_logits(self.towers["passage"]["backbone"], self.reader, inputs, self.device, self._marks["passage"])  # type: ignore[index]

    def trained(self) -> list[tuple[str, Parameter]]:
        """As the encoder's, without the layer behind the pooling, which reading does not use."""
        return [(name, param) for name, param in super().trained() if ".head." not in name]

    def save(self, folder: Path) -> None:
        super().save(folder)
        save_head(self.reader, self.inputs.config, folder)


def start_reader(config: TrainSettings, folder: Path) -> ReadingEncoder:
    """The encoder in `folder` with its head, or a new one, as `config` trains it. Raises: InputError for a base that cannot read."""
    torch.manual_seed(config.run.seed)  # for a new head
    model = ReadingEncoder(folder, ReaderConfig(config.encoder.query_length or QUESTION_TOKENS, config.encoder.passage_length))
    model.to(torch.device(config.run.device))
    model.freeze(config.encoder.freeze_embeddings, config.encoder.freeze_layers)
    if config.encoder.dropout >= 0:
        model.set_dropout(config.encoder.dropout)
    if config.optimiser.gradient_checkpointing:
        model.checkpoint_gradients()
    return model


def readable(data: ReadingData, inputs: InputBuilder, passages: Mapping[str, Passage]) -> ReadingData:
    """Without positives whose answers are all cut off or have too many tokens, and the queries that are left with none."""
    kept, spans = [], {}
    for example in data.examples:
        docids = list(data.spans[example.qid])
        pairs = zip(docids, inputs(example.text, [passages[docid] for docid in docids]), strict=True)
        seen = {docid for docid, each in pairs if each.token_spans(data.spans[example.qid][docid], inputs.config.answer)}
        if seen:
            sets = (tuple(docid for docid in each if docid in seen) for each in example.positives)
            kept.append(example._replace(positives=tuple(dict.fromkeys(each for each in sets if each))))
            spans[example.qid] = {docid: data.spans[example.qid][docid] for docid in docids if docid in seen}
    if not kept:
        raise InputError(
            f"{data.task}: no answer lies within passage_length {inputs.config.passage} and has at most {inputs.config.answer} tokens; "
            "a larger passage_length may help"
        )
    return data._replace(examples=kept, spans=spans)


class ReadingGradient:
    """The gradient of a reader's loss on a batch of questions.

    Args:
        spans: by the sampler's task.
    """

    def __init__(
        self,
        model: Reads,
        texts: Texts,
        spans: Mapping[str, Spans],
        settings: BatchSettings,
        arithmetic: Arithmetic,
        processes: Processes,
    ) -> None:
        self._model = model
        self._params = [param for _, param in model.trained()]
        self._texts = texts
        self._spans = spans
        self._settings = settings
        self._arithmetic = arithmetic
        self._processes = processes

    def __call__(self, sampler: TaskSampler, step: int) -> Tensor:
        """Leave the gradient of a task's batch `step`, summed over processes, in .grad; its loss, a scalar."""
        settings, processes = self._settings, self._processes
        drawn = sampler.step(step)
        loss = torch.zeros((), device=self._model.device)
        for turn in range(settings.accumulate):
            own = drawn[turn * processes.world + processes.rank :: settings.accumulate * processes.world]
            if not own:  # fewer questions than parts
                continue
            seed_dropout(number_of(settings.seed, sampler.task, step, turn, processes.rank) >> 1, self._model.device)
            with self._arithmetic.context(self._model.device):
                part = self.batch_loss(own, self._spans[sampler.task]) * len(own) / len(drawn)
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
        for param in self._params:
            if param.grad is not None and param.grad.is_sparse:
                param.grad = param.grad.coalesce()
        return processes.sum_gradients(self._params, loss)

    def batch_loss(self, drawn: Sequence[Drawn], spans: Spans) -> Tensor:
        """The loss of questions, each with a positive and negatives chosen for its epoch."""
        rows: list[ReaderInput] = []
        questions = []
        for example, epoch in drawn:
            positive = choose_positive(example, epoch, self._settings.seed)
            docids = [positive, *choose_negatives(example, self._settings.negatives, epoch)]
            inputs = self._model.inputs(example.text, [self._texts.passages[docid] for docid in docids])
            answers = inputs[0].token_spans(spans[example.qid][positive], self._model.inputs.config.answer)
            questions.append(Placed(len(rows), len(rows) + len(inputs), answers))
            rows += inputs
        return reader_loss(self._model.logits(rows), questions)


class ReadingStep(MultiTaskStep):
    """As the step of retrieval, with a reader's gradient for each task."""

    def __init__(
        self,
        model: ReadingEncoder,
        samplers: Sequence[TaskSampler],
        texts: Texts,
        spans: Mapping[str, Spans],
        weighting: TaskWeighting,
        settings: BatchSettings,
        arithmetic: Arithmetic,
        processes: Processes,
    ) -> None:
        super().__init__(model, samplers, texts, weighting, settings, arithmetic, processes)
        self._gradient = ReadingGradient(model, texts, spans, settings, arithmetic, processes)

    def task_gradient(self, sampler: TaskSampler, step: int) -> Tensor:
        return self._gradient(sampler, step)
