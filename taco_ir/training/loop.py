"""The training loop of one episode: steps, learning rate, validation, checkpoints and log; resumes at checkpoints."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path

import torch
from torch.optim import AdamW

from taco_ir.core.files import InputError, writing_folder
from taco_ir.encoders.names import MODEL
from taco_ir.training.checkpoint import all_finite, remove_checkpoints, resume, write_checkpoint
from taco_ir.training.dose import Dose
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.log import Reporter, TrainingLog
from taco_ir.training.logged import Watchers
from taco_ir.training.processes import Processes
from taco_ir.training.sampling import Stream, write_stream
from taco_ir.training.schedules import Plan, learning_rate
from taco_ir.training.settings import OptimiserSettings, ValidationSettings, WeightingSettings
from taco_ir.training.step import MultiTaskStep, StepResult
from taco_ir.training.validation import Validation

MAX_SKIPPED = 10  # steps in a row whose gradient was not finite
BEST = "best"


class Loop:
    """Trains one episode in its folder: `checkpoints/`, `log.jsonl`, `best/` if validated, and finally `model/`.

    Args:
        validation: runs in the first process; None: no validation, and the last model is kept.
        warm: a checkpoint of the previous episode; `weighting` says which of its state to load.
        before: how many examples earlier trainings have used. The position saved with the model counts all examples of
            this training, even if the best model is from an earlier step.
        watchers: pages and trackers that get the lines of the log.
    """

    def __init__(
        self,
        optimiser: OptimiserSettings,
        weighting: WeightingSettings,
        settings: ValidationSettings,
        step: MultiTaskStep,
        plan: Plan,
        folder: Path,
        processes: Processes,
        reporter: Reporter,
        validation: Validation | None = None,
        warm: Path | None = None,
        before: Stream = Stream(),  # noqa: B008  (a tuple)
        watchers: Watchers | None = None,
    ) -> None:
        self._optimiser = optimiser
        self._settings = settings
        self._step = step
        self._plan = plan
        self._folder = folder
        self._processes = processes
        self._validation = validation
        self._before = before
        self._optimizer = adamw(step.model, optimiser)
        step.weighting.skip_steps(before.steps)
        self.state = resume(folder, warm, weighting, self._optimizer, step.weighting)
        self._log = TrainingLog(folder if processes.first else None, reporter, self.state.step, watchers)

    def run(self) -> Path:
        """Trains to the end; returns the folder of the model: the best in validation, or the last if not validated."""
        state, plan = self.state, self._plan
        if state.step == 0 and self._validation:
            self._validate()
            self._log.pause()
        self._step.model.train()
        while state.step < plan.steps and not 0 < self._settings.patience <= state.worse:
            began = time.perf_counter()
            rate = learning_rate(self._optimiser, state.step, plan.steps)
            result = self._step(state.step, state.step / plan.steps)
            update_norm, dose = self._apply(result, rate)
            state.step += 1
            self._log.step(state.step, result, rate, update_norm, time.perf_counter() - began, dose)
            validated = self._validation and (state.step % plan.validate_every == 0 or state.step == plan.steps)
            if validated:
                self._compare(self._validate())
            if validated or state.step % self._settings.checkpoint_every == 0 or state.step == plan.steps:
                self._log.pause()
                self._checkpoint()
        if not self._keeps_best and not all_finite(self._step.params):
            raise InputError(
                f"{self._folder}: after the last step, parameters are infinite or NaN; the last checkpoint in "
                "checkpoints/ is intact; try a lower learning_rate"
            )
        if self._processes.first:
            with writing_folder(self._folder / MODEL) as part:
                self._write_model(part)
                write_stream(part, self._stream)
            remove_checkpoints(self._folder / "checkpoints", self._settings.keep_checkpoints)
        self._processes.wait()
        return self._folder / MODEL

    def _apply(self, result: StepResult, rate: float) -> tuple[float, Dose | None]:
        """Clips and applies the update; returns the norm of the combined gradient, and the dose if it is measured.

        Raises:
            InputError: after MAX_SKIPPED steps in a row whose gradients are not finite.
        """
        state, params = self.state, self._step.params
        if result.report is None:
            state.in_a_row += 1
            for task in result.not_finite:
                state.skipped[task] = state.skipped.get(task, 0) + 1
            if state.in_a_row >= MAX_SKIPPED:
                counts = ", ".join(f"{task} ({count} steps)" for task, count in state.skipped.items())
                raise InputError(
                    f"the gradients of {MAX_SKIPPED} steps in a row were infinite or NaN, for {counts}; try a "
                    "lower learning_rate, or precision float32"
                )
            return math.nan, None
        state.in_a_row = 0
        norm = result.report.norm
        torch.nn.utils.clip_grads_with_norm_(params, self._optimiser.clip or math.inf, torch.tensor(norm))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        dose = self._step.dose.measure(self._optimizer)
        self._optimizer.zero_grad()
        return norm, dose

    def _checkpoint(self) -> None:
        """Writes a checkpoint and removes old ones, but not after a skipped step or if parameters are not finite."""
        if self.state.in_a_row:
            return
        if not all_finite(self._step.params):
            self._log.message(f"step {self.state.step}: parameters are not finite; no checkpoint is written")
            return
        if self._processes.first:
            folder, keep = self._folder / "checkpoints", self._settings.keep_checkpoints
            write_checkpoint(
                folder, self._step.model, self._optimizer, self._step.weighting, self.state, keep, self._stream
            )
        self._processes.wait()

    def _validate(self) -> float:
        """Validates in the first process; returns the macro average in all processes."""
        scores: dict[str, float] = {}
        if self._processes.first and self._validation:
            scores = self._validation()
            self._log.validation(self.state.step, scores, self._validation.what)
        self._step.model.train()
        return self._processes.from_first(scores.get("macro", 0.0))

    def _compare(self, macro: float) -> None:
        """Keeps the model if it is the best so far; otherwise counts the validation for patience."""
        state = self.state
        if not self._keeps_best or state.step <= self._plan.choose_after:
            return
        if state.best is None or macro > state.best:
            state.best, state.best_step, state.worse = macro, state.step, 0
            if self._processes.first:
                with writing_folder(self._folder / BEST) as part:
                    self._step.model.save(part)
                    write_stream(part, self._stream)
        else:
            state.worse += 1

    @property
    def _stream(self) -> Stream:
        """How far all examples are read now."""
        return self._before.advance(self.state.step, self._step.positions_after(self.state.step))

    @property
    def _keeps_best(self) -> bool:
        return self._validation is not None and self._validation.keeps_best

    def _write_model(self, folder: Path) -> None:
        """Writes the best model, or the last one if none is kept."""
        if self._keeps_best:
            self._log.message(f"best validation: step {self.state.best_step}, macro {self.state.best:.3f}")
            shutil.copytree(self._folder / BEST, folder, dirs_exist_ok=True, copy_function=_link)
        else:
            self._step.model.save_trained(folder)


def _link(source: str, target: str) -> None:
    """Gives a file a second name, which takes no space; copies the file if the file system cannot do this."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def adamw(model: DualEncoder, settings: OptimiserSettings) -> AdamW:
    """Makes AdamW (Loshchilov and Hutter, ICLR 2019) for trained parameters; biases and layer norms do not decay."""
    named = model.trained_parameters()
    groups = [
        {"params": [param for _, param in named if param.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [param for _, param in named if param.dim() <= 1], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)
