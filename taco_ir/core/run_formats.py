"""Reads and writes runs in TREC, MS MARCO and KILT formats, and turns runs of passages into runs of pages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from taco_ir.core.files import InputError, reading, writing
from taco_ir.core.processes import collector_paused, log
from taco_ir.core.run_columns import Layout, decoded_lines, read_columns
from taco_ir.core.types import Names, Query, Ranking, Run, run_id

TREC_FIELDS = 6
LAST_RANK = 1 << 24  # up to here, float32 can hold every whole number
page_id = itemgetter("wikipedia_id")
PageOf = Callable[[Iterable[str]], Mapping[str, str]]


def _trec_fields(line: str) -> list[str]:
    """Split a line into columns; a query id may contain spaces, as in KILT."""
    fields = line.split()
    if len(fields) > TREC_FIELDS and fields[-TREC_FIELDS + 1] == "Q0":
        fields = [run_id(" ".join(fields[: -TREC_FIELDS + 1])), *fields[-TREC_FIELDS + 1 :]]
    return fields


def _are_finite(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    with np.errstate(over="ignore"):
        return np.isfinite(values.astype(np.float32))


def _are_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    allowed: npt.NDArray[np.bool_] = (values >= 1) & (values <= LAST_RANK) & (values == np.floor(values))
    return allowed


FINITE, RANKS = "it must be a finite float32 number", f"it must be a whole number from 1 to {LAST_RANK:,}"
TREC = Layout("a TREC run", "qid Q0 docid rank score tag", 0, 2, 4, _trec_fields, _are_finite, FINITE)
MSMARCO = Layout("an MS MARCO run", "qid docid rank", 0, 1, 2, str.split, _are_ranks, RANKS, sign=-1)


def read_run(path: Path) -> Run:
    """Read a run file in KILT's, MS MARCO's or TREC's format.

    If the first line is a JSON object, the format is KILT; if it has three columns, MS MARCO; otherwise TREC.
    """
    _, line = next(numbered_lines(path), (0, ""))
    if line.lstrip().startswith("{"):
        return read_kilt(path)
    if line.lstrip().startswith("["):
        raise InputError(f"{path}: DPR's output has no query ids; give --topics so that questions can be matched")
    if len(line.split()) == 1 and line.count(",") == TREC.width - 1:
        raise InputError(f"{path}, line 1: columns separated by commas; a TREC run separates them by spaces or tabs")
    if len(line.split()) == MSMARCO.width:
        log.info("%s: read as %s; the scores are the negative ranks", path, MSMARCO.name)
        return read_msmarco(path)
    return read_trec(path)


def read_trec(path: Path) -> Run:
    """Read a TREC run. As in trec_eval, the rank column is ignored. Spaces in query ids become `_` (see `run_id`).

    Raises:
        InputError: naming file and line, for a wrong number of columns, a score that is not a finite number, a docid
            that appears twice for one query, or bytes that are not UTF-8.
    """
    return _read(path, TREC)


def read_msmarco(path: Path) -> Run:
    """Read an MS MARCO run with the columns `qid docid rank`. The scores are the negative ranks.

    Raises:
        InputError: as in `read_trec`; also if a rank is not a whole number from 1, or appears twice for a query.
    """
    run = _read(path, MSMARCO)
    for qid, ranking in run.rankings.items():
        if len(twice := np.flatnonzero(ranking.scores[1:] == ranking.scores[:-1])):
            rank = f"{-ranking.scores[twice[0]]:.0f}"
            raise InputError(f"{path}: rank {rank} is given twice for query {qid!r}; once is allowed")
    return run


def _read(path: Path, layout: Layout) -> Run:
    rankings = {}
    for qid, hits in read_columns(path, layout):
        docids = hits.docids.split("\n")
        if len(set(docids)) < len(docids):
            _refuse_repeats(path, qid, layout)
        rankings[qid] = Ranking.of(Names(hits.docids, len(docids)), hits.values)
    return Run(rankings)


def _refuse_repeats(path: Path, qid: str, layout: Layout) -> None:
    """Raise InputError that names the line in which a docid of the query `qid` is repeated."""
    seen = set()
    for number, line in numbered_lines(path):
        fields = layout.fields(line)
        if fields[layout.qid] != qid:
            continue
        if (docid := fields[layout.docid]) in seen:
            raise InputError(
                f"{path}, line {number}: docid {docid!r} is given twice for query {qid!r}; once is allowed"
            )
        seen.add(docid)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-blank lines of a plain or gzip file with line numbers from 1. Raises: InputError for a bad file."""
    with reading(path) as source:
        yield from decoded_lines(path, 1, source)


