"""What the keys about tuning mean for one base: which modules are built on it or go on, and which of them train."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from taco_ir.core.files import InputError
from taco_ir.encoders.adapters.adapter_set import Adapters
from taco_ir.encoders.adapters.deep_prompts import has_positions
from taco_ir.encoders.adapters.folder import (
    RECORD_FILE,
    TENSORS_FILE,
    AdapterRecord,
    adapter_of,
    read_training,
)
from taco_ir.encoders.adapters.hook_points import shape_of
from taco_ir.encoders.adapters.methods import FULL, is_shifted, parameters, positions_of, share, width_of, with_prompts
from taco_ir.encoders.config import ANY_TASK, EncoderConfig
from taco_ir.encoders.model_folder import HEAD_FILE, Kind, ModelFolder
from taco_ir.encoders.pooling import embed
from taco_ir.encoders.weights import read_safetensors
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.settings import AdapterSettings, EncoderSettings

OF_PROMPTS = ("tune_positions", "tune_reparameterise")
NOT_WITH = ("untied", "freeze_embeddings", "freeze_layers")  # about a backbone that trains
PROBE_TOKENS = 8


def check_tuning(adapters: AdapterSettings, encoder: EncoderSettings, folder: Path, base: Path) -> None:
    """Raise InputError where the model in `folder` cannot be tuned as `config` says, or is a tuned one and must be."""
    if adapters.tune == FULL:
        if (record := ModelFolder(folder).record) is not None:
            method = record.method
            raise InputError(
                f"tune is {FULL}; {folder} is tuned by {method}: give tune {method}, or export it merged where that can be"
            )
        return
    for key in OF_PROMPTS:
        if (value := getattr(adapters, key)) and adapters.tune not in with_prompts():
            raise InputError(
                f"{key} is {value!r}; tune {adapters.tune} has no prompts, {', '.join(with_prompts())} have; leave {key} out"
            )
    for key in NOT_WITH:
        if value := getattr(encoder, key):
            raise InputError(
                f"{key} is {value!r}; with tune {adapters.tune} there is one backbone, all of it frozen; leave {key} out"
                " (tune_roles tower has a module for each tower)"
            )
    if ModelFolder(base).kind is Kind.TOWERS:
        raise InputError(f"tune is {adapters.tune}; {base} has two towers; modules go on one backbone")
    if encoder.head and not (base / HEAD_FILE).is_file():
        raise InputError(
            f"head is {encoder.head}; with tune {adapters.tune} the base must have it already; leave head out"
        )


def tuned(
    adapters: AdapterSettings, given: str, backbone: nn.Module, folder: Path, base: Path, tasks: Sequence[str]
) -> tuple[Adapters, AdapterRecord]:
    """The modules that `adapters` describe, on the backbone of `base`: new ones, or those in `folder` and new ones for its new tasks.

    A model that gains tasks keeps the modules that it had as they are, so that its passage vectors stay.

    Raises:
        InputError: for a width or budget that the method does not take, or a tuned model that is another one.
    """
    old = ModelFolder(folder).record
    shape = shape_of(backbone)
    own_tasks = tuple(tasks) if adapters.tune_roles.startswith("task") else ()
    if old is None:
        width = width_of(adapters.tune, shape, adapters.tune_width, adapters.tune_budget)
        positions = _positions(adapters, backbone)
        record = AdapterRecord(
            adapters.tune,
            width,
            adapters.tune_roles,
            own_tasks,
            (),
            _name(given, folder),
            ModelFolder(base).fingerprint,
            {},
            positions,
        )
    else:
        _check_same(adapters, old, folder)
        if adapters.tune_budget and (width := width_of(adapters.tune, shape, 0, adapters.tune_budget)) != old.width:
            raise InputError(
                f"tune_budget {adapters.tune_budget} is width {width}; the model {folder} has width {old.width}; leave tune_budget out,"
                f" or start from its base {old.base}"
            )
        new = tuple(task for task in own_tasks if task not in old.tasks)
        frozen = tuple(old.names) if new else old.frozen
        record = replace(old, tasks=(*old.tasks, *new), frozen=frozen, base=ModelFolder(folder).base_name)
    tuning = _built(adapters.tune_reparameterise, backbone, folder, record, old.names if old is not None else ())
    mine = {record.own_adapter(task) for task in tasks} | {record.passage_adapter}
    trained = [name for name in tuning.names if name in mine and name not in record.frozen]
    if not trained:
        raise InputError(
            f"{folder / RECORD_FILE}: the modules for {', '.join(tasks)} are frozen there; nothing would be trained"
        )
    tuning.train_only(trained)
    return tuning, record


def _built(
    reparameterise: bool, backbone: nn.Module, folder: Path, record: AdapterRecord, held: Collection[str]
) -> Adapters:
    """The modules of `record`, of which `folder` holds those named `held`; the others are new.

    Raises:
        InputError: for prompts that cannot be reparameterised, since only their vectors are left, or tensors that do not fit.
    """
    made = read_training(folder) if reparameterise else {}
    new = set(record.names).difference(held)
    reparameterised = {adapter_of(name) for name in made} | new if reparameterise else set()
    if reparameterise and not reparameterised:
        raise InputError(
            f"tune_reparameterise: the prompts in {folder} are plain vectors, as a training leaves them; leave it out, or start from the base"
            f" {record.base}"
        )
    tuning = Adapters(backbone, record.method, record.width, record.names, record.positions, reparameterised)
    if held:
        stored = read_safetensors(folder / TENSORS_FILE)
        plain = {name: tensor for name, tensor in stored.items() if adapter_of(name) not in reparameterised}
        begun = {name: tensor for name, tensor in tuning.named_tensors().items() if adapter_of(name) in new}
        tuning.load({**begun, **plain, **made}, str(folder / TENSORS_FILE))
    return tuning


def _positions(adapters: AdapterSettings, backbone: nn.Module) -> str:
    """What a record says of positions. Raises: InputError for a backbone that has none to shift."""
    if adapters.tune_positions and not has_positions(backbone):
        kind = backbone.config.model_type  # type: ignore[union-attr]
        raise InputError(
            f"tune_positions is {adapters.tune_positions!r}; those of a backbone of type {kind!r} are relative; leave it out"
        )
    return "" if adapters.tune_positions in (None, positions_of(adapters.tune)) else adapters.tune_positions


def _name(given: str, folder: Path) -> str:
    """How the base is found again: a hub's name as it was given, or the folder."""
    return given if given and not Path(given).exists() else str(folder.resolve())


