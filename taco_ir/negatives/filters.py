"""Which hits of a ranking are hard negatives: neither gold nor on a gold page, and, where asked for, without the answer."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeVar

from taco_ir.core.files import InputError
from taco_ir.core.settings import Settings
from taco_ir.core.types import VERDICTS, Passage, Query, Ranking

T = TypeVar("T")
WORD = re.compile(r"[^\W_]+")
ACCENTS = re.compile(
    "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)  # Unicode's blocks of combining marks
SHORTEST_ANSWER = 3  # letters and digits; shorter ones are found in any text


@dataclass(frozen=True)
class MiningSettings(Settings):
    """What of a ranking becomes negatives.

    Attributes:
        depth: hits retrieved for each query.
        skip: ranks at the top that are passed over, counted in the ranking itself, before anything is dropped.
        keep: negatives of a query, at most.
        drop_answers: drop passages whose text holds an answer.
        margin: drop hits that score above the best gold hit less `margin`, all hits where gold is not among the first `depth`; None: drop none.
        seed: draws the examples of the audit.

    Raises:
        InputError: for values that cannot be.
    """

    depth: int = field(default=200, metadata={"min": 1})
    skip: int = field(default=0, metadata={"min": 0})
    keep: int = field(default=64, metadata={"min": 1})
    drop_answers: bool = False
    margin: float | None = field(default=None, metadata={"min": 0})
    seed: int = field(default=0, metadata={"min": 0})

    def check(self) -> None:
        if self.depth <= self.skip:
            raise InputError(
                f"--depth {self.depth} with --skip {self.skip} leaves no rank; --depth must be at least {self.skip + 1}"
            )

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
    """The settings of each source.

    Args:
        windows: hits to skip and the last one looked at: one for all sources, or one for each.
        margins: likewise.

    Raises:
        InputError: for another number of them, or values that cannot be.
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
        raise InputError(f"{flag}: {len(values)} values for {sources} source{'s' * (sources > 1)}; give {allowed}")
    return values if len(values) == sources else list(values) * sources


class Gold(NamedTuple):
    """What supports a query's answer: its passages, all its pages, and the pages that count as a whole (no passage judged)."""

    passages: frozenset[str]
    pages: frozenset[str]
    whole_pages: frozenset[str]


def gold_of(query: Query, page_of: Mapping[str, str]) -> Gold:
    """The gold of `query`; pages are those that its evidence names, and those of its passages as far as `page_of` knows them."""
    passages = frozenset(docid for evidence in query.evidence for docid in evidence.passages)
    pages = frozenset(page for evidence in query.evidence for page in evidence.pages)
    whole = frozenset(page for evidence in query.evidence if not evidence.passages for page in evidence.pages)
    return Gold(passages, pages | {page_of[docid] for docid in passages if docid in page_of}, whole)


class Mined(NamedTuple):
    """The negatives of one query, and what was seen on the way.

    `seen` counts the hits between skip and depth, `on_gold` those of them that are gold or on a gold page; `gold_score` is
    the best gold hit's, NaN where there is none down to depth. `lost` says that the margin dropped all hits because of that.
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
    """The first `keep` hits of ranks skip + 1 to depth that no filter drops, in the ranking's order.

    A query without evidence has no negatives: nothing tells its positives from them.

    Args:
        page_of: the page of every hit.
        holds_answer: tells of a docid whether its text holds an answer; asked only with `drop_answers`.
    """
    gold = gold_of(query, page_of)
    if not gold.pages:
        return Mined(ranking.top(0), 0, 0, math.nan)
    docids = ranking.docids[: settings.depth]
    on_gold = [rank for rank, docid in enumerate(docids) if page_of[docid] in gold.pages or docid in gold.passages]
    gold_score = _gold_score(ranking, [rank for rank in on_gold if _is_positive(docids[rank], gold, page_of)])
    dropped = set(on_gold)
    ranks = [rank for rank in range(settings.skip, len(docids)) if rank not in dropped]
    seen = max(len(docids) - settings.skip, 0)
    dropped_in_view = seen - len(ranks)
    lost = settings.margin is not None and math.isnan(gold_score) and bool(ranks)
    if settings.margin is not None:
        scores, limit = ranking.scores.tolist(), gold_score - settings.margin
        ranks = [
            rank for rank in ranks if scores[rank] < limit
        ]  # gold further down than depth: the limit is NaN, and none is below
    if settings.drop_answers and holds_answer is not None:
        ranks = list(islice((rank for rank in ranks if not holds_answer(docids[rank])), settings.keep))
    ranks = ranks[: settings.keep]
    return Mined(
        Ranking([docids[rank] for rank in ranks], ranking.scores[ranks]), seen, dropped_in_view, gold_score, lost
    )


def _is_positive(docid: str, gold: Gold, page_of: Mapping[str, str]) -> bool:
    return docid in gold.passages or page_of[docid] in gold.whole_pages


def _gold_score(ranking: Ranking, ranks: Sequence[int]) -> float:
    return float(ranking.scores[ranks[0]]) if ranks else math.nan


def normalised(text: str) -> str:
    """Words in lower case without accents and punctuation, a blank before, between and after them."""
    if not text.isascii():
        text = ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return f" {' '.join(WORD.findall(text.casefold()))} "


def telling_answers(answers: Sequence[str]) -> tuple[str, ...]:
    """Answers worth looking for, normalised: neither a verdict (yes, no, SUPPORTS, ...) nor shorter than SHORTEST_ANSWER."""
    texts = dict.fromkeys(map(normalised, answers))
    return tuple(
        text for text in texts if text.strip() not in VERDICTS and len(text.replace(" ", "")) >= SHORTEST_ANSWER
    )


class AnswerTexts:
    """Passage texts prepared for a search of answers as whole words; each is normalised once, when first asked for."""

    def __init__(self, passages: Mapping[str, Passage]) -> None:
        self._passages = passages
        self._texts: dict[str, str] = {}

    def holds(self, docid: str, answers: Sequence[str]) -> bool:
        """Whether the text of `docid` holds one of `answers` (from `telling_answers`); its title does not count."""
        text = self._texts.get(docid)
        if text is None:
            text = self._texts[docid] = normalised(self._passages[docid].text)
        return any(answer in text for answer in answers)
