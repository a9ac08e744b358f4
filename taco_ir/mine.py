"""`python -m taco_ir.mine`: mine hard negatives for training queries and audit what was mined."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from taco_ir.cli import MODEL_FLAGS, Parser, positive, run_verb
from taco_ir.core.files import InputError, collector_paused
from taco_ir.core.progress import log, timed
from taco_ir.core.tasks import SPLITS
from taco_ir.data.collection import Collection, open_collection
from taco_ir.evaluation.run_files import PASSAGE_RUNS
from taco_ir.negatives.filters import MiningSettings

if TYPE_CHECKING:
    from taco_ir.retrieval.systems import System

BM25_SOURCE = "bm25"
OF_MODELS = (*(flag for flag in MODEL_FLAGS if flag != "--model"), "--index")
DEFAULTS = MiningSettings()
T = TypeVar("T")


def parser() -> Parser:
    flags = Parser(
        "mine",
        "Mine hard negatives: rank passages for training queries, drop gold passages and all passages of gold pages, keep the best of the\n"
        "rest. The rankings are kept beside the output F.jsonl, in F.runs/: with other filters, mining again only filters. An audit\n"
        "(F.audit.md and F.audit.html) says what was mined: likely false negatives, score margins, examples to read. Several sources\n"
        "are merged: their best negatives in turn, each with the sources that it is from.",
        ("--collection", "--tasks", *OF_MODELS, "--seed", "--overwrite"),
        "python -m taco_ir.mine --source bm25 --tasks nq fever --output negatives.jsonl\n"
        "  python -m taco_ir.mine --source negatives.runs --tasks nq fever --drop-answers --output without-answers.jsonl\n"
        "  python -m taco_ir.mine --source bm25 my-run/model --window 0:50 10:60 --tasks nq fever --output merged.jsonl",
    )
    flags.flag("--output", required=True, metavar="F.jsonl", help="the negatives file to write")
    flags.add_argument(
        "--source",
        required=True,
        nargs="+",
        metavar="S",
        help="what ranks, one or several: bm25, a model (as --model of search; taco-mini and minilm-l6 are known by name), a TREC or "
        "MS MARCO run file, or a folder of <topics>.trec (or .tsv) runs. --pooling and its like are for all models among them",
    )
    flags.add_argument("--split", choices=SPLITS, default="train", help="[default: train]")
    flags.add_argument(
        "--depth", type=positive, default=DEFAULTS.depth, metavar="N", help=f"hits ranked for each query [default: {DEFAULTS.depth}]"
    )
    flags.add_argument(
        "--skip",
        type=natural,
        default=DEFAULTS.skip,
        metavar="N",
        help="pass over the N best hits, counted before anything is dropped [default: 0]",
    )
    flags.add_argument(
        "--window",
        nargs="+",
        type=window,
        metavar="A:B",
        help="hits A + 1 to B, as --skip A --depth B: one for all sources, or one for each",
    )
    flags.add_argument(
        "--keep",
        type=positive,
        default=DEFAULTS.keep,
        metavar="N",
        help=f"negatives of a query from each source, at most [default: {DEFAULTS.keep}]",
    )
    flags.add_argument(
        "--drop-answers",
        action="store_true",
        help="drop passages whose text holds an answer, as whole words without regard to case and accents; verdicts (yes, SUPPORTS), answers "
        "under three letters, and those of fact checking, dialogue, ELI5 and entity linking do not count",
    )
    flags.add_argument(
        "--margin",
        nargs="+",
        type=margin,
        metavar="X",
        help="drop hits that score within X of the best gold hit, or above it, in the ranking of their own source; where gold is not among "
        "the hits down to --depth, all are above it and dropped (the audit counts such queries as lost). One number for all sources, or one "
        "for each; none: drop nothing",
    )
    flags.only(
        tuple(flag for flag in OF_MODELS if flag != "--device"), lambda options: bool(models_among(options.source)), "a model as --source"
    )
    flags.only(("--skip", "--depth"), lambda options: not options.window, "no --window, which says the same")
    return flags


def window(text: str) -> tuple[int, int]:
    """argparse type for A:B, hits to skip and the last one looked at. Raises: argparse.ArgumentTypeError."""
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ArgumentTypeError(f"{text!r} is not a window; two whole numbers as in 0:50 are needed")
    skip, depth = map(int, parts)
    if depth <= skip:
        raise ArgumentTypeError(f"{text!r} holds no hit; the second number must be at least {skip + 1}")
    return skip, depth


def margin(text: str) -> float | None:
    """argparse type for a score margin, or none. Raises: argparse.ArgumentTypeError."""
    try:
        return None if text == "none" else float(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is neither a number nor none") from error


def natural(text: str) -> int:
    """argparse type for numbers from 0. Raises: argparse.ArgumentTypeError below."""
    if not (text.isascii() and text.isdigit()):
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


@collector_paused()
def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    settings = settings_of(options)
    collection = open_collection(options.collection)
    topics = [collection.topics(name) for name in collection.expand(topics_names(options.tasks, options.split))]
    ranks = sources_of(options, collection)
    output = Path(options.output)
    from taco_ir.evaluation.tables import render
    from taco_ir.negatives.audit import audit_file
    from taco_ir.negatives.audit_counts import summary
    from taco_ir.negatives.audit_sources import source_tables
    from taco_ir.negatives.miner import Source, audit_paths, mine_file

    with timed() as seconds:
        retrieved = mine_file(collection, list(map(Source, ranks, settings)), topics, output, options.overwrite)
        audit = audit_file(collection, topics, retrieved, output)
    print("\n".join(render(table, "table") for table in (summary(audit.tasks), *source_tables(audit.sources))), end="")
    log.info("audit: %s and %s (%.1f s in all)", *audit_paths(output), seconds())
    log.info("negatives: %s; train with them: python -m taco_ir.train --negatives %s", output, output)


def settings_of(options: Namespace) -> list[MiningSettings]:
    """What of each source's rankings becomes negatives. Raises: InputError for flags that do not fit the sources or each other."""
    count = len(options.source)
    windows = _for_each("--window", options.window or [(options.skip, options.depth)], count)
    margins = _for_each("--margin", options.margin or [None], count)
    try:
        return [
            MiningSettings(depth, skip, options.keep, options.drop_answers, limit, options.seed)
            for (skip, depth), limit in zip(windows, margins, strict=True)
        ]
    except InputError as error:  # its keys are flags here
        raise InputError(f"--{str(error).removeprefix('--')}") from error


