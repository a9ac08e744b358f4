"""`python -m taco_ir.data`: list data, get KILT's files, build passages, and make smaller collections."""

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

DESCRIPTION = """Data to search and train on. Nothing is downloaded, except by `get`.

commands:
  list      list all data with sizes and places, or the topics of one collection
  get       get files of the KILT benchmark, from the network or a local copy
  passages  cut KILT's Wikipedia into passages, or use existing ones
  subset    make a smaller collection: all gold passages of some topics, and distractors sampled from the rest
  hold-out  make a collection to choose settings on: dev topics from train queries that share no page with the others"""
EXAMPLE = "python -m taco_ir.data get kilt/nq/dev kilt/fever/dev"


def list_parser() -> Parser:
    parser = Parser(
        "data list",
        "List all data with sizes and places; with --collection, the topics of one collection.",
        example="python -m taco_ir.data list --collection sample",
    )
    parser.flag(
        "--collection",
        "show the format this collection was recognised as, and list its topics [default: list all data]",
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
    parser = Parser("data get", "Get files of the KILT benchmark; files that exist stay.", example=EXAMPLE)
    ids = "kilt/nq/dev, kilt/all-dev for every task, or kilt/knowledgesource (37 GB)"
    parser.flag("ids", ids, nargs="+", metavar="ID")
    parser.flag(
        "--file",
        "use this local copy (plain or gzip) instead of downloading; needs a single ID. For TriviaQA also give "
        "the file of its original release",
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
            f"--file needs a single ID, but {' '.join(options.ids)} means {len(wanted) + len(sources)} files"
        )
    for topics in wanted:
        print(get_topics(topics, options.file, report=report_progress(KILT_FILES[topics].name)))
    if sources:
        if len(options.file) > 1:
            raise InputError(f"--file names {len(options.file)} files for {sources[0]}; give one")
        print(get_knowledge_source(options.file[0] if options.file else None, report=report_progress(SOURCE_FILE)))


def passages_parser() -> Parser:
    parser = Parser(
        "data passages",
        "Cut KILT's Wikipedia into passages for the collection `kilt`, or use passages that exist.",
        example="python -m taco_ir.data passages --words 100",
    )
    help = "the KILT knowledge source, plain or gzip [default: where `get kilt/knowledgesource` puts it]"
    parser.flag("--source", help, type=Path, metavar="FILE")
    parser.flag("--words", "words per passage [default: 100]", type=positive, metavar="N")
    parser.flag("--file", "use these passages (psgs_w100.tsv, or JSON lines) as they are", type=Path, metavar="FILE")
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
        "Make a smaller collection: all gold passages of the topics, and distractors sampled from the rest. Its folder "
        "includes the topics, so --collection FOLDER searches them. Scores in a subset are far above those in the "
        "whole collection: use them only to compare systems on the same subset.",
        ("--collection", "--topics", "--seed"),
        "python -m taco_ir.data subset --collection kilt --topics all-dev --distractors 100000 --output kilt-100k",
    )
    most = "use at most this many queries of each query set, sampled with the seed [default: all]"
    parser.flag("--max-queries", most, type=positive, metavar="N")
    parser.flag(
        "--distractors", "how many passages to sample that are not gold", type=positive, required=True, metavar="N"
    )
    parser.flag(
        "--output",
        "folder to write the subset to; if it already holds the same subset, nothing changes",
        required=True,
        metavar="FOLDER",
    )
    return parser


def make_smaller(argv: Sequence[str]) -> None:
    parser = subset_parser()
    options = parser.parse_args(argv)
    if not options.topics:
        raise InputError(
            f"--topics is needed: a subset contains the gold passages of these topics (see {parser.prog} --help)"
        )
    collection, output = open_collection(options.collection), Path(options.output)
    topics, report = collection.expand(options.topics), report_progress(output.name, "passages", 1)
    most = options.max_queries or 0
    subset = make_subset(collection, topics, options.distractors, options.seed, output, report, most)
    print(f"{output}: {subset.passages:,} passages, {subset.gold:,} gold and {subset.distractors:,} distractors")


def held_out_parser() -> Parser:
    parser = Parser(
        "data hold-out",
        "Make a collection to choose settings on: the same passages, dev topics sampled from train queries, and train "
        "topics without these and without all queries that share a page with them. (Queries held out at random share "
        "pages with those trained on, and flatter a model that learned these pages by heart.)",
        ("--collection", "--seed"),
        "python -m taco_ir.data hold-out --collection mini-kilt --tasks nq squad --share 0.1 --output validation",
    )
    parser.flag("--tasks", "tasks with train topics", nargs="+", required=True, metavar="TASK")
    parser.flag(
        "--share", "hold out about this fraction of each task's queries [default: 0.1]", type=float, default=0.1
    )
    parser.flag("--output", "folder of the collection", required=True, metavar="FOLDER")
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
        print(f"{task}: {counts}, {split.dropped:,} in neither (a page of both)")


def report_progress(what: str, unit: str = "KB", size: int = 1000) -> Report:
    """Make a callback that shows a progress line in units of `size` bytes, from the first report on."""
    shown: list[Progress] = []

    def report(done: int, total: int) -> None:
        if not shown:
            shown.append(Progress(what, -(-total // size), unit))
            shown[0].skip(done // size)
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
