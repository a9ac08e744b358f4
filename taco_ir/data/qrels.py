"""Reads judgments (qrels): TREC's `qid iteration docid grade`, and BEIR's `query-id corpus-id score` with its header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import numbered_lines
from taco_ir.core.typed import abbreviate
from taco_ir.core.types import EvidenceSet

Qrels = dict[str, dict[str, int]]  # query id -> docid -> grade; what is not there was not judged
BEIR_HEADER = ("query-id", "corpus-id", "score")
GRADE = re.compile(r"[+-]?\d{1,9}")


def read_qrels(path: Path) -> Qrels:
    """Read graded judgments, plain or gzip. A grade above 0 is relevant; 0 and below are judged and not relevant.

    Raises:
        InputError: naming file and line for other columns, a grade that is no whole number, or a passage that is
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
            raise InputError(f"{where}: {len(fields)} columns {abbreviate(line.strip())}; judgments have {layout}")
        qid, docid, grade = fields[0], fields[-2], fields[-1]
        if not GRADE.fullmatch(grade):
            raise InputError(f"{where}: grade {abbreviate(grade)} of {docid!r}; a whole number is needed")
        if (earlier := qrels.setdefault(qid, {}).setdefault(docid, int(grade))) != int(grade):
            raise InputError(
                f"{where}: {docid!r} has grade {grade} for query {qid!r}, and {earlier} on an earlier line"
            )
    if not qrels:
        raise InputError(f"{path}: no judgments; each line is `qid iteration docid grade`")
    return qrels


def relevant(grades: Mapping[str, int]) -> tuple[EvidenceSet, ...]:
    """What is relevant, each document as an evidence set of its own."""
    return tuple(EvidenceSet((docid,), (docid,)) for docid, grade in grades.items() if grade > 0)
