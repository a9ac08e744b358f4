"""Mines hard negatives for query sets: retrieves once, keeps the runs, filters, and writes a negatives file."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.hashes import fingerprint, hash_names
from taco_ir.core.outputs import claim_output
from taco_ir.core.processes import log
from taco_ir.core.tasks import KILT_TASKS, resolve_topics
from taco_ir.core.texts import telling_answers
from taco_ir.core.types import Query, Ranking, Run
from taco_ir.data.collection import Collection, Topics
from taco_ir.negatives.file import Negatives, NegativesHeader, read_negatives, write_merged, write_negatives
from taco_ir.negatives.filters import AnswerTexts, Mined, MiningSettings, hard_negatives
from taco_ir.negatives.sources import FileRankings, Maker, Rankings, RetrieverRankings
from taco_ir.retrieval.retrievers import Ranker

SUFFIX = ".jsonl"
# tasks with answers that are not spans of text, or (entity linking) a page title that all its mentions contain
NO_SPANS = ("fact checking", "dialogue", "long-form QA", "entity linking")
WITHOUT_SPANS = frozenset(task.name for task in KILT_TASKS if task.kind in NO_SPANS)
Row = tuple[str, str, list[Ranking]]


class Source(NamedTuple):
    """A source of rankings, which is a retriever or existing runs, with the settings for its negatives."""

    ranks: Ranker | Path
    settings: MiningSettings


class Retrieved(NamedTuple):
    """Statistics from filtering one source's rankings of a query set.

    Attributes:
        seen: number of hits between skip and depth.
        on_gold: number of these hits that are gold or on a gold page.
        gold_scores: the best gold hit's score by qid; queries without gold among the hits are missing.
        lost: number of queries that lost all hits to the margin because no gold was among the hits.
    """

    seen: int
    on_gold: int
    gold_scores: dict[str, float]
    lost: int = 0

    def add(self, qid: str, mined: Mined) -> Retrieved:
        """Returns the statistics with another query added."""
        if not math.isnan(mined.gold_score):
            self.gold_scores[qid] = mined.gold_score
        return Retrieved(self.seen + mined.seen, self.on_gold + mined.on_gold, self.gold_scores, self.lost + mined.lost)


def mine_topics(
    collection: Collection,
    source: Ranker | Path,
    topics: Sequence[Topics],
    settings: MiningSettings,
    output: Path,
    overwrite: bool = False,
) -> Negatives:
    """Mine hard negatives for `topics`, write them to `output`, and return what was written.

    Args:
        source: a retriever, a run file, or a folder of run files. A retriever's runs are kept next to `output`.
        output: a `.jsonl` file with a line for every query, without docids if no hit is left.

    Raises:
        InputError: for topics without gold, a run that lacks topics or is of another collection, or (without
            `overwrite`) an output made from something else.
    """
    mine_file(collection, [Source(source, settings)], topics, output, overwrite)
    return read_negatives(output, collection.passages.fingerprint)


def check_minable(topics: Sequence[Topics], output: Path) -> None:
    """Raise InputError for topics without gold, or for an output with a name that does not end in .jsonl."""
    if output.suffix != SUFFIX:
        raise InputError(f"--output {output}: the name of a negatives file must end in {SUFFIX}")
    if unjudged := [topic.name for topic in topics if not topic.has_gold]:
        names = " ".join(unjudged)
        raise InputError(
            f"{names}: these topics have no gold, so negatives cannot be told from positives; mine a split that "
            "has gold"
        )


def mine_file(
    collection: Collection, sources: Sequence[Source], topics: Sequence[Topics], output: Path, overwrite: bool = False
) -> dict[str, list[Retrieved]]:
    """Mine as `mine_topics`, from one or several sources; returns statistics by topics name and source, for the audit.

    Filters apply to each source separately. Then several sources are merged query by query (`merge`).
    """
    check_minable(topics, output)
    names = [canonical_name(collection, topic) for topic in topics]
    for ranks in dict.fromkeys(ranks for ranks, _ in sources if isinstance(ranks, Ranker)):
        ranks.check(topics)
    made = _open_rankings(collection, sources, output)
    queries = fingerprint_of(collection, topics)
    headers = [_header(collection, made[source.ranks].maker(topics), source.settings, queries) for source in sources]
    _refuse_repeats(headers)
    with claim_output(output, _made_of(headers, names), overwrite, record=partial(_read_record, output)):
        for rankings in made.values():
            rankings.prepare(topics)
        audit_path(output).unlink(missing_ok=True)
        retrieved: dict[str, list[Retrieved]] = {}
        pairs = zip(headers, sources, strict=True)
        views = [_View(header.source, made[source.ranks], source.settings) for header, source in pairs]
        rows = _mine_rows(collection, views, topics, retrieved)
        if len(headers) == 1:
            alone = ((name, qid, each.docids, each.scores.tolist()) for name, qid, (each,) in rows)
            write_negatives(output, headers[0], alone)
        else:
            merged = ((name, qid, *merge(found, first_source(qid, len(found)))) for name, qid, found in rows)
            write_merged(output, headers, merged)
    return retrieved


class Merged(NamedTuple):
    """The merged negatives of a query.

    Attributes:
        sources: for each docid, the numbers of the sources that found it; first is the source where it ranks best.
        scores: for each docid, its scores in these sources.
    """

    docids: list[str]
    sources: list[list[int]]
    scores: list[list[float]]


def merge(negatives: Sequence[Ranking], first: int = 0) -> Merged:
    """Merge the negatives of several sources, ordered by a passage's best rank in any source, then by source.

    So the negatives with rank 1 of all sources come first, then those with rank 2, and so on. Scores are not used,
    since scales differ between sources (Tang, Wang and Yao, DPTDR, COLING 2022: unified negative mining).

    Args:
        negatives: the ranking of each source.
        first: number of the source to start with; source 0 follows the last source.

    Differs: the paper names the retrievers that it merges, but not how; the order is our choice.
    """
    places: dict[str, list[tuple[int, int, int]]] = {}  # place, turn, source
    for source, ranking in enumerate(negatives):
        for place, docid in enumerate(ranking.docids):
            insort(places.setdefault(docid, []), (place, (source - first) % len(negatives), source))
    docids = sorted(places, key=places.__getitem__)
    scores = [ranking.scores.tolist() for ranking in negatives]
    return Merged(
        docids,
        [[source for _, _, source in places[docid]] for docid in docids],
        [[scores[source][place] for place, _, source in places[docid]] for docid in docids],
    )


def fingerprint_of(collection: Collection, topics: Sequence[Topics]) -> str:
    """Returns a hash of the queries in `topics` and their evidence, on which mined negatives depend."""
    names = [canonical_name(collection, each) for each in topics]
    queries = [[(own.qid, own.text, own.evidence) for own in each.queries] for each in topics]
    return fingerprint(list(zip(names, queries, strict=True)))


def canonical_name(collection: Collection, topics: Topics) -> str:
    """Returns the name of `topics` in a negatives file, such as nq-train: the task's canonical name and the split."""
    return str(resolve_topics(topics.name, collection.topics_names))


