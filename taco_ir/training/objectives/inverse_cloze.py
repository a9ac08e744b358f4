"""Inverse cloze: find the passage that a sentence was taken from.

Lee, Chang and Toutanova, Latent Retrieval for Weakly Supervised Open Domain Question Answering, ACL 2019, section 4.
Differs: sentences are split in another way, and short sentences are not used as queries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from taco_ir.core.hashes import generator
from taco_ir.core.types import Passage
from taco_ir.training.batches import make_batch
from taco_ir.training.objectives.base import Work
from taco_ir.training.objectives.contrastive import Contrast, Contrastive
from taco_ir.training.schedules import SELF_SUPERVISED
from taco_ir.training.settings import INVERSE_CLOZE

STAYS = 0.1  # fraction of passages that keep the sentence, so that matching words are learned too
MIN_WORDS = 4  # of a sentence that can be a query
END = re.compile(r"""(?<=[.!?])["')\]]*\s+(?=["'(\[]?[A-Z0-9])""")


def sentences(text: str) -> list[tuple[int, int]]:
    """Returns (start, end) of each sentence of a text, in characters."""
    starts, stops = [0], []
    for end in END.finditer(text):
        stops.append(end.end())
        starts.append(end.end())
    return [(start, stop) for start, stop in zip(starts, [*stops, len(text)], strict=True) if text[start:stop].strip()]


def queries_of(text: str) -> list[tuple[int, int]]:
    """Returns (start, end) of the sentences that can be queries: at least 4 words, and not the only sentence."""
    found = sentences(text)
    long = [(start, stop) for start, stop in found if len(text[start:stop].split()) >= MIN_WORDS]
    return long if len(found) > 1 else []


def cloze(passage: Passage, draw: np.random.Generator) -> tuple[str, Passage]:
    """Returns a random sentence of a passage as a query, and the passage without it (in a tenth of cases with it)."""
    text = passage.text
    spans = queries_of(text)
    start, stop = spans[int(draw.integers(len(spans)))]
    kept = text if draw.random() < STAYS else f"{text[:start].rstrip()} {text[stop:].lstrip()}".strip()
    return text[start:stop].strip(), passage._replace(text=kept)


class InverseCloze(Contrastive):
    """Trains to find the passage that a sentence was taken from."""

    phase = SELF_SUPERVISED
    examples = "passages"

    @classmethod
    def of(cls, work: Work) -> Sequence[InverseCloze]:
        sampler = work.passage_sampler(INVERSE_CLOZE, queries_of, " (they have several sentences)")
        means = work.means()
        return [cls(work.encoder, sampler, means, work.objectives.passage_weight)]

    def batch(self, number: int) -> Contrast:
        drawn, texts, sampler = self.sampler.sample(number), self.means.texts, self.sampler
        found = [
            cloze(texts.passages[each.qid], generator(sampler.seed, self.task, epoch, each.qid))
            for each, epoch in drawn
        ]
        batch = make_batch(drawn, texts.page_of, 0, False, sampler.seed)._replace(queries=[query for query, _ in found])
        return Contrast(number, batch, {passage.docid: passage for _, passage in found})
