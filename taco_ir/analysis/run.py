"""The specialisation of trained models, measured on the same batches: what is analysed, with which data, and what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from taco_ir.analysis.summary import THEN, Analysis, Measured, ModelAnalysis, to_dict
from taco_ir.core.files import InputError, read_json, write_json, writing
from taco_ir.core.processes import Progress
from taco_ir.core.settings import Settings, Values
from taco_ir.encoders.backbone import usable_device
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.negatives.file import Negatives, read_negatives
from taco_ir.training.data import TrainingData
from taco_ir.training.flags import TRAIN
from taco_ir.training.folder import CONFIG_FILE, MAY_DIFFER, load_settings
from taco_ir.training.settings import BatchSettings, TrainSettings, checked_keys

if TYPE_CHECKING:
    pass

JSON_FILE, PAGE_FILE = "specialisation.json", "specialisation.html"
PLACES = ("collection", "model", "negatives")  # keys that may name folders and files
BATCHES = 8
TAU = 2.0


class Subject(NamedTuple):
    """A model to analyse.

    Attributes:
        name: as it was given.
        model: its folder.
        config: of the episode that trained it, None where its folder does not tell.
        run: the folder of its training run.
        episodes: folders of the run's episodes up to its own.
    """

    name: str
    model: Path
    config: TrainSettings | None = None
    run: Path | None = None
    episodes: Sequence[Path] = ()


@dataclass(frozen=True)
class AnalysisSettings(Settings):
    """What is measured: `keys` are those of a training configuration that stand instead of the first model's own."""

    keys: Mapping[str, object] = field(default_factory=dict)
    batches: int = field(default=BATCHES, metadata={"min": 1})
    tau: float = field(default=TAU, metadata={"above": 0})

    def check(self) -> None:
        checked_keys(self.keys, TRAIN.keys, "")


def find_subject(name: str) -> Subject:
    """A model folder (in a run or not), a run's folder (then its last episode's model), or a hub name.

    Raises:
        InputError: for a run without a trained model, or a model that is not there.
    """
    folder = Path(name)
    if _is_run(folder):
        return _of_run(name, folder, len(load_settings(folder).each_episode()))
    model = ModelFolder.find(name).path
    for run in (model.parent, model.parent.parent):
        if model.name == "model" and _is_run(run):
            count = len(load_settings(run).each_episode())
            number = next((n for n in range(1, count + 1) if _episode(run, n, count) == model.parent), None)
            if number:
                return _of_run(name, run, number)
    return Subject(name, model)


def _is_run(folder: Path) -> bool:
    path = folder / CONFIG_FILE
    return path.is_file() and {"collection", "weighting"} <= read_json(path, dict[str, Any]).keys()


def _of_run(name: str, run: Path, number: int) -> Subject:
    configs = load_settings(run).each_episode()
    episodes = [_episode(run, each, len(configs)) for each in range(1, number + 1)]
    model = episodes[-1] / "model"
    if not model.is_dir():
        raise InputError(
            f"{name}: this training run has no model yet ({model} is missing); end the training, or give a model folder"
        )
    return Subject(name, model, configs[number - 1], run, episodes)


def _episode(run: Path, number: int, count: int) -> Path:
    return run / f"episode-{number}" if count > 1 else run


