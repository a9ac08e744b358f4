"""A model card says what the training's settings and the study's records say, and refuses what does not fit."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taco_ir.adaptation.run import adapt
from taco_ir.adaptation.settings import AdaptSettings
from taco_ir.card import main
from taco_ir.core.files import InputError
from taco_ir.encoders.config import EncoderConfig
from taco_ir.export import main as export
from taco_ir.negatives.file import NegativesHeader, write_negatives
from taco_ir.release.compact import compact
from taco_ir.release.lineage import read_lineage
from taco_ir.release.model_card import DATA_SETS
from taco_ir.studies.records import Record, TopicScores, write_record
from taco_ir.training.base_model import start_encoder
from taco_ir.training.folder import load_settings, save_settings
from taco_ir.training.settings import TrainSettings

TASKS = ("nq", "structured_zeroshot")
PROMPTS = {"nq": "NQ [SEP] ", "structured_zeroshot": "ZSRE [SEP] "}
ENCODER = EncoderConfig("mean", True, PROMPTS, 40, dict.fromkeys(TASKS, 40), 60)
SCORES = {"nq-dev": (0.5, 0.25), "zsre-dev": (0.75, 0.125), "trex-dev": (0.25, 1.0)}
MEASURES = ("page R-precision", "page recall@5")


def run(folder: Path, model: Path, **changes: Any) -> Path:
    """The folder of a training, without weights."""
    keys = {"tasks": ("nq", "zsre"), "model": str(model), "output": str(folder), "steps": 7, "batch_size": 12}
    config = TrainSettings(**{**keys, **changes})
    (folder / "model").mkdir(parents=True)
    save_settings(config, folder)
    ENCODER.save(folder / "model")
    (folder / "model" / "config.json").write_text('{"model_type": "bert", "max_position_embeddings": 128}')
    (folder / "model" / "model.safetensors").touch()
    return folder


def record(condition: str, by: float = 0.0, **changes: Any) -> Record:
    topics = {}
    for name, values in SCORES.items():
        topics[name] = TopicScores(40, "f" * 16, dict(zip(MEASURES, (value + by for value in values), strict=True)))
    topics["nq-dev, a half"] = TopicScores(20, "e" * 16, dict.fromkeys(MEASURES, 1.0), part_of="nq-dev")
    found = Record(condition, condition, "minilm-l3", 1, "whole", 1234, "c" * 16, topics)
    return replace(found, **changes)


@pytest.fixture
def encoder(tiny_bert: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    folder.mkdir()
    compact(tiny_bert, folder, ENCODER.with_lenders({"trex": "structured_zeroshot", "*": "nq"}), ["a text"], 10**6)
    for result in (record("ours"), record("theirs", -0.125, base=""), record("small", corpus="part")):
        write_record(tmp_path / "study" / "results", result)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    negatives = tmp_path / "ance.jsonl"
    write_negatives(negatives, NegativesHeader("model", "", "0123456789abcdef", 10, 0, 2, (), 0), [])
    first = run(tmp_path / "work" / "first" / "1" / "out", tmp_path / "minilm-l3")
    options = {"weighting": "taco", "weighting_options": {"tau": 2}, "negatives": str(negatives), "hard_negatives": 3}
    return [first, run(tmp_path / "work" / "second" / "1" / "out", first / "model", **options)]


def flags(encoder: Path, *more: object) -> list[str]:
    return [str(encoder), "--study", str(encoder.parent / "study"), *map(str, more)]


def page(encoder: Path) -> str:
    return (encoder / "README.md").read_text(encoding="utf-8")


def rows(text: str) -> dict[str, list[str]]:
    """Every table row, by its first cell."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("\\", "") for cell in line] for line in lines]
    return {first: others for first, *others in cells}


def test_it_says_what_the_records_and_the_configurations_say(encoder: Path, runs: list[Path]) -> None:
    main(flags(encoder, "--training", *runs, "--result", "ours.1.whole", "--beside", "theirs.1.whole"))
    said = rows(page(encoder))
    for task, topics in (("nq", "nq-dev"), ("structured_zeroshot", "zsre-dev"), ("trex (not trained on)", "trex-dev")):
        precision, recall = SCORES[topics]
        assert said[task] == ["40", f"{precision:.3f}", f"{recall:.3f}", f"{precision - 0.125:.3f}"]
    assert said["macro average"] == ["-", "0.500", "0.458", "0.375"]  # of all three, without the slice
    assert "taco-mini is 0.125 above theirs in macro page R-precision." in page(encoder)
    assert said["weighting"] == ["naive", "taco tau=2"] and said["steps"] == ["7", "7"]
    hard = ("1, BM25's", "3, a model's (ANCE)")
    assert said["negatives"] == [f"in-batch; hard ones of a query: {each}" for each in hard]
    assert "Not trained on: trex (T-REx in LAMA's release; CC BY-NC 4.0" in page(encoder)
    assert "Apache-2.0" in page(encoder)
    assert "trex (as structured_zeroshot), all others (as nq)" in page(encoder)
    assert "MB in half precision" in page(encoder)
    assert "12 % (nq) of the dev queries have a gold passage that is gold for a train query too." in page(encoder)
    assert str(encoder.parent) not in page(encoder) + (encoder / "card.json").read_text()


