"""`python -m taco_ir.search`: rank passages for topics or for one query, write the run, and show how it scores."""

from __future__ import annotations

import sys
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import taco_ir
from taco_ir.cli import MODEL_FLAGS, Parser, check_asked, limit_asked, run_verb
from taco_ir.core.files import InputError, claimed, read_json, write_json
from taco_ir.core.progress import log, timed
from taco_ir.core.types import Run, write_trec
from taco_ir.data.collection import Collection, Topics, open_collection
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.negatives.rankings import made_of, record_path, unlike_others

if TYPE_CHECKING:
    from taco_ir.retrieval.systems import Retrievers, System

FORMATS = {"trec": ".trec", "kilt": ".jsonl", "msmarco": ".tsv"}
COMPARED_UP_TO = 1_000_000  # passages for which a BM25 index is built unasked
TIES_WORTH_A_WORD = 0.01
DEFAULT_HITS, SHOWN_HITS = 100, 10
SUMMARY = ("Rprec", "recall@5", "MRR@10", "R@20")


def parser() -> Parser:
    flags = Parser(
        "search",
        "Search a collection for topics, write a run file for each, and print how well it does beside BM25 and their hybrid;\n"
        "or search for one query and print its hits. Indexes are built on first use and kept.",
        ("--topics", "--collection", *MODEL_FLAGS, "--index", "--overwrite", "--format"),
        "python -m taco_ir.search --topics nq-dev fever-dev --collection my-wiki --output runs/mine/\n"
        '  python -m taco_ir.search --query "which bach wrote the cello suites" --task nq',
    )
    flags.flag("--query", help="search for this one query and print the hits")
    flags.flag("--task")
    flags.flag("--retriever")
    flags.flag("--hits", default=None, help=f"hits for each query [default: {DEFAULT_HITS}; {SHOWN_HITS} with --query]")
    flags.flag("--output", help="run file, or a folder for several topics [default: runs/<collection>/<topics>.<system>.trec]")
    flags.add_argument("--output-format", choices=tuple(FORMATS), default="trec", help="kilt: pages, for KILT's scorer [default: trec]")
    flags.add_argument(
        "--compare",
        action=BooleanOptionalAction,
        help=f"score BM25 and the hybrid as well [default: with dense and up to {COMPARED_UP_TO:,} passages, or where the BM25 index exists]",
    )
    limit_asked(flags, ("--output-format", "--compare", "--no-compare"))
    return flags


def main(argv: Sequence[str]) -> None:
    flags = parser()
    options = flags.parse_args(argv)
    check_asked(options, flags)
    collection = open_collection(options.collection)
    if options.query is not None:
        show_hits(options, collection)
        return
    from taco_ir.retrieval.systems import Retrievers

    topics = [collection.topics(name) for name in collection.expand(options.topics)]
    retrievers = Retrievers.of(collection, options)
    paths = run_paths(options, collection, topics, retrievers)
    records = [record(options, collection, topic) for topic in topics]
    with ExitStack() as held:
        for path, asked in zip(paths, records, strict=True):
            held.enter_context(claimed(path, asked, partial(refuse_foreign, path, asked, options)))
        runs = search_topics(options, collection, retrievers, topics, paths, records)
    judged = [topic.judged for topic in topics]
    if any(judged):
        print_scores(options, collection, list(compress(topics, judged)), list(compress(runs, judged)))


def search_topics(
    options: Namespace,
    collection: Collection,
    retrievers: Retrievers,
    topics: Sequence[Topics],
    paths: Sequence[Path],
    records: Sequence[dict[str, Any]],
) -> list[dict[str, Run]]:
    """Search, write and report each of the topics; the runs of each by system, the chosen one first."""
    chosen: System = getattr(retrievers, options.retriever)
    compare = options.compare
    if compare is None:
        compare = chosen is retrievers.dense and (retrievers.bm25.built or collection.passages.count <= COMPARED_UP_TO)
    results: list[dict[str, Run]] = []
    chosen.check(topics)
    if compare:
        retrievers.hybrid.check([topic for topic in topics if topic.judged])
    made_of = {"system": chosen.name, "inputs": chosen.inputs}
    for path in paths:
        if record_path(path).is_file():  # else it was stopped before its record was written
            refuse_foreign(path, made_of, options)
    for topic, path, asked in zip(topics, paths, records, strict=True):
        hits = asked["hits"]
        with timed() as seconds:
            found = chosen.search_with_parts(topic, hits)
        took = seconds()
        runs = {chosen.name: found[chosen.name]}
        record_path(path).unlink(missing_ok=True)  # so that a run has its own or none
        write_run(options.output_format, runs[chosen.name], path, topic, collection, chosen.name)
        write_json(record_path(path), asked | made_of | {"seconds": round(took, 3)})
        report(topic, collection, chosen.name, path, took)
        if compare and topic.judged:
            runs |= retrievers.hybrid.completed(found, topic, hits)
        for name, run in runs.items():
            if run.tied_share > TIES_WORTH_A_WORD:
                log.warning(
                    "%s with %s: %.1f %% of neighbouring scores are equal; ties are ordered by docid, descending",
                    topic.name,
                    name,
                    100 * run.tied_share,
                )
        results.append(runs)
    if chosen is not retrievers.bm25 and (cut := retrievers.dense.encoder.truncated):
        log.warning("%d queries were longer than the model's limit and cut", cut)
    return results


