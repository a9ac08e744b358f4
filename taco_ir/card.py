"""`python -m taco_ir.card`: write the model card of a shipped encoder, from its training and a study's results."""

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
        "Write the model card (README.md) for an encoder that is shipped with the package: data and licences, "
        "base model, recipe, scores, limits. The first time, --training and --result say where to find these "
        "facts, which are kept in card.json. After that, card.json and the study's results are enough.",
        example="python -m taco_ir.card taco_ir/encoder_mini --training first/1/out taco/1/out \\\n"
        "      --result taco.1.whole --beside bm25.0.whole\n"
        "  python -m taco_ir.card taco_ir/encoder_mini",
    )
    flags.flag("folder", "folder of the encoder, written by export --what compact", type=Path, metavar="FOLDER")
    flags.flag("--name", f"name of the encoder [default: {SHIPPED}]")
    study = Path("runs/minikilt")
    flags.flag("--study", f"folder of the study [default: {study}]", type=Path, default=study, metavar="FOLDER")
    flags.flag(
        "--training",
        "folders of the trainings that produced the encoder, in order",
        nargs="+",
        type=Path,
        metavar="RUN",
    )
    flags.flag(
        "--result", "name of the study's record with the encoder's scores on the whole collection", metavar="NAME"
    )
    flags.flag(
        "--beside", "names of records whose scores to show next to the encoder's", nargs="+", default=[], metavar="NAME"
    )
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    if bool(options.training) != bool(options.result) or (options.beside and not options.result):
        raise InputError("--training and --result must be given together; --beside needs both")
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
