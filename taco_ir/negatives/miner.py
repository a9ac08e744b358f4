"""Mining hard negatives for topics: retrieve once, keep the runs, filter, and write a negatives file that is whole or absent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import InputError, claim_output, fingerprint
from taco_ir.core.progress import log
from taco_ir.core.seeds import number_of
from taco_ir.core.tasks import KILT_TASKS, resolve_topics
from taco_ir.core.types import Query, Ranking, Run
from taco_ir.data.collection import Collection, Topics
from taco_ir.negatives.file import Negatives, NegativesHeader, read_negatives, write_merged, write_negatives
from taco_ir.negatives.filters import AnswerTexts, Mined, MiningSettings, hard_negatives, telling_answers
from taco_ir.negatives.sources import FileRankings, Maker, Rankings, RetrieverRankings
from taco_ir.retrieval.retrievers import Retriever

SUFFIX = ".jsonl"
# their answers are a verdict, an utterance, an essay, or a page's title that every mention of it holds
NO_SPANS = ("fact checking", "dialogue", "long-form QA", "entity linking")
WITHOUT_SPANS = frozenset(task.name for task in KILT_TASKS if task.kind in NO_SPANS)
Row = tuple[str, str, list[Ranking]]


class Source(NamedTuple):
    """What ranks, a retriever or runs that are there, and what of its rankings becomes negatives."""

    ranks: Retriever | Path
    settings: MiningSettings


class Retrieved(NamedTuple):
    """What filtering saw of a topics' rankings by one source.

    Attributes:
        seen: hits between skip and depth; `on_gold` of them are on gold pages.
        gold_scores: the best gold hit's score by qid.
        lost: queries whose hits a margin dropped, all of them, as gold was not among them.
    """

    seen: int
    on_gold: int
    gold_scores: dict[str, float]
    lost: int = 0

    def and_of(self, qid: str, mined: Mined) -> Retrieved:
        """With a query's hits counted as well."""
        if not math.isnan(mined.gold_score):
            self.gold_scores[qid] = mined.gold_score
        return Retrieved(self.seen + mined.seen, self.on_gold + mined.on_gold, self.gold_scores, self.lost + mined.lost)


def mine(
    collection: Collection,
    source: Retriever | Path,
    topics: Sequence[Topics],
    settings: MiningSettings,
    output: Path,
    overwrite: bool = False,
) -> Negatives:
    """Mine hard negatives for `topics`, write them to `output`, and return what was written.

    Args:
        source: a retriever, whose runs are kept beside `output` and used again; or a TREC run file or a folder of them.
        output: a `.jsonl` file; every query of the topics has a line, an empty one where nothing is left.

    Raises:
        InputError: for topics without evidence, a run that lacks topics or is of another collection, or an output that
            was made otherwise (without `overwrite`).
    """
    mine_file(collection, [Source(source, settings)], topics, output, overwrite)
    return read_negatives(output, collection.passages.fingerprint)


def check_minable(topics: Sequence[Topics], output: Path) -> None:
    """Raises InputError for topics without gold, or a name that is not one of a negatives file."""
    if output.suffix != SUFFIX:
        raise InputError(f"--output {output}: the name of a negatives file ends in {SUFFIX}")
    if unjudged := [topic.name for topic in topics if not topic.has_gold]:
        raise InputError(
            f"{' '.join(unjudged)}: no evidence that tells negatives from positives; mine a split that has it"
        )


def mine_file(
    collection: Collection, sources: Sequence[Source], topics: Sequence[Topics], output: Path, overwrite: bool = False
) -> dict[str, list[Retrieved]]:
    """As `mine`, from one source or several, but return by topics what was seen of each source, for the audit.

    Several sources are merged query by query (`merge`): each gives what it would give alone.
    """
    check_minable(topics, output)
    names = [canonical_name(collection, topic) for topic in topics]
    for ranks in dict.fromkeys(ranks for ranks, _ in sources if isinstance(ranks, Retriever)):
        ranks.check(topics)
    made = _rankings(collection, sources, output)
    queries = fingerprint_of(collection, topics)
    headers = [_header(collection, made[source.ranks].maker(topics), source.settings, queries) for source in sources]
    _refuse_repeats(headers)
    with claim_output(output, _made_of(headers, names), overwrite, record=partial(_record_of, output)):
        for rankings in made.values():
            rankings.prepare(topics)
        audit_path(output).unlink(missing_ok=True)
        retrieved: dict[str, list[Retrieved]] = {}
        views = [
            _View(header.source, made[source.ranks], source.settings)
            for header, source in zip(headers, sources, strict=True)
        ]
        rows = _rows(collection, views, topics, retrieved)
        if len(headers) == 1:
            write_negatives(
                output, headers[0], ((name, qid, each.docids, each.scores.tolist()) for name, qid, (each,) in rows)
            )
        else:
            write_merged(
                output,
                headers,
                ((name, qid, *merge(found, first_source(qid, len(found)))) for name, qid, found in rows),
            )
    return retrieved


