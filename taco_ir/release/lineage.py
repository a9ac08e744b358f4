"""The lineage of a trained model: the sequence of trainings and adaptations that made it, described in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from taco_ir.adaptation.report import MADE_OF_FILE, REPORT_FILE, read_made_of, read_report
from taco_ir.adaptation.settings import ONE, AdaptSettings
from taco_ir.core.files import InputError
from taco_ir.core.settings import check_values, rules_of
from taco_ir.core.tasks import canonical_task
from taco_ir.encoders.adapters.folder import read_record
from taco_ir.encoders.adapters.methods import FULL
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.names import MADE_OF
from taco_ir.negatives.file import read_sources
from taco_ir.training.folder import CONFIG_FILE, load_settings
from taco_ir.training.settings import OptimiserSettings, TaskSettings

TAIL = 3  # the last folders of a training's path (condition, seed, output) tell it after a move


class Stage(NamedTuple):
    """An episode of a training, pre-training or adaptation: its tasks ((): only passages), and settings by label."""

    tasks: tuple[str, ...]
    settings: Mapping[str, str]


class Lineage(NamedTuple):
    """The name of the model that the first training started from, and the stages that followed."""

    base: str
    stages: tuple[Stage, ...]


def read_lineage(runs: Sequence[Path]) -> Lineage:
    """Returns the lineage of the last training's model. Each training must have started from the model before it.

    Raises:
        InputError: for a folder that is not a training, a training that did not start from the previous training, or a
            first training that itself started from a training.
    """
    stages: list[Stage] = []
    base, before = "", Path()
    for place, run in enumerate(run.resolve() for run in runs):
        model, own = _read_run(run)
        start = Path(model)
        known = any((start.parent / name).is_file() for name in (CONFIG_FILE, MADE_OF_FILE))
        if not place and start.name == "model" and known:
            raise InputError(f"{run}: this training started from the model of {start.parent}; name that training first")
        tail = before.parts[-TAIL:]  # the training may have been moved since
        if place and not any(folder.parts[-TAIL:] == tail for folder in start.parents):
            raise InputError(
                f"{run}: this training started from {start}, which is not the model of the training named before "
                f"it, {before}"
            )
        base, before = base or MADE_OF.get(model, start.name), run
        stages += own
    return Lineage(base, tuple(stages))


def _read_run(run: Path) -> tuple[str, list[Stage]]:
    """Returns the model that a run started from, and its stages. Raises: InputError if this is not a finished run."""
    if (run / CONFIG_FILE).is_file():
        config = load_settings(run)
        return config.run.model, [_read_pretraining(run)] if config.objectives.pretrains else _read_episodes(run)
    made = read_made_of(run)
    if made is None:
        raise InputError(
            f"{run}: it is not a training: it has neither {CONFIG_FILE} (of taco_ir.train and taco_ir.pretrain) "
            f"nor {REPORT_FILE} (of a finished taco_ir.adapt)"
        )
    rules = rules_of(AdaptSettings)
    found = check_values(made["settings"], rules, lambda key: f"{run / MADE_OF_FILE}: {key}")
    settings = AdaptSettings(**{**found, "output": str(run)})
    return settings.model, [_read_adaptation(run, settings)]


def _read_adaptation(run: Path, settings: AdaptSettings) -> Stage:
    """Returns an adaptation's stage. Tasks that it dropped are left out, except if all tasks share one adapter."""
    from taco_ir.training.objectives.base import loss_temperature

    report, encoder = read_report(run), ModelFolder(run / "model").trained_config
    every = [each.task for each in report.tasks]
    tasks = every if settings.share == ONE else [task for task in every if task not in report.dropped]
    options = [f"{name}={value}" for name, value in settings.weighting_options.items()]
    longest = max(encoder.query_lengths.values(), default=encoder.query_length)
    said = {
        "steps": f"{report.best_step:,} of {report.steps:,}, the best on held-out queries",
        "queries a step": f"{settings.batch_size}, shares {settings.shares}",
        "weighting": " ".join([settings.weighting, *options]),
        "negatives": f"all {report.frozen.passages:,} passages of the index",
        "learning rate": _describe_rate(settings.section(OptimiserSettings)),
        "scores divided by": f"{loss_temperature(settings.temperature, encoder):g}",
        "tokens": f"at most {longest} of a query; passages are as the base reads them",
        "task prompts": "yes" if encoder.prompts else "no",
        "what is trained": _describe_adapters(run / "model"),
        "arithmetic": settings.precision,
        "seed": str(settings.seed),
    }
    if dropped := report.dropped:
        said["not helped on held-out queries, so left to the base"] = ", ".join(dropped)
    return Stage(tuple(sorted(tasks)), said)


