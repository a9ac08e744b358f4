"""Pre-training on spans of documents: their losses are summed, and the loss on documents held out is measured.

Retrieval-oriented intermediate pre-training (RIP) of Tang, Wang and Yao, DPTDR, COLING 2022. Its objective
is not public; ours is coCondenser's (Gao and Callan, ACL 2022), in parts that can be switched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taco_ir.core.files import InputError, fingerprint
from taco_ir.core.progress import Progress, log
from taco_ir.core.seeds import generator
from taco_ir.data.collection import Collection
from taco_ir.training.backward import backward
from taco_ir.training.batches import Dealer, Dealt
from taco_ir.training.documents import Documents, Ids, documents_of, drawn_rows, span_pair, window
from taco_ir.training.encoder import Text
from taco_ir.training.objectives.base import Means, Objective, Work
from taco_ir.training.objectives.masking import masked_text
from taco_ir.training.pretraining_encoder import PretrainModel
from taco_ir.training.schedules import SELF_SUPERVISED
from taco_ir.training.settings import MIN_SPAN, ObjectiveSettings, TrainSettings

DOCUMENTS = "documents"
HELD_OUT = "held out"
ENCODED_AT_ONCE = 32  # spans, where no gradient is kept
TOKENIZED_AT_ONCE = 512


class SpanTexts:
    """Turns documents into the texts of a step; what is drawn of a document depends on seed, document and epoch alone."""

    def __init__(self, settings: ObjectiveSettings, seed: int, documents: Documents, model: PretrainModel) -> None:
        self._settings = settings
        self._seed = seed
        self._documents = documents
        self._vocabulary = model.vocabulary()
        self._most = settings.length - len(self._vocabulary.before) - len(self._vocabulary.after)

    def texts(self, document: int, epoch: int | str) -> list[Text]:
        """Two spans of a document, or one where none are contrasted; tokens masked where a part fills them in."""
        settings = self._settings
        draw = generator(self._seed, "spans", epoch, document)
        passages = self._documents.passages(document)
        spans: Sequence[Ids] = (window(passages[0], self._most, draw),)
        if settings.contrasted:
            spans = span_pair(passages, self._most, MIN_SPAN, draw)
        return [masked_text(self._vocabulary, span_L, settings.mask_share * settings.masked, draw) for span_L in spans]


class DocumentSampler:
    """Deals out documents by number (see `Dealer`).

    Args:
        before: how far the stream of documents was dealt by trainings before; `source` is the fingerprint of what they are made of.
    """

    task = DOCUMENTS

    def __init__(self, documents: Ids, share: int, seed: int, before: Dealt, source: str = "") -> None:
        self._documents = documents
        self._before = before.of(fingerprint([seed, source]), len(documents), "")
        self._dealer = Dealer(len(documents), share, seed, DOCUMENTS, self._before)
        self.share = share
        self.first = self._before.batches

    def __len__(self) -> int:
        return len(self._documents)

    def step(self, number: int) -> list[tuple[int, int]]:
        """The documents of batch `number`, each with its epoch."""
        return [(int(self._documents[place]), epoch) for place, epoch in self._dealer.step(number)]

    def dealt(self, batches: int) -> Dealt:
        return self._before.after(batches, self.share)


class SpanBatch(NamedTuple):
    """Spans of the documents of batch `number`, pairs one after the other where they are contrasted."""

    number: int
    texts: Sequence[Text]


class Spans(Objective):
    """The summed losses of spans of documents: contrast, and tokens to fill in.

    Args:
        held_out: numbers of the documents on which the loss is measured.
    """

    phase = SELF_SUPERVISED
    examples = "documents"
    model: PretrainModel
    sampler: DocumentSampler

    def __init__(
        self, model: PretrainModel, sampler: DocumentSampler, spans: SpanTexts, held_out: Ids, means: Means
    ) -> None:
        super().__init__(model, sampler, means)
        self._spans = spans
        self._held_out = held_out
        self._found: dict[str, Tensor] = {}

    @classmethod
    def of(cls, work: Work) -> Sequence[Spans]:
        model, settings = work.encoder, work.settings
        assert isinstance(model, PretrainModel)
        collection, own, held_out = work.data.collection, settings.objectives, settings.validation.held_out
        documents = read_documents(settings, collection, model)
        trained, measured = split(held_out, settings.run.seed, documents.number)
        source = fingerprint(
            [collection.passages.fingerprint, own.max_passages, own.span_from, own.contrasted, held_out]
        )
        sampler = DocumentSampler(
            trained, settings.batch.batch_size, settings.run.seed, work.before.of(DOCUMENTS), source
        )
        return [cls(model, sampler, SpanTexts(own, settings.run.seed, documents, model), measured, work.means())]

    def batch(self, number: int) -> SpanBatch:
        return SpanBatch(
            number,
            [text for document, epoch in self.sampler.step(number) for text in self._spans.texts(document, epoch)],
        )

    def add_gradient(self, batch: SpanBatch, turn: int) -> Tensor:
        del turn  # a batch is one part: all its spans repel each other

        def loss_of(rows_BX: Tensor) -> Tensor:
            self._found = self.model.losses(rows_BX, batch.texts)
            return torch.stack(list(self._found.values())).sum()

        seed = (self.means.settings.seed, "pretrain", batch.number)
        return backward(self.model, batch.texts, loss_of, self.means.arithmetic, seed)

    def losses(self, loss: float) -> Mapping[str, float]:
        del loss
        return {part: float(value.detach()) for part, value in self._found.items()}

    def __str__(self) -> str:
        head = f"; tokens are filled in by a head {(self.model.head_from and 'of the model: ' + self.model.head_from) or 'that is new'}"
        parts, masked = list(self.model.parts), self.model.masked
        return f"{' + '.join(parts)}: {len(self.sampler):,} documents, {self.sampler.share} in a batch{head * masked}"

    def validation(self) -> HeldOut | None:
        return HeldOut(self.model, self._spans, self._held_out, self.sampler.share) if len(self._held_out) else None


class HeldOut:
    """Mean loss of each part on documents held out: on the same spans with the same masks each time."""

    what = "loss on what was held out"
    keeps_best = False

    def __init__(self, model: PretrainModel, spans: SpanTexts, documents: Ids, batch: int) -> None:
        self._model = model
        self._batch = batch
        self._fixed = [spans.texts(document, HELD_OUT) for document in documents.tolist()]

    def __call__(self) -> dict[str, float]:
        self._model.eval()
        sums: dict[str, float] = {}
        for start in range(0, len(self._fixed), self._batch):
            documents = self._fixed[start : start + self._batch]
            texts = [text for document in documents for text in document]
            with torch.no_grad():
                chunks = [texts[i : i + ENCODED_AT_ONCE] for i in range(0, len(texts), ENCODED_AT_ONCE)]
                losses = self._model.losses(torch.cat([self._model(chunk).float() for chunk in chunks]), texts)
            for part, loss in losses.items():
                sums[part] = sums.get(part, 0.0) + float(loss) * len(documents) / len(self._fixed)
        return sums


def read_documents(config: TrainSettings, collection: Collection, model: PretrainModel) -> Documents:
    """Tokenise the collection's passages, or a part of them, and make documents of them; says what is left out.

    Raises:
        InputError: where too few are left for a batch.
    """
    rows = drawn_rows(collection.passages.count, config.objectives.max_passages, config.run.seed)
    by_page = config.objectives.span_from == "page"
    cut = config.objectives.contrasted and not by_page
    shortest = 2 * MIN_SPAN if cut else MIN_SPAN
    documents = documents_of(_tokenized(collection, rows, model), shortest, by_page)
    kept = len(documents.members)
    what = "pages" if by_page else "passages"
    too_short = (
        f"passages of fewer than {shortest} tokens{', and pages with one passage,' if by_page else ''} are left out"
    )
    if documents.number < config.validation.held_out + config.batch.batch_size:
        raise InputError(
            f"--collection {config.run.collection}: {documents.number:,} {what} to take spans from ({too_short});"
            f" --batch-size {config.batch.batch_size} and --held-out {config.validation.held_out} need {config.validation.held_out + config.batch.batch_size:,}"
        )
    log.info(
        f"{documents.number:,} {what}, {len(documents.ids):,} tokens; {len(rows) - kept:,} of {len(rows):,} passages left out ({too_short})"
    )
    return documents


def _tokenized(
    collection: Collection, rows: list[int], model: PretrainModel
) -> Iterator[tuple[str, npt.NDArray[np.int32]]]:
    """(page, token ids) of each passage."""
    progress = Progress("tokenize", len(rows), "passages")
    passages = collection.passages.at(rows)
    for start in range(0, len(rows), TOKENIZED_AT_ONCE):
        chunk = [passage for _, passage in zip(range(TOKENIZED_AT_ONCE), passages, strict=False)]
        for passage, ids_L in zip(chunk, model.token_ids([passage.text for passage in chunk]), strict=True):
            yield passage.page, ids_L.astype(np.int32)
        progress.at(start + len(chunk))


def split(held_out: int, seed: int, count: int) -> tuple[Ids, Ids]:
    """Numbers of the documents trained on, and of those held out, drawn by the seed."""
    order = generator(seed, HELD_OUT).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