class Merged(NamedTuple):
    """A query's negatives: `sources[i]` are the sources that hold `docids[i]`, the one with its best place first; `scores[i]` its score in each."""

    docids: list[str]
    sources: list[list[int]]
    scores: list[list[float]]


def merge(negatives: Sequence[Ranking], first: int = 0) -> Merged:
    """The union of what the sources hold (Tang, Wang and Yao, DPTDR, COLING 2022: unified negative mining), by a passage's best place
    among the negatives of a source, then by the order of the sources.

    So the first of every source come first, in turn, then the second of each. Scores decide nothing: those of different
    sources have different scales.

    Args:
        first: the source whose turn it is first, in [0, sources); after the last source comes source 0.

    Differs: the paper says which retrievers are united, not how; the order is ours.
    """
    held: dict[str, list[tuple[int, int, int]]] = {}  # place, turn, source
    for source, ranking in enumerate(negatives):
        for place, docid in enumerate(ranking.docids):
            held.setdefault(docid, []).append((place, (source - first) % len(negatives), source))
    places = {docid: sorted(each) for docid, each in held.items()}
    docids = sorted(places, key=places.__getitem__)
    scores = [ranking.scores.tolist() for ranking in negatives]
    return Merged(
        docids,
        [[source for _, _, source in places[docid]] for docid in docids],
        [[scores[source][place] for place, _, source in places[docid]] for docid in docids],
    )


def fingerprint_of(collection: Collection, topics: Sequence[Topics]) -> str:
    """Of the queries of `topics` and their evidence, on which their negatives depend."""
    return fingerprint(
        [
            [canonical_name(collection, each), [(own.qid, own.text, own.evidence) for own in each.queries]]
            for each in topics
        ]
    )


def canonical_name(collection: Collection, topics: Topics) -> str:
    """The name under which the negatives of `topics` are filed."""
    return str(resolve_topics(topics.name, collection.topics_names))


def first_source(qid: str, sources: int) -> int:
    """Whose turn it is first for a query: each source's for as many queries, so that a first epoch learns from all, whatever it takes of each."""
    return number_of(qid, "first source") % sources


def runs_folder(output: Path) -> Path:
    """Where the runs of a retriever are kept."""
    return output.with_suffix(".runs")


def audit_path(output: Path) -> Path:
    """The audit of a negatives file."""
    return output.with_suffix(".audit.html")


def answers_of(query: Query, task: str) -> tuple[str, ...]:
    """The answers worth looking for in passages, normalised; none for a task whose answers are no spans of text."""
    return () if task in WITHOUT_SPANS else telling_answers(query.answers)


def _rankings(collection: Collection, sources: Sequence[Source], output: Path) -> dict[Retriever | Path, Rankings]:
    """The rankings of each source. One that is named twice ranks once, down to its deepest window."""
    depths: dict[Retriever | Path, int] = {}
    for ranks, settings in sources:
        depths[ranks] = max(settings.depth, depths.get(ranks, 0))
    folders = _folders([ranks for ranks in depths if isinstance(ranks, Retriever)], runs_folder(output))
    return {
        ranks: FileRankings(collection, ranks)
        if isinstance(ranks, Path)
        else RetrieverRankings(collection, ranks, folders[ranks], depth)
        for ranks, depth in depths.items()
    }


def _folders(retrievers: Sequence[Retriever], folder: Path) -> dict[Retriever, Path]:
    """Where the runs of each retriever are kept: in `folder`, or, of several, in folders of their names in it."""
    if len(retrievers) == 1:
        return {retrievers[0]: folder}
    names = [retriever.name for retriever in retrievers]
    counts = [names[:place].count(name) for place, name in enumerate(names, 1)]
    return {
        retriever: folder / (name if count == 1 else f"{name}-{count}")
        for retriever, name, count in zip(retrievers, names, counts, strict=True)
    }


def _header(collection: Collection, maker: Maker, settings: MiningSettings, queries: str) -> NegativesHeader:
    return NegativesHeader(
        source=maker.name,
        checkpoint=maker.checkpoint,
        collection=collection.passages.fingerprint,
        depth=settings.depth,
        skip=settings.skip,
        keep=settings.keep,
        filters=settings.filters,
        seed=settings.seed,
        queries=queries,
    )


