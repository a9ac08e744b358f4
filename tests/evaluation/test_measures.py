"""Law: measures parse what they print; passage level is plain trec_eval; a macro average counts tasks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import page_run, rank_pages, write_kilt
from taco_ir.core.types import EvidenceSet, Query, Ranking, Run
from taco_ir.evaluation.measures import AT_K, LEVELS, MEASURES, Measure, Scores, macro_average, passage_qrels, score_run

docids = st.sampled_from([f"P{page}#{part}" for page in range(5) for part in range(4)])
sets = st.lists(st.lists(docids, min_size=1, max_size=3, unique=True), max_size=3)
measures = st.one_of(
    st.sampled_from(sorted(set(LEVELS) - set(AT_K))).map(Measure),
    st.builds(Measure, st.sampled_from(AT_K), st.integers(1, 1000)),
)


def page_of(docids):
    return {docid: docid.partition("#")[0] for docid in docids}


def query(qid, evidence):
    pages = [tuple(dict.fromkeys(page_of(passages).values())) for passages in evidence]
    return Query(qid, "text", "nq", evidence=tuple(map(EvidenceSet, pages, map(tuple, evidence))))


def ranking(docids):
    return Ranking.of(docids, [-float(rank) for rank in range(len(docids))])


cases = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.tuples(st.none() | st.lists(docids, unique=True), sets), min_size=1
)


def run_and_queries(cases):
    run = Run({qid: ranking(hits) for qid, (hits, _) in cases.items() if hits is not None})
    return run, [query(qid, evidence) for qid, (_, evidence) in cases.items()]


@given(measures)
def test_what_is_printed_parses(measure):
    assert Measure.parse(str(measure)) == Measure.parse(measure.short) == measure
    assert str(measure).split()[0] == measure.level


def test_printed_names():
    assert {measure.short: str(measure) for measure in MEASURES} == {
        "Rprec": "page R-precision",
        "recall@5": "page recall@5",
        "success@5": "page success@5",
        "precision@1": "page precision@1",
        "MRR@10": "passage MRR@10",
        "R@20": "passage R@20",
        "R@100": "passage R@100",
        "nDCG@10": "passage nDCG@10",
    }


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        *(("rprec", "Rprec"), ("Rprec@5", "Rprec"), ("R-prec", "Rprec"), ("ndcg_cut@10", "nDCG@k"), ("", "R")),
        *(("recall", "recall@k"), ("mrr@10", "MRR@k"), ("page MRR@10", "MRR@k"), ("recal@5", "recall@k")),
        *(("success@0", "success@k"), ("precision@-1", "precision@k")),
    ],
)
def test_unknown_measures_name_the_nearest(text, nearest):
    with pytest.raises(InputError) as caught:
        Measure.parse(text)
    assert f"{text!r} is not known, the nearest is {nearest}" in str(caught.value)
    forms = (
        "for pages: Rprec, recall@k, success@k, precision@k; for passages: MRR@k, R@k, nDCG@k and any measure of "
        "ir_measures, such as AP, RR@10, Judged@10; for answers"
    )
    assert forms in str(caught.value)


@given(cases)
def test_passage_measures_are_trec_evals(cases):
    import pytrec_eval

    run, queries = run_and_queries(cases)
    qrels = passage_qrels(queries)
    names = {Measure("R", 3): "recall_3", Measure("nDCG", 3): "ndcg_cut_3", Measure("MRR", 1000): "recip_rank"}
    scores = score_run(run, queries, page_of, names)
    if not qrels:
        assert set(scores.by_query.values()) == {None}
        return
    rankings = {qid: ranking for qid, ranking in run.rankings.items() if ranking.docids}
    hits = {qid: dict(zip(each.docids, map(float, each.scores), strict=True)) for qid, each in rankings.items()}
    plain = pytrec_eval.RelevanceEvaluator(qrels, {"recall.3", "ndcg_cut.3", "recip_rank"}).evaluate(hits)
    for measure, name in names.items():
        expected = {qid: plain[qid][name] if qid in plain else 0.0 for qid in qrels}
        assert scores.by_query[measure] == expected
        assert scores.mean(measure) == pytest.approx(sum(expected.values()) / len(qrels), abs=1e-12)


@given(cases, st.integers(1, 6))
def test_mrr_is_the_reciprocal_rank_of_the_first_hit_above_its_cutoff(cases, k):
    run, queries = run_and_queries(cases)
    found = score_run(run, queries, page_of, [Measure("MRR", k)]).by_query[Measure("MRR", k)]
    for qid, relevant in passage_qrels(queries).items():
        hits = run.rankings[qid].docids[:k] if qid in run.rankings else []
        ranks = [rank for rank, docid in enumerate(hits, 1) if docid in relevant]
        assert found[qid] == pytest.approx(1 / ranks[0] if ranks else 0.0)


def test_ties_are_measured_in_the_runs_order():
    run = Run({"q": Ranking.of(["P1#0", "P2#0"], [1.0, 1.0])})  # canonical: P2#0 first
    scores = score_run(run, [query("q", [["P1#0"]])], page_of, [Measure("MRR", 10), Measure("Rprec")])
    assert [scores.mean(measure) for measure in scores.by_query] == [0.5, 0.0]


@given(cases)
def test_a_run_and_its_pages_have_the_same_page_measures_and_only_one_has_passage_measures(cases):
    run, queries = run_and_queries(cases)
    of_passages, of_pages = score_run(run, queries, page_of), score_run(page_run(run, page_of), queries, page_of)
    for measure in MEASURES:
        if measure.level == "page":
            assert of_pages.by_query[measure] == of_passages.by_query[measure]
            assert list(of_pages.by_query[measure]) == [query.qid for query in queries]
        else:
            assert of_pages.by_query[measure] is None
            assert of_pages.mean(measure) is None
            assert (of_passages.by_query[measure] is None) == (not passage_qrels(queries))
    assert of_pages.missing == of_passages.missing == [qid for qid in cases if qid not in run.rankings]


def test_pages_are_asked_for_only_where_needed():
    def refuse(docids):
        raise AssertionError("asked for pages")

    run, queries = Run({"q": ranking(["P1#0"])}), [query("q", [["P1#0"]])]
    assert score_run(run, queries, refuse, [Measure("R", 5)]).mean(Measure("R", 5)) == 1.0


def test_a_run_of_other_topics_is_refused():
    with pytest.raises(InputError, match="2 of the run's 3 queries, such as 'x', are not among the 1 queries"):
        score_run(Run(dict.fromkeys(["q", "x", "y"], ranking([]))), [query("q", [])], page_of)


def test_missing_queries_score_zero_and_are_counted():
    queries = [query(qid, [["P1#0"]]) for qid in "abcd"]
    scores = score_run(Run({"b": ranking(["P1#0"])}), queries, page_of)
    assert scores.missing == ["a", "c", "d"]
    assert {str(measure): scores.mean(measure) for measure in MEASURES} == dict.fromkeys(map(str, MEASURES), 0.25)


def test_macro_average_is_over_tasks_and_none_where_a_task_has_none():
    measure = Measure("Rprec")
    tasks = [Scores({measure: {"a": 1.0}}, []), Scores({measure: {"b": 0.0, "c": 0.0, "d": 0.0}}, [])]
    assert macro_average(tasks, measure) == 0.5
    assert macro_average([*tasks, Scores({measure: None}, [])], measure) is None
    assert macro_average([], measure) is None


def test_the_mini_collection_is_perfect_under_its_own_evidence(minikilt, tmp_path):
    from taco_ir.data.topics import read_topics

    queries = read_topics(minikilt / "small" / "hotpotqa-dev.jsonl", "hotpotqa")
    run = Run({query.qid: rank_pages(query.evidence[0].pages) for query in queries}, level="page")
    scores = score_run(run, queries, page_of)
    assert scores.mean(Measure("Rprec")) == 1.0
    assert scores.mean(Measure("success", 5)) == 1.0
    write_kilt(run, queries, tmp_path / "run.jsonl")