def report(topic: Topics, collection: Collection, system: str, path: Path, seconds: float) -> None:
    queries = len(topic.queries)
    log.info(
        "searched %s passages of %s for %s topics of %s with %s: %.2f s, %.0f topics/s",
        f"{collection.passages.count:,}",
        collection.name,
        f"{queries:,}",
        topic.name,
        system,
        seconds,
        queries / seconds,
    )
    log.info("run file: %s", path)


def print_scores(options: Namespace, collection: Collection, topics: Sequence[Topics], results: Sequence[dict[str, Run]]) -> None:
    from taco_ir.evaluation.measures import Measure
    from taco_ir.evaluation.scoring import score_table

    measures = [Measure.parse(name) for name in SUMMARY]
    named = {system: [runs[system] for runs in results] for system in results[0] if all(system in runs for runs in results)}
    print()
    print(score_table(collection, topics, named, measures, options.format), end="")


def run_paths(options: Namespace, collection: Collection, topics: Sequence[Topics], retrievers: Retrievers) -> list[Path]:
    """Where each run goes; a default name that holds another model's run gets a hash, and so does the system.

    Raises:
        InputError: for a file as the output of several topics.
    """
    suffix = FORMATS[options.output_format]
    if options.output is None:
        chosen: System = getattr(retrievers, options.retriever)
        plain = [Path("runs") / collection.name / f"{topic.name}.{chosen.name}{suffix}" for topic in topics]
        if chosen is retrievers.bm25 or not any(path.exists() for path in plain):
            return plain
        paths = unlike_others(plain, [retrievers.dense.encoder.fingerprint], suffix)
        chosen.name = paths[0].name.removesuffix(suffix).removeprefix(f"{topics[0].name}.")
        return paths
    output = Path(options.output)
    if len(topics) == 1 and not options.output.endswith("/") and not output.is_dir():
        return [output]
    if output.is_file():
        raise InputError(f"--output {output} is a file; for {len(topics)} topics give a folder")
    return [output / f"{topic.name}{suffix}" for topic in topics]


def record(options: Namespace, collection: Collection, topic: Topics) -> dict[str, Any]:
    """What was asked for: a run that exists with an equal record may be written again."""
    return {
        "taco_ir": taco_ir.__version__,
        **made_of(collection, topic),
        "retriever": options.retriever,
        "flags": {name: getattr(options, name) for name in ("model", "pooling", "normalize", "prompt", "precision", "index")},
        "hits": options.hits or DEFAULT_HITS,
        "format": options.output_format,
    }


def refuse_foreign(path: Path, wanted: Mapping[str, Any], options: Namespace) -> None:
    """Raise InputError where the user named an output whose record differs from `wanted`; default names hold the latest run of a model."""
    if options.output is None or options.overwrite or not path.exists():
        return
    found = read_json(record_path(path)) if record_path(path).is_file() else {}
    differing = [key for key, value in wanted.items() if found.get(key) != value]
    if differing:
        raise InputError(
            f"--output {path} exists and was made otherwise ({', '.join(differing) if found else 'it has no record'}); give another name or --overwrite"
        )


def write_run(form: str, run: Run, path: Path, topic: Topics, collection: Collection, tag: str) -> None:
    from taco_ir.evaluation.kilt_pages import page_run
    from taco_ir.evaluation.run_formats import write_kilt, write_msmarco

    if form == "trec":
        write_trec(run, path, tag)
    elif form == "kilt":
        write_kilt(page_run(run, collection.passages.page_of), topic.queries, path)
    else:
        write_msmarco(run, path)


def show_hits(options: Namespace, collection: Collection) -> None:
    """Print ranked hits of one query: title, score, docid, and a snippet with the query's words marked; or a table of them."""
    from taco_ir.retrieval.snippets import snippet
    from taco_ir.retrieval.systems import Retrievers, query_topics

    system: System = getattr(Retrievers.of(collection, options), options.retriever)
    run = system.search(query_topics(options), options.hits or SHOWN_HITS)
    ranking = run.rankings["query"]
    passages = collection.passages.get(ranking.docids)
    if options.format != "table":
        rows: list[list[Cell]] = [
            [rank, float(score), docid, passages[docid].title, passages[docid].text]
            for rank, (docid, score) in enumerate(zip(ranking.docids, ranking.scores, strict=True), 1)
        ]
        print(render(Table(options.query, ["rank", "score", "docid", "title", "text"], rows), options.format), end="")
        return
    marks = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("*", "*")
    for rank, (docid, score) in enumerate(zip(ranking.docids, ranking.scores, strict=True), 1):
        passage = passages[docid]
        print(f"{rank:>3}  {score:.4f}  {passage.title or '(no title)'}  [{docid}]")
        print(f"     {snippet(options.query, passage.text, marks=marks)}")


if __name__ == "__main__":
    run_verb(main)
