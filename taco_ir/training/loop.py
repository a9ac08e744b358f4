"""The training loop of one episode: steps, schedule, validation, checkpoints, log; resumable at every checkpoint."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from taco_ir.data.pools import Pool
from taco_ir.files import InputError, writing_folder
from taco_ir.training.checkpoint import TrainState, latest, load_optimizer, load_weighting, read_state, write_checkpoint
from taco_ir.training.config import TrainConfig
from taco_ir.training.log import Reporter, TrainingLog
from taco_ir.training.processes import Processes
from taco_ir.training.start import adamw, learning_rate
from taco_ir.training.step import MultiTaskStep, StepResult
from taco_ir.training.validation import validate

MAX_SKIPPED = 10  # steps in a row whose gradient was not finite
BEST, MODEL = "best", "model"


class Plan(NamedTuple):
    """How long an episode is.

    Attributes:
        steps: in all.
        validate_every: steps between validations.
    """

    steps: int
    validate_every: int


class Episode:
    """Trains a model on one set of negatives with one weighting, in a folder of its own.

    The folder: `checkpoints/`, `log.jsonl`, `best/` (a model folder) where it validates, and in the end `model/`.

    Args:
        pools: for validation; none: no validation.
        warm: a checkpoint whose optimiser or weighting state is taken over where `config` says so.
    """

    def __init__(
        self,
        config: TrainConfig,
        step: MultiTaskStep,
        plan: Plan,
        pools: Sequence[Pool],
        folder: Path,
        processes: Processes,
        reporter: Reporter,
        warm: Path | None = None,
    ) -> None:
        self._config = config
        self._step = step
        self._plan = plan
        self._pools = pools
        self._folder = folder
        self._processes = processes
        self._optimizer = adamw(step.model, config)
        self.state = self._resume(warm)
        self._log = TrainingLog(folder if processes.first else None, reporter, self.state.step)

    def _resume(self, warm: Path | None) -> TrainState:
        """Load the last checkpoint's optimiser and weighting (the model was loaded from it); the log ends where it did."""
        if found := latest(self._folder):
            load_optimizer(found, self._optimizer)
            load_weighting(found, self._step.weighting)
            state = read_state(found)
        else:
            state = TrainState()
            if warm and self._config.keep_optimizer:
                load_optimizer(warm, self._optimizer)
            if warm and self._config.keep_importance:
                load_weighting(warm, self._step.weighting)
        return state

    def run(self) -> Path:
        """Train to the end; the folder of the model: the best of all validations, or the last."""
        state, plan = self.state, self._plan
        if state.step == 0 and self._pools:
            self._validate()
        self._step.model.train()
        while state.step < plan.steps and not self._out_of_patience:
            began = time.perf_counter()
            rate = learning_rate(self._config, state.step, plan.steps)
            result = self._step(state.step, state.step / plan.steps)
            update_norm = self._apply(result, rate)
            state.step += 1
            self._log.step(state.step, result, rate, update_norm, time.perf_counter() - began)
            validated = bool(self._pools) and (state.step % plan.validate_every == 0 or state.step == plan.steps)
            if validated:
                self._judge()
            if validated or state.step % self._config.checkpoint_every == 0 or state.step == plan.steps:
                self._checkpoint()
        return self._finish()

    @property
    def _out_of_patience(self) -> bool:
        return 0 < self._config.patience <= self.state.worse

    def _apply(self, result: StepResult, rate: float) -> float:
        """Clip and step, or count a step that must be skipped; the norm of the combined gradient.

        Raises:
            InputError: after MAX_SKIPPED steps in a row without a finite gradient.
        """
        state, params = self.state, self._step.params
        if result.report is None:
            state.in_a_row += 1
            for task in result.not_finite:
                state.skipped[task] = state.skipped.get(task, 0) + 1
            if state.in_a_row >= MAX_SKIPPED:
                counts = ", ".join(f"{task} ({count} steps)" for task, count in state.skipped.items())
                raise InputError(
                    f"{MAX_SKIPPED} steps in a row had gradients that are not finite, of {counts}; a lower learning rate or float32 may help"
                )
            return math.nan
        state.in_a_row = 0
        norm = float(torch.nn.utils.clip_grad_norm_(params, self._config.clip or math.inf))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def _validate(self) -> float:
        """Validate on the first process; the macro average, for all."""
        scores: dict[str, float] = {}
        if self._processes.first:
            scores = validate(self._step.model.text_encoder(), self._pools, self._step.texts.passages)
            scores["macro"] = math.fsum(scores.values()) / len(scores)
            self._log.validation(self.state.step, scores)
        self._step.model.train()
        return self._processes.from_first(scores.get("macro", 0.0))

    def _judge(self) -> None:
        """Validate; keep the model where it is the best so far."""
        state = self.state
        macro = self._validate()
        state.worse += 1
        if state.best is None or macro > state.best:
            state.best, state.best_step, state.worse = macro, state.step, 0
            if self._processes.first:
                with writing_folder(self._folder / BEST) as part:
                    self._step.model.save(part)

    def _checkpoint(self) -> None:
        if self._processes.first:
            write_checkpoint(
                self._folder / "checkpoints",
                self._step.model,
                self._optimizer,
                self._step.weighting,
                self.state,
                self._config.keep_checkpoints,
            )
        self._processes.wait()

    def _finish(self) -> Path:
        """Put the best model, or the last where none was validated, to `model`."""
        if self._processes.first:
            if self._pools:
                self._log.message(f"best validation: step {self.state.best_step}, macro page R-precision {self.state.best:.3f}")
            with writing_folder(self._folder / MODEL) as part:
                if self._pools:
                    shutil.copytree(self._folder / BEST, part, dirs_exist_ok=True)
                else:
                    self._step.model.save(part)
        self._processes.wait()
        return self._folder / MODEL