def first_source(qid: str, sources: int) -> int:
    """Returns the number of the source to start with for a query. All sources come first about equally often."""
    return hash_names(qid, "first source") % sources


def audit_path(output: Path) -> Path:
    """Returns the path of a negatives file's audit page."""
    return output.with_suffix(".audit.html")


def answers_of(query: Query, task: str) -> tuple[str, ...]:
    """Returns the normalised answers to search for in passages; () for tasks with answers that are not text spans."""
    return () if task in WITHOUT_SPANS else telling_answers(query.answers)


def _open_rankings(collection: Collection, sources: Sequence[Source], output: Path) -> dict[Ranker | Path, Rankings]:
    """Returns the rankings of each source. A source that is named twice ranks once, down to its deepest window."""
    depths: dict[Ranker | Path, int] = {}
    for ranks, settings in sources:
        depths[ranks] = max(settings.depth, depths.get(ranks, 0))
    folders = _assign_folders([ranks for ranks in depths if isinstance(ranks, Ranker)], output.with_suffix(".runs"))
    return {
        ranks: FileRankings(collection, ranks)
        if isinstance(ranks, Path)
        else RetrieverRankings(collection, ranks, folders[ranks], depth)
        for ranks, depth in depths.items()
    }


def _assign_folders(retrievers: Sequence[Ranker], folder: Path) -> dict[Ranker, Path]:
    """Returns the folder for each retriever's runs: `folder`, or for several retrievers a folder inside it for each."""
    if len(retrievers) == 1:
        return {retrievers[0]: folder}
    names = [retriever.name for retriever in retrievers]
    counts = [names[:place].count(name) for place, name in enumerate(names, 1)]
    return {
        retriever: folder / (name if count == 1 else f"{name}-{count}")
        for retriever, name, count in zip(retrievers, names, counts, strict=True)
    }


