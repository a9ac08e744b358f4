"""`python -m taco_ir.data`: what data there is, getting it, building KILT's passages, and making smaller collections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from taco_ir.cli import Parser, positive, run_verb
from taco_ir.core.files import InputError, human_bytes
from taco_ir.core.progress import Progress
from taco_ir.core.tasks import KINDS, resolve_task
from taco_ir.data.collection import PASSAGE_FILES, open_collection
from taco_ir.data.held_out import hold_out
from taco_ir.data.kilt_files import (
    KILT_FILES,
    SOURCE_FILE,
    SOURCE_PAGES,
    SOURCE_SIZE,
    expand,
    get,
    get_knowledge_source,
    kilt_folder,
    knowledge_source,
)
from taco_ir.data.subsets import make_part
from taco_ir.data.wikipedia import build_passages, refuse_passages, take_passages

DESCRIPTION = """Data for the toolkit. Nothing is downloaded unless `get` asks for it.

commands:
  list      what there is, how large it is and where it lies; --collection C: the topics of a collection
  get       put files of the KILT benchmark in place, from the network or a local copy
  passages  cut KILT's Wikipedia into passages, or take passages that exist
  part      make a smaller collection: all gold passages of some topics, and distractors drawn from the rest
  hold-out  make a collection to validate on: dev topics of train queries whose pages are of no other train query"""
EXAMPLE = "python -m taco_ir.data get kilt/nq/dev kilt/fever/dev"


def list_data(argv: Sequence[str]) -> None:
    example = "python -m taco_ir.data list --collection sample"
    parser = Parser("data list", "What data there is and where; with --collection, its topics.", example=example)
    parser.flag(
        "--collection",
        default=None,
        help="sample, kilt or a folder: list its topics [default: list everything that is known]",
    )
    options = parser.parse_args(argv)
    print_table(_all_rows() if options.collection is None else _collection_rows(options.collection))


def get_data(argv: Sequence[str]) -> None:
    parser = Parser(
        "data get", "Put files of the KILT benchmark in place; what is there already stays.", example=EXAMPLE
    )
    parser.add_argument(
        "ids", nargs="+", metavar="ID", help="kilt/nq/dev, kilt/all-dev for every task, or kilt/knowledgesource (37 GB)"
    )
    parser.add_argument(
        "--file",
        nargs="+",
        default=[],
        type=Path,
        metavar="PATH",
        help="use this local copy (plain or gzip) of the one ID; for TriviaQA also its release",
    )
    options = parser.parse_args(argv)
    sources = [name for name in options.ids if name.removeprefix("kilt/") == "knowledgesource"]
    wanted = list(dict.fromkeys(topics for name in options.ids if name not in sources for topics in expand(name)))
    if options.file and len(wanted) + len(sources) != 1:
        raise InputError(f"--file goes with one id; {' '.join(options.ids)} are {len(wanted) + len(sources)}")
    for topics in wanted:
        print(get(topics, options.file, report=Reporter(KILT_FILES[topics].name)))
    if sources:
        if len(options.file) > 1:
            raise InputError(f"--file names {len(options.file)} files for {sources[0]}; one is needed")
        print(get_knowledge_source(options.file[0] if options.file else None, report=Reporter(SOURCE_FILE)))


def make_passages(argv: Sequence[str]) -> None:
    about = "Cut KILT's Wikipedia into passages for the collection `kilt`, or take passages that exist."
    source_help = "the KILT knowledge source, plain or gzip [default: where `get kilt/knowledgesource` puts it]"
    parser = Parser("data passages", about, example="python -m taco_ir.data passages --words 100")
    parser.add_argument("--source", type=Path, metavar="PATH", help=source_help)
    parser.add_argument("--words", type=positive, metavar="N", help="words in a passage [default: 100]")
    parser.add_argument(
        "--file", type=Path, metavar="PATH", help="take these passages (psgs_w100.tsv, or JSON lines) as they are"
    )
    parser.only(("--source", "--words"), lambda options: options.file is None, "cutting passages, not with --file")
    options = parser.parse_args(argv)
    if options.file:
        store = take_passages(options.file, kilt_folder())
        print(f"{store.path}: {store.count:,} passages")
        return
    refuse_passages(kilt_folder())
    target = kilt_folder() / "passages.jsonl"
    source = options.source or knowledge_source()
    done = build_passages(source, target, options.words or 100, Reporter(source.name))
    print(f"{target}: {done.passages:,} passages of {done.pages:,} pages")


def make_smaller(argv: Sequence[str]) -> None:
    parser = Parser(
        "data part",
        "Make a smaller collection: all gold passages of the topics, and distractors drawn by the seed from the rest.\n"
        "Its folder holds the topics as well, so that --collection FOLDER searches them. Scores in it are far above those in the\n"
        "whole collection; they compare systems in one part, and nothing else.",
        ("--collection", "--topics", "--seed"),
        "python -m taco_ir.data part --collection kilt --topics all-dev --distractors 100000 --output kilt-100k",
    )
    parser.add_argument(
        "--distractors", type=positive, required=True, metavar="N", help="passages drawn that are not gold"
    )
    parser.flag(
        "--output",
        required=True,
        metavar="FOLDER",
        help="folder of the part; one that holds this part already is left as it is",
    )
    options = parser.parse_args(argv)
    if not options.topics:
        raise InputError(f"--topics is needed: a part is made around their gold passages (see {parser.prog} --help)")
    collection = open_collection(options.collection)
    output = Path(options.output)
    report = Reporter(output.name, "passages", 1)
    part = make_part(collection, collection.expand(options.topics), options.distractors, options.seed, output, report)
    print(f"{output}: {part.passages:,} passages, {part.gold:,} gold and {part.distractors:,} distractors")


def held_out_parser() -> Parser:
    parser = Parser(
        "data hold-out",
        "Make a collection to choose settings on: the same passages, dev topics drawn from train queries, and train topics without them\n"
        "and without all queries that share a page with them. Queries held out at random share pages with those trained on, and\n"
        "flatter a model that learnt these by heart.",
        ("--collection", "--seed"),
        "python -m taco_ir.data hold-out --collection mini-kilt --tasks nq squad --share 0.1 --output chosen-on",
    )
    parser.add_argument("--tasks", nargs="+", required=True, metavar="T", help="tasks with train topics")
    parser.add_argument(
        "--share", type=float, default=0.1, metavar="X", help="of a task's queries held out, about [default: 0.1]"
    )
    parser.flag("--output", required=True, metavar="FOLDER", help="folder of the collection")
    return parser


def make_held_out(argv: Sequence[str]) -> None:
    options = held_out_parser().parse_args(argv)
    if not 0 < options.share < 1:
        raise InputError(f"--share {options.share}: a number between 0 and 1 is needed")
    collection = open_collection(options.collection)
    known = [topics.task for topics in collection.topics_names if topics.split == "train"]
    tasks = list(dict.fromkeys(resolve_task(task, known) for task in options.tasks))
    for task, split in hold_out(collection, tasks, options.share, options.seed, Path(options.output)).items():
        print(
            f"{task}: {len(split.train):,} to train on, {len(split.dev):,} held out, {split.dropped:,} in neither (a page of both)"
        )


class Reporter:
    """Units done -> the shared progress line in thousands of bytes, or as `size` and `unit` say; it begins with the first report."""

    def __init__(self, what: str, unit: str = "KB", size: int = 1000) -> None:
        self._what, self._unit, self._size = what, unit, size
        self._progress: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._progress is None:
            self._progress = Progress(self._what, -(-total // self._size), self._unit)
            self._progress.skip(done // self._size)
        self._progress.at(-(-done // self._size))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns; the first one is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _all_rows() -> list[list[str]]:
    sample = open_collection("sample")
    path = sample.passage_path
    rows = [
        ["id", "kind", "records", "size", "where"],
        _file_row("sample", "passages", sample.passages.count, path.stat().st_size, path),
    ]
    for topics in sample.topics_names:
        count = len(sample.load_topics(str(topics)).queries)
        rows.append([f"sample/{topics.task}/{topics.split}", KINDS[topics.task], f"{count:,}", "-", "embedded"])
    for topics, file in KILT_FILES.items():
        size = file.path.stat().st_size if file.path.is_file() else file.size
        rows.append(_file_row(f"kilt/{topics.task}/{topics.split}", KINDS[topics.task], file.records, size, file.path))
    rows.append(_file_row("kilt/knowledgesource", "pages", SOURCE_PAGES, SOURCE_SIZE, knowledge_source()))
    present = next((kilt_folder() / name for name in PASSAGE_FILES if (kilt_folder() / name).is_file()), None)
    rows.append(
        ["kilt", "passages", "-", human_bytes(present.stat().st_size) if present else "-", str(present or "not built")]
    )
    return rows


def _file_row(name: str, kind: str, records: int | None, size: int | None, path: Path) -> list[str]:
    where = str(path) if path.is_file() else "not fetched"
    return [name, kind, f"{records:,}" if records else "-", human_bytes(size) if size else "-", where]


def _collection_rows(name: str) -> list[list[str]]:
    collection = open_collection(name)
    rows = [["topics", "queries", "judged"]]
    for topics in collection.topics_names:
        queries = collection.load_topics(str(topics)).queries
        rows.append([str(topics), f"{len(queries):,}", f"{sum(bool(query.evidence) for query in queries):,}"])
    return rows


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "list": list_data,
    "get": get_data,
    "passages": make_passages,
    "part": make_smaller,
    "hold-out": make_held_out,
}


def main(argv: Sequence[str]) -> None:
    parser = Parser("data", DESCRIPTION, example=EXAMPLE)
    parser.add_argument(
        "command",
        choices=sorted(COMMANDS),
        metavar="COMMAND",
        help="list, get, passages, part or hold-out; each has its own --help",
    )
    COMMANDS[parser.parse_args(argv[:1]).command](argv[1:])


if __name__ == "__main__":
    run_verb(main)
