"""MS MARCO's tab-separated files: collection.tsv, queries.<split>.tsv and qrels.<split>.tsv (Bajaj et al., 2016).

Triples of ids, `qidpidtriples.train.*.tsv`, provide hard negatives for the train queries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from taco_ir.core.files import InputError
from taco_ir.core.processes import log
from taco_ir.core.run_formats import numbered_lines
from taco_ir.core.tasks import TopicsName
from taco_ir.core.typed import abbreviate
from taco_ir.core.types import Passage
from taco_ir.data.formats.base import Format, QuerySet, Record, Source, find_file, hash_files, judged_queries
from taco_ir.data.query_files import read_qrels, read_query_texts

CORPUS = "collection.tsv"
KINDS = re.compile(r"(?P<kind>queries|qrels)\.(?P<split>train|dev|eval|test)(?:\.(?P<subset>.+?))?\.tsv(?:\.gz)?")
TRIPLES = re.compile(r"qidpidtriples\.train\..*tsv(?:\.gz)?")  # qid, relevant passage, other passage
SPLIT_NAMES = {"eval": "test"}


def _recognises(path: Path) -> bool:
    return find_file(path, CORPUS) is not None


def _open(place: str, columns: Mapping[str, str]) -> Source:
    folder = Path(place)
    corpus = find_file(folder, CORPUS)
    if corpus is None:
        raise InputError(f"--collection {place}: not an MS MARCO folder, because it has no {CORPUS}")
    if columns:
        raise InputError(
            f"--collection {place}: leave out --columns, because the columns of an MS MARCO folder have no names"
        )
    name = folder.resolve().name
    triples = [path for path in sorted(folder.iterdir()) if TRIPLES.fullmatch(path.name)]
    queries, qrels = _find_topics(folder, name, "queries"), _find_topics(folder, name, "qrels")
    for path in (path for each, path in qrels.items() if each not in queries):
        log.warning("%s: this file is ignored, because %s is missing", path, path.name.replace("qrels", "queries", 1))
    topics = {
        each: partial(_queries, path, qrels.get(each), triples if each.split == "train" else ())
        for each, path in queries.items()
    }
    key = partial(hash_files, [corpus], [*triples, *queries.values(), *qrels.values()])
    tasks = dict.fromkeys(topics, name)  # also for subsets such as dev.small
    return Source("MS MARCO TSV files", name, corpus, key, partial(_passages, corpus), topics, tasks)


def _find_topics(folder: Path, name: str, kind: str) -> dict[TopicsName, Path]:
    """Return the files of queries or of qrels, by topics. Raises: InputError if two files have the same topics."""
    found: dict[TopicsName, Path] = {}
    for path in sorted(folder.iterdir()):
        if (matched := KINDS.fullmatch(path.name)) and matched["kind"] == kind:
            split, subset = matched["split"], matched["subset"]
            topics = TopicsName(f"{name}-{subset}" if subset else name, SPLIT_NAMES.get(split, split))
            if found.setdefault(topics, path) is not path:
                raise InputError(f"{path} and {found[topics].name} both contain {kind} of {topics}; keep one of them")
    return found


def _queries(path: Path, judgments: Path | None, triples: Sequence[Path]) -> QuerySet:
    texts = read_query_texts(path)
    queries = judged_queries(texts, read_qrels(judgments), judgments) if judgments else QuerySet(texts, None)
    negatives: dict[str, dict[str, None]] = {}
    for file in triples:
        for number, line in numbered_lines(file):
            cells = line.split()
            if len(cells) != 3:
                raise InputError(
                    f"{file}, line {number}: {abbreviate(line.strip())} is not a query id, a positive id and a "
                    "negative id"
                )
            negatives.setdefault(cells[0], {})[cells[2]] = None
    return queries._replace(negatives={qid: list(docids) for qid, docids in negatives.items()})


def _passages(corpus: Path) -> Iterator[Record]:
    for number, line in numbered_lines(corpus):
        where = f"{corpus}, line {number}"
        docid, tab, text = line.rstrip("\r\n").partition("\t")
        if not tab or "\t" in text:
            raise InputError(f"{where}: {abbreviate(line.strip())} does not have two columns, id and text")
        yield Record(Passage(docid.strip(), docid.strip(), "", text), where)


MSMARCO = Format(_recognises, _open, (CORPUS, "queries.dev.tsv", "qrels.dev.tsv"))
