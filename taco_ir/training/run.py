"""Runs a training: its episodes one after the other. A stopped training continues exactly where it stopped.

A part of the work is done if its output exists: a file of negatives, blocks of vectors, an episode's `model` folder.
Xiong et al., Approximate Nearest Neighbor Negative Contrastive Learning (ANCE), ICLR 2021.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from taco_ir.core import resolve
from taco_ir.core.files import InputError, exclusive, sweep, write_json
from taco_ir.encoders.backbone import usable_device
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.retrieval.lucene import trim_jvm
from taco_ir.training.announce import announce, describe_peak
from taco_ir.training.base_model import start_encoder
from taco_ir.training.checkpoint import find_latest
from taco_ir.training.curves import write_missing_page
from taco_ir.training.data import TrainingData
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.folder import begun, refuse_other_run, remove_run, save_settings
from taco_ir.training.log import ConsoleReporter, Reporter
from taco_ir.training.loop import Loop
from taco_ir.training.objectives import OBJECTIVES
from taco_ir.training.objectives.base import Objective, Work, add_texts
from taco_ir.training.objectives.reading import readable_queries
from taco_ir.training.processes import Processes
from taco_ir.training.sampling import read_stream
from taco_ir.training.schedules import Plan, Schedule, ScheduledTask, count_epoch_steps, find_last_phase, plan_steps
from taco_ir.training.settings import NOTHING, NegativeSettings, TrainSettings, require
from taco_ir.training.shared_encoder import SharedEncoder
from taco_ir.training.step import MultiTaskStep, check_weighting, make_weighting
from taco_ir.training.trackers import follow, require_packages
from taco_ir.training.validation import Pool, PoolValidation, Validation, read_questions


def train(settings: TrainSettings, overwrite: bool = False) -> Path:
    """Trains an encoder; returns the folder of the trained model. An unfinished training is resumed.

    Args:
        overwrite: replace the training in the output folder; it is removed just before the first new step.

    Raises:
        InputError: if the output folder has other files or another training, or data, model or negatives are invalid.

    Examples:
        >>> settings = taco_ir.TrainSettings(tasks=["nq", "fever"], model="taco-mini-backbone", output="out", steps=2)
        >>> taco_ir.load_encoder(taco_ir.train(settings)).dim
        384
    """
    require(settings.flat())
    if settings.objectives.pretrains and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "pre-training runs in one process; start it without torchrun (for large batches, use --gradcache)"
        )
    output = Path(settings.run.output)
    processes = Processes(usable_device(settings.run.device))
    if not processes.first:
        return Training(settings, output, processes, overwrite).run()
    refuse_other_run(settings, output, overwrite)
    require_packages(settings.validation.track)
    with exclusive(output / "run", wait=False):
        training = Training(settings, output, processes, overwrite)
        if overwrite or not begun(output):
            training.check_negatives()
        if not overwrite or not begun(output):
            training.refuse_other_inputs()
        with closing(training.watchers):
            return training.run()


class Training:
    """The episodes of a training, and the data that all episodes use.

    Args:
        anew: replace an earlier training in `output`; it is removed just before the first step.
    """

    def __init__(self, settings: TrainSettings, output: Path, processes: Processes, anew: bool = False) -> None:
        self.settings = settings
        self.episodes = settings.each_episode()
        self.output = output
        self.processes = processes
        self._anew = anew
        self.watchers = follow(output, settings.validation.track, settings.flat())
        reading = settings.objectives.reading
        self.data = TrainingData(
            settings.run, settings.encoder, reading, settings.validation, output, processes, settings.task_tables
        )
        settings.check_episodes()
        alone = [name for name in settings.objectives.self_supervised if (name,) != NOTHING]
        names = [*self.data.tasks, *self.data.reading_names, *alone] or ["documents"]
        for episode in self.episodes:  # find mistakes now that would stop the training after hours
            self.data.check_shares(episode.batch)
            check_weighting(episode.weighting, names)

    def check_negatives(self) -> None:
        """Raises InputError, before a model is loaded, if negatives of an episode can be neither mined nor read."""
        hard_pools = self.settings.validation.pool_hard > 0 and self.data.validates
        for episode in self.episodes:
            self.data.check_negatives(episode.negatives.negatives, hard_pools)

    def refuse_other_inputs(self) -> None:
        """Raises InputError if the training began with other passages, topics, base weights or negatives."""
        alone = self.settings.objectives.self_supervised != NOTHING
        self.data.refuse_other_inputs((episode.negatives.negatives for episode in self.episodes), alone)

    def run(self) -> Path:
        """Runs the episodes that are not finished; returns the folder of the last episode's model."""
        model = ModelFolder.find(self.settings.run.model).path
        warm: Path | None = None
        count = len(self.episodes)
        for number, episode in enumerate(self.episodes, 1):
            folder = self.output / f"episode-{number}" if count > 1 else self.output
            if self._anew or not (folder / "model").is_dir():
                source, weighting = episode.negatives.negatives, episode.weighting.weighting
                self.data.say(f"episode {number} of {count}: {source} negatives, {weighting}, from {model}")
                folder.mkdir(parents=True, exist_ok=True)
                self._train(episode, folder, model, warm)
            if self.processes.first:
                for place in (self.data.folder_of(each, folder) for each in self.data.corpora):
                    shutil.rmtree(place / "vectors", ignore_errors=True)
            model, warm = folder / "model", folder
        if self.processes.first:
            write_missing_page(self.output)
            sweep(self.output)
        self.data.say(f"trained model: {model}")
        return model

    def _train(self, settings: TrainSettings, folder: Path, model: Path, warm: Path | None) -> None:
        data, before, found = self.data, read_stream(model), None if self._anew else find_latest(folder)
        encoder = start_encoder(settings, model, data.tasks, found and found / "model")
        work = Work(settings.run, settings.batch, settings.objectives, settings.optimiser, encoder, data)
        work.before, work.held_out = before, settings.validation.held_out
        if isinstance(encoder, SharedEncoder) and data.reading:
            work.readable = readable_queries(data, encoder.inputs)
        self._claim()
        work.negatives = data.load_negatives(settings.negatives, folder, model, work.readable)
        pools = data.pools
        trim_jvm()
        objectives = [each for kind in settings.objectives.kinds for each in resolve(OBJECTIVES[kind]).of(work)]
        step, plan = make_step(settings, encoder, objectives, before.steps)
        for collection in data.corpora:
            needed = (docid for pool in data.pools_of(collection) for docid in pool.docids)
            add_texts(work.texts_of(collection), collection, needed)
        if before.steps:
            data.say(f"each task continues after the examples that {model} was trained on: {before}")
        more = step.extra_bytes(settings.weighting.weighting_options)
        schedule, weighting = settings.objectives.schedule, settings.weighting.weighting
        validation: Validation | None = make_validation(work, pools, settings.validation.validate_on)
        data.say(announce(objectives, plan, schedule, settings.optimiser, weighting, more, validation is not None))
        validation = validation or next((measured for each in objectives if (measured := each.validation())), None)
        if self._anew:
            self._make_way(settings.negatives, folder)
        reporter = Reporter()
        if self.processes.first:
            write_json(folder / "parameters.json", encoder.sizes)
            what = "pretrain" if settings.objectives.pretrains else "train"
            reporter = ConsoleReporter(plan.steps, what)
        sections = (settings.optimiser, settings.weighting, settings.validation)
        earlier = (warm and find_latest(warm), before)
        loop = Loop(*sections, step, plan, folder, self.processes, reporter, validation, *earlier, self.watchers)
        if loop.state.step:
            data.say(f"going on after step {loop.state.step:,}")
            reporter.skip(loop.state.step)
        loop.run()
        data.say(describe_peak(encoder))

    def _claim(self) -> None:
        """Saves the settings in `output` if no training has begun there."""
        if self.processes.first and not begun(self.output):
            save_settings(self.settings, self.output)

    def _make_way(self, source: NegativeSettings, folder: Path) -> None:
        """Removes the old training in `output`, except files mined for the first episode, which is in `folder`."""
        if self.processes.first:
            remove_run(self.output, self.data.mined_files(source, folder))
            self.refuse_other_inputs()
        self._claim()
        self.processes.wait()
        self._anew = False


