"""Pre-training on spans of documents, and its loss on held-out documents.

Retrieval-oriented intermediate pre-training (RIP) of Tang, Wang and Yao, DPTDR, COLING 2022. Differs: RIP's loss is not
public; ours is coCondenser's (Gao and Callan, ACL 2022), and each part can be left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taco_ir.core.files import InputError
from taco_ir.core.hashes import fingerprint, generator
from taco_ir.core.processes import Progress, log
from taco_ir.data.collection import Collection
from taco_ir.training.backward import backward
from taco_ir.training.documents import Documents, Ids, build_documents, sample_rows, sample_span_pair, sample_window
from taco_ir.training.encoder import Text
from taco_ir.training.objectives.base import Means, Objective, Work
from taco_ir.training.objectives.masking import SCORE_BYTES, masked_text
from taco_ir.training.pretraining_encoder import PretrainModel
from taco_ir.training.sampling import EpochSampler, StreamPosition
from taco_ir.training.schedules import SELF_SUPERVISED
from taco_ir.training.settings import MIN_SPAN, ObjectiveSettings, RunSettings

DOCUMENTS = "documents"
HELD_OUT = "held out"
ENCODED_AT_ONCE = 32  # spans in validation, where no gradient is kept
TOKENIZED_AT_ONCE = 512


class SpanTexts:
    """Samples spans from documents and masks tokens in them; the result depends only on seed, document and epoch."""

    def __init__(self, settings: ObjectiveSettings, seed: int, documents: Documents, model: PretrainModel) -> None:
        self.settings = settings
        self._seed = seed
        self._documents = documents
        self._vocabulary = model.vocabulary()
        self._most = settings.length - len(self._vocabulary.before) - len(self._vocabulary.after)

    def texts(self, document: int, epoch: int | str) -> list[Text]:
        """Returns two spans of a document, or one if spans are not contrasted; with masked tokens if mlm needs them."""
        settings = self.settings
        draw = generator(self._seed, "spans", epoch, document)
        passages = self._documents.passages(document)
        spans: Sequence[Ids] = (sample_window(passages[0], self._most, draw),)
        if settings.contrasted:
            spans = sample_span_pair(passages, self._most, MIN_SPAN, draw)
        return [masked_text(self._vocabulary, span_L, settings.mask_share * settings.masked, draw) for span_L in spans]


class DocumentSampler(EpochSampler):
    """Samples documents in a new random order in every epoch; a batch has `share` documents.

    Args:
        documents: the numbers of the documents.
        before: the position where earlier trainings stopped.
        source: fingerprint of the documents' source.
    """

    def __init__(self, documents: Ids, share: int, seed: int, before: StreamPosition, source: str = "") -> None:
        before = before.continue_with(fingerprint([seed, source]), len(documents), "")
        super().__init__(len(documents), share, seed, DOCUMENTS, before)
        self._documents = documents

    def sample(self, number: int) -> list[tuple[int, int]]:
        """Returns (number of the document, epoch) for each document of batch `number`."""
        return [(int(self._documents[row]), epoch) for row, epoch in self.sample_rows(number)]


class SpanBatch(NamedTuple):
    """The spans of a batch, and the batch's number. The two spans of a document are neighbours."""

    number: int
    texts: Sequence[Text]


