"""Run files in KILT's and MS MARCO's formats, a run's pages, and whether a run belongs to its topics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from taco_ir.core.files import InputError, collector_paused, writing
from taco_ir.core.types import MSMARCO, Names, Query, Ranking, Run, numbered_lines, read_msmarco, read_trec, run_id

log = logging.getLogger("taco_ir")
page_id = itemgetter("wikipedia_id")
PageOf = Callable[[Iterable[str]], Mapping[str, str]]


def read_run(path: Path) -> Run:
    """Read a KILT, MS MARCO or TREC run, told apart by the first line that is not blank: a JSON object, three columns, or any other."""
    _, line = next(numbered_lines(path), (0, ""))
    if line.lstrip().startswith("{"):
        return read_kilt(path)
    if len(line.split()) == MSMARCO.width:
        log.info("%s: read as %s; its scores are minus the ranks", path, MSMARCO.name)
        return read_msmarco(path)
    return read_trec(path)


def read_kilt(path: Path) -> Run:
    """Read a KILT run: a JSON line `{"id", "output": [{"answer", "provenance": [{"wikipedia_id"}, ...]}]}` per query.

    The pages keep their order, of a repeated page the first counts; their scores are -1, -2, ... An output without
    provenance is a query without hits, one with an empty answer a query without an answer.

    Raises:
        InputError: naming the line that is no JSON object, lacks an id, repeats one, has not exactly one output, or
            has provenance without a wikipedia_id.
    """
    rankings: dict[str, Ranking] = {}
    answers: dict[str, str] = {}
    lines: dict[str, int] = {}
    with collector_paused():
        for number, line in numbered_lines(path):
            try:
                qid, pages, answer = _record(line)
                if qid in rankings:
                    raise InputError(f"id {qid!r} was given on line {lines[qid]}; a KILT run has one record per query")
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from error
            rankings[qid], lines[qid] = ranked(pages), number
            if answer:
                answers[qid] = answer
    return Run(rankings, "page", answers)


def _record(line: str) -> tuple[str, dict[str, None], str]:
    """Query id, pages (best first, each once) and answer ("" where there is none) of a record."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InputError(f"not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise InputError(f"a JSON object is expected, this is {line.strip()[:60]!r}")
    if not (qid := run_id(_text(record.get("id")))):
        raise InputError(f"id {record.get('id')!r}; a KILT run names its query by a non-empty string")
    outputs = record.get("output")
    if not isinstance(outputs, list) or len(outputs) != 1:
        given = f"{len(outputs)} outputs" if isinstance(outputs, list) else f"output {str(outputs)[:60]!r}"
        raise InputError(f"query {qid!r} has {given}; a KILT run has a list of exactly one (topics may have more)")
    if not isinstance(outputs[0], dict) or not isinstance(provenance := outputs[0].get("provenance", []), list):
        raise InputError(
            f"query {qid!r} has output {str(outputs[0])[:80]!r}; an object with a list of provenance is expected"
        )
    try:
        pages = dict.fromkeys(map(str.strip, map(page_id, provenance)))
    except (TypeError, KeyError):  # numbers for ids, or an entry without one
        pages = dict.fromkeys(
            _text(entry.get("wikipedia_id")) if isinstance(entry, dict) else "" for entry in provenance
        )
    if "" in pages:
        raise InputError(f"query {qid!r} has provenance without a wikipedia_id; every entry needs one")
    answer = outputs[0].get("answer")
    return qid, pages, "" if answer is None else str(answer).strip()


def _text(value: Any) -> str:
    """An id as text without white space around it; empty where it is neither text nor number."""
    return value.strip() if isinstance(value, str) else str(value) if type(value) is int else ""


def write_kilt(run: Run, queries: Sequence[Query], path: Path) -> None:
    """Write one KILT record per query, in topic order; a query without hits gets an empty provenance.

    Args:
        run: a run of pages; `page_run` makes one of a run of passages. Its answers are written where it has some.

    Raises:
        InputError: where the run has a topic that is not among the queries.
    """
    if run.level != "page":
        raise ValueError(f"a KILT run is of pages, this one is of level {run.level!r}")
    missing_topics(run, queries)
    with writing(path, "wb") as sink:
        for query in queries:
            ranking = run.rankings.get(query.qid)
            provenance = [{"wikipedia_id": page} for page in ranking.docids] if ranking else []
            answer = {"answer": run.answers.get(query.qid, "")} if run.answers else {}
            record = {
                "id": query.record_id or query.qid,
                "input": query.text,
                "output": [{**answer, "provenance": provenance}],
            }
            sink.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def write_msmarco(run: Run, path: Path) -> None:
    """Write `qid<TAB>docid<TAB>rank` lines, best first."""
    with writing(path) as sink:
        for qid, ranking in run.rankings.items():
            sink.writelines(f"{qid}\t{docid}\t{rank}\n" for rank, docid in enumerate(ranking.docids, 1))


def missing_topics(run: Run, queries: Sequence[Query]) -> list[str]:
    """Query ids that the run has no ranking for, in topic order.

    Raises:
        InputError: where the run has topics that are not among the queries: it belongs to other topics.
    """
    known: Mapping[str, None] = dict.fromkeys(query.qid for query in queries)
    if unknown := [qid for qid in run.rankings if qid not in known]:
        raise InputError(
            f"run has {len(unknown)} of its {len(run.rankings)} topics, first {unknown[0]!r}, not among the {len(known)} queries; "
            "a run and its topics must be of the same task and split"
        )
    return [qid for qid in known if qid not in run.rankings]


def page_run(run: Run, page_of: PageOf) -> Run:
    """The pages of a run's hits, best first, each page once.

    Args:
        page_of: gives the page of every docid that it is asked for; asked once, and not at all for a run of pages.

    Raises:
        InputError: naming the first docid that `page_of` does not know.
    """
    if run.level == "page":
        return run
    return Run({qid: ranked(pages) for qid, pages in ranked_pages(run, page_of)}, level="page")


def ranked_pages(run: Run, page_of: PageOf) -> Iterator[tuple[str, list[str]]]:
    """Query ids, each with the pages that `page_run` gives it."""
    if run.level == "page":
        yield from ((qid, list(ranking.docids)) for qid, ranking in run.rankings.items())
        return
    pages = page_of(dict.fromkeys(chain.from_iterable(ranking.docids for ranking in run.rankings.values())))
    try:
        for qid, ranking in run.rankings.items():
            yield qid, list(dict.fromkeys([pages[docid] for docid in ranking.docids]))
    except KeyError as error:
        raise InputError(f"run: docid {error.args[0]!r} is not in the collection, so its page is not known") from error


def ranked(pages: Collection[str]) -> Ranking:
    """Pages in the order given, as hits that score -1, -2, ...: KILT runs carry an order and no scores."""
    return Ranking(Names.of(tuple(pages)), _rank_scores(len(pages)))


@cache
def _rank_scores(hits: int) -> npt.NDArray[np.float32]:
    """-1 ... -hits; one array, not writable, for all rankings of a length."""
    scores_K = -np.arange(1, hits + 1, dtype=np.float32)
    scores_K.flags.writeable = False
    return scores_K
