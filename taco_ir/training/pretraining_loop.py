"""Pre-training of a whole backbone: the step, and the loop that also measures the loss on documents held out.

Retrieval-oriented intermediate pre-training (RIP) of Tang, Wang and Yao, DPTDR, COLING 2022. Its objective
is not public; ours is coCondenser's (Gao and Callan, ACL 2022), in parts that can be switched: their losses are summed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from taco_ir.core.files import fingerprint
from taco_ir.core.seeds import generator
from taco_ir.training.backward import Arithmetic, backward
from taco_ir.training.batches import Dealer, Dealt
from taco_ir.training.distributed import Processes
from taco_ir.training.documents import Documents, Ids, span_pair, window
from taco_ir.training.encoder import Text
from taco_ir.training.log import Reporter
from taco_ir.training.loop import Loop, Plan
from taco_ir.training.objectives.masking import masked_text
from taco_ir.training.pretraining_encoder import PretrainModel
from taco_ir.training.settings import MIN_SPAN, TrainSettings
from taco_ir.training.step import StepResult
from taco_ir.training.stream import Stream
from taco_ir.weighting.base import StepReport
from taco_ir.weighting.naive import Naive

DOCUMENTS = "documents"
HELD_OUT = "held out"
ENCODED_AT_ONCE = 32  # spans, where no gradient is kept


class Spans:
    """Turns documents into the texts of a step; what is drawn of a document depends on seed, document and epoch alone."""

    def __init__(self, config: TrainSettings, documents: Documents, model: PretrainModel) -> None:
        self._config = config
        self._documents = documents
        self._vocabulary = model.vocabulary()
        self._most = config.objectives.length - len(self._vocabulary.before) - len(self._vocabulary.after)

    def texts(self, document: int, epoch: int | str) -> list[Text]:
        """Two spans of a document, or one where none are contrasted; tokens masked where a part fills them in."""
        config = self._config
        draw = generator(config.run.seed, "spans", epoch, document)
        passages = self._documents.passages(document)
        spans: Sequence[Ids] = (window(passages[0], self._most, draw),)
        if config.objectives.contrasted:
            spans = span_pair(passages, self._most, MIN_SPAN, draw)
        return [masked_text(self._vocabulary, span_L, config.objectives.mask_share * config.objectives.masked, draw) for span_L in spans]


class PretrainStep:
    """Computes the gradient of the summed losses of a step's documents.

    Attributes:
        weighting: weighs nothing; there is one gradient.

    Args:
        before: how far the stream of documents was dealt by trainings before; `source` is the fingerprint of what they are made of.
    """

    def __init__(
        self,
        config: TrainSettings,
        model: PretrainModel,
        spans: Spans,
        documents: Ids,
        before: Dealt = Dealt(),  # noqa: B008  (a tuple)
        source: str = "",
    ) -> None:
        self.model = model
        self.params = [param for _, param in model.trained()]
        self.weighting = Naive(self.params, 1)
        self._spans = spans
        self._rows = documents
        self._seed = config.run.seed
        self._before = before.of(fingerprint([config.run.seed, source]), len(documents), "")
        self._dealer = Dealer(len(documents), config.batch.batch_size, config.run.seed, DOCUMENTS, self._before)
        self._arithmetic = Arithmetic(config.optimiser.precision == "bf16", config.optimiser.gradcache)

    def __call__(self, step: int, progress: float) -> StepResult:
        """Leave the gradient of step `step` in .grad of the parameters, or none where it is not finite."""
        del progress  # nothing changes on the way
        number = self._before.batches + step
        dealt = self._dealer.step(number)
        texts = [text for place, epoch in dealt for text in self._spans.texts(int(self._rows[place]), epoch)]
        found: dict[str, Tensor] = {}

        def loss_of(rows_BX: Tensor) -> Tensor:
            found.update(self.model.losses(rows_BX, texts))
            return torch.stack(list(found.values())).sum()

        backward(self.model, texts, loss_of, self._arithmetic, (self._seed, "pretrain", number))
        losses = {part: float(loss.detach()) for part, loss in found.items()}
        norm = float(torch.nn.utils.get_total_norm([param.grad for param in self.params if param.grad is not None]))
        if math.isfinite(norm + sum(losses.values())):
            return StepResult(losses, {"all": norm}, StepReport((1.0,) * len(losses), {}, norm), [])
        for param in self.params:
            param.grad = None
        wrong = [part for part, loss in losses.items() if not math.isfinite(loss)]
        return StepResult(losses, {"all": norm}, None, wrong or list(losses))

    def dealt(self, steps: int) -> dict[str, Dealt]:
        """How far the stream of documents was dealt after so many steps."""
        return {DOCUMENTS: self._before.after(steps, self._dealer.share)}


class HeldOut:
    """Mean loss of each part on documents held out: on the same spans with the same masks each time."""

    what = "loss on what was held out"
    keeps_best = False

    def __init__(self, model: PretrainModel, spans: Spans, documents: Ids, batch: int) -> None:
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


class Pretraining(Loop):
    """Trains to the end and writes the last model as a plain folder; before, in between and at the end it measures the held-out loss.

    Args:
        held_out: numbers of these documents; none: nothing is measured.
    """

    def __init__(
        self,
        config: TrainSettings,
        step: PretrainStep,
        spans: Spans,
        held_out: Ids,
        plan: Plan,
        folder: Path,
        reporter: Reporter,
        before: Stream = Stream(),  # noqa: B008  (a tuple)
    ) -> None:
        self._model = step.model
        validation = HeldOut(step.model, spans, held_out, config.batch.batch_size) if len(held_out) else None
        super().__init__(config, step, plan, folder, Processes(step.model.device), reporter, validation, None, before)

    def _write_model(self, folder: Path) -> None:
        self._model.save_plain(folder)
