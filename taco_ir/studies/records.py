"""Records of a study: the scores of each run of a system, with the values of every query for paired tests.

`records.jsonl` has a line for each record, sorted by name and with a hash of itself, so that people and `git diff` can
read it. `queries.json.gz` maps hashes to values by query, and each record names the hash of its values. Values of a
replaced record stay until the next write, so the two files always match, even if a process is killed.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
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


def row_name(system: str, base: str) -> str:
    """Return the name of a leaderboard row: the system and, in parentheses, its base model if it has one."""
    return f"{system} ({base})" if base else system


@dataclass(frozen=True)
class TopicScores:
    """Scores of one run on one set of topics.

    Attributes:
        queries: number of queries.
        fingerprint: hash of the queries and their gold; only runs with equal hashes can be compared query by query.
        means: the mean over the queries, not rounded, by measure as it is printed (`page R-precision`).
        by_query: values of the queries by measure, with six digits, in the order of the topics. Only queries with the
            gold that the measure needs have a value. Empty if only means were kept.
        part_of: for a slice, the topics that it is part of; otherwise "". Slices do not count in averages.
    """

    queries: int
    fingerprint: str
    means: Mapping[str, float]
    by_query: Mapping[str, Sequence[float]] = field(default_factory=dict)
    part_of: str = ""


@dataclass(frozen=True)
class Record:
    """The scores of one run of one system, and how the run was made.

    Attributes:
        condition: name in the conditions file. Several conditions may form one system, with a model for each task.
        system: name of the system on leaderboards.
        base: the encoder that training started from; "" for BM25.
        seed: random seed of the training.
        corpus: name of the passages searched; scores on different corpora never share a column.
        passages: number of passages.
        collection: fingerprint of the passages.
        topics: scores by name of topics.
        made: commands, versions, seconds, memory and commit, to reproduce the run.
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
        """The record's name, unique in its study."""
        return f"{self.condition}.{self.seed}.{self.corpus}"

    @property
    def row(self) -> str:
        return row_name(self.system, self.base)

    @property
    def values(self) -> Values:
        return {name: dict(scores.by_query) for name, scores in self.topics.items()}


def write_record(folder: Path, record: Record) -> None:
    """Add a record to the records of a folder; a record with the same name is replaced."""
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
    """Read all records of a folder, sorted by name.

    Raises:
        InputError: if the folder has no records, or if a record is damaged, naming file, line and fault.
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
        except InputError:
            raise
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON ({error})") from error
        own = values.get(str(value.pop("values", "")))
        if own is None:
            raise InputError(f"{where}: its values are not in {QUERIES}; run the job again")
        record = _read_record(where, value, own)
        if check != whole:
            raise InputError(
                f"{where}: the record was changed by hand: check is {abbreviate(check)}, but its fields give "
                f"{whole}; run the job again"
            )
        if found.setdefault(record.name, record) is not record:
            raise InputError(f"{where}: another record is called {record.name}; remove one of the lines")
    if not found:
        raise InputError(f"{path}: no records in it; they are written by python -m taco_ir.reproduce")
    return [record for _, record in sorted(found.items())]


def find_records(folder: Path, names: Sequence[str]) -> list[Record]:
    """Read the records with these names, in this order. Raises: InputError for an unknown name."""
    found = {record.name: record for record in read_records(folder)}
    if missing := [name for name in names if name not in found]:
        raise InputError(f"{folder / RECORDS}: no record is called {missing[0]}; run `python -m taco_ir.reproduce`")
    return [found[name] for name in names]


def save_record(path: Path, record: Record) -> None:
    """Write one record with its values to a separate file."""
    write_json(path, {"format": FORMAT, **asdict(record)})


def load_record(path: Path) -> Record:
    """Read a record that `save_record` wrote. Raises: InputError if the file is damaged."""
    value = read_json(path, dict[str, Any])
    topics = check_type(value.get("topics"), dict[str, dict[str, Any]], f"{path}: topics")
    by_query = {name: scores.pop("by_query", {}) for name, scores in topics.items()}
    return _read_record(str(path), value | {"topics": topics}, by_query)


def _read_record(where: str, value: dict[str, Any], values: Mapping[str, Any]) -> Record:
    """Make a record with its values by query. Raises: InputError if their means are not the recorded means."""
    if (version := value.pop("format", None)) != FORMAT:
        raise InputError(f"{where}: format is {abbreviate(version)}; this version reads only {FORMAT}")
    record = check_type(value, Record, where)
    if values.keys() != record.topics.keys():
        ours, theirs = (", ".join(names)[:100] for names in (record.topics, values))
        raise InputError(f"{where}: its topics are {ours}, but its values are for {theirs}; run the job again")
    topics = {name: _with_values(where, name, scores, values[name]) for name, scores in record.topics.items()}
    return replace(record, topics=topics)


def _read_values(path: Path) -> dict[str, dict[str, Any]]:
    try:
        value = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run the jobs again") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f"{path}: its format is not {FORMAT}, the only one that this version reads")
    return check_type(value.get("values"), dict[str, dict[str, Any]], f"{path}: values")


def _with_values(where: str, name: str, scores: TopicScores, by_query: Any) -> TopicScores:
    for measure, values in check_type(by_query, dict[str, Any], f"{where}: {name}").items():
        try:
            mean = math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else math.nan
            wrong = len(values) > scores.queries or not math.isclose(mean, scores.means[measure], abs_tol=1e-5)
        except (KeyError, TypeError, OverflowError) as error:
            raise InputError(
                f"{where}: topics.{name}: {measure}: the measure has a mean, but no values by query; run the job again"
            ) from error
        if wrong:
            raise InputError(
                f"{where}: topics.{name}, {measure}: {len(values)} values have the mean {mean:#.6g}, which is not "
                "the mean in the record; run the job again"
            )
    return replace(scores, by_query=by_query)