def test_how_much_of_dev_was_seen_in_training_is_so(minikilt: Path) -> None:
    for task, described in tomllib.loads(DATA_SETS.read_text(encoding="utf-8"))["task"].items():
        name = "zsre" if task == "structured_zeroshot" else task
        dev, train = (list(gold(minikilt / f"{name}-{split}.jsonl")) for split in ("dev", "train"))
        known = set().union(*train)
        assert round(100 * sum(bool(each & known) for each in dev) / len(dev)) == described.get("seen", 0), task


def gold(path: Path) -> Iterator[set[tuple[str, str]]]:
    """Each query's gold passages."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield {
                (each["wikipedia_id"], each["passage_id"])
                for output in json.loads(line)["output"]
                for each in output.get("provenance", ())
            }


def test_it_is_written_again_without_the_training(encoder: Path, runs: list[Path]) -> None:
    main(flags(encoder, "--training", *runs, "--result", "ours.1.whole"))
    before = page(encoder)
    for folder in runs:
        shutil.rmtree(folder)
    main(flags(encoder))
    assert page(encoder) == before
    write_record(encoder.parent / "study" / "results", record("ours", 0.0625))
    main(flags(encoder))
    assert page(encoder) != before and rows(page(encoder))["nq"][1] == "0.562"
    weights = encoder / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(InputError, match=r"card\.json: it describes other weights"):
        main(flags(encoder))


def test_what_must_not_be_shipped_is_refused(encoder: Path, runs: list[Path], tmp_path: Path) -> None:
    """By any of the runs, not by the last alone."""
    runs[0] = run(tmp_path / "with-trex", tmp_path / "minilm-l3", tasks=("nq", "trex"))
    runs[1] = run(tmp_path / "after", runs[0] / "model")
    with pytest.raises(InputError, match=r"task 'trex': CC BY-NC 4\.0 .*; a model trained on it must not be shipped"):
        main(flags(encoder, "--training", *runs, "--result", "ours.1.whole"))
    assert not (encoder / "card.json").exists()
    for changes, said in (
        (("a-base",), "base 'a-base' is not described"),
        (("minilm-l3", "my-task"), "task 'my-task' is not described"),
    ):
        other = run(tmp_path / changes[0] / "out", tmp_path / changes[0], tasks=changes[1:] or ("nq",))
        with pytest.raises(InputError, match=said):
            main(flags(encoder, "--training", other, "--result", "ours.1.whole"))


@pytest.mark.parametrize(
    ("result", "beside", "said"),
    [
        ("small.1.part", [], "small.1.part: a card shows scores on the whole collection"),
        ("ours.1.whole", ["small.1.part"], "small.1.part: a card shows"),
        ("none.1.whole", [], r"records\.jsonl: no record is called none\.1\.whole"),
    ],
)
def test_scores_that_do_not_belong_on_it_are_refused(
    encoder: Path, runs: list[Path], result: str, beside: list[str], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        main(flags(encoder, "--training", *runs, "--result", result, *(["--beside", *beside] if beside else [])))
    assert not (encoder / "README.md").exists()


def test_a_task_trained_on_must_have_a_score(encoder: Path, runs: list[Path]) -> None:
    lacking = record("ours")
    topics = {name: scores for name, scores in lacking.topics.items() if name != "zsre-dev"}
    write_record(encoder.parent / "study" / "results", record("ours", topics=topics))
    with pytest.raises(InputError, match=r"ours\.1\.whole: it has no scores on structured_zeroshot"):
        main(flags(encoder, "--training", *runs, "--result", "ours.1.whole"))


def test_flags_go_together(encoder: Path, runs: list[Path], tmp_path: Path) -> None:
    for given in (["--training", *runs], ["--result", "ours.1.whole"], ["--beside", "theirs.1.whole"]):
        with pytest.raises(InputError, match="must be given together"):
            main(flags(encoder, *given))
    with pytest.raises(InputError, match=r"card\.json: no such file"):
        main(flags(encoder))
    with pytest.raises(InputError, match=r"no model\.safetensors or model\.int8\.safetensors in it"):
        main(flags(tmp_path))


def test_runs_are_a_line(runs: list[Path], tmp_path: Path) -> None:
    """Each began with the one before it, wherever the folders were moved, and the first with no run."""
    made = read_lineage(runs)
    assert made.base == "minilm-l3" and [stage.tasks for stage in made.stages] == [TASKS, TASKS]
    said = r"second/1/out: this training started from the model of .*first/1/out; name that training first"
    with pytest.raises(InputError, match=said):
        read_lineage(runs[1:])
    stray = run(tmp_path / "stray", tmp_path / "minilm-l3")
    with pytest.raises(
        InputError,
        match=r"stray: this training started from .*minilm-l3, which is not the model of the training named before it",
    ):
        read_lineage([*runs, stray])
    moved = Path(shutil.move(tmp_path / "work", tmp_path / "elsewhere"))
    assert read_lineage([moved / name / "1" / "out" for name in ("first", "second")]) == made
    with pytest.raises(InputError, match=r"it is not a training: it has neither config\.json"):
        read_lineage([tmp_path])


def test_pretraining_and_episodes_are_stages(tmp_path: Path) -> None:
    places = {"model": str(tmp_path / "bert-tiny"), "output": str(tmp_path / "p")}
    config = TrainSettings(objective=("span_contrast",), batch_size=32, steps=9, **places)
    (tmp_path / "p").mkdir()
    save_settings(config, tmp_path / "p")
    episodes = ({"weighting": "naive", "steps": 3}, {"weighting": "taco", "steps": 4, "negatives": "ance"})
    trained = run(tmp_path / "t", tmp_path / "p" / "model", tasks=("all",), episodes=episodes)
    for number in (1, 2):
        shutil.copytree(trained / "model", trained / f"episode-{number}" / "model")
    made = read_lineage([tmp_path / "p", trained])
    assert made.base == "bert-tiny" and [stage.tasks for stage in made.stages] == [(), TASKS, TASKS]
    assert [stage.settings["steps"] for stage in made.stages] == ["9", "3", "4"]
    assert made.stages[0].settings["objective"] == "span_contrast"
    assert made.stages[2].settings["negatives"].endswith("1, the model's at the start")


def test_modules_are_described_with_their_backbone(tiny_bert: Path, encoder: Path, tmp_path: Path) -> None:
    adapters = {"tune": "adapter", "tune_roles": "task-frozen", "prompts": False, "pooling": "mean"}
    trained = run(tmp_path / "tuned" / "1" / "out", tiny_bert, query_length=40, passage_length=60, **adapters)
    shutil.rmtree(trained / "model")
    start_encoder(load_settings(trained), tiny_bert, TASKS).save(trained / "model")
    base = shutil.copytree(tiny_bert, tmp_path / "bases" / "minilm-l3")
    save_settings(load_settings(trained).replace(model=str(base)), trained)
    shutil.rmtree(encoder)
    small = ["--what", "compact", "--megabytes", "1", "--prompt-of", "*=none"]
    export(["--model", str(trained / "model"), *small, "--output", str(tmp_path / "out")])
    (tmp_path / "out" / "compact").rename(encoder)
    main(flags(encoder, "--training", trained, "--result", "ours.1.whole"))
    said = page(encoder)
    trained_part = "adapter of width 16, one for the queries of each task; the backbone is frozen"
    assert rows(said)["what is trained"] == [trained_part]
    assert "told apart by an adapter of its own" in said and "all others (none: the bare backbone)" in said
    before = said
    main(flags(encoder))
    assert page(encoder) == before
    modules = encoder / "tuning.safetensors"
    modules.write_bytes(modules.read_bytes() + b" ")
    with pytest.raises(InputError, match="it describes other weights"):
        main(flags(encoder))


def test_an_adaptation_is_a_stage(settings: Callable[..., AdaptSettings], tmp_path: Path, tiny_bert: Path) -> None:
    """Of the tasks that it left in the model; one that was stopped is told from none at all."""
    for share in ("task", "one"):
        report = adapt(settings(share=share, output=str(tmp_path / share / "1" / "out")))
        made = read_lineage([tmp_path / share / "1" / "out"])
        assert made.base == tiny_bert.name and len(made.stages) == 1
        tasks, said = made.stages[0]
        assert tasks == tuple(sorted({"nq", "wow"} - set(report.dropped if share == "task" else ())))
        assert said["negatives"] == f"all {report.frozen.passages} passages of the index"
        assert said["steps"] == f"{report.best_step} of 6, the best on held-out queries"
        left = [name for name in said if name.startswith("not helped")]
        assert [said[name] for name in left] == [", ".join(report.dropped)] * bool(report.dropped)
    later = read_lineage(
        [tmp_path / "one" / "1" / "out", run(tmp_path / "t", tmp_path / "one" / "1" / "out" / "model")]
    )
    assert [len(stage.tasks) for stage in later.stages] == [2, 2]
    with pytest.raises(
        InputError, match="this training started from the model of .*one/1/out; name that training first"
    ):
        read_lineage([tmp_path / "t"])
    (tmp_path / "one" / "1" / "out" / "report.json").unlink()
    with pytest.raises(
        InputError, match=r"one/1/out: it is not a training: it has neither config\.json .*nor report\.json"
    ):
        read_lineage([tmp_path / "one" / "1" / "out"])
