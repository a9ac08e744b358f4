"""`python -m taco_ir.train`: train one encoder for several tasks, in one or several episodes; can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from taco_ir.cli import Parser, run_verb
from taco_ir.core.tasks import canonical_task
from taco_ir.data.collection import open_collection
from taco_ir.training.flags import add_flags, given_flags, read_settings
from taco_ir.training.settings import NOTHING

FIRST = (
    *("--collection", "--tasks", "--model", "--pooling", "--output", "--overwrite", "--config"),
    *("--device", "--seed", "--passage-length", "--tune", "--batch-size", "--hard-negatives", "--negatives"),
    *("--weighting", "--learning-rate", "--epochs", "--steps", "--precision", "--gradcache"),
)


def parser() -> Parser:
    flags = Parser(
        "train",
        "Train one dense retriever for several tasks. Each step takes a batch of every task, and a weighting "
        "combines the gradients of the tasks into one update. Hard negatives are mined as needed. If you stop a "
        "training, the same command continues from its last checkpoint. All settings can also be given in a TOML "
        "file (--config); flags override it. In that file, [[episode]] tables give settings for each episode, and "
        "[tasks.NAME] tables give a task its own collection and settings. If you must keep an existing index, use "
        "taco_ir.adapt: it trains only the query side, in minutes.\nTo train on several processes: torchrun -m "
        "taco_ir.train ...",
        ("--overwrite",),
        example="python -m taco_ir.train --collection my-wiki --tasks nq,fever --model bert-base --pooling mean"
        " --weighting taco --output my-run\n"
        "  python -m taco_ir.train --config taco-minikilt --collection mini-kilt --model minilm --output my-run\n"
        "  python -m taco_ir.train --tasks none --reading nq,squad --collection my-wiki --model my-run/model"
        " --output my-reader",
        first=FIRST,
    )
    flags.flag(
        "--headroom",
        "show how much a task weighting could gain: train one model for all tasks and one model for each task, all "
        "without weighting, and compare them on held-out queries. All models are kept in --output",
        action="store_true",
    )
    add_flags(flags)
    return flags


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    settings = read_settings(options.config, given_flags(options), options.preset)
    if options.headroom:
        from taco_ir.evaluation.headroom import headroom_text
        from taco_ir.training.headroom import SHARED, training_headroom

        print(headroom_text(training_headroom(settings, options.overwrite), SHARED, "table"))
        return
    from taco_ir.training.run import train

    model = train(settings, options.overwrite)
    print(model)
    searches, reading = settings.run.tasks != NOTHING, settings.objectives.reading
    named = settings.run.tasks if searches else reading
    used: dict[str, list[str]] = {} if settings.task_tables else {settings.run.collection: list(named)}
    for name, own in settings.task_tables.items():
        if "all" in named or name in map(canonical_task, named):
            used.setdefault(own.collection or settings.run.collection, []).append(own.task or name)
    for collection, tasks in used.items():
        _say_next(model, collection, tasks, searches, reading)


def _say_next(model: Path, collection: str, tasks: Sequence[str], searches: bool, reading: Sequence[str]) -> None:
    """Print the commands that use the model on the tasks' dev topics, if the collection has dev topics."""
    known = {name.task for name in open_collection(collection).topics_names if name.split == "dev"}
    topics = " ".join(
        f"{task}-dev" for task in tasks if known & {task, canonical_task(task)} or (known and task == "all")
    )
    if not topics:  # a model knows the prompts of the tasks that it was trained on
        return
    with_topics = f"--collection {quote(collection)} --topics {topics}"
    named = quote(str(model))
    if searches:
        print(f"next: python -m taco_ir.search --model {named} {with_topics}")
    if reading != NOTHING:
        verb = f"{'  or' if searches else 'next'}: python -m taco_ir.answer"
        print(f"{verb}{f' --model {named}' * searches} --reader {named} {with_topics}")


if __name__ == "__main__":
    run_verb(main)
