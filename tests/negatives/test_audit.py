"""The audit counts what is in the file, not what should be; its page is whole and escaped."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hostile_text import HOSTILE, Rows, Text
from hypothesis import given
from hypothesis import strategies as st
from page_samples import audit_of
from verbs import passage, query, write_collection

from taco_ir.core.run_formats import write_trec
from taco_ir.core.types import EvidenceSet, Query, Ranking, Run
from taco_ir.data.collection import Collection, open_collection
from taco_ir.negatives import audit_counts
from taco_ir.negatives.audit import audit_file
from taco_ir.negatives.audit_counts import Audit, SourceAudit, TaskAudit, audit_task, histogram
from taco_ir.negatives.audit_page import (
    HEADINGS,
    LEGEND,
    example_table,
    facts,
    html,
    lead,
    source_tables,
    summary,
    suspects_table,
)
from taco_ir.negatives.file import NegativesHeader, write_merged, write_negatives
from taco_ir.negatives.filters import MiningSettings
from taco_ir.negatives.miner import Retrieved, Source, mine_file

PAGE_OF = {f"{page}#{part}": str(page) for page in range(5) for part in range(2)}


# counts


Case = tuple[list[Query], dict[str, Ranking], dict[str, float], set[tuple[str, str]]]


@st.composite
def mined(draw: st.DrawFn) -> Case:
    """Any negatives at all, gold among them."""
    docids = st.lists(st.sampled_from(sorted(PAGE_OF)), unique=True, max_size=6)
    queries, kept = [], {}
    for number in range(draw(st.integers(1, 4))):
        gold = draw(docids)
        evidence = EvidenceSet(tuple({PAGE_OF[docid]: 0 for docid in gold}), tuple(gold))
        queries.append(Query(f"q{number}", "text", "nq", evidence=(evidence,)))
        if draw(st.booleans()):
            found = draw(docids)
            scores = draw(st.lists(st.integers(0, 9), min_size=len(found), max_size=len(found)))
            kept[f"q{number}"] = Ranking.of(found, scores)
    qids = st.sampled_from([each.qid for each in queries])
    gold_scores = draw(st.dictionaries(qids, st.floats(0, 9, width=32)))
    answered = draw(st.sets(st.tuples(qids, st.sampled_from(sorted(PAGE_OF)))))
    return queries, kept, gold_scores, answered


@given(mined())
def test_counts_are_those_of_the_pairs(case: Case) -> None:
    queries, kept, gold_scores, answered = case
    audit = audit_task(
        "nq-train", queries, kept, PAGE_OF, gold_scores, (9, 2, 1), lambda asked, docid: (asked.qid, docid) in answered
    )
    pairs = [(each, *hit) for each in queries if each.qid in kept for hit in zip(*kept[each.qid], strict=True)]
    assert audit.negatives == len(pairs) and audit.queries == len(queries)
    assert audit.without == len(queries) - len({each.qid for each, _, _ in pairs})
    assert audit.on_gold == sum(PAGE_OF[docid] in each.evidence[0].pages for each, docid, _ in pairs)
    assert audit.with_answer == sum((each.qid, docid) in answered for each, docid, _ in pairs)
    assert audit.margins.tolist() == [
        gold_scores[each.qid] - score for each, _, score in pairs if each.qid in gold_scores
    ]


def test_gold_passage_on_another_page_is_gold() -> None:
    queries = [Query("q", "text", "nq", evidence=(EvidenceSet(("9",), ("1#0",)),))]
    kept = {"q": Ranking.of(["1#0", "2#0"], [2, 1])}
    assert audit_task("nq-train", queries, kept, PAGE_OF, {}, (2, 0, 0), None).on_gold == 1


def test_summary_of_numbers() -> None:
    audits = [
        TaskAudit("nq-train", 4, 1, 10, 40, 8, 0, 2, np.array([-1.0, 0.0, 2.0, 5.0]), 3),
        TaskAudit("fever-train", 2, 2, 0, 0, 0, 0, None, np.zeros(0)),
    ]
    rows = [dict(zip(summary(audits).header, row, strict=True)) for row in summary(audits).rows]
    shares = {"gold dropped": 0.2, "gold kept": 0, "with answer": 0.2, "above gold": 0.5, "margin": 1.0, "lost": 3}
    assert rows[0] == {"topics": "nq-train", "queries": 4, "without": 1, "negatives": 10, "per query": 2.5} | shares
    nothing = {"gold dropped": None, "gold kept": 0, "with answer": None, "above gold": None, "margin": None, "lost": 0}
    assert rows[1] == {"topics": "fever-train", "queries": 2, "without": 2, "negatives": 0, "per query": 0.0} | nothing


@given(st.lists(st.floats(-1e4, 1e4, width=32), max_size=40))
def test_bins_hold_every_value_on_its_side_of_zero(values: list[float]) -> None:
    counts, edges = histogram(np.array(values, dtype=np.float64))
    assert sum(counts) == len(values) and len(edges) == len(counts) + 1 and 0.0 in edges
    assert all(low < high for low, high in pairwise(edges))
    assert sum(counts[: edges.index(0.0)]) == sum(value < 0 for value in values)


def test_histogram_of_numbers() -> None:
    counts, edges = histogram(np.array([-1.0, -0.5, 0.0, 0.25, 2.0, 3.0]), bins=5)
    assert edges == [-1.0, 0.0, 1.0, 2.0, 3.0] and counts == [2, 2, 0, 2]
    assert histogram(np.zeros(3)).counts == [3]


# from the file


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collection:
    monkeypatch.chdir(tmp_path)
    ids = [(n, part) for n in range(5) for part in range(2)]
    passages = [passage(f"{n}#{part}", f"word{n} part{part} of the text", f"Title {n}") for n, part in ids]
    records = [query(f"q{n}", f"word{n} text", [f"{n}#0"]) for n in range(3)]
    for record in records:
        record["output"][0]["answer"] = "Word4"
    write_collection(tmp_path / "c", passages, {"nq-train": records, "wow-train": [query("w1", "word1 said", ["1#0"])]})
    return open_collection("c")


def header(collection: Collection, seed: int = 0) -> NegativesHeader:
    return NegativesHeader("by hand", "", collection.passages.fingerprint, 10, 0, 9, ("gold",), seed)


def test_gold_that_is_nobodys_negative_is_searched_for_answers(small: Collection) -> None:
    write_negatives(
        Path("n.jsonl"), header(small), [("nq-train", "q0", ["4#1"], [1]), ("nq-train", "q1", ["4#1"], [1])]
    )
    topics = small.load_topics("nq-train")
    answered = topics.queries[0]._replace(answers=("part0",))
    own = topics._replace(queries=[answered, topics.queries[1]._replace(answers=("nowhere",))])
    audit = audit_file(small, [own], {"nq-train": [Retrieved(2, 0, {})]}, Path("n.jsonl"))
    holds = {each.query.qid: [gold.has_answer for gold in each.gold] for each in audit.examples}
    assert holds == {"q0": [True], "q1": [False]}


def test_a_bad_file_is_seen_to_be_bad(small: Collection) -> None:
    """Gold and answers are counted in what was written, whatever the miner believed."""
    rows = [
        ("nq-train", "q0", ["0#0", "0#1", "4#0"], [3, 2, 1]),
        ("nq-train", "q1", ["2#0", "4#1"], [2, 1]),
        ("nq-train", "q2", [], []),
    ]
    write_negatives(Path("n.jsonl"), header(small), [*rows, ("wow-train", "w1", ["1#1"], [1])])
    topics = [small.load_topics(name) for name in ("nq-train", "wow-train")]
    seen = {"nq-train": [Retrieved(10, 5, {"q0": 2.5})], "wow-train": [Retrieved(4, 0, {})]}
    nq, wow = audit_file(small, topics, seen, Path("n.jsonl")).tasks
    assert (nq.queries, nq.without, nq.negatives, nq.on_gold, nq.with_answer) == (3, 1, 5, 2, 2)
    assert nq.margins.tolist() == [-0.5, 0.5, 1.5] and (nq.seen, nq.dropped) == (10, 5)
    assert (wow.on_gold, wow.with_answer) == (1, None)
    page = Path("n.audit.html").read_text()
    rows = Rows(page).rows
    assert ["nq-train", "3", "1", "5", "1.667", "0.500", "2", "0.400", "0.333", "0.500", "0"] in rows
    assert ["negative 3", "1.000", "Title 4", "4#0", "answer", "«word4» part0 of the text"] in rows
    assert ["gold", "-", "Title 0", "0#0", "", "«word0» part0 of the «text»"] in rows
    assert "Best gold score: 2.500" in page and "Gold is not among the hits" in page


def test_likely_false_negatives_come_first(small: Collection) -> None:
    """By answer and score together, by answer, by score; one of a query, and gold's own score counts as high."""
    rows = [
        ("nq-train", "q0", ["3#0", "4#0"], [1, 3]),  # an answer above gold
        ("nq-train", "q1", ["2#0", "4#1"], [8, 2]),  # above gold, and an answer below it: the answer counts
        ("nq-train", "q2", ["3#0"], [5]),  # as high as gold
        ("wow-train", "w1", ["1#1"], [1]),
    ]
    write_negatives(Path("n.jsonl"), header(small), rows)
    topics = [small.load_topics(name) for name in ("nq-train", "wow-train")]
    seen = {"nq-train": [Retrieved(9, 0, {"q0": 2.5, "q1": 7.0, "q2": 5.0})], "wow-train": [Retrieved(4, 0, {})]}
    audit = audit_file(small, topics, seen, Path("n.jsonl"))
    found = [(each.query.qid, each.passage.docid, each.margin, each.passage.has_answer) for each in audit.suspected]
    assert found == EXPECTED
    page = Path("n.audit.html").read_text()
    first = page.index("<h2>")
    assert page[first:].startswith("<h2>Likely false negatives</h2>")
    assert "holds an answer and scores 0.500 above the best gold passage" in page
    assert Rows(page).rows[0] == ["topics", "query", "negative", "why", "text"]


