"""Evaluates systems: scores their runs against gold, and tests them against a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.core.files import InputError
from taco_ir.core.processes import collector_paused
from taco_ir.core.run_formats import read_run
from taco_ir.core.types import Run, refuse_text
from taco_ir.data.collection import Collection, Topics, judged_topics, open_collection, topics_of_qrels
from taco_ir.data.query_files import Qrels
from taco_ir.evaluation.measures import Measure, Scores, default_measures, macro_average
from taco_ir.evaluation.run_files import (
    RunFile,
    leave_out_unjudged,
    refuse_foreign_docids,
    sort_by_system,
    split_by_topics,
    warn_of_unjudged,
)
from taco_ir.evaluation.scoring import build_query_rows, build_table, compare_with, score, score_by_default, title
from taco_ir.evaluation.significance import SIGNIFICANT, Comparison
from taco_ir.evaluation.tables import Cell, PValue, Table

if TYPE_CHECKING:
    import pandas

SPLITS_BY_USE = ("dev", "test", "train")  # the order in which the topics of a run are looked for
Given = Run | str | Path  # a run, or a file of one


@dataclass(frozen=True)
class Evaluation:
    """Scores of systems on topics, and tests against a baseline if there is one.

    Attributes:
        scores: by system name, one entry for each of `topics`.
        comparisons: the tests of all other systems against the baseline.
    """

    collection: Collection | None
    topics: Sequence[Topics]
    measures: Sequence[Measure]
    scores: Mapping[str, Sequence[Scores]]
    baseline: str = ""
    comparisons: Sequence[Comparison] = ()

    def mean(self, measure: str | Measure, system: str | None = None) -> float | None:
        """Returns a system's mean over queries (for several topics: the mean of their means), or None without values.

        Args:
            measure: one of the scored measures, or its name, such as "Rprec".
            system: the system's name; None if there is only one.

        Raises:
            InputError: for a measure or a system that was not scored.
        """
        wanted = Measure.parse(measure) if isinstance(measure, str) else measure
        named = system if system is not None else next(iter(self.scores)) if len(self.scores) == 1 else ""
        if wanted not in self.measures or named not in self.scores:
            what = f"measure {wanted}" if wanted not in self.measures else f"system {named!r}"
            there = ", ".join(map(str, self.measures if wanted not in self.measures else self.scores))
            raise InputError(f"{what} was not scored; scored: {there}")
        return macro_average(self.scores[named], wanted)

    def table(self) -> Table:
        """Returns a table of scores by query set and system, with macro averages; `*` marks significant differences."""
        return build_table(self.collection, self.topics, self.scores, self.measures, self.comparisons)

    def query_table(self) -> Table:
        """Returns a table of scores with a row for each query and system."""
        header = ["topics", "system", "query", *map(str, self.measures)]
        return Table(title(self.collection), header, build_query_rows(self.topics, self.scores, self.measures))

    def comparison_table(self) -> Table:
        """Returns a table with a row for each test: the difference, its interval, and p-values."""
        caption = (
            f"against {self.baseline}: paired randomisation test, p after Holm over the rows of each measure "
            f"(* below {SIGNIFICANT}), 95 % bootstrap interval"
        )
        rows: list[list[Cell]] = [
            [c.topics, c.system, c.measure, c.difference, c.low, c.high, PValue(c.p), PValue(c.p_holm)]
            for c in self.comparisons
        ]
        return Table(caption, ["topics", "system", "measure", "difference", "from", "to", "p", "p Holm"], rows)

    def to_pandas(self, by_query: bool = False) -> pandas.DataFrame:
        """Returns `table` (or `query_table` if `by_query`) as a DataFrame. Raises: InputError without pandas."""
        return (self.query_table() if by_query else self.table()).to_pandas()


def evaluate(
    runs: Given | Mapping[str, Given],
    gold: Collection | str | Path | Qrels,
    *,
    topics: str | Topics | Sequence[str | Topics] = (),
    measures: Sequence[str | Measure] = (),
    baseline: str = "",
    seed: int = 0,
) -> Evaluation:
    """Score a run, or several runs given as a dict by system name.

    Args:
        runs: a `Run`, or a file in TREC's, KILT's or MS MARCO's format; or a dict of these by system name.
        gold: a collection or its name; or relevance judgments, as a file in TREC's or BEIR's format, or as {query:
            {docid: grade}}.
        topics: names of topics, such as "nq-dev" or ["nq-dev", "fever-dev"]; empty: the topics that contain the
            runs' queries.
        measures: names such as ["Rprec", "recall@5", "nDCG@10"]; empty: the collection's default measures.
        baseline: name of the system to test the others against.
        seed: random seed of the tests.

    Raises:
        InputError: for queries or docids without gold, topics without gold, or an unknown measure or baseline.

    Examples:
        >>> topics = taco_ir.open_collection("sample").topics("nq-dev")
        >>> runs = {name: taco_ir.search("sample", topics, retriever=name) for name in ("bm25", "hybrid")}
        >>> evaluation = taco_ir.evaluate(runs, "sample", measures=["Rprec", "MRR@10"], baseline="bm25")
        >>> evaluation.to_pandas()["system"].tolist()
        ['bm25', 'hybrid']
        >>> taco_ir.evaluate(runs["bm25"], {"nq-dev-A01": {"10009#0": 1}}).mean("R@100")
        1.0
    """
    refuse_text(measures, "measures")
    read = {name: each if isinstance(each, Run) else read_run(Path(each)) for name, each in _named(runs).items()}
    judged = isinstance(gold, Mapping) or (not isinstance(gold, Collection) and Path(gold).is_file())
    if judged and topics:
        raise InputError("topics can be given only with a collection; a qrels file defines its own queries")
    collection: Collection | None = None
    if isinstance(gold, Mapping):
        asked = [topics_of_qrels(gold, "judgments")]
    elif judged:
        asked = [judged_topics(Path(str(gold)))]
    else:
        collection = open_collection(gold)
        asked = _topics_of(collection, topics, {qid for run in read.values() for qid in run.rankings})
    require_gold(asked)
    if judged:
        read = {name: leave_out_unjudged(run, asked, name) for name, run in read.items()}
    files = [RunFile(Path(name), name, split_by_topics(run, asked, name)) for name, run in read.items()]
    parsed = [each if isinstance(each, Measure) else Measure.parse(each) for each in measures]
    if baseline and baseline not in read:
        raise InputError(f"baseline {baseline!r} is not among the runs: {', '.join(read)}")
    return evaluate_files(files, collection, asked, parsed, baseline, seed)


def evaluate_files(
    files: Iterable[RunFile],
    collection: Collection | None,
    topics: Sequence[Topics],
    measures: Sequence[Measure] = (),
    baseline: str = "",
    seed: int = 0,
) -> Evaluation:
    """Score the runs in files on these topics.

    Args:
        collection: the collection; None if the topics come from a qrels file.
        measures: empty: the collection's default measures and, if the runs have answers, the answer measures.
        baseline: name of the system to test the others against; "" for no tests.

    Raises:
        InputError: for docids that are not in the collection, or systems without a run for some topics.
    """
    has_pages = bool(collection and collection.passages.has_pages)
    files = [file if has_pages else file.of_passages() for file in files]
    for file in files:
        if collection is None:
            warn_of_unjudged(file, topics)
            continue
        for run in file.runs.values():
            refuse_foreign_docids(run, collection, file.path)
    page_of = collection.passages.page_of_known if collection else None  # refuse_foreign_docids looked all docids up
    systems = sort_by_system(files, topics)
    runs = {name: [of_system[topic.name] for topic in topics] for name, of_system in systems.items()}
    measures = list(dict.fromkeys(measures))
    with collector_paused():  # scoring makes millions of strings and no cycles
        if measures:
            scores = score(collection, topics, runs, measures, page_of)
        else:
            scores, measures = score_by_default(collection, topics, runs, default_measures(has_pages), page_of)
        comparisons = compare_with(topics, scores, baseline, measures, seed) if baseline else []
    return Evaluation(collection, topics, measures, scores, baseline, comparisons)


def require_gold(topics: Sequence[Topics]) -> None:
    """Raise InputError for topics without gold."""
    if unjudged := [topic.name for topic in topics if not topic.has_gold]:
        raise InputError(
            f"--topics {' '.join(unjudged)}: these topics have no gold to score against; give others, such as dev sets"
        )


def _named(runs: Given | Mapping[str, Given]) -> Mapping[str, Given]:
    if isinstance(runs, Mapping):
        if not runs:
            raise InputError("no runs to evaluate; give a run, or a dict of runs by system name")
        return runs
    return {"run": runs} if isinstance(runs, Run) else {Path(runs).name: runs}


def _topics_of(collection: Collection, topics: str | Topics | Sequence[str | Topics], qids: set[str]) -> list[Topics]:
    """Returns the topics that are named, or otherwise topics of one split that contain all the queries."""
    given = [topics] if isinstance(topics, str | Topics) else list(topics)
    if given:
        names = iter([collection.topics(name) for name in collection.expand([t for t in given if isinstance(t, str)])])
        return [each for each in given if isinstance(each, Topics)] + list(names)
    for split in SPLITS_BY_USE:
        named = [str(name) for name in collection.topics_names if name.split == split]
        found = {name: {query.qid for query in collection.load_topics(name, qids).queries} for name in named}
        found = {name: own for name, own in found.items() if own}
        if qids <= set().union(*found.values()):
            if sum(map(len, found.values())) > len(qids):
                raise InputError(
                    f"the run's queries occur in several topics, {', '.join(found)}; choose some with the argument "
                    "topics"
                )
            return [collection.topics(name) for name in found]
    raise InputError(
        f"no topics of collection {collection.name} contain the run's {len(qids)} queries, such as "
        f"{min(qids, default='')!r}; its topics: {', '.join(map(str, collection.topics_names)) or 'none'}"
    )
