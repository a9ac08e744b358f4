"""`python -m taco_ir.leaderboard`: show a study's results as tables, JSON, a picture or a page, or check them."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import FLAGS, Parser, positive, run_verb
from taco_ir.core.files import InputError, writing
from taco_ir.core.outputs import claim_output
from taco_ir.core.processes import log
from taco_ir.evaluation.measures import Measure
from taco_ir.evaluation.tables import render, render_all
from taco_ir.studies.board import check_patterns, select_corpus, select_topics
from taco_ir.studies.conditions import parse_models, read_study
from taco_ir.studies.convergence import convergence_table
from taco_ir.studies.headroom import headroom_tables
from taco_ir.studies.jobs import Runner
from taco_ir.studies.records import Record, read_records
from taco_ir.studies.rescoring import check_records, sample_records, select_records, select_trained
from taco_ir.studies.tables import board_json, make_leaderboard, quoted_beside, render_boards

TABLES = FLAGS["--format"]["choices"]
PICTURES = ("svg", "svg-topics", "svg-lines")


def parser() -> Parser:
    flags = Parser(
        "leaderboard",
        "Compare the systems of a study: a table of systems by topics for each corpus, made from the study's "
        "records. It shows means and standard deviations over seeds, macro averages over topics, and significance "
        "tests against a baseline. Nothing is searched, except with --check, which searches and scores recorded "
        "systems again.",
        ("--measures", "--models", "--seed", "--output", "--overwrite"),
        "python -m taco_ir.leaderboard runs/minikilt --baseline BM25 --format markdown\n"
        "  python -m taco_ir.leaderboard runs/minikilt --baseline BM25 --format html --output leaderboard.html\n"
        "  python -m taco_ir.leaderboard runs/minikilt --check --random 3 --collection mini-kilt \\\n"
        "      --models bert-tiny=models/bert-tiny\n"
        "  python -m taco_ir.leaderboard runs/tuning --convergence 'full fine-tuning'\n"
        "  python -m taco_ir.leaderboard runs/minikilt --headroom naive --against task-specific",
    )
    flags.flag("folder", "the study's folder, with conditions.toml and results/", type=Path, metavar="FOLDER")
    flags.flag("--baseline", "test every system against this one [default: no tests]", metavar="NAME")
    flags.flag(
        "--convergence",
        "show instead how fast each system learns: after how many steps it ranks held-out queries nearly as well as "
        "system NAME does at the end of its training",
        metavar="NAME",
    )
    flags.flag(
        "--headroom",
        "show instead how much system NAME could gain: for each topic, the score of the best other system minus the "
        "score of NAME, and the smallest difference that these seeds and queries can detect",
        metavar="NAME",
    )
    flags.flag(
        "--against",
        "the other systems that --headroom compares with, such as task-specific training (* matches any text) "
        "[default: all on the same base model]",
        nargs="+",
        default=[],
        metavar="NAME",
    )
    flags.flag("--corpus", "show only this corpus [default: one board for each corpus]", metavar="NAME")
    flags.flag(
        "--topics",
        "show only these topics, such as nq-dev, and their macro average [default: all]",
        nargs="+",
        metavar="TOPICS",
        default=(),
    )
    flags.flag(
        "--without",
        "hide these systems (* matches any text); Holm's correction of the tests still counts them",
        nargs="+",
        default=[],
        metavar="NAME",
    )
    brief = "in tables, leave out query subsets, significance tests and scores quoted from papers"
    flags.flag("--brief", brief, action="store_true")
    flags.flag(
        "--format",
        "output format. Tables show only the first measure, or the measures of --measures. svg: bars of the "
        "macro averages on the first board. svg-topics: scores of up to four systems on each topic. svg-lines: "
        "averages of systems whose names differ by a number, such as 'naive, width 4', minus the baseline's average "
        "[default: table]",
        choices=(*TABLES, "html", *PICTURES),
    )
    flags.flag(
        "--check", "search and score recorded systems again; exit code 2 if any score has changed", action="store_true"
    )
    which = flags.add_mutually_exclusive_group()
    rows = "with --check: check only these systems, conditions or records [default: all that have a model in --work]"
    which.add_argument("--rows", metavar="A,B", help=rows)
    which.add_argument("--random", type=positive, metavar="N", help="with --check: only N records, sampled with --seed")
    flags.flag(
        "--collection",
        "the collection that the study searched: --check searches it, and the HTML page shows its passages",
        default=None,
    )
    flags.flag(
        "--work",
        "folder with the study's checkpoints and runs, for --check and the HTML page [default: studies/<name> in "
        "the data home]",
        type=Path,
        metavar="FOLDER",
    )
    limit_flags(flags)
    return flags


def limit_flags(flags: Parser) -> None:
    """Make the parser refuse each flag where it has no effect."""

    def shows_boards(options: Namespace) -> bool:
        return not options.check and options.convergence is None and options.headroom is None

    def searches(options: Namespace) -> bool:
        return options.check or (options.format == "html" and shows_boards(options))

    def samples(options: Namespace) -> bool:
        return options.random is not None if options.check else bool(options.baseline)

    def shows_scores(options: Namespace) -> bool:
        return shows_boards(options) or (options.headroom is not None and options.convergence is None)

    shown = ("--convergence", "--headroom", "--topics", "--format", "--output", "--overwrite")
    flags.only(
        ("--baseline", "--brief", "--without"), shows_boards, "boards, without --check, --convergence or --headroom"
    )
    flags.only(("--measures",), shows_scores, "boards or --headroom, without --check or --convergence")
    flags.only(("--against",), lambda options: options.headroom is not None, "--headroom")
    flags.only(("--headroom",), lambda options: options.convergence is None, "a command without --convergence")
    flags.only(("--brief",), lambda options: options.format in TABLES, f"--format {', '.join(TABLES)}")
    flags.only(shown, lambda options: not options.check, "results that are shown, without --check")
    flags.only(("--overwrite",), lambda options: options.output is not None, "--output")
    flags.only(("--rows", "--random"), lambda options: options.check, "--check")
    flags.only(("--collection", "--work", "--models"), searches, "--check, or boards as --format html")
    flags.only(("--work", "--models"), lambda options: options.collection is not None, "--collection")
    flags.only(("--seed",), samples, "--baseline, or --check --random")


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    results = select_corpus(read_records(options.folder / "results"), options.corpus)
    results = select_topics(results, options.topics)
    if options.check:
        check(results, options)
        return
    show = show_headroom if options.headroom is not None else show_boards
    show = show_convergence if options.convergence is not None else show
    if options.output is None:
        print(show(results, options), end="")
        return
    output = Path(options.output)
    with claim_output(output, None, options.overwrite), writing(output) as file:
        file.write(show(results, options))
    log.info("%s: %s", options.format, output)


def check(results: Sequence[Record], options: Namespace) -> None:
    if options.collection is None:
        raise InputError("--check needs --collection: give the collection that the study searched")
    runner = find_runner(options)
    named = select_records(results, options.rows.split(",") if options.rows else [])
    trained = select_trained(named, runner, bool(options.rows))
    check_records(trained if options.random is None else sample_records(trained, options.random, options.seed), runner)


def find_runner(options: Namespace) -> Runner:
    study = read_study(options.folder / "conditions.toml")
    return Runner(study, options.collection, parse_models(options.models), options.work, os.cpu_count() or 1)


def require_tables(options: Namespace, flag: str) -> None:
    if options.format not in TABLES:
        raise InputError(
            f"{flag} prints a table, which --format {options.format} cannot show; allowed: {', '.join(TABLES)}"
        )


def show_convergence(results: Sequence[Record], options: Namespace) -> str:
    require_tables(options, "--convergence")
    return render(convergence_table(results, options.convergence), options.format)


def show_headroom(results: Sequence[Record], options: Namespace) -> str:
    require_tables(options, "--headroom")
    check_patterns(results, options.against)
    found = [
        headroom_tables(results, options.headroom, each, options.against) for each in chosen_measures(results, options)
    ]
    return render_all([table for tables in found for table in tables], options.format)


def chosen_measures(results: Sequence[Record], options: Namespace) -> list[str]:
    """Returns the names of the measures that the user asked for, or of the first measure in the results."""
    first = next(measure for result in results for scores in result.topics.values() for measure in scores.means)
    return list(dict.fromkeys(str(Measure.parse(name)) for name in options.measures or ())) or [first]


def show_boards(results: Sequence[Record], options: Namespace) -> str:
    every = not options.measures and options.format in ("json", "html")  # these two show all measures
    measures = [] if every else chosen_measures(results, options)
    runner = find_runner(options) if options.format == "html" and options.collection is not None else None
    found = make_leaderboard(results, options.baseline, options.seed, measures, options.without)
    if options.format == "json":
        return board_json(found, quoted_beside(found))
    if options.format in TABLES:
        return render_boards(found, options.format, options.brief)
    from taco_ir.studies import pictures
    from taco_ir.studies.board_page import collect_examples, render_page

    if options.format in PICTURES:
        return pictures.PLOTS[options.format](found[0], measures[0])
    texts = collect_examples(runner, results, found[0].corpus) if runner else None
    if runner and texts is None:
        raise InputError(
            f"--collection {options.collection}: the page shows passages from runs on {found[0].corpus}, but "
            f"{runner.work} has no such runs; make them with taco_ir.reproduce, or give another --work"
        )
    return render_page(found, results, quoted_beside(found), texts)


if __name__ == "__main__":
    run_verb(main)
