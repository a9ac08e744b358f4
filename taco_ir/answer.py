"""`python -m taco_ir.answer`: retrieve passages for questions, read the answers in them, write and score them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import taco_ir
from taco_ir.cli import MODEL_FLAGS, Parser, check_asked, command, limit_asked, run_verb
from taco_ir.core.files import InputError, claimed, write_json
from taco_ir.core.progress import Progress, log
from taco_ir.core.types import Passage, Query, Run
from taco_ir.data.collection import Collection, Topics, open_collection
from taco_ir.evaluation.kilt_pages import page_run
from taco_ir.evaluation.measures import Measure
from taco_ir.evaluation.run_formats import write_kilt
from taco_ir.evaluation.scoring import score_asked, table_of
from taco_ir.evaluation.tables import render
from taco_ir.negatives.rankings import made_of, models_of, record_path, unlike_others

if TYPE_CHECKING:
    from taco_ir.reading.reader import Answer, Reader
    from taco_ir.retrieval.systems import System

DEFAULT_HITS = 20
AT_ONCE = 32  # questions read between two lines of progress
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
    flags.add_argument("--reader", required=True, metavar="DIR", help="a folder that taco_ir.train_reader wrote")
    flags.flag("--retriever")
    flags.flag("--hits", default=DEFAULT_HITS, help=f"passages that are read for each question [default: {DEFAULT_HITS}]")
    flags.flag(
        "--output", help="KILT file, or a folder for several topics [default: runs/<collection>/<topics>.<system>.<reader>.answers.jsonl]"
    )
    flags.add_argument("--quiet", action="store_true", help="do not print the answers, only how they score")
    limit_asked(flags, ("--quiet", "--format"))
    return flags


def main(argv: Sequence[str]) -> None:
    flags = parser()
    options = flags.parse_args(argv)
    check_asked(options, flags)
    from taco_ir.reading.reader import load_reader
    from taco_ir.retrieval.systems import Retrievers, query_topics

    reader = load_reader(options.reader, options.device, options.batch_size)
    collection = open_collection(options.collection)
    system: System = getattr(Retrievers.of(collection, options), options.retriever)
    if options.query is not None:
        answer_topics(query_topics(options), system, reader, collection, options)
        return
    topics_of = [collection.topics(name) for name in collection.expand(options.topics)]
    runs = []
    system.check(topics_of)
    paths = _paths(options, collection, topics_of, system.name, models_of(_record(options, collection, topics_of[0], system, reader)))
    with ExitStack() as held:
        for path in paths:
            held.enter_context(claimed(path, command(options), partial(_refuse_existing, path, options)))
        for topics, path in zip(topics_of, paths, strict=True):
            runs.append(answer_topics(topics, system, reader, collection, options))
            record_path(path).unlink(missing_ok=True)  # so that answers have their own or none
            write_kilt(runs[-1], topics.queries, path)
            write_json(record_path(path), _record(options, collection, topics, system, reader))
            log.info("answers: %s", path)
    if judged := [pair for pair in zip(topics_of, runs, strict=True) if pair[0].judged]:
        _print_scores(options, collection, system.name, *zip(*judged, strict=True))


def answer_topics(topics: Topics, system: System, reader: Reader, collection: Collection, options: Namespace) -> Run:
    """Retrieve, read and print; the run of pages with the answers."""
    run = system.search(topics, options.hits)
    answers: dict[str, str] = {}
    progress = Progress(f"read {topics.name}", len(topics.queries), "questions")
    for done, query, answer, passages in _read(topics, run, reader, collection):
        answers[query.qid] = answer.text if answer else ""
        if not options.quiet:
            print(_shown(query, answer, passages))
        if len(topics.queries) > 1:
            progress.at(done)
    return page_run(run, collection.passages.page_of)._replace(answers=answers)


def _read(
    topics: Topics, run: Run, reader: Reader, collection: Collection
) -> Iterator[tuple[int, Query, Answer | None, Mapping[str, Passage]]]:
    """The number of questions done, a question, its answer, and the passages read for it and its neighbours."""
    for start in range(0, len(topics.queries), AT_ONCE):
        part = topics.queries[start : start + AT_ONCE]
        docids = {query.qid: run.rankings[query.qid].docids if query.qid in run.rankings else [] for query in part}
        passages = collection.passages.get(list(dict.fromkeys(docid for each in docids.values() for docid in each)))
        answers = reader.read([(query.plain_text, [passages[docid] for docid in docids[query.qid]]) for query in part])
        for place, (query, answer) in enumerate(zip(part, answers, strict=True), 1):
            yield start + place, query, answer, passages


def _shown(query: Query, answer: Answer | None, passages: Mapping[str, Passage]) -> str:
    from taco_ir.reading.reader import marked

    if answer is None:
        return f"{query.text}\n  (no passage found)"
    passage = passages[answer.docid]
    evidence = f"{passage.title or '(no title)'} [{answer.docid}]: {marked(passage.text, answer.start, answer.end)}"
    return f"{query.text}\n  {answer.text}  ({answer.score:.3f})\n  {evidence}"


def _paths(options: Namespace, collection: Collection, topics: Sequence[Topics], system: str, made_by: Sequence[str]) -> list[Path]:
    """Where the answers to each of the topics go. Raises: InputError for a file as the output of several topics."""
    from taco_ir.retrieval.systems import model_name

    if options.output is None:
        folder, named = Path("runs") / collection.name, f"{system}.{model_name(options.reader)}"
        return unlike_others([folder / f"{topic.name}.{named}.answers.jsonl" for topic in topics], made_by, ".answers.jsonl")
    output = Path(options.output)
    if output.is_file() and len(topics) > 1:
        raise InputError(f"--output {output} is a file; for {len(topics)} topics give a folder")
    alone = len(topics) == 1 and not options.output.endswith("/") and not output.is_dir()
    return [output] if alone else [output / f"{topic.name}.jsonl" for topic in topics]


def _refuse_existing(path: Path, options: Namespace) -> None:
    """Raise InputError where an output that the user named is there, without --overwrite."""
    if options.output is not None and path.exists() and not options.overwrite:
        raise InputError(f"--output {path} exists; give another name or --overwrite")


def _record(options: Namespace, collection: Collection, topics: Topics, system: System, reader: Reader) -> dict[str, Any]:
    """What made the answers."""
    retrieved = {"system": system.name, "inputs": system.inputs, "hits": options.hits}
    return {"taco_ir": taco_ir.__version__, **made_of(collection, topics), **retrieved, "reader": reader.fingerprint}


def _print_scores(options: Namespace, collection: Collection, system: str, topics: Sequence[Topics], runs: Sequence[Run]) -> None:
    print()
    print(render(table_of(collection, topics, *score_asked(collection, topics, {system: runs}, RETRIEVAL)), options.format), end="")


if __name__ == "__main__":
    run_verb(main)
