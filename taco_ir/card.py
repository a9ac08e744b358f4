"""`python -m taco_ir.card`: the model card of an encoder that ships, from its training and a study's results."""

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
        "Write README.md, a model card, into the folder of an encoder that ships: data and licences, base, recipe, scores, limits. With --training\n"
        "and --result the facts are gathered and kept in card.json beside it; later the page is written from that and the results alone.",
        (),
        "python -m taco_ir.card taco_ir/encoder_mini --training first/1/out taco/1/out --result taco.1.whole --beside bm25.0.whole\n"
        "  python -m taco_ir.card taco_ir/encoder_mini",
    )
    flags.add_argument("folder", type=Path, metavar="FOLDER", help="the encoder, as export --what compact wrote it")
    flags.add_argument("--name", help="what the encoder is called [default: that of the one in the package]")
    flags.add_argument(
        "--study", type=Path, default=Path("runs/minikilt"), metavar="DIR", help="the study [default: runs/minikilt]"
    )
    flags.add_argument(
        "--training", nargs="+", type=Path, metavar="RUN", help="the runs that made it, the first one first"
    )
    flags.add_argument(
        "--result", metavar="NAME", help="the record of the study with its scores on the whole collection"
    )
    flags.add_argument("--beside", nargs="+", default=[], metavar="NAME", help="records of systems to show beside it")
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    if bool(options.training) != bool(options.result) or (options.beside and not options.result):
        raise InputError("--training and --result go together, --beside with both")
    if ModelFolder(options.folder).weights_file is None:
        raise InputError(
            f"{options.folder}: no {PLAIN_FILE} or {INT8_FILE} in it; python -m taco_ir.export --what compact writes one"
        )
    from taco_ir.release.lineage import lineage
    from taco_ir.release.model_card import CARD_FILE, card, write_facts

    if options.training:
        write_facts(options.folder, lineage(options.training), options.result, options.beside)
    page = card(options.folder, options.study / "results", options.name or SHIPPED)
    with writing(options.folder / CARD_FILE) as file:
        file.write(page)
    print(options.folder / CARD_FILE)


if __name__ == "__main__":
    run_verb(main)
