"""Law: in every verb a flag that would do nothing is refused, even with its default value."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import pytest

from taco_ir.cli import Parser
from taco_ir.core.files import InputError

OF_ENCODER = "--pooling --normalize --prompt --passage-prompt --precision"
OF_MODEL = f"--model {OF_ENCODER} --batch-size --base --index"
OF_TOPICS = "--qrels --output --output-format --compare --no-compare --choose-weights --overwrite"
OF_RUNS = "--output --output-format --overwrite --format --qrels --choose-weights"
OF_RAY = "--worker-gpus --worker-cpus --address"
OF_WORKERS = f"--engine --workers {OF_RAY}"
OF_STREAM = f"--memory --shard --recall {OF_WORKERS}"
OF_BOARDS = "--baseline --without --brief --measures"
OF_SHOWN = "--convergence --format --output --overwrite"
OF_CHECKS = "--rows --random --models --collection --work --seed"
OF_STORES = "--vectors --format"
OF_EXPORTS = f"--topics --model {OF_ENCODER} --batch-size --device --base --megabytes --weights --prompt-of"
# verb -> what is asked for, and the flags that do nothing then
IDLE = {
    "search": {
        "--topics t": f"--task --overwrite {OF_STREAM}",
        "--topics t --no-compare": f"--task --overwrite --hybrid-weights --choose-weights {OF_STREAM}",
        "--topics t --retriever hybrid --no-compare": f"--task --overwrite --choose-weights {OF_STREAM}",
        "--topics t --retriever hybrid --hybrid-weights w": f"--task --overwrite --choose-weights {OF_STREAM}",
        "--topics t --retriever bm25": f"--task --overwrite --choose-weights {OF_MODEL} --vectors {OF_STREAM}",
        "--topics t --retriever bm25 --compare": f"--task --overwrite --choose-weights {OF_STREAM}",
        "--topics t --output o": f"--task {OF_STREAM}",
        "--topics t --index i": f"--task --overwrite --memory --shard {OF_WORKERS}",
        "--topics t --vectors v": f"--task --overwrite --index --recall --workers {OF_RAY}",
        "--topics t --vectors v --shard 1/2": f"--task --index --recall {OF_RUNS} {OF_WORKERS}",
        "--query q": f"{OF_TOPICS} --hybrid-weights {OF_STREAM}",
        "--query q --vectors v": f"{OF_TOPICS} --hybrid-weights --index --shard --recall --workers {OF_RAY}",
        "--query q --retriever hybrid": f"{OF_TOPICS} {OF_STREAM}",
        "--query q --retriever bm25": f"{OF_TOPICS} --hybrid-weights {OF_MODEL} --vectors {OF_STREAM}",
        "--interactive": f"{OF_TOPICS} --hybrid-weights --vectors {OF_STREAM}",
        "--serve 0": f"{OF_TOPICS.replace('--compare --no-compare ', '')} --task --format --vectors {OF_STREAM}",
    },
    "answer": {
        "--reader r --topics t": "--task --overwrite",
        "--reader r --topics t --output o --retriever bm25": f"--task {OF_MODEL.replace('--batch-size ', '')}",
        "--reader r --query q": "--output --overwrite --quiet --format --with-gold",
    },
    "evaluate": {
        "r --topics t": "--seed",
        "r --topics t --per-query --baseline b": "--seed",
        "r --topics t --baseline b": "",
        "r --qrels q": "--collection --seed",
    },
    "encode": {
        "--output o": f"--prompt --workers {OF_RAY}",
        "--output o --shards 2": f"--prompt --shard --workers {OF_RAY}",
        "--output o --engine processes": f"--prompt --shard {OF_RAY}",
        "--output o --engine ray": "--prompt --shard --worker-gpus",
        "--output o --engine ray --device cuda": "--prompt --shard",
        "--output o --verify": f"--collection {OF_ENCODER} --model --batch-size --device --base --overwrite --shard "
        f"--shards --engine --workers {OF_RAY}",
    },
    "index": {
        "--output o --vectors v": "",
        "--output o --verify": "--vectors --factory --on-disk --recall --overwrite",
    },
    "export": {
        "--output o": f"--collection --precision --batch-size {OF_STORES} --url",
        "--output o --topics t": f"{OF_STORES} --url",
        "--output o --what huggingface": f"--topics --collection --precision --batch-size {OF_STORES} --url",
        "--output o --what vectors --vectors v": f"{OF_EXPORTS} --url",
        "--output o --what vectors --vectors v --format qdrant": OF_EXPORTS,
    },
    "mine": {
        "--output o --source bm25": f"{OF_ENCODER} --batch-size --base --index",
        "--output o --source bm25 --window 0:5": f"--mine-skip --mine-depth {OF_ENCODER} --batch-size --base --index",
        "--output o --source bm25 a-model": "",
    },
    "leaderboard": {
        "f": "--rows --random --models --collection --work --seed --overwrite --against",
        "f --format html --collection c": "--brief --rows --random --seed --overwrite --against",
        "f --convergence n --output o": f"{OF_BOARDS} {OF_CHECKS} --headroom --against",
        "f --headroom n --output o": f"{OF_BOARDS.replace(' --measures', '')} {OF_CHECKS}",
        "f --check --collection c": f"{OF_BOARDS} {OF_SHOWN} --headroom --topics --against --seed",
        "f --baseline b": "--rows --random --models --collection --work --overwrite --against",
    },
    "reproduce": {"--conditions c": "--format", "--conditions c --list": "--jobs --device"},
    "submission": {"--runs r --output o": ""},
    "analyze": {"m": ""},
    "card": {"f": ""},
    "push": {"m o/n": "", "m o/n --dry-run": ""},
    "pull": {"o/n": "--overwrite", "o/n --output f": ""},
    "completion": {"bash": ""},
}


def parser_of(verb: str) -> Parser:
    parser: Parser = importlib.import_module(f"taco_ir.{verb}").parser()
    return parser


def words(action: argparse.Action, flag: str) -> list[str]:
    """A flag as a user gives it, with its default or any value."""
    if action.nargs == 0:
        return [flag]
    if action.choices:
        return [flag, str(action.default if action.default in action.choices else next(iter(action.choices)))]
    return [flag, {"--window": "0:1", "--columns": "id=1", "--memory": "1GB"}.get(flag, "1")]


CASES = [(verb, asked, set(idle.split())) for verb, cases in IDLE.items() for asked, idle in cases.items()]


@pytest.mark.parametrize(("verb", "asked", "idle"), CASES)
def test_flags_that_do_nothing_are_refused_and_no_others(
    verb: str, asked: str, idle: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = {
        flag: action
        for action in parser_of(verb)._actions
        for flag in action.option_strings
        if flag.startswith("--") and flag != "--help"
    }
    assert idle <= flags.keys()
    if "--collection" not in asked.split():
        idle = idle | (flags.keys() & {"--columns"})
    for flag, action in flags.items():
        given = [word for word in asked.split() if word.startswith("--")]
        if flag in given or (flag == "--no-compare" and "--compare" in given):
            continue
        if flag in idle:
            with pytest.raises(InputError, match=rf"{flag} has an effect only with .*"):
                parser_of(verb).parse_args([*asked.split(), *words(action, flag)])
        elif flag not in MODES.get(verb, ()):
            parser_of(verb).parse_args([*asked.split(), *words(action, flag)])


# flags that make another mode of what is asked for, with other idle flags
MODES = {
    "search": ("--query", "--topics", "--vectors", "--shard", "--index", "--engine"),
    "answer": ("--query", "--topics"),
    "evaluate": ("--per-query", "--topics"),
    "encode": ("--verify",),
    "index": ("--verify",),
    "mine": ("--window",),
    "leaderboard": ("--check", "--convergence", "--headroom", "--format", "--rows", "--random"),
    "reproduce": ("--list",),
}


def test_every_verb_with_flags_of_its_own_is_here() -> None:
    """Those of training and adaptation are checked with their settings."""
    verbs = {
        path.stem
        for path in Path(importlib.import_module("taco_ir").__path__[0]).glob("*.py")
        if "run_verb(main)" in path.read_text()
    }
    assert verbs - IDLE.keys() == {"train", "pretrain", "adapt", "pyserini"}
