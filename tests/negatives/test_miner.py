"""Mining: the filter against its definition read out loud, runs that are kept, and files that are whole."""

from __future__ import annotations

import json
import math
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm
from hypothesis import given
from hypothesis import strategies as st
from verbs import passage, query, write_collection

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import write_trec
from taco_ir.core.texts import normalised, telling_answers
from taco_ir.core.types import EvidenceSet, Passage, Query, Ranking, Run
from taco_ir.data.collection import Collection, Topics, open_collection
from taco_ir.negatives.file import Negatives, read_negatives
from taco_ir.negatives.filters import AnswerTexts, MiningSettings, hard_negatives
from taco_ir.negatives.miner import Source, mine_file, mine_topics
from taco_ir.retrieval.retrievers import Ranker
from taco_ir.retrieval.topic_runs import record_path

PAGES, PARTS = 6, 3
DOCIDS = [f"{page}#{part}" for page in range(PAGES) for part in range(PARTS)]
PAGE_OF = {docid: docid.partition("#")[0] for docid in DOCIDS}


class Overlap(Ranker):
    """Ranks by the words that query and passage share; counts the queries that it is asked."""

    name = "overlap"

    def __init__(self, collection: Collection, encoder: str = "e0") -> None:
        super().__init__()
        self._words = {each.docid: set(each.text.lower().split()) for each in collection.passages.read()}
        self._encoder = encoder
        self.asked = 0

    @property
    def inputs(self) -> dict[str, Any]:
        return {"encoder": self._encoder}

    def search(self, topics: Topics, hits: int) -> Run:
        self.asked += len(topics.queries)
        rankings = {}
        for each in topics.queries:
            words = set(each.text.lower().split())
            scores = [len(words & found) for found in self._words.values()]
            rankings[each.qid] = Ranking.of(list(self._words), scores).top(hits)
        return Run(rankings)


# the filter


def settings(draw: st.DrawFn) -> MiningSettings:
    skip = draw(st.integers(0, 6))
    margin = draw(st.none() | st.floats(0, 4))
    return MiningSettings(draw(st.integers(skip + 1, 20)), skip, draw(st.integers(1, 20)), draw(st.booleans()), margin)


