"""BEIR folders: corpus.jsonl, queries.jsonl, and qrels/<split>.tsv (Thakur et al., NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import orjson

from taco_ir.core.files import InputError
from taco_ir.core.processes import log
from taco_ir.core.run_formats import numbered_lines
from taco_ir.core.tasks import SPLITS, TopicsName
from taco_ir.core.typed import abbreviate
from taco_ir.core.types import Passage
from taco_ir.data.formats.base import Format, QuerySet, Record, Source, find_file, hash_files, judged_queries
from taco_ir.data.query_files import read_qrels, read_query_texts

CORPUS, QUERIES = "corpus.jsonl", "queries.jsonl"
JUDGMENTS = {split: (f"{split}.tsv", *(("validation.tsv",) if split == "dev" else ())) for split in SPLITS}


def _recognises(path: Path) -> bool:
    return find_file(path, CORPUS) is not None


def _open(place: str, columns: Mapping[str, str]) -> Source:
    folder = Path(place)
    corpus, queries = find_file(folder, CORPUS), find_file(folder, QUERIES)
    judgments = {split: find_file(folder / "qrels", *names) for split, names in JUDGMENTS.items()}
    lacking = [name for name, there in ((CORPUS, corpus), (QUERIES, queries)) if there is None]
    if corpus is None or queries is None or not any(judgments.values()):
        lacking += [] if any(judgments.values()) else [f"qrels/<split>.tsv with a split of {', '.join(SPLITS)}"]
        raise InputError(f"--collection {place}: not a BEIR folder, because it has no {' and no '.join(lacking)}")
    if columns:
        raise InputError(
            f"--collection {place}: leave out --columns, because the columns of a BEIR folder have fixed names"
        )
    files = [queries, *(path for path in judgments.values() if path)]
    for path in sorted({*(folder / "qrels").glob("*.tsv*")} - {*files}):
        log.warning("%s: ignored; judgments must be in a file <split>.tsv, with a split of %s", path, ", ".join(SPLITS))
    texts = cache(partial(read_query_texts, queries))
    name = folder.resolve().name
    topics = {
        TopicsName(name, split): partial(_queries, texts, path) for split, path in judgments.items() if path is not None
    }
    key = partial(hash_files, [corpus], files)
    return Source("BEIR folder", name, corpus, key, partial(_passages, corpus), topics)


def _queries(texts: Any, path: Path) -> QuerySet:
    return judged_queries(texts(), read_qrels(path), path)


def _passages(corpus: Path) -> Iterator[Record]:
    for number, line in numbered_lines(corpus):
        where = f"{corpus}, line {number}"
        try:
            record = orjson.loads(line)
            docid, title, text = str(record["_id"]), record.get("title") or "", record["text"]
            if not isinstance(title, str) or not isinstance(text, str):
                raise TypeError("title and text must be texts")
            if docid.split() != [docid]:
                raise ValueError("_id must be one word")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{where}: {abbreviate(line.strip())} is not a passage with _id, title and text "
                f"({type(error).__name__}: {error})"
            ) from error
        yield Record(Passage(docid, docid, title, text), where)


BEIR = Format(_recognises, _open, (CORPUS, QUERIES, "qrels"))
