"""`python -m taco_ir.submission`: run files -> the files that KILT's leaderboard takes, checked and zipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import Parser, run_verb
from taco_ir.core.files import InputError, claim_output, collector_paused
from taco_ir.core.progress import log
from taco_ir.core.run_formats import page_run
from taco_ir.data.collection import Collection, Topics, open_collection
from taco_ir.evaluation.run_files import RunFile, by_system, read_files, refuse_foreign_docids
from taco_ir.evaluation.submission import kilt_outputs, outputs_of, submission, write_submission

FEW_PAGES = 5  # KILT's leaderboard shows recall@5


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
        "--runs", nargs="+", required=True, metavar="RUN", type=Path, help="run files of one system, <topics>.<system>.trec, or a folder"
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
        write(open_collection(options.collection), options.topics, options.runs, output)


def write(collection: Collection, names: Sequence[str], runs: Sequence[Path], output: Path) -> None:
    """Make a file of each run, and the zip of them."""
    topics = [collection.load_topics(name) for name in collection.expand(names)]
    files = files_by_topics(runs, topics)
    made = {}
    for topic in topics:
        name = collection.topics_path(topic.name).name
        made[name] = one_file(collection, topic, files[topic.name])
    write_submission(made, output)
    print(f"{output}: {len(made)} files, {sum(len(topic.queries) for topic in topics):,} queries: {' '.join(made)}")


def files_by_topics(paths: Sequence[Path], topics: Sequence[Topics]) -> dict[str, RunFile]:
    """The run file of each topics. Raises: InputError where there is none, or runs of several systems."""
    files = list(read_files(paths, topics).values())
    if len(systems := by_system(files, topics)) > 1:
        raise InputError(f"--runs {' '.join(map(str, paths))}: runs of {len(systems)} systems ({', '.join(systems)}); give those of one")
    return {name: file for file in files for name in file.runs}


def one_file(collection: Collection, topics: Topics, file: RunFile) -> bytes:
    """A submission file of one run, warning of queries with few pages. Raises: InputError for a run of anything else."""
    run = file.runs[topics.name]
    if run.level == "page":
        outputs = kilt_outputs(file.path)
    else:
        refuse_foreign_docids(run, collection, file.path)
        run = page_run(run, collection.passages.page_of)
        outputs = outputs_of(run)
    content = submission(topics.queries, run, outputs, f"{file.path}, {topics.name}")
    few = [qid for qid, ranking in run.rankings.items() if len(ranking.docids) < FEW_PAGES]
    if few:
        bare = sum(not run.rankings[qid].docids for qid in few)
        log.warning(
            "%s: %d of %d queries, first %r, have fewer than %d pages, %d of them none; more --hits give more pages",
            file.path,
            len(few),
            len(topics.queries),
            few[0],
            FEW_PAGES,
            bare,
        )
    return content


if __name__ == "__main__":
    run_verb(main)
