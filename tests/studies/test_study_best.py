"""A condition chooses by itself what ranked held-out queries best, and its record says what was chosen among what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from study_results import write_conditions, write_model

from taco_ir.core.files import InputError, read_json
from taco_ir.core.run_formats import write_trec
from taco_ir.core.types import Ranking, Run
from taco_ir.data.collection import open_collection
from taco_ir.studies.commands import Spent
from taco_ir.studies.conditions import Job, read_study
from taco_ir.studies.facts import best_validation, rank_trainings, read_curve, training_facts
from taco_ir.studies.jobs import Runner, run_jobs, select_jobs
from taco_ir.studies.records import read_records

STUDY = """
name = "chosen"
models = ["tiny"]
topics = ["nq-dev"]
tolerance = 0.01

[[condition]]
name = "tune-{method}-{rate}"
each = { method = ["lora", "full"], rate = ["1e-3", "1e-2"] }
seeds = [0]
commands = ["train --model {tiny} --tune {method} --learning-rate {rate} --output {out}"]

[[condition]]
name = "{method}"
each = { method = ["lora", "full"] }
system = "{method}"
base = "tiny"
best = { rate = "tune-{method}-*" }
seeds = [1, 2]
commands = ["train --model {tiny} --tune {method} --learning-rate {rate} --seed {seed} --output {out}"]
search = "--model {out}/model"
whole = [1, 2]
"""
MACRO = {
    ("lora", "1e-3"): [0.9, 0.3, 0.2],
    ("lora", "1e-2"): [0.9, 0.1, 0.25],
    ("full", "1e-3"): [0.1, 0.2],
    ("full", "1e-2"): [0.1, 0.4],
}


def log_of(training: Path, values: Sequence[float], end: str = "\n") -> None:
    training.mkdir(parents=True, exist_ok=True)
    lines = [{"step": 5 * place, "validation": {"nq": value, "macro": value}} for place, value in enumerate(values)]
    text = "\n".join(map(json.dumps, [{"step": 0, "loss": {"nq": 1.0}}, *lines])) + end
    (training / "log.jsonl").write_text(text, encoding="utf-8")
    (training / "parameters.json").write_text('{"trained": 3, "backbone": 9}', encoding="utf-8")


def pretend(name: str, words: Sequence[str], environment: Mapping[str, str], log: Path, begun: Path) -> Spent:
    """A process that leaves what a training or a search would."""
    flags = dict(zip(words[1::2], words[2::2], strict=False))
    if words[0] == "train":
        log_of(Path(flags["--output"]), MACRO[flags["--tune"], flags["--learning-rate"]])
        return Spent(1.0, 1)
    topics = open_collection("sample").load_topics("nq-dev")
    run = Run({topics.queries[0].qid: Ranking.of([], [])})
    write_trec(run, Path(words[words.index("--output") + 1]) / f"{topics.name}.trec", "x")
    return Spent(2.0, 2)


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr("taco_ir.studies.jobs.run_process", pretend)
    models = {"tiny": str(write_model(tmp_path / "tiny", 3))}
    return Runner(read_study(write_conditions(tmp_path, STUDY)), "sample", models, tmp_path / "work", 1)


def test_the_best_is_taken_and_recorded(tmp_path: Path, runner: Runner) -> None:
    jobs = select_jobs(runner.study, ["lora", "full"], [1, 2])
    assert len(jobs) == 8  # what is chosen among comes along
    assert run_jobs(runner.study, jobs, runner.run, 2) == {}
    results = {result.name: result.made for result in read_records(tmp_path / "results")}
    assert sorted(results) == ["full.1.whole", "full.2.whole", "lora.1.whole", "lora.2.whole"]
    for name, made in results.items():
        rate = "1e-3" if "lora" in name else "1e-2"
        assert f"--learning-rate {rate} " in made["commands"][0]["command"]
        assert next(iter(made["best"]["rate"])) == rate and made["parameters"] == {"trained": 3, "backbone": 9}
    assert results["lora.1.whole"]["best"] == {"rate": {"1e-3": 0.3, "1e-2": 0.25}}  # the best of a curve, not its end
    assert results["full.2.whole"]["curve"] == [[0, 0.1], [5, 0.4]]


def test_a_choice_stays_when_what_was_chosen_among_goes(runner: Runner) -> None:
    for job in select_jobs(runner.study, ["lora"], [1]):
        runner.run(job)
    stamp = runner.folder(Job("lora", 1)) / "step-0.json"
    before = read_json(stamp)
    for rate, values in (("1e-3", [0.1, 0.0]), ("1e-2", [0.1, 0.9])):
        log_of(runner.folder(Job(f"tune-lora-{rate}", 0)) / "out", values)
    runner.run(Job("lora", 1))
    assert read_json(stamp) == before
    runner.run(Job("lora", 2))  # which had not chosen yet
    assert "--learning-rate 1e-2" in read_json(runner.folder(Job("lora", 2)) / "step-0.json")["command"]


def test_more_to_choose_from_is_another_job_and_another_choice_is_not(tmp_path: Path, runner: Runner) -> None:
    """A job keeps what it chose; what there was to choose from is a condition of it."""
    for job in select_jobs(runner.study, ["lora"], [1]):
        runner.run(job)
    for rate, values in (("1e-3", [0.1, 0.0]), ("1e-2", [0.1, 0.9])):
        log_of(runner.folder(Job(f"tune-lora-{rate}", 0)) / "out", values)
    (runner.folder(Job("lora", 1)) / "best.json").rename(tmp_path / "before.json")
    runner.step(Job("lora", 1), 0).unlink()
    runner.run(Job("lora", 1))
    assert "--learning-rate 1e-2" in read_json(runner.step(Job("lora", 1), 0))["command"]
    assert runner.is_done(Job("lora", 1))
    more = read_study(write_conditions(tmp_path, STUDY.replace('"1e-2"]', '"1e-2", "1e-1"]')))
    edited = Runner(more, "sample", {"tiny": str(tmp_path / "tiny")}, runner.work, 1)
    assert not edited.is_done(Job("lora", 1)) and edited.is_done(Job("tune-lora-1e-2", 0))
    assert edited.folder(Job("lora", 1)) != runner.folder(Job("lora", 1))
    assert edited.folder(Job("tune-lora-1e-2", 0)) == runner.folder(Job("tune-lora-1e-2", 0))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tune-{method}-*"', '"tune-{method}-1e-3"', "best rate = 'tune-lora-1e-3': the pattern needs exactly one"),
        ('"tune-{method}-*"', '"tuned-{method}-*"', "best rate = 'tuned-lora-.': the pattern needs"),
        ("best = { rate", "best = { seed", r"best seed: \{seed\} already has a meaning"),
        ("best = { rate", "best = { speed", r"\{rate\} is not defined"),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_study(write_conditions(tmp_path, STUDY.replace(old, new, 1)))


def test_what_was_not_validated_cannot_be_chosen(tmp_path: Path) -> None:
    log_of(tmp_path / "a", [0.5, 0.1])
    log_of(tmp_path / "b", [0.5])
    assert rank_trainings({"a": tmp_path / "a"}) == {"a": 0.1}
    with pytest.raises(InputError, match="b: it has no validation"):
        rank_trainings({"a": tmp_path / "a", "b": tmp_path / "b"})


def test_curves_are_of_the_last_training_and_of_whole_lines(tmp_path: Path) -> None:
    assert read_curve(tmp_path) == [] and best_validation(tmp_path) is None and training_facts(tmp_path) == {}
    log_of(tmp_path / "episode-1", [0.9])
    log_of(tmp_path / "episode-2", [0.1, 0.3, 0.2], end='\n{"step": 15, "validation": {"mac')
    assert read_curve(tmp_path) == [(0, 0.1), (5, 0.3), (10, 0.2)] and best_validation(tmp_path) == 0.3
    log_of(tmp_path / "episode-10", [0.1, 0.4])
    (tmp_path / "episode-10" / "parameters.json").write_text('{"trained": 5}')
    assert best_validation(tmp_path) == 0.4 and training_facts(tmp_path)["parameters"] == {"trained": 5}
    (tmp_path / "episode-10" / "log.jsonl").write_text('{"step": 0, "validation": {"mlm": 3.0}}\n')  # a pre-training's
    assert read_curve(tmp_path) == []


LINES = [
    json.dumps(record)
    for record in ({"step": 1, "validation": {"macro": 0.1}}, {"step": 2}, {"step": 3, "validation": {"macro": 0.3}})
]


@pytest.mark.parametrize("written", range(len(LINES[2])))
def test_a_line_that_is_half_written_does_not_count(tmp_path: Path, written: int) -> None:
    (tmp_path / "log.jsonl").write_text("\n".join([*LINES[:2], LINES[2][:written]]), encoding="utf-8")
    assert best_validation(tmp_path) == 0.1
    (tmp_path / "log.jsonl").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    assert best_validation(tmp_path) == 0.3


def test_what_a_training_began_with_is_not_its_doing(tmp_path: Path) -> None:
    """Where training only makes things worse, a choice among trainings is of the one that does so least."""
    for step, macro in ((0, 0.9), (5, 0.2), (10, 0.4)):
        with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": step, "validation": {"macro": macro}}) + "\n")
        assert best_validation(tmp_path) == {0: None, 5: 0.2, 10: 0.4}[step]
