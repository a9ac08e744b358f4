"""Law: a run that is written and read is the same run, in trec_eval's order; every malformed line is named."""

import gc
import json
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import (
    missing_topics,
    rank_pages,
    read_kilt,
    read_msmarco,
    read_run,
    read_trec,
    write_kilt,
    write_msmarco,
    write_trec,
)
from taco_ir.core.types import Names, Query, Ranking, Run, run_id
from taco_ir.retrieval.fusion import reciprocal_rank_fusion

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
page_ids = ids.map(str.strip)
GOOD = '{"id": "q1", "output": [{"provenance": [{"wikipedia_id": "7"}]}]}'


def docids_of(run):
    return {qid: ranking.docids for qid, ranking in run.rankings.items()}


def queries_of(record_ids):
    return [Query(run_id(record_id), f"text of {record_id}", "nq", record_id=record_id) for record_id in record_ids]


@given(st.dictionaries(ids, st.lists(page_ids, unique=True, max_size=6), max_size=5), st.randoms())
def test_round_trip(pages_of, random):
    queries = queries_of({run_id(record_id): record_id for record_id in pages_of}.values())
    run = Run({query.qid: rank_pages(pages_of[query.record_id]) for query in queries}, level="page")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        shuffled = random.sample(queries, len(queries))
        write_kilt(run, shuffled, path)
        read = read_kilt(path)
        records = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert read.level == "page"
    assert docids_of(read) == docids_of(run)
    written = [(record["id"], record["input"]) for record in records]
    assert written == [(query.record_id, query.text) for query in shuffled]
    assert list(read.rankings) == [query.qid for query in shuffled]
    for ranking in read.rankings.values():
        assert ranking.scores.dtype == np.float32
        assert np.all(ranking.scores[:-1] > ranking.scores[1:])
        assert Ranking.of(ranking.docids, ranking.scores).docids == ranking.docids