def _read_pretraining(run: Path) -> Stage:
    config = load_settings(run)
    settings = {
        "objective": ", ".join(config.objectives.objective),
        "steps": _describe_steps(config.optimiser),
        "texts a step": f"{config.batch.batch_size}, of at most {config.objectives.length} tokens",
        "learning rate": _describe_rate(config.optimiser),
        "seed": str(config.run.seed),
    }
    return Stage((), settings)


def _read_episodes(run: Path) -> list[Stage]:
    from taco_ir.training.objectives.base import loss_temperature

    episodes = load_settings(run).each_episode()
    folders = [run] if len(episodes) == 1 else [run / f"episode-{number}" for number in range(1, len(episodes) + 1)]
    stages = []
    for episode, folder in zip(episodes, folders, strict=True):
        encoder = ModelFolder(folder / "model").trained_config
        batch = episode.batch
        shares = f"shares {batch.shares}"
        if batch.shares == "temperature":
            shares = f"shared by temperature {batch.share_temperature:g}"
        options = [f"{name}={value}" for name, value in episode.weighting.weighting_options.items()]
        source = _describe_negatives(episode.negatives.negatives)
        longest = max(encoder.query_lengths.values(), default=encoder.query_length)
        settings = {
            "steps": _describe_steps(episode.optimiser),
            "queries a step": f"{batch.batch_size}, {shares}",
            "weighting": " ".join([episode.weighting.weighting, *options]),
            "negatives": f"in-batch; hard ones of a query: {batch.hard_negatives}, {source}",
            "learning rate": _describe_rate(episode.optimiser),
            "scores divided by": f"{loss_temperature(batch.temperature, encoder):g}",
            "tokens": f"at most {longest} of a query, {encoder.passage_length} of a passage",
            "task prompts": "yes" if encoder.prompts else "no",
            "what is trained": "all weights" if episode.adapters.tune == FULL else _describe_adapters(folder / "model"),
            "arithmetic": episode.optimiser.precision,
            "seed": str(episode.run.seed),
        }
        if own := [_describe_task(name, table) for name, table in episode.task_tables.items()]:
            settings["of single tasks"] = "; ".join(own)
        every = episode.task_tables or encoder.query_lengths
        named = every if episode.run.tasks == ("all",) else map(canonical_task, episode.run.tasks)
        stages.append(Stage(tuple(sorted(named)), settings))
    return stages


ADAPTERS = {
    "shared": "one for all",
    "tower": "one for queries, one for passages",
    "task": "one for the queries of each task, one for passages",
    "query-frozen": "one for the queries of all tasks",
}


def _describe_adapters(model: Path) -> str:
    record = read_record(model)
    whose = ADAPTERS.get(record.roles, "one for the queries of each task")
    return f"{record.method} of width {record.width}, {whose}; the backbone is frozen"


def _describe_steps(settings: OptimiserSettings) -> str:
    return f"{settings.steps:,}" if settings.steps else f"{settings.epochs:g} epochs of the largest task"


def _describe_rate(settings: OptimiserSettings) -> str:
    return f"{settings.learning_rate:g} at most, rising over {settings.warmup:.0%} of the steps, then falling to 0"


def _describe_task(name: str, own: TaskSettings) -> str:
    """Returns a task's own settings as text, without paths of the machine that trained."""
    said = {**own.given, **({"negatives": _describe_negatives(own.negatives)} if own.negatives else {})}
    words = (f"{key.replace('_', ' ')} {value}" for key, value in said.items() if key not in ("collection", "task"))
    return f"{name}: {', '.join(words) or 'as the others'}"


def _describe_negatives(given: str) -> str:
    """Returns the names of the retrievers that mined negatives, from the setting or the header of the file."""
    known = {"bm25": "BM25's", "ance": "the model's at the start", "none": "none"}
    if given in known:
        return known[given]
    path = Path(given)
    if not path.is_file():
        return path.name
    names = {"bm25": "BM25's", "model": "a model's (ANCE)"}
    return ", ".join(names.get(each.source, each.source) for each in read_sources(path))
