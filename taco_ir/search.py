"""`python -m taco_ir.search`: rank passages for topics or one query, write the run, and score it."""

from __future__ import annotations

from argparse import BooleanOptionalAction, Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import compress
from pathlib import Path

from taco_ir.cli import (
    DENSE_FLAGS,
    ENGINE_FLAGS,
    HERE,
    MODEL_FLAGS,
    Parser,
    byte_count,
    engine_choice,
    limit_engine_flags,
    limit_search_flags,
    model_choice,
    require_queries,
    run_verb,
    share,
)
from taco_ir.core.processes import log
from taco_ir.core.types import Query, Run
from taco_ir.data.collection import Collection, Topics, open_collection
from taco_ir.encoders.light_imports import prefer_light_imports
from taco_ir.evaluation.measures import default_measures, score_run
from taco_ir.evaluation.scoring import score_table
from taco_ir.evaluation.significance import SIGNIFICANT, paired_test
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.retrieval.choices import COMPARED_UP_TO, DENSE, FUSION, RUN_SUFFIXES, SearchRequest, Streamed
from taco_ir.retrieval.chosen_weights import ChosenWeights
from taco_ir.retrieval.fusion import OF_MODEL, WEIGHTS_FILE
from taco_ir.retrieval.retriever import Retriever
from taco_ir.retrieval.retrievers import BM25Retriever
from taco_ir.retrieval.topic_runs import search_shard, search_topics
from taco_ir.retrieval.vectors import Shard
from taco_ir.serving import HELP, ask, show_hits, typed_lines

DEFAULT_HITS, SHOWN_HITS = 100, 10


def parser() -> Parser:
    flags = Parser(
        "search",
        "Search a collection: rank passages for topics and write a run file for each, or print the hits of one "
        "query. If the topics have gold, the run is scored and compared with BM25 and a hybrid of both. Indexes "
        "are built on first use and kept.",
        ("--topics", "--collection", *MODEL_FLAGS, "--index", "--overwrite", "--format", *ENGINE_FLAGS),
        "python -m taco_ir.search --topics nq-dev fever-dev --collection my-wiki --output runs/mine/\n"
        '  python -m taco_ir.search --query "who invented python" --task nq\n'
        "  python -m taco_ir.search --serve 8000",
    )
    flags.flag(
        "--vectors",
        "search the vectors that `python -m taco_ir.encode` wrote, exactly and without an index. They are read "
        "from disk once for all topics. If you stop the search, the same command continues",
        metavar="FOLDER",
    )
    flags.flag(
        "--recall",
        "for HNSW and IVF indexes: make searches find this share of the exact best hits, such as .95. How far a "
        "search must look is measured on a sample of the queries, and kept with the index",
        type=share,
        metavar="R",
    )
    memory = "with --vectors: how much memory to use, such as 4GB [default: half of what is free]"
    flags.flag("--memory", memory, type=byte_count, metavar="AMOUNT")
    flags.flag(
        "--shard",
        "with --vectors: split the vectors into n equal parts and search only part i; afterwards, the same "
        "command without --shard combines the results of all parts",
        metavar="i/n",
    )
    flags.flag("--qrels", type=Path)
    flags.flag("--query", "search for this one query and print the hits")
    flags.flag("--task")
    flags.flag("--retriever")
    flags.flag(
        "--interactive",
        "read queries from the terminal or a pipe, one per line, and keep the encoder and the index loaded",
        action="store_true",
    )
    flags.flag(
        "--serve",
        "open a search page on this port of this machine (0: any free port). It shows dense, BM25 and hybrid "
        "results side by side, and marks gold passages for queries of the dev sets",
        type=int,
        metavar="PORT",
    )
    flags.flag(
        "--hits",
        f"how many passages to return for each query [default: {DEFAULT_HITS}; {SHOWN_HITS} for single queries]",
        default=None,
    )
    output = "run file to write, or folder for several topics [default: runs/<collection>/<topics>.<system>.trec]"
    flags.flag("--output", output)
    formats = tuple(RUN_SUFFIXES)
    kinds = (
        "format of the run file. kilt: ranks pages, for KILT's scorer. dpr: DPR's JSON, with texts and "
        "has_answer [default: trec]"
    )
    flags.flag("--output-format", kinds, choices=formats, default="trec")
    flags.flag(
        "--compare",
        "also search with BM25 and the hybrid, and score all three. Without --output, all three runs are written "
        f"[default: on for dense search of up to {COMPARED_UP_TO:,} passages, or if a BM25 index exists]",
        action=BooleanOptionalAction,
    )
    flags.flag(
        "--hybrid-weights",
        "fuse dense and BM25 scores, not ranks, with the weight for each task from this file (written by "
        f"--choose-weights). {OF_MODEL}: use the weights in the model's folder, such as taco-mini's",
        metavar="FILE",
    )
    flags.flag(
        "--choose-weights",
        f"choose the hybrid's weight for each task on these topics, and write {WEIGHTS_FILE} to the folder of the "
        "runs. The topics need gold. Use train topics, not the topics that you report",
        action="store_true",
    )
    of_topics = ("--qrels", "--output-format", "--choose-weights", "--recall")
    of_dense = (*DENSE_FLAGS, "--vectors", "--recall")
    limit_search_flags(flags, of_topics, of_dense, single="--query or --interactive")
    flags.only(("--recall",), lambda options: options.index is not None, "--index")
    limit_engine_flags(flags)
    flags.only(
        ("--engine",), lambda options: options.vectors is not None and not options.shard, "--vectors, all shards"
    )
    alone = "--topics or --query, since all vectors are read for each search"
    flags.only(("--vectors",), lambda options: bool(options.topics) or options.query is not None, alone)
    flags.only(("--memory", "--shard"), lambda options: options.vectors is not None, "--vectors")
    flags.only(("--shard",), lambda options: bool(options.topics), "--topics")
    flags.only(("--index",), lambda options: options.vectors is None, "a search of an index, without --vectors")
    writes = ("--output", "--output-format", "--overwrite", "--format", "--qrels", "--choose-weights")
    flags.only(writes, lambda options: options.shard is None, "a search that writes runs, without --shard")
    flags.only(("--format",), lambda options: options.serve is None, "printed results, without --serve")
    flags.only(
        ("--compare", "--no-compare"),
        lambda options: bool(options.topics) or options.serve is not None,
        "--topics or --serve",
    )
    flags.only(
        ("--hybrid-weights",),
        lambda options: (
            options.retriever == FUSION
            or (options.compare is not False and (bool(options.topics) or options.serve is not None))
        ),
        "--retriever hybrid, or with --compare",
    )
    chooses = "--retriever dense, without --no-compare and --hybrid-weights"
    flags.only(
        ("--choose-weights",),
        lambda options: options.retriever == DENSE and options.compare is not False and not options.hybrid_weights,
        chooses,
    )
    return flags


