"""What a study takes as done: what this work folder made, under the conditions, files and models that there are now."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from taco_ir.core.files import InputError, read_json
from taco_ir.core.types import Ranking, Run, write_trec
from taco_ir.data.collection import open_collection
from taco_ir.reproduce import main as reproduce
from taco_ir.studies.conditions import Job, read_study
from taco_ir.studies.processes import Spent
from taco_ir.studies.runner import Runner

STUDY = """
name = "done"
models = ["tiny", "small"]
topics = ["nq-dev", "fever-dev"]
hits = 20
tolerance = 0.01

[corpora.part]
distractors = 5

[[condition]]
name = "first"
seeds = [1]
commands = ["train --config {folder}/train.toml --collection {collection} --model {tiny} --steps 2 --output {out}", "mine --source {out}"]

[[condition]]
name = "second"
system = "second"
seeds = [1]
commands = ["train --model {first}/model --output {out}"]
search = "--model {out}/model"
whole = [1]
part = [1]

[[condition]]
name = "untrained"
system = "untrained"
seeds = [0]
search = "--model {small} --pooling mean"
whole = [0]

[[condition]]
name = "words"
system = "words"
seeds = [0]
search = "--retriever bm25"
whole = [0]
"""
RECORDS = ["second.1.part", "second.1.whole", "untrained.0.whole", "words.0.whole"]


class Trial:
    """A study whose processes are pretended: what ran, and how many queries of each topics a search finds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[str] = []
        self.found = 3
        self.models = [f"{name}={self.model(name, size)}" for size, name in enumerate(("tiny", "small"), 1)]
        self.write(STUDY)
        (folder / "train.toml").write_text("seed = 1")

    def model(self, name: str, size: int) -> Path:
        (self.folder / name).mkdir(exist_ok=True)
        save_file({"weight": np.zeros(size)}, self.folder / name / "model.safetensors")
        return self.folder / name

    def write(self, text: str) -> None:
        (self.folder / "conditions.toml").write_text(text, encoding="utf-8")

    def edit(self, old: str, new: str) -> None:
        assert old in STUDY
        self.write(STUDY.replace(old, new, 1))

    def process(self, name: str, words: Sequence[str], environment: Mapping[str, str], log: Path, attempts: Path) -> Spent:
        self.ran.append(f"{words[0]} {name}")
        if words[0] == "search":
            for topics in map(open_collection("sample").load_topics, words[words.index("--topics") + 1 : words.index("--hits")]):
                gold = {query.qid: [docid for each in query.evidence for docid in each.passages][:1] for query in topics.queries}
                hits = {qid: Ranking.of(docids, [1.0] * len(docids)) for qid, docids in list(gold.items())[: self.found]}
                write_trec(Run(hits), Path(words[words.index("--output") + 1]) / f"{topics.name}.trec", "x")
        return Spent(1.0, 1)

    def run(self, work: str = "work", *more: str) -> list[str]:
        """What ran when the driver was called; the study's conditions as they are."""
        self.ran = []
        reproduce(
            ["--conditions", str(self.folder / "conditions.toml"), "--work", str(self.folder / work), "--models", *self.models, *more]
        )
        return self.ran

    def results(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "results").iterdir()}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has run, in the folder `work`."""
    made = Trial(tmp_path_factory.mktemp("study"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taco_ir.studies.runner.run_process", made.process)
        assert len(made.run()) == 3 + len(RECORDS)
    return made.folder


@pytest.fixture
def trial(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Trial:
    """The same, for one test to edit."""
    caplog.set_level("INFO")
    trial = Trial(Path(shutil.copytree(once, tmp_path / "study")))
    monkeypatch.setattr("taco_ir.studies.runner.run_process", trial.process)
    for module in ("runner", "machine"):  # git is asked often
        monkeypatch.setattr(f"taco_ir.studies.{module}.commit", lambda: "a1b2c3")
    return trial


def test_what_is_done_is_skipped_and_said_to_be_nothing_else(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    assert trial.run() == [] and "4 of 4 jobs are done" in caplog.text and "did not make" not in caplog.text


def test_a_record_of_elsewhere_is_not_taken_as_done(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    before = trial.results()
    assert sorted(name.removesuffix(".json") for name in before if "queries" not in name) == RECORDS
    assert len(trial.run("fresh")) == 3 + len(RECORDS)
    assert all(f"{name}: as recorded" in caplog.text for name in RECORDS)
    for _ in range(2):
        assert "of 4 records that this work folder did not make, 4 came out as recorded and 0 moved; they stay" in caplog.messages[-1]
        assert trial.results() == before
        caplog.clear()
        assert trial.run("fresh") == []


def test_a_record_that_moved_stays_and_is_told(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    before = trial.results()
    trial.found = 4
    trial.run("fresh", "--only", "untrained")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.match(r"untrained.0.whole: \d+ scores moved; most: \S+-dev, .*: recorded 0\.\d+, found 0\.\d+", warning)
    recorded = read_json(trial.folder / "results" / "untrained.0.whole.json")["topics"]
    topics, measure, old, new = re.findall(r"most: (\S+), (.*): recorded (\S+), found (\S+)$", warning)[0]
    assert recorded[topics]["means"][measure] == pytest.approx(float(old), abs=1e-6) and float(new) == pytest.approx(
        float(old) * 4 / 3, abs=1e-5
    )
    assert "0 came out as recorded and 1 moved" in caplog.messages[-1]
    assert trial.results() == before and trial.run("fresh", "--only", "untrained") == []
    (trial.folder / "results" / "untrained.0.whole.json").unlink()  # as the last line says
    caplog.clear()
    assert trial.run("fresh", "--only", "untrained") == ["search untrained, seed 0"]
    assert trial.results() != before and "did not make" not in caplog.text
    anew = read_json(trial.folder / "results" / "untrained.0.whole.json")["topics"]
    gaps = [abs(anew[name]["means"][each] - mean) for name, scores in recorded.items() for each, mean in scores["means"].items()]
    assert float(new) - float(old) == pytest.approx(max(gaps), abs=1e-5) and min(gaps) < max(gaps) - 1e-3


def test_few_scores_that_moved_are_told_one_by_one(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    path = trial.folder / "results" / "words.0.whole.json"
    record = read_json(path)
    record["topics"]["nq-dev"]["means"]["page recall@5"] += 0.5
    record["made"]["models"] = {"small": "another"}
    path.write_text(json.dumps(record))
    trial.run("fresh", "--only", "words")
    moved, models = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert moved.startswith("words.0.whole: nq-dev, page recall@5: recorded 0.") and models.endswith("recorded with other weights of small")


def test_what_is_trained_anew_is_scored_anew(trial: Trial) -> None:
    (trial.folder / "work" / "second" / "1" / "step-0.json").unlink()
    assert trial.run() == ["train second, seed 1", *["search second, seed 1"] * 2]


def change(trial: Trial, what: str) -> None:
    """Edit what a job was made of, beside the conditions."""
    if what == "train.toml":
        (trial.folder / "train.toml").write_text("seed = 2")
    elif what in ("tiny", "small"):
        trial.model(what, 7)
    else:
        trial.edit(*what.split(" -> "))


EDITS = [
    (
        "--steps 2 -> --steps 3",
        "first, seed 1: command was 'train .* --steps 2 .*', now 'train .* --steps 3 .*work/first/1 .*second, seed 1",
    ),
    (', "mine --source {out}"] -> ]', "first, seed 1: command was 'mine --source first/1', now 'nothing'"),
    ("train.toml", "first, seed 1: hash of train.toml was '.*', now '.*'; .*work/first/1 .*second, seed 1"),
    ("tiny", "first, seed 1: weights of tiny was '.*', now '.*'; .*work/first/1 .*second, seed 1"),
    (
        "--pooling mean -> --pooling first",
        "untrained, seed 0: search was '.* mean', now '.* first'; .* remove .*results/untrained.0.whole.json ",
    ),
    ("small", "untrained, seed 0: weights of small was '.*', now '.*'; .* remove .*results/untrained.0.whole.json "),
    ("hits = 20 -> hits = 30", "second, seed 1: search was '.* --hits 20 .*', now '.* --hits 30 .*likewise"),
    ('"nq-dev", "fever-dev" -> "nq-dev"', "second, seed 1: search was '.* fever-dev .*', now "),
    (
        "distractors = 5 -> distractors = 6",
        "second, seed 1: corpus was '5 distractors, .*', now '6 distractors, .*results/second.1.part.json to",
    ),
    ("[corpora.part] -> [[slice]]\nname='x'\ntopics='nq-dev'\nfield='y'\nvalue=1\n[corpora.part]", r"slices was 'none', now 'x \(y = 1\)'"),
    ('system = "untrained" -> system = "raw"', "untrained, seed 0: system was 'untrained', now 'raw'"),
    ("seeds = [0]\nsearch -> seeds = [0]\ncommands = ['train']\nsearch", "untrained, seed 0: step 0 was 'nothing', now 'train'"),
]


@pytest.mark.parametrize(("what", "message"), EDITS, ids=[what.splitlines()[0] for what, _ in EDITS])
def test_what_was_made_otherwise_is_refused(trial: Trial, what: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    change(trial, what)
    with pytest.raises(InputError, match=message):
        trial.run()
    assert trial.ran == []
    trial.run("work", "--list", "--format", "json")
    states = {row["state"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert "edited" in states


def test_another_collection_is_refused(trial: Trial) -> None:
    part = str(trial.folder / "work" / "corpora" / "part")
    with pytest.raises(InputError, match="first, seed 1: collection was .*likewise second, seed 1; untrained, seed 0; words, seed 0"):
        trial.run("work", "--collection", part)


def test_what_is_removed_as_told_is_made_anew(trial: Trial) -> None:
    trial.edit("--pooling mean", "--pooling first")
    with pytest.raises(InputError) as error:
        trial.run()
    for path in re.findall(r"remove (.*) to have", str(error.value))[0].split(" and "):
        Path(path).unlink()
    assert trial.run() == ["search untrained, seed 0"]
    assert "--pooling first" in read_json(trial.folder / "results" / "untrained.0.whole.json")["made"]["search"]["command"]


@pytest.mark.parametrize("what", ["--pooling mean -> --pooling first", "--model {first}/model -> --model {first}"])
def test_a_record_made_otherwise_is_refused_wherever_it_was_made(trial: Trial, what: str) -> None:
    change(trial, what)
    with pytest.raises(InputError, match="(search|step 0) was"):
        trial.run("fresh")
    assert trial.ran == []


@pytest.mark.parametrize("record", ["{}", "[]", '{"made": {"commands": [{}]}, "system": "", "base": ""}'])
def test_what_is_no_record_is_named(trial: Trial, record: str) -> None:
    (trial.folder / "results" / "words.0.whole.json").write_text(record)
    with pytest.raises(InputError, match="words.0.whole.json: not the record of a study"):
        trial.run()


def test_stamps_that_do_not_say_what_they_read_are_accepted(trial: Trial) -> None:
    """As those of before."""
    for path in (trial.folder / "work").rglob("step-*.json"):
        stamp = read_json(path)
        path.write_text(json.dumps({key: stamp[key] for key in ("command", "seconds", "peak_bytes")}))
    for path in (trial.folder / "work").rglob("scored-*.json"):
        path.unlink()
    change(trial, "train.toml")
    change(trial, "tiny")
    assert trial.run() == [f"search {job}" for job in ("second, seed 1", "second, seed 1", "untrained, seed 0", "words, seed 0")]


def test_models_that_are_missing_are_named_at_once(trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    trial.models = trial.models[1:]
    with pytest.raises(InputError, match=r"^--models tiny=FOLDER: needed"):
        trial.run("fresh", "--only", "second")
    assert trial.run("fresh", "--only", "untrained") == ["search untrained, seed 0"]
    argv = ["--conditions", str(trial.folder / "conditions.toml"), "--work", str(trial.folder / "fresh")]
    with pytest.raises(InputError, match=r"^--models tiny=FOLDER small=FOLDER: needed"):
        reproduce(argv)
    reproduce([*argv, "--list", "--format", "json"])
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 4


def test_a_record_knows_the_weights_that_went_into_it(trial: Trial) -> None:
    made = {name: read_json(trial.folder / "results" / f"{name}.json")["made"] for name in RECORDS}
    stamp = read_json(trial.folder / "work" / "first" / "1" / "step-0.json")
    assert made["second.1.part"]["models"] == stamp["models"] and set(stamp["models"]) == {"tiny"}
    assert made["words.0.whole"]["models"] == {} and set(made["untrained.0.whole"]["models"]) == {"small"}
    assert "models" not in made["second.1.part"]["commands"][0] and set(stamp["files"]) == {"train.toml"}


SCRIPT = """#!/bin/sh
echo begun >> "{folder}/calls"
case $(grep -c . "{folder}/calls") in
1) kill -9 $$ ;;
2) echo no luck; exit 3 ;;
esac
"""


@pytest.fixture
def unlucky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Its first process is killed, its second fails, its third succeeds."""
    script = tmp_path / "python"
    script.write_text(SCRIPT.format(folder=tmp_path))
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    (tmp_path / "conditions.toml").write_text(
        'name = "x"\ntopics = ["nq-dev"]\ntolerance = 0.1\n[[condition]]\nname = "a"\nseeds = [0]\ncommands = ["train"]'
    )
    return Runner(read_study(tmp_path / "conditions.toml"), "sample", {}, tmp_path / "work", 1)


