"""A reader's training: tasks with answers, an encoder with a head, and the loop that all trainings share; resumable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.core.files import exclusive
from taco_ir.core.progress import log
from taco_ir.data.examples import drawn_examples
from taco_ir.reading.data import ReadingData, read_reading
from taco_ir.training.data import TrainingData, samplers_of, shares_of, texts_of
from taco_ir.training.folder import begun, refuse_other_run, refuse_overwriting, remove_run, save_settings
from taco_ir.training.settings import TrainSettings
from taco_ir.training.task_shares import steps_per_epoch

if TYPE_CHECKING:
    from taco_ir.training.distributed import Processes
    from taco_ir.training.objectives.reading import ReadingEncoder, ReadingStep
    from taco_ir.training.stream import Stream

KEYS = (
    *("collection", "tasks", "model", "output", "seed", "device", "train_share", "max_examples"),
    *("query_length", "passage_length", "freeze_embeddings", "freeze_layers", "dropout"),
    *("batch_size", "shares", "share_temperature", "hard_negatives"),
    *("learning_rate", "weight_decay", "warmup", "clip", "epochs", "steps", "accumulate", "precision", "gradient_checkpointing"),
    *("weighting", "weighting_options"),
    *("negatives", "mine_depth", "mine_skip", "mine_keep"),
    *("checkpoint_every", "keep_checkpoints", "tensorboard"),
)  # of a TrainSettings: those that a reader's training has
DEFAULTS = {"batch_size": 16, "hard_negatives": 7, "shares": "proportional"}  # that differ from those of training a retriever


def train_reader(config: TrainSettings, overwrite: bool = False) -> Path:
    """Train what is not done yet, or, to overwrite, all anew; the folder of the reader.

    Raises:
        InputError: for a folder that holds something else or a run that was configured otherwise, for answers that no
            passage holds, and for all that is wrong with data, model or negatives.
    """
    import torch

    from taco_ir.training.distributed import Processes

    output = Path(config.run.output)
    processes = Processes(torch.device(config.run.device))
    if not processes.first:
        return _run(config, output, processes, overwrite)
    (refuse_overwriting if overwrite else refuse_other_run)(config, output)
    if config.validation.tensorboard:
        from taco_ir.training.reporting import require_tensorboard

        require_tensorboard()
    with exclusive(output / "run", wait=False):
        return _run(config, output, processes, overwrite)


def _run(config: TrainSettings, output: Path, processes: Processes, overwrite: bool) -> Path:
    from taco_ir.encoders.model_folder import ModelFolder
    from taco_ir.training.checkpoint import latest
    from taco_ir.training.log import Reporter
    from taco_ir.training.loop import Loop, Plan
    from taco_ir.training.objectives.reading import start_reader
    from taco_ir.training.reporting import ConsoleReporter
    from taco_ir.training.stream import read_stream

    data = TrainingData(config, output, processes)
    if not overwrite and (output / "model").is_dir():
        return output / "model"
    base = ModelFolder.find(config.run.model).path
    found = None if overwrite else latest(output)
    model = start_reader(config, found / "model" if found else base)
    if processes.first and not (overwrite and begun(output)):
        _claim(config, output, data)
    before = read_stream(base)
    step = _step(config, model, data, output, base, before)
    shares = [sampler.share for sampler in step.samplers]
    epoch = steps_per_epoch([len(sampler.examples) for sampler in step.samplers], shares)
    plan = Plan(config.optimiser.steps or max(1, round(config.optimiser.epochs * epoch)), epoch)
    data.say(f"{plan.steps:,} steps of {sum(shares)} questions, each with a gold passage and at most {config.batch.hard_negatives} others")
    if overwrite:
        if processes.first:
            remove_run(output, data.mined_for(config, output))
            _claim(config, output, data)
        processes.wait()
    reporter = ConsoleReporter(plan.steps, output if config.validation.tensorboard else None, "reader") if processes.first else Reporter()
    loop = Loop(config, step, plan, output, processes, reporter, before=before)
    if loop.state.step:
        data.say(f"going on after step {loop.state.step:,}")
        reporter.skip(loop.state.step)
    return loop.run()


def _claim(config: TrainSettings, output: Path, data: TrainingData) -> None:
    """Say in `output` what this run is. Raises: InputError where it was begun with other data."""
    data.refuse_other_inputs()
    if not begun(output):
        save_settings(config, output)


def _step(config: TrainSettings, model: ReadingEncoder, data: TrainingData, output: Path, base: Path, before: Stream) -> ReadingStep:
    from taco_ir.training.backward import Arithmetic
    from taco_ir.training.objectives.reading import ReadingStep, readable
    from taco_ir.training.setup import weighting_of
    from taco_ir.training.step import BatchSettings

    read = [read_reading(data.collection, task) for task in data.tasks]
    texts = texts_of(data.collection, (example for each in read for example in each.examples))
    usable = [readable(each, model.inputs, texts.passages) for each in read]
    for whole, after in zip(read, usable, strict=True):
        _say_cut(whole, after, model)
    drawn = [drawn_examples(each.examples, config.run.max_examples, config.run.seed, each.task, config.run.train_share) for each in usable]
    used = {each.task: {example.qid for example in own} for each, own in zip(usable, drawn, strict=True)}
    negatives = data.negatives(config, output, base, used)
    if negatives:
        found = [read_reading(data.collection, each.task, negatives=negatives, qids=used[each.task]) for each in usable]
        texts = texts_of(data.collection, (example for each in found for example in each.examples))
        usable = [readable(each, model.inputs, texts.passages) for each in found]
        drawn = [each.examples for each in usable]
    shares = shares_of(config, [len(each) for each in drawn])
    samplers = samplers_of(config, data.tasks, drawn, shares, negatives, before)
    settings = BatchSettings(config.batch.hard_negatives, accumulate=config.optimiser.accumulate, seed=config.run.seed)
    spans = {each.task: each.spans for each in usable}
    weighting = weighting_of(config.weighting, model, len(samplers))
    return ReadingStep(model, samplers, texts, spans, weighting, settings, Arithmetic(config.optimiser.precision == "bf16"), data.processes)


def _say_cut(before: ReadingData, after: ReadingData, model: ReadingEncoder) -> None:
    limits = model.inputs.config
    if cut := len(before.examples) - len(after.examples):
        log.warning(
            "%s: %d of %d queries have no answer of at most %d tokens in the first %d of a passage; left out",
            before.task,
            cut,
            len(before.examples),
            limits.answer,
            limits.passage,
        )
