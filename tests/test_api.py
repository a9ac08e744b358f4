"""The public API: examples in docstrings run, names are functions whatever was imported, results become DataFrames."""

from __future__ import annotations

import doctest
import inspect
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import warm
from verbs import module_of, passage, query, write_collection

import taco_ir
from taco_ir.core.files import InputError
from taco_ir.core.types import Query, Ranking, Run
from taco_ir.encoders import names as builtin
from taco_ir.retrieval.choices import ModelChoice

ROOT = Path(__file__).resolve().parents[1]
# what a user calls first; each has an example
SHOWN = (
    *("open_collection", "load_encoder", "search", "Retriever", "evaluate", "mine", "train", "leaderboard", "dataset"),
    *("TrainSettings", "Taco", "TacoQueryEncoder", "Run"),
)
ALIKE = sorted(set(taco_ir.__all__) & {path.stem for path in (ROOT / "taco_ir").glob("*.py")})  # names of verbs too
QRELS = {"q1": {"1#0": 1}, "q2": {"2#0": 1}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(ROOT / "runs")
    return tmp_path


@pytest.fixture
def cities(folder: Path) -> Path:
    """Two passages and two queries of each of two tasks, one of which has no gold."""
    passages = [passage("1#0", "mona lisa by leonardo", "Mona Lisa"), passage("2#0", "bach wrote suites", "Bach")]
    topics = {
        "nq-dev": [query("q1", "who painted the mona lisa", ["1#0"]), query("q2", "what did bach write", ["2#0"])],
        "fever-dev": [query("q3", "bach wrote suites", ["2#0"])],
        "fever-test": [{"id": "q4", "input": "leonardo"}],
    }
    return write_collection(folder / "cities", passages, topics)


# ---- the package


@pytest.mark.parametrize("name", SHOWN)
def test_the_example_in_a_docstring_runs(name: str, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model stands for the backbone that trainings start from."""
    found = getattr(taco_ir, name)
    text = inspect.getdoc(found) or ""
    if name == "train":
        model = Path(shutil.copytree(tiny_bert, "tiny-bert"))
        taco_ir.EncoderConfig("mean", True, query_length=32, passage_length=64).save(model)
        monkeypatch.setitem(builtin.BUILTIN, builtin.SHIPPED_BACKBONE, lambda: model)
        text = text.replace("steps=2)", "steps=2, passage_length=64, query_length=32)").replace("384", "32")
    example = doctest.DocTestParser().get_doctest(text, {"taco_ir": taco_ir}, name, None, 0)
    assert example.examples, f"{name} has no example"
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(example, out=told.append).failed == 0, "".join(told)


@pytest.mark.parametrize("name", sorted(taco_ir.__all__))
def test_what_is_public_has_types_and_a_docstring(name: str) -> None:
    found = getattr(taco_ir, name)
    if not callable(found):
        return
    assert inspect.getdoc(found)
    made = found.__init__ if inspect.isclass(found) else found
    for parameter in inspect.signature(made).parameters.values() if inspect.isfunction(made) else ():
        assert parameter.name == "self" or parameter.annotation is not parameter.empty, f"{name}: {parameter}"


VERBS = (  # ways of importing a verb
    "from importlib import import_module; assert callable(import_module('taco_ir.{name}').main)",
    "import taco_ir.{name}; assert taco_ir.{name} is function",
    "from taco_ir.{name} import main, parser",
)
FUNCTIONS = (  # ways of getting the function of its name
    "import taco_ir; assert taco_ir.{name} is function",
    "from taco_ir import {name}; assert {name} is function",
    "import taco_ir.{name} as named; assert named is function",
)


@pytest.mark.parametrize("name", ALIKE)
def test_a_verb_does_not_hide_the_function_of_its_name(name: str) -> None:
    """Whichever is imported first, in a process in which neither was."""
    assert inspect.isfunction(getattr(taco_ir, name)) and module_of(name).main is not getattr(taco_ir, name)
    start = f"import sys; assert 'taco_ir.{name}' not in sys.modules; from taco_ir.core import resolve"
    function = f"function = resolve({taco_ir._PUBLIC[name]!r})"
    for verb, use in zip(VERBS, FUNCTIONS, strict=True):
        for first, second in ((verb, use), (use, verb)):
            code = "\n".join([start, function, first, second, use, verb]).replace("{name}", name)
            done = warm.run([sys.executable, "-c", code])
            assert done.returncode == 0, f"{code}\n{done.stderr}"


def test_no_argparse_value_is_in_it() -> None:
    for name in taco_ir.__all__:
        found = getattr(taco_ir, name)
        assert not callable(found) or "Namespace" not in str(getattr(found, "__annotations__", ""))


# ---- search


def test_a_retriever_and_search_and_the_verb_find_the_same(cities: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retriever = taco_ir.Retriever(cities, retriever="bm25")
    hits = retriever.search("mona lisa", hits=5)
    assert [(hit.rank, hit.docid, hit.page, hit.title) for hit in hits] == [(1, "1#0", "1", "Mona Lisa")]
    run = taco_ir.search("cities", ["mona lisa"], retriever="bm25", hits=5)
    assert run.rankings["1"].docids == ["1#0"] and float(run.rankings["1"].scores[0]) == hits[0].score
    module_of("search").main(["--collection", "cities", "--query", "mona lisa", "--retriever", "bm25"])
    assert f"  1  {hits[0].score:.4f}  Mona Lisa  [1#0]\n" in capsys.readouterr().out


def test_queries_are_texts_values_topics_or_names_of_topics(cities: Path, folder: Path) -> None:
    retriever = taco_ir.Retriever(str(cities), retriever="bm25")
    topics = retriever.collection.topics("nq-dev")
    by_topics = retriever.run(topics)
    assert list(by_topics.rankings) == ["q1", "q2"]
    (folder / "asked.tsv").write_text("q1\twho painted the mona lisa\nq2\twhat did bach write\n")
    for given in ("nq-dev", "kilt/nq/dev", "asked.tsv", topics.queries, iter(topics.queries)):
        assert retriever.run(given).rankings.keys() == by_topics.rankings.keys()
    assert list(retriever.run("all-dev").rankings) == ["q3", "q1", "q2"]
    assert list(retriever.run(["mona lisa", "bach"]).rankings) == ["1", "2"]
    assert list(retriever.run("mona lisa").rankings) == ["1"]
    assert retriever.run(["nq-dev"]).rankings["1"].docids == []  # a list has texts


@pytest.mark.parametrize(
    ("queries", "task", "said"),
    [
        ("nq-def-dev", None, "unknown topics 'nq-def-dev'; did you mean nq-dev"),
        ([], None, "no queries; give one or more texts"),
        ("  ", None, "a query is empty; give a text"),
        (["bach", ""], None, "a query is empty; give a text"),
        ([Query("q", "a", ""), Query("q", "b", "")], None, "query id 'q' is given twice"),
        ("nq-dev", "nq", "task 'nq': topics already have tasks"),
    ],
)
def test_queries_that_are_none_are_told(cities: Path, queries: object, task: str | None, said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}[^\n]*$"):
        taco_ir.search(cities, queries, task=task, retriever="bm25")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"retriever": "bm26"}, "retriever is 'bm26'; it must be one of dense, bm25, hybrid"),
        ({"hits": 0, "retriever": "bm25"}, "hits is 0; it must be a whole number, at least 1"),
        ({"model": "/no/model"}, "--model '/no/model': no such folder"),
        ({"index": "no-index"}, "--index no-index: no manifest.json"),
        ({"task": "nqq"}, "unknown task 'nqq'; did you mean nq"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(cities: Path, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}[^\n]*$"):
        taco_ir.search(cities, ["bach"], **arguments)  # type: ignore[arg-type]


def test_a_model_is_a_name_a_choice_or_an_encoder(cities: Path, tiny_bert: Path) -> None:
    """All with the same vectors, in one index; the encoder that is loaded is used as it is."""
    choice = ModelChoice(str(tiny_bert), pooling="mean", normalize=True)
    encoder = taco_ir.load_encoder(tiny_bert, pooling="mean", normalize=True)
    by_choice, by_encoder = (taco_ir.Retriever(cities, model) for model in (choice, encoder))
    assert by_choice.search("bach wrote") == by_encoder.search("bach wrote")
    hybrid = taco_ir.Retriever(cities, encoder, retriever="hybrid").search_each("bach wrote", hits=1)
    assert list(hybrid) == [tiny_bert.name, "bm25", "hybrid"] and len(hybrid["hybrid"]) == 1
    with pytest.raises(InputError, match="does not record how to pool|--pooling"):
        taco_ir.Retriever(cities, tiny_bert)


# ---- evaluation


@pytest.fixture
def runs(cities: Path) -> dict[str, Run]:
    good = {"q1": Ranking.of(["1#0", "2#0"], [2, 1]), "q2": Ranking.of(["2#0", "1#0"], [2, 1])}
    return {"good": Run(good), "bad": Run(good | {"q1": Ranking.of(["2#0", "1#0"], [2, 1])})}


def test_evaluation_is_that_of_the_verb(cities: Path, runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    for name, run in runs.items():
        taco_ir.write_trec(run, Path(f"nq-dev.{name}.trec"), name)
    asked = ["--measures", "Rprec", "MRR@10", "--baseline", "nq-dev.bad.trec"]
    verb = module_of("evaluate")
    verb.main(["nq-dev.good.trec", "--collection", "cities", "--topics", "nq-dev", *asked])
    printed = capsys.readouterr().out
    order = {"bad": runs["bad"], "good": runs["good"]}
    found = taco_ir.evaluate(order, cities, topics="nq-dev", measures=["Rprec", "MRR@10"], baseline="bad")
    from taco_ir.evaluation.tables import render_all

    assert render_all([found.table(), found.comparison_table()], "table") == printed
    assert found.mean("Rprec", "good") == 1.0 and found.mean("MRR@10", "bad") == 0.75


def test_the_topics_of_a_run_are_found_by_its_queries(cities: Path, runs: dict[str, Run]) -> None:
    assert [topic.name for topic in taco_ir.evaluate(runs["good"], cities).topics] == ["nq-dev"]
    whole = Run({**runs["good"].rankings, "q3": Ranking.of(["1#0"], [1])})
    found = taco_ir.evaluate(whole, "cities", measures=["Rprec"])
    assert [topic.name for topic in found.topics] == ["fever-dev", "nq-dev"] and found.mean("Rprec") == 0.5
    part = taco_ir.evaluate(Run({"q1": runs["good"].rankings["q1"]}), cities, measures=["Rprec"])
    assert part.mean("Rprec") == 0.5  # what the run lacks scores 0
    with pytest.raises(InputError, match="no topics of collection citi.* contain the run's 1 queries, such as 'x'"):
        taco_ir.evaluate(Run({"x": Ranking.of(["1#0"], [1])}), cities)


def test_gold_may_be_judgments(runs: dict[str, Run], folder: Path) -> None:
    (folder / "judged.qrels").write_text("q1 0 1#0 1\nq2 0 2#0 1\n")
    (folder / "good.trec").write_text("q1 Q0 1#0 1 2.0 x\nq2 Q0 2#0 1 2.0 x\n")
    for run in (runs["good"], "good.trec", folder / "good.trec"):
        for gold in (QRELS, "judged.qrels", folder / "judged.qrels"):
            assert taco_ir.evaluate(run, gold, measures=["MRR@10"]).mean("MRR@10") == 1.0
    found = taco_ir.evaluate(runs, QRELS)
    assert found.mean("nDCG@10", "bad") == pytest.approx((1 + 1 / np.log2(3)) / 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"baseline": "ugly"}, "baseline 'ugly' is not among the runs: good, bad"),
        ({"measures": ["Rprek"]}, "measure 'Rprek'"),
        ({"measures": "Rprec"}, "'Rprec' is a single text; give a list of measures"),
        ({"topics": "fever-test"}, "--topics fever-test: these topics have no gold to score against"),
        ({"topics": "fever-dev"}, "good: 2 of its 2 topics, such as 'q1', are not in fever-dev"),
        ({"topics": "nq-deff"}, "unknown topics 'nq-deff'"),
    ],
)
def test_what_cannot_be_evaluated_is_told(
    cities: Path, runs: dict[str, Run], arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=f"^{said}[^\n]*$"):
        taco_ir.evaluate(runs, cities, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="^measure page R-precision was not scored; scored: passage MRR@10$"):
        taco_ir.evaluate(runs, cities, measures=["MRR@10"]).mean("Rprec", "good")
    with pytest.raises(InputError, match="^system '' was not scored; scored: good, bad$"):
        taco_ir.evaluate(runs, cities, measures=["MRR@10"]).mean("MRR@10")


# ---- results


def test_results_become_data_frames(cities: Path, runs: dict[str, Run]) -> None:
    found = taco_ir.evaluate(runs, cities, measures=["Rprec", "MRR@10"], baseline="bad")
    means, queries = found.to_pandas(), found.to_pandas(by_query=True)
    assert means.loc[means["system"] == "bad", "passage MRR@10"].tolist() == [0.75]
    assert queries.groupby("system")["passage MRR@10"].mean().to_dict() == {"bad": 0.75, "good": 1.0}
    assert runs["good"].to_pandas()["docid"].tolist() == ["1#0", "2#0", "2#0", "1#0"]
    assert Run({}).to_pandas().columns.tolist() == ["query", "rank", "docid", "score"]
    retriever = taco_ir.Retriever(cities, retriever="bm25")
    assert retriever.search("mona lisa").to_pandas()["title"].tolist() == ["Mona Lisa"]
    assert retriever.search("nothing at all").to_pandas().empty
    boards = taco_ir.leaderboard("runs/minikilt", corpus="part", measures=["Rprec"])
    assert boards[0].corpus == "part" and {"system", "topics", "mean", "sd"} <= set(boards.to_pandas().columns)


class WithoutPandas:
    """As where pandas is not installed."""

    def find_spec(self, name: str, *_: Sequence[str]) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")


@pytest.fixture
def no_pandas(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    monkeypatch.setattr(sys, "meta_path", [WithoutPandas(), *sys.meta_path])
    yield


def test_without_pandas_it_is_said_what_to_install(no_pandas: None, runs: dict[str, Run]) -> None:
    with pytest.raises(InputError, match=r"^to_pandas\(\) needs pandas; install it with `pip install pandas`$"):
        runs["good"].to_pandas()


def test_a_training_without_a_model_or_a_place_is_told() -> None:
    with pytest.raises(InputError, match="^model is needed: the encoder to start from"):
        taco_ir.train(taco_ir.TrainSettings(output="out"))
    with pytest.raises(InputError, match="^output is needed: folder to write checkpoints"):
        taco_ir.train(taco_ir.TrainSettings(model="taco-mini-backbone"))
