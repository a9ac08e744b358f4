"""Whole trainings on the sample collection: finished stages are not repeated, and every mistake is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import (
    SMALL,
    TASKS,
    contents,
    data_of,
    differing,
    last_checkpoint,
    logged,
    sample,
    small,
    stopped_after,
    stopped_at,
)
from verbs import passage, query, write_collection

from taco_ir.answer import main as answer
from taco_ir.cli import Parser
from taco_ir.core.files import InputError, exclusive
from taco_ir.core.run_formats import read_trec
from taco_ir.data.collection import open_collection
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.mine import main as mine
from taco_ir.negatives.file import NegativesHeader, read_negatives, write_negatives
from taco_ir.retrieval import retrievers
from taco_ir.search import main as search
from taco_ir.train import main as train_verb
from taco_ir.training import data as training_data
from taco_ir.training.base_model import start_encoder
from taco_ir.training.curves import CURVES_FILE
from taco_ir.training.flags import add_flags, given_flags, read_settings
from taco_ir.training.folder import save_settings
from taco_ir.training.headroom import training_headroom
from taco_ir.training.loop import Loop
from taco_ir.training.run import train
from taco_ir.training.settings import TrainSettings

BM25, ANCE = "bm25-20-0-4.jsonl", "ance.jsonl"
TWO = (
    {"negatives": "bm25", "steps": 3},
    {"negatives": "ance", "steps": 4, "weighting": "taco", "weighting_options": {"beta": 0.9, "burn_in": 0.3}},
)
TUNED: dict[str, Any] = {"tune": "iaa-l", "tune_width": 4, "tune_roles": "task"}
SHORT: dict[str, Any] = {
    **{"tasks": ("fever", "nq"), "batch_size": 4, "mine_depth": 20, "mine_keep": 4, "pool_hard": 2, "normalize": True}
}


def two(model: Path, output: Path, /, **changes: Any) -> TrainSettings:
    return small(model, output, **{**SHORT, "episodes": TWO, **changes})


def one(model: Path, output: Path, /, **changes: Any) -> TrainSettings:
    mines = small(model, output, **{**SHORT, "negatives": "bm25", "steps": 2, "pool_hard": 0})
    return mines.replace(**{"negatives": "none", **changes})


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a run does, stage by stage."""
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        watch(patch, found)
        yield found


