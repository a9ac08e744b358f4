"""`python -m taco_ir.submission`: run files -> the files that KILT's leaderboard takes, checked and zipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import Parser, run_verb
from taco_ir.core.files import InputError, claim_output, collector_paused
from taco_ir.data.collection import open_collection
from taco_ir.evaluation.submission import submission_files, write_submission


def parser() -> Parser:
    flags = Parser(
        "submission",
        "Make the files for KILT's leaderboard of a system's runs: for each test set, its pages for every query, best first, in a file that\n"
        "is named as the test set is. TREC runs are turned into pages; KILT runs stay as they are, answers and all. Where there is no answer\n"
        "an empty one is written, which KILT's scorer passes over. Ids are checked against the topics.\n\n"
        "The leaderboard is challenge 689 on eval.ai; its page decides how files are named and packed. Where it wants one file for each\n"
        "task, take them out of the zip.",
        ("--overwrite",),
        "python -m taco_ir.submission --runs runs/test --output submission.zip\n"
        "  (runs by: python -m taco_ir.search --collection kilt --topics all-test --output runs/test/)",
    )
    flags.add_argument(
        "--runs",
        nargs="+",
        required=True,
        metavar="RUN",
        type=Path,
        help="run files of one system, <topics>.<system>.trec, or a folder",
    )
    flags.flag("--topics", default=["all-test"], help="topics that the runs are of [default: all-test]")
    flags.flag("--collection", default="kilt", help="sample, kilt or a folder: what was searched [default: kilt]")
    flags.flag("--output", required=True, metavar="FILE.zip", help="the zip to write")
    return flags


@collector_paused()  # runs are millions of texts
def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    output = Path(options.output)
    if output.suffix != ".zip":
        raise InputError(f"--output {output}: a name that ends in .zip is needed")
    with claim_output(output, None, options.overwrite):
        collection = open_collection(options.collection)
        topics = [collection.load_topics(name) for name in collection.expand(options.topics)]
        files = submission_files(collection, topics, options.runs)
        write_submission(files, output)
    print(f"{output}: {len(files)} files, {sum(len(topic.queries) for topic in topics):,} queries: {' '.join(files)}")


if __name__ == "__main__":
    run_verb(main)
