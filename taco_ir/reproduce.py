"""`python -m taco_ir.reproduce`: run a study's trainings, searches and scores, and keep a record of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import Parser, positive, run_verb
from taco_ir.core.files import InputError, read_json
from taco_ir.core.processes import log
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.studies.commands import Spent
from taco_ir.studies.conditions import Job, parse_models, read_study
from taco_ir.studies.facts import best_validation
from taco_ir.studies.jobs import Runner, run_jobs, select_jobs
from taco_ir.studies.records import load_record
from taco_ir.studies.scores import summarise_deviations


def parser() -> Parser:
    flags = Parser(
        "reproduce",
        "Run a study: train, search and score every condition in the --conditions file once for each seed. Each job "
        "writes a record (scores, command, commit, versions, time and memory) into results/ next to that file. "
        "Finished jobs are skipped if their conditions, files and models have not changed; killed jobs continue. "
        "Records made on other machines are kept, and compared with the scores found here.",
        ("--collection", "--models", "--device"),
        "python -m taco_ir.reproduce --conditions runs/minikilt/conditions.toml --collection mini-kilt \\\n"
        "      --models bert-tiny=models/bert-tiny minilm-l3=models/minilm-l3\n"
        "  python -m taco_ir.reproduce --conditions runs/minikilt/conditions.toml --only 'taco*' --list",
    )
    flags.flag("--conditions", "the TOML file that describes the study", required=True, type=Path, metavar="FILE")
    only = "run only these conditions and the conditions they depend on; * matches any text [default: all]"
    flags.flag("--only", only, nargs="+", default=[], metavar="NAME")
    flags.flag("--corpora", "score only on these corpora [default: all]", nargs="+", default=[], metavar="NAME")
    flags.flag("--seeds", "run only these seeds [default: all]", nargs="+", default=[], type=int, metavar="N")
    jobs = "how many jobs to run in parallel; they share the processor's cores [default: 1]"
    flags.flag("--jobs", jobs, type=positive, default=1, metavar="N")
    work = "folder for checkpoints, runs and logs [default: studies/<name> in the data home]"
    flags.flag("--work", work, type=Path, metavar="FOLDER")
    flags.flag("--list", "list the jobs and their progress, without running them", action="store_true")
    flags.flag("--format")
    flags.only(("--format",), lambda options: options.list, "--list")
    flags.only(("--jobs", "--device"), lambda options: not options.list, "running, not with --list")
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    study = read_study(options.conditions)
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    models = parse_models(options.models)
    runner = Runner(study, options.collection, models, options.work, threads, options.corpora, options.device)
    jobs = select_jobs(study, options.only, options.seeds)
    if options.list:
        header = ["condition", "seed", "state", "minutes", "held-out"]
        print(render(Table(study.name, header, [job_row(runner, job) for job in jobs]), options.format), end="")
        return
    runner.commands.require_models(jobs)
    left = [job for job in jobs if not runner.is_done(job)]
    log.info("%s: %d of %d jobs are done; working in %s", study.name, len(jobs) - len(left), len(jobs), runner.work)
    failed = run_jobs(study, left, runner.run, options.jobs)
    stay = runner.keep(jobs)
    if failed:
        names = ", ".join(map(str, failed))
        raise InputError(f"{len(failed)} of {len(left)} jobs failed ({names}); their errors and logs are named above")
    log.info("results: %s; look at them with python -m taco_ir.leaderboard %s", study.results, study.folder)
    if stay:
        warnings, summary = summarise_deviations(stay, study.tolerance)
        for line in warnings:
            log.warning("%s", line)
        log.info("%s", summary)


def job_row(runner: Runner, job: Job) -> list[Cell]:
    """Returns a job's table row: condition, seed, state, minutes so far, and best held-out macro page R-precision."""
    try:
        folder = runner.folder(job)
    except InputError:  # its folder's name depends on its models
        return [job.condition, job.seed, "no model", None, None]
    made = [read_json(path, Spent, others=True).seconds for path in folder.glob("step-*.json")]
    scored = [load_record(path).made for path in folder.glob("*/record.json")]
    seconds = made + [each[verb]["seconds"] for each in scored for verb in ("search", "answer") if verb in each]
    state = "done" if runner.is_done(job) else "begun" if folder.is_dir() else "-"
    return [job.condition, job.seed, state, sum(seconds) / 60 if seconds else None, best_validation(folder / "out")]


if __name__ == "__main__":
    run_verb(main)
