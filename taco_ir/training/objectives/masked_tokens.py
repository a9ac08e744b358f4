"""Masked language modelling on passages (Devlin et al., BERT, NAACL 2019, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from taco_ir.core.hashes import generator
from taco_ir.training.backward import backward
from taco_ir.training.documents import sample_window
from taco_ir.training.encoder import Text
from taco_ir.training.objectives.base import Objective, Work
from taco_ir.training.objectives.masking import SCORE_BYTES, labelled, masked_text
from taco_ir.training.sampling import Sampled, TaskSampler
from taco_ir.training.schedules import SELF_SUPERVISED
from taco_ir.training.settings import MLM
from taco_ir.training.shared_encoder import SharedEncoder

MASK_SHARE = 0.15


class Masked(NamedTuple):
    """A batch of texts with masked tokens, and its number."""

    number: int
    texts: Sequence[Text]


class MaskedTokens(Objective):
    """Trains to predict masked tokens in a window of each passage; the loss is the mean over a batch's masked tokens.

    Window and masked tokens depend only on seed, passage and epoch.
    """

    phase = SELF_SUPERVISED
    examples = "passages"
    model: SharedEncoder
    sampler: TaskSampler

    @classmethod
    def of(cls, work: Work) -> Sequence[MaskedTokens]:
        assert isinstance(work.encoder, SharedEncoder)
        sampler = work.passage_sampler(MLM, str.strip)
        return [cls(work.encoder, sampler, work.means(), work.objectives.passage_weight)]

    def activation_bytes(self, token_bytes: float) -> float:
        tokens = self.slice_size * self.model.config.passage_length
        vocabulary = int(self.model.backbone("passage").config.vocab_size)  # type: ignore[union-attr,arg-type]
        return tokens * (token_bytes + SCORE_BYTES * MASK_SHARE * vocabulary)

    def batch(self, number: int) -> Masked:
        return Masked(number, self._masked(self.sampler.sample(number)))

    def add_gradient(self, batch: Masked, turn: int) -> Tensor:
        tokens = max(labelled(batch.texts), 1)
        own = self.slice_of(batch.texts, turn)
        if not own:
            return torch.zeros((), device=self.model.device)
        seed = (self.means.settings.seed, self.task, batch.number, turn, self.means.processes.rank)
        return backward(self.model, own, lambda rows_B1: rows_B1.sum() / tokens, self.means.arithmetic, seed)

    def _masked(self, drawn: Sequence[Sampled]) -> list[Text]:
        model, words = self.model, self.model.words
        most = model.config.passage_length - len(words.before) - len(words.after)
        whole = model.token_ids(
            [model.config.passage_text(self.means.texts.passages[example.qid]) for example, _ in drawn]
        )
        texts = []
        for (example, epoch), ids_L in zip(drawn, whole, strict=True):
            draw = generator(self.means.settings.seed, example.task, epoch, example.qid)
            texts.append(masked_text(words, sample_window(ids_L, most, draw), MASK_SHARE, draw))
        return texts
