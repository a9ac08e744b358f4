"""`python -m taco_ir.mine`: mine hard negatives for training queries and audit what was mined."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.console import MODEL_FLAGS, Parser, log, positive, run_verb, timed
from taco_ir.data.collections import Collection, open_collection
from taco_ir.data.tasks import SPLITS
from taco_ir.files import InputError, collector_paused
from taco_ir.retrieval.mining import MiningSettings

if TYPE_CHECKING:
    from taco_ir.systems import System

BM25_SOURCE = "bm25"
OF_MODELS = (*(flag for flag in MODEL_FLAGS if flag != "--model"), "--index")
DEFAULTS = MiningSettings()


def parser() -> Parser:
    flags = Parser(
        "mine",
        "Mine hard negatives: rank passages for training queries, drop gold passages and all passages of gold pages, keep the best of the\n"
        "rest. The rankings are kept beside the output F.jsonl, in F.runs/: with other filters, mining again only filters. An audit\n"
        "(F.audit.md and F.audit.html) says what was mined: likely false negatives, score margins, examples to read.",
        ("--collection", "--tasks", *OF_MODELS, "--seed", "--overwrite"),
        "python -m taco_ir.mine --source bm25 --tasks nq fever --output negatives.jsonl\n"
        "  python -m taco_ir.mine --source negatives.runs --tasks nq fever --drop-answers --output without-answers.jsonl",
    )
    flags.flag("--output", required=True, metavar="F.jsonl", help="the negatives file to write")
    flags.add_argument(
        "--source",
        required=True,
        metavar="S",
        help="what ranks: bm25, a model (as --model of search; minilm-l6 is the one that comes with the package), a TREC run file, or a "
        "folder of <topics>.trec runs",
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
        "--keep", type=positive, default=DEFAULTS.keep, metavar="N", help=f"negatives of a query, at most [default: {DEFAULTS.keep}]"
    )
    flags.add_argument(
        "--drop-answers",
        action="store_true",
        help="drop passages whose text holds an answer, as whole words without regard to case and accents; verdicts (yes, SUPPORTS), answers "
        "under three letters, and those of fact checking, dialogue, ELI5 and entity linking do not count",
    )
    flags.add_argument("--margin", type=float, metavar="X", help="drop hits that score within X of the best gold hit, or above it")
    return flags


def natural(text: str) -> int:
    """argparse type for numbers from 0. Raises: argparse.ArgumentTypeError below."""
    if not (text.isascii() and text.isdigit()):
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


@collector_paused()
def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    settings = MiningSettings(options.depth, options.skip, options.keep, options.drop_answers, options.margin, options.seed)
    collection = open_collection(options.collection)
    topics = [collection.topics(name) for name in collection.expand(topics_names(options.tasks, options.split))]
    source = source_of(options, collection)
    output = Path(options.output)
    from taco_ir.auditing import audit_file
    from taco_ir.evaluation.audit import summary
    from taco_ir.evaluation.table import render
    from taco_ir.mining import audit_paths, mine_file

    with timed() as seconds:
        retrieved = mine_file(collection, source, topics, settings, output, options.overwrite)
        audits = audit_file(collection, topics, retrieved, output)
    print(render(summary(audits), "table"), end="")
    log.info("audit: %s and %s (%.1f s in all)", *audit_paths(output), seconds())
    log.info("negatives: %s; train with them: python -m taco_ir.train --negatives %s", output, output)


def topics_names(tasks: Sequence[str], split: str) -> list[str]:
    """Names of topics for --tasks, whose words may hold several names between commas. Raises: InputError for none."""
    names = [name for word in tasks for name in word.split(",") if name]
    if not names:
        raise InputError("--tasks names no task; give names such as nq fever, or all")
    return [f"{name}-{split}" for name in names]


def source_of(options: Namespace, collection: Collection) -> System | Path:
    """What --source names. Raises: InputError for a name of nothing, or a model's flags without a model."""
    from taco_ir.systems import DEFAULT_NAME, BM25System, DenseSystem

    path = Path(options.source)
    is_runs = path.is_file() or (path.is_dir() and not (path / "config.json").is_file() and any(path.glob("*.trec")))
    if options.source != BM25_SOURCE and not is_runs:
        options.model = None if options.source == DEFAULT_NAME else options.source
        dense = DenseSystem(collection, options)
        try:
            _ = dense.encoder
        except InputError as error:
            raise InputError(f"--source {options.source!r} is not bm25, a run or a folder of runs, and as a model: {error}") from error
        return dense
    defaults = parser()
    for flag in OF_MODELS:
        name = flag.removeprefix("--").replace("-", "_")
        if getattr(options, name) != defaults.get_default(name):
            raise InputError(f"{flag} goes with a model as --source, this is {options.source!r}")
    return path if is_runs else BM25System(collection)


if __name__ == "__main__":
    run_verb(main)