EXPECTED = [("q0", "4#0", -0.5, True), ("q1", "4#1", 5.0, True), ("q2", "3#0", 0.0, False)]


def audit_mined(small: Collection) -> Audit:
    """Mine n.jsonl from a run of all passages, and audit it."""
    write_trec(Run({f"q{n}": Ranking.of(sorted(PAGE_OF), range(10)) for n in range(3)}), Path("r.trec"), "t")
    topics = [small.load_topics("nq-train")]
    seen = mine_file(small, [Source(Path("r.trec"), MiningSettings(depth=10))], topics, Path("n.jsonl"))
    return audit_file(small, topics, seen, Path("n.jsonl"))


def test_mined_file_has_no_gold(small: Collection) -> None:
    (audit,) = audit_mined(small).tasks
    assert (audit.negatives, audit.on_gold, audit.seen, audit.dropped) == (24, 0, 30, 6)
    assert audit.with_answer == 6


def test_twenty_examples_spread_over_tasks_by_seed(tmp_path: Path) -> None:
    """All tasks within one of each other; the seed alone decides which."""
    sample = open_collection("sample")
    topics = [sample.load_topics(name) for name in sample.expand(["all-train"])[:3]]
    docids = [each.docid for each in sample.passages.read(0, 3)]

    def drawn(seed: int, name: str) -> list[tuple[str, str]]:
        output = tmp_path / f"{name}.jsonl"
        rows = [(topic.name, each.qid, docids, [3, 2, 1]) for topic in topics for each in topic.queries]
        write_negatives(output, header(sample, seed), rows)
        audit_file(sample, topics, {topic.name: [Retrieved(1, 0, {})] for topic in topics}, output)
        return re.findall(r"<h3>(\S+) (\S+)</h3>\n<blockquote>", (tmp_path / f"{name}.audit.html").read_text())

    first = drawn(1, "first")
    assert first == drawn(1, "same") != drawn(2, "other") and len(set(first)) == 20
    assert [sum(task == topic.name for task, _ in first) for topic in topics] == [7, 7, 6]


