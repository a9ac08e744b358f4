"""A pre-training run: documents of a collection, the model, and the loop; resumed at the exact step."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError, exclusive, fingerprint
from taco_ir.core.progress import Progress
from taco_ir.core.seeds import generator
from taco_ir.data.collection import Collection, open_collection
from taco_ir.encoders.config import Pooling
from taco_ir.training.documents import Documents, Ids, documents_of, drawn_rows
from taco_ir.training.folder import begun, refuse_other_run, refuse_overwriting, remove_run, save_settings
from taco_ir.training.settings import MIN_SPAN, TrainSettings

if TYPE_CHECKING:
    from taco_ir.training.loop import Plan
    from taco_ir.training.pretraining_encoder import PretrainModel

TOKENIZED_AT_ONCE = 512


def pretrain(config: TrainSettings, overwrite: bool = False) -> Path:
    """Run what is not done yet, or, to overwrite, all anew; the folder of the pre-trained model.

    Raises:
        InputError: for a folder that holds something else or a run that was configured otherwise, and for all that is
            wrong with collection or model.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("pre-training runs in one process; start it without torchrun (--gradcache fits large batches)")
    output = Path(config.run.output)
    (refuse_overwriting if overwrite else refuse_other_run)(config, output)
    if config.validation.tensorboard:
        from taco_ir.training.reporting import require_tensorboard

        require_tensorboard()
    with exclusive(output / "run", wait=False):
        if overwrite or not (output / "model").is_dir():
            _run(config, output, overwrite)
    say(f"pre-trained model: {output / 'model'}")
    return output / "model"


def pooling_flags(config: TrainSettings) -> str:
    """What to say of the model, which does not describe itself, so that it pools as its base did or as it was pre-trained."""
    from taco_ir.encoders.model_folder import ModelFolder

    base = ModelFolder.find(config.run.model)
    if not base.describes_itself:
        return f"--pooling {config.encoder.pooling or '|'.join(get_args(Pooling))}{' --normalize' * config.encoder.normalize}"
    own = base.trained_config
    return f"--pooling {own.pooling}{' --normalize' * (own.normalize or config.encoder.normalize)}"


def say(text: str) -> None:
    print(text, file=sys.stderr)


def _run(config: TrainSettings, output: Path, overwrite: bool) -> None:
    from taco_ir.encoders.model_folder import ModelFolder
    from taco_ir.training.checkpoint import latest
    from taco_ir.training.folder import inputs_of, refuse_other_inputs
    from taco_ir.training.loop import Plan
    from taco_ir.training.pretraining_encoder import start_pretraining
    from taco_ir.training.pretraining_loop import DOCUMENTS, Pretraining, PretrainStep, Spans
    from taco_ir.training.reporting import ConsoleReporter
    from taco_ir.training.stream import read_stream

    collection = open_collection(config.run.collection)
    found = None if overwrite else latest(output)
    base = ModelFolder.find(config.run.model).path
    inputs = inputs_of(collection, (), base)
    if not overwrite:
        refuse_other_inputs(output, inputs)
    before = read_stream(base)
    model = start_pretraining(config, base, found / "model" if found else None)
    documents = read_documents(config, collection, model)
    trained, held_out = split(config, documents.number)
    epoch = -(-len(trained) // config.batch.batch_size)
    plan = Plan(config.optimiser.steps or max(1, round(config.optimiser.epochs * epoch)), config.validation.validate_every or epoch)
    spans = Spans(config, documents, model)
    source = fingerprint(
        [
            collection.passages.fingerprint,
            config.objectives.max_passages,
            config.objectives.span_from,
            config.objectives.contrasted,
            config.validation.held_out,
        ]
    )
    step = PretrainStep(config, model, spans, trained, before.of(DOCUMENTS), source)
    _announce(config, model, plan)
    if overwrite:
        remove_run(output)
        refuse_other_inputs(output, inputs)
    if not begun(output):
        save_settings(config, output)
    reporter = ConsoleReporter(plan.steps, output if config.validation.tensorboard else None, "pretrain")
    loop = Pretraining(config, step, spans, held_out, plan, output, reporter, before)
    if loop.state.step:
        say(f"going on after step {loop.state.step:,}")
        reporter.skip(loop.state.step)
    loop.run()


def read_documents(config: TrainSettings, collection: Collection, model: PretrainModel) -> Documents:
    """Tokenise the collection's passages, or a part of them, and make documents of them; says what is left out.

    Raises:
        InputError: where too few are left for a batch.
    """
    rows = drawn_rows(collection.passages.count, config.objectives.max_passages, config.run.seed)
    by_page = config.objectives.span_from == "page"
    cut = config.objectives.contrasted and not by_page
    shortest = 2 * MIN_SPAN if cut else MIN_SPAN
    documents = documents_of(_tokenized(collection, rows, model), shortest, by_page)
    kept = len(documents.members)
    what = "pages" if by_page else "passages"
    too_short = f"passages of fewer than {shortest} tokens{', and pages with one passage,' if by_page else ''} are left out"
    if documents.number < config.validation.held_out + config.batch.batch_size:
        raise InputError(
            f"--collection {config.run.collection}: {documents.number:,} {what} to take spans from ({too_short});"
            f" --batch-size {config.batch.batch_size} and --held-out {config.validation.held_out} need {config.validation.held_out + config.batch.batch_size:,}"
        )
    say(
        f"{documents.number:,} {what}, {len(documents.ids):,} tokens; {len(rows) - kept:,} of {len(rows):,} passages left out ({too_short})"
    )
    return documents


def _tokenized(collection: Collection, rows: list[int], model: PretrainModel) -> Iterator[tuple[str, npt.NDArray[np.int32]]]:
    """(page, token ids) of each passage."""
    progress = Progress("tokenize", len(rows), "passages")
    passages = collection.passages.at(rows)
    for start in range(0, len(rows), TOKENIZED_AT_ONCE):
        chunk = [passage for _, passage in zip(range(TOKENIZED_AT_ONCE), passages, strict=False)]
        for passage, ids_L in zip(chunk, model.token_ids([passage.text for passage in chunk]), strict=True):
            yield passage.page, ids_L.astype(np.int32)
        progress.at(start + len(chunk))


def split(config: TrainSettings, count: int) -> tuple[Ids, Ids]:
    """Numbers of the documents trained on, and of those held out, drawn by the seed."""
    order = generator(config.run.seed, "held out").permutation(count)
    return np.sort(order[config.validation.held_out :]), np.sort(order[: config.validation.held_out])


def _announce(config: TrainSettings, model: PretrainModel, plan: Plan) -> None:
    trained = sum(param.numel() for _, param in model.trained())
    backbone = sum(param.numel() for param in model.backbone.parameters())
    say(f"{' + '.join(config.objectives.objective)}: {trained:,} parameters are trained; the backbone has {backbone:,}")
    if config.objectives.masked:
        say(f"head that fills in tokens: {f'that of the model ({model.head_from})' if model.head_from else 'new, the model brings none'}")
    spans = (2 if config.objectives.contrasted else 1) * config.batch.batch_size
    say(f"{plan.steps:,} steps of {spans} spans of up to {config.objectives.length} tokens")
