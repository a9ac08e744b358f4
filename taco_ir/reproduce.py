"""`python -m taco_ir.reproduce`: run the conditions of a study, or any subset, and record what they score."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.cli import Parser, positive, run_verb
from taco_ir.core.files import InputError, read_json
from taco_ir.core.progress import log
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.studies.conditions import Job, folders, read_study
from taco_ir.studies.facts import held_out
from taco_ir.studies.records import load_record
from taco_ir.studies.running import Spent

if TYPE_CHECKING:
    from taco_ir.studies.runner import Runner


def parser() -> Parser:
    flags = Parser(
        "reproduce",
        "Run a study: train, search and score every condition of a file with every seed, each once, and write a record of each into results/\n"
        "beside the file. What the work folder has done is skipped, and made anew where conditions, files or models were edited since; what\n"
        "was killed continues; a record from elsewhere is compared with, and stays. Records say command, commit, versions, time, memory.",
        ("--collection", "--models", "--device"),
        "python -m taco_ir.reproduce --conditions runs/minikilt/conditions.toml --collection mini-kilt --models bert-tiny=models/bert-tiny \\\n      minilm-l3=models/minilm-l3\n"
        "  python -m taco_ir.reproduce --conditions runs/minikilt/conditions.toml --collection mini-kilt --only 'taco*' --seeds 1 --list",
    )
    flags.add_argument("--conditions", required=True, type=Path, metavar="FILE", help="the study's TOML file")
    flags.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="conditions to run, with what they need; * stands for anything",
    )
    flags.add_argument(
        "--corpora", nargs="+", default=[], metavar="NAME", help="corpora to score on for now [default: all]"
    )
    flags.add_argument("--seeds", nargs="+", default=[], type=int, metavar="N", help="seeds to run [default: all]")
    flags.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="jobs at a time; they share the processor's cores [default: 1]",
    )
    flags.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="checkpoints, runs and logs [default: studies/<name> under the data home]",
    )
    flags.add_argument("--list", action="store_true", help="only say which jobs there are, and how far each is")
    flags.flag("--format")
    flags.only(("--format",), lambda options: options.list, "--list")
    flags.only(("--jobs", "--device"), lambda options: not options.list, "running, not with --list")
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    from taco_ir.studies.runner import Runner
    from taco_ir.studies.running import run_jobs, wanted_jobs
    from taco_ir.studies.scores import told

    study = read_study(options.conditions)
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    runner = Runner(
        study, options.collection, folders(options.models), options.work, threads, options.corpora, options.device
    )
    jobs = wanted_jobs(study, options.only, options.seeds)
    if options.list:
        print(
            render(
                Table(
                    study.name,
                    ["condition", "seed", "state", "minutes", "held-out"],
                    [row(runner, job) for job in jobs],
                ),
                options.format,
            ),
            end="",
        )
        return
    runner.commands.require_models(jobs)
    left = [job for job in jobs if not runner.done(job)]
    log.info("%s: %d of %d jobs are done; working in %s", study.name, len(jobs) - len(left), len(jobs), runner.work)
    failed = run_jobs(study, left, runner.run, options.jobs, log.info)
    stay = runner.keep(jobs)
    if failed:
        raise InputError(
            f"{len(failed)} of {len(left)} jobs failed ({', '.join(map(str, failed))}), and what needs them was not run"
        )
    log.info("results: %s; look at them with python -m taco_ir.leaderboard %s", study.results, study.folder)
    if stay:
        warnings, summary = told(stay, study.tolerance)
        for line in warnings:
            log.warning("%s", line)
        log.info("%s", summary)


def row(runner: Runner, job: Job) -> list[Cell]:
    """How far a job is: its state, the minutes it took so far, and the best macro page R-precision on held-out queries of its training."""
    try:
        folder = runner.folder(job)
    except InputError:  # what it is made of is not known without its models
        return [job.condition, job.seed, "no model", None, None]
    made = [read_json(path, Spent, others=True).seconds for path in folder.glob("step-*.json")]
    scored = [load_record(path).made for path in folder.glob("*/record.json")]
    seconds = [
        *made,
        *(scores[verb]["seconds"] for scores in scored for verb in ("search", "answer") if verb in scores),
    ]
    state = "done" if runner.done(job) else "begun" if folder.is_dir() else "-"
    return [job.condition, job.seed, state, sum(seconds) / 60 if seconds else None, held_out(folder / "out")]


if __name__ == "__main__":
    run_verb(main)