def analyse(subjects: Sequence[Subject], settings: AnalysisSettings, output: Path) -> Analysis:
    """Measure all models on the same batches; nothing is written but negatives that must be mined first, to `output`.

    Data, tasks, negatives and batches are those of the first model's training run, where it has one, else of a default
    configuration, and the settings' keys stand instead of those. Dropout is off; frozen parameters count as all others do.

    Raises:
        InputError: for models of different architectures, a task that a model has no prompt for, or data that do not fit.
    """
    from taco_ir.analysis.measure import measure
    from taco_ir.training.base_model import trained_encoder
    from taco_ir.training.distributed import Processes
    from taco_ir.training.objectives.base import Texts, Work, add_texts, passages_of
    from taco_ir.training.objectives.contrastive import Contrastive

    first = subjects[0]
    config = (first.config or TrainSettings()).replace(
        weighting="naive", weighting_options={}, log_cosines=0, episodes=(), **cast("Values", settings.keys)
    )
    own = first.run is not None and "negatives" not in settings.keys  # then they are where the run mined them
    data = TrainingData(
        config.run,
        config.encoder,
        config.objectives.reading,
        config.validation,
        first.run if own and first.run else output,
        Processes(usable_device(config.run.device)),
    )
    data.check_shares(config.batch)
    for subject in subjects:
        _check_prompts(subject, data.tasks)
    mined = (
        data.mined_path(config.negatives, first.episodes[-1]) if own else None
    )  # there, whichever of its tasks are asked for
    if mined and mined.is_file():
        negatives: Negatives | None = read_negatives(mined, data.collection.passages.fingerprint)
    else:
        negatives = data.negatives(config.negatives, output, first.model)
    samplers = data.samplers(config.batch, negatives)
    drawn = {
        id(example): example
        for sampler in samplers
        for batch in range(settings.batches)
        for example, _ in sampler.step(batch)
    }
    texts = Texts({}, {})
    add_texts(texts, data.collection, passages_of(drawn.values()))
    passes = 2 if settings.batches > 1 and len(samplers) > 1 else 1  # the second is of chance
    progress = Progress("analyse", passes * len(subjects) * len(samplers) * settings.batches, "batches")
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress.at(done)

    shapes: dict[str, list[int]] = {}
    models = []
    for subject in subjects:
        model = trained_encoder(subject.model, config.run.device)
        work = Work(config.run, config.batch, config.objectives, config.optimiser, model, data, texts=texts)
        means = work.means(config.batch.hard_negatives, config.batch.multi_positive)
        try:
            measured = measure(
                [Contrastive(model, sampler, means) for sampler in samplers],
                settings.batches,
                settings.tau,
                count,
                config.run.seed,
            )
        except InputError as error:
            raise InputError(f"{subject.name}: {error}") from error
        found = {name: list(param.shape) for name, param in model.trained()}
        if found != (shapes := shapes or found):
            raise InputError(
                f"{subject.name}: its parameters are not those of {first.name}; models of one architecture can be compared"
            )
        models.append(_with_log(subject, measured))
    return Analysis(_notes(config.batch, config.negatives.negatives, data, settings), data.tasks, models)


def _check_prompts(subject: Subject, tasks: Sequence[str]) -> None:
    config = ModelFolder(subject.model).trained_config
    for task in tasks:
        try:
            config.prompt(task)
        except InputError as error:
            known = ", ".join(sorted(config.prompts))
            raise InputError(
                f"{subject.name}: no prompt for task {task!r}, only for {known}; name some by --tasks"
            ) from error


def _with_log(subject: Subject, measured: Measured) -> ModelAnalysis:
    from taco_ir.training.log import logged_cosines

    names = ["" if len(subject.episodes) == 1 else episode.name for episode in subject.episodes]
    logged = {name: logged_cosines(episode) for name, episode in zip(names, subject.episodes, strict=True)}
    weighting = subject.config.weighting.weighting if subject.config else None
    setting, recipe = _training_of(subject)
    return ModelAnalysis(
        subject.name, weighting, measured, {name: rows for name, rows in logged.items() if rows}, setting, recipe
    )


def _training_of(subject: Subject) -> tuple[dict[str, Any] | None, str]:
    """All that its training's episodes are configured by but for the weighting, and how each of them weighs."""
    if subject.run is None:
        return None, ""
    configs = load_settings(subject.run).each_episode()[: len(subject.episodes)]
    apart = {"weighting", "weighting_options", "keep_importance", "episodes", *MAY_DIFFER}
    setting = {
        f"{f'episode {number}: ' if len(configs) > 1 else ''}{key}": _resolved(value) if key in PLACES else value
        for number, config in enumerate(configs, start=1)
        for key, value in config.flat().items()
        if key not in apart
    }
    named = [
        config.weighting.weighting
        + "".join(f" {key}={value}" for key, value in sorted(config.weighting.weighting_options.items()))
        for config in configs
    ]
    return setting, THEN.join(named if len(set(named)) > 1 else named[:1])


def _resolved(place: str) -> str:
    """A folder or file by its one name."""
    return str(Path(place).resolve()) if place and Path(place).exists() else place


def _notes(batch: BatchSettings, negatives: str, data: TrainingData, settings: AnalysisSettings) -> list[str]:
    hard = "" if negatives == "none" else f"{negatives}, {batch.hard_negatives} a query, and "
    return [
        f"collection {data.collection.name}; tasks {', '.join(data.tasks)}",
        f"{settings.batches} batches of each task's train queries, {batch.batch_size} queries of all tasks together"
        f" ({batch.shares}), seed {data.run.seed}",
        f"negatives: {hard}the other queries' passages; the same batches for every model, dropout off",
        "by chance: the same where the batches of all tasks are dealt to the tasks at random, by the seed;"
        " more batches make it smaller",
        f"q: softmax over tasks of S / {settings.tau:g};"
        " S: mean over batches of |g θ| / its median over the parameters where it is not zero",
    ]


def write_analysis(analysis: Analysis, output: Path) -> tuple[Path, Path]:
    """Write the figures as JSON and the page; their paths."""
    from taco_ir.analysis.page import html

    page = html(analysis)
    write_json(output / JSON_FILE, to_dict(analysis))
    with writing(output / PAGE_FILE) as sink:
        sink.write(page)
    return output / JSON_FILE, output / PAGE_FILE
