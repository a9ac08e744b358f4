"""Law: a TREC run that is written and read is the same run, in trec_eval's order; every malformed line is named."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.files import InputError
from taco_ir.records import Ranking, Run, read_trec, write_trec

names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8).filter(lambda name: len(name.split()) == 1)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
hits = st.dictionaries(names, st.one_of(floats, st.sampled_from([0.0, -0.0, 1.0])), min_size=1, max_size=8)
GOOD = "q1 Q0 d1 1 2.5 tag"


def run_of(hits_of):
    return Run({qid: Ranking.of(list(scores), list(scores.values())) for qid, scores in hits_of.items()})


def canonical(scores):
    by_docid = sorted(scores, reverse=True)
    return sorted(by_docid, key=lambda docid: -np.float32(scores[docid]))


@given(st.dictionaries(names, hits, max_size=4))
def test_round_trip_keeps_every_float32_and_the_order_of_ties(hits_of):
    run = run_of(hits_of)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.trec"
        write_trec(run, path, "tag")
        read = read_trec(path)
        second = Path(folder) / "second.trec"
        write_trec(read, second, "tag")
        assert second.read_bytes() == path.read_bytes()
    assert read.level == "passage"
    assert list(read.rankings) == list(hits_of)
    for qid, ranking in read.rankings.items():
        assert ranking.docids == run.rankings[qid].docids == canonical(hits_of[qid])
        assert ranking.scores.dtype == np.float32
        np.testing.assert_array_equal(ranking.scores, run.rankings[qid].scores)


@given(hits, st.randoms())
def test_lines_in_any_order_with_any_ranks_are_one_run(scores, random):
    lines = [f"q Q0 {docid} {random.randint(0, 9)} {np.float32(score)!s} tag" for docid, score in scores.items()]
    random.shuffle(lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.trec"
        path.write_text("\n".join(lines), encoding="utf-8")
        assert read_trec(path).rankings["q"].docids == canonical(scores)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 Q0 d2 1 2.5", "5 columns"),
        ("q1 Q0 d2 1 2.5 tag more", "columns"),
        ("q1 Q0 d2 1 high tag", "score 'high' of query 'q1'"),
        ("q1 Q0 d2 1 nan tag", "score 'nan'"),
        ("q1 Q0 d2 1 inf tag", "score 'inf'"),
        ("q1 Q0 d2 1 -inf tag", "score '-inf'"),
        ("q1 Q0 d1 2 1.0 tag", "docid 'd1' is given twice for query 'q1'"),
    ],
)
def test_malformed_lines_are_named(tmp_path, line, message):
    path = tmp_path / "run.trec"
    path.write_text(f"{GOOD}\n\n{line}\nq2 Q0 d1 1 0.5 tag\n")
    with pytest.raises(InputError) as caught:
        read_trec(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert message in str(caught.value)


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "run.trec"
    path.write_bytes(f"{GOOD}\n".encode() + b"q1 Q0 d\xff 2 1.0 tag\n")
    with pytest.raises(InputError, match=r"line 2: not UTF-8 \(byte 0xff"):
        read_trec(path)


@given(hits, st.integers(0, 9))
def test_the_top_is_a_prefix(scores, count):
    ranking = Ranking.of(list(scores), list(scores.values()))
    assert ranking.top(count).docids == ranking.docids[:count]
    assert len(ranking.top(count).scores) == min(count, len(scores))


def test_tied_share_counts_equal_neighbours():
    assert run_of({"q": {"a": 1.0, "b": 1.0, "c": 0.0}, "r": {"a": 1.0}}).tied_share == 0.5
    assert run_of({}).tied_share == 0.0


def test_a_name_with_white_space_makes_one_column(tmp_path: Path) -> None:
    """Models have such, since folders have."""
    write_trec(Run({"q": Ranking.of(["d"], [1.0])}), tmp_path / "x.trec", "my model\u00a0v 2")
    assert (tmp_path / "x.trec").read_text() == "q Q0 d 1 1.0 my_model_v_2\n"
    assert read_trec(tmp_path / "x.trec").rankings["q"].docids == ["d"]
