"""Makes a subset of a collection: all gold passages of some topics, and distractors sampled from the rest."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from taco_ir.core.files import InputError, claim_output, read_json, sha256_file, write_json, writing_folder
from taco_ir.core.seeds import generator
from taco_ir.core.settings import checked
from taco_ir.data.collection import Collection, Topics
from taco_ir.data.gold import positive_sets
from taco_ir.data.passage_store import PassageStore

PASSAGES, RECORD = "passages.jsonl.gz", "part.json"
COMPRESSION = 6
NOTE_EVERY = 10_000  # passages between two reports
Rows = npt.NDArray[np.int64]


class Part(NamedTuple):
    """Passage counts of a subset."""

    passages: int
    gold: int
    distractors: int


class PartRecord(NamedTuple):
    """What a part's part.json says."""

    source: str
    topics: dict[str, str]
    distractors: int
    seed: int
    name: str
    passages: int
    gold: int


def make_part(
    collection: Collection,
    topics: Sequence[str],
    distractors: int,
    seed: int,
    output: Path,
    report: Callable[[int, int], None] | None = None,
) -> Part:
    """Write a subset as a collection folder that includes the files of `topics`; an equal one that exists is kept.

    The passages keep their order. Equal input and seed give equal bytes; with one seed, a part of more distractors holds the
    passages of one of fewer. Memory: 24 bytes a passage of the collection while distractors are drawn.

    Args:
        topics: names of topics of the collection, such as `nq-dev`.
        report: called with passages written and passages to write.

    Raises:
        InputError: for an output that holds anything else, topics without evidence in the collection, or more distractors than
            the collection has.
    """
    checked("distractors", distractors, int, {"min": 0})
    checked("seed", seed, int, {"min": 0})
    asked = _asked(collection, topics, distractors, seed)

    def recorded() -> dict[str, Any] | None:
        return _record_of(output)._asdict() if (output / RECORD).is_file() else None

    with claim_output(output, asked, record=recorded, remedy="remove it", wait=True) as finished:
        if finished:
            return _made(output)
        gold = np.unique(np.concatenate([gold_rows(collection.passages, _judged(collection, name)) for name in topics]))
        drawn = draw_distractors(collection, gold, distractors, seed)
        part = Part(len(gold) + len(drawn), len(gold), len(drawn))
        with writing_folder(output) as folder:
            _write_passages(folder / PASSAGES, collection.passages, np.sort(np.concatenate([gold, drawn])), report)
            for name in topics:
                shutil.copyfile(source := collection.topics_path(name), folder / source.name)
            write_json(folder / RECORD, asked | {"name": collection.name, **part._asdict()})
    return part


def gold_rows(store: PassageStore, topics: Topics) -> Rows:
    """Rows of the gold passages of topics: the positives of every query, and all passages of a gold page that these leave bare.

    The second matters where one page of an evidence set is judged by passage and another is not: without it the set could
    not be found complete.

    Raises:
        InputError: where no query has evidence in the collection.
    """
    positives = list({docid for sets in positive_sets(store, topics.queries) for docids in sets for docid in docids})
    rows: Rows = np.unique(store.rows(positives))
    covered = {passage.page for passage in store.at(rows.tolist())}
    bare = {page for query in topics.queries for each in query.evidence for page in each.pages} - covered
    others = [docid for docids in store.docids_of(bare).values() for docid in docids]
    if not positives and not others:
        raise InputError(
            f"--topics {topics.name}: none of their evidence is in the collection ({store.path}); a part is made around evidence"
        )
    return np.union1d(rows, store.rows(others)).astype(np.int64)


def draw_distractors(collection: Collection, gold: Rows, distractors: int, seed: int) -> Rows:
    """Rows of passages that are not gold, drawn without repeats. Raises: InputError where there are too few."""
    rest = np.delete(np.arange(collection.passages.count), gold)
    if distractors > len(rest):
        raise InputError(
            f"--distractors {distractors}: {collection.name} has {collection.passages.count:,} passages, "
            f"{len(gold):,} of them gold; at most {len(rest)} are left"
        )
    drawn: Rows = generator(seed, "distractors").permutation(rest)[:distractors]
    return drawn


def _judged(collection: Collection, name: str) -> Topics:
    topics = collection.topics(name)
    if not topics.judged:
        raise InputError(f"--topics {name}: no evidence to make a part around (a test split has none)")
    return topics


def _asked(collection: Collection, topics: Sequence[str], distractors: int, seed: int) -> dict[str, Any]:
    """Everything that determines the bytes of a subset, by content."""
    paths = [collection.topics_path(name) for name in topics]
    return {
        "source": collection.passages.fingerprint,
        "topics": {path.name: sha256_file(path) for path in sorted(paths)},
        "distractors": distractors,
        "seed": seed,
    }


def _record_of(output: Path) -> PartRecord:
    return read_json(output / RECORD, PartRecord, "remove the folder and make it again")


def _made(output: Path) -> Part:
    """The part that is there already. Raises: InputError where a file of it is gone."""
    found = _record_of(output)
    if lacking := [name for name in (PASSAGES, *found.topics) if not (output / name).is_file()]:
        raise InputError(
            f"--output {output}: {', '.join(lacking)} of the part is gone; remove the folder and make it again"
        )
    return Part(found.passages, found.gold, found.distractors)


def _write_passages(path: Path, store: PassageStore, rows: Rows, report: Callable[[int, int], None] | None) -> None:
    with path.open("wb") as file, gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as sink:
        for done, passage in enumerate(store.at(rows.tolist()), 1):
            record = {
                "id": passage.docid,
                "contents": passage.text,
                "title": passage.title,
                "wikipedia_id": passage.page,
            }
            sink.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
            if report and (done % NOTE_EVERY == 0 or done == len(rows)):
                report(done, len(rows))