def read_kilt(path: Path) -> Run:
    """Read a KILT run: a JSON line `{"id", "output": [{"answer", "provenance": [{"wikipedia_id"}, ...]}]}` per query.

    Pages keep their order and get the scores -1, -2, and so on. If a page is repeated, only its first place counts. A
    query may have no provenance (then it has no hits), and an empty answer (then it has no answer).

    Raises:
        InputError: naming the line, if it is not a JSON object, if its id is missing or repeated, if it does not have
            exactly one output, or if an entry of provenance has no wikipedia_id.
    """
    rankings: dict[str, Ranking] = {}
    answers: dict[str, str] = {}
    lines: dict[str, int] = {}
    with collector_paused():
        for number, line in numbered_lines(path):
            try:
                qid, pages, answer = _parse_record(line)
                if qid in rankings:
                    raise InputError(f"id {qid!r} was given on line {lines[qid]}; a KILT run has one record per query")
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from error
            rankings[qid], lines[qid] = rank_pages(pages), number
            if answer:
                answers[qid] = answer
    return Run(rankings, "page", answers)


def _parse_record(line: str) -> tuple[str, dict[str, None], str]:
    """Return query id, pages (best first, without repeats) and answer ("" for none) of a record."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InputError(f"not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise InputError(f"{line.strip()[:60]!r} is not a JSON object")
    if not (qid := run_id(_id_text(record.get("id")))):
        raise InputError(f"id is {record.get('id')!r}; it must be a non-empty string")
    outputs = record.get("output")
    if not isinstance(outputs, list) or len(outputs) != 1:
        given = f"{len(outputs)} outputs" if isinstance(outputs, list) else f"output {str(outputs)[:60]!r}"
        raise InputError(f"query {qid!r} has {given}; in a KILT run, output must be a list of exactly one entry")
    if not isinstance(outputs[0], dict) or not isinstance(provenance := outputs[0].get("provenance", []), list):
        given = f"{str(outputs[0])[:80]!r}"
        raise InputError(f"query {qid!r} has output {given}; it must be an object with a list `provenance`")
    try:
        pages = dict.fromkeys(map(str.strip, map(page_id, provenance)))
    except (TypeError, KeyError):  # an id is a number, or is missing
        ids = [entry.get("wikipedia_id") if isinstance(entry, dict) else None for entry in provenance]
        pages = dict.fromkeys(map(_id_text, ids))
    if "" in pages:
        raise InputError(f"query {qid!r} has provenance without a wikipedia_id; every entry needs one")
    answer = outputs[0].get("answer")
    return qid, pages, "" if answer is None else str(answer).strip()


def _id_text(value: Any) -> str:
    """Return an id as text without white space around it; "" if it is neither a text nor a whole number."""
    return value.strip() if isinstance(value, str) else str(value) if type(value) is int else ""


def write_run(run: Run, path: Path, form: str, queries: Sequence[Query], page_of: PageOf, tag: str) -> None:
    """Write a run of passages in the format `form`: "trec", "msmarco" or "kilt".

    For "kilt", `page_of` turns docids into pages. For "trec", `tag` is the name of the system in the last column.
    """
    if form == "kilt":
        write_kilt(page_run(run, page_of), queries, path)
    elif form == "trec":
        write_trec(run, path, tag)
    else:
        write_msmarco(run, path)


def format_score(score: np.float32) -> str:
    """Return the shortest decimal number that is read back as the same float32."""
    short = str(score)  # twice as fast, but with an exponent if the number is very large or small
    return short if "e" not in short else np.format_float_positional(score, unique=True, trim="0")


def write_trec(run: Run, path: Path, tag: str) -> None:
    """Write a TREC run: lines `qid Q0 docid rank score tag`, with the best hit of each query first."""
    tag = "_".join(tag.split())  # white space separates columns
    with writing(path) as sink:
        for qid, ranking in run.rankings.items():
            hits = enumerate(zip(ranking.docids, map(format_score, ranking.scores), strict=True), 1)
            sink.writelines(f"{qid} Q0 {docid} {rank} {score} {tag}\n" for rank, (docid, score) in hits)


def write_msmarco(run: Run, path: Path) -> None:
    """Write an MS MARCO run: lines `qid<TAB>docid<TAB>rank`, with the best hit of each query first."""
    with writing(path) as sink:
        for qid, ranking in run.rankings.items():
            sink.writelines(f"{qid}\t{docid}\t{rank}\n" for rank, docid in enumerate(ranking.docids, 1))


def write_kilt(run: Run, queries: Sequence[Query], path: Path) -> None:
    """Write a KILT run: one record per query, in the order of `queries`. A query without hits has empty provenance.

    Args:
        run: a run of pages (`page_run` converts a run of passages). Its answers, if any, are written too.

    Raises:
        InputError: if the run has a query that is not among `queries`.
    """
    if run.level != "page":
        raise ValueError(f"a KILT run needs pages, but the level of this run is {run.level!r}; convert it by page_run")
    missing_topics(run, queries)
    with writing(path, "wb") as sink:
        for query in queries:
            ranking = run.rankings.get(query.qid)
            provenance = [{"wikipedia_id": page} for page in ranking.docids] if ranking else []
            answer = {"answer": run.answers.get(query.qid, "")} if run.answers else {}
            output = [{**answer, "provenance": provenance}]
            record = {"id": query.record_id or query.qid, "input": query.text, "output": output}
            sink.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def missing_topics(run: Run, queries: Sequence[Query]) -> list[str]:
    """Return the ids of the queries that have no ranking in the run, in the order of `queries`.

    Raises:
        InputError: if the run has a query that is not among `queries`, because then it belongs to other topics.
    """
    known: Mapping[str, None] = dict.fromkeys(query.qid for query in queries)
    if unknown := [qid for qid in run.rankings if qid not in known]:
        raise InputError(
            f"{len(unknown)} of the run's {len(run.rankings)} queries, such as {unknown[0]!r}, are not among the "
            f"{len(known)} queries of the topics; run and topics must be of the same task and split"
        )
    return [qid for qid in known if qid not in run.rankings]


def page_run(run: Run, page_of: PageOf) -> Run:
    """Convert a run of passages to a run of pages: the pages of each query's hits, best first, without repeats.

    Args:
        page_of: returns the page of each docid. It is called once, or not at all if the run already has pages.

    Raises:
        InputError: naming the first docid that `page_of` does not know.
    """
    if run.level == "page":
        return run
    return Run({qid: rank_pages(pages) for qid, pages in ranked_pages(run, page_of)}, level="page")


def ranked_pages(run: Run, page_of: PageOf) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield each query id with the pages of its hits, best first, without repeats."""
    if run.level == "page":
        yield from ((qid, ranking.docids) for qid, ranking in run.rankings.items())
        return
    pages = page_of(dict.fromkeys(chain.from_iterable(ranking.docids for ranking in run.rankings.values())))
    try:
        for qid, ranking in run.rankings.items():
            yield qid, list(dict.fromkeys([pages[docid] for docid in ranking.docids]))
    except KeyError as error:
        raise InputError(f"run: docid {error.args[0]!r} is not in the collection; give the run's collection") from error


def rank_pages(pages: Collection[str]) -> Ranking:
    """Make a ranking of pages in the given order. KILT runs have no scores, so these are -1, -2, and so on."""
    return Ranking(Names.of(tuple(pages)), _rank_scores(len(pages)))


@cache
def _rank_scores(hits: int) -> npt.NDArray[np.float32]:
    """Return the scores -1 to -hits, as one array for all rankings of this length, so it is not writable."""
    scores_K = -np.arange(1, hits + 1, dtype=np.float32)
    scores_K.flags.writeable = False
    return scores_K
