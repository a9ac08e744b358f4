"""What a study found, as files: one record for each run of a system, its scores query by query beside it.

`<condition>.<seed>.<corpus>.json` is for people and for `git diff`; `<condition>.<seed>.<corpus>.queries.json.gz` holds the
values that paired tests need, in the order of the topics.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, read_json, writing

SUFFIX, QUERIES_SUFFIX = ".json", ".queries.json.gz"
FORMAT = 1


@dataclass(frozen=True)
class TopicScores:
    """One run's scores on one set of topics.

    Attributes:
        queries: how many there are.
        fingerprint: of the queries and their gold, evidence and answers; two runs can be compared query by query where it is equal.
        means: measure, as it prints (`page R-precision`), -> mean over the queries, without rounding.
        by_query: measure -> values in the order of the topics, of every query that the measure applies to (passage measures need
            judged passages); six digits; empty where only means were kept.
        part_of: the topics that these are a slice of ("" for whole topics); slices do not enter averages.
    """

    queries: int
    fingerprint: str
    means: Mapping[str, float]
    by_query: Mapping[str, Sequence[float]] = field(default_factory=dict)
    part_of: str = ""


@dataclass(frozen=True)
class Result:
    """One run of one system, scored.

    Attributes:
        condition: the entry of the conditions file that made it; a system may be made of several (a model for each task).
        system: what the row of a table is called.
        base: the encoder that training started from ("" for BM25).
        seed: of the training.
        corpus: the passages searched, by name; scores of different corpora are never put in one column.
        passages: how many those are.
        collection: fingerprint of these passages.
        topics: name of topics -> scores.
        made: commands, versions, seconds, memory, commit: what it takes to make it again.
    """

    condition: str
    system: str
    base: str
    seed: int
    corpus: str
    passages: int
    collection: str
    topics: Mapping[str, TopicScores]
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The stem of its files."""
        return f"{self.condition}.{self.seed}.{self.corpus}"


def write_result(folder: Path, result: Result) -> Path:
    """Write both files, the values first; a record of before goes before its values do, so that a record that is there is whole."""
    values = {name: dict(scores.by_query) for name, scores in result.topics.items()}
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    record = {"format": FORMAT, **asdict(result)}
    for scores in record["topics"].values():
        del scores["by_query"]
    record_text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path = folder / f"{result.name}{SUFFIX}"
    with writing(folder / f"{result.name}{QUERIES_SUFFIX}", "wb") as file:
        file.write(gzip.compress(text.encode(), mtime=0))
        file.flush()  # a full disk is noticed while both files of before are there
        path.unlink(missing_ok=True)
    with writing(path) as file:
        file.write(record_text)
    return path


def read_results(folder: Path) -> list[Result]:
    """Every record of a folder, in the order of their names.

    Raises:
        InputError: for a folder without records, or a record that is not whole, naming file and fault.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a study's results are written by python -m taco_ir.reproduce")
    found = [read_result(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    if not found:
        raise InputError(f"{folder}: no results in it (*{SUFFIX}); they are written by python -m taco_ir.reproduce")
    return found


def read_result(path: Path) -> Result:
    """One record and the values beside it. Raises: InputError."""
    record = read_json(path)
    try:
        if record.pop("format") != FORMAT:
            raise InputError(f"{path}: written in another format; allowed is {FORMAT}")
        values = _read_values(path.with_name(path.name.removesuffix(SUFFIX) + QUERIES_SUFFIX))
        topics = {
            name: _checked(path, name, TopicScores(**scores, by_query=values.pop(name))) for name, scores in record.pop("topics").items()
        }
        result = Result(**record, topics=topics)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: not the record of a result ({type(error).__name__}: {error})") from error
    if values:
        raise InputError(f"{path}: has no {', '.join(values)}, of which the values beside it are")
    if path.name != result.name + SUFFIX:
        raise InputError(f"{path}: holds the result {result.name}; its name must be {result.name}{SUFFIX}")
    return result


def _read_values(path: Path) -> dict[str, dict[str, list[float]]]:
    try:
        values: dict[str, dict[str, list[float]]] = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run python -m taco_ir.reproduce again") from error
    return values


def _checked(path: Path, name: str, scores: TopicScores) -> TopicScores:
    """Raise InputError where the values by query do not give the means."""
    for measure, values in scores.by_query.items():
        mean = math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else math.nan
        if len(values) > scores.queries or not math.isclose(mean, scores.means[measure], abs_tol=1e-5):
            raise InputError(f"{path}: {name}, {measure}: {len(values)} values with mean {mean:.6f}; the record says otherwise")
    return scores