def _for_each(flag: str, values: Sequence[T], count: int) -> list[T]:
    """The value of each of `count` sources, of one for all or one for each. Raises: InputError for another number of them."""
    if len(values) not in (1, count):
        allowed = "one" if count == 1 else f"one for all, or {count}"
        raise InputError(f"{flag}: {len(values)} values for {count} source{'s' * (count > 1)}; give {allowed}")
    return list(values) * (count if len(values) == 1 else 1)


def topics_names(tasks: Sequence[str], split: str) -> list[str]:
    """Names of topics for --tasks, whose words may hold several names between commas. Raises: InputError for none."""
    names = [name for word in tasks for name in word.split(",") if name]
    if not names:
        raise InputError("--tasks names no task; give names such as nq fever, or all")
    return [f"{name}-{split}" for name in names]


def sources_of(options: Namespace, collection: Collection) -> list[System | Path]:
    """What --source names, the same for the same word. Raises: InputError for a name of nothing, or an index for several models."""
    models = models_among(options.source)
    if options.index is not None and len(models) > 1:
        raise InputError(f"--index is of one model, --source names {len(models)}: {' '.join(models)}; search with each and give the runs")
    named = {word: source_of(word, options, collection) for word in dict.fromkeys(options.source)}
    return [named[word] for word in options.source]


def models_among(words: Sequence[str]) -> list[str]:
    """The words of --source that name models: neither bm25 nor runs."""
    return [word for word in dict.fromkeys(words) if word != BM25_SOURCE and not _is_runs(Path(word))]


def source_of(word: str, options: Namespace, collection: Collection) -> System | Path:
    """What a word of --source names. Raises: InputError for a name of nothing."""
    from taco_ir.retrieval.systems import BM25System, DenseSystem

    if word == BM25_SOURCE:
        return BM25System(collection)
    if _is_runs(Path(word)):
        return Path(word)
    dense = DenseSystem(collection, Namespace(**vars(options) | {"model": word}))
    try:
        _ = dense.encoder
    except InputError as error:
        raise InputError(f"--source {word!r} is not bm25, a run or a folder of runs, and as a model: {error}") from error
    return dense


def _is_runs(path: Path) -> bool:
    return path.is_file() or (
        path.is_dir() and not (path / "config.json").is_file() and any(file.suffix in PASSAGE_RUNS for file in path.iterdir())
    )


if __name__ == "__main__":
    run_verb(main)
