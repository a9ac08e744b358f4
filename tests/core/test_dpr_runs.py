"""DPR's retrieval output, read and written."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core import dpr_runs
from taco_ir.core.dpr_runs import json_list, read_dpr, write_dpr
from taco_ir.core.files import InputError
from taco_ir.core.types import Passage, Query, Ranking, Run

QUERIES = [Query("q1", "who wrote it", "nq", ("J. S. Bach",)), Query("q2", "who else", "nq"), Query("q3", "none", "nq")]
PASSAGES = {"a": Passage("a", "1", "Suites", "By J S Bach, who else."), "b": Passage("b", "2", "", "Bachelors.")}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    run = Run({"q1": Ranking.of(["a", "b"], [2.5, 1e-8]), "q2": Ranking.of(["b"], [-3])})
    write_dpr(run, QUERIES, PASSAGES, tmp_path / "run.json")
    found = read_dpr(tmp_path / "run.json", QUERIES)
    assert {qid: list(ranking.docids) for qid, ranking in found.rankings.items()} == {
        "q1": ["a", "b"],
        "q2": ["b"],
        "q3": [],
    }
    assert np.array_equal(found.rankings["q1"].scores, run.rankings["q1"].scores)


def test_an_answer_counts_as_whole_words(tmp_path: Path) -> None:
    queries = [Query("q", "who", "nq", ("Bach",))]
    write_dpr(Run({"q": Ranking.of(["a", "b"], [2, 1])}), queries, PASSAGES, tmp_path / "run.json")
    (record,) = json.loads((tmp_path / "run.json").read_text())
    assert [context["has_answer"] for context in record["ctxs"]] == [True, False]
    assert record["answers"] == ["Bach"]


@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.integers(-(2**63), 2**63 - 1) | st.lists(st.text()))),
    st.integers(1, 9),
)
def test_a_list_is_read_in_chunks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, records: list, size: int
) -> None:  # type: ignore[type-arg]
    path = tmp_path_factory.mktemp("lists") / "list.json"
    path.write_text(json.dumps(records, indent=size % 3 or None, ensure_ascii=bool(size % 2)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpr_runs, "CHUNK", size)
        assert list(json_list(path)) == records


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a JSON list of objects, or cut short, at ''"),
        ("{}", "not a JSON list of objects, or cut short"),
        ('[{"question": "who wrote it"', "cut short, at .*question"),
        ("[1]", "must be an object, but this is '1.'"),
        ('[{"question": "who wrote it"}]', "record 1: .* has no question and ctxs; DPR's output needs both"),
        ('[{"question": "another", "ctxs": []}]', "record 1: question 'another' is not among the 3 queries"),
        ('[{"question": "who else", "ctxs": []}, {"question": "who else", "ctxs": []}]', "record 2: .* appears twice"),
        ('[{"question": "none", "ctxs": [{"id": "a"}]}]', "record 1: context .*'id': 'a'.* needs an id and a finite"),
        ('[{"question": "none", "ctxs": [{"id": "a", "score": "nan"}]}]', "needs an id and a finite score"),
        (
            '[{"question": "none", "ctxs": [{"id": "a", "score": 1}, {"id": "a", "score": 0}]}]',
            "record 1: question 'none' lists a passage twice",
        ),
        ('[{"a": ' + "[" * 100_000, "nested too deeply|cut short"),
    ],
)
def test_a_mistake_is_named_with_its_record(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_dpr(path, QUERIES)
