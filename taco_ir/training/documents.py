"""Spans of documents, and tokens of them to fill in: what pre-training draws; the same for one seed, document and epoch.

Documents are passages, or pages of several passages. Gao and Callan, Unsupervised Corpus Aware Language Model Pre-training
for Dense Passage Retrieval (coCondenser), ACL 2022; masking: Devlin et al. (BERT), NAACL 2019, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.hashes import generator

Ids = npt.NDArray[np.int64]
UNLABELLED = -100  # the label of a token that is not to be filled in
MASKED, RANDOM = 0.8, 0.9  # below the first: the mask; between them: a random token; above: the token itself
NEIGHBOURS = 64  # passages that are drawn together, so that pages stay whole


class Documents(NamedTuple):
    """Token ids of passages, end to end, and the passages of each document.

    Attributes:
        ids: of all passages, without special tokens; passage p has ids[ends[p] : ends[p + 1]].
        members: passages, document after document; document d has members[starts[d] : starts[d + 1]].
    """

    ids: npt.NDArray[np.int32]
    ends: Ids
    members: Ids
    starts: Ids

    @property
    def number(self) -> int:
        return len(self.starts) - 1

    def passages(self, document: int) -> list[Ids]:
        """Ids of each passage of a document."""
        rows = self.members[self.starts[document] : self.starts[document + 1]]
        return [self.ids[self.ends[row] : self.ends[row + 1]].astype(np.int64) for row in rows.tolist()]


def documents_of(passages: Iterable[tuple[str, npt.NDArray[np.int32]]], shortest: int, by_page: bool) -> Documents:
    """Documents of (page, token ids) of passages; those of fewer than `shortest` tokens are left out.

    Args:
        by_page: a document is a page with two such passages or more, else a passage.
    """
    kept = [(page, ids_L) for page, ids_L in passages if len(ids_L) >= shortest]
    ids = np.concatenate([ids_L for _, ids_L in kept]) if kept else np.zeros(0, dtype=np.int32)
    ends = np.cumsum([0, *(len(ids_L) for _, ids_L in kept)])
    if not by_page:
        return Documents(ids, ends, np.arange(len(kept)), np.arange(len(kept) + 1))
    pages: dict[str, list[int]] = {}
    for row, (page, _) in enumerate(kept):
        pages.setdefault(page, []).append(row)
    groups = [rows for rows in pages.values() if len(rows) > 1]
    members = np.array([row for rows in groups for row in rows], dtype=np.int64)
    return Documents(ids, ends, members, np.cumsum([0, *map(len, groups)]))


def drawn_rows(count: int, most: int, seed: int) -> list[int]:
    """Rows of `most` of `count` passages, ascending, in whole runs of neighbours where that is possible; 0: all."""
    if not 0 < most < count:
        return list(range(count))
    blocks = generator(seed, "passages").permutation(-(-count // NEIGHBOURS)).tolist()
    rows = [row for block in blocks for row in range(block * NEIGHBOURS, min((block + 1) * NEIGHBOURS, count))]
    return sorted(rows[:most])


def span_pair(passages: list[Ids], most: int, shortest: int, draw: np.random.Generator) -> tuple[Ids, Ids]:
    """Two spans of one document of at most `most` tokens: of two of its passages, or from both sides of a cut of its only one.

    They never overlap. A passage that is cut has at least 2 x `shortest` tokens, and each side at least `shortest`.
    """
    if len(passages) > 1:
        first, second = draw.choice(len(passages), 2, replace=False).tolist()
        left_L, right_L = passages[first], passages[second]
    else:
        cut = int(draw.integers(shortest, len(passages[0]) - shortest + 1))
        left_L, right_L = passages[0][:cut], passages[0][cut:]
        if draw.random() < 0.5:
            left_L, right_L = right_L, left_L
    return window(left_L, most, draw), window(right_L, most, draw)


def window(ids_L: Ids, most: int, draw: np.random.Generator) -> Ids:
    """At most `most` tokens in a row, each place equally likely."""
    start = int(draw.integers(0, max(len(ids_L) - most, 0) + 1))
    return ids_L[start : start + most]


def mask(ids_L: Ids, share: float, mask_id: int, vocabulary: Ids, draw: np.random.Generator) -> tuple[Ids, Ids]:
    """Ids with some tokens to fill in, and the labels: their ids there, UNLABELLED elsewhere.

    Each token is chosen with probability `share`; of the chosen, 80 % become the mask, 10 % a random token of
    `vocabulary`, and 10 % stay.
    """
    chosen_L = draw.random(len(ids_L)) < share
    kind_L = draw.random(len(ids_L))
    random_L = vocabulary[draw.integers(0, len(vocabulary), len(ids_L))]
    replaced_L = np.where(kind_L < MASKED, mask_id, np.where(kind_L < RANDOM, random_L, ids_L))
    return np.where(chosen_L, replaced_L, ids_L), np.where(chosen_L, ids_L, UNLABELLED)
