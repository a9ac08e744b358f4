"""MS MARCO's tab-separated files: collection.tsv, queries.<split>.tsv and qrels.<split>.tsv (Bajaj et al., 2016).

Triples of ids, `qidpidtriples.train.*.tsv`, bring the train queries' hard negatives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import numbered_lines
from taco_ir.core.tasks import TopicsName
from taco_ir.core.typed import abbreviate
from taco_ir.core.types import Passage
from taco_ir.data.formats.base import (
    Format,
    QuerySet,
    Record,
    Source,
    first_existing,
    hash_files,
    judged_queries,
)
from taco_ir.data.query_files import read_qrels, read_query_texts

CORPUS = ("collection.tsv",)
QUERIES = re.compile(r"queries\.(?P<split>train|dev|eval|test)(?:\.(?P<subset>.+?))?\.tsv(?:\.gz)?")
TRIPLES = re.compile(r"qidpidtriples\.train\..*tsv(?:\.gz)?")  # qid, relevant passage, other passage
SPLIT_NAMES = {"eval": "test"}


def _recognises(path: Path) -> bool:
    return first_existing(path, CORPUS) is not None


def _open(place: str, columns: Mapping[str, str]) -> Source:
    folder = Path(place)
    corpus = first_existing(folder, CORPUS)
    if corpus is None:
        raise InputError(f"--collection {place}: no MS MARCO folder, since it lacks {CORPUS[0]}")
    if columns:
        raise InputError(f"--columns: MS MARCO's files have no named columns; --collection {place} is such a folder")
    name = folder.resolve().name
    triples = [path for path in sorted(folder.iterdir()) if TRIPLES.fullmatch(path.name)]
    topics, files = {}, [corpus, *triples]
    for path in sorted(folder.iterdir()):
        if matched := QUERIES.fullmatch(path.name):
            split, subset = matched["split"], matched["subset"]
            judgments = first_existing(folder, (path.name.removesuffix(".gz").replace("queries", "qrels", 1),))
            topics_name = TopicsName(f"{name}-{subset}" if subset else name, SPLIT_NAMES.get(split, split))
            topics[topics_name] = partial(_queries, path, judgments, triples if split == "train" else ())
            files += [path, *([judgments] if judgments else [])]
    return Source("MS MARCO TSV files", name, corpus, partial(hash_files, files), partial(_passages, corpus), topics)


def _queries(path: Path, judgments: Path | None, triples: Sequence[Path]) -> QuerySet:
    texts = read_query_texts(path)
    queries = judged_queries(texts, read_qrels(judgments), judgments) if judgments else QuerySet(texts, None)
    negatives: dict[str, dict[str, None]] = {}
    for file in triples:
        for number, line in numbered_lines(file):
            cells = line.split()
            if len(cells) != 3:
                raise InputError(
                    f"{file}, line {number}: {abbreviate(line.strip())}; query, positive and negative id are needed"
                )
            negatives.setdefault(cells[0], {})[cells[2]] = None
    return queries._replace(negatives={qid: list(docids) for qid, docids in negatives.items()})


def _passages(corpus: Path) -> Iterator[Record]:
    for number, line in numbered_lines(corpus):
        where = f"{corpus}, line {number}"
        docid, tab, text = line.rstrip("\r\n").partition("\t")
        if not tab or "\t" in text:
            raise InputError(f"{where}: {abbreviate(line.strip())}; two columns are needed: id and text")
        yield Record(Passage(docid.strip(), docid.strip(), "", text), where)


MSMARCO = Format(_recognises, _open)
