"""A study that scores answers, run without Java, Pyserini and ir_datasets: dense models need none of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import warm
from cities import write_cities
from study_results import write_conditions

from taco_ir.core.files import InputError
from taco_ir.leaderboard import main as leaderboard
from taco_ir.studies.conditions import read_study
from taco_ir.studies.records import Record, find_records

BLOCKED = """
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pyserini", "ir_datasets", "jnius", "jnius_config"):
            raise ModuleNotFoundError(f"{name} is not to be imported here")


sys.meta_path.insert(0, Blocked())
"""
# the study, whose commands begin as copies of a process that has what is blocked
STUDIED = """
import warm

assert not {"pyserini", "ir_datasets", "jnius"} & set(sys.modules)
if asked := warm.divide():
    warm.become(asked)
else:
    from taco_ir.cli import run_verb
    from taco_ir.reproduce import main
    from taco_ir.studies import commands

    commands.subprocess = warm
    run_verb(main)
"""
OF_RUN = "--seed {seed} --collection {collection} --query-length 16 --passage-length 40"
FLAGS = f"--tasks nq {OF_RUN} --model {{tiny}} --pooling mean --negatives none --batch-size 4 --steps 2"
JOINT = "--reading nq --self-supervised mlm --reading-batch 2 --passage-batch 2 --validate-on train"
JOINT += " --pool-hard 0 --pool-queries 2 --pool-random 3"
MINE = "--source {out}/model --collection {collection} --tasks nq --mine-depth 5 --mine-keep 3"
READ = f"--tasks none --reading nq {OF_RUN} --model {{tiny}} --reading-batch 2 --reading-negatives 1 --steps 2"
READ += " --pool-hard 0 --pool-queries 2 --pool-random 3"
STUDY = f"""
name = "answers"
models = ["tiny"]
topics = ["nq-dev"]
hits = 5
tolerance = 0.01

[[condition]]
name = "joint"
system = "joint"
base = "tiny"
seeds = [1]
commands = [
    "train {FLAGS} {JOINT} --output {{out}}",
    "mine {MINE} --output {{out}}/mined.jsonl",
    "train {READ} --negatives {{out}}/mined.jsonl --output {{out}}/reader",
]
search = "--model {{out}}/model"
answer = "--model {{out}}/model --reader {{out}}/reader/model"
whole = [1]
"""


@pytest.fixture(scope="module")
def study(tiny_mlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has run in processes that cannot import what is blocked."""
    folder = tmp_path_factory.mktemp("study")
    write_conditions(folder, STUDY)
    collection = write_cities(folder / "cities")
    blocked = warm.run([sys.executable, "-c", f"{BLOCKED}import pyserini"])
    assert "pyserini is not to be imported here" in blocked.stderr
    flags = f"--conditions conditions.toml --collection {collection} --models tiny={tiny_mlm} --work work"
    done = warm.run([sys.executable, "-c", BLOCKED + STUDIED, *flags.split()], folder)
    logs = (folder / "work" / "joint" / "1").glob("*/output.txt")
    assert done.returncode == 0, done.stderr + "".join(log.read_text() for log in logs)
    return folder


@pytest.fixture(scope="module")
def record(study: Path) -> Record:
    return find_records(study / "results", ["joint.1.whole"])[0]


def test_answers_are_measures_of_their_topics(record: Record) -> None:
    scores = record.topics["nq-dev"]
    answers = {f"answer {measure}" for measure in ("EM", "F1", "KILT-EM", "KILT-F1")}
    assert {"page R-precision", "passage R@20", *answers} <= set(scores.means)
    assert len(scores.by_query["answer EM"]) == len(scores.by_query["answer F1"]) == scores.queries == 6
    assert scores.means["answer KILT-EM"] <= scores.means["answer EM"] <= scores.means["answer F1"]


def test_a_record_says_with_how_many_parameters_it_answers(record: Record, study: Path, tiny_mlm: Path) -> None:
    """Twice the backbone, for retriever and reader, and the reader's head; heads for training alone do not count."""
    from transformers import AutoModel

    parts = dict(AutoModel.from_pretrained(tiny_mlm).named_parameters())
    backbone = sum(value.numel() for name, value in parts.items() if "pooler" not in name)
    first_head = second_head = 3 * 32 + 3
    assert record.made["system_parameters"] == 2 * backbone + first_head + second_head
    assert list((study / "work" / "joint" / "1").glob("*/out/model/mlm_head.safetensors"))
    command = "answer --topics nq-dev --hits 20 --quiet --model joint/1/model --reader joint/1/reader/model"
    assert record.made["answer"]["command"] == command
    assert record.made["answer"]["seconds"] > 0 and record.made["search"]["seconds"] > 0


def test_the_leaderboard_shows_them(study: Path, record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    leaderboard([str(study), "--measures", "R@20", "EM"])
    shown = capsys.readouterr().out
    assert "answer EM" in shown and "passage R@20" in shown
    assert f"{record.topics['nq-dev'].means['answer EM']:.3f}" in shown


def test_answers_need_a_search(tmp_path: Path) -> None:
    study = STUDY.replace('search = "--model {out}/model"', "").replace("whole = [1]", "")
    said = "condition 'joint': answer needs search too, since answers are scored together with their search"
    with pytest.raises(InputError, match=said):
        read_study(write_conditions(tmp_path, study))
