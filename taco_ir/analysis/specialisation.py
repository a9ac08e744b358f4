"""Compares how far trained models specialise in tasks: measures all on the same batches, and writes the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from taco_ir.analysis.summary import THEN, Analysis, Measurement, ModelAnalysis, to_dict
from taco_ir.core.files import InputError, read_json, write_json, writing
from taco_ir.core.processes import Progress
from taco_ir.core.settings import Settings, Values
from taco_ir.encoders.backbone import usable_device
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.retrieval.choices import model_name
from taco_ir.training.data import TrainingData
from taco_ir.training.flags import TRAIN
from taco_ir.training.folder import CONFIG_FILE, MAY_DIFFER, load_settings
from taco_ir.training.settings import TrainSettings, checked_keys

JSON_FILE, PAGE_FILE = "specialisation.json", "specialisation.html"
PLACES = ("collection", "model", "negatives")  # keys that may name folders and files
BATCHES = 8
TAU = 2.0


class Subject(NamedTuple):
    """A model to analyse, and the training that it comes from.

    Attributes:
        name: the name that the user gave.
        model: the model's folder.
        config: settings of the episode (round of training) that made the model; None if the training is not known.
        run: the folder of the training.
        episodes: folders of the training's episodes, up to the one that made the model.
    """

    name: str
    model: Path
    config: TrainSettings | None = None
    run: Path | None = None
    episodes: Sequence[Path] = ()


@dataclass(frozen=True)
class AnalysisSettings(Settings):
    """Settings of an analysis; `keys` override the settings of the first model's training."""

    keys: Mapping[str, object] = field(default_factory=dict)
    batches: int = field(default=BATCHES, metadata={"min": 1})
    tau: float = field(default=TAU, metadata={"above": 0})

    def check(self) -> None:
        checked_keys(self.keys, TRAIN.keys, "")


def find_subject(name: str) -> Subject:
    """Find a model by its folder, by the folder of its training (the last episode's model), or by its hub name.

    Raises:
        InputError: for a training without a model, or a missing model.
    """
    folder = Path(name)
    if _is_training(folder):
        return _find_in_training(name, folder, len(load_settings(folder).each_episode()))
    model = ModelFolder.find(name).path
    for run in (model.parent, model.parent.parent):
        if model.name == "model" and _is_training(run):
            count = len(load_settings(run).each_episode())
            number = next((n for n in range(1, count + 1) if _episode(run, n, count) == model.parent), None)
            if number:
                return _find_in_training(name, run, number)
    return Subject(name, model)


def _is_training(folder: Path) -> bool:
    path = folder / CONFIG_FILE
    return path.is_file() and {"collection", "weighting"} <= read_json(path, dict[str, Any]).keys()


def _find_in_training(name: str, run: Path, number: int) -> Subject:
    configs = load_settings(run).each_episode()
    episodes = [_episode(run, each, len(configs)) for each in range(1, number + 1)]
    model = episodes[-1] / "model"
    if not model.is_dir():
        raise InputError(
            f"{name}: this training has no model yet ({model} is missing); finish the training, or give a model folder"
        )
    return Subject(name, model, configs[number - 1], run, episodes)


def _episode(run: Path, number: int, count: int) -> Path:
    return run / f"episode-{number}" if count > 1 else run


