"""Reads topics files of KILT: JSON lines, each with a query and its evidence."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import orjson

from taco_ir.core.files import InputError
from taco_ir.core.processes import collector_paused, log
from taco_ir.core.run_formats import numbered_lines
from taco_ir.core.tasks import canonical_task
from taco_ir.core.types import EvidenceSet, Query, run_id

T = TypeVar("T")


def read_topics(path: Path, task: str | None, only: Container[str] | None = None) -> list[Query]:
    """Read the queries of a topics file in KILT's format. If `task` is None, each record must name its task.

    Records with the same id and text become one query with the union of their evidence, because FEVER has a record for
    each annotation of a claim. The number of such repeats is logged.

    Args:
        only: ids of the queries to read; None: all.

    Raises:
        InputError: naming file and line, for invalid JSON or UTF-8, a missing or empty id or input, an id with two
            different texts, an output that is not a list of objects, or a missing task.
    """
    with collector_paused():
        queries, repeats = _merge_records(path, task, only)
    if only is not None:
        return list(queries.values())
    log_repeats(path, repeats)
    if not queries:
        raise InputError(f"{path}: it is empty; a topics file has one KILT record per line")
    return list(queries.values())


def log_repeats(path: Path, repeats: int) -> None:
    """Log a warning about the number of records that repeat a query, if there are any."""
    if repeats:
        log.warning("%s: %d records repeat an earlier id and text; their evidence was merged", path.name, repeats)


def _merge_records(path: Path, task: str | None, only: Container[str] | None) -> tuple[dict[str, Query], int]:
    queries: dict[str, Query] = {}
    lines: dict[str, int] = {}
    repeats = 0
    for number, query in read_single_queries(path, task, only):
        if (first := queries.get(query.qid)) is None:
            queries[query.qid], lines[query.qid] = query, number
            continue
        if first.text != query.text:
            raise InputError(
                f"{path}, line {number}: id {query.qid!r} has another text on line {lines[query.qid]}; ids must be "
                "unique"
            )
        repeats += 1
        queries[query.qid] = first._replace(
            answers=unique(first.answers + query.answers), evidence=unique(first.evidence + query.evidence)
        )
    return queries, repeats


def read_single_queries(
    path: Path, task: str | None, only: Container[str] | None = None
) -> Iterator[tuple[int, Query]]:
    """Yield (line number, query) for each record. Unlike in `read_topics`, records of one query are not merged."""
    for number, record in read_json_lines(path):
        if only is None or record_qid(record) in only:
            where = f"{path}, line {number}"
            yield number, _read_query(record, task or _read_task(record, where), where)


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for each line. Raises: InputError naming a line that is not a JSON object."""
    for number, line in numbered_lines(path):
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: {line.strip()[:60]!r} is not a JSON object")
        yield number, record


def _read_task(record: dict[str, Any], where: str) -> str:
    task = record.get("task")
    if not isinstance(task, str) or not task:
        raise InputError(
            f'{where}: task is {task!r}; in a file of several tasks, each record needs its task, such as "task": "nq"'
        )
    return canonical_task(task)


def record_qid(record: Mapping[str, Any]) -> str:
    """Return the query id of a KILT record, in the form for run files; "" if the record has no id."""
    return run_id(_read_id(record.get("id")))


def copy_records(path: Path, qids: Container[str]) -> bytes:
    """Return the records of these queries as JSON lines, in the order of the file."""
    records = (record for _, record in read_json_lines(path) if record_qid(record) in qids)
    return b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)


def plain_text(text: str) -> str:
    """Return a query's text in lower case with single spaces. Queries with equal results count as the same query."""
    return " ".join(text.casefold().split())


def _read_query(record: dict[str, Any], task: str, where: str) -> Query:
    record_id = _read_id(record.get("id"))
    if not (qid := record_qid(record)):
        raise InputError(f"{where}: id is {record.get('id')!r}; it must be a non-empty string")
    text = record.get("input")
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: query {qid!r} has input {text!r}; it must be a non-empty text")
    outputs = record.get("output") or []
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise InputError(f"{where}: query {qid!r} has an output that is not a list of objects")
    answers = unique([str(output["answer"]) for output in outputs if output.get("answer")])
    evidence = unique(
        [_read_evidence(output["provenance"], where) for output in outputs if output.get("provenance") is not None]
    )
    grades = record.get("grades") or {}
    if not isinstance(grades, dict) or not all(type(grade) is int for grade in grades.values()):
        raise InputError(f"{where}: query {qid!r} has grades {str(grades)[:80]!r}; they must be whole numbers by docid")
    negatives = record.get("negatives") or []
    if not isinstance(negatives, list) or not all(isinstance(docid, str) for docid in negatives):
        raise InputError(f"{where}: query {qid!r} has negatives {str(negatives)[:80]!r}; they must be a list of docids")
    meta = record.get("meta") or {}
    return Query(qid, text.strip(), task, answers, evidence, meta, record_id, grades, tuple(negatives))


def _read_evidence(provenance: Any, where: str) -> EvidenceSet:
    try:
        pages = unique([_read_id(item["wikipedia_id"]).strip() for item in provenance])
        passages = unique([_read_id(item["passage_id"]) for item in provenance if item.get("passage_id") is not None])
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{where}: provenance is {str(provenance)[:80]!r}; it must be a list of objects with a wikipedia_id"
        ) from error
    if "" in pages + passages:
        raise InputError(
            f"{where}: provenance {str(provenance)[:80]!r} names no page or passage; its ids must be non-empty strings"
        )
    return EvidenceSet(pages, passages)


def _read_id(value: Any) -> str:
    """Return an id as text; "" if it is neither a string nor a whole number."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def unique(values: Iterable[T]) -> tuple[T, ...]:
    """Return the values in their order, without repeats."""
    return tuple(dict.fromkeys(values))
