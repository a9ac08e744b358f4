"""Holds out train queries as dev topics that share neither a page nor a text with the queries that are trained on.

Queries held out of train at random share their pages with those that stay (SQuAD has hundreds of questions for a page); a model
that knows the pages of train by heart looks good on them, and is not.
"""

from __future__ import annotations

from collections.abc import Collection as Container
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from taco_ir.core.files import InputError, claim_output, read_json, sha256_file, write_json, writing_folder
from taco_ir.core.seeds import generator
from taco_ir.core.settings import checked
from taco_ir.core.tasks import TopicsName
from taco_ir.core.types import Query
from taco_ir.data.collection import Collection
from taco_ir.data.topics import json_lines, plain_text, record_qid

RECORD = "held-out.json"


class Split(NamedTuple):
    """Queries of a task: kept for training, held out, or dropped because they share a page with held-out ones."""

    train: list[Query]
    dev: list[Query]
    dropped: int


def hold_out(collection: Collection, tasks: Sequence[str], share: float, seed: int, output: Path) -> dict[str, Split]:
    """Write a folder that is a collection: the same passages (a link), `<task>-train` without and `<task>-dev` with what is held out.

    All records of a query go where it goes, as they are.

    Args:
        tasks: with train topics in the collection.
        share: of a task's queries with evidence that is held out, about; more where a page has many.

    Raises:
        InputError: for a share or seed that cannot be, a task whose train queries are of too few pages to be split, records that cannot be read, or an output that
            exists.
    """
    checked("share", share, float, {"above": 0, "below": 1})
    checked("seed", seed, int, {"min": 0})
    made_of = {
        task: _source(collection.topics_path(str(TopicsName(task, "train"))), share, seed) for task in sorted(tasks)
    }
    found = {}
    with (
        claim_output(
            output,
            {"tasks": list(made_of), **made_of},
            record=partial(_records_in, output),
            remedy="remove it",
            wait=True,
        ),
        writing_folder(output) as folder,
    ):
        (folder / collection.passage_path.name).symlink_to(collection.passage_path.resolve())
        for task in tasks:
            name = str(TopicsName(task, "train"))
            path, topics = collection.topics_path(name), collection.load_topics(name)
            found[task] = split = split_by_page(topics.queries, share, seed, task)
            for part, queries in (("train", split.train), ("dev", split.dev)):
                target = folder / f"{topics.name.removesuffix('-train')}-{part}.jsonl"
                target.write_bytes(_records_of(path, {query.qid for query in queries}))
            write_json(
                folder / f"{task}-{RECORD}",
                made_of[task] | {"train": len(split.train), "dev": len(split.dev), "dropped": split.dropped},
            )
    return found


def _source(path: Path, share: float, seed: int) -> dict[str, Any]:
    return {"file": path.name, "sha256": sha256_file(path), "share": share, "seed": seed}


def _records_in(folder: Path) -> dict[str, Any]:
    """What a folder's records say that its files were made of, by task."""
    found = {
        path.name.removesuffix(f"-{RECORD}"): read_json(path, dict[str, Any])
        for path in sorted(folder.glob(f"*-{RECORD}"))
    }
    return {"tasks": sorted(found), **found} if found else {}


def split_by_page(queries: Sequence[Query], share: float, seed: int, task: str) -> Split:
    """Draw pages until `share` of the queries with evidence have one of them: these are held out.

    Queries of one text (case and white space apart) are held out, kept or dropped together, whatever their ids: a model that was
    trained on one of them has seen the others.

    Raises:
        InputError: where nothing would be left to train on.
    """
    rows_of: dict[str, list[int]] = {}
    for row, query in enumerate(queries):
        rows_of.setdefault(plain_text(query.text), []).append(row)
    texts = list(rows_of.values())
    pages = [{page for row in rows for evidence in queries[row].evidence for page in evidence.pages} for rows in texts]
    judged = sum(bool(query.evidence) for query in queries)
    by_page: dict[str, list[int]] = {}
    for text, own in enumerate(pages):
        for page in own:
            by_page.setdefault(page, []).append(text)
    names = sorted(by_page)
    held: set[int] = set()
    count = 0
    for place in generator(seed, "held out", task).permutation(len(names)).tolist():
        if count >= share * judged:
            break
        new = set(by_page[names[place]]) - held
        held |= new
        count += sum(bool(queries[row].evidence) for text in new for row in texts[text])
    seen = {page for text in held for page in pages[text]}
    kept = [text for text, own in enumerate(pages) if text not in held and not own & seen]
    if not held or not any(pages[text] for text in kept):
        raise InputError(
            f"{task}: {judged:,} train queries with evidence on {len(names):,} pages; too few to hold {share:.0%} out with pages of their own"
        )
    train, dev = (
        [queries[row] for row in sorted(row for text in part for row in texts[text])] for part in (kept, held)
    )
    return Split(train, dev, len(queries) - len(train) - len(dev))


def _records_of(path: Path, qids: Container[str]) -> bytes:
    """The records of these queries, in their order."""
    records = (record for _, record in json_lines(path) if record_qid(record) in qids)
    return b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)