def analyse(subjects: Sequence[Subject], settings: AnalysisSettings, output: Path) -> Analysis:
    """Measure all models on the same batches. Negatives that must be mined first are written to `output`.

    Data, tasks, negatives and batches are as in the first model's training, or the defaults if no training is known;
    keys in `settings` replace them. Dropout is off. Frozen parameters are measured, too.

    Raises:
        InputError: for models of different architectures, a task that a model has no prompt for, or unusable data.
    """
    from taco_ir.analysis.measure import measure
    from taco_ir.training.base_model import trained_encoder
    from taco_ir.training.objectives.base import Texts, Work, add_texts, passages_of
    from taco_ir.training.objectives.contrastive import Contrastive
    from taco_ir.training.processes import Processes

    first = subjects[0]
    config = (first.config or TrainSettings()).replace(
        weighting="naive", weighting_options={}, log_cosines=0, episodes=(), **cast("Values", settings.keys)
    )
    own = first.run is not None and "negatives" not in settings.keys  # then the training mined them
    folder = first.run if own and first.run else output
    processes = Processes(usable_device(config.run.device))
    data = TrainingData(
        config.run, config.encoder, config.objectives.reading, config.validation, folder, processes, config.task_tables
    )
    data.check_shares(config.batch)
    for subject in subjects:
        _check_prompts(subject, data.tasks)
    mined = data.read_mined(config.negatives, first.episodes[-1]) if own else {}  # of all tasks of the training
    negatives = mined or data.load_negatives(config.negatives, output, first.model)
    samplers = data.samplers(config.batch, negatives)
    texts, other_texts = Texts({}, {}), dict[Any, Texts]()
    for sampler in samplers:
        collection = data.places[sampler.task].collection
        batches = [sampler.sample(batch) for batch in range(settings.batches)]
        sampled = {id(example): example for batch in batches for example, _ in batch}
        known = texts if collection is data.collection else other_texts.setdefault(collection, Texts({}, {}))
        add_texts(known, collection, passages_of(sampled.values()))
    passes = 2 if settings.batches > 1 and len(samplers) > 1 else 1  # the second measures chance
    progress = Progress("analyse", passes * len(subjects) * len(samplers) * settings.batches, "batches")
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress.at(done)

    def measure_subject(subject: Subject) -> tuple[Measurement, dict[str, list[int]]]:
        model = trained_encoder(subject.model, config.run.device)
        work = Work(config.run, config.batch, config.objectives, config.optimiser, model, data, texts=texts)
        work.other_texts = other_texts
        objectives = [Contrastive.make(work, sampler) for sampler in samplers]
        try:
            measured = measure(objectives, settings.batches, settings.tau, count, config.run.seed)
        except InputError as error:
            raise InputError(f"{subject.name}: {error}") from error
        return measured, {name: list(param.shape) for name, param in model.trained_parameters()}

    shapes: dict[str, list[int]] = {}
    models = []
    names = [model_name(subject.name) for subject in subjects]
    shown = names if len({*names}) == len(names) else [subject.name for subject in subjects]
    for subject, name in zip(subjects, shown, strict=True):
        measured, found = measure_subject(subject)
        if found != (shapes := shapes or found):
            raise InputError(
                f"{subject.name}: its parameters differ in names or shapes from those of {first.name}; only models "
                "of one architecture can be compared"
            )
        models.append(_add_training(subject._replace(name=name), measured))
    source, batch = config.negatives.negatives, config.batch
    hard = "" if source == "none" else f"{source}, {batch.hard_negatives} a query, and "
    notes = [
        f"collection {', '.join(each.name for each in data.corpora)}; tasks {', '.join(data.tasks)}",
        f"{settings.batches} batches of each task's train queries, {batch.batch_size} queries of all tasks together "
        f"({batch.shares}), seed {config.run.seed}",
        f"negatives: {hard}the other queries' passages; the same batches for every model, dropout off",
        "by chance: the same with the batches of all tasks assigned to the tasks at random, by the seed; "
        "more batches make it smaller",
        f"q: softmax over tasks of S / {settings.tau:g}; S: mean over batches of |g θ| / its median over the "
        "parameters where it is not zero",
    ]
    return Analysis(notes, data.tasks, models)


def _check_prompts(subject: Subject, tasks: Sequence[str]) -> None:
    config = ModelFolder(subject.model).trained_config
    for task in tasks:
        try:
            config.prompt(task)
        except InputError as error:
            known = ", ".join(sorted(config.prompts))
            raise InputError(
                f"{subject.name}: it has prompts for {known}, but not for task {task!r}; choose tasks with --tasks"
            ) from error


def _add_training(subject: Subject, measured: Measurement) -> ModelAnalysis:
    from taco_ir.training.logged import logged_cosines, logged_dose

    names = ["" if len(subject.episodes) == 1 else episode.name for episode in subject.episodes]
    episodes = list(zip(names, subject.episodes, strict=True))
    weighting = subject.config.weighting.weighting if subject.config else None
    logged = {name: rows for name, episode in episodes if (rows := logged_cosines(episode))}
    every = {name: [(step, dose._asdict()) for step, dose in logged_dose(episode)] for name, episode in episodes}
    doses = {name: rows for name, rows in every.items() if rows}
    return ModelAnalysis(subject.name, weighting, measured, logged, *_describe_training(subject), doses)


def _describe_training(subject: Subject) -> tuple[dict[str, Any] | None, str]:
    """Returns the settings of the training's episodes without the weighting, and the weighting of each episode."""
    if subject.run is None:
        return None, ""
    configs = load_settings(subject.run).each_episode()[: len(subject.episodes)]
    apart = {"weighting", "weighting_options", "keep_importance", "episodes", *MAY_DIFFER}
    setting = {
        f"{f'episode {number}: ' if len(configs) > 1 else ''}{key}": _resolve(value) if key in PLACES else value
        for number, config in enumerate(configs, start=1)
        for key, value in config.flat().items()
        if key not in apart
    }
    recipes = []
    for weighting in (config.weighting for config in configs):
        options = [f"{key}={value}" for key, value in sorted(weighting.weighting_options.items())]
        recipes.append(" ".join([weighting.weighting, *options]))
    return setting, THEN.join(recipes if len(set(recipes)) > 1 else recipes[:1])


def _resolve(place: str) -> str:
    return str(Path(place).resolve()) if place and Path(place).exists() else place


def write_analysis(analysis: Analysis, output: Path) -> tuple[Path, Path]:
    """Write an analysis as a JSON file and as an HTML page to the folder `output`; returns both paths."""
    from taco_ir.analysis.specialisation_page import render_page

    page = render_page(analysis)
    write_json(output / JSON_FILE, to_dict(analysis))
    with writing(output / PAGE_FILE) as sink:
        sink.write(page)
    return output / JSON_FILE, output / PAGE_FILE