# the report


def _cell(value: object) -> str:
    """As tables show it."""
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


@given(st.just(HOSTILE) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
def test_html_shows_every_text_and_runs_none(text: str) -> None:
    page = html(audit_of(text))
    seen, plain = Text(page), Text(html(audit_of("plain")))
    assert seen.tags == plain.tags and seen.links == plain.links
    assert seen.shown.count(text) >= plain.shown.count("plain") > 5
    assert "svg" in seen.tags and "script" not in seen.tags


def test_the_histogram_is_that_of_the_margins() -> None:
    page = html(audit_of("plain"))
    assert page.count("<svg") == 1
    number = r'"([\d.]+)"'
    rect = f'<rect x={number} y={number} width={number} height={number} class="(above|below)">'
    bars = re.findall(rect, page)
    counts, edges = histogram(np.array([0.5, -1.0]))
    assert len(bars) == len(counts)
    assert [float(bar[3]) for bar in bars] == [160.0 * count for count in counts]
    assert [bar[4] == "above" for bar in bars] == [edge < 0 for edge in edges[:-1]]


def test_the_page_holds_all_that_the_audit_says(small: Collection) -> None:
    audit = audit_mined(small)
    page = Path("n.audit.html").read_text()
    shown, rows = Text(page).shown, Rows(page).rows
    tables = [suspects_table(audit.suspected), summary(audit.tasks), *map(example_table, audit.examples)]
    texts_of = [[[*table.header], *([*map(_cell, cells)] for cells in table.rows)] for table in tables]
    assert rows == [row for table in texts_of for row in table] and len(rows) > 9
    texts = [audit.title, lead(audit), *audit.notes, *LEGEND, *HEADINGS, "nq-train: 24 margins"]
    texts += [text for each in audit.examples for text in (*facts(each), each.query.qid, each.query.text)]
    assert [text for text in texts if text not in shown] == []
    names = {f'data-name="{name}"' for name in tables[0].header}  # cards on phones show them instead of a header
    assert names == {name for name in names if name in page}


def test_report_of_a_file_without_negatives(small: Collection) -> None:
    write_negatives(Path("n.jsonl"), header(small), [("nq-train", f"q{n}", [], []) for n in range(3)])
    seen = {"nq-train": [Retrieved(0, 0, {})]}
    (audit,) = audit_file(small, [small.load_topics("nq-train")], seen, Path("n.jsonl")).tasks
    assert (audit.negatives, audit.without) == (0, 3)
    rows = Rows(Path("n.audit.html").read_text()).rows
    assert ["nq-train", "3", "3", "0", "0.000", "-", "0", "-", "-", "-", "0"] in rows
    assert json.loads(Path("n.jsonl").read_text().splitlines()[0])["source"] == "by hand"


# several sources


DOCIDS = st.lists(st.sampled_from(sorted(PAGE_OF)), unique=True, max_size=5)
HELD = st.dictionaries(st.sampled_from(["q0", "q1", "q2"]), DOCIDS)


@given(st.lists(HELD, min_size=1, max_size=4))
def test_overlaps_are_those_of_the_pairs(held: list[dict[str, list[str]]]) -> None:
    kept = [{qid: Ranking.of(docids, range(len(docids))) for qid, docids in each.items()} for each in held]
    shared_SS, alone_S = audit_counts.overlaps(kept)
    pairs = [{(qid, docid) for qid, docids in each.items() for docid in docids} for each in held]
    assert shared_SS.tolist() == [[len(ours & theirs) for theirs in pairs] for ours in pairs]
    for place, ours in enumerate(pairs):
        others = set().union(*(each for other, each in enumerate(pairs) if other != place))
        assert alone_S[place] == len(ours - others)


def task(topics: str, negatives: int, **changes: int) -> TaskAudit:
    return TaskAudit(topics, 4, 0, negatives, 20, 5, 0, None, np.array([1.0, -1.0, 2.0]))._replace(**changes)


def test_tables_of_numbers() -> None:
    sources = [
        SourceAudit("1 bm25", task("nq-train", 8), (8, 2), 6),
        SourceAudit("2 dense", task("nq-train", 4, with_answer=1), (2, 4), 2),
        SourceAudit("1 bm25", task("wow-train", 0), (0, 0), 0),
        SourceAudit("2 dense", task("wow-train", 4), (0, 4), 4),
    ]
    counts, overlap = source_tables(sources)
    rows = [dict(zip(counts.header, row, strict=True)) for row in counts.rows]
    assert [(row["topics"], row["source"], row["negatives"], row["per query"], row["alone"]) for row in rows] == [
        ("nq-train", "1 bm25", 8, 2.0, 0.75),
        ("nq-train", "2 dense", 4, 1.0, 0.5),
        ("wow-train", "1 bm25", 0, 0.0, None),
        ("wow-train", "2 dense", 4, 1.0, 1.0),
    ]
    assert [row["with answer"] for row in rows] == [None, 0.25, None, None]
    assert all((row["gold dropped"], row["above gold"], row["margin"]) == (0.25, 1 / 3, 1.0) for row in rows)
    assert overlap.header == ["overlap", "source", "1 bm25", "2 dense"]
    shares = [[1.0, 0.25], [0.5, 1.0], [None, None], [0.0, 1.0], [1.0, 0.25], [0.25, 1.0]]
    assert [row[2:] for row in overlap.rows] == shares
    assert [row[0] for row in overlap.rows[3:]] == ["wow-train", "all", "all"]
    assert len(source_tables(sources[:2])[1].rows) == 2  # one task: no sum of it
    assert source_tables([]) == []


def merged(collection: Collection) -> Path:
    """By hand, with gold: 1 holds gold 0#1 and the answer 4#0, 2 holds 4#0 too and 3#0."""
    one = header(collection)._replace(source="<b>x</b>")
    other = header(collection)._replace(source="dense", checkpoint="e7", depth=60, skip=9)
    rows = [
        ("nq-train", "q0", ["4#0", "0#1", "3#0"], [[1, 0], [0], [1]], [[0.75, 20.0], [30.0], [0.5]]),
        ("nq-train", "q1", ["2#0"], [[0]], [[7.0]]),
        ("nq-train", "q2", [], [], []),
    ]
    write_merged(Path("m.jsonl"), [one, other], rows)
    return Path("m.jsonl")


def test_sources_are_counted_from_the_file_and_shown_on_the_page(small: Collection) -> None:
    seen = {"nq-train": [Retrieved(10, 5, {"q0": 25.0, "q1": 8.0}, 2), Retrieved(6, 0, {"q0": 0.5}, 1)]}
    audit = audit_file(small, [small.load_topics("nq-train")], seen, merged(small))
    (together,) = audit.tasks
    assert (together.negatives, together.without, together.on_gold, together.with_answer) == (4, 1, 1, 1)
    assert (together.seen, together.dropped, together.margins.tolist()) == (16, 5, [])
    one, other = audit.sources
    assert (one.source, one.shared, one.alone) == ("1 <b>x</b>", (3, 1), 2)
    assert (other.source, other.shared, other.alone) == ("2 dense", (1, 2), 1)
    assert (one.task.negatives, one.task.on_gold, one.task.with_answer, one.task.without) == (3, 1, 1, 1)
    assert (other.task.negatives, other.task.on_gold, other.task.with_answer, other.task.without) == (2, 0, 1, 2)
    assert sorted(one.task.margins.tolist()) == [-5.0, 1.0, 5.0] and sorted(other.task.margins.tolist()) == [-0.25, 0.0]
    assert (one.task.seen, one.task.dropped, other.task.seen) == (10, 5, 6)
    assert (one.task.lost, other.task.lost, together.lost) == (2, 1, 3)
    source = Path("m.audit.html").read_text()
    page, rows = Text(source), Rows(source).rows
    for line in ("Sources", "mined from 1 <b>x</b>", "mined from 2 dense, encoder e7", "ranks 10 to 60, "):
        assert line in page.shown
    assert ["nq-train", "1 <b>x</b>", "3", "1.000", "0.667", "0.500", "1", "0.333", "0.333", "1.000", "2"] in rows
    assert ["nq-train", "2 dense", "2", "0.667", "0.500", "0.000", "0", "0.500", "1.000", "-0.125", "1"] in rows
    assert ["nq-train", "2 dense", "0.500", "1.000"] in rows
    assert "nq-train by 2 dense: 2 margins" in page.shown
    assert ["negative 1 (2 dense, 1 <b>x</b>)", "0.750", "Title 4", "4#0", "answer"] in [row[:5] for row in rows]
    assert "Best gold score: 0.500 (2 dense)" in page.shown and "Best gold score: 25.000 (1 <b>x</b>)" in page.shown
    assert "b" not in page.tags and page.tags.count("svg") == 2


def test_one_source_has_no_section_of_sources(small: Collection) -> None:
    write_negatives(Path("n.jsonl"), header(small), [("nq-train", "q0", ["4#0"], [1.0])])
    seen = {"nq-train": [Retrieved(1, 0, {"q0": 2.0})]}
    audit = audit_file(small, [small.load_topics("nq-train")], seen, Path("n.jsonl"))
    assert audit.sources == [] and [each.topics for each in audit.measured] == ["nq-train"]
    assert "Sources" not in Path("n.audit.html").read_text()
