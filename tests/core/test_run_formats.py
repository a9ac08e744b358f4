"""Law: a KILT run that is written and read is the same run; every malformed line is named by its number."""

import gc
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import missing_topics, ranked, read_kilt, read_run, write_kilt, write_msmarco
from taco_ir.core.types import Query, Ranking, Run, run_id, write_trec

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
page_ids = ids.map(str.strip)
GOOD = '{"id": "q1", "output": [{"provenance": [{"wikipedia_id": "7"}]}]}'


def queries_of(record_ids):
    return [Query(run_id(record_id), f"text of {record_id}", "nq", record_id=record_id) for record_id in record_ids]


@given(st.dictionaries(ids, st.lists(page_ids, unique=True, max_size=6), max_size=5), st.randoms())
def test_round_trip(pages_of, random):
    queries = queries_of({run_id(record_id): record_id for record_id in pages_of}.values())
    run = Run({query.qid: ranked(pages_of[query.record_id]) for query in queries}, level="page")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        shuffled = random.sample(queries, len(queries))
        write_kilt(run, shuffled, path)
        read = read_kilt(path)
        records = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert read.level == "page"
    assert {qid: ranking.docids for qid, ranking in read.rankings.items()} == {
        qid: ranking.docids for qid, ranking in run.rankings.items()
    }
    assert [(record["id"], record["input"]) for record in records] == [
        (query.record_id, query.text) for query in shuffled
    ]
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
    write_kilt(Run({"b": ranked(["7", "5"])}, level="page"), queries_of(["a", "b"]), tmp_path / "run.jsonl")
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert lines[0] == '{"id":"a","input":"text of a","output":[{"provenance":[]}]}'
    assert (
        lines[1]
        == '{"id":"b","input":"text of b","output":[{"provenance":[{"wikipedia_id":"7"},{"wikipedia_id":"5"}]}]}'
    )


def test_numbers_are_read_as_texts_and_an_output_may_lack_provenance(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text(
        '{"id": 3, "output": [{"provenance": [{"wikipedia_id": 7}, {"wikipedia_id": "7"}]}]}\n\n{"id": "a b", "output": [{"answer": "x"}]}\n'
    )
    assert {qid: ranking.docids for qid, ranking in read_kilt(path).rankings.items()} == {"3": ["7"], "a_b": []}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "q2", "output"', "not valid JSON"),
        ("[1]", "a JSON object is expected"),
        ('{"output": [{"provenance": []}]}', "id None"),
        ('{"id": "", "output": [{"provenance": []}]}', "id ''"),
        ('{"id": null, "output": [{"provenance": []}]}', "id None"),
        ('{"id": "q2"}', "output 'None'"),
        ('{"id": "q2", "output": {}}', "output '{}'"),
        ('{"id": "q2", "output": []}', "has 0 outputs"),
        ('{"id": "q2", "output": [{}, {}]}', "has 2 outputs"),
        ('{"id": "q2", "output": ["x"]}', "output 'x'"),
        ('{"id": "q2", "output": [{"provenance": null}]}', "a list of provenance is expected"),
        ('{"id": "q2", "output": [{"provenance": {"wikipedia_id": "7"}}]}', "a list of provenance is expected"),
        ('{"id": "q2", "output": [{"provenance": [{"title": "x"}]}]}', "without a wikipedia_id"),
        ('{"id": "q2", "output": [{"provenance": [{"wikipedia_id": " "}]}]}', "without a wikipedia_id"),
        ('{"id": "q2", "output": [{"provenance": [{"wikipedia_id": null}]}]}', "without a wikipedia_id"),
        ('{"id": "q2", "output": [{"provenance": ["7"]}]}', "without a wikipedia_id"),
        (GOOD, "'q1' was given on line 1"),
        ('{"id": " q1", "output": [{"provenance": []}]}', "'q1' was given on line 1"),
    ],
)
def test_malformed_lines_are_named(tmp_path, line, message):
    path = tmp_path / "run.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(InputError) as caught:
        read_kilt(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert gc.isenabled()


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
    assert {qid: ranking.docids for qid, ranking in read.rankings.items()} == {"r": ["c"], "q": ["b", "c", "a"]}
    assert read.rankings["q"].scores.tolist() == [-1, -2, -3]


def test_a_run_of_other_topics_or_of_passages_is_not_written(tmp_path):
    with pytest.raises(InputError, match="1 of its 1 topics, first 'z', not among the 1 queries"):
        write_kilt(Run({"z": ranked([])}, level="page"), queries_of(["a"]), tmp_path / "run.jsonl")
    with pytest.raises(ValueError, match="'passage'"):
        write_kilt(Run({}), queries_of(["a"]), tmp_path / "run.jsonl")
    assert not list(tmp_path.iterdir())


def test_missing_topics_come_in_topic_order():
    assert missing_topics(Run({"b": ranked([])}, level="page"), queries_of(["c", "b", "a"])) == ["c", "a"]
