"""A collection whose dev topics are train queries with pages of their own: what a model learnt of other pages, and not of these, counts.

Queries held out of train at random share their pages with those that stay (SQuAD has hundreds of questions for a page); a model
that knows the pages of train by heart looks good on them, and is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from taco_ir.data.collections import Collection
from taco_ir.data.seeds import generator
from taco_ir.files import InputError, sha256_file, write_json, writing_folder
from taco_ir.tasks import TopicsName

RECORD = "held-out.json"
Record = dict[str, Any]


class Split(NamedTuple):
    """Queries of a task: that stay in train, that are held out, and that are in neither, as they share a page with those held out."""

    train: list[Record]
    dev: list[Record]
    dropped: int


def hold_out(collection: Collection, tasks: Sequence[str], share: float, seed: int, output: Path) -> dict[str, Split]:
    """Write a folder that is a collection: the same passages (a link), `<task>-train` without and `<task>-dev` with what is held out.

    Args:
        tasks: with train topics in the collection.
        share: of a task's queries with evidence that is held out, about; more where a page has many.

    Raises:
        InputError: for a task whose train queries are of too few pages to be split, or an output that exists.
    """
    if output.exists():
        raise InputError(f"--output {output} exists; give another folder, or remove it")
    found = {}
    with writing_folder(output) as folder:
        (folder / collection.passage_path.name).symlink_to(collection.passage_path.resolve())
        for task in tasks:
            path = collection.topics_path(str(TopicsName(task, "train")))
            found[task] = split = split_by_page(_records(path), share, seed, task)
            for name, records in (("train", split.train), ("dev", split.dev)):
                target = folder / f"{path.name.partition('-train')[0]}-{name}.jsonl"
                target.write_bytes(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records))
            source = {"file": path.name, "sha256": sha256_file(path), "share": share, "seed": seed}
            write_json(folder / f"{task}-{RECORD}", source | {"train": len(split.train), "dev": len(split.dev), "dropped": split.dropped})
    return found


def split_by_page(records: Sequence[Record], share: float, seed: int, task: str) -> Split:
    """Draw pages until `share` of the queries with evidence have one of them: these are held out.

    Raises:
        InputError: where nothing would be left to train on.
    """
    pages = [pages_of(record) for record in records]
    judged = sum(map(bool, pages))
    by_page: dict[str, list[int]] = {}
    for row, own in enumerate(pages):
        for page in own:
            by_page.setdefault(page, []).append(row)
    names = sorted(by_page)
    held: set[int] = set()
    for place in generator(seed, "held out", task).permutation(len(names)).tolist():
        if len(held) >= share * judged:
            break
        held.update(by_page[names[place]])
    seen = {page for row in held for page in pages[row]}
    kept = [row for row in range(len(records)) if row not in held and not pages[row] & seen]
    if not held or not any(pages[row] for row in kept):
        raise InputError(
            f"{task}: {judged:,} train queries with evidence on {len(names):,} pages; too few to hold {share:.0%} out with pages of their own"
        )
    return Split([records[row] for row in kept], [records[row] for row in sorted(held)], len(records) - len(held) - len(kept))


def pages_of(record: Record) -> set[str]:
    """The pages of a KILT record's evidence."""
    found = (entry for output in record.get("output", ()) for entry in output.get("provenance", ()))
    return {str(entry["wikipedia_id"]) for entry in found if "wikipedia_id" in entry}


def _records(path: Path) -> list[Record]:
    with path.open("rb") as lines:
        return [orjson.loads(line) for line in lines if line.strip()]
