"""Makes documents for pre-training from passages or pages, and samples spans from them.

coCondenser: Gao and Callan, Unsupervised Corpus Aware Language Model Pre-training for Dense Passage Retrieval, 2022.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.hashes import generator

Ids = npt.NDArray[np.int64]
NEIGHBOURS = 64  # passages that are sampled together, so that pages stay whole


class Documents(NamedTuple):
    """The token ids of passages in one array, and the passages of each document.

    Attributes:
        ids: token ids of all passages, without special tokens; passage p has ids[ends[p] : ends[p + 1]].
        members: numbers of the passages; document d has the passages members[starts[d] : starts[d + 1]].
    """

    ids: npt.NDArray[np.int32]
    ends: Ids
    members: Ids
    starts: Ids

    @property
    def size(self) -> int:
        return len(self.starts) - 1

    def passages(self, document: int) -> list[Ids]:
        """Returns the token ids of each passage of a document."""
        rows = self.members[self.starts[document] : self.starts[document + 1]]
        return [self.ids[self.ends[row] : self.ends[row + 1]].astype(np.int64) for row in rows.tolist()]


def build_documents(passages: Iterable[tuple[str, npt.NDArray[np.int32]]], shortest: int, by_page: bool) -> Documents:
    """Groups passages into documents. Passages of fewer than `shortest` tokens are left out.

    Args:
        passages: (page, token ids) of each passage.
        by_page: documents are pages with at least two such passages; otherwise each passage is a document.
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


def sample_rows(count: int, most: int, seed: int) -> list[int]:
    """Samples `most` of `count` passages (0: all) in blocks of neighbours; returns row numbers in ascending order."""
    if not 0 < most < count:
        return list(range(count))
    blocks = generator(seed, "passages").permutation(-(-count // NEIGHBOURS)).tolist()
    rows = [row for block in blocks for row in range(block * NEIGHBOURS, min((block + 1) * NEIGHBOURS, count))]
    return sorted(rows[:most])


def sample_span_pair(passages: list[Ids], most: int, shortest: int, random: np.random.Generator) -> tuple[Ids, Ids]:
    """Samples two spans of a document, which do not overlap; returns their token ids, at most `most` for each.

    The spans are from two passages. A single passage is first cut in two parts of at least `shortest` tokens.
    """
    if len(passages) > 1:
        first, second = random.choice(len(passages), 2, replace=False).tolist()
        left_L, right_L = passages[first], passages[second]
    else:
        cut = int(random.integers(shortest, len(passages[0]) - shortest + 1))
        left_L, right_L = passages[0][:cut], passages[0][cut:]
        if random.random() < 0.5:
            left_L, right_L = right_L, left_L
    return sample_window(left_L, most, random), sample_window(right_L, most, random)


def sample_window(ids_L: Ids, most: int, random: np.random.Generator) -> Ids:
    """Returns at most `most` consecutive tokens of a text, starting at a random place."""
    start = int(random.integers(0, max(len(ids_L) - most, 0) + 1))
    return ids_L[start : start + most]
