"""`python -m taco_ir.submission`: pack run files for KILT's leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import Parser, run_verb
from taco_ir.core.files import InputError
from taco_ir.core.outputs import claim_output
from taco_ir.core.processes import collector_paused
from taco_ir.data.collection import open_collection
from taco_ir.evaluation.submission import build_files, write_submission


def parser() -> Parser:
    flags = Parser(
        "submission",
        "Pack a system's runs for KILT's leaderboard into a zip with one file for each test set, named like the "
        "test set. The file holds the ranked pages of every query. Passages in TREC runs become their pages; KILT "
        "runs stay as they are, with their answers. A missing answer is written as an empty one, which KILT's "
        "scorer ignores. The query ids must be those of the topics.\n\nThe leaderboard is challenge 689 on "
        "eval.ai. Its page says how to name and pack the files: if it asks for one file for each task, take them "
        "out of the zip.",
        ("--overwrite",),
        "python -m taco_ir.submission --runs runs/test --output submission.zip\n"
        "  (runs by: python -m taco_ir.search --collection kilt --topics all-test --output runs/test/)",
    )
    runs = "run files of one system, named <topics>.<system>.trec, or a folder of them"
    flags.flag("--runs", runs, nargs="+", required=True, metavar="RUN", type=Path)
    flags.flag("--topics", "test sets that the runs are for [default: all-test]", default=["all-test"])
    flags.flag(
        "--collection", "the collection that was searched: sample, kilt or a folder [default: kilt]", default="kilt"
    )
    flags.flag("--output", "zip file to write", required=True, metavar="FILE")
    return flags


@collector_paused()  # runs are millions of strings
def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    output = Path(options.output)
    if output.suffix != ".zip":
        raise InputError(f"--output {output}: the name must end in .zip")
    with claim_output(output, None, options.overwrite):
        collection = open_collection(options.collection)
        topics = [collection.load_topics(name) for name in collection.expand(options.topics)]
        files = build_files(collection, topics, options.runs)
        write_submission(files, output)
    print(f"{output}: {len(files)} files, {sum(len(topic.queries) for topic in topics):,} queries: {' '.join(files)}")


if __name__ == "__main__":
    run_verb(main)
