"""What an encoder learns from passages alone: to fill in masked tokens, and to find the passage that a sentence was taken from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from taco_ir.core.seeds import generator
from taco_ir.training.backward import Arithmetic, backward
from taco_ir.training.batches import Drawn, TaskSampler, make_batch
from taco_ir.training.distributed import Processes
from taco_ir.training.documents import window
from taco_ir.training.encoder import Text
from taco_ir.training.objectives.cloze_examples import cloze
from taco_ir.training.objectives.masking import labelled, masked_text
from taco_ir.training.shared import SharedEncoder
from taco_ir.training.step import BatchSettings, MultiTaskStep, Texts

MASK_SHARE = 0.15


def cloze_gradient(step: MultiTaskStep, sampler: TaskSampler, number: int) -> Tensor:
    """Of inverse cloze: InfoNCE of sentences over the passages of batch `number` that they were taken from (ORQA, Lee et al., ACL 2019)."""
    drawn = sampler.step(number)
    found = [cloze(step.texts.passages[example.qid], generator(sampler.seed, sampler.task, epoch, example.qid)) for example, epoch in drawn]
    batch = make_batch(drawn, step.texts.page_of, 0, False, sampler.seed)._replace(queries=[query for query, _ in found])
    return step.contrast(batch, {passage.docid: passage for _, passage in found}, number)


class MaskedGradient:
    """The gradient of filling in masked tokens (Devlin et al., BERT, NAACL 2019, section 3.1): the mean over a batch's masked tokens."""

    def __init__(self, model: SharedEncoder, texts: Texts, settings: BatchSettings, arithmetic: Arithmetic, processes: Processes) -> None:
        self._model = model
        self._params = [param for _, param in model.trained()]
        self._texts = texts
        self._settings = settings
        self._arithmetic = arithmetic
        self._processes = processes

    def __call__(self, sampler: TaskSampler, step: int) -> Tensor:
        """Leave the gradient of a task's batch `step`, summed over processes, in .grad; its loss, a scalar."""
        settings, processes = self._settings, self._processes
        texts = self.masked(sampler.step(step))
        tokens = max(labelled(texts), 1)
        loss = torch.zeros((), device=self._model.device)
        for turn in range(settings.accumulate):
            own = texts[turn * processes.world + processes.rank :: settings.accumulate * processes.world]
            if own:
                seed = (settings.seed, sampler.task, step, turn, processes.rank)
                loss += backward(self._model, own, lambda rows_B1: rows_B1.sum() / tokens, self._arithmetic, seed)
        for param in self._params:
            if param.grad is not None and param.grad.is_sparse:
                param.grad = param.grad.coalesce()
        return processes.sum_gradients(self._params, loss)

    def masked(self, drawn: Sequence[Drawn]) -> list[Text]:
        """A window of each passage, as retrieval reads it, with tokens to fill in that its epoch draws."""
        model, words = self._model, self._model.words
        most = model.config.passage_length - len(words.before) - len(words.after)
        whole = model.token_ids([model.config.passage_text(self._texts.passages[example.qid]) for example, _ in drawn])
        texts = []
        for (example, epoch), ids_L in zip(drawn, whole, strict=True):
            draw = generator(self._settings.seed, example.task, epoch, example.qid)
            texts.append(masked_text(words, window(ids_L, most, draw), MASK_SHARE, draw))
        return texts
