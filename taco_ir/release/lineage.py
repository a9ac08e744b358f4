"""Where a trained model comes from: the runs that made it, one after the other, as facts that can be printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.tasks import canonical_task
from taco_ir.encoders.adapters.folder import read_record
from taco_ir.encoders.adapters.methods import FULL
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.negatives.file import read_sources
from taco_ir.training.folder import CONFIG_FILE, load_settings
from taco_ir.training.settings import BatchSettings, ObjectiveSettings, OptimiserSettings, TrainSettings

TAIL = 3  # the last folders of a run, by which it is known again in another place: condition, seed, output


class Stage(NamedTuple):
    """A training, an episode of one, or a pre-training: the tasks that it learnt from (none: passages alone), and label -> setting."""

    tasks: tuple[str, ...]
    settings: Mapping[str, str]


class Lineage(NamedTuple):
    """The model that all began with, by the name of its folder, and what was done to it."""

    base: str
    stages: tuple[Stage, ...]


def lineage(runs: Sequence[Path]) -> Lineage:
    """Of the model that the last of these runs made, each of which began with the model of the one before.

    Raises:
        InputError: for a folder that is no run, one that did not begin with the run before it, or a first one that began with a run.
    """
    stages: list[Stage] = []
    base, before = "", Path()
    for place, run in enumerate(run.resolve() for run in runs):
        config = _config(run)
        start = Path(config.run.model)
        if not place and start.name == "model" and (start.parent / CONFIG_FILE).is_file():
            raise InputError(f"{run}: it began with the model of a run, {start.parent}; name that one first")
        if place and not _inside(start, before):
            raise InputError(f"{run}: it began with {start}, which is not of the run named before it, {before}")
        base, before = base or start.name, run
        stages += (
            [_pretrained(config.objectives, config.optimiser, config.batch, config.run.seed)]
            if config.objectives.pretrains
            else _trained(config, run)
        )
    return Lineage(base, tuple(stages))


def _config(run: Path) -> TrainSettings:
    if not (run / CONFIG_FILE).is_file():
        raise InputError(
            f"{run}: no {CONFIG_FILE} in it; a folder that taco_ir.train or taco_ir.pretrain wrote has one"
        )
    return load_settings(run)


def _inside(model: Path, run: Path) -> bool:
    """Whether a model is of a run, which may have been moved since."""
    tail = run.parts[-TAIL:]
    return any(folder.parts[-TAIL:] == tail for folder in model.parents)


def _pretrained(objectives: ObjectiveSettings, optimiser: OptimiserSettings, batch: BatchSettings, seed: int) -> Stage:
    settings = {
        "objective": ", ".join(objectives.objective),
        "steps": _length(optimiser.steps, optimiser.epochs),
        "texts a step": f"{batch.batch_size}, of at most {objectives.length} tokens",
        "learning rate": _rate(optimiser),
        "seed": str(seed),
    }
    return Stage((), settings)


def _trained(config: TrainSettings, run: Path) -> list[Stage]:
    """A stage for each episode."""
    from taco_ir.training.objectives.base import loss_temperature

    episodes = config.each_episode()
    folders = [run] if len(episodes) == 1 else [run / f"episode-{number}" for number in range(1, len(episodes) + 1)]
    stages = []
    for episode, folder in zip(episodes, folders, strict=True):
        encoder = ModelFolder(folder / "model").trained_config
        shares = (
            f"shared by temperature {episode.batch.share_temperature:g}"
            if episode.batch.shares == "temperature"
            else f"shares {episode.batch.shares}"
        )
        settings = {
            "steps": _length(episode.optimiser.steps, episode.optimiser.epochs),
            "queries a step": f"{episode.batch.batch_size}, {shares}",
            "weighting": " ".join(
                [
                    episode.weighting.weighting,
                    *(f"{name}={value}" for name, value in episode.weighting.weighting_options.items()),
                ]
            ),
            "negatives": f"in-batch; hard ones of a query: {episode.batch.hard_negatives}, {_negatives(episode.negatives.negatives)}",
            "learning rate": _rate(episode.optimiser),
            "scores divided by": f"{loss_temperature(episode.batch.temperature, encoder):g}",
            "tokens": f"at most {_most(encoder.query_lengths, encoder.query_length)} of a query, {encoder.passage_length} of a passage",
            "task prompts": "yes" if encoder.prompts else "no",
            "what is trained": "all weights" if episode.adapters.tune == FULL else _adapters(folder / "model"),
            "arithmetic": episode.optimiser.precision,
            "seed": str(episode.run.seed),
        }
        named = encoder.query_lengths if episode.run.tasks == ("all",) else map(canonical_task, episode.run.tasks)
        stages.append(Stage(tuple(sorted(named)), settings))
    return stages


def _adapters(model: Path) -> str:
    record = read_record(model)
    whose = {"shared": "one for all", "tower": "one for queries, one for passages"}.get(
        record.roles, "one for the queries of each task"
    )
    passages = ", one for passages" if record.roles == "task" else ""
    return f"{record.method} of width {record.width}, {whose}{passages}; the backbone is frozen"


def _most(lengths: Mapping[str, int], other: int) -> int:
    return max(lengths.values(), default=other)


def _length(steps: int, epochs: float) -> str:
    return f"{steps:,}" if steps else f"{epochs:g} epochs of the largest task"


def _rate(settings: OptimiserSettings) -> str:
    return f"{settings.learning_rate:g} at most, rising over {settings.warmup:.0%} of the steps, then falling to 0"


def _negatives(given: str) -> str:
    """What they were mined with: a word of the configuration, or what the head of their file says."""
    known = {"bm25": "BM25's", "ance": "the model's at the start", "none": "none"}
    if given in known:
        return known[given]
    path = Path(given)
    if not path.is_file():
        return path.name
    return ", ".join(
        {"bm25": "BM25's", "model": "a model's (ANCE)"}.get(each.source, each.source) for each in read_sources(path)
    )
