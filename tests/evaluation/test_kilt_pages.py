"""Law: page-level measures equal a plain reading of their definitions, and KILT's own script."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import page_run
from taco_ir.core.types import EvidenceSet, Query, Ranking, Run
from taco_ir.evaluation.kilt_pages import kilt_scores

CUTOFFS = (1, 2, 3, 5, 20)
MEASURES = ["Rprec", *(f"{kind}@{k}" for kind in ("precision", "recall", "success") for k in CUTOFFS)]
pages = st.sampled_from([f"P{number}" for number in range(9)])
rankings = st.lists(pages, max_size=9, unique=True)
evidence_sets = st.lists(st.lists(pages, min_size=1, max_size=4, unique=True), max_size=5)


def query(sets, qid="q"):
    evidence = tuple(EvidenceSet(tuple(pages), (f"{pages[0]}#{n}",)) for n, pages in enumerate(sets))
    return Query(qid, "text", "nq", evidence=evidence)


def score(ranking, sets):
    return {measure: values["q"] for measure, values in kilt_scores({"q": ranking}, [query(sets)], MEASURES).items()}


def by_definition(ranking, sets):
    """The definitions, read aloud: walk down the ranking and keep the list of entries as it stands after each page."""
    sets = [set(pages) for pages in sets]
    distinct = [pages for number, pages in enumerate(sets) if pages not in sets[:number]]
    entries = []  # (set number or None, complete)
    for depth, page in enumerate(ranking, 1):
        holders = [number for number, pages in enumerate(distinct) if page in pages]
        entries = [entry for entry in entries if entry[0] is None or entry[0] not in holders]
        entries += [(number, distinct[number] <= set(ranking[:depth])) for number in holders] or [(None, False)]
    values = {"Rprec": max((len(set(ranking[: len(pages)]) & pages) / len(pages) for pages in distinct), default=0.0)}
    for k in CUTOFFS:
        complete = sum(done for _, done in entries[:k])
        values[f"precision@{k}"] = complete / k if distinct else 0.0
        values[f"recall@{k}"] = complete / len(distinct) if distinct else 0.0
        values[f"success@{k}"] = float(complete > 0)
    return values


@given(rankings, evidence_sets)
def test_measures_are_their_definitions(ranking, sets):
    assert score(ranking, sets) == pytest.approx(by_definition(ranking, sets), abs=1e-12)


@given(rankings, evidence_sets)
def test_more_depth_never_lowers_recall_or_success(ranking, sets):
    values = score(ranking, sets)
    for kind in ("recall", "success"):
        assert all(values[f"{kind}@{a}"] <= values[f"{kind}@{b}"] for a, b in combinations(CUTOFFS, 2))


@given(rankings, evidence_sets, st.randoms())
def test_order_within_a_set_and_repeated_sets_do_not_count(ranking, sets, random):
    shuffled = [random.sample(pages, len(pages)) for pages in sets]
    assert score(ranking, sets + shuffled) == score(ranking, sets)


@given(rankings)
def test_a_query_without_evidence_scores_zero(ranking):
    assert set(score(ranking, []).values()) == {0.0}


@given(evidence_sets)
def test_a_query_without_hits_scores_zero(sets):
    found = kilt_scores({}, [query(sets)], MEASURES)
    assert [values["q"] for values in found.values()] == [0.0] * len(MEASURES)


@given(rankings.filter(bool), st.integers(1, 4))
def test_evidence_on_top_is_perfect(ranking, size):
    values = score(ranking, [ranking[:size]])
    assert values["Rprec"] == values["recall@1"] == values["success@1"] == values["precision@1"] == 1.0


def test_equal_to_the_official_script(official):
    @given(st.lists(st.tuples(rankings.filter(bool), evidence_sets.filter(bool)), min_size=1, max_size=4))
    def compare(cases):
        def record(number, page_lists):
            output = [{"provenance": [{"wikipedia_id": page} for page in pages]} for pages in page_lists]
            return {"id": f"q{number}", "output": output}

        gold = [record(number, sets) for number, (_, sets) in enumerate(cases)]
        guess = [record(number, [ranking]) for number, (ranking, _) in enumerate(cases)]
        expected = official.compute(gold, guess, CUTOFFS, ["wikipedia_id"])
        queries = [query(sets, f"q{number}") for number, (_, sets) in enumerate(cases)]
        found = kilt_scores({f"q{number}": ranking for number, (ranking, _) in enumerate(cases)}, queries, MEASURES)
        for name, value in expected.items():
            values = found[name.replace("success_rate", "success")].values()
            assert sum(values) / len(values) == pytest.approx(value, abs=1e-9), name

    compare()


def test_worked_examples_where_kilt_and_trec_eval_differ():
    assert score(["P1", "X"], [["P1"], ["P2"]])["Rprec"] == 1.0  # trec_eval: 0.5
    assert score(["P1", "P3", "P2"], [["P1", "P2"], ["P3"]])["Rprec"] == 0.5  # trec_eval: 1.0


def test_a_set_takes_the_rank_of_its_last_page():
    values = score(["P1", "X", "P2"], [["P1", "P2"]])  # entries: X, the set
    assert [values[f"success@{k}"] for k in (1, 2)] == [0.0, 1.0]
    values = score(["P1"], [["P1"], ["P1", "P2"]])  # one page, two entries, one complete
    assert (values["recall@1"], values["precision@2"]) == (0.5, 0.5)


@pytest.mark.parametrize("measure", ["Rprec@5", "recall", "recall@0", "recall@x", "MRR@10", ""])
def test_other_measures_are_refused(measure):
    with pytest.raises(InputError, match=r"Rprec, recall@k, success@k, precision@k"):
        kilt_scores({}, [], [measure])


@given(st.lists(st.integers(0, 8), max_size=12))
def test_pages_of_passages_keep_the_first(numbers):
    docids = [f"P{number}#{n}" for n, number in enumerate(numbers)]
    asked = []

    def page_of(docids):
        asked.extend(docids)
        return {docid: docid.partition("#")[0] for docid in asked}

    run = page_run(Run({"q": Ranking.of(docids, [-float(n) for n in range(len(docids))])}), page_of)
    assert run.level == "page"
    assert run.rankings["q"].docids == [f"P{number}" for n, number in enumerate(numbers) if number not in numbers[:n]]
    assert asked == docids
    assert page_run(run, page_of) is run


def test_a_docid_without_a_page_is_named():
    with pytest.raises(InputError, match="'P7#1' is not in the collection"):
        page_run(Run({"q": Ranking.of(["P7#1"], [1.0])}), lambda docids: {})
