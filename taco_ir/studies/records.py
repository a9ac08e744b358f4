"""What a study found, as two files: a record for each run of a system, and the scores of every query.

`records.jsonl` has a line for each record, in the order of their names, with a hash of itself: for people and for `git diff`. `queries.json.gz` has the
values that paired tests need, in the order of the topics, by a hash of them that their record names; of a record that was replaced
they stay until the next one is written, so that both files fit together whenever a process is killed.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, check_type, exclusive, read_json, write_json, writing
from taco_ir.core.hashes import fingerprint
from taco_ir.core.run_formats import numbered_lines
from taco_ir.core.typed import abbreviate

RECORDS, QUERIES = "records.jsonl", "queries.json.gz"
FORMAT = 2
Values = Mapping[str, Mapping[str, Sequence[float]]]  # topics -> measure -> values by query


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
class Record:
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
        """What it is called among the records of its study."""
        return f"{self.condition}.{self.seed}.{self.corpus}"

    @property
    def values(self) -> Values:
        """The scores of every query."""
        return {name: dict(scores.by_query) for name, scores in self.topics.items()}


def write_record(folder: Path, record: Record) -> None:
    """Add a record to those of a folder, or put it in the place of that of its name; the values first."""
    with exclusive(folder / RECORDS):
        before = {each.name: each for each in read_records(folder)} if (folder / RECORDS).is_file() else {}
        after = [each for _, each in sorted({**before, record.name: record}.items())]
        values = {fingerprint(each.values): each.values for each in (*after, *before.values())}
        text = json.dumps({"format": FORMAT, "values": values}, separators=(",", ":"), allow_nan=False)
        lines = [json.dumps(_line(each), ensure_ascii=False, allow_nan=False) + "\n" for each in after]
        with writing(folder / QUERIES, "wb") as file:
            file.write(gzip.compress(text.encode(), mtime=0))
        with writing(folder / RECORDS) as file:
            file.writelines(lines)


def _line(record: Record) -> dict[str, Any]:
    line = {"format": FORMAT, **asdict(record), "values": fingerprint(record.values)}
    for scores in line["topics"].values():
        del scores["by_query"]
    return line | {"check": fingerprint(line)}


def read_records(folder: Path) -> list[Record]:
    """Every record of a folder, in the order of their names.

    Raises:
        InputError: for a folder without records, or a record that is not whole, naming file and fault.
    """
    path = folder / RECORDS
    if not path.is_file():
        raise InputError(f"{path}: no such file; a study's records are written by python -m taco_ir.reproduce")
    values = _read_values(folder / QUERIES)
    found: dict[str, Record] = {}
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        try:
            value = check_type(json.loads(line), dict[str, Any], where)
            check, whole = value.pop("check", ""), fingerprint(value)
            own = values[value.pop("values")]
        except (KeyError, TypeError) as error:
            raise InputError(f"{where}: values names none of those in {QUERIES}") from error
        except (ValueError, RecursionError) as error:
            raise (
                error if isinstance(error, InputError) else InputError(f"{where}: not valid JSON ({error})")
            ) from error
        record = _record(where, value, own)
        if check != whole:
            raise InputError(
                f"{where}: the record was altered: check is {abbreviate(check)}, its fields give {whole}; make it anew"
            )
        if found.setdefault(record.name, record) is not record:
            raise InputError(f"{where}: another record is called {record.name}; remove one of the lines")
    if not found:
        raise InputError(f"{path}: no records in it; they are written by python -m taco_ir.reproduce")
    return [record for _, record in sorted(found.items())]


def find_records(folder: Path, names: Sequence[str]) -> list[Record]:
    """Records by name. Raises: InputError for one that is not there."""
    found = {record.name: record for record in read_records(folder)}
    if missing := [name for name in names if name not in found]:
        raise InputError(f"{folder / RECORDS}: no record is called {missing[0]}; python -m taco_ir.reproduce writes it")
    return [found[name] for name in names]


def save_record(path: Path, record: Record) -> None:
    """Write one record to a file of its own, its values in it."""
    write_json(path, {"format": FORMAT, **asdict(record)})


def load_record(path: Path) -> Record:
    """Read what `save_record` wrote. Raises: InputError."""
    value = read_json(path, dict[str, Any])
    topics = check_type(value.get("topics"), dict[str, dict[str, Any]], f"{path}: topics")
    return _record(
        str(path), value | {"topics": topics}, {name: scores.pop("by_query", {}) for name, scores in topics.items()}
    )


def _record(where: str, value: dict[str, Any], values: Mapping[str, Any]) -> Record:
    """Raises: InputError where it is no record, or values by query do not give the means."""
    if (version := value.pop("format", None)) != FORMAT:
        raise InputError(f"{where}: format is {abbreviate(version)}: written in another format; allowed is {FORMAT}")
    record = check_type(value, Record, where)
    if values.keys() != record.topics.keys():
        raise InputError(f"{where}: its topics are {_names(record.topics)}, those of its values {_names(values)}")
    return replace(
        record, topics={name: _checked(where, name, scores, values[name]) for name, scores in record.topics.items()}
    )


def _names(found: Iterable[str]) -> str:
    return ", ".join(found)[:100]


def _read_values(path: Path) -> dict[str, dict[str, Any]]:
    try:
        value = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f"{path}: written in another format; allowed is {FORMAT}")
    return check_type(value.get("values"), dict[str, dict[str, Any]], f"{path}: values")


def _checked(where: str, name: str, scores: TopicScores, by_query: Any) -> TopicScores:
    """Scores with their values by query. Raises: InputError where these do not give the means."""
    for measure, values in check_type(by_query, dict[str, Any], f"{where}: {name}").items():
        try:
            mean = math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else math.nan
            wrong = len(values) > scores.queries or not math.isclose(mean, scores.means[measure], abs_tol=1e-5)
        except (KeyError, TypeError, OverflowError) as error:
            raise InputError(f"{where}: topics.{name}: {measure}: no values of a measure that has a mean") from error
        if wrong:
            raise InputError(
                f"{where}: topics.{name}, {measure}: {len(values)} values with mean {mean:#.6g}; the record says otherwise"
            )
    return replace(scores, by_query=by_query)
