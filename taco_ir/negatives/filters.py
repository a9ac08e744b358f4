"""Decides which hits of a ranking become hard negatives: not gold, not on a gold page, optionally without an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeVar

from taco_ir.core.files import InputError
from taco_ir.core.settings import Settings
from taco_ir.core.texts import normalised
from taco_ir.core.types import Passage, Query, Ranking

T = TypeVar("T")


@dataclass(frozen=True)
class MiningSettings(Settings):
    """Settings that decide which hits of a ranking become negatives.

    Attributes:
        depth: number of hits to retrieve for each query.
        skip: number of top ranks to skip, before any filter.
        keep: maximum number of negatives for each query.
        drop_answers: drop passages that contain an answer in the text.
        margin: drop hits that score at least the best gold hit's score minus `margin`, and all hits if no gold is among
            the first `depth`. None: drop no hit because of its score.
        seed: random seed for the examples in the audit.

    Raises:
        InputError: for values that are not allowed.
    """

    depth: int = field(default=200, metadata={"min": 1})
    skip: int = field(default=0, metadata={"min": 0})
    keep: int = field(default=32, metadata={"min": 1})
    drop_answers: bool = False
    margin: float | None = field(default=None, metadata={"min": 0})
    seed: int = field(default=0, metadata={"min": 0})

    def check(self) -> None:
        if self.depth <= self.skip:
            window = f"--mine-depth {self.depth} with --mine-skip {self.skip} leaves no rank"
            raise InputError(f"{window}; --mine-depth must be at least {self.skip + 1}")

    @property
    def filters(self) -> tuple[str, ...]:
        """Names of the filters, in the order in which they drop hits."""
        margin = () if self.margin is None else (f"margin={self.margin:g}",)
        return ("gold", "gold-page", *margin, *(("answers",) if self.drop_answers else ()))


def each_settings(
    sources: int,
    windows: Sequence[tuple[int, int]],
    margins: Sequence[float | None],
    keep: int,
    drop_answers: bool,
    seed: int,
) -> list[MiningSettings]:
    """Returns the mining settings of each source.

    Args:
        windows: number of hits to skip, and the last rank to use: one pair for all sources, or one for each.
        margins: one margin for all sources, or one for each.

    Raises:
        InputError: for a wrong number of windows or margins, or values that are not allowed.
    """
    windows, margins = _for_each("--window", windows, sources), _for_each("--margin", margins, sources)
    try:
        return [
            MiningSettings(depth, skip, keep, drop_answers, margin, seed)
            for (skip, depth), margin in zip(windows, margins, strict=True)
        ]
    except InputError as error:  # its keys are flags here
        raise InputError(f"--{str(error).removeprefix('--')}") from error


def _for_each(flag: str, values: Sequence[T], sources: int) -> Sequence[T]:
    if len(values) not in (1, sources):
        allowed = "one" if sources == 1 else f"one for all, or {sources}"
        raise InputError(f"{flag} has {len(values)} values for {sources} source{'s' * (sources > 1)}; give {allowed}")
    return values if len(values) == sources else list(values) * sources


class Gold(NamedTuple):
    """A query's gold: passages, pages, and `whole_pages`, the gold pages without a passage that is marked as gold."""

    passages: frozenset[str]
    pages: frozenset[str]
    whole_pages: frozenset[str]


def gold_of(query: Query, page_of: Mapping[str, str]) -> Gold:
    """Returns the gold passages and pages of `query`; `page_of` adds the pages of gold passages, if it has them."""
    passages = frozenset(query.gold_passages)
    pages = frozenset(query.gold_pages)
    whole = frozenset(page for evidence in query.evidence if not evidence.passages for page in evidence.pages)
    return Gold(passages, pages | {page_of[docid] for docid in passages if docid in page_of}, whole)


class Mined(NamedTuple):
    """The negatives of one query, with statistics of the mining.

    Attributes:
        seen: number of hits between skip and depth.
        on_gold: number of these hits that are gold or on a gold page.
        gold_score: the best gold hit's score; NaN if no gold is among the first `depth` hits.
        lost: True if the margin dropped all hits because no gold was among them.
    """

    negatives: Ranking
    seen: int
    on_gold: int
    gold_score: float
    lost: bool = False


def hard_negatives(
    ranking: Ranking,
    query: Query,
    page_of: Mapping[str, str],
    settings: MiningSettings,
    holds_answer: Callable[[str], bool] | None = None,
) -> Mined:
    """Returns the first `keep` hits from rank skip + 1 to depth that no filter drops, in the ranking's order.

    A query without gold gets no negatives, since any hit could be a positive.

    Args:
        page_of: the page of every hit, by docid.
        holds_answer: returns True if the passage with a docid contains an answer; called only with `drop_answers`.
    """
    gold = gold_of(query, page_of)
    if not gold.pages:
        return Mined(ranking.top(0), 0, 0, math.nan)
    docids = ranking.docids[: settings.depth]
    on_gold = [rank for rank, docid in enumerate(docids) if page_of[docid] in gold.pages or docid in gold.passages]
    positives = (rank for rank in on_gold if docids[rank] in gold.passages or page_of[docids[rank]] in gold.whole_pages)
    first = next(positives, None)
    gold_score = math.nan if first is None else float(ranking.scores[first])
    dropped = set(on_gold)
    ranks = [rank for rank in range(settings.skip, len(docids)) if rank not in dropped]
    seen = max(len(docids) - settings.skip, 0)
    seen_on_gold = seen - len(ranks)
    lost = settings.margin is not None and math.isnan(gold_score) and bool(ranks)
    if settings.margin is not None:
        scores, limit = ranking.scores.tolist(), gold_score - settings.margin
        ranks = [rank for rank in ranks if scores[rank] < limit]  # without gold the limit is NaN, and no score is below
    if settings.drop_answers and holds_answer is not None:
        ranks = list(islice((rank for rank in ranks if not holds_answer(docids[rank])), settings.keep))
    ranks = ranks[: settings.keep]
    negatives = Ranking([docids[rank] for rank in ranks], ranking.scores[ranks])
    return Mined(negatives, seen, seen_on_gold, gold_score, lost)


class AnswerTexts:
    """Passage texts in which answers are searched as whole words; each text is normalised once, when first needed."""

    def __init__(self, passages: Mapping[str, Passage]) -> None:
        self._passages = passages
        self._texts: dict[str, str] = {}

    def holds(self, docid: str, answers: Sequence[str]) -> bool:
        """True if the text of `docid`, without its title, contains one of `answers` (from `telling_answers`)."""
        text = self._texts.get(docid)
        if text is None:
            text = self._texts[docid] = normalised(self._passages[docid].text)
        return any(answer in text for answer in answers)
