"""`python -m taco_ir.analyze`: measure which tasks each parameter of a trained model is sensitive to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from taco_ir.analysis.specialisation import (
    BATCHES,
    JSON_FILE,
    TAU,
    AnalysisSettings,
    analyse,
    find_subject,
    write_analysis,
)
from taco_ir.analysis.summary import Analysis, verdict
from taco_ir.cli import Parser, above_zero, command, positive, run_verb
from taco_ir.core.files import InputError
from taco_ir.core.outputs import claim_output
from taco_ir.core.processes import log
from taco_ir.core.settings import add_flag
from taco_ir.evaluation.tables import Cell, Table, render_all, without_empty
from taco_ir.training import DOSE
from taco_ir.training.flags import given_flags
from taco_ir.training.settings import RULES

TRAINING_FLAGS = {
    "collection": "sample (shipped with the package), kilt (the full benchmark), or a folder",
    "tasks": "tasks of the collection, such as nq,fever; all: every task with a train file",
    "negatives": "where hard negatives come from: bm25, ance (mined with the first model), none, or a negatives file",
    "hard_negatives": "number of hard negatives for each query; passages of other queries are negatives, too",
    "batch_size": "queries in a batch, counted over all tasks",
    "shares": "how the queries of a batch are divided among the tasks; see `train --help-all`",
    "seed": "random seed of the batches",
}


def parser() -> Parser:
    flags = Parser(
        "analyze",
        "Measure which tasks each parameter of a model is sensitive to, and write a JSON file and an HTML page. "
        "They show the entropies of TACO's task weights q in the paper's bins, by layer and kind of module; the "
        "sensitivities; and the cosines between the tasks' gradients. Any model can be measured, however it was "
        "trained. Several models are measured on the same batches, and a model trained with TACO is compared with "
        "the model trained naively with the same settings and seed. Every share is shown with the share expected by "
        "chance, measured on batches that are assigned to tasks at random. Settings not given here are taken from "
        "the first model's training or, if it has none, from the defaults of `train`.",
        example="python -m taco_ir.analyze my-run\n"
        "  python -m taco_ir.analyze runs/taco runs/naive --batches 16 --output taco-against-naive",
    )
    flags.flag(
        "models",
        "model folders, or folders of trainings. Tasks and batches are taken from the training of the first model",
        nargs="+",
        metavar="MODEL",
    )
    for key, help in TRAINING_FLAGS.items():
        add_flag(flags, key, RULES[key], help)
    flags.flag(
        "--batches",
        f"how many batches to measure for each task [default: {BATCHES}]",
        type=positive,
        default=BATCHES,
        metavar="N",
    )
    tau = f"temperature of the softmax over tasks [default: {TAU:g}]"
    flags.flag("--tau", tau, type=above_zero, default=TAU, metavar="X")
    flags.flag("--device")
    output = "folder for specialisation.json and .html [default: analysis in the folder of the first model's training]"
    flags.flag("--output", output, metavar="FOLDER")
    flags.flag("--overwrite")
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    settings = AnalysisSettings(
        given_flags(options, TRAINING_FLAGS) | {"device": options.device}, options.batches, options.tau
    )
    subjects = [find_subject(name) for name in options.models]
    first = subjects[0]
    if not options.output and first.run is None:
        raise InputError(f"--output is needed: {first.name} is not in the folder of a training")
    output = Path(options.output or f"{first.run}/analysis")
    with claim_output(output / JSON_FILE, command(options), options.overwrite, resume=True):
        analysis = analyse(subjects, settings, output)
        _, page = write_analysis(analysis, output)
    print(render_all([summary(analysis), *dose_tables(analysis)], "table"), end="")
    log.info("%s", verdict(analysis))
    log.info("page: %s", page)


def summary(analysis: Analysis) -> Table:
    """Returns a table of the shares of the parameters in each entropy bin, one row for each model."""
    rows: list[list[Cell]] = []
    for model in analysis.models:
        whole, chance = model.whole, model.measured.chance
        rows.append([model.label, *whole.shares, whole.specific_of_activated, chance, whole.mean_entropy])
    first = analysis.bins[0]
    header = ["model", *analysis.bins, f"{first} of activated", f"{first} by chance", "mean entropy"]
    below = f"below {analysis.specific:.2g}: task-specific"
    return Table(f"shares of the parameters by the entropy of their tasks, in nats ({below})", header, rows)


def dose_tables(analysis: Analysis) -> list[Table]:
    """Returns a list with one table: how much each training's weighting changed its updates. [] if no log has this."""
    rows: list[list[Cell]] = []
    for model in analysis.models:
        for episode, logged in model.dose.items():
            figures = [[figure for _, by_name in logged if (figure := by_name[name]) is not None] for name in DOSE]
            means = [fmean(column) if column else None for column in figures]
            rows.append([model.label, episode or None, len(logged), *means])
    title = "dose: how far the weighting's updates were from the mean of the tasks' gradients, mean of the logged steps"
    table = Table(title, ["model", "episode", "steps", *DOSE.values()], rows)
    return [without_empty(table, "episode")] if rows else []


if __name__ == "__main__":
    run_verb(main)
