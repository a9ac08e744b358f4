"""What a study takes as done: what this work folder made, under the conditions, files and models that there are now."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from study_results import record_line, write_conditions, write_model

from taco_ir.core.files import InputError, read_json
from taco_ir.core.run_formats import write_trec
from taco_ir.core.types import Ranking, Run
from taco_ir.data.collection import open_collection
from taco_ir.reproduce import main as reproduce
from taco_ir.studies.commands import Spent
from taco_ir.studies.conditions import Job, read_study
from taco_ir.studies.jobs import Runner
from taco_ir.studies.records import RECORDS as RECORDS_FILE
from taco_ir.studies.records import Record, find_records, load_record, read_records

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
commands = ["train --config {folder}/train.toml --collection {collection} --model {tiny} --steps 2 --output {out}", \
"mine --source {out}"]

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
        self.models = [f"{name}={write_model(folder / name, size)}" for size, name in enumerate(("tiny", "small"), 1)]
        write_conditions(folder, STUDY)
        (folder / "train.toml").write_text("seed = 1")

    def edit(self, old: str, new: str) -> None:
        assert old in STUDY
        write_conditions(self.folder, STUDY.replace(old, new, 1))

    def process(self, name: str, words: Sequence[str], environment: Mapping[str, str], log: Path, begun: Path) -> Spent:
        self.ran.append(f"{words[0]} {name}")
        if words[0] == "search":
            output = Path(words[words.index("--output") + 1])
            for topics in words[words.index("--topics") + 1 : words.index("--hits")]:
                hits = {}
                for query in open_collection("sample").load_topics(topics).queries[: self.found]:
                    docids = [docid for each in query.evidence for docid in each.passages][:1]
                    hits[query.qid] = Ranking.of(docids, [1.0] * len(docids))
                write_trec(Run(hits), output / f"{topics}.trec", "x")
        return Spent(1.0, 1)

    def run(self, work: str = "work", *more: str) -> list[str]:
        """What ran when the driver was called; the study's conditions as they are."""
        self.ran = []
        argv = ["--conditions", str(self.folder / "conditions.toml"), "--work", str(self.folder / work)]
        reproduce([*argv, "--models", *self.models, *more])
        return self.ran

    def results(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "results").iterdir()}

    def record(self, name: str) -> Record:
        return find_records(self.folder / "results", [name])[0]

    def without(self, name: str) -> None:
        """Remove a record by hand."""
        path = self.folder / "results" / RECORDS_FILE
        condition = name.split(".", maxsplit=1)[0]
        lines = path.read_text().splitlines(True)
        path.write_text("".join(line for line in lines if json.loads(line)["condition"] != condition))


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has run, in the folder `work`."""
    made = Trial(tmp_path_factory.mktemp("study"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taco_ir.studies.jobs.run_process", made.process)
        assert len(made.run()) == 3 + len(RECORDS)
    return made.folder


@pytest.fixture
def trial(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Trial:
    """The same, for one test to edit."""
    caplog.set_level("INFO")
    trial = Trial(Path(shutil.copytree(once, tmp_path / "study")))
    monkeypatch.setattr("taco_ir.studies.jobs.run_process", trial.process)
    for module in ("jobs", "facts"):  # git is asked often
        monkeypatch.setattr(f"taco_ir.studies.{module}.current_commit", lambda: "a1b2c3")
    return trial


def test_what_is_done_is_skipped_and_said_to_be_nothing_else(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    assert trial.run() == [] and "4 of 4 jobs are done" in caplog.text and "did not make" not in caplog.text


def test_a_record_of_elsewhere_is_not_taken_as_done(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    before = trial.results()
    assert [record.name for record in read_records(trial.folder / "results")] == RECORDS
    assert len(trial.run("fresh")) == 3 + len(RECORDS)
    for _ in range(2):
        said = "of 4 records that this work folder did not make, 4 came out as recorded and 0 differ; they stay"
        assert said in caplog.messages[-1]
        assert trial.results() == before
        caplog.clear()
        assert trial.run("fresh") == []


def test_a_record_that_comes_out_otherwise_stays_and_is_told(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    before, recorded = trial.results(), trial.record("untrained.0.whole")
    trial.found = 4
    trial.run("fresh", "--only", "untrained")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    told = re.fullmatch(
        r"untrained.0.whole: (\S+-dev), (.*): recorded (0\.\d+), found (0\.\d+), moved by .*; "
        r"allowed 0.01, and \d+ more",
        warning,
    )
    assert told
    topics, measure, old, new = told.groups()
    assert recorded.topics[topics].means[measure] == pytest.approx(float(old), abs=1e-6)
    assert float(new) == pytest.approx(float(old) * 4 / 3, abs=1e-5)
    assert "0 came out as recorded and 1 differ" in caplog.messages[-1]
    assert trial.results() == before and trial.run("fresh", "--only", "untrained") == []
    trial.without("untrained.0.whole")  # as the last line says
    caplog.clear()
    assert trial.run("fresh", "--only", "untrained") == [] and "did not make" not in caplog.text
    assert trial.record("untrained.0.whole").topics[topics].means[measure] == pytest.approx(float(new), abs=1e-5)
    assert trial.record("words.0.whole") in read_records(trial.folder / "results")


def test_a_record_that_does_not_say_under_which_conditions_stays(
    trial: Trial, caplog: pytest.LogCaptureFixture
) -> None:
    """As those of before records did."""
    path = trial.folder / "results" / RECORDS_FILE
    records = [json.loads(re.sub(r'"content": "[0-9a-f]+", ', "", line)) for line in path.read_text().splitlines()]
    path.write_text("".join(map(record_line, records)))
    before = trial.results()
    assert trial.run() == [] and "4 came out as recorded" in caplog.messages[-1] and trial.results() == before


def test_what_is_trained_anew_is_scored_anew(trial: Trial) -> None:
    (step,) = (trial.folder / "work" / "second" / "1").glob("*/step-0.json")
    step.unlink()
    assert trial.run() == ["train second, seed 1", *["search second, seed 1"] * 2]


def change(trial: Trial, what: str) -> None:
    """Edit what a job was made of, beside the conditions."""
    if what == "train.toml":
        (trial.folder / "train.toml").write_text("seed = 2")
    elif what in ("tiny", "small"):
        write_model(trial.folder / what, 7)
    else:
        trial.edit(*what.split(" -> "))


FIRST, SECOND = ["train first, seed 1", "mine first, seed 1"], ["train second, seed 1"]
SEARCHES = [*["search second, seed 1"] * 2, "search untrained, seed 0", "search words, seed 0"]
EDITS = [
    ("--steps 2 -> --steps 3", [*FIRST, *SECOND, *SEARCHES[:2]]),
    (', "mine --source {out}"] -> ]', [*FIRST[:1], *SECOND, *SEARCHES[:2]]),
    ("train.toml", [*FIRST, *SECOND, *SEARCHES[:2]]),
    ("tiny", [*FIRST, *SECOND, *SEARCHES[:2]]),
    ("--model {first}/model -> --model {first}", [*SECOND, *SEARCHES[:2]]),
    ("--pooling mean -> --pooling first", SEARCHES[2:3]),
    ("small", SEARCHES[2:3]),
    ("hits = 20 -> hits = 30", SEARCHES),
    ('"nq-dev", "fever-dev" -> "nq-dev"', SEARCHES),
    ("distractors = 5 -> distractors = 6", SEARCHES[:1]),
    ("[corpora.part] -> [[slice]]\nname='x'\ntopics='nq-dev'\nfield='y'\nvalue=1\n[corpora.part]", SEARCHES),
    ('system = "untrained" -> system = "raw"', SEARCHES[2:3]),
    ("seeds = [0]\nsearch -> seeds = [0]\ncommands = ['train']\nsearch", ["train untrained, seed 0", *SEARCHES[2:3]]),
]


@pytest.mark.parametrize(("what", "anew"), EDITS, ids=[what.splitlines()[0] for what, _ in EDITS])
def test_what_was_made_otherwise_is_made_anew_and_nothing_else(
    trial: Trial, what: str, anew: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Records of before are replaced; put back as it was, what was made before is there, and so are its records."""
    before, weights = trial.results(), (trial.folder / "tiny" / "model.safetensors").read_bytes()
    change(trial, what)
    trial.run("work", "--list", "--format", "json")
    states = {row["condition"]: row["state"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {each.split()[1].rstrip(",") for each in anew} == {name for name, state in states.items() if state != "done"}
    assert sorted(trial.run()) == sorted(anew)
    assert trial.results() != before or not any(each.startswith("search") for each in anew)
    assert trial.run() == []
    write_conditions(trial.folder, STUDY)
    (trial.folder / "train.toml").write_text("seed = 1")
    write_model(trial.folder / "tiny", 1)
    write_model(trial.folder / "small", 2)
    assert weights == (trial.folder / "tiny" / "model.safetensors").read_bytes()
    assert trial.run() == [] and read_records(trial.folder / "results") == trial_records(before)


def test_a_model_that_is_known_by_name_is_searched_again_when_its_weights_change(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taco_ir.studies.commands.BUILTIN", {"taco-mini": lambda: trial.folder / "shipped"})
    anew = SEARCHES[2:3]
    for search, again in (("--model taco-mini", anew), ("--normalize", anew), ("--retriever bm25", [])):
        write_model(trial.folder / "shipped", 1)
        trial.edit("--model {small} --pooling mean", search)
        assert trial.run()[-1:] == anew and trial.run() == []
        assert set(trial.record("untrained.0.whole").made["models"]) == ({"taco-mini"} if again else set())
        write_model(trial.folder / "shipped", 2)
        assert trial.run() == again


def trial_records(files: Mapping[str, bytes]) -> list[Record]:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        return read_records(Path(folder))


def test_on_another_collection_all_is_made_anew(trial: Trial) -> None:
    (part,) = (trial.folder / "work" / "corpora").iterdir()
    assert len(trial.run("work", "--collection", str(part))) == 3 + len(RECORDS)


def test_a_record_made_otherwise_elsewhere_is_replaced(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    trial.edit("--pooling mean", "--pooling first")
    trial.run("fresh")
    assert [each for each in caplog.messages if "other conditions" in each] == [
        "untrained.0.whole: recorded under other conditions before; its record is replaced"
    ]
    assert "--pooling first" in trial.record("untrained.0.whole").made["search"]["command"]


@pytest.mark.parametrize("record", ["{}", "[]", '{"made": {"commands": [{}]}, "system": "", "base": ""}'])
def test_what_is_no_record_is_named(trial: Trial, record: str) -> None:
    (trial.folder / "results" / RECORDS_FILE).write_text(record)
    with pytest.raises(InputError, match=r"records.jsonl, line 1: (its values are not in|\[\]; an object is needed)"):
        trial.run()


def test_models_that_are_missing_are_named_at_once(trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    trial.models = trial.models[1:]
    with pytest.raises(InputError, match=r"^--models: the jobs also need tiny=FOLDER"):
        trial.run("fresh", "--only", "second")
    assert trial.run("fresh", "--only", "untrained") == ["search untrained, seed 0"]
    argv = ["--conditions", str(trial.folder / "conditions.toml"), "--work", str(trial.folder / "fresh")]
    with pytest.raises(InputError, match=r"^--models: the jobs also need tiny=FOLDER small=FOLDER"):
        reproduce(argv)
    reproduce([*argv, "--list", "--format", "json"])
    assert [row["state"] for row in json.loads(capsys.readouterr().out)["rows"]] == [*["no model"] * 3, "-"]


def test_a_record_knows_the_weights_that_went_into_it(trial: Trial) -> None:
    made = {name: trial.record(name).made for name in RECORDS}
    models = {name: set(each["models"]) for name, each in made.items()}
    assert list(models.values()) == [{"tiny"}, {"tiny"}, {"small"}, set()]
    assert made["second.1.part"]["models"] == made["second.1.whole"]["models"]
    assert len({each["content"] for each in made.values()}) == len(RECORDS)


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
    study = 'name = "x"\ntopics = ["nq-dev"]\ntolerance = 0.1\n'
    study += '[[condition]]\nname = "a"\nseeds = [0]\ncommands = ["train"]'
    return Runner(read_study(write_conditions(tmp_path, study)), "sample", {}, tmp_path / "work", 1)


def test_a_step_took_what_all_its_processes_took(unlucky: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    job, clock = Job("a", 0), iter([0.0, 10.0, 100.0, 103.5, 1000.0, 1000.5])
    monkeypatch.setattr("taco_ir.studies.commands.time", SimpleNamespace(monotonic=lambda: next(clock)))
    for message in ("a, seed 0: train ended with exit code -9", "a, seed 0: train ended with exit code 3: no luck"):
        with pytest.raises(InputError, match=message):
            unlucky.run(job)
        assert not unlucky.step(job, 0).exists()
    begun = unlucky.folder(job) / "processes-step-0.json"
    kept: list[dict[str, Any]] = read_json(begun)
    assert [each["seconds"] for each in kept] == [10.0, 3.5] and all(each["begun"] for each in kept)
    kept[1]["peak_bytes"] = 1 << 40
    begun.write_text(json.dumps([*kept, {"begun": "2026-01-01T00:00:00+00:00"}]))  # whose end nobody saw
    unlucky.run(job)
    stamp = read_json(unlucky.step(job, 0))
    assert (stamp["seconds"], stamp["peak_bytes"], stamp["processes"]) == (14.0, 1 << 40, 4) and "commit" in stamp
    assert not begun.exists()


def test_a_search_counts_all_its_processes_too(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on from vectors that are there, so the last process is not all it took; a later search begins anew."""
    seen: list[Path] = []
    process: Callable[..., Spent] = trial.process

    def run(name: str, words: Sequence[str], environment: Mapping[str, str], log: Path, begun: Path) -> Spent:
        seen.append(begun)
        begun.write_text("[]")
        return process(name, words, environment, log, begun)._replace(processes=2)

    monkeypatch.setattr("taco_ir.studies.jobs.run_process", run)
    trial.run("fresh", "--only", "words")
    assert [path.name for path in seen] == ["processes-whole-search.json"] and not seen[0].exists()
    (path,) = (trial.folder / "fresh" / "words" / "0").glob("*/whole-*/record.json")
    assert load_record(path).made["search"]["processes"] == 2
