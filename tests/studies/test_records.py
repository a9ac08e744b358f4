"""Results as files: what is written is read again, and whatever is not whole is refused by name."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.hashes import fingerprint
from taco_ir.studies.records import (
    QUERIES,
    RECORDS,
    Record,
    TopicScores,
    load_record,
    read_records,
    save_record,
    write_record,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
stems = st.from_regex(r"[a-z0-9_-]{1,12}", fullmatch=True)
measures = st.sampled_from(["page R-precision", "page recall@5", "passage MRR@10"])
values_of = st.lists(st.floats(0, 1).map(lambda value: round(value, 6)), min_size=1, max_size=8)
finite = st.floats(0, 1)


@st.composite
def topic_scores(draw: st.DrawFn) -> TopicScores:
    """Some measures with values, some with means alone; a passage measure may apply to fewer queries than there are."""
    by_query = draw(st.dictionaries(measures, values_of, max_size=3))
    means = draw(st.dictionaries(measures, finite, max_size=3)) | {
        name: math.fsum(values) / len(values) for name, values in by_query.items()
    }
    queries = max((len(values) for values in by_query.values()), default=0) + draw(st.integers(0, 3))
    return TopicScores(queries, draw(texts), means, by_query, draw(texts))


results = st.builds(
    Record,
    condition=stems,
    system=texts,
    base=texts,
    seed=st.integers(0, 99),
    corpus=stems,
    passages=st.integers(0, 10**9),
    collection=texts,
    topics=st.dictionaries(texts, topic_scores(), max_size=3),
    made=st.dictionaries(texts, st.one_of(texts, st.integers(), st.none(), st.lists(texts, max_size=2)), max_size=3),
)
SCORES = TopicScores(
    4, "f" * 16, {"page R-precision": 0.625, "page recall@5": 0.5}, {"page R-precision": [1.0, 0.5, 1.0, 0.0]}
)
RESULT = Record(
    "taco", "TACO", "minilm-l6", 1, "whole", 9, "c" * 16, {"nq-dev": SCORES, "wow-dev": SCORES}, {"seconds": 1.5}
)


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Hundreds of results are written here; what a power cut leaves is not asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(deadline=None)
@given(results)
def test_what_is_written_is_read_again(result: Record) -> None:
    with tempfile.TemporaryDirectory() as name:
        write_record(Path(name), result)
        assert read_records(Path(name)) == [result]
        first = files(Path(name))
        write_record(Path(name), read_records(Path(name))[0])
        assert files(Path(name)) == first
        save_record(Path(name) / "record.json", result)
        assert load_record(Path(name) / "record.json") == result


def test_equal_results_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path / "a", RESULT)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_record(tmp_path / "b", RESULT)
    assert files(tmp_path / "a") == files(tmp_path / "b") and len(files(tmp_path / "a")) == 2
    assert RESULT.topics["nq-dev"].means["page recall@5"] == 0.5  # writing leaves the result as it was


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for seed in (2, 0, 1):
        write_record(tmp_path, replace(RESULT, seed=seed))
    assert [result.seed for result in read_records(tmp_path)] == [0, 1, 2]
    first = files(tmp_path)
    for seed in (1, 2, 0):
        write_record(tmp_path / "again", replace(RESULT, seed=seed))
    assert files(tmp_path / "again") == first


def test_writers_at_once_lose_no_record(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: write_record(tmp_path, replace(RESULT, seed=seed)), range(12)))
    assert [result.seed for result in read_records(tmp_path)] == sorted(range(12), key=str)


KILLED = """
import os, sys
from pathlib import Path
from taco_ir.studies.records import TopicScores, Record, write_record
moment, after = int(sys.argv[2]), sys.argv[3] == "after"
calls, acts = 0, {name: getattr(Path, name) for name in ("replace", "unlink")}
def dying(name):
    def act(path, *args, **kwargs):
        global calls
        if path.suffix == ".lock":
            return acts[name](path, *args, **kwargs)
        calls += 1
        if calls == moment and not after:
            os._exit(9)
        done = acts[name](path, *args, **kwargs)
        if calls == moment:
            os._exit(9)
        return done
    return act
for name in acts:
    setattr(Path, name, dying(name))
