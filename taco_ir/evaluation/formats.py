"""KILT's JSONL runs of pages, MS MARCO's runs, and runs held against their topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from taco_ir.evaluation.kilt import ranked
from taco_ir.files import InputError, writing
from taco_ir.records import Query, Ranking, Run, numbered_lines, read_trec, run_id

page_id = itemgetter("wikipedia_id")


def read_run(path: Path) -> Run:
    """Read a KILT run (JSON objects) or a TREC run, told apart by the first character that is not blank."""
    _, line = next(numbered_lines(path), (0, ""))
    return read_kilt(path) if line.lstrip().startswith("{") else read_trec(path)


def read_kilt(path: Path) -> Run:
    """Read a KILT run: a JSON line `{"id", "output": [{"provenance": [{"wikipedia_id"}, ...]}]}` per query.

    The pages keep their order, of a repeated page the first counts; their scores are -1, -2, ... An output without
    provenance is a query without hits.

    Raises:
        InputError: naming the line that is no JSON object, lacks an id, repeats one, has not exactly one output, or
            has provenance without a wikipedia_id.
    """
    rankings: dict[str, Ranking] = {}
    lines: dict[str, int] = {}
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{where}: not valid JSON ({error})") from error
        qid = _qid(record, where)
        if qid in rankings:
            raise InputError(f"{where}: id {qid!r} was given on line {lines[qid]}; a KILT run has one record per query")
        rankings[qid], lines[qid] = ranked(_pages(record, where)), number
    return Run(rankings, level="page")


def _qid(record: Any, where: str) -> str:
    if not isinstance(record, dict):
        raise InputError(f"{where}: a JSON object is expected, this is {str(record)[:60]!r}")
    value = record.get("id")
    qid = run_id(str(value)) if isinstance(value, str | int) else ""
    if not qid:
        raise InputError(f"{where}: id {value!r}; a KILT run names its query by a non-empty string")
    return qid


def _pages(record: dict[str, Any], where: str) -> dict[str, None]:
    outputs = record.get("output")
    if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], dict):
        given = f"{len(outputs)} outputs" if isinstance(outputs, list) and len(outputs) != 1 else f"output {str(outputs)[:60]!r}"
        raise InputError(f"{where}: {given}; a KILT run has a list of exactly one object (topics may have more)")
    provenance = outputs[0].get("provenance")
    if provenance is None:
        return {}
    try:
        pages = dict.fromkeys(map(str.strip, map(page_id, provenance)))
    except (TypeError, KeyError):                        # a number instead of a text, or something wrong
        pages = dict.fromkeys(_checked_page(entry, where) for entry in (provenance if isinstance(provenance, list) else [provenance]))
    if "" in pages:
        _checked_page({"wikipedia_id": ""}, where)
    return pages


def _checked_page(entry: Any, where: str) -> str:
    value = entry.get("wikipedia_id") if isinstance(entry, dict) else None
    page = str(value).strip() if isinstance(value, str | int) else ""
    if not page:
        raise InputError(f"{where}: provenance {str(entry)[:80]!r} has no wikipedia_id; every entry needs one")
    return page


def write_kilt(run: Run, queries: Sequence[Query], path: Path) -> None:
    """Write one KILT record per query, in topic order; a query without hits gets an empty provenance.

    Args:
        run: a run of pages; `kilt.page_run` makes one of a run of passages.

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
            record = {"id": query.record_id or query.qid, "input": query.text, "output": [{"provenance": provenance}]}
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
