"""Small collections in the layouts that others publish, written by tests."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

TEXTS = {"d1": "Bach wrote the cello suites.", "d2": 'Painted by "Leonardo" in Florence.', "d3": "In Nepal,\ta peak."}
TITLES = {"d1": "Cello suites", "d2": "Mona Lisa", "d3": ""}
QUERIES = {"q1": "who wrote the cello suites", "q2": "who painted the mona lisa", "q3": "highest mountain"}
GRADES = {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1, "d3": -1}}


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def beir(folder: Path) -> str:
    folder = folder / "scifact"
    (folder / "qrels").mkdir(parents=True)
    corpus = lines(*({"_id": docid, "title": TITLES[docid], "text": text} for docid, text in TEXTS.items()))
    (folder / "corpus.jsonl").write_text(corpus)
    (folder / "queries.jsonl").write_text(lines(*({"_id": qid, "text": text} for qid, text in QUERIES.items())))
    judged = "".join(f"{qid}\t{docid}\t{grade}\n" for qid, grades in GRADES.items() for docid, grade in grades.items())
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return str(folder)


def msmarco(folder: Path) -> str:
    folder = folder / "marco"
    folder.mkdir(parents=True)
    plain = {docid: text.replace("\t", " ") for docid, text in TEXTS.items()}
    (folder / "collection.tsv").write_text("".join(f"{docid}\t{text}\n" for docid, text in plain.items()))
    (folder / "queries.dev.small.tsv").write_text("".join(f"{qid}\t{text}\n" for qid, text in QUERIES.items()))
    judged = [f"{qid}\t0\t{docid}\t{grade}\n" for qid, grades in GRADES.items() for docid, grade in grades.items()]
    (folder / "qrels.dev.small.tsv").write_text("".join(judged))
    return str(folder)


def parquet(folder: Path) -> str:
    datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed (taco_ir[hf])")
    folder.mkdir(parents=True, exist_ok=True)
    table = {"id": list(TEXTS), "title": list(TITLES.values()), "text": list(TEXTS.values())}
    datasets.Dataset.from_dict(table).to_parquet(str(folder / "corpus.parquet"))
    return str(folder / "corpus.parquet")


def saved(folder: Path) -> str:
    datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed (taco_ir[hf])")
    table = {"id": list(TEXTS), "title": list(TITLES.values()), "text": list(TEXTS.values())}
    datasets.Dataset.from_dict(table).save_to_disk(str(folder / "corpus"))
    return str(folder / "corpus")


def passage(key: str, docid: str) -> dict[str, str]:
    return {key: docid, "title": TITLES[docid], "text": TEXTS[docid]}


def tevatron(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "wiki-train.jsonl"
    rows = [
        {
            "query_id": qid,
            "query": QUERIES[qid],
            "positive_passages": [passage("docid", positive)],
            "negative_passages": [passage("docid", "d3")],
        }
        for qid, positive in (("q1", "d1"), ("q2", "d2"))
    ]
    path.write_text(lines(*rows))
    return str(path)


def dpr(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nq-train.json"
    rows = [
        {
            "question": QUERIES[qid],
            "answers": ["a"],
            "positive_ctxs": [passage("passage_id", positive)],
            "hard_negative_ctxs": [passage("passage_id", "d3")],
            "negative_ctxs": [],
        }
        for qid, positive in (("q1", "d1"), ("q2", "d2"))
    ]
    path.write_text(json.dumps(rows, indent=4))
    return str(path)


def triples(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "triples.train.tsv"
    path.write_text("".join(f"{QUERIES[q]}\t{TEXTS[p]}\tNo mountain.\n" for q, p in (("q1", "d1"), ("q2", "d2"))))
    return str(path)


MADE: dict[str, tuple[Callable[[Path], str], str]] = {
    "beir": (beir, "BEIR folder"),
    "msmarco": (msmarco, "MS MARCO TSV files"),
    "parquet": (parquet, "parquet file"),
    "saved": (saved, "saved Hugging Face data set"),
    "tevatron": (tevatron, "Tevatron training file"),
    "dpr": (dpr, "DPR training file"),
    "triples": (triples, "file of triples"),
}
