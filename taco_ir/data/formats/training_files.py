"""Training files that include their passages: Tevatron's JSON lines, DPR's JSON, and triples of texts.

Such a file is opened as a collection. It has the passages in the file, and train queries with their hard negatives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.dpr_runs import json_list
from taco_ir.core.files import InputError, reading
from taco_ir.core.run_formats import numbered_lines
from taco_ir.core.tasks import SPLITS, TopicsName
from taco_ir.core.typed import abbreviate
from taco_ir.core.types import Passage, run_id
from taco_ir.data.formats.base import Format, QuerySet, Record, Source, hash_files
from taco_ir.data.topics import read_json_lines

CHUNK = 1 << 20
TRIPLE = 3  # columns: query, relevant passage, other passage
SUFFIXES = (".jsonl", ".json", ".tsv", ".jsonl.gz", ".json.gz", ".tsv.gz")


class Item(NamedTuple):
    """A training query with its passages, and where it is in the file, for error messages."""

    where: str
    qid: str
    text: str
    positives: list[Passage]
    negatives: list[Passage]


Items = Callable[[Path], Iterator[Item]]


def tevatron_items(path: Path) -> Iterator[Item]:
    """Read Tevatron's {"query_id", "query", "positive_passages": [{"docid", "title", "text"}], "negative_passages"}."""
    for number, record in read_json_lines(path):
        where = f"{path}, line {number}"
        qid = record.get("query_id", number)
        yield _item(where, qid, record, ("query", "positive_passages", "negative_passages"), ("docid",))


def dpr_items(path: Path) -> Iterator[Item]:
    """Read DPR's list of {"question", "positive_ctxs": [{"passage_id", "title", "text"}], "hard_negative_ctxs"}."""
    for number, record in enumerate(json_list(path), 1):
        where = f"{path}, record {number}"
        yield _item(
            where, number, record, ("question", "positive_ctxs", "hard_negative_ctxs"), ("passage_id", "psg_id", "id")
        )


def triple_items(path: Path) -> Iterator[Item]:
    """Read a file of triples, `query<TAB>relevant passage<TAB>other passage`. Ids are made as hashes of the texts."""
    for number, line in numbered_lines(path):
        cells = line.rstrip("\r\n").split("\t")
        where = f"{path}, line {number}"
        if len(cells) != TRIPLE or not all(map(str.strip, cells)):
            raise InputError(f"{where}: {abbreviate(line)} is not three texts separated by tabs")
        query, positive, negative = cells
        passages = [Passage(_digest(text), _digest(text), "", text) for text in (positive, negative)]
        yield Item(where, _digest(query), query, passages[:1], passages[1:])


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _item(
    where: str, qid: object, record: Mapping[str, Any], keys: tuple[str, str, str], id_keys: tuple[str, ...]
) -> Item:
    query, positive, negative = keys
    text = record.get(query)
    if not isinstance(text, str) or not text.strip() or not isinstance(qid, str | int):
        raise InputError(f"{where}: {query} is {abbreviate(str(text))}; it must be a non-empty text")
    lists = []
    for key in (positive, negative):
        passages = record.get(key) or []
        if not isinstance(passages, list):
            raise InputError(f"{where}: {key} is {abbreviate(str(passages))}; it must be a list of passages")
        lists.append([_passage(passage, id_keys, f"{where}, {key}") for passage in passages])
    if not lists[0]:
        said = f"{positive} is empty" if positive in record else f"no {positive}"
        raise InputError(f"{where}: {said}; a training query needs a relevant passage")
    return Item(where, run_id(str(qid)), text.strip(), *lists)


def _passage(record: Any, id_keys: tuple[str, ...], where: str) -> Passage:
    docid = next((record[key] for key in id_keys if key in record), None) if isinstance(record, dict) else None
    if not isinstance(docid, str | int) or isinstance(docid, bool) or not isinstance(record.get("text"), str):
        raise InputError(f"{where}: {abbreviate(str(record))} is not a passage with {id_keys[0]}, title and text")
    return Passage(str(docid), str(docid), str(record.get("title") or ""), record["text"])


def _first_line(path: Path) -> str:
    if not path.is_file() or not path.name.endswith(SUFFIXES):
        return ""
    try:
        return next(numbered_lines(path), (0, ""))[1]
    except InputError:
        return ""


def _is_tevatron(path: Path) -> bool:
    line = _first_line(path).lstrip()
    return line.startswith("{") and '"positive_passages"' in line


def _is_dpr(path: Path) -> bool:
    if not _first_line(path).lstrip().startswith("["):
        return False
    with reading(path) as source:
        return b'"positive_ctxs"' in source.read(CHUNK)


def _is_triples(path: Path) -> bool:
    return path.name.startswith("triples") and len(_first_line(path).split("\t")) == TRIPLE


def _open(layout: str, items: Items, place: str, columns: Mapping[str, str]) -> Source:
    path = Path(place)
    if not path.is_file():
        raise InputError(f"--collection {place}: no such file; {layout} is a single file")
    if columns:
        raise InputError(f"--columns has no effect on {layout}, which has fixed names; leave it out")
    stem = path.name.partition(".")[0]
    name = next((stem.removesuffix(f"-{split}") for split in SPLITS if stem.endswith(f"-{split}")), stem)
    name = path.resolve().parent.name if name in SPLITS else name
    return Source(
        layout,
        name,
        path,
        partial(hash_files, [path], [path]),
        partial(_passages, items, path),
        {TopicsName(name, "train"): partial(_queries, items, path)},
    )


def _passages(items: Items, path: Path) -> Iterator[Record]:
    """Yield each passage once. Raises: InputError if one docid has two texts."""
    texts: dict[str, int] = {}  # hashes of texts, so that memory does not depend on their length
    for item in items(path):
        for passage in item.positives + item.negatives:
            text = hash((passage.title, passage.text))
            if passage.docid not in texts:
                texts[passage.docid] = text
                yield Record(passage, item.where)
            elif texts[passage.docid] != text:
                raise InputError(f"{item.where}: docid {passage.docid!r} has another text before; one is allowed")


def _queries(items: Items, path: Path) -> QuerySet:
    """Read the queries; records with the same id and text are merged. Raises: InputError for an id with two texts."""
    texts: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    negatives: dict[str, dict[str, None]] = {}
    for item in items(path):
        if texts.setdefault(item.qid, item.text) != item.text:
            raise InputError(f"{item.where}: query id {item.qid!r} has another text before; ids must be unique")
        qrels.setdefault(item.qid, {}).update({passage.docid: 1 for passage in item.positives})
        negatives.setdefault(item.qid, {}).update(dict.fromkeys(passage.docid for passage in item.negatives))
    kept = {qid: [docid for docid in docids if docid not in qrels[qid]] for qid, docids in negatives.items()}
    return QuerySet(texts, qrels, kept)


TEVATRON = Format(_is_tevatron, partial(_open, "Tevatron training file", tevatron_items))
DPR = Format(_is_dpr, partial(_open, "DPR training file", dpr_items))
TRIPLES = Format(_is_triples, partial(_open, "file of triples", triple_items))