def _refuse_repeats(headers: Sequence[NegativesHeader]) -> None:
    """Raise InputError for a source that is given twice with the same window and filters."""
    if twice := [header for place, header in enumerate(headers) if header in headers[:place]]:
        header = twice[0]
        name = f"{header.source} {header.checkpoint}".strip()
        raise InputError(
            f"--source {name} is given twice with the window {header.skip}:{header.depth}; leave one out, or give two windows"
        )


def _made_of(sources: Sequence[NegativesHeader], names: Iterable[str]) -> dict[str, Any]:
    """What a negatives file is made of; one source's keys stand by themselves, those of several under its number."""
    headers = [header._asdict() for header in sources]
    numbered = {f"source {number}": header for number, header in enumerate(headers, 1)}
    return {"sources": len(headers), "tasks": sorted(names), **(headers[0] if len(headers) == 1 else numbered)}


def _record_of(output: Path) -> dict[str, Any] | None:
    """What a negatives file that is there says it was made of; None for any other file."""
    try:
        found = read_negatives(output, None)
    except InputError:
        return None
    return _made_of(found.sources, found.docids)


class _View(NamedTuple):
    """A source at work: its name, its rankings, and what of them becomes negatives."""

    name: str
    rankings: Rankings
    settings: MiningSettings


def _rows(
    collection: Collection, views: Sequence[_View], topics: Sequence[Topics], retrieved: dict[str, list[Retrieved]]
) -> Iterator[Row]:
    """Topics name, qid and each source's negatives, topic by topic; what was seen goes to `retrieved`."""
    for topic in topics:
        name = canonical_name(collection, topic)
        retrieved[name] = [Retrieved(0, 0, {}) for _ in views]
        found_by = [_of_view(collection, view, topic, f" by {view.name}" if len(views) > 1 else "") for view in views]
        for query, *found in zip(topic.queries, *found_by, strict=True):
            retrieved[name] = [seen.and_of(query.qid, each) for seen, each in zip(retrieved[name], found, strict=True)]
            yield name, query.qid, [each.negatives for each in found]
        seen = sum(each.seen for each in retrieved[name])
        log.info("%s: filtered %s hits of %s queries", topic.name, f"{seen:,}", f"{len(topic.queries):,}")


def _of_view(collection: Collection, view: _View, topics: Topics, by: str) -> Iterator[Mined]:
    """The negatives of each query by one source; `by` names it in messages."""
    run = view.rankings.run(topics)
    _check_run(run, topics, collection, view.settings, by)
    return _mined(collection, run, topics, view.settings)


def _check_run(run: Run, topics: Topics, collection: Collection, settings: MiningSettings, by: str) -> None:
    """Say where a run has fewer hits than are wanted. Raises: InputError where none is left after skip."""
    longest = max((len(ranking.docids) for ranking in run.rankings.values()), default=0)
    if longest <= settings.skip:
        raise InputError(
            f"--skip {settings.skip} (--window {settings.skip}:{settings.depth}): "
            f"the rankings of {topics.name}{by} have at most {longest} hits; skip fewer"
        )
    if longest < min(settings.depth, collection.passages.count):
        log.warning("%s%s: the rankings have at most %d hits, --depth is %d", topics.name, by, longest, settings.depth)
    if empty := sum(query.qid not in run.rankings or not run.rankings[query.qid].docids for query in topics.queries):
        log.warning("%s%s: %d of %d queries have no hits", topics.name, by, empty, len(topics.queries))


def _mined(collection: Collection, run: Run, topics: Topics, settings: MiningSettings) -> Iterator[Mined]:
    """The negatives of each query, in topic order."""
    store = collection.passages
    hits = dict.fromkeys(docid for ranking in run.rankings.values() for docid in ranking.docids[: settings.depth])
    gold = list(
        dict.fromkeys(docid for query in topics.queries for evidence in query.evidence for docid in evidence.passages)
    )
    held = [docid for docid, row in zip(gold, store.rows(gold).tolist(), strict=True) if row >= 0]
    page_of = store.page_of([*hits, *held])
    texts = AnswerTexts(store.get(list(hits)) if settings.drop_answers and topics.task not in WITHOUT_SPANS else {})
    for query in topics.queries:
        if (ranking := run.rankings.get(query.qid)) is None:
            ranking = Ranking.of([], [])
        yield hard_negatives(ranking, query, page_of, settings, _finder(texts, answers_of(query, topics.task)))


def _finder(texts: AnswerTexts, answers: tuple[str, ...]) -> Callable[[str], bool] | None:
    return partial(texts.holds, answers=answers) if answers else None
