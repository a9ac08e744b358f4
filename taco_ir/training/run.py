"""A training run: episodes one after the other, each with negatives of its own, resumed at the exact stage and step.

A stage is done when what it leaves is there, whole: negatives by their file, an index by its manifest, an episode by its
`model` folder. Xiong et al., Approximate Nearest Neighbor Negative Contrastive Learning (ANCE), ICLR 2021.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.core.files import exclusive, write_json
from taco_ir.retrieval.lucene import trim_jvm
from taco_ir.training.build import check_schedule, encoder_for, step_for, validation_for
from taco_ir.training.data import TrainingData
from taco_ir.training.folder import begun, refuse_other_run, refuse_overwriting, remove_run, save_settings
from taco_ir.training.settings import TrainSettings

if TYPE_CHECKING:
    from taco_ir.training.distributed import Processes


def train(config: TrainSettings, overwrite: bool = False) -> Path:
    """Run all episodes of `config` that are not done, or, to overwrite, all anew; the folder of the trained model.

    What is overwritten stays until the first step is about to be made.

    Raises:
        InputError: for a folder that holds something else or a run that was configured otherwise, and for all that is
            wrong with data, model or negatives.
    """
    import torch

    from taco_ir.training.distributed import Processes

    output = Path(config.run.output)
    processes = Processes(torch.device(config.run.device))
    if not processes.first:
        return Run(config, output, processes, overwrite).episodes()
    (refuse_overwriting if overwrite else refuse_other_run)(config, output)
    if config.validation.tensorboard:
        from taco_ir.training.reporting import require_tensorboard

        require_tensorboard()
    with exclusive(output / "run", wait=False):
        run = Run(config, output, processes, overwrite)
        if not overwrite or not begun(output):
            run.claim()
        return run.episodes()


class Run:
    """The data that all episodes share, and their folders under `output`.

    Args:
        anew: a run that is in `output` is removed when the first step is about to be made.
    """

    def __init__(self, config: TrainSettings, output: Path, processes: Processes, anew: bool = False) -> None:
        from taco_ir.training.setup import check_weighting
        from taco_ir.training.tuning import check_episodes

        self.config = config
        self.output = output
        self.processes = processes
        self._anew = anew
        self.data = TrainingData(config, output, processes)
        check_episodes(config.each_episode())
        for episode in config.each_episode():  # what would stop it after hours of mining or training
            check_schedule(episode)
            check_weighting(episode.weighting, len(self.data.tasks))

    def claim(self) -> None:
        """Say in `output` what this run is. Raises: InputError where it was begun with other data."""
        self.data.refuse_other_inputs()
        if not begun(self.output):
            save_settings(self.config, self.output)

    def episodes(self) -> Path:
        """Run what is not done yet; the last episode's model."""
        from taco_ir.encoders.model_folder import ModelFolder

        model = ModelFolder.find(self.config.run.model).path
        warm: Path | None = None
        configs = self.config.each_episode()
        for number, config in enumerate(configs, 1):
            folder = self.output / f"episode-{number}" if len(configs) > 1 else self.output
            if self._anew or not (folder / "model").is_dir():
                self.data.say(
                    f"episode {number} of {len(configs)}: {config.negatives.negatives} negatives, {config.weighting.weighting}, from {model}"
                )
                folder.mkdir(parents=True, exist_ok=True)
                self._train(config, folder, model, warm)
            if self.processes.first:
                for stale in ("vectors", "index"):
                    shutil.rmtree(folder / stale, ignore_errors=True)
            model, warm = folder / "model", folder
        self.data.say(f"trained model: {model}")
        return model

    def _train(self, config: TrainSettings, folder: Path, model: Path, warm: Path | None) -> None:
        from taco_ir.training.announce import announce, told_peak
        from taco_ir.training.checkpoint import latest
        from taco_ir.training.log import Reporter
        from taco_ir.training.loop import Loop
        from taco_ir.training.reporting import ConsoleReporter
        from taco_ir.training.stream import read_stream

        before = read_stream(model)
        found = None if self._anew else latest(folder)
        encoder = encoder_for(config, found / "model" if found else model, self.data)
        negatives = self.data.negatives(config, folder, model)
        pools = self.data.pools
        trim_jvm()
        step, plan = step_for(config, encoder, self.data, negatives, pools, before)
        if before.steps:
            self.data.say(f"batches go on where {model} left them, after {before}")
        self.data.say(announce(config, step, plan, self.processes.world, bool(pools)))
        validation = validation_for(config, encoder, self.data, pools, step.texts) if pools else None
        if self._anew:
            self._make_way(config, folder)
        reporter = Reporter()
        if self.processes.first:
            write_json(folder / "parameters.json", encoder.sizes)
            reporter = ConsoleReporter(plan.steps, folder if config.validation.tensorboard else None)
        loop = Loop(config, step, plan, folder, self.processes, reporter, validation, warm and latest(warm), before)
        if loop.state.step:
            self.data.say(f"going on after step {loop.state.step:,}")
            reporter.skip(loop.state.step)
        loop.run()
        self.data.say(told_peak(encoder))

    def _make_way(self, config: TrainSettings, folder: Path) -> None:
        """Remove the run that was in `output` before, but for what was mined for this one, whose first episode is in `folder`."""
        if self.processes.first:
            remove_run(self.output, self.data.mined_for(config, folder))
            self.claim()
        self.processes.wait()
        self._anew = False
