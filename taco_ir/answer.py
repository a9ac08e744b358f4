"""`python -m taco_ir.answer`: retrieve passages for questions, read the answers in them, write and score them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from taco_ir.cli import MODEL_FLAGS, OF_DENSE, Parser, check_asked, limit_asked, model_choice, run_verb
from taco_ir.core.files import require_writable
from taco_ir.data.collection import open_collection
from taco_ir.evaluation.measures import Measure
from taco_ir.evaluation.scoring import score_asked, table_of
from taco_ir.evaluation.tables import render
from taco_ir.reading.answering import NAMED_SUFFIX, answer, write_answers
from taco_ir.reading.reader import load_reader
from taco_ir.retrieval.retrievers import Retrievers, query_topics
from taco_ir.retrieval.topic_runs import named_paths

DEFAULT_HITS = 20
RETRIEVAL = (Measure("Rprec"), Measure("recall", 5))


def parser() -> Parser:
    flags = Parser(
        "answer",
        "Answer questions: retrieve passages, let a reader select one and mark the answer in it, print it, and score it where the topics have\n"
        "answers. Writes KILT files (answer, and the pages in the order of the retrieval), which taco_ir.evaluate scores as well.",
        ("--topics", "--collection", *MODEL_FLAGS, "--index", "--overwrite", "--format"),
        "python -m taco_ir.answer --topics squad-dev --collection my-wiki --model my-run/model --reader my-reader/model\n"
        '  python -m taco_ir.answer --query "who wrote the cello suites" --retriever bm25 --reader my-reader/model',
    )
    flags.flag("--query", help="answer this one question")
    flags.flag("--task")
    flags.add_argument(
        "--reader", required=True, metavar="DIR", help="a folder that taco_ir.train wrote with --reading"
    )
    flags.flag("--retriever")
    flags.flag(
        "--hits", default=DEFAULT_HITS, help=f"passages that are read for each question [default: {DEFAULT_HITS}]"
    )
    flags.flag(
        "--output",
        help="KILT file, or a folder for several topics [default: runs/<collection>/<topics>.<system>.<reader>.answers.jsonl]",
    )
    flags.add_argument("--quiet", action="store_true", help="do not print the answers, only how they score")
    limit_asked(
        flags, ("--quiet", "--format"), [flag for flag in OF_DENSE if flag != "--batch-size"]
    )  # the reader has batches, too
    return flags


def main(argv: Sequence[str]) -> None:
    flags = parser()
    options = flags.parse_args(argv)
    check_asked(options, flags)
    collection = open_collection(options.collection)
    retriever = Retrievers.of(collection, model_choice(options), options.index).named(options.retriever)
    if options.query is not None:
        asked = query_topics(options.query, options.task)
        retriever.check([asked])
        reader = load_reader(options.reader, options.device, options.batch_size)
        answer(asked, retriever, reader, collection, options.hits, print)
        return
    topics = [collection.topics(name) for name in collection.expand(options.topics)]
    if options.output is not None:
        for path in named_paths(options.output, topics, NAMED_SUFFIX):
            require_writable(path)
    reader = load_reader(options.reader, options.device, options.batch_size)
    named = partial(write_answers, output=options.output, overwrite=options.overwrite, name=options.reader)
    runs = named(topics, retriever, reader, collection, options.hits, None if options.quiet else print)
    if judged := [pair for pair in zip(topics, runs, strict=True) if pair[0].judged]:
        scored, judged_runs = zip(*judged, strict=True)
        print()
        print(
            render(
                table_of(
                    collection, scored, *score_asked(collection, scored, {retriever.name: judged_runs}, RETRIEVAL)
                ),
                options.format,
            ),
            end="",
        )


if __name__ == "__main__":
    run_verb(main)
