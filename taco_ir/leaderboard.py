"""`python -m taco_ir.leaderboard`: a study's results as tables, JSON or one HTML page, and the check that they come out again."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.cli import FLAGS, Parser, positive, run_verb
from taco_ir.core.files import InputError, claim_output, writing
from taco_ir.core.progress import log
from taco_ir.evaluation.measures import Measure
from taco_ir.evaluation.tables import render
from taco_ir.studies.board import Board, boards, refuse_idle_patterns, without
from taco_ir.studies.board_tables import board_json, board_tables, brief_tables, published, quoted_table
from taco_ir.studies.conditions import Job, folders, read_study
from taco_ir.studies.convergence import convergence_table
from taco_ir.studies.records import Record, read_records
from taco_ir.studies.scores import rescored, sample_records, select_records

if TYPE_CHECKING:
    from taco_ir.studies.runner import Runner


def parser() -> Parser:
    flags = Parser(
        "leaderboard",
        "Systems x topics from the records of a study, one board for each corpus: mean and standard deviation over seeds, the macro average\n"
        "over topics, and tests against a baseline over queries. Nothing is searched; --check searches and scores some records again.",
        ("--measures", "--models", "--seed", "--output", "--overwrite"),
        "python -m taco_ir.leaderboard runs/minikilt --baseline BM25 --format markdown\n"
        "  python -m taco_ir.leaderboard runs/minikilt --baseline BM25 --format html --output leaderboard.html\n"
        "  python -m taco_ir.leaderboard runs/minikilt --check --random 3 --collection mini-kilt --models bert-tiny=models/bert-tiny\n"
        "  python -m taco_ir.leaderboard runs/tuning --convergence 'full fine-tuning'",
    )
    flags.add_argument(
        "folder", type=Path, metavar="FOLDER", help="a study: conditions.toml, and results/ with its records"
    )
    flags.add_argument(
        "--baseline", metavar="NAME", help="compare every system with this one [default: nothing is tested]"
    )
    flags.add_argument(
        "--convergence",
        metavar="NAME",
        help="instead of boards: how many steps each system took to rank held-out queries nearly as well as this one does in the end",
    )
    flags.add_argument("--corpus", metavar="NAME", help="this corpus alone [default: a board for each]")
    flags.add_argument(
        "--without",
        nargs="+",
        default=[],
        metavar="NAME",
        help="systems that are not shown, * stands for anything; tests stay corrected for them",
    )
    flags.add_argument(
        "--brief", action="store_true", help="in tables: whole topics alone, without slices, tests and quoted rows"
    )
    forms = (*FLAGS["--format"]["choices"], "html", "svg")
    flags.flag(
        "--format",
        choices=forms,
        help="how boards are printed; tables hold the first measure alone without --measures, svg is a picture of the first board's averages [default: table]",
    )
    flags.add_argument(
        "--check", action="store_true", help="search and score records again; end with code 2 where a score moved"
    )
    which = flags.add_mutually_exclusive_group()
    which.add_argument(
        "--rows",
        metavar="A,B",
        help="check these systems, conditions or records [default: all whose trainings are in --work]",
    )
    which.add_argument("--random", type=positive, metavar="N", help="check N of the same, drawn by --seed")
    flags.flag(
        "--collection", default=None, help="the collection of the study, for --check and for texts in the HTML page"
    )
    flags.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="the study's checkpoints and runs, for the same [default: studies/<name> under the data home]",
    )
    boards_alone = "boards, not with --check or --convergence"
    flags.only(
        ("--baseline", "--without", "--brief", "--measures"),
        lambda options: not options.check and options.convergence is None,
        boards_alone,
    )
    flags.only(("--brief",), lambda options: options.format in FLAGS["--format"]["choices"], "a --format of tables")
    flags.only(
        ("--convergence", "--format", "--output", "--overwrite"),
        lambda options: not options.check,
        "what is shown, not with --check",
    )
    flags.only(("--overwrite",), lambda options: options.output is not None, "--output")
    flags.only(("--rows", "--random"), lambda options: options.check, "--check")
    flags.only(
        ("--collection", "--work", "--models"),
        lambda options: options.check or (options.format == "html" and options.convergence is None),
        "--check or the boards' --format html",
    )
    flags.only(("--work", "--models"), lambda options: options.collection is not None, "--collection")
    flags.only(
        ("--seed",),
        lambda options: options.random is not None if options.check else bool(options.baseline),
        "--baseline, or --check --random",
    )
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    results = of_corpus(read_records(options.folder / "results"), options.corpus)
    if options.check:
        if options.collection is None:
            raise InputError("--check needs --collection, the one that the study searched")
        runner = runner_of(options)
        named = searchable(
            select_records(results, options.rows.split(",") if options.rows else []), runner, bool(options.rows)
        )
        check(named if options.random is None else sample_records(named, options.random, options.seed), runner)
        return
    shown = leaderboard if options.convergence is None else convergence
    if options.output is None:
        print(shown(results, options), end="")
        return
    output = Path(options.output)
    with claim_output(output, None, options.overwrite), writing(output) as file:
        file.write(shown(results, options))
    log.info("%s: %s", options.format, output)


def of_corpus(results: Sequence[Record], corpus: str | None) -> list[Record]:
    """The results on one corpus (None: all). Raises: InputError for one that none has."""
    known = dict.fromkeys(result.corpus for result in results)
    if corpus is not None and corpus not in known:
        raise InputError(f"--corpus {corpus!r} is not in the results; allowed: {', '.join(known)}")
    return [result for result in results if corpus in (None, result.corpus)]


def convergence(results: Sequence[Record], options: Namespace) -> str:
    """How fast systems learn, in the form asked for. Raises: InputError for a form that has no tables."""
    if options.format not in (forms := FLAGS["--format"]["choices"]):
        raise InputError(f"--convergence is a table; --format {options.format} holds none, allowed: {', '.join(forms)}")
    return render(convergence_table(results, options.convergence), options.format)


def leaderboard(results: Sequence[Record], options: Namespace) -> str:
    """The boards in the form asked for."""
    measures = list(dict.fromkeys(str(Measure.parse(name)) for name in options.measures or ()))
    everything = options.format in ("json", "html")
    if not measures and not everything:
        measures = [
            next(measure for result in results for scores in result.topics.values() for measure in scores.means)
        ]
    refuse_idle_patterns(results, options.without)
    runner = runner_of(options) if options.format == "html" and options.collection is not None else None
    found = without(boards(results, options.baseline, options.seed, measures), options.without)
    if options.format == "json":
        return board_json(found, published())
    if options.format == "svg":
        from taco_ir.studies.page import macro_plot

        return macro_plot(found[0], measures[0])
    if options.format == "html":
        from taco_ir.studies.page import examples, page

        texts = None
        if runner is not None and (texts := examples(runner, results, found[0].corpus)) is None:
            raise InputError(
                f"--collection {options.collection}: it is for texts of what was ranked on {found[0].corpus}, and no run of it is in "
                f"{runner.work}; `reproduce` makes them, or give another --work"
            )
        return page(found, results, published(), texts)
    return brief(found, options.format) if options.brief else text(found, options.format)


def brief(found: Sequence[Board], form: str) -> str:
    """One table for each board and measure, and its notes."""
    return "\n".join(render(table, form) for board in found for table in brief_tables(board))


def text(found: Sequence[Board], form: str) -> str:
    """Tables below each other, those quoted from papers last."""
    tables = [table for board in found for table in board_tables(board)]
    return "\n".join(render(table, form) for table in [*tables, quoted_table(published())])


def searchable(results: Sequence[Record], runner: Runner, strict: bool) -> list[Record]:
    """Those whose trainings are in the study's work folder; the others are counted. Raises: InputError where none is, or with `strict` one is not."""
    found = [result for result in results if runner.made(Job(result.condition, result.seed))]
    if len(found) < len(results):
        missing = f"{len(results) - len(found)} of {len(results)} records cannot be searched again: their trainings are not in {runner.work}"
        if strict or not found:
            raise InputError(f"{missing}; `reproduce` makes them, or give another --work")
        log.warning("%s", missing)
    return found


