"""`python -m taco_ir.analyze`: to which tasks the parameters of trained models are sensitive, as JSON and one HTML page."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from taco_ir.analysis.run import (
    BATCHES,
    JSON_FILE,
    TAU,
    AnalysisSettings,
    Subject,
    analyse,
    find_subject,
    write_analysis,
)
from taco_ir.analysis.summary import Analysis, verdict
from taco_ir.cli import Parser, command, positive, run_verb
from taco_ir.core.files import InputError, claim_output
from taco_ir.core.progress import log
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.training.flags import add_flag, given_flags

KEYS = {
    "collection": "sample (embedded), kilt (the full benchmark), or a folder",
    "tasks": "tasks of the collection, such as nq,fever; all: every task with a train file",
    "negatives": "bm25, ance (mined with the first model), none, or a file of taco_ir.mine",
    "hard_negatives": "hard negatives of a query, beside the other queries' passages",
    "batch_size": "queries of a step, all tasks together",
    "shares": "a task's part of a batch, as in training",
    "seed": "seed of the batches",
}


def parser() -> Parser:
    flags = Parser(
        "analyze",
        "Measure which tasks each parameter of a model is sensitive to: entropies of TACO's weights q in the paper's bins, by layer and kind of\n"
        "module, sensitivities, cosines of the tasks' gradients. Any model can be measured, however it was trained; several are measured on\n"
        "the same batches, and a TACO run is compared with the naive run of its configuration and seed. Beside each share stands what chance\n"
        "gives, batches dealt to tasks at random. What is not given below is as in the first model's training run, where it is in one, else as in training.",
        example="python -m taco_ir.analyze my-run\n"
        "  python -m taco_ir.analyze runs/taco runs/naive --batches 16 --output taco-against-naive",
    )
    flags.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a model folder, or the folder of a training run; the first one decides the data",
    )
    for key, help in KEYS.items():
        add_flag(flags, key, help)
    flags.add_argument(
        "--batches", type=positive, default=BATCHES, metavar="N", help=f"batches of each task [default: {BATCHES}]"
    )
    flags.add_argument(
        "--tau",
        type=temperature,
        default=TAU,
        metavar="X",
        help=f"temperature of the softmax over tasks [default: {TAU:g}]",
    )
    flags.flag("--device")
    flags.flag(
        "--output",
        metavar="DIR",
        help="folder of specialisation.json and .html [default: analysis in the first model's run]",
    )
    flags.flag("--overwrite")
    return flags


def temperature(text: str) -> float:
    """argparse type: a number above 0. Raises: argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    keys = given_flags(options, KEYS) | {"device": options.device}
    subjects = [find_subject(name) for name in options.models]
    output = output_folder(options.output, subjects[0])
    with claim_output(output / JSON_FILE, command(options), options.overwrite, resume=True):
        analysis = analyse(subjects, AnalysisSettings(keys, options.batches, options.tau), output)
        _, page = write_analysis(analysis, output)
    print(render(summary(analysis), "table"), end="")
    log.info("%s", verdict(analysis))
    log.info("page: %s", page)


def output_folder(given: str | None, first: Subject) -> Path:
    """Raises: InputError where none is given and the model is in no run."""
    if given:
        return Path(given)
    if first.run is None:
        raise InputError(f"--output is needed: {first.name} is in no training run's folder")
    return first.run / "analysis"


def summary(analysis: Analysis) -> Table:
    """Shares of the parameters by entropy, of 1, a row for each model."""
    rows: list[list[Cell]] = []
    for model in analysis.models:
        whole = model.whole
        rows.append(
            [model.label, *whole.shares, whole.specific_of_activated, model.measured.chance, whole.mean_entropy]
        )
    first = analysis.bins[0]
    header = ["model", *analysis.bins, f"{first} of activated", f"{first} by chance", "mean entropy"]
    return Table(
        f"shares of the parameters by the entropy of their tasks, in nats (below {analysis.specific:.2g}: task-specific)",
        header,
        rows,
    )


if __name__ == "__main__":
    run_verb(main)
