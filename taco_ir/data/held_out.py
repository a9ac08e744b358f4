"""Holds out train queries as dev topics, so that they share no page and no text with the remaining train queries.

Queries held out at random share pages with the training queries (SQuAD has hundreds of questions about one page). A
model that has memorised these pages would get scores on them that are too high.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import InputError, read_json, write_json, writing_folder
from taco_ir.core.hashes import generator, sha256_file
from taco_ir.core.outputs import claim_output
from taco_ir.core.settings import check_value
from taco_ir.core.tasks import TopicsName
from taco_ir.core.types import Query
from taco_ir.data.collection import Collection
from taco_ir.data.topics import copy_records, plain_text

RECORD = "held-out.json"


class Split(NamedTuple):
    """The queries of a task to train on, the held-out queries, and the number of queries left out of both."""

    train: list[Query]
    dev: list[Query]
    dropped: int


def hold_out(collection: Collection, tasks: Sequence[str], share: float, seed: int, output: Path) -> dict[str, Split]:
    """Write a collection with a link to the same passages, in which some train queries of each task become dev topics.

    All records of a query are copied, unchanged, to the file that the query belongs to.

    Args:
        tasks: tasks with train topics in the collection.
        share: approximate fraction of a task's queries with gold to hold out; more if a page has many queries.

    Raises:
        InputError: for a share or seed out of range, a task with too few pages, unreadable records, or an existing
            output.
    """
    check_value("share", share, float, {"above": 0, "below": 1})
    check_value("seed", seed, int, {"min": 0})
    paths = {task: collection.topics_path(str(TopicsName(task, "train"))) for task in sorted(tasks)}
    made_of: dict[str, Any] = {
        task: {"file": path.name, "sha256": sha256_file(path), "share": share, "seed": seed}
        for task, path in paths.items()
    }
    made, record = {"tasks": list(made_of), **made_of}, partial(_read_records, output)
    claim = claim_output(output, made, record=record, remedy="remove it", wait=True)
    splits = {}
    with claim, writing_folder(output) as folder:
        (folder / collection.passage_path.name).symlink_to(collection.passage_path.resolve())
        for task in tasks:
            topics = collection.load_topics(str(TopicsName(task, "train")))
            splits[task] = split = split_by_page(topics.queries, share, seed, task)
            for name, queries in (("train", split.train), ("dev", split.dev)):
                target = folder / f"{topics.name.removesuffix('-train')}-{name}.jsonl"
                target.write_bytes(copy_records(paths[task], {query.qid for query in queries}))
            counts = {"train": len(split.train), "dev": len(split.dev), "dropped": split.dropped}
            write_json(folder / f"{task}-{RECORD}", made_of[task] | counts)
    return splits


def _read_records(folder: Path) -> dict[str, Any]:
    """Read, by task, what the files of a folder were made from, as its records say."""
    found = {}
    for path in sorted(folder.glob(f"*-{RECORD}")):
        record = read_json(path, dict[str, Any])
        found[path.name.removesuffix(f"-{RECORD}")] = {
            key: value for key, value in record.items() if key not in Split._fields
        }
    return {"tasks": sorted(found), **found} if found else {}


def split_by_page(queries: Sequence[Query], share: float, seed: int, task: str) -> Split:
    """Sample pages until they cover a fraction `share` of queries with gold, and hold out all queries on these pages.

    Queries with the same text (up to case and white space) are held out, kept or dropped together, even if their ids
    differ, because a model that is trained on one of them has seen the text of all.

    Raises:
        InputError: if nothing would be left to train on.
    """
    rows_of: dict[str, list[int]] = {}
    for row, query in enumerate(queries):
        rows_of.setdefault(plain_text(query.text), []).append(row)
    texts = list(rows_of.values())
    pages = [{page for row in rows for page in queries[row].gold_pages} for rows in texts]
    judged = sum(bool(query.evidence) for query in queries)
    by_page: dict[str, list[int]] = {}
    for text, own in enumerate(pages):
        for page in own:
            by_page.setdefault(page, []).append(text)
    names = sorted(by_page)
    out: set[int] = set()
    count = 0
    for place in generator(seed, "held out", task).permutation(len(names)).tolist():
        if count >= share * judged:
            break
        new = set(by_page[names[place]]) - out
        out |= new
        count += sum(bool(queries[row].evidence) for text in new for row in texts[text])
    seen = {page for text in out for page in pages[text]}
    kept = [text for text, own in enumerate(pages) if text not in out and not own & seen]
    if not out or not any(pages[text] for text in kept):
        raise InputError(
            f"{task}: its {judged:,} train queries with gold share {len(names):,} pages, too few to hold out "
            f"{share:.0%} of the queries with pages of their own; give a smaller --share, or leave the task out"
        )
    train, dev = (
        [queries[row] for row in sorted(row for text in subset for row in texts[text])] for subset in (kept, out)
    )
    return Split(train, dev, len(queries) - len(train) - len(dev))