class Spans(Objective):
    """Trains with the sum of a contrastive loss on spans and losses on masked tokens.

    Args:
        held_out: numbers of the held-out documents, on which validation measures the loss.
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
        model, own, collection = work.encoder, work.objectives, work.data.collection
        held_out, batch_size, seed = work.held_out, work.batch.batch_size, work.run.seed
        assert isinstance(model, PretrainModel)
        documents = read_documents(own, work.run, batch_size, held_out, collection, model)
        trained, measured = split(held_out, seed, documents.size)
        source = fingerprint(
            [collection.passages.fingerprint, own.max_passages, own.span_from, own.contrasted, held_out]
        )
        sampler = DocumentSampler(trained, batch_size, seed, work.before.position(DOCUMENTS), source)
        return [cls(model, sampler, SpanTexts(own, seed, documents, model), measured, work.means())]

    def activation_bytes(self, token_bytes: float) -> float:
        settings, model = self._spans.settings, self.model
        spans = self.sampler.share * (2 if settings.contrasted else 1)
        at_once = min(spans, self.means.arithmetic.gradcache or spans)
        vocabulary = int(model.backbone("passage").config.vocab_size)
        scores = SCORE_BYTES * settings.mask_share * len(model.token_parts) * vocabulary
        return at_once * settings.length * (token_bytes + scores)

    def batch(self, number: int) -> SpanBatch:
        return SpanBatch(
            number,
            [text for document, epoch in self.sampler.sample(number) for text in self._spans.texts(document, epoch)],
        )

    def add_gradient(self, batch: SpanBatch, turn: int) -> Tensor:
        del turn  # a batch is not cut into slices, because every span is contrasted with all others

        def loss_of(rows_BX: Tensor) -> Tensor:
            self._found = self.model.losses(rows_BX, batch.texts)
            return torch.stack(list(self._found.values())).sum()

        seed = (self.means.settings.seed, "pretrain", batch.number)
        return backward(self.model, batch.texts, loss_of, self.means.arithmetic, seed)

    def losses(self, loss: float) -> Mapping[str, float]:
        del loss
        return {part: float(value.detach()) for part, value in self._found.items()}

    def __str__(self) -> str:
        whose = f"of the model: {self.model.head_from}" if self.model.head_from else "that is new"
        head = f"; masked tokens are predicted by a head {whose}" if self.model.masked else ""
        size = f"{len(self.sampler):,} documents, {self.sampler.share} in a batch"
        return f"{' + '.join(self.model.parts)}: {size}{head}"

    def validation(self) -> HeldOut | None:
        return HeldOut(self.model, self._spans, self._held_out, self.sampler.share) if len(self._held_out) else None


class HeldOut:
    """Measures the mean of each loss on held-out documents, always with the same spans and masks."""

    what = "loss on held-out documents"
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


def read_documents(
    settings: ObjectiveSettings,
    run: RunSettings,
    batch: int,
    held_out: int,
    collection: Collection,
    model: PretrainModel,
) -> Documents:
    """Tokenises the passages of a collection, or a sample, and groups them into documents; logs what is left out.

    Raises:
        InputError: if too few documents are left.
    """
    rows = sample_rows(collection.passages.count, settings.max_passages, run.seed)
    by_page = settings.span_from == "page"
    shortest = 2 * MIN_SPAN if settings.contrasted and not by_page else MIN_SPAN  # a single passage must give two spans
    documents = build_documents(_tokenized(collection, rows, model), shortest, by_page)
    what = "pages" if by_page else "passages"
    alone = ", and pages with one passage," if by_page else ""
    too_short = f"passages of fewer than {shortest} tokens{alone} are left out"
    if documents.size < batch + held_out:
        raise InputError(
            f"--collection {run.collection}: {documents.size:,} {what} to take spans from ({too_short});"
            f" --batch-size {batch} and --held-out {held_out} need {batch + held_out:,}; lower one of them"
        )
    left_out = len(rows) - len(documents.members)
    log.info(
        f"{documents.size:,} {what}, {len(documents.ids):,} tokens;"
        f" {left_out:,} of {len(rows):,} passages left out ({too_short})"
    )
    return documents


def _tokenized(
    collection: Collection, rows: list[int], model: PretrainModel
) -> Iterator[tuple[str, npt.NDArray[np.int32]]]:
    """Yields (page, token ids) of each passage."""
    progress = Progress("tokenize", len(rows), "passages")
    passages = collection.passages.at(rows)
    for start in range(0, len(rows), TOKENIZED_AT_ONCE):
        chunk = [passage for _, passage in zip(range(TOKENIZED_AT_ONCE), passages, strict=False)]
        for passage, ids_L in zip(chunk, model.token_ids([passage.text for passage in chunk]), strict=True):
            yield passage.page, ids_L.astype(np.int32)
        progress.at(start + len(chunk))


def split(held_out: int, seed: int, count: int) -> tuple[Ids, Ids]:
    """Splits document numbers at random; returns those to train on, and `held_out` others."""
    order = generator(seed, HELD_OUT).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
