"""DPR's retrieval output: a JSON list of questions, each with its answers and ranked contexts.

[{"question": "who ...", "answers": ["..."], "ctxs": [{"id": "1#0", "title": "...", "text": "...", "score": "81.2",
"has_answer": true}]}]

Questions have no ids, so a run can be read only together with its topics: each question must be the text of a query.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from taco_ir.core.files import InputError, reading, writing
from taco_ir.core.processes import collector_paused
from taco_ir.core.run_formats import format_score, numbered_lines
from taco_ir.core.texts import normal_answer
from taco_ir.core.typed import abbreviate
from taco_ir.core.types import Passage, Query, Ranking, Run

CHUNK = 1 << 20
SHOWN = 80  # characters of a record in a message
BETWEEN = re.compile(r"[\s,]*")  # what separates the records of a list


def json_list(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list one by one, so that memory does not depend on the size of the file.

    Raises:
        InputError: if the file is not a list of objects, or is cut short.
    """
    decoder, pieces = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")("replace")
    text, begun = "", False
    with reading(path) as source:
        for chunk in iter(partial(source.read, CHUNK), b""):
            text += pieces.decode(chunk)
            place = _after_blanks(text, 0)
            if not begun and place < len(text):
                if text[place] != "[":
                    break
                begun, place = True, _after_blanks(text, place + 1)
            while place < len(text) and text[place] != "]":
                try:
                    record, end = decoder.raw_decode(text, place)
                except json.JSONDecodeError:
                    break  # the rest of the record is in the next chunk
                except (RecursionError, ValueError) as error:  # deeply nested lists, or numbers that are too long
                    raise InputError(
                        f"{path}: JSON nested too deeply, or a number too long, at "
                        f"{abbreviate(text[place : place + SHOWN])}"
                    ) from error
                if not isinstance(record, dict):
                    raise InputError(
                        f"{path}: every entry of the list must be an object, but this is "
                        f"{abbreviate(text[place : place + SHOWN])}"
                    )
                try:
                    orjson.dumps(record)
                except TypeError as error:
                    beginning = abbreviate(text[place : place + SHOWN])
                    raise InputError(
                        f"{path}: {beginning} has a number beyond 64 bits, or an incomplete character ({error})"
                    ) from error
                yield record
                place = _after_blanks(text, end)
            text = text[place:]
    if text.strip() != "]":
        raise InputError(f"{path}: not a JSON list of objects, or cut short, at {abbreviate(text)}")


def _after_blanks(text: str, place: int) -> int:
    found = BETWEEN.match(text, place)
    return found.end() if found else place


def is_dpr_run(path: Path) -> bool:
    """Return whether a file begins with `[`, as DPR's retrieval output does."""
    return path.is_file() and next(numbered_lines(path), (0, ""))[1].lstrip().startswith("[")


def read_dpr(path: Path, queries: Sequence[Query]) -> Run:
    """Read DPR's retrieval output as a run. Each question belongs to the query with the same text.

    Raises:
        InputError: naming the record, if its question is not among the queries or appears twice, or if a context has no
            id or no finite score.
    """
    qids = {query.text: query.qid for query in queries}
    rankings: dict[str, Ranking] = {}
    with collector_paused():
        for number, record in enumerate(json_list(path), 1):
            where = f"{path}, record {number}"
            question, contexts = record.get("question"), record.get("ctxs")
            if not isinstance(question, str) or not isinstance(contexts, list):
                raise InputError(
                    f"{where}: {abbreviate(str(record))} has no question and ctxs; DPR's output needs both"
                )
            if (qid := qids.get(question.strip())) is None:
                raise InputError(
                    f"{where}: question {abbreviate(question)} is not among the {len(qids)} queries of the topics; "
                    "give the topics of this run"
                )
            if qid in rankings:
                raise InputError(f"{where}: question {abbreviate(question)} appears twice; each may appear once")
            hits = [_hit(context, where) for context in contexts]
            if len({docid for docid, _ in hits}) < len(hits):
                raise InputError(f"{where}: question {abbreviate(question)} lists a passage twice; list it once")
            rankings[qid] = Ranking.of([docid for docid, _ in hits], [score for _, score in hits])
    return Run(rankings)


def _hit(context: Any, where: str) -> tuple[str, float]:
    """Return docid and score of a context; the score may be a text or a number."""
    docid = context.get("id", context.get("passage_id")) if isinstance(context, dict) else None
    try:
        score = float(context["score"])
    except (TypeError, KeyError, ValueError, OverflowError):
        score = math.nan
    if not isinstance(docid, str | int) or isinstance(docid, bool) or not math.isfinite(score):
        raise InputError(f"{where}: context {abbreviate(str(context))} needs an id and a finite score")
    return str(docid), score


def write_dpr(run: Run, queries: Sequence[Query], passages: Mapping[str, Passage], path: Path) -> None:
    """Write a run as DPR's retrieval output, with one record per query, in the order of `queries`.

    `has_answer` is true if the passage's text contains an answer as whole words. Text and answer are compared in lower
    case, without punctuation and articles. Differs: DPR's own tokenisation keeps punctuation and articles.

    Args:
        passages: all passages of the run, by docid.
    """
    with writing(path, "wb") as sink:
        for place, query in enumerate(queries):
            answers = [f" {form} " for answer in query.answers if (form := normal_answer(answer))]
            ranking = run.rankings.get(query.qid)
            contexts = []
            for docid, score in zip(ranking.docids, ranking.scores, strict=True) if ranking else ():
                title, text = passages[docid].title, passages[docid].text
                context = {"id": docid, "title": title, "text": text, "score": format_score(score)}
                words = f" {normal_answer(text)} "
                contexts.append(context | {"has_answer": any(answer in words for answer in answers)})
            record = {"question": query.text, "answers": query.answers, "ctxs": contexts}
            sink.write((b",\n" if place else b"[\n") + orjson.dumps(record, option=orjson.OPT_INDENT_2))
        sink.write(b"\n]\n" if queries else b"[]\n")