def _header(collection: Collection, maker: Maker, settings: MiningSettings, queries: str) -> NegativesHeader:
    window = (settings.depth, settings.skip, settings.keep)
    passages = collection.passages.fingerprint
    return NegativesHeader(*maker, passages, *window, settings.filters, settings.seed, queries)


def _refuse_repeats(headers: Sequence[NegativesHeader]) -> None:
    """Raise InputError for a source that is given twice with the same window and filters."""
    if twice := [header for place, header in enumerate(headers) if header in headers[:place]]:
        header = twice[0]
        name = f"{header.source} {header.checkpoint}".strip()
        window = f"{header.skip}:{header.depth}"
        raise InputError(f"--source {name} is given twice with the window {window}; leave one out, or give two windows")


def _made_of(sources: Sequence[NegativesHeader], names: Iterable[str]) -> dict[str, Any]:
    """Returns what a negatives file is made of; several sources have their keys under "source 1", "source 2", ..."""
    headers = [header._asdict() for header in sources]
    numbered = {f"source {number}": header for number, header in enumerate(headers, 1)}
    return {"sources": len(headers), "tasks": sorted(names), **(headers[0] if len(headers) == 1 else numbered)}


def _read_record(output: Path) -> dict[str, Any] | None:
    """Read what an existing negatives file was made of; None for any other file."""
    try:
        found = read_negatives(output, None)
    except InputError:
        return None
    return _made_of(found.sources, found.docids)


class _View(NamedTuple):
    """A source with its name and its rankings."""

    name: str
    rankings: Rankings
    settings: MiningSettings


def _mine_rows(
    collection: Collection, views: Sequence[_View], topics: Sequence[Topics], retrieved: dict[str, list[Retrieved]]
) -> Iterator[Row]:
    """Yield topics name, qid and each source's negatives, topic by topic; add what was seen to `retrieved`."""
    for topic in topics:
        name = canonical_name(collection, topic)
        retrieved[name] = [Retrieved(0, 0, {}) for _ in views]
        mined = []
        for view in views:
            run = view.rankings.run(topic)
            _check_run(run, topic, collection, view.settings, f" by {view.name}" if len(views) > 1 else "")
            mined.append(_mine_run(collection, run, topic, view.settings))
        for query, *found in zip(topic.queries, *mined, strict=True):
            retrieved[name] = [seen.add(query.qid, each) for seen, each in zip(retrieved[name], found, strict=True)]
            yield name, query.qid, [each.negatives for each in found]
        seen = sum(each.seen for each in retrieved[name])
        log.info("%s: filtered %s hits of %s queries", topic.name, f"{seen:,}", f"{len(topic.queries):,}")


def _check_run(run: Run, topics: Topics, collection: Collection, settings: MiningSettings, by: str) -> None:
    """Warn of a run with too few hits. Raises: InputError if no hit is left after skip."""
    longest = max((len(ranking.docids) for ranking in run.rankings.values()), default=0)
    if longest <= settings.skip:
        window = f"--mine-skip {settings.skip} (--window {settings.skip}:{settings.depth})"
        raise InputError(
            f"{window}: the rankings of {topics.name}{by} have at most {longest} hits, so all would be skipped; "
            "skip fewer"
        )
    if longest < min(settings.depth, collection.passages.count):
        log.warning(
            "%s%s: the rankings have at most %d hits, --mine-depth is %d", topics.name, by, longest, settings.depth
        )
    if empty := sum(query.qid not in run.rankings or not run.rankings[query.qid].docids for query in topics.queries):
        log.warning("%s%s: %d of %d queries have no hits", topics.name, by, empty, len(topics.queries))


def _mine_run(collection: Collection, run: Run, topics: Topics, settings: MiningSettings) -> Iterator[Mined]:
    """Yield the negatives of each query, in topic order."""
    store = collection.passages
    hits = dict.fromkeys(docid for ranking in run.rankings.values() for docid in ranking.docids[: settings.depth])
    gold = list(dict.fromkeys(docid for query in topics.queries for docid in query.gold_passages))
    present = [docid for docid, row in zip(gold, store.rows(gold).tolist(), strict=True) if row >= 0]
    page_of = store.page_of([*hits, *present])
    texts = AnswerTexts(store.get(list(hits)) if settings.drop_answers and topics.task not in WITHOUT_SPANS else {})
    for query in topics.queries:
        ranking = run.rankings.get(query.qid) or Ranking.of([], [])
        answers = answers_of(query, topics.task)
        holds_answer = partial(texts.holds, answers=answers) if answers else None
        yield hard_negatives(ranking, query, page_of, settings, holds_answer)
