"""`python -m taco_ir.card`: write the model card of an encoder that ships, from its training and a study's results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taco_ir.cli import Parser, run_verb
from taco_ir.core.files import InputError, writing
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.names import SHIPPED
from taco_ir.encoders.weights import INT8_FILE, PLAIN_FILE


def parser() -> Parser:
    flags = Parser(
        "card",
        "Write the model card (README.md) of an encoder folder that ships: data and licences, base, recipe, scores, "
        "limits. With --training and --result its facts are gathered and kept in card.json; later the card is written "
        "from these facts and the study's results alone.",
        example="python -m taco_ir.card taco_ir/encoder_mini --training first/1/out taco/1/out \\\n"
        "      --result taco.1.whole --beside bm25.0.whole\n"
        "  python -m taco_ir.card taco_ir/encoder_mini",
    )
    flags.flag("folder", "the encoder, as export --what compact wrote it", type=Path, metavar="FOLDER")
    flags.flag("--name", "what the encoder is called [default: the name of the one in the package]")
    study = Path("runs/minikilt")
    flags.flag("--study", f"the study [default: {study}]", type=Path, default=study, metavar="FOLDER")
    flags.flag("--training", "the training runs that made it, in order", nargs="+", type=Path, metavar="RUN")
    flags.flag("--result", "the study's record of its scores on the whole collection", metavar="NAME")
    flags.flag("--beside", "records of systems to show beside it", nargs="+", default=[], metavar="NAME")
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    if bool(options.training) != bool(options.result) or (options.beside and not options.result):
        raise InputError("--training and --result go together, --beside with both")
    if ModelFolder(options.folder).weights_file is None:
        raise InputError(
            f"{options.folder}: no {PLAIN_FILE} or {INT8_FILE} in it; "
            "python -m taco_ir.export --what compact writes one"
        )
    from taco_ir.release.lineage import read_lineage
    from taco_ir.release.model_card import CARD_FILE, render_card, write_facts

    if options.training:
        write_facts(options.folder, read_lineage(options.training), options.result, options.beside)
    page = render_card(options.folder, options.study / "results", options.name or SHIPPED)
    with writing(options.folder / CARD_FILE) as file:
        file.write(page)
    print(options.folder / CARD_FILE)


if __name__ == "__main__":
    run_verb(main)
