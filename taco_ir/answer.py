"""`python -m taco_ir.answer`: answer questions: retrieve passages, read the answer in one of them, and score it."""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.cli import DENSE_FLAGS, MODEL_FLAGS, Parser, limit_search_flags, model_choice, require_queries, run_verb
from taco_ir.core.files import require_writable
from taco_ir.data.collection import open_collection
from taco_ir.evaluation.measures import Measure, default_measures
from taco_ir.evaluation.scoring import build_table, score_by_default
from taco_ir.evaluation.tables import render
from taco_ir.reading.answering import NAMED_SUFFIX, answer, write_answers
from taco_ir.reading.reader import load_reader
from taco_ir.retrieval.retrievers import Retrievers, as_topics
from taco_ir.retrieval.topic_runs import named_paths

DEFAULT_HITS = 20
RETRIEVAL_MEASURES = (Measure("Rprec"), Measure("recall", 5))


def parser() -> Parser:
    flags = Parser(
        "answer",
        "Answer questions: retrieve passages; then a reader selects one of them and marks the answer in it. "
        "Answers are printed, and scored if the topics have gold answers. With --topics, answers are also written "
        "to KILT files, with the retrieved pages in order, which taco_ir.evaluate can score.",
        ("--topics", "--collection", *MODEL_FLAGS, "--index", "--overwrite", "--format"),
        "python -m taco_ir.answer --topics squad-dev --collection my-wiki --model my-run/model \\\n"
        "      --reader my-reader/model\n"
        '  python -m taco_ir.answer --query "who invented python" --retriever bm25 --reader my-reader/model',
    )
    flags.flag("--query", "answer this one question")
    flags.flag("--task")
    flags.flag(
        "--reader", "folder of a reader model, trained by `taco_ir.train --reading`", required=True, metavar="FOLDER"
    )
    flags.flag("--retriever")
    flags.flag(
        "--with-gold",
        "if no gold passage was retrieved, read a gold passage in place of the last hit. This shows what the "
        "reader could do with perfect retrieval",
        action="store_true",
    )
    flags.flag("--hits", f"how many passages to read for each question [default: {DEFAULT_HITS}]", default=DEFAULT_HITS)
    flags.flag(
        "--output",
        "KILT file to write, or folder for several topics [default: "
        "runs/<collection>/<topics>.<system>.<reader>.answers.jsonl]",
    )
    flags.flag("--quiet", "print only the scores, not the answers", action="store_true")
    # --batch-size also acts with BM25, since the reader uses it
    limit_search_flags(
        flags, ("--quiet", "--format", "--with-gold"), [flag for flag in DENSE_FLAGS if flag != "--batch-size"]
    )
    return flags


def main(argv: Sequence[str]) -> None:
    flags = parser()
    options = flags.parse_args(argv)
    require_queries(options, flags)
    collection = open_collection(options.collection)
    retriever = Retrievers.of(collection, model_choice(options), options.index).select(options.retriever)
    if options.query is not None:
        asked = as_topics(collection, [options.query], options.task)
        retriever.check([asked])
        reader = load_reader(options.reader, options.device, options.batch_size)
        answer(asked, retriever, reader, collection, options.hits, print)
        return
    topics = [collection.topics(name) for name in collection.expand(options.topics)]
    if options.output is not None:
        for path in named_paths(options.output, topics, NAMED_SUFFIX):
            require_writable(path)
    reader = load_reader(options.reader, options.device, options.batch_size)
    how = {"overwrite": options.overwrite, "name": options.reader, "with_gold": options.with_gold}
    given = (topics, retriever, reader, collection, options.hits, None if options.quiet else print)
    runs = write_answers(*given, output=options.output, **how)
    if judged := [pair for pair in zip(topics, runs, strict=True) if pair[0].has_gold]:
        scored, judged_runs = zip(*judged, strict=True)
        measures: Sequence[Measure] = RETRIEVAL_MEASURES
        if not collection.passages.has_pages:  # each passage is one
            measures = default_measures(has_pages=False, short=True)
            judged_runs = [run._replace(level="passage") for run in judged_runs]
        scores = score_by_default(collection, scored, {retriever.name: judged_runs}, measures)
        print()
        print(render(build_table(collection, scored, *scores), options.format), end="")


if __name__ == "__main__":
    run_verb(main)