def watch(patch: pytest.MonkeyPatch, found: list[str]) -> None:
    def noting(module: ModuleType, name: str, describe: Callable[..., str], said: str = "") -> None:
        real = getattr(module, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            found.append(f"{said or name} {describe(*args)}")
            return real(*args, **kwargs)

        patch.setattr(module, name, noted)

    def mined(*args: Any) -> str:
        return f"{args[4].parent.name[:9]}/{args[4].name}" if args[4].name == ANCE else str(args[4].name)

    noting(training_data, "mine_topics", mined, "mine")
    noting(retrievers, "encode_shared", lambda *args: args[4].parent.name)
    run = Loop.run

    def running(self: Loop) -> Path:
        found.append(f"train {self._folder.name} from {self.state.step}")
        return run(self)

    patch.setattr(Loop, "run", running)


@pytest.fixture(scope="module")
def finished(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of two episodes, and what it did."""
    found: list[str] = []
    output = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        watch(patch, found)
        assert train(two(tiny_bert, output)) == output / "episode-2" / "model"
    return output, found


SECOND = ["encode_shared episode-2", f"mine episode-2/{ANCE}"]


def test_two_episodes(finished: tuple[Path, list[str]]) -> None:
    output, done = finished
    begun = [f"mine {BM25}", "mine validation.jsonl", "train episode-1 from 0"]
    assert done == [*begun, *SECOND, "train episode-2 from 0"]
    first, second = logged(output / "episode-1"), logged(output / "episode-2")
    assert [record["step"] for record in first] == [0, 1, 2, 3, 3]
    assert [record["step"] for record in second] == [0, 1, 2, 3, 3, 4, 4]
    assert first[1]["weight"] == {"fever": 0.5, "nq": 0.5} and second[-2]["weight"] != first[1]["weight"]
    (*_, last) = (record["validation"] for record in first if "validation" in record)
    assert second[0]["validation"] == last  # it starts from that model
    assert not [path for name in ("*.part", "vectors") for path in output.rglob(name)]
    assert json.loads((output / "config.json").read_text())["episodes"] == list(TWO)


def test_negatives_of_an_episode_are_those_of_the_model_before(finished: tuple[Path, list[str]]) -> None:
    """The header names that model, and the scores are its inner products."""
    output, _ = finished
    encoder = load_encoder(str(output / "episode-1" / "model"))
    found = read_negatives(output / "episode-2" / ANCE, sample().passages.fingerprint)
    assert found.sources[0].checkpoint == encoder.fingerprint
    assert found.docids.keys() == {"fever-train", "nq-train"}
    for name in found.docids:
        task = name.removesuffix("-train")
        run = read_trec(output / "episode-2" / "ance.runs" / f"{name}.trec")
        topics = sample().load_topics(name)
        queries_BD = encoder.encode_queries([each.text for each in topics.queries], task)
        vectors_ND = encoder.encode_passages(list(sample().passages.read()))
        top_B = np.sort(queries_BD @ vectors_ND.T, axis=1)[:, ::-1]
        for row, each in enumerate(topics.queries):
            assert np.allclose(run.rankings[each.qid].scores, top_B[row, :20], atol=2e-3)  # vectors are kept in 16 bits
            assert set(found.docids[name][each.qid]) <= set(run.rankings[each.qid].docids)


# stages


@pytest.mark.parametrize(
    ("lost", "done"),
    [
        ((), []),
        (("episode-2/model",), ["train episode-2 from 4"]),
        (("episode-2/model", "episode-2/checkpoints"), ["train episode-2 from 0"]),
        (("episode-2/model", "episode-2/checkpoints/step-00000004"), ["train episode-2 from 3"]),
        (("episode-2/model", "episode-2/checkpoints", f"episode-2/{ANCE}"), [*SECOND, "train episode-2 from 0"]),
        (("episode-2",), [*SECOND, "train episode-2 from 0"]),
        (
            ("episode-1/model", "episode-2", BM25),
            [f"mine {BM25}", "train episode-1 from 3", *SECOND, "train episode-2 from 0"],
        ),
        (
            ("episode-1", "episode-2", "validation.jsonl"),
            ["mine validation.jsonl", "train episode-1 from 0", *SECOND, "train episode-2 from 0"],
        ),
    ],
)
def test_only_what_is_not_there_is_done(
    finished: tuple[Path, list[str]],
    tiny_bert: Path,
    tmp_path: Path,
    events: list[str],
    lost: tuple[str, ...],
    done: list[str],
) -> None:
    """...and in the end every file is what it was."""
    whole, _ = finished
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    for name in lost:
        path = output / name
        assert path.exists()
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    model = train(two(tiny_bert, output))
    assert model == output / "episode-2" / "model" and events == done
    found, expected = contents(output), contents(whole)
    if "episode-1" in lost:  # nothing was left that had begun, so the run is another one's, in its own folder
        found["config.json"] = found["config.json"].replace(str(output).encode(), str(whole).encode())
    assert found == expected
    assert all(logged(output / name) == logged(whole / name) for name in ("episode-1", "episode-2"))


def test_kept_runs_are_filtered_not_retrieved_again(
    finished: tuple[Path, list[str]], tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished[0], output)
    for name in ("episode-1", "episode-2"):
        shutil.rmtree(output / name)
    (output / BM25).unlink()
    monkeypatch.setattr("taco_ir.retrieval.lucene.BM25.search", None)
    with stopped_at("run"):
        train(two(tiny_bert, output))
    assert (output / BM25).read_bytes() == (finished[0] / BM25).read_bytes()


def test_vectors_go_when_the_model_is_there(
    finished: tuple[Path, list[str]], tiny_bert: Path, tmp_path: Path, events: list[str]
) -> None:
    """An episode that stops while it trains keeps its vectors for the next attempt."""
    output = tmp_path / "run"
    shutil.copytree(finished[0], output)
    shutil.rmtree(output / "episode-2")
    with stopped_at("run"):
        train(two(tiny_bert, output))
    assert list((output / "episode-2" / "vectors").rglob("manifest.json"))
    (output / "episode-2" / ANCE).unlink()  # as if it had stopped while mining
    assert train(two(tiny_bert, output)).is_dir()
    assert events == [*SECOND, *SECOND, "train episode-2 from 0"]
    assert differing(output, finished[0]) == []


def test_ance_from_a_plain_base(tiny_bert: Path, tmp_path: Path) -> None:
    """A model that does not say how it pools is mined with as the configuration says."""
    model = train(one(tiny_bert, tmp_path / "run", negatives="ance"))
    found = read_negatives(tmp_path / "run" / ANCE, sample().passages.fingerprint)
    assert found.sources[0].checkpoint == load_encoder(str(tiny_bert), pooling="mean", normalize=True).fingerprint
    assert load_encoder(str(model)).config.normalize


def test_negatives_of_an_earlier_try_by_another_model_are_mined_anew(
    tiny_bert: Path, tmp_path: Path, events: list[str]
) -> None:
    """...of which no step was made: vectors and negatives are told by their content."""
    config = one(tiny_bert, tmp_path / "run", negatives="ance", steps=1)
    with stopped_at("run"):
        train(config)
    other = config.replace(normalize=False, seed=1)
    mined = ["encode_shared run", f"mine run/{ANCE}", "train run from 0"]
    assert train(other).is_dir() and events == [*mined[:2], *mined]
    train(other.replace(output=str(tmp_path / "alone" / "run")))
    made, wanted = contents(tmp_path / "run"), contents(tmp_path / "alone" / "run")
    assert {name for name in wanted if made.get(name) != wanted[name]} == {"config.json"}


# what an episode takes over


@pytest.mark.parametrize(
    ("kept", "steps", "updates"), [({}, 1, 1), ({"keep_optimizer": True}, 3, 1), ({"keep_importance": True}, 1, 3)]
)
def test_what_is_taken_over(
    tiny_bert: Path, tmp_path: Path, kept: Mapping[str, bool], steps: int, updates: int
) -> None:
    """Each flag its own state, and neither by default."""
    tables = ({"steps": 2}, {"steps": 1, **kept})
    train(one(tiny_bert, tmp_path / "run", weighting="taco", episodes=tables))
    second = last_checkpoint(tmp_path / "run" / "episode-2")
    assert load_file(second / "optimizer.safetensors")["0.step"] == steps
    assert load_file(second / "weighting.safetensors")["updates"].tolist() == [updates, updates]
    base = {"model": str(tmp_path / "run/episode-1/model"), "normalize": False, "pooling": None}
    train(one(tiny_bert, tmp_path / "cold", **base, weighting="taco", steps=1))
    cold = last_checkpoint(tmp_path / "cold")
    for name, key in (("optimizer.safetensors", "keep_optimizer"), ("weighting.safetensors", "keep_importance")):
        assert ((second / name).read_bytes() == (cold / name).read_bytes()) == (not kept.get(key))


def test_importance_of_another_weighting_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    tables = ({"steps": 1}, {"steps": 1, "weighting": "taco", "keep_importance": True})
    with pytest.raises(
        InputError, match=r"^episode 2: keep_importance is True, but the weighting is taco, and was naive"
    ):
        train(one(tiny_bert, tmp_path / "run", episodes=tables))


# the folder of a run


@pytest.mark.parametrize("key", ["keep_optimizer", "keep_importance"])
@pytest.mark.parametrize("of_first", [False, True])
def test_nothing_is_kept_where_no_episode_is_before(
    tiny_bert: Path, tmp_path: Path, events: list[str], key: str, of_first: bool
) -> None:
    changes: dict[str, Any] = {"episodes": ({key: True}, {})} if of_first else {key: True}
    with pytest.raises(
        InputError,
        match=f"^{key} is True, but there is no earlier episode whose state could be kept; leave {key} out, or",
    ):
        train(one(tiny_bert, tmp_path / "run", negatives="bm25", weighting="taco", **changes))
    assert events == [] and not (tmp_path / "run").exists()


@pytest.fixture
def without_module(tiny_bert: Path, tmp_path: Path) -> Path:
    """A model with an adapter for nq alone."""
    model = start_encoder(small(tiny_bert, tmp_path, tasks=("nq",), **TUNED), tiny_bert, ["nq"])
    model.save(tmp_path / "tuned")
    return tmp_path / "tuned"


@pytest.mark.parametrize("verb", ["search", "hybrid", "compare", "mine", "answer"])
def test_a_task_without_a_module_is_refused_before_the_collection_is_encoded(
    without_module: Path, tiny_bert: Path, tmp_path: Path, events: list[str], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("taco_ir.answer.load_reader", lambda *_: SimpleNamespace(fingerprint="0" * 16))
    name = str(without_module)
    argv: dict[str, tuple[Callable[[list[str]], None], list[str]]] = {
        "search": (search, ["--model", name, "--topics", "nq-dev", "wow-dev"]),
        "hybrid": (search, ["--model", name, "--topics", "nq-dev", "wow-dev", "--retriever", "hybrid"]),
        "compare": (search, ["--model", name, "--topics", "nq-dev", "wow-dev", "--retriever", "bm25", "--compare"]),
        "mine": (mine, ["--source", "bm25", name, "--tasks", "nq", "wow", "--output", "negatives.jsonl"]),
        "answer": (answer, ["--model", name, "--topics", "nq-dev", "wow-dev", "--reader", str(tiny_bert)]),
    }
    main, flags = argv[verb]
    with pytest.raises(InputError, match="adapters for queries of tasks nq, but not of task 'wow'"):
        main(flags)
    assert events == [] and not list(tmp_path.glob("*.runs")) and not list(tmp_path.rglob("*.trec"))


def test_a_task_without_a_module_is_refused_before_mining_by_it(
    without_module: Path, tmp_path: Path, events: list[str]
) -> None:
    run = one(
        without_module, tmp_path / "run", negatives="ance", tasks=("nq", "wow"), pooling=None, normalize=False, **TUNED
    )
    with pytest.raises(InputError, match="adapters for queries of tasks nq, but not of task 'wow'"):
        train(run)
    assert events == []


def test_a_finished_run_does_nothing(
    finished: tuple[Path, list[str]], tiny_bert: Path, events: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output, _ = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert train(two(tiny_bert, output)) == output / "episode-2" / "model"
    assert events == [] and before == {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert capsys.readouterr().err == f"trained model: {output / 'episode-2' / 'model'}\n"


def test_learning_curves_are_made_again_from_the_log(
    finished: tuple[Path, list[str]], tiny_bert: Path, tmp_path: Path
) -> None:
    """By the same command, as for a training of before there were any."""
    output = tmp_path / "run"
    shutil.copytree(finished[0], output)
    (output / CURVES_FILE).unlink()
    train(two(tiny_bert, output))
    assert differing(output, finished[0]) == []


def test_learning_curves_can_be_read_while_it_trains(tiny_bert: Path, tmp_path: Path) -> None:
    with stopped_after(5):
        train(one(tiny_bert, tmp_path / "run", validate_every=2, steps=6))
    page = (tmp_path / "run" / CURVES_FILE).read_text(encoding="utf-8")
    assert "After 4 steps" in page and page.rstrip().endswith("</html>")


def test_another_configuration_is_refused(finished: tuple[Path, list[str]], tiny_bert: Path, events: list[str]) -> None:
    output, _ = finished
    before = contents(output)
    with pytest.raises(InputError) as error:
        train(two(tiny_bert, output, seed=1, tasks=("nq",), device="cpu", track=("wandb",)))
    assert str(error.value) == (
        f"--output {output} is a training with other settings: tasks was ('fever', 'nq'), is ('nq',), seed was 0, is 1;"
        " use the same settings, give another folder, or replace the training with --overwrite"
    )
    assert events == [] and contents(output) == before


def test_a_folder_may_move(finished: tuple[Path, list[str]], tiny_bert: Path, tmp_path: Path) -> None:
    shutil.copytree(finished[0], tmp_path / "elsewhere")
    assert train(two(tiny_bert, tmp_path / "elsewhere")) == tmp_path / "elsewhere" / "episode-2" / "model"


@pytest.mark.parametrize("content", ["thesis.txt", "model/config.json", "config.json/x"])
def test_a_folder_of_something_else_is_left_alone(tiny_bert: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "run" / content
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    with pytest.raises(InputError, match=r"--output .*run exists and is not a training; give another folder"):
        train(one(tiny_bert, tmp_path / "run"))
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "precious"


def test_a_configuration_of_something_else_is_left_alone(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match=r"is not a training: its config.json has 'model_type' and lacks 'collection'"):
        train(one(tiny_bert, tmp_path))
    assert (tmp_path / "config.json").read_text() == '{"model_type": "bert"}'


def test_a_file_is_no_folder(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious")
    with pytest.raises(InputError, match="exists and is not a training"):
        train(one(tiny_bert, tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "precious"


def test_a_folder_in_use(tiny_bert: Path, tmp_path: Path) -> None:
    config = one(tiny_bert, tmp_path / "run")
    with exclusive(tmp_path / "run" / "run"), pytest.raises(InputError, match="another process is writing it"):
        train(config)
    assert not (tmp_path / "run" / "config.json").exists()
    train(config)


@pytest.mark.parametrize("left", ["config.json.0123abcd.part", "config.json.lock", "run.lock"])
def test_killed_before_anything_was_done(tiny_bert: Path, tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text("{")
    assert train(one(tiny_bert, tmp_path)) == tmp_path / "model"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tasks": ("nqq",)}, r"unknown task 'nqq'; did you mean nq\? valid: aidayago2, fever"),
        ({"tasks": ("nq", "eli5")}, "unknown task 'eli5'; .*valid: aidayago2"),
        (
            {"batch_size": 1},
            "batch_size is 1, but each of the 2 tasks needs a query in every step; give at least 2",
        ),
        ({"shares": "4,4,4"}, "shares is '4,4,4' .3 numbers.; give 2, one for each task"),
        (
            {"weighting": "taco", "weighting_options": {"tua": 2}},
            r"weighting_options: unknown option 'tua' of taco; did you mean tau\?",
        ),
        (
            {"weighting": "static", "weighting_options": {"nqq": 2}},
            r"weighting_options: unknown task 'nqq'; did you mean nq\? valid: fever, nq",
        ),
        (
            {"weighting": "naive", "weighting_options": {"tau": 2}},
            "weighting_options: unknown option 'tau' of naive; valid: none",
        ),
        (
            {"weighting": "taco", "weighting_options": {"tau": "hot"}},
            "task weighting option tau: it is 'hot', but must be a number other than 0, or share:S",
        ),
        (
            {"weighting": "taco", "weighting_options": {"beta": 2}},
            "task weighting option beta: it is 2.0, but must be 0 <= beta < 1",
        ),
        (
            {"episodes": ({}, {"weighting": "cgd", "weighting_options": {"rat": 1}})},
            r"unknown option 'rat' of cgd; did you mean rate\?",
        ),
        ({"pooling": None}, "a plain Hugging Face model does not record how to pool token vectors; give --pooling"),
        ({"passage_length": 500}, "passage_length is 500; .*takes 1 to 128 tokens"),
        ({"freeze_layers": 7}, "freeze_layers is 7; it must be at most 2"),
        (
            {"episodes": ({}, {}), "tune": "prompt", "tune_reparameterise": True},
            "possible only with one episode, and there are 2",
        ),
        ({"model": "./nowhere"}, r"--model './nowhere': no such folder"),
        ({"negatives": "none.jsonl"}, "none.jsonl: no such file"),
        ({"negatives": "anse"}, r"negatives anse: no such file; did you mean ance\?"),
    ],
)
def test_mistakes_are_told_before_the_work_and_can_be_mended(
    tiny_bert: Path, tmp_path: Path, events: list[str], wrong: Mapping[str, Any], said: str
) -> None:
    """...in the same folder: a run that left nothing may be configured anew."""
    with pytest.raises(InputError, match=said):
        train(one(tiny_bert, tmp_path / "run", **{"negatives": "bm25", **wrong}))
    assert events == [] and not list((tmp_path / "run").glob("*.jsonl"))
    assert train(one(tiny_bert, tmp_path / "run", steps=1)).is_dir()


def test_negatives_of_another_collection(tiny_bert: Path, tmp_path: Path) -> None:
    header = NegativesHeader("bm25", "", "0123456789abcdef", 10, 0, 5, (), 0)
    write_negatives(tmp_path / "n.jsonl", header, [("nq-train", "q", ["1#0"], [1.0])])
    with pytest.raises(
        InputError,
        match=r"n.jsonl: mined from collection '0123456789abcdef', but the given collection is '[0-9a-f]{16}'",
    ):
        train(one(tiny_bert, tmp_path / "run", negatives=str(tmp_path / "n.jsonl")))


def test_negatives_from_a_file(
    finished: tuple[Path, list[str]], tiny_bert: Path, tmp_path: Path, events: list[str]
) -> None:
    train(one(tiny_bert, tmp_path / "run", negatives=str(finished[0] / BM25)))
    assert events == ["train run from 0"]


# collections of one's own


def made(folder: Path, *topics: str, evidence: bool = True) -> Path:
    passages = [
        passage(f"{page}#{part}", f"word{page} text{part} of page {page}") for page in range(8) for part in range(2)
    ]
    records = {
        name: [
            query(f"{name}-{page}", f"what is word{page}", *([[f"{page}#0"]] if evidence or "train" in name else []))
            for page in range(6)
        ]
        for name in topics
    }
    return write_collection(folder, passages, records)


def birds(model: Path, output: Path, collection: Path) -> TrainSettings:
    return one(model, output, collection=str(collection), tasks=("all",), negatives="bm25", pool_hard=2)


def test_no_train_topics(tiny_bert: Path, tmp_path: Path) -> None:
    collection = made(tmp_path / "c", "birds-dev")
    with pytest.raises(InputError, match="collection c has no train topics; it needs files TASK-train.jsonl"):
        train(one(tiny_bert, tmp_path / "run", collection=str(collection), tasks=("all",)))


def test_a_task_without_train_topics(tiny_bert: Path, tmp_path: Path) -> None:
    collection = made(tmp_path / "c", "birds-train", "bees-dev")
    with pytest.raises(InputError, match=r"unknown task 'bees'; .*valid: birds$"):
        train(one(tiny_bert, tmp_path / "run", collection=str(collection), tasks=("birds", "bees")))


@pytest.mark.parametrize("dev", [(), ("birds-dev",)])
def test_dev_topics_that_judge_nothing(
    tiny_bert: Path, tmp_path: Path, dev: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """A task without dev topics, or with unjudged ones, is not validated; the last model is kept."""
    collection = made(tmp_path / "c", "birds-train", "bees-train", *dev, evidence=False)
    model = train(birds(tiny_bert, tmp_path / "run", collection))
    assert "birds: no dev topics with a gold passage to validate on" in caplog.text and "bees: no dev" in caplog.text
    assert [record["step"] for record in logged(tmp_path / "run")] == [1, 2]
    assert differing(model, last_checkpoint(tmp_path / "run") / "model") == []


def test_a_task_of_ones_own_is_validated_and_searched(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = made(tmp_path / "c", "birds-train", "birds-dev")
    model = train(birds(tiny_bert, tmp_path / "run", collection))
    assert load_encoder(str(model)).config.prompts == {"birds": "BIRDS <extra_id_1> "}
    assert "birds" in logged(tmp_path / "run")[0]["validation"]
    monkeypatch.chdir(tmp_path)
    search(["--model", str(model), "--collection", str(collection), "--topics", "birds-dev", "--output", "birds.trec"])
    assert len(read_trec(tmp_path / "birds.trec").rankings) == 6


def test_validation_on_train_trains_on_the_rest(tiny_bert: Path, tmp_path: Path) -> None:
    """The best model is then chosen without a look at dev."""
    collection = made(tmp_path / "c", "birds-train", "birds-dev")
    config = one(
        tiny_bert, tmp_path / "run", collection=str(collection), tasks=("all",), validate_on="train", pool_queries=1
    )
    data = data_of(config, tmp_path / "run")
    (pool,) = data.pools
    (sampler,) = data.samplers(config.batch, None)
    held_out, trained = {query.qid for query in pool.queries}, {example.qid for example in sampler.examples}
    every = {query.qid for query in open_collection(str(collection)).load_topics("birds-train").queries}
    assert len(held_out) == 1 and held_out | trained == every and not held_out & trained


def test_validation_on_train_leaves_out_a_question_under_every_id(tiny_bert: Path, tmp_path: Path) -> None:
    """A question that is validated on is not trained on under another id either."""
    asked = [query(f"q{row}", f"{' ' * (row // 6)}Question {row % 6}", [f"{row % 6}#0"]) for row in range(12)]
    collection = write_collection(
        tmp_path / "c", [passage(f"{page}#0", f"text {page}") for page in range(6)], {"nq-train": asked}
    )
    own: dict[str, Any] = {"tasks": ("nq",), "validate_on": "train", "pool_queries": 1, "max_examples": 0}
    config = one(tiny_bert, tmp_path / "run", collection=str(collection), **own)
    data = data_of(config, tmp_path / "run")
    held_out = {each.text for pool in data.pools for each in pool.queries}
    (sampler,) = data.samplers(config.batch, None)
    assert held_out and not held_out & {example.text.strip() for example in sampler.examples}


# kinds of runs


def test_one_task(tiny_bert: Path, tmp_path: Path) -> None:
    """A weighting of one task is that task's own gradient, whatever the strategy."""
    models = []
    for weighting in ("naive", "taco", "pcgrad"):
        model = train(one(tiny_bert, tmp_path / weighting, tasks=("nq",), weighting=weighting))
        models.append(load_file(model / "model.safetensors"))
        assert list(load_encoder(str(model)).config.prompts) == ["nq"]
    for other in models[1:]:
        assert all(torch.allclose(value, other[name], atol=1e-6) for name, value in models[0].items())


def test_aliases_and_repeats_name_one_task(tiny_bert: Path, tmp_path: Path) -> None:
    model = train(one(tiny_bert, tmp_path / "run", tasks=("zsre", "structured_zeroshot", "nq"), steps=1))
    assert list(load_encoder(str(model)).config.prompts) == ["structured_zeroshot", "nq"]


def test_fewer_examples(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """max_examples draws the same ones for one seed; an epoch gets shorter."""
    train(one(tiny_bert, tmp_path / "run", max_examples=6, steps=0))
    told = capsys.readouterr().err
    rows = [line.split()[:3] for line in told.splitlines() if line.startswith(("fever ", "nq "))]
    assert rows == [["fever", "6", "2"], ["nq", "6", "2"]]
    assert "3 steps of 4 queries" in told and logged(tmp_path / "run")[-1]["step"] == 3


def test_what_is_used_is_mined(tiny_bert: Path, tmp_path: Path) -> None:
    """...and other queries in the same folder, where no step was made, do not get the negatives of the first ones."""
    config = one(tiny_bert, tmp_path / "run", negatives="bm25", max_examples=5, pool_hard=2)
    train(config)
    path = tmp_path / "run" / BM25
    found = read_negatives(path, None)
    assert {name: len(of) for name, of in found.docids.items()} == {"fever-train": 5, "nq-train": 5}
    runs = [read_trec(run) for run in sorted((tmp_path / "run" / "bm25-20-0-4.runs").glob("*.trec"))]
    assert [len(run.rankings) for run in runs] == [5, 5]
    assert train(one(tiny_bert, tmp_path / "given", negatives=str(path), max_examples=5)).is_dir()
    for name in ("model", "checkpoints", "best"):
        shutil.rmtree(tmp_path / "run" / name)
    (tmp_path / "run" / "log.jsonl").unlink()
    for changes in ({"max_examples": 6}, {"train_share": 0.1, "max_examples": 0}, {"max_examples": 5, "seed": 3}):
        other = config.replace(**changes)
        save_settings(other, tmp_path / "run")
        train(other)
        data = data_of(other, tmp_path / "run")
        used = {f"{task}-train": {each.qid for each in data.examples(task)} for task in ("fever", "nq")}
        assert {name: set(of) for name, of in read_negatives(path, None).docids.items()} == used
        for left in ("model", "checkpoints", "best"):
            shutil.rmtree(tmp_path / "run" / left)


def test_of_given_negatives_those_of_used_queries_are_kept(tiny_bert: Path, tmp_path: Path) -> None:
    every = {name: sample().load_topics(name).queries for name in ("fever-train", "nq-train", "wow-train")}
    header = NegativesHeader("given", "", sample().passages.fingerprint, 1, 0, 1, (), 0)
    rows = ((name, query.qid, [], []) for name, queries in every.items() for query in queries)
    write_negatives(tmp_path / "n.jsonl", header, rows)
    config = one(tiny_bert, tmp_path / "run", negatives=str(tmp_path / "n.jsonl"), max_examples=5)
    data = data_of(config, tmp_path / "run")
    negatives = data.load_negatives(config.negatives, tmp_path / "run", tiny_bert)["nq"]
    used = {f"{task}-train": {example.qid for example in data.examples(task)} for task in ("fever", "nq")}
    assert negatives and {topics: set(of) for topics, of in negatives.docids.items()} == used


def test_dpr_trains_two_towers_that_search(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {key: value for key, value in SMALL.items() if key not in ("pooling", "shares", "negatives")}
    flags |= {"model": str(tiny_bert), "output": str(tmp_path / "run"), "batch_size": 6, "steps": 2, "tasks": ("nq",)}
    config = read_settings(None, flags | {"pool_hard": 0}, "dpr")
    assert config.encoder.untied and not config.encoder.prompts and config.negatives.negatives == "bm25"
    model = train(config)
    towers = [load_file(model / name / "model.safetensors") for name in ("query", "passage")]
    assert any(not torch.equal(value, towers[1][name]) for name, value in towers[0].items())
    encoder = load_encoder(str(model))
    assert encoder.encode_queries(["who"], "nq").shape == (1, 32) and encoder.config.prompts == {}
    monkeypatch.chdir(tmp_path)
    search(["--model", str(model), "--topics", "nq-dev", "--hits", "5", "--output", "nq.trec"])
    assert {len(ranking.docids) for ranking in read_trec(tmp_path / "nq.trec").rankings.values()} == {5}


def test_t5_with_its_decoder(tiny_t5: Path, tmp_path: Path) -> None:
    """The decoder's state is the vector, and its weights are trained as well."""
    model = train(one(tiny_t5, tmp_path / "run", pooling="decoder", steps=3))
    encoder = load_encoder(str(model))
    assert encoder.config.pooling == "decoder" and encoder.encode_queries(["who"], "nq").shape == (1, 32)
    before, after = load_file(tiny_t5 / "model.safetensors"), load_file(model / "model.safetensors")
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"shared", "encoder", "decoder"}


def test_taco_by_flags(tiny_bert: Path, tmp_path: Path) -> None:
    parser = Parser("train", "Train.")
    add_flags(parser)
    given = (
        f"--tasks nq,fever --model {tiny_bert} --output {tmp_path / 'run'} --pooling mean --negatives none --steps 4"
        " --weighting taco --weighting-options tau=0.5 beta=0.5 burn_in=0.5 --batch-size 4 --passage-length 40"
        " --query-length 24 --pool-hard 0 --pool-random 9 --pool-queries 3"
    )
    train(read_settings(None, given_flags(parser.parse_args(given.split()))))
    found = [record["weight"] for record in logged(tmp_path / "run") if "weight" in record]
    assert all(weight == {"nq": 0.5, "fever": 0.5} for weight in found[:2]) and len(found) == 4
    assert all(weight["nq"] != 0.5 and sum(weight.values()) == pytest.approx(1) for weight in found[2:])


def best_validation(folder: Path) -> dict[str, float]:
    """The validation, in the log, of the model that the training kept."""
    return max((line["validation"] for line in logged(folder) if line.get("validation")), key=lambda own: own["macro"])


def test_headroom_is_what_models_of_single_tasks_have_above_one_for_all(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """...with as many queries of each task in as many steps; what was trained before is used again."""
    settings = TrainSettings(**SMALL, model=str(tiny_bert), output=str(tmp_path / "out"))
    found = {row.topics: row for row in training_headroom(settings)}
    assert list(found) == ["fever", "nq", "wow", "macro average"]
    shared = best_validation(tmp_path / "out" / "shared")
    for task in TASKS:
        own, row = best_validation(tmp_path / "out" / "tasks" / task), found[task]
        assert row.baseline == pytest.approx(shared[task]) and row.smallest is not None
        assert row.headroom == pytest.approx(max(0.0, own[task] - shared[task]))
    flags = {key: value for key, value in SMALL.items() if key != "tasks"}
    words = [word for key, value in flags.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    monkeypatch.setattr("taco_ir.training.loop.Loop.run", None)  # nothing is trained again
    train_verb(
        [*words, "--tasks", ",".join(TASKS), "--model", str(tiny_bert), "--output", settings.run.output, "--headroom"]
    )
    assert "headroom of one model for all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weighting": "taco"}, "needs weighting naive, but it is taco"),
        ({"tasks": ["nq"]}, "at least two tasks, each with dev queries to validate on; tasks: nq"),
        ({"reading": ["nq"]}, "retrieval tasks only"),
    ],
)
def test_headroom_refuses_what_it_does_not_compare(
    changes: dict[str, Any], said: str, tiny_bert: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        training_headroom(TrainSettings(**{**SMALL, **changes}, model=str(tiny_bert), output=str(tmp_path / "out")))
