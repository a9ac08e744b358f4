"""Reads files of queries and of relevance judgments (qrels), plain or gzip.

Queries: BEIR's JSON lines, `id<TAB>text`, and TREC's `<top>` topics. Judgments: TREC's `qid iteration docid grade`, and
BEIR's `query-id corpus-id score` with its header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import orjson

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import numbered_lines
from taco_ir.core.typed import abbreviate
from taco_ir.core.types import EvidenceSet, run_id

Qrels = dict[str, dict[str, int]]  # query id -> docid -> grade; other docids were not judged
BEIR_HEADER = ("query-id", "corpus-id", "score")
GRADE = re.compile(r"[+-]?\d{1,9}")
TAG = re.compile(r"<(/?)([a-zA-Z]+)>\s*(.*)")
CLOSING = re.compile(r"\s*</[a-zA-Z]+>\s*$")
KNOWN = 'BEIR\'s JSON lines {"_id", "text"}, `id<TAB>text`, and TREC\'s <top> are read'


def read_query_texts(path: Path) -> dict[str, str]:
    """Read a file of queries; return their texts by query id. The first non-blank line tells the format.

    Raises:
        InputError: naming file and line, for a record without id or text, a repeated id, or another format.
    """
    first = next(numbered_lines(path), None)
    if first is None:
        raise InputError(f"{path}: no queries; {KNOWN}")
    line = first[1].lstrip()
    if line.startswith("{"):
        found = _json_queries(path)
    elif line.lower().startswith("<top"):
        found = _trec_queries(path)
    elif "\t" in line:
        found = _tsv_queries(path)
    else:
        raise InputError(f"{path}, line {first[0]}: {abbreviate(line.strip())} is not a query; {KNOWN}")
    return _by_id(found)


def _by_id(found: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for where, qid, text in found:
        name = run_id(qid)
        if not name or not text.strip():
            raise InputError(f"{where}: query {qid!r} has text {abbreviate(text)}; both must be non-empty")
        if name in texts:
            raise InputError(f"{where}: query id {qid!r} appears twice; ids must be unique")
        texts[name] = text.strip()
    return texts


def _json_queries(path: Path) -> Iterator[tuple[str, str, str]]:
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        try:
            record = orjson.loads(line)
            qid, text = record["_id"], record["text"]
            if not isinstance(qid, str | int) or isinstance(qid, bool) or not isinstance(text, str):
                raise TypeError("_id and text must be texts")
            if not str(qid).strip() or not text.strip():
                raise ValueError("_id and text must be non-empty")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{where}: {abbreviate(line.strip())} is not a query with _id and text ({type(error).__name__}: "
                f"{error})"
            ) from error
        yield where, str(qid), text


def _tsv_queries(path: Path) -> Iterator[tuple[str, str, str]]:
    for number, line in numbered_lines(path):
        qid, tab, text = line.strip("\r\n").partition("\t")
        where = f"{path}, line {number}"
        if not tab:
            raise InputError(f"{where}: {abbreviate(line.strip())} has no tab; `id<TAB>text` is needed")
        if "\t" in text.strip():
            raise InputError(f"{where}: {abbreviate(line.strip())} has more than two columns; `id<TAB>text` is needed")
        yield where, qid.strip(), text


def _trec_queries(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the titles of TREC topics; descriptions and narratives are left out."""
    fields: dict[str, str] = {}
    where = tag = ""
    for number, line in numbered_lines(path):
        matched = TAG.match(line.strip())
        if not matched:
            if tag:
                fields[tag] = f"{fields[tag]} {CLOSING.sub('', line.strip())}".strip()
            continue
        closing, name, text = matched[1], matched[2].lower(), matched[3]
        if name == "top" and closing:
            yield where, fields.get("num", "").removeprefix("Number:").strip(), fields.get("title", "")
            fields, tag = {}, ""
        elif name == "top":
            where = f"{path}, line {number}"
        elif not closing:
            tag = name
            fields[tag] = CLOSING.sub("", text)
    if fields:
        raise InputError(f"{where}: this <top> has no </top>; the file is cut short")


def read_qrels(path: Path) -> Qrels:
    """Read graded judgments. A grade above 0 means relevant; 0 and below mean judged, but not relevant.

    Raises:
        InputError: naming file and line, for other columns, a grade that is not a whole number, or a passage that is
            judged twice for one query with different grades.
    """
    qrels: Qrels = {}
    width = 0
    for number, line in numbered_lines(path):
        fields = line.split()
        if not width:
            width = 3 if tuple(map(str.lower, fields)) == BEIR_HEADER else 4
            if width == len(BEIR_HEADER):
                continue
        where = f"{path}, line {number}"
        if len(fields) != width:
            layout = "query-id corpus-id score" if width == len(BEIR_HEADER) else "qid iteration docid grade"
            raise InputError(f"{where}: {abbreviate(line.strip())} has {len(fields)} columns; judgments need {layout}")
        qid, docid, grade = fields[0], fields[-2], fields[-1]
        if not GRADE.fullmatch(grade):
            raise InputError(f"{where}: the grade of {docid!r} is {abbreviate(grade)}; it must be a whole number")
        if (earlier := qrels.setdefault(qid, {}).setdefault(docid, int(grade))) != int(grade):
            raise InputError(
                f"{where}: {docid!r} has grade {grade} for query {qid!r}, but {earlier} on an earlier line; keep one"
            )
    if not qrels:
        raise InputError(f"{path}: no judgments; each line is `qid iteration docid grade`")
    return qrels


def relevant(grades: Mapping[str, int]) -> tuple[EvidenceSet, ...]:
    """Return an evidence set for each document with a grade above 0."""
    return tuple(EvidenceSet((docid,), (docid,)) for docid, grade in grades.items() if grade > 0)
