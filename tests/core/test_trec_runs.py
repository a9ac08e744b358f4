"""Law: a TREC run that is written and read is the same run, in trec_eval's order; every malformed line is named."""

import gc
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import ranked
from taco_ir.core.types import Names, Ranking, Run, read_msmarco, read_trec, write_trec
from taco_ir.retrieval.retrievers import reciprocal_rank_fusion

names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8).filter(
    lambda name: len(name.split()) == 1
)
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


MOST = 60  # bytes of a hit


def bytes_a_hit(make: Callable[[], Run]) -> float:
    """Memory that a run keeps, and at most takes on the way, by hit; the second for what grows with the run."""
    gc.collect()
    tracemalloc.start()
    try:
        run = make()
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return kept / sum(len(ranking.docids) for ranking in run.rankings.values())


def names_of(query: int) -> list[str]:
    return [f"{query * 7919 + place}#{place}" for place in range(100)]


@pytest.mark.parametrize("order", ["by query", "by rank"])
def test_a_run_that_is_read_takes_few_bytes_a_hit(tmp_path, order):
    lines = [
        (place, f"q{query} Q0 {name} {place} {100 - place}.25 t\n")
        for query in range(300)
        for place, name in enumerate(names_of(query))
    ]
    if order == "by rank":
        lines.sort(key=lambda line: line[0])
    path = tmp_path / "run.trec"
    path.write_text("".join(line for _, line in lines))
    assert bytes_a_hit(lambda: read_trec(path)) < MOST


@pytest.mark.parametrize("kind", ["searched", "pages", "fused", "cut"])
def test_a_run_that_is_made_takes_few_bytes_a_hit(kind):
    def made(hits: int = 100) -> Run:
        return Run({f"q{query}": Ranking.of(names_of(query)[:hits], np.arange(hits, 0, -1.0)) for query in range(300)})

    makers = {
        "searched": made,
        "pages": lambda: Run({f"q{query}": ranked(names_of(query)) for query in range(300)}, "page"),
        "fused": lambda: reciprocal_rank_fusion([made()], 100),
        "cut": lambda: Run(
            {f"q{query}": Ranking.of(names_of(query) * 5, np.arange(500, 0, -1.0)).top(50) for query in range(300)}
        ),
    }
    assert bytes_a_hit(makers[kind]) < MOST


@given(st.lists(st.text(max_size=5), max_size=6))
def test_names_are_the_list_that_they_were_made_of(given_):
    names = Names.of(given_)
    assert list(names) == given_ and names == given_ and given_ == names and len(names) == len(given_)
    assert names[1:3] == given_[1:3] and [name in names for name in given_] == [True] * len(given_)
    assert (names == [*given_, "x"]) is False
    assert isinstance(names, list) == any("\n" in name for name in given_)


numbers = st.one_of(
    floats.map(lambda value: str(np.float32(value))),
    st.from_regex(r"-?[0-9]{0,18}\.?[0-9]{0,18}(e-?[0-9]{1,2})?", fullmatch=True).filter(bool),
    st.sampled_from(
        ["+1.5", ".5", "5.", "-0.0", "1_0", "1e400", "0x1p3", "-", ".", "--1", "1.2.3", "nan", "1e-50", "16777217"]
    ),
)


@given(st.lists(numbers, min_size=1, max_size=5), st.sampled_from(["", "\u00fc", "\u3000"]))
def test_a_score_is_what_python_reads_whether_lines_are_plain_or_not(texts, letter):
    """A wide blank in a tag makes a line of seven columns; anything else is read, block-wise or line by line, as float() does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.trec"
        path.write_text(
            "".join(f"q Q0 d{row} 1 {text} t{letter}g\n" for row, text in enumerate(texts)), encoding="utf-8"
        )
        try:
            with np.errstate(over="ignore"):
                expected = [np.float32(float(text)) for text in texts]
            right = bool(np.isfinite(expected).all()) and letter != "\u3000"
        except ValueError:
            right = False
        if not right:
            with pytest.raises(InputError, match=r"line \d: (score|7 columns)"):
                read_trec(path)
            return
        ranking = read_trec(path).rankings["q"]
        assert dict(zip(ranking.docids, ranking.scores.tolist(), strict=True)) == {
            f"d{row}": value for row, value in enumerate(expected)
        }


def test_a_run_longer_than_a_block_is_read_whole(tmp_path, monkeypatch):
    """Queries go over the ends of blocks; one long id, a blank line and a docid given twice far apart are found where they are."""
    monkeypatch.setattr("taco_ir.core.run_columns.BLOCK", 500)
    hits_of = {f"q{query}": {name: 100.0 - place for place, name in enumerate(names_of(query))} for query in range(5)}
    hits_of["q" * 300] = {"d": 1.0}
    path = tmp_path / "run.trec"
    write_trec(run_of(hits_of), path, "tag")
    text = path.read_text()
    path.write_text(text.replace("\nq3 ", "\n\nq3 ", 1).replace("\n", "\r\n"))
    run = read_trec(path)
    assert {
        qid: dict(zip(ranking.docids, ranking.scores.tolist(), strict=True)) for qid, ranking in run.rankings.items()
    } == hits_of
    path.write_text(text + f"q0 Q0 {names_of(0)[0]} 1 0.0 t\n")
    with pytest.raises(InputError, match=r"line 502: docid '0#0' is given twice for query 'q0'"):
        read_trec(path)
    path.write_text(text + "q0 Q0 late 1 x t\n")
    with pytest.raises(InputError, match=r"line 502: score 'x' of query 'q0'"):
        read_trec(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1\td2\t0", "line 2: rank '0' of query 'q1'; it must be a whole number from 1"),
        ("q1\td2\t1.5", "line 2: rank '1.5'"),
        ("q1\td2\tx", "line 2: rank 'x'"),
        ("q1\td2", "line 2: 2 columns 'q1\\td2'; an MS MARCO run has 3: qid docid rank"),
        ("q1\td1\t2", "line 2: docid 'd1' is given twice for query 'q1'"),
        ("q1\td2\t1", "rank 1 is given twice for query 'q1'"),
    ],
)
def test_malformed_msmarco_lines_are_named(tmp_path, line, message):
    path = tmp_path / "run.tsv"
    path.write_text(f"q1\td1\t1\n{line}\n")
    with pytest.raises(InputError) as caught:
        read_msmarco(path)
    assert message in str(caught.value)
