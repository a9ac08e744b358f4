"""Results as files: what is written is read again, and whatever is not whole is refused by name."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.studies.records import QUERIES_SUFFIX, SUFFIX, Result, TopicScores, read_result, read_results, write_result

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
    Result,
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
SCORES = TopicScores(4, "f" * 16, {"page R-precision": 0.625, "page recall@5": 0.5}, {"page R-precision": [1.0, 0.5, 1.0, 0.0]})
RESULT = Result("taco", "TACO", "minilm-l6", 1, "whole", 9, "c" * 16, {"nq-dev": SCORES, "wow-dev": SCORES}, {"seconds": 1.5})
VALUES = f"{RESULT.name}{QUERIES_SUFFIX}"
RECORD = f"{RESULT.name}{SUFFIX}"


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
def test_what_is_written_is_read_again(result: Result) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = write_result(Path(name), result)
        assert path.name == f"{result.condition}.{result.seed}.{result.corpus}.json"
        assert read_result(path) == result and read_results(Path(name)) == [result]
        first = files(Path(name))
        write_result(Path(name), read_result(path))
        assert files(Path(name)) == first


def test_equal_results_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(tmp_path / "a", RESULT)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_result(tmp_path / "b", RESULT)
    assert files(tmp_path / "a") == files(tmp_path / "b") and len(files(tmp_path / "a")) == 2
    assert RESULT.topics["nq-dev"].means["page recall@5"] == 0.5  # writing leaves the result as it was


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for seed in (2, 0, 1):
        write_result(tmp_path, replace(RESULT, seed=seed))
    assert [result.seed for result in read_results(tmp_path)] == [0, 1, 2]


KILLED = """
import os, sys
from pathlib import Path
from taco_ir.studies.records import TopicScores, Result, write_result
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
write_result(Path(sys.argv[1]), Result("taco", "TACO", "", 1, "whole", 9, "c", {"nq-dev": TopicScores(1, "f", {"m": 1.0}, {"m": [1.0]})}))
"""


@pytest.mark.parametrize("moment", [1, 2, 3])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("there", [False, True])
def test_killed_on_the_way_it_leaves_a_whole_record_or_none(tmp_path: Path, moment: int, when: str, there: bool) -> None:
    """The three acts are: a record of before goes, the values come, the record comes."""
    if there:
        write_result(tmp_path, RESULT)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(moment), when], check=False)
    assert done.returncode == 9
    whole = {(1, "before"): RESULT if there else None, (3, "after"): "new"}.get((moment, when))
    records = list(tmp_path.glob(f"*{SUFFIX}"))
    assert [read_result(path).topics for path in records] == [
        RESULT.topics if whole is RESULT else {"nq-dev": TopicScores(1, "f", {"m": 1.0}, {"m": [1.0]})}
    ] * (whole is not None)
    write_result(tmp_path, RESULT)
    assert read_results(tmp_path) == [RESULT]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(tmp_path, RESULT)
    before = files(tmp_path)

    def full(*_: Any, **__: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gzip, "compress", full)
    with pytest.raises(OSError, match="No space"):
        write_result(tmp_path, replace(RESULT, passages=10))
    assert files(tmp_path) == before


@settings(max_examples=150, deadline=None)
@example(RECORD, 0, None)
@example(VALUES, 0, None)
@example(VALUES, 40, None)
@given(st.sampled_from([RECORD, VALUES]), st.integers(0, 2000), st.one_of(st.none(), st.integers(0, 255)))
def test_damage_is_an_error_that_names_the_file_or_changes_a_remark_only(name: str, place: int, byte: int | None) -> None:
    """Cut at a place (byte None), or one byte changed: what is read even so has the values, and the means that these give."""
    with tempfile.TemporaryDirectory() as folder:
        write_result(Path(folder), RESULT)
        path = Path(folder) / name
        whole = path.read_bytes()
        place %= len(whole)
        path.write_bytes(whole[:place] if byte is None else whole[:place] + bytes([byte]) + whole[place + 1 :])
        try:
            (found,) = read_results(Path(folder))
        except InputError as error:
            assert str(Path(folder) / RESULT.name) in str(error) and "\n" not in str(error)
            return
        assert (found.name, len(found.topics)) == (RESULT.name, 2)
        assert byte is not None or (name, place) == (RECORD, len(whole) - 1)  # the last line end
        for scores in found.topics.values():
            assert list(scores.by_query.values()) == [SCORES.by_query["page R-precision"]]
            assert scores.means["page R-precision"] == pytest.approx(0.625, abs=1e-5)


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        record = json.loads((folder / RECORD).read_text())
        change(record)
        (folder / RECORD).write_text(json.dumps(record))

    return make


def values(value: Any) -> Callable[[Path], object]:
    text = json.dumps({"nq-dev": {"page R-precision": value}, "wow-dev": {}})
    return lambda folder: (folder / VALUES).write_bytes(gzip.compress(text.encode()))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (changed(lambda record: record["topics"]["nq-dev"]["means"].update({"page R-precision": 0.6251})), "4 values with mean 0.625000"),
        (values([1.0, 0.5, 1.0]), "nq-dev, page R-precision: 3 values with mean 0.833333; the record says otherwise"),
        (values([1.0, 0.5, 1.0, 0.0, 0.625]), "5 values with mean 0.625000; the record says otherwise"),
        (values([]), "0 values with mean nan"),
        (values([math.inf, -math.inf]), "2 values with mean nan"),
        (values([10**400]), "not the record of a result (OverflowError"),
        (values("high"), "not the record of a result (TypeError"),
        (changed(lambda record: record["topics"]["nq-dev"]["means"].pop("page R-precision")), "KeyError: 'page R-precision'"),
        (changed(lambda record: record["topics"].pop("wow-dev")), "has no wow-dev, of which the values beside it are"),
        (changed(lambda record: record["topics"].update(x=record["topics"]["nq-dev"])), "KeyError: 'x'"),
        (changed(lambda record: record.update(format=2)), "written in another format; allowed is 1"),
        (changed(lambda record: record.pop("seed")), "missing 1 required positional argument: 'seed'"),
        (changed(lambda record: record.update(seeds=1)), "unexpected keyword argument 'seeds'"),
        (changed(lambda record: record.update(topics=[])), "not the record of a result"),
        (lambda folder: (folder / RECORD).write_text("[1]"), "not the record of a result"),
        (lambda folder: (folder / RECORD).write_text("{"), "not valid JSON"),
        (lambda folder: (folder / VALUES).unlink(), f"{VALUES}: cannot be read"),
        (lambda folder: (folder / VALUES).write_bytes(b"{}"), f"{VALUES}: cannot be read"),
        (lambda folder: (folder / VALUES).write_bytes(gzip.compress(b"[]")), "not the record of a result"),
        (lambda folder: [path.rename(path.with_name(path.name.replace("taco", "copy"))) for path in folder.iterdir()], "copy.1.whole.json"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    write_result(tmp_path, RESULT)
    make(tmp_path)
    with pytest.raises(InputError) as error:
        read_results(tmp_path)
    assert said in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_values_within_rounding_are_taken(tmp_path: Path) -> None:
    thirds = TopicScores(3, "f", {"m": 1 / 3}, {"m": [0.333333] * 3})
    write_result(tmp_path, replace(RESULT, topics={"nq-dev": thirds}))
    assert read_results(tmp_path)[0].topics == {"nq-dev": thirds}


def test_no_result_holds_what_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(tmp_path, replace(RESULT, made={"seconds": math.nan}))
    assert files(tmp_path) == {}


def test_folders_without_results(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder; .* python -m taco_ir\.reproduce"):
        read_results(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no results in it \(\*\.json\)"):
        read_results(tmp_path)