def make_step(
    settings: TrainSettings, model: DualEncoder, objectives: Sequence[Objective], before: int = 0
) -> tuple[MultiTaskStep, Plan]:
    """Returns the training step, and the plan with the number of steps.

    An epoch ends when every query was sampled once or, without queries, every passage.

    Args:
        before: number of steps of earlier trainings; the schedule's random choices continue after them.
    """
    own, optimiser, validation = settings.objectives, settings.optimiser, settings.validation
    tasks = [ScheduledTask(each.phase, len(each.sampler)) for each in objectives]
    epoch = count_epoch_steps(own, tasks, [each.sampler.share for each in objectives])
    steps = optimiser.steps or max(1, round(optimiser.epochs * epoch))
    plan = Plan(steps, validation.validate_every or epoch, find_last_phase(own, tasks, steps))
    schedule = None
    if own.schedule != "joint":
        schedule = Schedule(plan_steps(own, settings.run.seed, tasks, steps, before))
    weighting = make_weighting(settings.weighting, model, [each.task for each in objectives])
    logs = (validation.log_cosines, validation.log_dose)
    return MultiTaskStep(model, objectives, weighting, schedule, *logs), plan


def make_validation(work: Work, pools: Sequence[Pool], split: str) -> PoolValidation | None:
    """Returns a validation that ranks passages for held-out queries, and answers held-out questions of reading tasks.

    Returns None if no task has held-out queries. `split` is the split of these queries, such as dev.
    """
    data, questions = work.data, None
    if data.reading:
        negatives, questions = work.objectives.reading_negatives, []
        for pool in (pool for pool in pools if pool.task in data.reading):
            collection, name, _ = data.places[pool.task]
            found = read_questions(collection, [pool._replace(task=name)], split, negatives, work.run.seed)
            questions += [each._replace(task=pool.task) for each in found]
    corpora = [(own, work.texts_of(each).passages) for each in data.corpora if (own := data.pools_of(each))]
    return PoolValidation(work.encoder, corpora, questions) if corpora or questions else None
