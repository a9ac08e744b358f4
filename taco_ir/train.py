"""`python -m taco_ir.train`: one encoder for several tasks, from a base model to a checkpoint, through episodes, resumable."""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.cli import Parser, run_verb
from taco_ir.core.tasks import canonical_task
from taco_ir.data.collection import open_collection
from taco_ir.training.flags import add_flags, given_flags, read_settings
from taco_ir.training.settings import NOTHING


def parser() -> Parser:
    flags = Parser(
        "train",
        "Train one dense retriever for several tasks. A step takes a batch of every task; a weighting makes one update of the tasks' gradients.\n"
        "Hard negatives are mined as needed. Stopped at any moment, the same command goes on from the last checkpoint.\n"
        "All keys can stand in a TOML file (--config), in [[episode]] tables too; flags override it. Many processes: torchrun -m taco_ir.train ...",
        ("--overwrite",),
        example="python -m taco_ir.train --collection my-wiki --tasks nq,fever --model bert-base --pooling mean --weighting taco --output my-run\n"
        "  python -m taco_ir.train --config taco-minikilt --collection mini-kilt --model minilm --output my-run\n"
        "  python -m taco_ir.train --tasks none --reading nq,squad --collection my-wiki --model my-run/model --output my-reader",
    )
    add_flags(flags)
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    config = read_settings(options.config, given_flags(options), options.preset)
    from taco_ir.training.run import train

    model = train(config, options.overwrite)
    known = {name.task for name in open_collection(config.run.collection).topics_names if name.split == "dev"}
    named = config.objectives.reading if config.run.tasks == NOTHING else config.run.tasks
    topics = " ".join(
        f"{task}-dev" for task in named if known & {task, canonical_task(task)} or (known and task == "all")
    )
    print(model)
    if not topics:  # a model knows the prompts of the tasks that it was trained on
        return
    searches = config.run.tasks != NOTHING
    if searches:
        print(f"next: python -m taco_ir.search --model {model} --collection {config.run.collection} --topics {topics}")
    if config.objectives.reading != NOTHING:
        retriever = f" --model {model}" * searches
        print(
            f"{'  or' if searches else 'next'}: python -m taco_ir.answer{retriever} --reader {model} --collection {config.run.collection} --topics {topics}"
        )


if __name__ == "__main__":
    run_verb(main)
