"""What the keys about tuning mean for one base: which modules are built on it or go on, and which of them train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from taco_ir.files import InputError
from taco_ir.models.config import EncoderConfig
from taco_ir.models.encoder import HEAD_FILE, is_untied, weights_digest
from taco_ir.models.pooling import embed
from taco_ir.models.tuning import roles
from taco_ir.models.tuning.counts import FULL, parameters, share, width_of
from taco_ir.models.tuning.folder import RECORD_FILE, TENSORS_FILE, TuningRecord, base_name, is_tuned, read_record, read_tensors
from taco_ir.models.tuning.sites import shape_of
from taco_ir.models.tuning.tuned import Tuning
from taco_ir.training.config import TrainConfig
from taco_ir.training.dual import DualEncoder

NOT_WITH = ("untied", "freeze_embeddings", "freeze_layers")  # about a backbone that trains
PROBE_TOKENS = 8


def check_tuning(config: TrainConfig, folder: Path, base: Path) -> None:
    """Raise InputError where the model in `folder` cannot be tuned as `config` says, or is a tuned one and must be."""
    if config.tune == FULL:
        if is_tuned(folder):
            method = read_record(folder).method
            raise InputError(f"tune is {FULL}; {folder} is tuned by {method}: give tune {method}, or export it merged where that can be")
        for key in ("tune_width", "tune_budget"):
            if value := getattr(config, key):
                raise InputError(f"{key} is {value!r}; it says nothing about tune {FULL}; give another tune, or leave it out")
        return
    for key in NOT_WITH:
        if value := getattr(config, key):
            raise InputError(
                f"{key} is {value!r}; with tune {config.tune} there is one backbone, all of it frozen; leave {key} out"
                " (tune_roles tower has a module for each tower)"
            )
    if is_untied(base):
        raise InputError(f"tune is {config.tune}; {base} has two towers; modules go on one backbone")
    if config.head and not (base / HEAD_FILE).is_file():
        raise InputError(f"head is {config.head}; with tune {config.tune} the base must have it already; leave head out")


def tuned(config: TrainConfig, backbone: nn.Module, folder: Path, base: Path, tasks: Sequence[str]) -> tuple[Tuning, TuningRecord]:
    """The modules that `config` describes, on the backbone of `base`: new ones, or those in `folder` and new ones for its new tasks.

    A model that gains tasks keeps the modules that it had as they are, so that its passage vectors stay.

    Raises:
        InputError: for a width or budget that the method does not take, or a tuned model that is another one.
    """
    old = read_record(folder) if is_tuned(folder) else None
    shape = shape_of(backbone)
    own_tasks = tuple(tasks) if config.tune_roles.startswith("task") else ()
    if old is None:
        width = width_of(config.tune, shape, config.tune_width, config.tune_budget)
        record = TuningRecord(config.tune, width, config.tune_roles, own_tasks, (), _name(config, folder), weights_digest(base))
    else:
        _check_same(config, old, folder)
        new = tuple(task for task in own_tasks if task not in old.tasks)
        frozen = tuple(old.names) if new else old.frozen
        record = replace(old, tasks=(*old.tasks, *new), frozen=frozen, base=base_name(folder, old))
    tuning = Tuning(backbone, record.method, record.width, record.names)
    if old is not None:
        found = read_tensors(folder)
        missing = {name: tensor for name, tensor in tuning.named_tensors().items() if name.split(".")[0] not in old.names}
        tuning.load({**missing, **found}, str(folder / TENSORS_FILE))
    mine = {roles.query_module(record.roles, record.tasks, task) for task in tasks} | {roles.passage_module(record.roles)}
    trained = [name for name in tuning.names if name in mine and name not in record.frozen]
    if not trained:
        raise InputError(f"{folder / RECORD_FILE}: the modules for {', '.join(tasks)} are frozen there; nothing would be trained")
    tuning.train_only(trained)
    return tuning, record


def _name(config: TrainConfig, folder: Path) -> str:
    """How the base is found again: a hub's name as it was given, or the folder."""
    return config.model if config.model and not Path(config.model).exists() else str(folder.resolve())


def _check_same(config: TrainConfig, old: TuningRecord, folder: Path) -> None:
    for key, given, found in (
        ("tune", config.tune, old.method),
        ("tune_roles", config.tune_roles, old.roles),
        ("tune_width", config.tune_width or old.width, old.width),
    ):
        if given != found:
            raise InputError(
                f"{key} is {given!r}; the model {folder} has {found!r}; go on with the same, or start from its base {old.base}"
            )


def going_on(model: DualEncoder, folder: Path, base: EncoderConfig) -> EncoderConfig:
    """The configuration of a model that is tuned further: what it said of other tasks stays."""
    if not is_tuned(folder):
        return model.config
    prompts = {**base.prompts, **model.config.prompts}
    lengths = {**base.query_lengths, **model.config.query_lengths}
    return replace(model.config, prompts=prompts, query_lengths=lengths, query_length=max(base.query_length, model.config.query_length))


def check_positions(model: DualEncoder, limit: int) -> None:
    """Raise InputError where a prompt with positions of its own and the longest text need more than the backbone's `limit`."""
    config, record = model.config, model.record
    longest_text = max(config.query_length, config.passage_length, *config.query_lengths.values())
    if record is not None and record.method == "prompt" and record.width + longest_text > limit:
        raise InputError(
            f"tune_width is {record.width}; with texts of {longest_text} tokens the prompt takes at most {max(limit - longest_text, 0)}"
            f" of the backbone's {limit} positions; give a shorter one, or shorter texts"
        )


def check_modules(model: DualEncoder) -> None:
    """Raise InputError where a module has no effect on this backbone (see `Tuning.check`); random numbers are drawn as without it."""
    tuning = model.tuning
    if tuning is None:
        return
    ids_BL = torch.arange(1, 2 * PROBE_TOKENS + 1, device=model.device).view(2, PROBE_TOKENS)
    mask_BL = torch.ones_like(ids_BL)
    mask_BL[1, PROBE_TOKENS // 2 :] = 0
    parts = dict(model.towers["passage"].items())  # type: ignore[operator]
    training = model.training
    model.eval()
    tuning.check(lambda: embed(parts["backbone"], model.config, ids_BL, mask_BL, parts.get("head")))
    model.train(training)


def describe_tuning(model: DualEncoder) -> str:
    """A line for the announcement: exact count and share; none for a backbone that trains itself."""
    tuning, record = model.tuning, model.record
    if tuning is None or record is None:
        return ""
    each, part = parameters(record.method, tuning.shape, record.width), share(record.method, tuning.shape, record.width)
    width = f", width {record.width}" if record.width else ""
    return f"tune: {record.method}{width}: {each:,} numbers, {part} of the backbone, for each of: {', '.join(tuning.names)}\n"
