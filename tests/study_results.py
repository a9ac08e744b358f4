"""Made-up results of a study: deterministic, and shaped like real ones (R-precision, reciprocal ranks, a slice)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from taco_ir.core.hashes import fingerprint
from taco_ir.studies.records import Record, TopicScores

TOPICS = ("nq-dev", "fever-dev", "hotpotqa-dev", "trex-dev", "wned-dev", "wow-dev", "squad-dev", "zsre-dev")
SYSTEMS = ("naive", "TACO", "task-specific", "naive + prompts", "PCGrad", "CGD", "GradNorm", "UW")
SYSTEMS += ("TACO without prompts", "discourage")
BASES = ("minilm-l6", "bert-mini", "t5-small")
RANKS = np.array([1, 2, 3, 4, 6, 9])


def fake_results(
    systems: int = 20, topics: int = 8, queries: int = 700, seeds: int = 1, corpus: str = "whole"
) -> list[Record]:
    """Results of BM25 (one seed) and other systems on topics of `queries` each; the last topics have a slice."""
    results = []
    for system in range(systems):
        name = SYSTEMS[(system - 1) % len(SYSTEMS)] if system else "BM25"
        base = BASES[(system - 1) // len(SYSTEMS)] if system else ""
        for seed in range(seeds if system else 1):
            generator = np.random.default_rng([7, system, seed])
            scores: dict[str, TopicScores] = {}
            for number, topic in enumerate(TOPICS[:topics]):
                hard_Q = np.random.default_rng([99, number]).normal(size=queries)  # for every system alike
                talent = 0.03 * system + np.random.default_rng([system, number]).normal(0, 0.15)  # wins and losses
                skill_Q = talent - 0.1 * number + generator.normal(0, 0.03) + generator.normal(0, 0.7, queries) - hard_Q
                scores[topic] = topic_scores(topic, skill_Q)
                if number == topics - 1:
                    scores[f"{topic} unseen"] = topic_scores(f"{topic} unseen", skill_Q[queries // 2 :], part_of=topic)
            condition = f"{name}-{base}".rstrip("-").replace(" ", "_").lower()
            results.append(
                Record(condition, name, base, seed, corpus, 120_000, fingerprint(corpus), scores, {"commit": "0" * 40})
            )
    return results


def topic_scores(topic: str, skill_Q: npt.NDArray[np.float64], part_of: str = "") -> TopicScores:
    """Scores by how easy each query is: R-precision in 0, 0.5, 1; recall not below it; reciprocal ranks."""
    rank_Q = RANKS[np.clip(((1.2 - skill_Q) * 2).astype(int), 0, len(RANKS) - 1)]
    by_query = {
        "page R-precision": np.where(rank_Q == 1, 1.0, np.where(rank_Q == 2, 0.5, 0.0)),
        "page recall@5": np.where(rank_Q <= 2, 1.0, np.where(rank_Q <= 4, 0.5, 0.0)),
        "passage MRR@10": np.round(np.where(rank_Q < RANKS[-1], 1 / rank_Q, 0.0), 6),
    }
    return TopicScores(
        queries=len(skill_Q),
        fingerprint=fingerprint([topic, len(skill_Q)]),
        means={measure: float(np.mean(values_Q)) for measure, values_Q in by_query.items()},
        by_query={measure: values_Q.tolist() for measure, values_Q in by_query.items()},
        part_of=part_of,
    )


def write_conditions(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "conditions.toml").write_text(text, encoding="utf-8")
    return folder / "conditions.toml"


def write_model(folder: Path, size: int) -> Path:
    """A model's folder, as far as a study looks: weights that differ by their size."""
    folder.mkdir(exist_ok=True)
    save_file({"weight": np.zeros(size)}, folder / "model.safetensors")
    return folder


def record_line(record: dict[str, Any]) -> str:
    """A changed record as a valid line of records.jsonl."""
    fields = {key: value for key, value in record.items() if key != "check"}
    return json.dumps(fields | {"check": fingerprint(fields)}, ensure_ascii=False) + "\n"