Case = tuple[Ranking, Query, MiningSettings, set[str]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    docids = draw(st.lists(st.sampled_from(DOCIDS), unique=True))
    scores = draw(st.lists(st.integers(0, 8), min_size=len(docids), max_size=len(docids)))
    sets = draw(st.lists(st.lists(st.sampled_from(DOCIDS), min_size=1, max_size=2, unique=True), max_size=2))
    judged = draw(st.booleans())
    pages = [tuple(dict.fromkeys(PAGE_OF[docid] for docid in each)) for each in sets]
    evidence = tuple(EvidenceSet(own, tuple(each) if judged else ()) for own, each in zip(pages, sets, strict=True))
    answered = draw(st.sets(st.sampled_from(DOCIDS)))
    return Ranking.of(docids, scores), Query("q", "text", "nq", evidence=evidence), settings(draw), answered


def brute_force(ranking: Ranking, query_: Query, wanted: MiningSettings, answered: set[str]) -> list[str]:
    passages = {docid for evidence in query_.evidence for docid in evidence.passages}
    pages = {page for evidence in query_.evidence for page in evidence.pages}
    hits = list(zip(ranking.docids, ranking.scores.tolist(), strict=True))[: wanted.depth]
    gold = [score for docid, score in hits if (docid in passages if passages else PAGE_OF[docid] in pages)]
    kept: list[str] = []
    for rank, (docid, score) in enumerate(hits, 1):
        too_good = wanted.margin is not None and (not gold or score >= max(gold) - wanted.margin)
        likely = wanted.drop_answers and docid in answered
        in_view = rank > wanted.skip and PAGE_OF[docid] not in pages
        if in_view and not too_good and not likely and len(kept) < wanted.keep and pages:
            kept.append(docid)
    return kept


@given(cases())
def test_negatives_are_what_the_definition_says(case: Case) -> None:
    ranking, query_, wanted, answered = case
    mined = hard_negatives(ranking, query_, PAGE_OF, wanted, answered.__contains__)
    assert mined.negatives.docids == brute_force(ranking, query_, wanted, answered)
    scores = dict(zip(ranking.docids, ranking.scores.tolist(), strict=True))
    assert mined.negatives.scores.tolist() == [scores[docid] for docid in mined.negatives.docids]


@given(cases())
def test_negatives_are_a_subsequence_without_gold(case: Case) -> None:
    ranking, query_, wanted, answered = case
    mined = hard_negatives(ranking, query_, PAGE_OF, wanted, answered.__contains__)
    remaining = iter(ranking.docids[wanted.skip : wanted.depth])
    assert all(docid in remaining for docid in mined.negatives.docids)  # `in` consumes the iterator
    assert len(mined.negatives.docids) <= min(wanted.keep, wanted.depth - wanted.skip)
    gold_pages = {page for evidence in query_.evidence for page in evidence.pages}
    assert not {PAGE_OF[docid] for docid in mined.negatives.docids} & gold_pages
    assert mined.seen == (len(ranking.docids[wanted.skip : wanted.depth]) if gold_pages else 0)
    assert mined.on_gold == sum(PAGE_OF[docid] in gold_pages for docid in ranking.docids[wanted.skip : wanted.depth])
    assert mined.lost == (wanted.margin is not None and math.isnan(mined.gold_score) and mined.seen > mined.on_gold)


@given(cases(), st.integers(1, 20))
def test_keeping_more_only_appends(case: Case, keep: int) -> None:
    ranking, query_, wanted, answered = case
    both = [MiningSettings(wanted.depth, wanted.skip, k, wanted.drop_answers) for k in (keep, keep + 3)]
    fewer, more = (hard_negatives(ranking, query_, PAGE_OF, each, answered.__contains__) for each in both)
    assert more.negatives.docids[:keep] == fewer.negatives.docids


def test_gold_passage_gives_its_page_away() -> None:
    """Evidence that names a page otherwise than the collection does: both pages are gold."""
    query_ = Query("q", "text", "nq", evidence=(EvidenceSet(("elsewhere",), ("1#0",)),))
    mined = hard_negatives(Ranking.of(["1#1", "2#0", "1#0"], [3, 2, 1]), query_, PAGE_OF, MiningSettings())
    assert mined.negatives.docids == ["2#0"] and mined.gold_score == 1.0


def test_numbers_of_a_ranking() -> None:
    """Skip counts ranks of the ranking, gold included; margin measures from the best gold hit, skipped or not."""
    query_ = Query("q", "text", "nq", evidence=(EvidenceSet(("1",), ("1#0",)),))
    ranking = Ranking.of(["2#0", "1#0", "1#1", "3#0", "4#0", "5#0"], [9, 8, 7, 7.5, 5, 4])

    def docids(**changes: Any) -> list[str]:
        return hard_negatives(ranking, query_, PAGE_OF, MiningSettings(**changes)).negatives.docids

    assert docids() == ["2#0", "3#0", "4#0", "5#0"]
    assert docids(skip=1) == ["3#0", "4#0", "5#0"]
    assert docids(skip=3, keep=1) == ["4#0"]
    assert docids(depth=5) == ["2#0", "3#0", "4#0"]
    assert docids(margin=0) == ["3#0", "4#0", "5#0"]
    assert docids(margin=0.5) == ["4#0", "5#0"]
    assert docids(margin=3.0, skip=4) == ["5#0"]
    assert math.isnan(hard_negatives(ranking.top(1), query_, PAGE_OF, MiningSettings()).gold_score)


def test_a_margin_drops_all_hits_above_gold_that_is_not_in_view() -> None:
    """Gold at the fourth place: a window of three has only hits above it. A gold page's other passage is not gold."""
    query_ = Query("q", "text", "nq", evidence=(EvidenceSet(("1",), ("1#0",)),))
    ranking = Ranking.of(["2#0", "1#1", "3#0", "1#0", "4#0"], [9, 8, 7, 6, 5])

    def mined(ranking: Ranking = ranking, **changes: Any) -> tuple[list[str], bool]:
        found = hard_negatives(ranking, query_, PAGE_OF, MiningSettings(**changes))
        return found.negatives.docids, found.lost

    assert mined(depth=3) == (["2#0", "3#0"], False)
    assert mined(depth=3, margin=0) == ([], True)
    assert mined(depth=3, margin=100) == ([], True)
    assert mined(depth=4, margin=0) == ([], False)
    assert mined(margin=0) == (["4#0"], False)
    assert mined(ranking.top(0), margin=0) == ([], False)  # no hits to lose
    assert mined(Ranking.of(["1#1"], [1]), margin=0) == ([], False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"depth": 0}, "depth is 0; it must be a whole number, at least 1"),
        ({"skip": -1}, "skip is -1; it must be a whole number, at least 0"),
        ({"keep": 0}, "keep is 0; it must be a whole number, at least 1"),
        ({"seed": -1}, "seed is -1; it must be a whole number, at least 0"),
        ({"depth": 5, "skip": 5}, "--mine-depth 5 with --mine-skip 5 leaves no rank; --mine-depth must be at least 6"),
        ({"margin": -0.5}, r"margin is -0\.5; it must be a number, or none, at least 0"),
        ({"margin": math.nan}, "margin is nan"),
        ({"margin": math.inf}, "margin is inf"),
    ],
)
def test_settings_that_cannot_be(changes: Mapping[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        MiningSettings(**changes)


# answers


words = st.text(st.sampled_from("abcABCéÉß12"), min_size=1, max_size=4)


@given(
    st.lists(words, min_size=1, max_size=8), st.sampled_from([" ", ", ", "-", "_", "'", "\n", " (", ". "]), st.data()
)
def test_any_run_of_words_of_a_text_is_found_in_it(text: list[str], between: str, data: st.DataObject) -> None:
    """...whatever the punctuation; and nothing is found whose words the text lacks."""
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    assert normalised(" ".join(text[start:stop])) in normalised(between.join(text))
    assert normalised("zz " + text[0]) not in normalised(between.join(text))


def test_answers_are_whole_words_without_case_and_accents() -> None:
    texts = AnswerTexts({"d": Passage("d", "p", "Title", "In Besançon, «Victor-Hugo» was born; a POET.")})

    def holds(*answers: str) -> bool:
        return texts.holds("d", telling_answers(answers))

    assert holds("besancon") and holds("victor hugo") and holds("x-ray", "Poet")
    assert not holds("Hugo was bor") and not holds("title") and not holds("oet") and not holds()


def test_verdicts_and_short_answers_do_not_count() -> None:
    verdicts = ["yes", "No.", "SUPPORTS", "REFUTES", "NOT ENOUGH INFO"]
    assert telling_answers([*verdicts, "5", "US", "U.S.", "!", "1999", "1999."]) == (" 1999 ",)


# mining


@pytest.fixture
def sample() -> Collection:
    return open_collection("sample")


def topics_of(collection: Collection, *names: str) -> list[Topics]:
    return [collection.load_topics(name) for name in names]


def pages_of(collection: Collection, negatives: Negatives, topics: Topics) -> dict[str, set[str]]:
    mined = negatives.docids[topics.name]
    return {qid: set(collection.passages.page_of(docids).values()) for qid, docids in mined.items()}


def test_no_gold_in_what_is_written(sample: Collection, tmp_path: Path) -> None:
    topics = topics_of(sample, *sample.expand(["all-train"]))
    negatives = mine_topics(sample, Overlap(sample), topics, MiningSettings(depth=60, keep=20), tmp_path / "n.jsonl")
    assert negatives.docids.keys() == {topic.name for topic in topics} and len(topics) == 8
    dropped = 0
    for topic in topics:
        pages = pages_of(sample, negatives, topic)
        assert pages.keys() == {each.qid for each in topic.queries}
        for each in topic.queries:
            gold = {docid for evidence in each.evidence for docid in evidence.passages}
            gold_pages = {page for evidence in each.evidence for page in evidence.pages}
            assert not gold & set(negatives.docids[topic.name][each.qid])
            assert not gold_pages & pages[each.qid]
            top = Overlap(sample).search(topic._replace(queries=[each]), 20).rankings[each.qid]
            dropped += bool(gold_pages & {*sample.passages.page_of(top.docids).values()})
    assert dropped > 20  # gold is among the best hits of many queries: the law was not idle


def test_filtering_kept_runs_is_mining(sample: Collection, tmp_path: Path) -> None:
    """Retrieve once, filter many times: from the kept runs come the bytes that mining anew writes."""
    topics = topics_of(sample, "nq-train", "wow-train")
    system = Overlap(sample)
    mine_topics(sample, system, topics, MiningSettings(depth=50), tmp_path / "first.jsonl")
    asked = system.asked
    assert asked == sum(len(topic.queries) for topic in topics)
    several = (MiningSettings(depth=50, drop_answers=True), MiningSettings(30, 2, 5, margin=1.0), MiningSettings(50))
    for number, wanted in enumerate(several):
        fresh, again, read = (tmp_path / f"{name}{number}.jsonl" for name in ("fresh", "again", "read"))
        mine_topics(sample, Overlap(sample), topics, wanted, fresh)
        mine_topics(sample, tmp_path / "first.runs", topics, wanted, read)
        mine_topics(sample, system, topics, wanted, tmp_path / "first.jsonl", overwrite=True)
        mine_topics(sample, tmp_path / "first.runs", topics, wanted, again)
        assert fresh.read_bytes() == read.read_bytes() == again.read_bytes() == (tmp_path / "first.jsonl").read_bytes()
    assert system.asked == asked


def test_kept_runs_are_used_as_long_as_they_serve(
    sample: Collection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output, topics = tmp_path / "n.jsonl", topics_of(sample, "nq-train")

    def asked(system: Overlap, depth: int) -> int:
        mine_topics(sample, system, topics, MiningSettings(depth=depth), output, overwrite=True)
        return system.asked

    queries = len(topics[0].queries)
    assert asked(Overlap(sample), 40) == queries
    assert asked(Overlap(sample), 40) == asked(Overlap(sample), 10) == 0
    assert asked(Overlap(sample), 41) == queries  # deeper than what is kept
    assert asked(Overlap(sample), 40) == 0
    assert asked(Overlap(sample, "e1"), 40) == queries  # another encoder
    (tmp_path / "n.runs" / "nq-train.trec").unlink()
    assert asked(Overlap(sample, "e1"), 40) == queries
    topics = [topics[0]._replace(queries=topics[0].queries[:-1])]
    assert asked(Overlap(sample, "e1"), 40) == queries - 1  # other queries


def test_header_says_how(sample: Collection, tmp_path: Path) -> None:
    wanted = MiningSettings(30, 1, 7, True, 2.0, 5)
    header = mine_topics(sample, Overlap(sample), topics_of(sample, "nq-train"), wanted, tmp_path / "n.jsonl").sources[
        0
    ]
    filters = ("gold", "gold-page", "margin=2", "answers")
    assert header[:-1] == ("overlap", "e0", sample.passages.fingerprint, 30, 1, 7, filters, 5)
    assert re.fullmatch("[0-9a-f]{16}", header.queries)


def test_spans_are_dropped_verdicts_are_not(tmp_path: Path) -> None:
    """drop_answers: nq's answer counts, in any case, and fever's verdict does not."""
    texts = {"1#0": "who wrote it", "2#0": "MARIE curie wrote it", "3#0": "this supports marie"}
    passages = [passage(docid, text) for docid, text in texts.items()]
    records = [query("q1", "who wrote it supports", ["1#0"])]
    records[0]["output"][0]["answer"] = "Marie Curie"
    verdict = [query("f1", "who wrote it supports", ["1#0"])]
    verdict[0]["output"][0]["answer"] = "this supports marie"
    write_collection(tmp_path / "c", passages, {"nq-train": records, "fever-train": verdict})
    collection = open_collection(str(tmp_path / "c"))
    topics = topics_of(collection, "nq-train", "fever-train")
    for drop, of_nq in ((True, ["3#0"]), (False, ["2#0", "3#0"])):
        wanted, output = MiningSettings(drop_answers=drop), tmp_path / f"{drop}.jsonl"
        mined = mine_topics(collection, Overlap(collection), topics, wanted, output)
        assert mined.docids["nq-train"] == {"q1": of_nq} and mined.docids["fever-train"] == {"f1": ["2#0", "3#0"]}


def test_what_was_seen_is_returned(sample: Collection, tmp_path: Path) -> None:
    (topics,) = topics_of(sample, "nq-train")
    sources = [Source(Overlap(sample), MiningSettings(depth=20, skip=2))]
    (retrieved,) = mine_file(sample, sources, [topics], tmp_path / "n.jsonl")["nq-train"]
    run = Overlap(sample).search(topics, 20)
    assert retrieved.seen == 18 * len(topics.queries)
    on_gold = 0
    for each in topics.queries:
        pages = {page for evidence in each.evidence for page in evidence.pages}
        gold = {docid for evidence in each.evidence for docid in evidence.passages}
        ranking = run.rankings[each.qid]
        on_gold += sum(page in pages for page in sample.passages.page_of(ranking.docids[2:]).values())
        best = [score for docid, score in zip(ranking.docids, ranking.scores, strict=True) if docid in gold]
        assert retrieved.gold_scores.get(each.qid) == (max(best) if best else None)
    assert 0 < on_gold == retrieved.on_gold


def test_each_source_counts_the_queries_that_its_margin_empties(sample: Collection, tmp_path: Path) -> None:
    """Of windows of one hit those where it is neither gold nor on a gold page; without a margin none."""
    (topics,) = topics_of(sample, "nq-train")
    sources = [
        Source(Overlap(sample), MiningSettings(depth=depth, margin=margin))
        for depth, margin in ((1, 0.0), (1, None), (20, 0.0))
    ]
    narrow, free, wide = mine_file(sample, sources, [topics], tmp_path / "n.jsonl")["nq-train"]
    assert narrow.lost == len(topics.queries) - narrow.on_gold > wide.lost
    assert free.lost == 0


def test_queries_without_hits_or_evidence_have_an_empty_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    passages = [passage(f"{n}#0", f"text {n}") for n in range(4)]
    records = [query("q1", "text 1", ["1#0"]), query("q2", "text"), query("q3", "text 3", ["3#0"])]
    write_collection(tmp_path / "c", passages, {"nq-train": records})
    collection = open_collection(str(tmp_path / "c"))
    write_trec(Run({qid: Ranking.of(["1#0", "2#0"], [2, 1]) for qid in ("q1", "q2")}), tmp_path / "r.trec", "t")
    topics = topics_of(collection, "nq-train")
    mined = mine_topics(collection, tmp_path / "r.trec", topics, MiningSettings(), tmp_path / "n.jsonl")
    assert mined.docids["nq-train"] == {"q1": ["2#0"], "q2": [], "q3": []}
    assert "nq-train: 1 of 3 queries have no hits" in caplog.text
    assert "the rankings have at most 2 hits, --mine-depth is 200" in caplog.text
    assert re.fullmatch(r"r\.trec [0-9a-f]{16}", mined.sources[0].source) and mined.sources[0].checkpoint == ""


# what the user gave is wrong


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collection:
    monkeypatch.chdir(tmp_path)
    passages = [passage(f"{n}#0", f"text {n}") for n in range(4)]
    topics = {f"{task}-train": [query(f"{task}{n}", f"text {n}", [f"{n}#0"]) for n in (1, 2)] for task in ("nq", "wow")}
    topics |= {"nq-test": [{"id": "t", "input": "text"}], "trex-train": topics["nq-train"]}
    write_collection(tmp_path / "c", passages, topics)
    return open_collection("c")


def run_file(path: str, *qids: str, docids: tuple[str, ...] = ("0#0", "1#0", "2#0")) -> Path:
    write_trec(Run({qid: Ranking.of(docids, np.arange(len(docids), 0, -1)) for qid in qids}), Path(path), "t")
    return Path(path)


def refused(collection: Collection, source: Path | Ranker, names: list[str], said: str, **changes: Any) -> None:
    with pytest.raises(InputError, match=said):
        mine_topics(collection, source, topics_of(collection, *names), MiningSettings(**changes), Path("n.jsonl"))
    assert not list(Path().glob("n.jsonl*"))


def test_runs_that_lack_topics(small: Collection) -> None:
    both = ["nq-train", "wow-train"]
    refused(small, run_file("nq.trec", "nq1", "nq2"), both, r"--source nq\.trec has no run for wow-train; ")
    run_file("runs/nq-train.trec", "nq1", "nq2")
    refused(small, Path("runs"), both, r"--source runs has no run for wow-train; wow-train\.trec expected")
    run_file("runs/wow-train.trec", "wow1", "nq2")
    refused(small, Path("runs"), both, r"wow-train\.trec: 1 of its queries, such as 'nq2', are not in wow-train")


def test_one_run_for_queries_of_two_tasks_is_ambiguous(small: Collection) -> None:
    said = "query 'nq1' is in several of nq-train, trex-train; give a folder"
    refused(small, run_file("all.trec", "nq1", "nq2"), ["nq-train", "trex-train"], said)


def test_run_of_another_collection(small: Collection) -> None:
    source = run_file("r.trec", "nq1", docids=("0#0", "77#0", "78#0"))
    refused(small, source, ["nq-train"], r"r\.trec: 2 of 3 docids, such as '77#0', are not in collection c")


def test_records_beside_runs_are_believed(small: Collection) -> None:
    source = run_file("r.trec", "nq1", "nq2")
    facts = {"system": "mine", "inputs": {"encoder": "e7"}, "topics": {"name": "nq-train", "fingerprint": "0"}}
    for key, said in (
        ("topics", "made of topics nq-train with fingerprint 0, nq-train has"),
        ("collection", "made of collection d with fing"),
    ):
        other = {"collection": {"name": "d", "fingerprint": "1"}} if key == "collection" else {}
        record_path(source).write_text(
            json.dumps(facts | other | ({"topics": {"name": "x", "fingerprint": "0"}} if other else {}))
        )
        refused(small, source, ["nq-train"], said)
    record_path(source).write_text(json.dumps(facts | {"topics": {"name": "x", "fingerprint": "0"}}))
    header = mine_topics(small, source, topics_of(small, "nq-train"), MiningSettings(), Path("n.jsonl")).sources[0]
    assert (header.source, header.checkpoint) == ("mine", "e7")
    run_file("runs/nq-train.trec", "nq1")
    record_path(run_file("runs/wow-train.trec", "wow1")).write_text(json.dumps(facts))
    Path("n.jsonl").unlink()
    refused(small, Path("runs"), ["nq-train", "wow-train"], r"runs of several systems \(mine, unknown\)")


def test_skip_beyond_the_run_and_unjudged_topics(small: Collection) -> None:
    source = run_file("r.trec", "nq1", "nq2", "t")
    said = r"--mine-skip 3 \(--window 3:200\): the rankings of nq-train have at most 3 hits"
    refused(small, source, ["nq-train"], said, skip=3)
    refused(small, source, ["nq-test"], "nq-test: these topics have no gold")
    with pytest.raises(InputError, match=r"--output n\.json: .* must end in \.jsonl"):
        mine_topics(small, source, topics_of(small, "nq-train"), MiningSettings(), Path("n.json"))


def test_an_output_is_never_lost(small: Collection) -> None:
    source, output = run_file("r.trec", "nq1", "nq2", "wow1"), Path("n.jsonl")
    topics = topics_of(small, "nq-train")
    mine_topics(small, source, topics, MiningSettings(), output)
    before = output.read_bytes()
    mine_topics(small, source, topics, MiningSettings(), output)  # made the same way: taken
    said = r"--output n\.jsonl exists and was made differently \(keep is 32, not 1\); give another name or --overwrite"
    with pytest.raises(InputError, match=said):
        mine_topics(small, source, topics, MiningSettings(keep=1), output)
    said = r"made differently \(tasks is \[\"nq-train\"\], not \[\"nq-train\", \"wow-train\"\]\)"
    with pytest.raises(InputError, match=said):
        mine_topics(small, source, topics_of(small, "nq-train", "wow-train"), MiningSettings(), output)
    with pytest.raises(InputError, match=r"made differently \(source is \".*\", not \""):
        mine_topics(small, Overlap(small), topics, MiningSettings(), output)
    assert output.read_bytes() == before
    mine_topics(small, source, topics, MiningSettings(keep=1), output, overwrite=True)
    assert output.read_bytes() != before
    output.write_text("mine!\n")
    said = r"n\.jsonl exists, and nothing records how it was made; give another name or --overwrite"
    with pytest.raises(InputError, match=said):
        mine_topics(small, source, topics, MiningSettings(), output)
    assert output.read_text() == "mine!\n"


# several sources


class Backwards(Overlap):
    """Ranks by docid, on another scale than its parent."""

    name = "backwards"

    def search(self, topics: Topics, hits: int) -> Run:
        self.asked += len(topics.queries)
        docids = sorted(self._words)
        return Run({each.qid: Ranking.of(docids, np.arange(len(docids)) / 1000).top(hits) for each in topics.queries})


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_sources_together_are_what_each_gives_alone(sample: Collection, tmp_path: Path) -> None:
    """Headers, windows, margins, labels and scores: nothing of a source depends on the others; no gold is left."""
    topics = topics_of(sample, "nq-train", "wow-train")
    sources = [
        Source(Overlap(sample), MiningSettings(40, 0, 6, True, 1.0)),
        Source(Backwards(sample), MiningSettings(60, 10, 9, True, 0.05)),
        Source(Overlap(sample), MiningSettings(30, 2, 5, True)),
    ]
    mine_file(sample, sources, topics, tmp_path / "merged.jsonl")
    alone = []
    for number, (ranks, each) in enumerate(sources):
        assert not isinstance(ranks, Path)
        mine_topics(sample, ranks, topics, each, tmp_path / f"{number}.jsonl")
        alone.append(rows_of(tmp_path / f"{number}.jsonl"))
    header, *rows = rows_of(tmp_path / "merged.jsonl")
    headers = [{k: v for k, v in each[0].items() if k != "taco_ir_negatives"} for each in alone]
    assert header == {"taco_ir_negatives": 2, "sources": headers}
    assert len(rows) == len(alone[0]) - 1
    several = 0
    for row, *own in zip(rows, *(each[1:] for each in alone), strict=True):
        told = {
            (docid, n, score)
            for docid, *held in zip(row["docids"], row["sources"], row["scores"], strict=True)
            for n, score in zip(*held, strict=True)
        }
        assert told == {
            (d, n, s) for n, each in enumerate(own) for d, s in zip(each["docids"], each["scores"], strict=True)
        }
        assert {(each["topics"], each["qid"]) for each in own} == {(row["topics"], row["qid"])}
        several += sum(len(held) > 1 for held in row["sources"])
    assert several > 20  # the same passage from two sources: the law was not idle
    negatives = read_negatives(tmp_path / "merged.jsonl", sample.passages.fingerprint)
    for topic in topics:
        pages = pages_of(sample, negatives, topic)
        for each in topic.queries:
            assert not {page for evidence in each.evidence for page in evidence.pages} & pages[each.qid]


def test_another_order_of_sources_holds_the_same(sample: Collection, tmp_path: Path) -> None:
    topics, wanted = topics_of(sample, "fever-train"), MiningSettings(30, keep=6)
    sources = [Source(Overlap(sample), wanted), Source(Backwards(sample), wanted)]
    found = []
    for name, order in (("a", sources), ("b", sources[::-1]), ("c", sources)):
        mine_file(sample, order, topics, tmp_path / f"{name}.jsonl")
        found.append(rows_of(tmp_path / f"{name}.jsonl"))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "c.jsonl").read_bytes()
    assert found[0][0]["sources"] == found[1][0]["sources"][::-1]
    for ours, theirs in zip(found[0][1:], found[1][1:], strict=True):
        labels = {docid: sorted(held) for docid, held in zip(ours["docids"], ours["sources"], strict=True)}
        pairs = zip(theirs["docids"], theirs["sources"], strict=True)
        assert labels == {docid: sorted(1 - n for n in held) for docid, held in pairs}


def test_runs_of_several_systems_are_kept_apart(sample: Collection, tmp_path: Path) -> None:
    """Each has a folder of its name, is ranked once and used again; a run file is read where it is."""
    topics, output = topics_of(sample, "nq-train"), tmp_path / "n.jsonl"
    queries = len(topics[0].queries)
    one, same_name, other = Overlap(sample, "e0"), Overlap(sample, "e1"), Backwards(sample)
    settings = (MiningSettings(10), MiningSettings(20), MiningSettings(30))
    sources = list(map(Source, (one, other, same_name), settings))
    mine_file(sample, [*sources, Source(one, MiningSettings(40, 10))], topics, output)
    assert sorted(path.name for path in (tmp_path / "n.runs").iterdir()) == ["backwards", "overlap", "overlap-2"]
    folders = [tmp_path / "n.runs" / name for name in ("overlap", "backwards", "overlap-2")]
    hits = [json.loads((folder / "nq-train.trec.json").read_text())["hits"] for folder in folders]
    assert hits == [40, 20, 30] and (one.asked, same_name.asked, other.asked) == (queries, queries, queries)
    before = output.read_bytes()
    mine_file(sample, [*sources, Source(one, MiningSettings(40, 10))], topics, output, overwrite=True)
    assert one.asked == queries and output.read_bytes() == before
    kept = list(map(Source, folders, settings))
    mine_file(sample, [*kept, Source(kept[0].ranks, MiningSettings(40, 10))], topics, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == before
    mine_file(sample, [Source(other, MiningSettings(9)), kept[0]], topics, tmp_path / "mixed.jsonl")
    assert (tmp_path / "mixed.runs" / "nq-train.trec").is_file()  # one system: as ever


def test_sources_that_cannot_be_merged(small: Collection) -> None:
    topics, output = topics_of(small, "nq-train"), Path("n.jsonl")
    good, short = run_file("r.trec", "nq1", "nq2"), run_file("s.trec", "nq1", docids=("3#0",))

    def refused_with(said: str, other: Path, **window: int) -> None:
        with pytest.raises(InputError, match=said):
            mine_file(small, [Source(good, MiningSettings()), Source(other, MiningSettings(**window))], topics, output)
        assert not output.exists()

    twice = r"--source r\.trec [0-9a-f]{16} is given twice with the window 0:200"
    refused_with(twice, good)
    too_short = r"--mine-skip 1 \(--window 1:5\): the rankings of nq-train by s\.trec \S+ have at most 1 hits"
    refused_with(too_short, short, depth=5, skip=1)
    refused_with(r"--source w\.trec has no run for nq-train", run_file("w.trec", "wow1"))
    refused_with("f.trec: 1 of 1 docids, such as '77#0'", run_file("f.trec", "nq1", docids=("77#0",)))


def test_a_merged_output_is_never_lost(small: Collection, caplog: pytest.LogCaptureFixture) -> None:
    topics, output = topics_of(small, "nq-train"), Path("n.jsonl")
    runs = [run_file(f"{n}.trec", "nq1", "nq2", docids=(f"{n}#0", "3#0")) for n in (0, 2)]
    sources = [Source(run, MiningSettings(keep=9)) for run in runs]
    mine_file(small, sources, topics, output)
    before = output.read_bytes()
    assert re.search(r"nq-train by 2\.trec \S+: the rankings have at most 2 hits", caplog.text)
    for changed, said in (
        (sources[:1], "sources is 2, not 1"),
        (sources[::-1], "source 1 source is .*, not .*"),
        ([sources[0], Source(sources[1].ranks, MiningSettings(100, 1, keep=9))], "source 2 depth is 200, not 100"),
    ):
        with pytest.raises(InputError, match=rf"exists and was made differently \({said}\); give another name"):
            mine_file(small, changed, topics, output)
    mine_file(small, sources, topics, output)  # made the same way: taken
    assert output.read_bytes() == before
    one = mine_topics(small, sources[0].ranks, topics, MiningSettings(), Path("one.jsonl"))
    with pytest.raises(InputError, match=r"made differently \(sources is 1, not 2\)"):
        mine_file(small, sources, topics, Path("one.jsonl"))
    assert read_negatives(Path("one.jsonl"), None) == one


# killed


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_miner, taco_ir.negatives.miner
from taco_ir.data.collection import open_collection
from taco_ir.negatives.filters import MiningSettings

sample, left = open_collection("sample"), [int(sys.argv[2])]
def counted(function, where):
    def call(*args):
        left[0] -= where == sys.argv[1]
        if where == sys.argv[1] and left[0] < 0:
            os.kill(os.getpid(), 9)
        return function(*args)
    return call
test_miner.Overlap.search = counted(test_miner.Overlap.search, "search")
taco_ir.negatives.miner.hard_negatives = counted(taco_ir.negatives.miner.hard_negatives, "filter")
topics = [sample.load_topics(name) for name in ("fever-train", "nq-train")]
overlap, settings = test_miner.Overlap(sample), MiningSettings(depth=30)
taco_ir.negatives.miner.mine_topics(sample, overlap, topics, settings, Path("n.jsonl"))
"""


@pytest.mark.parametrize(("where", "after"), [("search", 0), ("search", 1), ("filter", 0), ("filter", 30)])
def test_kill_9_leaves_no_half_file(where: str, after: int, sample: Collection, tmp_path: Path) -> None:
    """The same command again goes on with the topics that were not finished, and ends as if nothing had been."""
    command = [sys.executable, "-c", KILLED.format(tests=str(Path(__file__).parent)), where, str(after)]
    done = warm.run(command, tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    output, topics = tmp_path / "n.jsonl", topics_of(sample, "fever-train", "nq-train")
    assert not output.exists()
    finished = len(list((tmp_path / "n.runs").glob("*.json"))) if (tmp_path / "n.runs").exists() else 0
    assert finished == (after if where == "search" else 2)
    system = Overlap(sample)
    mine_topics(sample, system, topics, MiningSettings(depth=30), output)
    assert system.asked == sum(len(topic.queries) for topic in topics[finished:])
    mine_topics(sample, Overlap(sample), topics, MiningSettings(depth=30), tmp_path / "whole.jsonl")
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.rglob("*.part"))