def main(argv: Sequence[str]) -> None:
    flags = parser()
    options = flags.parse_args(argv)
    require_queries(options, flags)
    hits = options.hits or (DEFAULT_HITS if options.topics else SHOWN_HITS)
    model = model_choice(options)
    index = options.index
    if options.vectors is not None:
        shard = Shard.parse(options.shard or "1/1")
        engine = None if options.engine == HERE else partial(engine_choice, options)
        index = Streamed(options.vectors, options.memory, shard, model.device, engine)
    compare = True if options.choose_weights else options.compare
    more = (options.output_format, compare, options.hybrid_weights, options.recall)
    request = SearchRequest(model, options.retriever, index, hits, *more)
    collection = open_collection(options.collection)
    prefer_light_imports()
    if not options.topics:
        answer(request, collection, options)
        return
    topics = [collection.topics(name) for name in collection.expand(options.topics)]
    if options.qrels:
        topics = collection.judge(topics, options.qrels)
    if options.shard:
        search_shard(request, collection, topics)
        return
    chosen = ChosenWeights.of(request, collection, topics, options.output) if options.choose_weights else None
    with chosen.claim(options.overwrite or options.output is None) if chosen else nullcontext():
        runs = search_topics(request, collection, topics, options.output, options.overwrite)
        judged = [topic.has_gold for topic in topics]
        if any(judged):
            print_scores(collection, list(compress(topics, judged)), list(compress(runs, judged)), options.format)
        if chosen:
            choose_weights(
                chosen, collection, list(compress(topics, judged)), list(compress(runs, judged)), options.format
            )


def choose_weights(
    chosen: ChosenWeights, collection: Collection, topics: Sequence[Topics], runs: Sequence[dict[str, Run]], form: str
) -> None:
    """Choose the hybrid's weights by the collection's first measure, write them, and print their scores as `form`."""
    measure = default_measures(collection.passages.has_pages)[0]

    def score(run: Run, queries: Sequence[Query]) -> dict[str, float]:
        return score_run(run, queries, collection.passages.page_of, [measure]).by_query[measure] or {}

    weights = chosen.choose(topics, runs, str(measure), score, paired_test)
    rows: list[list[Cell]] = [[task, *own[:5]] for task, own in weights.tasks.items()]
    header = ["task", "weight of dense", "queries", "weighted hybrid", "dense", "BM25"]
    print()
    print(render(Table(f"{measure} of the queries that the weights were chosen on", header, rows), form), end="")
    print(chosen.path)
    for task, own in weights.tasks.items():
        if doubts := own.doubts(SIGNIFICANT):
            log.warning("%s, weight chosen on %d queries: %s", task, own.queries, "; ".join(doubts))


def print_scores(
    collection: Collection, topics: Sequence[Topics], results: Sequence[dict[str, Run]], form: str
) -> None:
    measures = default_measures(collection.passages.has_pages, short=True)
    named = {name: [runs[name] for runs in results] for name in results[0] if all(name in runs for runs in results)}
    print()
    print(score_table(collection, topics, named, measures, form), end="")


def answer(request: SearchRequest, collection: Collection, options: Namespace) -> None:
    """Answer single queries: from --query, from the terminal, or on a web page."""
    together = request.retriever
    if options.serve is not None and together == DENSE:
        side_by_side = BM25Retriever(collection).at_hand if options.compare is None else options.compare
        together = FUSION if side_by_side else DENSE
    retriever = Retriever(
        collection,
        request.model,
        retriever=together,
        index=options.index,
        vectors=request.index if isinstance(request.index, Streamed) else None,
        weights=request.hybrid_weights,
        tasks=[options.task] if options.query is not None or options.task else [],  # []: each query names its task
    )
    if options.serve is not None:
        from taco_ir.serving.page import SearchPage, serve

        serve(SearchPage(retriever, request.hits), options.serve)
    elif options.interactive:
        log.info(HELP)
        show = partial(show_hits, options.format)
        ask(retriever, options.task, request.hits, show, typed_lines("query> "))
    else:
        show_hits(options.format, options.query, retriever.search(options.query, options.task, request.hits))


if __name__ == "__main__":
    run_verb(main)
