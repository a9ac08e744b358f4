"""`python -m taco_ir.mine`: mine hard negatives for training queries, and audit them."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence

from taco_ir.cli import MODEL_FLAGS, Parser, model_choice, natural, positive, run_verb
from taco_ir.core.files import InputError
from taco_ir.core.processes import log, timed
from taco_ir.core.tasks import SPLITS
from taco_ir.data.collection import open_collection
from taco_ir.evaluation.tables import render_all
from taco_ir.negatives.filters import MiningSettings, each_settings
from taco_ir.negatives.mining import mine
from taco_ir.negatives.sources import select_models
from taco_ir.scale.ranks import Ranks

OF_MODELS = (*(flag for flag in MODEL_FLAGS if flag != "--model"), "--index")
DEFAULTS = MiningSettings()


def parser() -> Parser:
    flags = Parser(
        "mine",
        "Mine hard negatives: rank passages for training queries, drop gold passages and all passages of gold "
        "pages, and keep the best of the rest. For the output F.jsonl, the rankings are kept in F.runs/, so that "
        "mining again with other filters is fast. An audit in F.audit.html, of which a summary is printed, "
        "estimates the share of false negatives and shows score margins and examples. With several sources, "
        "negatives are taken from each source in turn, best first; every negative names the sources that found it. "
        "torchrun -m taco_ir.mine shares the encoding and the search of models among several processes; the negatives "
        "are the same.",
        ("--collection", "--tasks", *OF_MODELS, "--seed", "--overwrite", "--format"),
        "python -m taco_ir.mine --source bm25 --tasks nq fever --output negatives.jsonl\n"
        "  python -m taco_ir.mine --source negatives.runs --tasks nq fever --drop-answers --output no-answers.jsonl\n"
        "  python -m taco_ir.mine --source bm25 my-run/model --window 0:50 10:60 --tasks nq --output merged.jsonl",
    )
    flags.flag("--output", "the negatives file to write", required=True, metavar="FILE")
    flags.flag(
        "--source",
        "where the rankings come from: bm25, a model (see --model of search), a TREC or MS MARCO run file, or a "
        "folder of <topics>.trec (or .tsv) runs. Flags such as --pooling apply to every model among the sources",
        required=True,
        nargs="+",
        metavar="SOURCE",
    )
    flags.flag("--split", "which queries to mine for [default: train]", choices=SPLITS, default="train")
    depth = f"how many passages to rank for each query [default: {DEFAULTS.depth}]"
    flags.flag("--mine-depth", depth, type=positive, default=DEFAULTS.depth, metavar="N")
    skip = "skip the top N passages of each ranking, before any filter [default: 0]"
    flags.flag("--mine-skip", skip, type=natural, default=DEFAULTS.skip, metavar="N")
    window = (
        "use only ranks A + 1 to B (the same as --mine-skip A --mine-depth B). Give one window for all sources, or "
        "one for each source"
    )
    flags.flag("--window", window, nargs="+", type=read_window, metavar="A:B")
    keep = f"keep at most this many negatives for each query from each source [default: {DEFAULTS.keep}]"
    flags.flag("--mine-keep", keep, type=positive, default=DEFAULTS.keep, metavar="N")
    flags.flag(
        "--drop-answers",
        "drop passages that contain an answer as whole words, ignoring case and accents. Not checked: verdicts "
        "(yes, SUPPORTS), answers of one or two letters, and the tasks of fact checking, dialogue, ELI5 and "
        "entity linking",
        action="store_true",
    )
    flags.flag(
        "--margin",
        "drop passages that score at least as high as the best gold passage minus X; each source uses its own "
        "scores. If no gold passage is among the top --mine-depth, all passages are dropped, and the audit counts "
        "the query as lost. Give one number for all sources, or one for each source; none: drop nothing",
        nargs="+",
        type=read_margin,
        metavar="X",
    )
    of_models = tuple(flag for flag in OF_MODELS if flag != "--device")
    flags.only(of_models, lambda options: bool(select_models(options.source)), "a model as --source")
    flags.only(
        ("--mine-skip", "--mine-depth"),
        lambda options: not options.window,
        "rankings without --window, which sets both",
    )
    return flags


def read_window(text: str) -> tuple[int, int]:
    """Convert A:B into the number of hits to skip and the last rank to use. Raises: argparse.ArgumentTypeError."""
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ArgumentTypeError(f"{text!r} is not a window; give two whole numbers, as in 0:50")
    skip, depth = map(int, parts)
    if depth <= skip:
        raise ArgumentTypeError(f"the window {text!r} is empty; its second number must be at least {skip + 1}")
    return skip, depth


def read_margin(text: str) -> float | None:
    """Convert a score margin into a number, and the word none into None. Raises: argparse.ArgumentTypeError."""
    try:
        return None if text == "none" else float(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not a margin; give a number, such as 0.1, or none") from error


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    windows, margins = options.window or [(options.mine_skip, options.mine_depth)], options.margin or [None]
    more = {"keep": options.mine_keep, "drop_answers": options.drop_answers, "seed": options.seed}
    settings = each_settings(len(options.source), windows, margins, **more)
    tasks = [name for word in options.tasks for name in word.split(",") if name]
    if not tasks:
        raise InputError("--tasks names no task; give names such as nq fever, or all")
    ranks = Ranks(options.device)
    with timed() as seconds, ranks.lead() as leads:
        if not leads:
            return
        mined = mine(
            open_collection(options.collection),
            options.source,
            options.output,
            tasks=tasks,
            split=options.split,
            settings=settings,
            model=model_choice(options),
            index=options.index,
            overwrite=options.overwrite,
            engine=ranks if ranks.world > 1 else None,
        )
    print(render_all(mined.tables(), options.format), end="")
    log.info("audit: %s (%.1f s in all)", mined.page, seconds())
    log.info("negatives: %s; train with them: python -m taco_ir.train --negatives %s", mined.negatives, mined.negatives)


if __name__ == "__main__":
    run_verb(main)