@given(st.lists(page_ids, max_size=8), st.lists(st.sampled_from(["", " ", "\t"]), min_size=8, max_size=8))
def test_the_first_of_a_repeated_page_counts_and_blanks_do_not(pages, blanks):
    provenance = [{"wikipedia_id": page + blank} for page, blank in zip(pages, blanks, strict=False)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        path.write_text(json.dumps({"id": "q", "output": [{"provenance": provenance}]}), encoding="utf-8")
        assert read_kilt(path).rankings["q"].docids == list(dict.fromkeys(pages))


def test_queries_without_hits_are_written_empty(tmp_path):
    write_kilt(Run({"b": rank_pages(["7", "5"])}, level="page"), queries_of(["a", "b"]), tmp_path / "run.jsonl")
    pages = '[{"wikipedia_id":"7"},{"wikipedia_id":"5"}]'
    assert (tmp_path / "run.jsonl").read_text().splitlines() == [
        '{"id":"a","input":"text of a","output":[{"provenance":[]}]}',
        f'{{"id":"b","input":"text of b","output":[{{"provenance":{pages}}}]}}',
    ]


def test_numbers_are_read_as_texts_and_an_output_may_lack_provenance(tmp_path):
    path = tmp_path / "run.jsonl"
    numbers = '{"id": 3, "output": [{"provenance": [{"wikipedia_id": 7}, {"wikipedia_id": "7"}]}]}'
    path.write_text(f'{numbers}\n\n{{"id": "a b", "output": [{{"answer": "x"}}]}}\n')
    assert docids_of(read_kilt(path)) == {"3": ["7"], "a_b": []}


GOOD_LINES = {read_trec: "q1 Q0 d1 1 2.5 tag", read_msmarco: "q1\td1\t1", read_kilt: GOOD}
BAD_TREC = (
    ("q1 Q0 d2 1 2.5", "5 columns"),
    ("q1 Q0 d2 1 2.5 tag more", "columns"),
    ("q1 Q0 d2 1 high tag", "score 'high' of query 'q1'"),
    ("q1 Q0 d2 1 nan tag", "score 'nan'"),
    ("q1 Q0 d2 1 inf tag", "score 'inf'"),
    ("q1 Q0 d2 1 -inf tag", "score '-inf'"),
    ("q1 Q0 d1 2 1.0 tag", "docid 'd1' is given twice for query 'q1'"),
)
BAD_MSMARCO = (
    ("q1\td2\t0", "rank '0' of query 'q1'; it must be a whole number from 1"),
    ("q1\td2\t1.5", "rank '1.5'"),
    ("q1\td2\tx", "rank 'x'"),
    ("q1\td2", "'q1\\td2' has 2 columns; an MS MARCO run has 3: qid docid rank"),
    ("q1\td1\t2", "docid 'd1' is given twice for query 'q1'"),
)
BAD_KILT = (
    ('{"id": "q2", "output"', "not valid JSON"),
    ("[1]", "is not a JSON object"),
    ('{"output": [{"provenance": []}]}', "id is None"),
    ('{"id": "", "output": [{"provenance": []}]}', "id is ''"),
    ('{"id": null, "output": [{"provenance": []}]}', "id is None"),
    ('{"id": "q2"}', "output 'None'"),
    ('{"id": "q2", "output": {}}', "output '{}'"),
    ('{"id": "q2", "output": []}', "has 0 outputs"),
    ('{"id": "q2", "output": [{}, {}]}', "has 2 outputs"),
    ('{"id": "q2", "output": ["x"]}', "output 'x'"),
    ('{"id": "q2", "output": [{"provenance": null}]}', "it must be an object with a list `provenance`"),
    (
        '{"id": "q2", "output": [{"provenance": {"wikipedia_id": "7"}}]}',
        "it must be an object with a list `provenance`",
    ),
    ('{"id": "q2", "output": [{"provenance": [{"title": "x"}]}]}', "without a wikipedia_id"),
    ('{"id": "q2", "output": [{"provenance": [{"wikipedia_id": " "}]}]}', "without a wikipedia_id"),
    ('{"id": "q2", "output": [{"provenance": [{"wikipedia_id": null}]}]}', "without a wikipedia_id"),
    ('{"id": "q2", "output": [{"provenance": ["7"]}]}', "without a wikipedia_id"),
    (GOOD, "'q1' was given on line 1"),
    ('{"id": " q1", "output": [{"provenance": []}]}', "'q1' was given on line 1"),
)
BAD_LINES = ((read_trec, BAD_TREC), (read_msmarco, BAD_MSMARCO), (read_kilt, BAD_KILT))


@pytest.mark.parametrize(("read", "line", "message"), [(read, *case) for read, cases in BAD_LINES for case in cases])
def test_malformed_lines_are_named(tmp_path, read, line, message):
    path = tmp_path / "run"
    good = GOOD_LINES[read]
    path.write_text(f"{good}\n\n{line}\n{good.replace('q1', 'q3')}\n")
    with pytest.raises(InputError) as caught:
        read(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert gc.isenabled()


def test_a_rank_that_is_given_twice_is_named(tmp_path):
    (tmp_path / "run.tsv").write_text("q1\td1\t1\nq1\td2\t1\n")
    with pytest.raises(InputError, match="rank 1 is given twice for query 'q1'"):
        read_msmarco(tmp_path / "run.tsv")


@given(st.text(max_size=60))
def test_any_line_is_read_or_refused_by_number(line):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        path.write_bytes(f"{GOOD}\n".encode() + line.replace("\n", " ").encode("utf-8", "surrogatepass"))
        try:
            run = read_kilt(path)
        except InputError as error:
            assert f"{path}, line 2: " in str(error)
        else:
            assert list(run.rankings) == ["q1"]
            assert not line.strip()


def test_the_first_character_tells_the_format(tmp_path):
    (tmp_path / "kilt").write_text(f"\n  {GOOD}\n")
    write_trec(Run({"q1": Ranking.of(["7#1"], [2.0])}), tmp_path / "trec", "tag")
    (tmp_path / "empty").write_text("")
    assert read_run(tmp_path / "kilt").level == "page"
    assert read_run(tmp_path / "trec").rankings["q1"].docids == ["7#1"]
    assert read_run(tmp_path / "empty").rankings == {}
    with pytest.raises(InputError, match="no such file"):
        read_run(tmp_path / "absent")


def test_msmarco_lines(tmp_path):
    write_msmarco(Run({"q": Ranking.of(["a", "b"], [1.0, 2.0]), "r": Ranking.of(["c"], [0.0])}), tmp_path / "run.tsv")
    assert (tmp_path / "run.tsv").read_text() == "q\tb\t1\nq\ta\t2\nr\tc\t1\n"


def test_what_is_written_for_msmarco_is_read_again(tmp_path, caplog):
    """Told by its three columns, in any order of lines; the scores are minus the ranks."""
    run = Run({"q": Ranking.of(["a", "b", "c"], [1.0, 3.0, 2.0]), "r": Ranking.of(["c"], [0.0])})
    write_msmarco(run, tmp_path / "run.tsv")
    lines = (tmp_path / "run.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "run.tsv").write_text("".join(reversed(lines)))
    caplog.set_level("INFO", "taco_ir")
    read = read_run(tmp_path / "run.tsv")
    assert read.level == "passage" and "run.tsv: read as an MS MARCO run" in caplog.text
    assert docids_of(read) == {"r": ["c"], "q": ["b", "c", "a"]}
    assert read.rankings["q"].scores.tolist() == [-1, -2, -3]


def test_a_run_of_other_topics_or_of_passages_is_not_written(tmp_path):
    with pytest.raises(InputError, match="1 of the run's 1 queries, such as 'z', are not among the 1 queries"):
        write_kilt(Run({"z": rank_pages([])}, level="page"), queries_of(["a"]), tmp_path / "run.jsonl")
    with pytest.raises(ValueError, match="'passage'"):
        write_kilt(Run({}), queries_of(["a"]), tmp_path / "run.jsonl")
    assert not list(tmp_path.iterdir())


def test_missing_topics_come_in_topic_order():
    assert missing_topics(Run({"b": rank_pages([])}, level="page"), queries_of(["c", "b", "a"])) == ["c", "a"]


# TREC


names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8).filter(
    lambda name: len(name.split()) == 1
)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
hits = st.dictionaries(names, st.one_of(floats, st.sampled_from([0.0, -0.0, 1.0])), min_size=1, max_size=8)


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


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "run.trec"
    path.write_bytes(b"q1 Q0 d1 1 2.5 tag\nq1 Q0 d\xff 2 1.0 tag\n")
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
    hits = [(place, query, name) for query in range(300) for place, name in enumerate(names_of(query))]
    if order == "by rank":
        hits.sort(key=lambda hit: hit[0])
    path = tmp_path / "run.trec"
    path.write_text("".join(f"q{query} Q0 {name} {place} {100 - place}.25 t\n" for place, query, name in hits))
    assert bytes_a_hit(lambda: read_trec(path)) < MOST


@pytest.mark.parametrize("kind", ["searched", "pages", "fused", "cut"])
def test_a_run_that_is_made_takes_few_bytes_a_hit(kind):
    def made(hits: int = 100) -> Run:
        return Run({f"q{query}": Ranking.of(names_of(query)[:hits], np.arange(hits, 0, -1.0)) for query in range(300)})

    def cut() -> Run:
        scores = np.arange(500, 0, -1.0)
        return Run({f"q{query}": Ranking.of(names_of(query) * 5, scores).top(50) for query in range(300)})

    makers = {
        "searched": made,
        "pages": lambda: Run({f"q{query}": rank_pages(names_of(query)) for query in range(300)}, "page"),
        "fused": lambda: reciprocal_rank_fusion([made()], 100),
        "cut": cut,
    }
    assert bytes_a_hit(makers[kind]) < MOST


@given(st.lists(st.text(max_size=5), max_size=6))
def test_names_are_the_list_that_they_were_made_of(given_):
    names = Names.of(given_)
    assert list(names) == given_ and names == given_ and given_ == names and len(names) == len(given_)
    assert names[1:3] == given_[1:3] and [name in names for name in given_] == [True] * len(given_)
    assert (names == [*given_, "x"]) is False
    assert isinstance(names, list) == any("\n" in name for name in given_)


@given(st.lists(st.text("ab\u00e9", max_size=3), max_size=6), st.lists(st.text("ab\u00e9\n", max_size=3), max_size=4))
def test_the_places_of_names_are_those_in_the_list(given_, wanted):
    expected = {name: given_.index(name) for name in wanted if name in given_}
    assert Names.of(given_).places(wanted) == expected


numbers = st.one_of(
    floats.map(lambda value: str(np.float32(value))),
    st.from_regex(r"-?[0-9]{0,18}\.?[0-9]{0,18}(e-?[0-9]{1,2})?", fullmatch=True).filter(bool),
    st.sampled_from(
        ["+1.5", ".5", "5.", "-0.0", "1_0", "1e400", "0x1p3", "-", ".", "--1", "1.2.3", "nan", "1e-50", "16777217"]
    ),
)


@given(st.lists(numbers, min_size=1, max_size=5), st.sampled_from(["", "\u00fc", "\u3000"]))
def test_a_score_is_what_python_reads_whether_lines_are_plain_or_not(texts, letter):
    """A wide blank in a tag makes seven columns; all else is read, by block or by line, as float() does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.trec"
        lines = [f"q Q0 d{row} 1 {text} t{letter}g\n" for row, text in enumerate(texts)]
        path.write_text("".join(lines), encoding="utf-8")
        try:
            with np.errstate(over="ignore"):
                expected = [np.float32(float(text)) for text in texts]
            right = bool(np.isfinite(expected).all()) and letter != "\u3000"
        except ValueError:
            right = False
        if not right:
            with pytest.raises(InputError, match=r"line \d: (score|.* has 7 columns)"):
                read_trec(path)
            return
        ranking = read_trec(path).rankings["q"]
        found = dict(zip(ranking.docids, ranking.scores.tolist(), strict=True))
        assert found == {f"d{row}": value for row, value in enumerate(expected)}


def test_a_run_longer_than_a_block_is_read_whole(tmp_path, monkeypatch):
    """Queries cross the ends of blocks; a long id, a blank line and a docid given twice far apart are found."""
    monkeypatch.setattr("taco_ir.core.run_columns.BLOCK", 500)
    hits_of = {f"q{query}": {name: 100.0 - place for place, name in enumerate(names_of(query))} for query in range(5)}
    hits_of["q" * 300] = {"d": 1.0}
    path = tmp_path / "run.trec"
    write_trec(run_of(hits_of), path, "tag")
    text = path.read_text()
    path.write_text(text.replace("\nq3 ", "\n\nq3 ", 1).replace("\n", "\r\n"))
    rankings = read_trec(path).rankings
    assert {qid: dict(zip(each.docids, each.scores.tolist(), strict=True)) for qid, each in rankings.items()} == hits_of
    path.write_text(text + f"q0 Q0 {names_of(0)[0]} 1 0.0 t\n")
    with pytest.raises(InputError, match=r"line 502: docid '0#0' is given twice for query 'q0'"):
        read_trec(path)
    path.write_text(text + "q0 Q0 late 1 x t\n")
    with pytest.raises(InputError, match=r"line 502: score 'x' of query 'q0'"):
        read_trec(path)
