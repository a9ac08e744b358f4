"""`python -m taco_ir.train_reader`: from questions with answers to a reader on an encoder, resumable."""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.cli import Parser, run_verb
from taco_ir.core.files import InputError
from taco_ir.training.flags import add_flag, given_flags, read_settings
from taco_ir.training.reader_run import DEFAULTS, KEYS, train_reader
from taco_ir.training.settings import KEYS as TRAIN_KEYS

HELP = {
    "tasks": "tasks of questions with answers, such as nq,squad",
    "query_length": "most tokens of a question; 0: 64",
    "passage_length": "most tokens of a passage and its title [default: 160]",
    "batch_size": f"questions of a step, all tasks together [default: {DEFAULTS['batch_size']}]",
    "hard_negatives": f"passages without an answer that are read with the gold one [default: {DEFAULTS['hard_negatives']}]",
    "shares": f"a task's part of a batch: proportional, temperature, uniform, or questions by task as in 16,8 [default: {DEFAULTS['shares']}]",
    "epochs": "passes over the longest task; the others cycle [default: 1]",
    "steps": "steps in all; 0: by epochs",
}


def parser() -> Parser:
    flags = Parser(
        "train_reader",
        "Train a reader: two small layers on an encoder, which trains with them, that select a passage and mark the answer in it.\n"
        "It learns from the gold passages that hold an answer, and from mined passages that hold none; what is dropped is said first.\n"
        "Stopped at any moment, the same command goes on from the last checkpoint.",
        ("--overwrite",),
        example="python -m taco_ir.train_reader --collection my-wiki --tasks nq,squad --model my-run/model --output my-reader\n"
        "  python -m taco_ir.answer --collection my-wiki --topics squad-dev --model my-run/model --reader my-reader/model",
    )
    for key in KEYS:
        add_flag(flags, key, HELP.get(key, TRAIN_KEYS[key].metadata["help"]))
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    given = given_flags(options, KEYS)
    if "all" in given.get("tasks", ("all",)):
        raise InputError(f"--tasks is needed: {HELP['tasks']}")
    config = read_settings(None, DEFAULTS | given)
    model = train_reader(config, options.overwrite)
    topics = " ".join(f"{task}-dev" for task in config.run.tasks)
    print(f"{model}\nnext: python -m taco_ir.answer --reader {model} --collection {config.run.collection} --topics {topics}")


if __name__ == "__main__":
    run_verb(main)
