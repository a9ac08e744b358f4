"""Passages as training examples of their own, and the inverse cloze task: which passage was this sentence taken from?

Lee, Chang and Toutanova, Latent Retrieval for Weakly Supervised Open Domain Question Answering (ORQA), ACL 2019, section 4.
Ours: where a sentence ends, and that short ones are no queries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from taco_ir.core.types import Passage
from taco_ir.data.examples import TrainExample

STAYS = 0.1  # how often the sentence is left in its passage, so that words in common count as well
MIN_WORDS = 4  # of a sentence that is a query
END = re.compile(r"""(?<=[.!?])["')\]]*\s+(?=["'(\[]?[A-Z0-9])""")


def sentences(text: str) -> list[tuple[int, int]]:
    """First character of each sentence and the one behind its last, in order."""
    starts, stops = [0], []
    for end in END.finditer(text):
        stops.append(end.end())
        starts.append(end.end())
    return [(start, stop) for start, stop in zip(starts, [*stops, len(text)], strict=True) if text[start:stop].strip()]


def queries_of(text: str) -> list[tuple[int, int]]:
    """The sentences that may be a query: those of several in which there are words enough."""
    found = sentences(text)
    return [(start, stop) for start, stop in found if len(text[start:stop].split()) >= MIN_WORDS] if len(found) > 1 else []


def cloze(passage: Passage, draw: np.random.Generator) -> tuple[str, Passage]:
    """A sentence of a passage and the passage without it; one time in ten with it. The passage must have a sentence that may be a query."""
    spans = queries_of(passage.text)
    start, stop = spans[int(draw.integers(len(spans)))]
    kept = passage.text if draw.random() < STAYS else f"{passage.text[:start].rstrip()} {passage.text[stop:].lstrip()}".strip()
    return passage.text[start:stop].strip(), passage._replace(text=kept)


def passage_examples(passages: Iterable[Passage], task: str, cut: bool) -> Iterator[TrainExample]:
    """Each passage as an example whose one positive it is; its text is drawn when it is dealt.

    Args:
        cut: leave out those that inverse cloze has no query for.
    """
    for docid, page, _, text in passages:
        if queries_of(text) if cut else text.strip():
            yield TrainExample(docid, "", task, ((docid,),), frozenset((page,)), ())
