"""Makes subsets: smaller collections with all gold passages of some topics, and a sample of other passages."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from taco_ir.core.files import InputError, read_json, write_json, writing_folder
from taco_ir.core.hashes import generator, sha256_file
from taco_ir.core.outputs import claim_output
from taco_ir.core.settings import check_value
from taco_ir.data.collection import Collection, Topics
from taco_ir.data.downloads import Report
from taco_ir.data.gold import find_gold_rows
from taco_ir.data.passage_store import PassageStore
from taco_ir.data.topics import copy_records

PASSAGES, RECORD = "passages.jsonl.gz", "part.json"
COMPRESSION = 6
REPORT_EVERY = 10_000  # passages
Rows = npt.NDArray[np.int64]


class Subset(NamedTuple):
    """Numbers of passages in a subset: all passages, gold passages, and distractors (a sample of other passages)."""

    passages: int
    gold: int
    distractors: int


class SubsetRecord(NamedTuple):
    """The content of part.json, which says how a subset was made."""

    source: str
    topics: dict[str, str]
    distractors: int
    seed: int
    name: str
    passages: int
    gold: int
    max_queries: int = 0


def make_subset(
    collection: Collection,
    topics: Sequence[str],
    distractors: int,
    seed: int,
    output: Path,
    report: Report | None = None,
    max_queries: int = 0,
) -> Subset:
    """Write a collection folder with the gold passages of `topics`, sampled distractors, and the topics themselves.

    If the output is the same subset, it is kept. Passages keep their order. Equal input and seed give equal bytes. With
    the same seed, a larger subset contains the smaller one. Memory: 24 bytes for each passage of the collection.

    Args:
        topics: names of topics of the collection, such as `nq-dev`.
        report: called with the number of passages written so far, and the number to write in all.
        max_queries: maximum number of queries of each query set, sampled with the seed; 0: all.

    Raises:
        InputError: if the output has other content, if topics have no gold in the collection, or if the collection has
            too few distractors.
    """
    check_value("distractors", distractors, int, {"min": 0})
    check_value("seed", seed, int, {"min": 0})
    paths = [collection.topics_path(name) for name in topics]
    made_of = {
        "source": collection.passages.fingerprint,
        "topics": {path.name: sha256_file(path) for path in sorted(paths)},
        "distractors": distractors,
        "seed": seed,
        "max_queries": max_queries,
    }

    def recorded() -> dict[str, Any] | None:
        return _read_record(output)._asdict() if (output / RECORD).is_file() else None

    with claim_output(output, made_of, record=recorded, remedy="remove it", wait=True) as finished:
        if finished:
            return _existing_subset(output)
        judged = [sample_queries(collection.topics(name), max_queries, seed) for name in topics]
        gold_rows = [find_gold_rows(collection.passages, each.name, each.queries) for each in judged]
        gold = np.unique(np.concatenate(gold_rows))
        others = sample_distractors(collection, gold, distractors, seed)
        subset = Subset(len(gold) + len(others), len(gold), len(others))
        with writing_folder(output) as folder:
            _write_passages(folder / PASSAGES, collection.passages, np.sort(np.concatenate([gold, others])), report)
            for path, each in zip(paths, judged, strict=True):
                if max_queries:
                    records = copy_records(path, {query.qid for query in each.queries})
                    packed = gzip.compress(records, COMPRESSION, mtime=0) if path.suffix == ".gz" else records
                    (folder / path.name).write_bytes(packed)
                else:
                    shutil.copyfile(path, folder / path.name)
            write_json(folder / RECORD, made_of | {"name": collection.name, **subset._asdict()})
    return subset


def sample_queries(topics: Topics, most: int, seed: int) -> Topics:
    """Sample at most `most` of the topics' queries (0: all), keeping their order."""
    if not 0 < most < len(topics.queries):
        return topics
    rows = np.sort(generator(seed, "queries", topics.name).permutation(len(topics.queries))[:most])
    return topics._replace(queries=[topics.queries[row] for row in rows.tolist()])


def sample_distractors(collection: Collection, gold: Rows, distractors: int, seed: int) -> Rows:
    """Sample the rows of passages that are not gold, without repeats. Raises: InputError if there are too few."""
    rest = np.delete(np.arange(collection.passages.count), gold)
    if distractors > len(rest):
        raise InputError(
            f"--distractors {distractors}: {collection.name} has {collection.passages.count:,} passages, and "
            f"{len(gold):,} of them are gold, so at most {len(rest)} can be sampled"
        )
    sampled: Rows = generator(seed, "distractors").permutation(rest)[:distractors]
    return sampled


def _read_record(output: Path) -> SubsetRecord:
    return read_json(output / RECORD, SubsetRecord, "remove the folder and make it again")


def _existing_subset(output: Path) -> Subset:
    record = _read_record(output)
    if missing := [name for name in (PASSAGES, *record.topics) if not (output / name).is_file()]:
        raise InputError(
            f"--output {output}: the subset in it is incomplete, {', '.join(missing)} is missing; remove the "
            "folder and run the command again"
        )
    return Subset(record.passages, record.gold, record.distractors)


def _write_passages(path: Path, store: PassageStore, rows: Rows, report: Report | None) -> None:
    with path.open("wb") as file, gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as sink:
        for done, (docid, page, title, text) in enumerate(store.at(rows.tolist()), 1):
            record = {"id": docid, "contents": text, "title": title, "wikipedia_id": page}
            sink.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
            if report and (done % REPORT_EVERY == 0 or done == len(rows)):
                report(done, len(rows))