def test_a_step_took_what_all_its_processes_took(unlucky: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    job, clock = Job("a", 0), iter([0.0, 10.0, 100.0, 103.5, 1000.0, 1000.5])
    monkeypatch.setattr("taco_ir.studies.processes.time", SimpleNamespace(monotonic=lambda: next(clock)))
    for message in ("a, seed 0: train ended with code -9", "a, seed 0: train ended with code 3: no luck"):
        with pytest.raises(InputError, match=message):
            unlucky.run(job)
        assert not unlucky.step(job, 0).exists()
    attempts = unlucky.folder(job) / "attempts-step-0.json"
    kept: list[dict[str, Any]] = read_json(attempts)
    assert [each["seconds"] for each in kept] == [10.0, 3.5] and all(each["begun"] for each in kept)
    kept[1]["peak_bytes"] = 1 << 40
    attempts.write_text(json.dumps([*kept, {"begun": "2026-01-01T00:00:00+00:00"}]))  # whose end nobody saw
    unlucky.run(job)
    stamp = read_json(unlucky.step(job, 0))
    assert (stamp["seconds"], stamp["peak_bytes"], stamp["attempts"]) == (14.0, 1 << 40, 4) and "commit" in stamp
    assert not attempts.exists()


def test_a_search_counts_all_its_processes_too(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on from vectors that are there, so the last process is not all it took; a later search begins anew."""
    seen: list[Path] = []
    process: Callable[..., Spent] = trial.process

    def run(name: str, words: Sequence[str], environment: Mapping[str, str], log: Path, attempts: Path) -> Spent:
        seen.append(attempts)
        attempts.write_text("[]")
        return process(name, words, environment, log, attempts)._replace(attempts=2)

    monkeypatch.setattr("taco_ir.studies.runner.run_process", run)
    trial.run("fresh", "--only", "words")
    assert [path.name for path in seen] == ["attempts-runs-whole-search.json"] and not seen[0].exists()
    assert read_json(trial.folder / "fresh" / "words" / "0" / "scored-whole.json")["search"]["attempts"] == 2
