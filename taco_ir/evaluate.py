"""`python -m taco_ir.evaluate`: score run files at page and passage level, and test them against a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import Parser, run_verb
from taco_ir.core.files import InputError
from taco_ir.core.processes import collector_paused, log
from taco_ir.data.collection import Collection, Topics, judged_topics, open_collection
from taco_ir.evaluation.measures import Measure, default_measures
from taco_ir.evaluation.run_files import (
    RunFile,
    list_run_files,
    read_run_files,
    refuse_foreign_docids,
    sort_by_system,
    warn_of_unjudged,
)
from taco_ir.evaluation.scoring import build_query_rows, build_table, compare_with, score, score_by_default, title
from taco_ir.evaluation.significance import SIGNIFICANT, Comparison
from taco_ir.evaluation.tables import Cell, PValue, Table, render, render_all
from taco_ir.retrieval.topic_runs import find_foreign, read_record


def parser() -> Parser:
    flags = Parser(
        "evaluate",
        "Score run files (TREC, KILT or MS MARCO). Page level: KILT's measures over evidence sets, of the pages of "
        "the ranked passages. Passage level: trec_eval's measures. For KILT files with answers also the measures that "
        "KILT uses for the task (EM and F1 for questions, F1 and ROUGE-L for dialogue and long answers, accuracy for "
        "the others) and their KILT- versions, which count an answer only where R-precision is 1. Files named "
        "<topics>.<system>.trec, or a folder of <topics>.trec files, are one system over several topics. With --qrels "
        "FILE and no --topics no collection is needed. --measures takes any name of ir_measures, such as AP.",
        ("--collection", "--measures", "--seed", "--format"),
        "python -m taco_ir.evaluate runs/sample/*.trec --topics all-dev --baseline runs/sample/nq-dev.bm25.trec",
    )
    flags.flag("runs", "run files, or folders of them", nargs="+", metavar="RUN", type=Path)
    flags.flag("--topics")
    flags.flag("--qrels", type=Path)
    flags.flag(
        "--baseline",
        "test every system against this one: paired randomisation test, Holm's correction over the rows of a measure",
        nargs="+",
        type=Path,
        metavar="RUN",
    )
    flags.flag("--per-query", "print a line for each query instead of means", action="store_true")
    seeded = "--baseline, without --per-query"
    flags.only(("--collection", "--columns"), lambda options: bool(options.topics), "--topics")
    flags.only(("--seed",), lambda options: bool(options.baseline) and not options.per_query, seeded)
    return flags


@collector_paused()  # scoring makes millions of strings and no cycles
def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    measures = list(dict.fromkeys(map(Measure.parse, options.measures or ())))
    collection = open_collection(options.collection) if options.topics else None
    topics = topics_asked(collection, options.topics, options.qrels)
    if unjudged := [topic.name for topic in topics if not topic.has_gold]:
        raise InputError(f"--topics {' '.join(unjudged)}: no evidence to score against (a test split has none)")
    files = read_run_files([*(options.baseline or []), *options.runs], topics, some=bool(options.qrels))
    has_pages = bool(collection and collection.passages.has_pages)
    if not has_pages:
        files = {real: file.of_passages() for real, file in files.items()}
    for file in files.values():
        if collection:
            check_file(file, collection, topics)
        else:
            warn_of_unjudged(file, topics)
    page_of = collection.passages.page_of_known if collection else None  # refuse_foreign_docids looked all docids up
    baseline = list(dict.fromkeys(files[file].system for file in list_run_files(options.baseline or [])))
    if len(baseline) > 1:
        raise InputError(f"--baseline names {len(baseline)} systems ({', '.join(baseline)}); give the files of one")
    systems = sort_by_system(files.values(), topics)
    runs = {name: [of_system[topic.name] for topic in topics] for name, of_system in systems.items()}
    if measures:
        scores = score(collection, topics, runs, measures, page_of)
    else:
        scores, measures = score_by_default(collection, topics, runs, default_measures(has_pages), page_of)
    if options.per_query:
        header = ["topics", "system", "query", *map(str, measures)]
        rows = build_query_rows(topics, scores, measures)
        print(render(Table(title(collection), header, rows), options.format), end="")
        return
    comparisons = compare_with(topics, scores, baseline[0], measures, options.seed) if baseline else []
    tables = [build_table(collection, topics, scores, measures, comparisons)]
    if baseline:
        tables.append(comparison_table(baseline[0], comparisons))
    print(render_all(tables, options.format), end="")


def topics_asked(collection: Collection | None, names: Sequence[str], qrels: Path | None) -> list[Topics]:
    """Topics of the collection, with their own gold or that of a file; without a collection the queries of the file."""
    if collection is None:
        if qrels is None:
            raise InputError("give --topics of a collection, --qrels FILE, or both")
        return [judged_topics(qrels)]
    topics = [collection.topics(name) for name in collection.expand(names)]
    return collection.judge(topics, qrels) if qrels else topics


def check_file(file: RunFile, collection: Collection, topics: Sequence[Topics]) -> None:
    """Warn of a run that was made of other passages or queries, and refuse one with docids that there are not."""
    for run in file.runs.values():
        refuse_foreign_docids(run, collection, file.path)
    record = read_record(file.path)
    for difference in dict.fromkeys(find_foreign(record, collection, topic) for topic in topics):
        if difference:
            log.warning("%s: %s; it is scored as it is, search again to be sure", file.path, difference)


def comparison_table(baseline: str, comparisons: Sequence[Comparison]) -> Table:
    caption = (
        f"against {baseline}: paired randomisation test, p after Holm over the rows of each measure "
        f"(* below {SIGNIFICANT}), 95 % bootstrap interval"
    )
    rows: list[list[Cell]] = [
        [c.topics, c.system, c.measure, c.difference, c.low, c.high, PValue(c.p), PValue(c.p_holm)] for c in comparisons
    ]
    return Table(caption, ["topics", "system", "measure", "difference", "from", "to", "p", "p Holm"], rows)


if __name__ == "__main__":
    run_verb(main)
