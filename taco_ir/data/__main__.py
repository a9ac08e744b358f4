"""`python -m taco_ir.data`: list data, get KILT's files, make passages, and make smaller collections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from taco_ir.cli import Parser, positive, run_verb
from taco_ir.core.files import InputError
from taco_ir.core.processes import Progress
from taco_ir.core.tasks import resolve_task
from taco_ir.data.collection import open_collection
from taco_ir.data.downloads import Report
from taco_ir.data.held_out import hold_out
from taco_ir.data.ir_datasets import describe, list_everything, list_topics
from taco_ir.data.kilt_files import (
    KILT_FILES,
    SOURCE_FILE,
    expand_names,
    get_knowledge_source,
    get_topics,
    kilt_folder,
    knowledge_source,
)
from taco_ir.data.subsets import make_subset
from taco_ir.data.wikipedia import build_passages, refuse_passages, take_passages

DESCRIPTION = """Get and prepare data to search and train on. Only the command `get` downloads anything.

commands:
  list      list all data, with sizes and paths, or the topics of one collection
  get       download files of the KILT benchmark, or take them from a local copy
  passages  cut KILT's Wikipedia into passages, or use existing ones
  subset    make a smaller collection: all gold passages of some topics, and a sample of other passages
  hold-out  make a collection to choose settings on: some train queries become dev topics"""
EXAMPLE = "python -m taco_ir.data get kilt/nq/dev kilt/fever/dev"


def list_parser() -> Parser:
    parser = Parser(
        "data list",
        "List all data, with sizes and paths. With --collection, list the topics of one collection.",
        example="python -m taco_ir.data list --collection sample",
    )
    parser.flag(
        "--collection",
        "show the format of this collection and list its topics [default: list all data]",
        default=None,
    )
    return parser


def list_data(argv: Sequence[str]) -> None:
    options = list_parser().parse_args(argv)
    if options.collection is None:
        rows = list_everything()
    else:
        collection = open_collection(options.collection)
        print(describe(collection))
        rows = list_topics(collection)
        if collection.why_no_topics:
            print(collection.why_no_topics)
            return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def get_parser() -> Parser:
    parser = Parser("data get", "Download files of the KILT benchmark. Existing files are kept.", example=EXAMPLE)
    ids = "what to get, such as kilt/nq/dev, kilt/all-dev (every task) or kilt/knowledgesource (Wikipedia, 37 GB)"
    parser.flag("ids", ids, nargs="+", metavar="ID")
    parser.flag(
        "--file",
        "use this local copy (plain or gzip) instead of downloading; allowed with a single ID. For TriviaQA, also give "
        "the archive of its original release",
        nargs="+",
        default=[],
        type=Path,
        metavar="FILE",
    )
    return parser


def get_data(argv: Sequence[str]) -> None:
    options = get_parser().parse_args(argv)
    sources = [name for name in options.ids if name.removeprefix("kilt/") == "knowledgesource"]
    wanted = list(dict.fromkeys(topics for name in options.ids if name not in sources for topics in expand_names(name)))
    if options.file and len(wanted) + len(sources) != 1:
        raise InputError(
            f"--file needs a single ID, but {' '.join(options.ids)} means {len(wanted) + len(sources)} files; name one"
        )
    for topics in wanted:
        print(get_topics(topics, options.file, report=report_progress(KILT_FILES[topics].name)))
    if sources:
        if len(options.file) > 1:
            raise InputError(f"--file names {len(options.file)} files for {sources[0]}; give one file")
        print(get_knowledge_source(options.file[0] if options.file else None, report=report_progress(SOURCE_FILE)))


def passages_parser() -> Parser:
    parser = Parser(
        "data passages",
        "Cut KILT's Wikipedia into the passages of the collection `kilt`, or use an existing file of passages.",
        example="python -m taco_ir.data passages --words 100",
    )
    help = "file with KILT's Wikipedia, plain or gzip [default: the file that `get kilt/knowledgesource` downloads]"
    parser.flag("--source", help, type=Path, metavar="FILE")
    parser.flag("--words", "number of words in a passage [default: 100]", type=positive, metavar="N")
    parser.flag("--file", "use the passages in FILE (DPR's psgs_w100.tsv, or JSON lines)", type=Path, metavar="FILE")
    parser.only(("--source", "--words"), lambda options: options.file is None, "cutting passages, not with --file")
    return parser


def make_passages(argv: Sequence[str]) -> None:
    options = passages_parser().parse_args(argv)
    if options.file:
        store = take_passages(options.file, kilt_folder())
        print(f"{store.path}: {store.count:,} passages")
        return
    refuse_passages(kilt_folder(), building=True)
    target = kilt_folder() / "passages.jsonl"
    source = options.source or knowledge_source()
    done = build_passages(source, target, options.words or 100, report_progress(source.name))
    print(f"{target}: {done.passages:,} passages of {done.pages:,} pages")


def subset_parser() -> Parser:
    parser = Parser(
        "data subset",
        "Make a smaller collection: all gold passages of the topics, and distractors (a sample of other passages). "
        "The folder also contains the topics, so it can be given as --collection. In a subset, scores are much higher "
        "than in the whole collection, so use them only to compare systems on the same subset.",
        ("--collection", "--topics", "--seed"),
        "python -m taco_ir.data subset --collection kilt --topics all-dev --distractors 100000 --output kilt-100k",
    )
    most = "use at most this many queries of each query set, sampled with the seed [default: all]"
    parser.flag("--max-queries", most, type=positive, metavar="N")
    parser.flag(
        "--distractors", "number of passages to sample that are not gold", type=positive, required=True, metavar="N"
    )
    parser.flag(
        "--output",
        "folder to write the subset to; a folder that already contains the same subset is kept",
        required=True,
        metavar="FOLDER",
    )
    return parser


def make_smaller(argv: Sequence[str]) -> None:
    parser = subset_parser()
    options = parser.parse_args(argv)
    if not options.topics:
        raise InputError(f"--topics is needed: a subset contains their gold passages (see {parser.prog} --help)")
    collection, output = open_collection(options.collection), Path(options.output)
    topics, report = collection.expand(options.topics), report_progress(output.name, "passages", 1)
    most = options.max_queries or 0
    subset = make_subset(collection, topics, options.distractors, options.seed, output, report, most)
    print(f"{output}: {subset.passages:,} passages, {subset.gold:,} gold and {subset.distractors:,} distractors")


def held_out_parser() -> Parser:
    parser = Parser(
        "data hold-out",
        "Make a collection to choose settings on, with the same passages. Some train queries, a sample, become dev "
        "topics. Other train queries are left out if they share a gold page with a dev topic, because a model that "
        "remembers pages from training would get scores that are too high.",
        ("--collection", "--seed"),
        "python -m taco_ir.data hold-out --collection mini-kilt --tasks nq squad --share 0.1 --output validation",
    )
    parser.flag("--tasks", "tasks to split; each needs train topics", nargs="+", required=True, metavar="TASK")
    parser.flag(
        "--share", "fraction of each task's queries to hold out, approximately [default: 0.1]", type=float, default=0.1
    )
    parser.flag("--output", "folder to write the collection to", required=True, metavar="FOLDER")
    return parser


def make_held_out(argv: Sequence[str]) -> None:
    options = held_out_parser().parse_args(argv)
    if not 0 < options.share < 1:
        raise InputError(f"--share is {options.share}; it must be a number between 0 and 1")
    collection = open_collection(options.collection)
    known = [topics.task for topics in collection.topics_names if topics.split == "train"]
    tasks = list(dict.fromkeys(resolve_task(task, known) for task in options.tasks))
    for task, split in hold_out(collection, tasks, options.share, options.seed, Path(options.output)).items():
        counts = f"{len(split.train):,} to train on, {len(split.dev):,} held out"
        print(f"{task}: {counts}, {split.dropped:,} left out (they share a page with held-out queries)")


def report_progress(what: str, unit: str = "KB", size: int = 1000) -> Report:
    """Make a callback for (done, total) that shows a progress line; both numbers are divided by `size`."""
    shown: list[Progress] = []

    def report(done: int, total: int) -> None:
        if not shown:
            shown.append(Progress(what, -(-total // size), unit))
            shown[0].skip(-(-done // size))
        shown[0].at(-(-done // size))

    return report


class Command(NamedTuple):
    """A subcommand of `data`: its parser, and the function that runs it with the arguments after its name."""

    parser: Callable[[], Parser]
    main: Callable[[Sequence[str]], None]


COMMANDS = {
    "list": Command(list_parser, list_data),
    "get": Command(get_parser, get_data),
    "passages": Command(passages_parser, make_passages),
    "subset": Command(subset_parser, make_smaller),
    "hold-out": Command(held_out_parser, make_held_out),
}


def parser() -> Parser:
    flags = Parser("data", DESCRIPTION, example=EXAMPLE)
    help = "list, get, passages, subset or hold-out; each has its own --help"
    flags.flag("command", help, choices=sorted(COMMANDS), metavar="COMMAND")
    return flags


def main(argv: Sequence[str]) -> None:
    COMMANDS[parser().parse_args(argv[:1]).command].main(argv[1:])


if __name__ == "__main__":
    run_verb(main)
