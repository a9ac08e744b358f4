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
        "Pack a system's runs for KILT's leaderboard: a zip with one file for each test set, named as the test set "
        "is, of the ranked pages of every query. TREC runs are turned into pages; KILT runs stay as they are, with "
        "their answers. A missing answer is written as an empty one, which KILT's scorer ignores. Ids are checked "
        "against the topics.\n\n"
        "The leaderboard is challenge 689 on eval.ai. Its page says how files must be named and packed: if it wants "
        "one file for each task, take them out of the zip.",
        ("--overwrite",),
        "python -m taco_ir.submission --runs runs/test --output submission.zip\n"
        "  (runs by: python -m taco_ir.search --collection kilt --topics all-test --output runs/test/)",
    )
    runs = "run files of one system, <topics>.<system>.trec, or a folder"
    flags.flag("--runs", runs, nargs="+", required=True, metavar="RUN", type=Path)
    flags.flag("--topics", "topics of the runs [default: all-test]", default=["all-test"])
    flags.flag("--collection", "the collection searched: sample, kilt or a folder [default: kilt]", default="kilt")
    flags.flag("--output", "the zip to write", required=True, metavar="FILE")
    return flags


@collector_paused()  # runs are millions of strings
def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    output = Path(options.output)
    if output.suffix != ".zip":
        raise InputError(f"--output {output}: a name that ends in .zip is needed")
    with claim_output(output, None, options.overwrite):
        collection = open_collection(options.collection)
        topics = [collection.load_topics(name) for name in collection.expand(options.topics)]
        files = build_files(collection, topics, options.runs)
        write_submission(files, output)
    print(f"{output}: {len(files)} files, {sum(len(topic.queries) for topic in topics):,} queries: {' '.join(files)}")


if __name__ == "__main__":
    run_verb(main)
