"""`python -m taco_ir.mine`: mine hard negatives for training queries and audit what was mined."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import MODEL_FLAGS, Parser, model_choice, positive, run_verb
from taco_ir.core.files import InputError, collector_paused, require_writable
from taco_ir.core.progress import log, timed
from taco_ir.core.tasks import SPLITS
from taco_ir.data.collection import open_collection
from taco_ir.evaluation.tables import render_all
from taco_ir.negatives.audit import audit_file
from taco_ir.negatives.audit_page import source_tables, summary
from taco_ir.negatives.filters import MiningSettings, each_settings
from taco_ir.negatives.miner import Source, audit_path, check_minable, mine_file
from taco_ir.negatives.sources import models_among, open_sources

OF_MODELS = (*(flag for flag in MODEL_FLAGS if flag != "--model"), "--index")
DEFAULTS = MiningSettings()


def parser() -> Parser:
    flags = Parser(
        "mine",
        "Mine hard negatives: rank passages for training queries, drop gold passages and all passages of gold pages, keep the best of the\n"
        "rest. The rankings are kept beside the output F.jsonl, in F.runs/: with other filters, mining again only filters. An audit\n"
        "(F.audit.html, and in short what is printed) says what was mined: likely false negatives, score margins, examples to read. Several sources\n"
        "are merged: their best negatives in turn, each with the sources that it is from.",
        ("--collection", "--tasks", *OF_MODELS, "--seed", "--overwrite", "--format"),
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
        "--depth",
        type=positive,
        default=DEFAULTS.depth,
        metavar="N",
        help=f"hits ranked for each query [default: {DEFAULTS.depth}]",
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
        tuple(flag for flag in OF_MODELS if flag != "--device"),
        lambda options: bool(models_among(options.source)),
        "a model as --source",
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
    settings = each_settings(
        len(options.source),
        options.window or [(options.skip, options.depth)],
        options.margin or [None],
        keep=options.keep,
        drop_answers=options.drop_answers,
        seed=options.seed,
    )
    collection = open_collection(options.collection)
    topics = [collection.topics(name) for name in collection.expand(topics_names(options.tasks, options.split))]
    output = Path(options.output)
    check_minable(topics, output)
    require_writable(output)
    ranks = open_sources(options.source, collection, model_choice(options), options.index)
    with timed() as seconds:
        retrieved = mine_file(collection, list(map(Source, ranks, settings)), topics, output, options.overwrite)
        audit = audit_file(collection, topics, retrieved, output)
    print(render_all([summary(audit.tasks), *source_tables(audit.sources)], options.format), end="")
    log.info("audit: %s (%.1f s in all)", audit_path(output), seconds())
    log.info("negatives: %s; train with them: python -m taco_ir.train --negatives %s", output, output)


def topics_names(tasks: Sequence[str], split: str) -> list[str]:
    """Names of topics for --tasks, whose words may hold several names between commas. Raises: InputError for none."""
    names = [name for word in tasks for name in word.split(",") if name]
    if not names:
        raise InputError("--tasks names no task; give names such as nq fever, or all")
    return [f"{name}-{split}" for name in names]


if __name__ == "__main__":
    run_verb(main)
