"""A training: episodes one after the other, resumed at the exact stage and step.

A stage is done when what it leaves is there, whole: negatives by their file, an index by its manifest, an episode by its
`model` folder. Xiong et al., Approximate Nearest Neighbor Negative Contrastive Learning (ANCE), ICLR 2021.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.core.files import InputError, exclusive, write_json
from taco_ir.retrieval.lucene import trim_jvm
from taco_ir.training.build import check_schedule, encoder_for, objectives_of, step_of, validation_for
from taco_ir.training.data import TrainingData
from taco_ir.training.folder import begun, refuse_other_run, refuse_overwriting, remove_run, save_settings
from taco_ir.training.settings import NegativeSettings, TrainSettings

if TYPE_CHECKING:
    from taco_ir.training.distributed import Processes


def train(settings: TrainSettings, overwrite: bool = False) -> Path:
    """Run all episodes that are not done, or, to overwrite, all anew; the folder of the trained model.

    What is overwritten stays until the first step is about to be made.

    Raises:
        InputError: for a folder that holds something else or a training with other settings, and for all that is
            wrong with data, model or negatives.
    """
    from taco_ir.encoders.backbone import usable_device
    from taco_ir.training.distributed import Processes

    if settings.objectives.pretrains and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("pre-training runs in one process; start it without torchrun (--gradcache fits large batches)")
    output = Path(settings.run.output)
    processes = Processes(usable_device(settings.run.device))
    if not processes.first:
        return Training(settings, output, processes, overwrite).episodes()
    (refuse_overwriting if overwrite else refuse_other_run)(settings, output)
    if settings.validation.tensorboard:
        from taco_ir.training.reporting import require_tensorboard

        require_tensorboard()
    with exclusive(output / "run", wait=False):
        training = Training(settings, output, processes, overwrite)
        if overwrite or not begun(output):
            training.check_negatives()
        if not overwrite or not begun(output):
            training.data.refuse_other_inputs()
        return training.episodes()


class Training:
    """The data that all episodes share, and their folders under `output`.

    Args:
        anew: a training that is in `output` is removed when the first step is about to be made.
    """

    def __init__(self, settings: TrainSettings, output: Path, processes: Processes, anew: bool = False) -> None:
        from taco_ir.training.setup import check_weighting
        from taco_ir.training.tuning import check_episodes

        self.settings = settings
        self.output = output
        self.processes = processes
        self._anew = anew
        self.data = TrainingData(settings, output, processes)
        each = settings.each_episode()
        check_episodes(each)
        for episode in each:  # what would stop it after hours of mining or training
            check_schedule(episode.objectives, episode.weighting.weighting)
            check_weighting(episode.weighting, max(len(self.data.tasks), 1))

    def check_negatives(self) -> None:
        """Raise InputError, before anything is loaded, where what an episode needs could be neither mined nor read."""
        hard_pools = self.settings.validation.pool_hard > 0 and self.data.validates
        for episode in self.settings.each_episode():
            self.data.check_negatives(episode.negatives.negatives, hard_pools)

    def episodes(self) -> Path:
        """Run what is not done yet; the last episode's model."""
        from taco_ir.encoders.model_folder import ModelFolder

        model = ModelFolder.find(self.settings.run.model).path
        warm: Path | None = None
        each = self.settings.each_episode()
        for number, episode in enumerate(each, 1):
            folder = self.output / f"episode-{number}" if len(each) > 1 else self.output
            if self._anew or not (folder / "model").is_dir():
                source, weighting = episode.negatives.negatives, episode.weighting.weighting
                self.data.say(f"episode {number} of {len(each)}: {source} negatives, {weighting}, from {model}")
                folder.mkdir(parents=True, exist_ok=True)
                self._train(episode, folder, model, warm)
            if self.processes.first:
                for stale in ("vectors", "index"):
                    shutil.rmtree(folder / stale, ignore_errors=True)
            model, warm = folder / "model", folder
        self.data.say(f"trained model: {model}")
        return model

    def _train(self, settings: TrainSettings, folder: Path, model: Path, warm: Path | None) -> None:
        from taco_ir.training.announce import announce, told_peak
        from taco_ir.training.checkpoint import latest
        from taco_ir.training.log import Reporter
        from taco_ir.training.loop import Loop
        from taco_ir.training.objectives.base import Work, add_texts
        from taco_ir.training.objectives.reading import readable_queries
        from taco_ir.training.reporting import ConsoleReporter
        from taco_ir.training.shared import SharedEncoder
        from taco_ir.training.stream import read_stream

        data, before, found = self.data, read_stream(model), None if self._anew else latest(folder)
        encoder = encoder_for(settings, model, found and found / "model", data.tasks)
        work = Work(settings, encoder, data, None, before)
        if isinstance(encoder, SharedEncoder) and data.reading:
            work.readable = readable_queries(data, settings.run, encoder.inputs)
        self._claim()
        work.negatives = data.negatives(settings.negatives, folder, model, work.readable)
        pools = data.pools
        trim_jvm()
        objectives = objectives_of(work)
        step, plan = step_of(settings, encoder, objectives, before.steps)
        add_texts(work.texts, data.collection, (docid for pool in pools for docid in pool.docids))
        if before.steps:
            data.say(f"batches go on where {model} left them, after {before}")
        data.say(announce(settings, step, plan, self.processes.world, bool(pools)))
        own = next((measured for each in objectives if (measured := each.validation())), None)
        validation = validation_for(settings, encoder, data, pools, work.texts) if pools else own
        if self._anew:
            self._make_way(settings.negatives, folder)
        reporter = Reporter()
        if self.processes.first:
            write_json(folder / "parameters.json", encoder.sizes)
            what = "pretrain" if settings.objectives.pretrains else "train"
            reporter = ConsoleReporter(plan.steps, folder if settings.validation.tensorboard else None, what)
        loop = Loop(settings, step, plan, folder, self.processes, reporter, validation, warm and latest(warm), before)
        if loop.state.step:
            data.say(f"going on after step {loop.state.step:,}")
            reporter.skip(loop.state.step)
        loop.run()
        data.say(told_peak(encoder))

    def _claim(self) -> None:
        """Say in `output` what this training is, where none has begun."""
        if self.processes.first and not begun(self.output):
            save_settings(self.settings, self.output)

    def _make_way(self, source: NegativeSettings, folder: Path) -> None:
        """Remove the training that was in `output` before, but for what was mined for this one, whose first episode is in `folder`."""
        if self.processes.first:
            remove_run(self.output, self.data.mined_for(source, folder))
            self.data.refuse_other_inputs()
        self._claim()
        self.processes.wait()
        self._anew = False
