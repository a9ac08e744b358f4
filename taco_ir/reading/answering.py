"""Answers questions: retrieves passages, has a reader mark the answer in one of them, and writes KILT files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import taco_ir
from taco_ir.core.files import write_json
from taco_ir.core.outputs import claim_output, refuse_other
from taco_ir.core.processes import Progress, log
from taco_ir.core.run_formats import page_run, write_kilt
from taco_ir.core.types import Passage, Query, Ranking, Run
from taco_ir.data.collection import Collection, Topics
from taco_ir.data.gold import find_positives
from taco_ir.data.topics import unique
from taco_ir.reading.answer_spans import answer_forms, find_spans
from taco_ir.reading.reader import Answer, Reader, mark_span
from taco_ir.retrieval.choices import model_name
from taco_ir.retrieval.retrievers import Ranker
from taco_ir.retrieval.topic_runs import (
    default_folder,
    made_of,
    models_of,
    named_paths,
    read_record,
    record_path,
    unlike_others,
)

AT_ONCE = 32  # questions read between two lines of progress
SUFFIX, NAMED_SUFFIX = ".answers.jsonl", ".jsonl"  # of default names, and in a folder that the user names
Tell = Callable[[str], object]  # shows an answer with its passage


def answer(
    topics: Topics,
    retriever: Ranker,
    reader: Reader,
    collection: Collection,
    hits: int,
    tell: Tell | None,
    with_gold: bool = False,
) -> Run:
    """Retrieve `hits` passages for each question and read them; returns a run of pages with answers.

    Args:
        tell: is called with each answer and its passage as text; None: show nothing, no progress either.
        with_gold: if no gold passage was retrieved, read a gold passage instead of the last hit. The run stays as is.
    """
    run = retriever.search(topics, hits)
    gold = find_gold(collection, topics.queries) if with_gold else {}
    answers: dict[str, str] = {}
    progress = Progress(f"read {topics.name}", len(topics.queries), "questions")
    for done, query, found, passages in _read(topics, run, reader, collection, gold):
        answers[query.qid] = found.text if found else ""
        if tell:
            tell(_format_answer(query, found, passages))
            if len(topics.queries) > 1:
                progress.at(done)
    return page_run(run, collection.passages.page_of)._replace(answers=answers)


def write_answers(
    topics: Sequence[Topics],
    retriever: Ranker,
    reader: Reader,
    collection: Collection,
    hits: int,
    tell: Tell | None,
    *,
    output: str | None,
    overwrite: bool,
    name: str,
    with_gold: bool = False,
) -> list[Run]:
    """Answer the questions of topics, and write the answers as KILT files, each with a record; returns page runs.

    Args:
        tell, with_gold: as in `answer`.
        output: a file, or a folder for several topics; None: default names in `runs`, which are overwritten.
        name: folder of the reader.

    Raises:
        InputError: for an output made from something else (without `overwrite`).
    """
    maker: dict[str, Any] = {"system": retriever.name, "hits": hits, "reader": reader.fingerprint}
    maker["with_gold"] = with_gold or None  # records that were made before it have none
    paths = [] if output is None else named_paths(output, topics, NAMED_SUFFIX)
    if not overwrite:
        for each, path in zip(topics, paths, strict=False):  # before an index is built
            if path.exists() and (found := read_record(path)):
                refuse_other(path, found, {**made_of(collection, each), **maker})
    retriever.check(topics)
    maker["inputs"] = retriever.inputs
    records = [{"taco_ir": taco_ir.__version__, **made_of(collection, each), **maker} for each in topics]
    if output is None:
        named = f"{retriever.name}.{model_name(name)}{SUFFIX}"
        plain = [default_folder(collection) / f"{each.name}.{named}" for each in topics]
        paths = unlike_others(plain, models_of(records[0]), SUFFIX)
    runs = []
    with ExitStack() as claims:
        for path, record in zip(paths, records, strict=True):
            read = partial(read_record, path)
            claims.enter_context(claim_output(path, record, overwrite or output is None, resume=True, record=read))
        for each, path, record in zip(topics, paths, records, strict=True):
            runs.append(answer(each, retriever, reader, collection, hits, tell, with_gold))
            record_path(path).unlink(missing_ok=True)  # so that answers have their own or none
            write_kilt(runs[-1], each.queries, path)
            write_json(record_path(path), record)
            log.info("answers: %s", path)
    return runs


def find_gold(collection: Collection, queries: Sequence[Query]) -> dict[str, str]:
    """Returns a gold passage's docid for each question, by qid: the first with an answer, otherwise the first."""
    sets_of = find_positives(collection.passages, queries)
    docids_of = {
        query.qid: unique(docid for own in sets for docid in own)
        for query, sets in zip(queries, sets_of, strict=True)
        if sets
    }
    passages = collection.passages.get(sorted({docid for docids in docids_of.values() for docid in docids}))
    answers = {query.qid: answer_forms(query.answers) for query in queries}
    return {
        qid: next((docid for docid in docids if find_spans(passages[docid].text, answers[qid])), docids[0])
        for qid, docids in docids_of.items()
    }


def _read(
    topics: Topics, run: Run, reader: Reader, collection: Collection, gold: Mapping[str, str]
) -> Iterator[tuple[int, Query, Answer | None, Mapping[str, Passage]]]:
    """Yields the number of finished questions, a question, its answer, and the passages of its batch."""
    for start in range(0, len(topics.queries), AT_ONCE):
        batch = topics.queries[start : start + AT_ONCE]
        docids = {query.qid: _with_gold(run.rankings.get(query.qid), gold.get(query.qid)) for query in batch}
        passages = collection.passages.get(list(dict.fromkeys(docid for each in docids.values() for docid in each)))
        answers = reader.read([(query.plain_text, [passages[docid] for docid in docids[query.qid]]) for query in batch])
        for done, (query, found) in enumerate(zip(batch, answers, strict=True), start + 1):
            yield done, query, found, passages


def _with_gold(ranking: Ranking | None, gold: str | None) -> Sequence[str]:
    """Returns the hits of a question; the gold passage, if given, replaces the last hit if it is not a hit."""
    docids = ranking.docids if ranking else []
    return docids if gold is None or gold in docids else [*docids[:-1], gold]


def _format_answer(query: Query, found: Answer | None, passages: Mapping[str, Passage]) -> str:
    if found is None:
        return f"{query.text}\n  (no passage found)"
    passage = passages[found.docid]
    evidence = f"{passage.title or '(no title)'} [{found.docid}]: {mark_span(passage.text, found.start, found.end)}"
    return f"{query.text}\n  {found.text}  ({found.score:.3f})\n  {evidence}"