scores = TopicScores(1, "f", {"m": 1.0}, {"m": [1.0]})
write_record(Path(sys.argv[1]), Record("taco", "TACO", "", 1, "whole", 9, "c", {"nq-dev": scores}))
"""
OTHER = replace(RESULT, seed=0)


@pytest.mark.parametrize("moment", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("there", [False, True])
def test_killed_on_the_way_it_leaves_the_records_of_before_or_the_new_one(
    tmp_path: Path, moment: int, when: str, there: bool
) -> None:
    """The values are written, then the records. Other records stay, and the next write repairs everything."""
    new = Record("taco", "TACO", "", 1, "whole", 9, "c", {"nq-dev": TopicScores(1, "f", {"m": 1.0}, {"m": [1.0]})})
    for folder in (tmp_path / "killed", tmp_path / "whole"):
        for before in (OTHER, RESULT) if there else (OTHER,):
            write_record(folder, before)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(moment), when], check=False)
    assert done.returncode == 9
    written = (moment, when) == (2, "after")
    assert read_records(tmp_path / "killed") == [OTHER, *([new] if written else [RESULT] if there else [])]
    for folder in (tmp_path / "killed", tmp_path / "whole"):
        write_record(folder, new)
        assert read_records(folder) == [OTHER, new]
    kept = {name: data for name, data in files(tmp_path / "killed").items() if name in (RECORDS, QUERIES)}
    assert written or kept == files(tmp_path / "whole")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path, RESULT)
    before = files(tmp_path)

    def full(*_: Any, **__: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gzip, "compress", full)
    with pytest.raises(OSError, match="No space"):
        write_record(tmp_path, replace(RESULT, passages=10))
    assert files(tmp_path) == before


@settings(max_examples=150, deadline=None)
@example(RECORDS, 0, None)
@example(QUERIES, 0, None)
@example(QUERIES, 40, None)
@given(st.sampled_from([RECORDS, QUERIES]), st.integers(0, 2000), st.one_of(st.none(), st.integers(0, 255)))
def test_damage_is_an_error_that_names_the_file_or_changes_a_remark_only(
    name: str, place: int, byte: int | None
) -> None:
    """Cut at a place (byte None), or with one byte changed: a record that is read even so has its values and means."""
    with tempfile.TemporaryDirectory() as folder:
        write_record(Path(folder), RESULT)
        path = Path(folder) / name
        whole = path.read_bytes()
        place %= len(whole)
        path.write_bytes(whole[:place] if byte is None else whole[:place] + bytes([byte]) + whole[place + 1 :])
        try:
            (found,) = read_records(Path(folder))
        except InputError as error:
            assert str(Path(folder)) in str(error) and "\n" not in str(error)
            return
        assert (found.name, len(found.topics)) == (RESULT.name, 2)
        assert byte is not None or (name, place) == (RECORDS, len(whole) - 1)  # the last line end
        for scores in found.topics.values():
            assert list(scores.by_query.values()) == [SCORES.by_query["page R-precision"]]
            assert scores.means["page R-precision"] == pytest.approx(0.625, abs=1e-5)


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        record = json.loads((folder / RECORDS).read_text())
        change(record)
        (folder / RECORDS).write_text(json.dumps(record) + "\n")

    return make


def values(value: Any) -> Callable[[Path], object]:
    text = json.dumps(
        {"format": 2, "values": {fingerprint(RESULT.values): {"nq-dev": {"page R-precision": value}, "wow-dev": {}}}}
    )
    return lambda folder: (folder / QUERIES).write_bytes(gzip.compress(text.encode()))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            changed(lambda record: record["topics"]["nq-dev"]["means"].update({"page R-precision": 0.6251})),
            "4 values have the mean 0.625000",
        ),
        (values([1.0, 0.5, 1.0]), "nq-dev, page R-precision: 3 values have the mean 0.833333, which is not"),
        (values([1.0, 0.5, 1.0, 0.0, 0.625]), "5 values have the mean 0.625000, which is not"),
        (values([]), "0 values have the mean nan"),
        (values([math.inf, -math.inf]), "2 values have the mean nan"),
        (values([10**400]), "page R-precision: the measure has a mean, but no values"),
        (values("high"), "page R-precision: the measure has a mean, but no values"),
        (
            changed(lambda record: record["topics"]["nq-dev"]["means"].pop("page R-precision")),
            "page R-precision: the measure has a mean, but no values",
        ),
        (
            changed(lambda record: record["topics"].pop("wow-dev")),
            "its topics are nq-dev, but its values are for nq-dev, wow-dev",
        ),
        (
            changed(lambda record: record["topics"].update(x=record["topics"]["nq-dev"])),
            "its topics are nq-dev, wow-dev, x, but its values are for nq-dev, wow-dev",
        ),
        (changed(lambda record: record.update(format=1)), "format is 1; this version reads only 2"),
        (changed(lambda record: record.pop("seed")), "line 1: key seed is missing"),
        (changed(lambda record: record.update(seeds=1)), "line 1: unknown key 'seeds'; did you mean seed?"),
        (changed(lambda record: record.update(topics=[])), "topics is []; it must be an object"),
        (lambda folder: (folder / RECORDS).write_text("[1]"), "line 1: [1]; an object is needed"),
        (lambda folder: (folder / RECORDS).write_text("{"), "records.jsonl, line 1: not valid JSON"),
        (lambda folder: (folder / QUERIES).unlink(), f"{QUERIES}: cannot be read"),
        (lambda folder: (folder / QUERIES).write_bytes(b"{}"), f"{QUERIES}: cannot be read"),
        (
            lambda folder: (folder / QUERIES).write_bytes(gzip.compress(b"[]")),
            "its format is not 2, the only one that this version reads",
        ),
        (changed(lambda record: record.update(corpus="other")), "the record was changed by hand: check is "),
        (changed(lambda record: record.update(values="0" * 16)), f"its values are not in {QUERIES}"),
        (
            lambda folder: (folder / RECORDS).write_text((folder / RECORDS).read_text() * 2),
            "line 2: another record is called taco.1.whole; remove one of the lines",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    write_record(tmp_path, RESULT)
    make(tmp_path)
    with pytest.raises(InputError) as error:
        read_records(tmp_path)
    assert said in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_values_within_rounding_are_taken(tmp_path: Path) -> None:
    thirds = TopicScores(3, "f", {"m": 1 / 3}, {"m": [0.333333] * 3})
    write_record(tmp_path, replace(RESULT, topics={"nq-dev": thirds}))
    assert read_records(tmp_path)[0].topics == {"nq-dev": thirds}


def test_no_result_holds_what_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(tmp_path, replace(RESULT, made={"seconds": math.nan}))
    assert files(tmp_path) == {}


def test_folders_without_results(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/records.jsonl: no such file; .* python -m taco_ir\.reproduce"):
        read_records(tmp_path / "nowhere")
    (tmp_path / RECORDS).touch()
    (tmp_path / QUERIES).write_bytes(gzip.compress(b'{"format": 2, "values": {}}'))
    with pytest.raises(InputError, match=r"records.jsonl: no records in it"):
        read_records(tmp_path)
