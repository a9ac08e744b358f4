"""Mining hard negatives for topics: retrieve once, keep the runs, filter, and write a negatives file that is whole or absent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from taco_ir.console import log
from taco_ir.data.collections import Collection, Topics
from taco_ir.data.negatives import Negatives, NegativesHeader, read_negatives, write_negatives
from taco_ir.data.tasks import KILT_TASKS, resolve_topics
from taco_ir.files import InputError, exclusive
from taco_ir.rankings import FileRankings, Maker, Rankings, SystemRankings
from taco_ir.records import Query, Ranking, Run
from taco_ir.retrieval.mining import AnswerTexts, Mined, MiningSettings, hard_negatives, telling_answers
from taco_ir.systems import System

SUFFIX = ".jsonl"
# their answers are a verdict, an utterance, an essay, or a page's title that every mention of it holds
NO_SPANS = ("fact checking", "dialogue", "long-form QA", "entity linking")
WITHOUT_SPANS = frozenset(task.name for task in KILT_TASKS if task.kind in NO_SPANS)
Row = tuple[str, str, list[str], list[float]]


class Retrieved(NamedTuple):
    """What filtering saw of a topics' rankings: hits between skip and depth, those on gold pages, and the best gold hit's score by qid."""

    seen: int
    on_gold: int
    gold_scores: dict[str, float]


def mine(
    collection: Collection, source: System | Path, topics: Sequence[Topics], settings: MiningSettings, output: Path, overwrite: bool = False
) -> Negatives:
    """Mine hard negatives for `topics`, write them to `output`, and return what was written.

    Args:
        source: a system, whose runs are kept beside `output` and used again; or a TREC run file or a folder of them.
        output: a `.jsonl` file; every query of the topics has a line, an empty one where nothing is left.

    Raises:
        InputError: for topics without evidence, a run that lacks topics or is of another collection, or an output that
            was made otherwise (without `overwrite`).
    """
    mine_file(collection, source, topics, settings, output, overwrite)
    return read_negatives(output, collection.passages.fingerprint)


def mine_file(
    collection: Collection, source: System | Path, topics: Sequence[Topics], settings: MiningSettings, output: Path, overwrite: bool = False
) -> dict[str, Retrieved]:
    """As `mine`, but return by topics what was seen, for the audit."""
    if output.suffix != SUFFIX:
        raise InputError(f"--output {output}: the name of a negatives file ends in {SUFFIX}")
    if unjudged := [topic.name for topic in topics if not topic.judged]:
        raise InputError(f"{' '.join(unjudged)}: no evidence that tells negatives from positives; mine a split that has it")
    names = [canonical_name(collection, topic) for topic in topics]
    with exclusive(output, wait=False):
        rankings = _rankings(collection, source, output, settings.depth)
        header = _header(collection, rankings.maker(topics), settings)
        _refuse_foreign(output, header, names, overwrite)
        rankings.prepare(topics)
        for audit in audit_paths(output):
            audit.unlink(missing_ok=True)
        retrieved: dict[str, Retrieved] = {}
        write_negatives(output, header, _rows(collection, rankings, topics, settings, retrieved))
    return retrieved


def canonical_name(collection: Collection, topics: Topics) -> str:
    """The name under which the negatives of `topics` are filed."""
    return str(resolve_topics(topics.name, collection.topics_names))


def runs_folder(output: Path) -> Path:
    """Where the runs of a system are kept."""
    return output.with_suffix(".runs")


def audit_paths(output: Path) -> tuple[Path, Path]:
    """The audit of a negatives file, in Markdown and in HTML."""
    return output.with_suffix(".audit.md"), output.with_suffix(".audit.html")


def answers_of(query: Query, task: str) -> tuple[str, ...]:
    """The answers worth looking for in passages, normalised; none for a task whose answers are no spans of text."""
    return () if task in WITHOUT_SPANS else telling_answers(query.answers)


def _rankings(collection: Collection, source: System | Path, output: Path, depth: int) -> Rankings:
    if isinstance(source, Path):
        return FileRankings(collection, source)
    return SystemRankings(collection, source, runs_folder(output), depth)


def _header(collection: Collection, maker: Maker, settings: MiningSettings) -> NegativesHeader:
    return NegativesHeader(
        source=maker.name,
        checkpoint=maker.checkpoint,
        collection=collection.passages.fingerprint,
        depth=settings.depth,
        skip=settings.skip,
        keep=settings.keep,
        filters=settings.filters,
        seed=settings.seed,
    )


def _refuse_foreign(output: Path, header: NegativesHeader, names: Sequence[str], overwrite: bool) -> None:
    """Raise InputError for an output that is there and has another header or other topics."""
    if overwrite or not output.exists():
        return
    try:
        found = read_negatives(output, None)
    except InputError as error:
        raise InputError(f"--output {output} exists and is no negatives file ({error}); give another name or --overwrite") from error
    ours, theirs = header._asdict(), found.header._asdict()
    differing = [key for key, value in ours.items() if theirs[key] != value] + ["tasks"] * (set(found.docids) != set(names))
    if differing:
        raise InputError(f"--output {output} exists and was made otherwise ({', '.join(differing)}); give another name or --overwrite")


def _rows(
    collection: Collection, rankings: Rankings, topics: Sequence[Topics], settings: MiningSettings, retrieved: dict[str, Retrieved]
) -> Iterator[Row]:
    """Rows of the negatives file, topic by topic; what was seen goes to `retrieved`."""
    for topic in topics:
        run = rankings.run(topic)
        _check_run(run, topic, collection, settings)
        name = canonical_name(collection, topic)
        seen = on_gold = 0
        gold_scores: dict[str, float] = {}
        for query, mined in _mined(collection, run, topic, settings):
            seen, on_gold = seen + mined.seen, on_gold + mined.on_gold
            if not math.isnan(mined.gold_score):
                gold_scores[query.qid] = mined.gold_score
            yield name, query.qid, mined.negatives.docids, mined.negatives.scores.tolist()
        retrieved[name] = Retrieved(seen, on_gold, gold_scores)
        log.info("%s: filtered %s hits of %s queries", topic.name, f"{seen:,}", f"{len(topic.queries):,}")


def _check_run(run: Run, topics: Topics, collection: Collection, settings: MiningSettings) -> None:
    """Say where a run has fewer hits than are wanted. Raises: InputError where none is left after skip."""
    longest = max((len(ranking.docids) for ranking in run.rankings.values()), default=0)
    if longest <= settings.skip:
        raise InputError(f"--skip {settings.skip}: the rankings of {topics.name} have at most {longest} hits; skip fewer")
    if longest < min(settings.depth, collection.passages.count):
        log.warning("%s: the rankings have at most %d hits, --depth is %d", topics.name, longest, settings.depth)
    if empty := sum(query.qid not in run.rankings or not run.rankings[query.qid].docids for query in topics.queries):
        log.warning("%s: %d of %d queries have no hits", topics.name, empty, len(topics.queries))


def _mined(collection: Collection, run: Run, topics: Topics, settings: MiningSettings) -> Iterator[tuple[Query, Mined]]:
    """Each query with its negatives, in topic order."""
    store = collection.passages
    hits = dict.fromkeys(docid for ranking in run.rankings.values() for docid in ranking.docids[: settings.depth])
    gold = list(dict.fromkeys(docid for query in topics.queries for evidence in query.evidence for docid in evidence.passages))
    held = [docid for docid, row in zip(gold, store.rows(gold).tolist(), strict=True) if row >= 0]
    page_of = store.page_of([*hits, *held])
    texts = AnswerTexts(store.get(list(hits)) if settings.drop_answers and topics.task not in WITHOUT_SPANS else {})
    for query in topics.queries:
        if (ranking := run.rankings.get(query.qid)) is None:
            ranking = Ranking.of([], [])
        yield query, hard_negatives(ranking, query, page_of, settings, _finder(texts, answers_of(query, topics.task)))


def _finder(texts: AnswerTexts, answers: tuple[str, ...]) -> Callable[[str], bool] | None:
    return partial(texts.holds, answers=answers) if answers else None
