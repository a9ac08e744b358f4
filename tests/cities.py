"""A collection for readers: questions answered by the one city of their passage, passages without one, negatives."""

from __future__ import annotations

from pathlib import Path

from verbs import Record, passage, write_collection, write_lines

from taco_ir.data.collection import open_collection

CITIES = ("Rome", "Oslo", "Paris", "Berlin", "Vienna", "Madrid")


def write_cities(folder: Path, more: str = "") -> Path:
    """18 questions to train on, 6 of them again as dev; `negatives.jsonl` has two passages for each, none of a city.

    Args:
        more: further sentences of the passages without a city.
    """
    passages = [
        passage(f"P{n}#0", f"the house number {n} is in {city} since then", f"House {n}")
        for n, city in enumerate(CITIES * 3)
    ]
    passages += [passage(f"N{n}#0", f"the river number {n} is long and old{more}", f"River {n}") for n in range(6)]
    topics = [_question(f"q{n}", city, f"P{n}#0") for n, city in enumerate(CITIES * 3)]
    write_collection(folder, passages, {"nq-train": topics, "nq-dev": topics[:6]})
    header: Record = {
        **{
            "taco_ir_negatives": 1,
            "source": "bm25",
            "checkpoint": "",
            "collection": open_collection(str(folder)).passages.fingerprint,
        },
        **{"depth": 1, "skip": 0, "keep": 2, "filters": [], "seed": 0, "queries": ""},
    }
    rows = [
        {"topics": "nq-train", "qid": f"q{n}", "docids": [f"N{n % 6}#0", f"N{(n + 1) % 6}#0"], "scores": [2, 1]}
        for n in range(18)
    ]
    write_lines(folder / "negatives.jsonl", [header, *rows])
    return folder


def _question(qid: str, city: str, docid: str) -> Record:
    provenance = [{"wikipedia_id": docid.partition("#")[0], "passage_id": docid}]
    return {
        "id": qid,
        "input": f"in which city is house number {qid[1:]}",
        "output": [{"answer": city, "provenance": provenance}],
    }
