"""`python -m taco_ir.adapt`: train only an encoder's query side on new tasks, and keep an existing index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from taco_ir.adaptation.settings import DEFAULTS, SECTIONS, AdaptSettings, read_settings
from taco_ir.cli import Parser, run_verb
from taco_ir.core.processes import format_bytes, format_duration
from taco_ir.core.settings import add_flag, given_values, rules_of, with_default

FIRST = (
    *("--index", "--docids", "--model", "--pooling", "--topics", "--qrels", "--collection"),
    *("--output", "--overwrite", "--config", "--device", "--seed", "--share", "--method"),
    *("--width", "--batch-size", "--weighting", "--learning-rate", "--steps", "--held-out"),
)


def parser() -> Parser:
    flags = Parser(
        "adapt",
        "Train only the query side of a frozen encoder on new tasks, and keep an existing index. A small adapter "
        "(bottleneck, LoRA or prompts) is trained on the queries, with all passages of the index as negatives: no "
        "passage is read, encoded or mined. The whole index is searched with held-out queries to choose the best "
        "step; tasks that the adapter does not help keep the original model. If you stop it, the same command "
        "continues. All settings can also be given in a TOML file (--config); flags override it. To train on "
        "several processes: torchrun -m taco_ir.adapt ...",
        ("--overwrite", "--format"),
        example="python -m taco_ir.adapt --index my-index --model my-encoder --collection my-wiki"
        " --topics nq-train fever-train --output taught\n"
        "  python -m taco_ir.adapt --index pyserini-index --model sentence-transformers/all-MiniLM-L6-v2"
        " --topics faq.tsv --qrels faq.qrels --output taught\n"
        "  python -m taco_ir.search --model taught/model --index my-index --collection my-wiki --topics nq-dev",
        first=FIRST,
    )
    flags.flag(
        "--headroom",
        "show how much a task weighting could gain: train one adapter for all tasks and one adapter for each task, "
        "all without weighting, and compare them on held-out queries. All are kept in --output",
        action="store_true",
    )
    flags.flag(
        "--config",
        "a TOML file of settings. Their names are those of the flags below, with `_` in place of `-`. Flags override "
        "the file",
        type=Path,
        metavar="FILE",
    )
    group = flags.add_argument_group()
    rules = rules_of(AdaptSettings)
    for entry in fields(AdaptSettings):
        if entry.name in SECTIONS:
            group = flags.add_argument_group(SECTIONS[entry.name])
        help = with_default(entry.metadata["help"], DEFAULTS[entry.name], entry.metadata)
        add_flag(group, entry.name, rules[entry.name], help)
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    settings = read_settings(options.config, given_values(options, rules_of(AdaptSettings)))
    if options.headroom:
        from taco_ir.adaptation.headroom import SHARED, adaptation_headroom
        from taco_ir.evaluation.headroom import headroom_text

        print(headroom_text(adaptation_headroom(settings, options.overwrite), SHARED, options.format))
        return
    from taco_ir.adaptation.report import report_table, summary
    from taco_ir.adaptation.run import adapt
    from taco_ir.evaluation.tables import render

    report = adapt(settings, options.overwrite)
    if report.tasks:
        print(render(report_table(report), options.format), end="")
    print(*summary(report), sep="\n")
    print(f"{format_duration(report.seconds)}, {format_bytes(report.peak_bytes)} of memory at the peak")
    model = Path(settings.output) / "model"
    print(model)
    _say_next(settings, model, report.frozen.layout)


def _say_next(settings: AdaptSettings, model: Path, layout: str) -> None:
    """Print the command that searches the index with the model, if a verb can search this index."""
    if layout == "index" and settings.collection:
        search = f"--model {model} --index {settings.index} --collection {settings.collection}"
        print(f"next: python -m taco_ir.search {search} --topics {settings.topics[0].replace('-train', '-dev')}")
    elif layout in ("index", "pyserini"):
        search = f"pyserini.search.faiss --encoder-class taco --encoder {model} --index {settings.index}"
        print(f"next: python -m taco_ir.pyserini {search} --topics TOPICS --output RUN")


if __name__ == "__main__":
    run_verb(main)