def check(results: Sequence[Record], runner: Runner) -> None:
    """Score records again and print what moved; runs that agree are not kept. Raises: InputError where anything did."""
    count, tolerance = 0, runner.study.tolerance
    for recorded, lines in rescored(results, partial(rescore, runner), tolerance):
        if not lines:
            shutil.rmtree(checked_runs(runner, recorded), ignore_errors=True)
        log.info("%s: %s", recorded.name, "as recorded" if not lines else f"{len(lines)} scores moved")
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
        count += len(lines)
    if count:
        raise InputError(f"{count} deviations in {len(results)} records; allowed is a difference of {tolerance}")
    log.info("%d records came out again, within %s", len(results), tolerance)


def runner_of(options: Namespace) -> Runner:
    """The study's driver, which knows where its runs are and how a record is searched and scored again."""
    from taco_ir.studies.runner import Runner

    study = read_study(options.folder / "conditions.toml")
    return Runner(study, options.collection, folders(options.models), options.work, os.cpu_count() or 1)


def rescore(runner: Runner, recorded: Record) -> Record:
    """Search and score again, beside the runs that the record was made of, which stay."""
    return runner.score(Job(recorded.condition, recorded.seed), recorded.corpus, checked_runs(runner, recorded))


def checked_runs(runner: Runner, recorded: Record) -> Path:
    """Where the runs of a check go."""
    return runner.folder(Job(recorded.condition, recorded.seed)) / f"check-{recorded.corpus}"


if __name__ == "__main__":
    run_verb(main)