def _check_same(adapters: AdapterSettings, old: AdapterRecord, folder: Path) -> None:
    positions = positions_of(old.method, old.positions)
    for key, given, found in (
        ("tune", adapters.tune, old.method),
        ("tune_roles", adapters.tune_roles, old.roles),
        ("tune_width", adapters.tune_width or old.width, old.width),
        ("tune_positions", adapters.tune_positions or positions, positions),
    ):
        if given != found:
            raise InputError(
                f"{key} is {given!r}; the model {folder} has {found!r}; go on with the same, or start from its base {old.base}"
            )


def going_on(model: DualEncoder, folder: Path, base: EncoderConfig) -> EncoderConfig:
    """The configuration of a model that is tuned further: what it said of other tasks stays, and of passages where their module does not train.

    Raises:
        InputError: for another form of passages that were indexed and stay.
    """
    if ModelFolder(folder).record is None or model.record is None:
        return model.config
    own = model.config
    prompts = {**(base.prompts or {ANY_TASK: ""}), **own.prompts} if own.prompts else base.prompts
    config = replace(
        own,
        prompts=prompts,
        query_lengths={**base.query_lengths, **own.query_lengths},
        query_length=max(base.query_length, own.query_length),
    )
    if model.record.passage_adapter not in (None, *model.record.frozen):
        return config
    for key in ("passage_length", "passage_template"):
        given, found = getattr(own, key), getattr(base, key)
        if given not in (getattr(EncoderSettings, key), found):
            raise InputError(
                f"{key} is {given!r}; the passages of {folder} stay as they are, with {found!r}; leave it out"
            )
    return replace(config, passage_length=base.passage_length, passage_template=base.passage_template)


def check_positions(model: DualEncoder, limit: int) -> None:
    """Raise InputError where a prompt with positions of its own and the longest text need more than the backbone's `limit`."""
    config, record = model.config, model.record
    longest_text = max(config.query_length, config.passage_length, *config.query_lengths.values())
    if record is not None and is_shifted(record.method, record.positions) and record.width + longest_text > limit:
        raise InputError(
            f"tune_width is {record.width}; with texts of {longest_text} tokens the prompt takes at most {max(limit - longest_text, 0)}"
            f" of the backbone's {limit} positions; give a shorter one, or shorter texts"
        )


def check_modules(model: DualEncoder) -> None:
    """Raise InputError where a module has no effect on this backbone (see `Adapters.check`); random numbers are drawn as without it."""
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
    """Lines for the announcement: exact count and share, and what trains where it is more; none for a backbone that trains itself."""
    tuning, record = model.tuning, model.record
    if tuning is None or record is None:
        return ""
    each, part = parameters(record.method, tuning.shape, record.width), share(record.method, tuning.shape, record.width)
    width = f", width {record.width}" if record.width else ""
    line = f"tune: {record.method}{width}: {each:,} numbers, {part} of the backbone, for each of: {', '.join(tuning.names)}\n"
    for name in tuning.names:
        if name in tuning.reparameterised:
            trained = sum(tensor.numel() for tensor in tuning.tensors(name).values())
            line += (
                f"tune: {name} is reparameterised: {trained:,} numbers train, the {each:,} that they make are stored\n"
            )
    return line
