"""`python -m taco_ir.evaluate`: score run files at page and passage level, and test them against a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from taco_ir.cli import Parser, run_verb
from taco_ir.core.files import InputError
from taco_ir.core.processes import collector_paused, log
from taco_ir.data.collection import Collection, Topics, judged_topics, open_collection
from taco_ir.evaluation.evaluating import evaluate_files, require_gold
from taco_ir.evaluation.measures import Measure
from taco_ir.evaluation.run_files import RunFile, list_run_files, read_run_files
from taco_ir.evaluation.tables import render_all
from taco_ir.retrieval.topic_runs import find_foreign, read_record


def parser() -> Parser:
    flags = Parser(
        "evaluate",
        "Score run files (TREC, KILT or MS MARCO). Page level: each passage stands for its page, and pages are "
        "scored by KILT's measures over evidence sets. Passage level: trec_eval's measures. KILT files with "
        "answers are also scored by the task's answer measures (EM and F1 for questions, F1 and ROUGE-L for "
        "dialogue and long answers, accuracy for the others) and by their KILT- versions, which count an answer "
        "only if R-precision is 1. Files named <topics>.<system>.trec, or <topics>.trec files in one folder, are "
        "runs of one system on several topics. With --qrels FILE but no --topics, no collection is needed. "
        "--measures accepts any measure name of ir_measures, such as AP.",
        ("--collection", "--measures", "--seed", "--format"),
        "python -m taco_ir.evaluate runs/sample/*.trec --topics all-dev --baseline runs/sample/nq-dev.bm25.trec",
    )
    flags.flag("runs", "run files, or folders of run files", nargs="+", metavar="RUN", type=Path)
    flags.flag("--topics")
    flags.flag("--qrels", type=Path)
    flags.flag(
        "--baseline",
        "test every system against this one, with a paired randomisation test and Holm's correction over all "
        "systems and topics of a measure",
        nargs="+",
        type=Path,
        metavar="RUN",
    )
    flags.flag("--per-query", "print the scores of each query instead of means", action="store_true")
    seeded = "--baseline, without --per-query"
    flags.only(("--collection", "--columns"), lambda options: bool(options.topics), "--topics")
    flags.only(("--seed",), lambda options: bool(options.baseline) and not options.per_query, seeded)
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    measures = list(map(Measure.parse, options.measures or ()))
    collection = open_collection(options.collection) if options.topics else None
    topics = topics_asked(collection, options.topics, options.qrels)
    require_gold(topics)
    with collector_paused():
        files = read_run_files([*(options.baseline or []), *options.runs], topics, some=bool(options.qrels))
    if collection:
        warn_of_changes(files.values(), collection, topics)
    baseline = list(dict.fromkeys(files[file].system for file in list_run_files(options.baseline or [])))
    if len(baseline) > 1:
        raise InputError(
            f"--baseline names {len(baseline)} systems ({', '.join(baseline)}); give the files of only one system"
        )
    tested = "".join(baseline) if not options.per_query else ""
    found = evaluate_files(files.values(), collection, topics, measures, tested, options.seed)
    tables = [found.query_table() if options.per_query else found.table()]
    if tested:
        tables.append(found.comparison_table())
    print(render_all(tables, options.format), end="")


def topics_asked(collection: Collection | None, names: Sequence[str], qrels: Path | None) -> list[Topics]:
    """Returns a collection's topics, or without a collection those of `qrels`; if `qrels` is given, it is the gold."""
    if collection is None:
        if qrels is None:
            raise InputError("give --topics of a collection, --qrels FILE, or both")
        return [judged_topics(qrels)]
    topics = [collection.topics(name) for name in collection.expand(names)]
    return collection.judge(topics, qrels) if qrels else topics


def warn_of_changes(files: Iterable[RunFile], collection: Collection, topics: Sequence[Topics]) -> None:
    """Log a warning for each run that was made with other passages or queries than the collection and topics have."""
    for file in files:
        record = read_record(file.path)
        for difference in dict.fromkeys(find_foreign(record, collection, topic) for topic in topics):
            if difference:
                log.warning("%s: %s; the run is scored as it is, search again to be sure", file.path, difference)


if __name__ == "__main__":
    run_verb(main)
