"""Builds the encoder of an adaptation: a frozen backbone with adapters for queries; passages use only the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from taco_ir.adaptation.settings import GROUP, OF_ADAPTERS, ONE, AdaptSettings
from taco_ir.core.files import InputError
from taco_ir.encoders.adapters.folder import BARE, TENSORS_FILE, AdapterRecord, adapter_of, read_record
from taco_ir.encoders.config import ANY_TASK, NONE, EncoderConfig
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.text_encoder import TextEncoder
from taco_ir.encoders.weights import read_safetensors
from taco_ir.training.adapters import build_adapters, check_adapters, check_positions, probe_adapters
from taco_ir.training.base_model import base_config, refuse_not_finite
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.settings import AdapterSettings, EncoderSettings


def start_encoder(settings: AdaptSettings, tasks: Sequence[str], checkpoint: Path | None = None) -> DualEncoder:
    """Build the model to train: the settings' model, or a checkpoint of it, with adapters for queries of `tasks`.

    The configuration for passages is not changed, so the vectors in the index stay valid.

    Raises:
        InputError: for a model that cannot have such adapters, or that has an adapter for one of `tasks` already.
    """
    base = ModelFolder.find(settings.model)
    folder = ModelFolder(checkpoint) if checkpoint else base
    backbone = folder.backbone()
    adapters = settings.adapters
    if checkpoint is None and base.record is not None:
        adapters = _as_before(settings, base, base.record, tasks)
    if backbone.is_untied:
        raise InputError(
            f"--model {base}: it has separate encoders for queries and passages, and an adapter needs a single "
            "one; give only the query encoder, with an index that does not record its encoder"
        )
    try:
        check_adapters(adapters, EncoderSettings(), folder.path, backbone.path)
        limit = backbone.longest
        plain = EncoderSettings(pooling=settings.pooling, normalize=settings.normalize)  # a checkpoint says it itself
        own = base_config(EncoderSettings() if checkpoint else plain, folder.path, limit)
        config = _config(settings, own, tasks, limit)
        if config.roles != NONE:
            raise InputError(
                f"--model {base}: it marks the roles of texts (roles {config.roles}), which adapters do not "
                "support; give another encoder"
            )
        torch.manual_seed(settings.seed)  # for new adapters
        model = DualEncoder(backbone.path, config, False)
        owners = list(dict.fromkeys(settings.group_of[task] for task in tasks)) if settings.share == GROUP else tasks
        made, record = build_adapters(
            adapters, settings.model, model.backbone("passage"), folder.path, backbone.path, owners
        )
        model.attach_adapters(made, _with_tasks(settings, record, tasks))
        check_positions(model, limit)
        model.to(torch.device(settings.device))
        if settings.dropout >= 0:
            model.set_dropout(settings.dropout)
        refuse_not_finite(model, folder.path)
        if checkpoint is None:
            probe_adapters(model)
    except InputError as error:
        raise InputError(_in_own_words(str(error))) from error
    return model


def _as_before(
    settings: AdaptSettings, folder: ModelFolder, record: AdapterRecord, tasks: Sequence[str]
) -> AdapterSettings:
    """Returns settings for more adapters of the model's kind. Raises: InputError if the model cannot have more."""
    what, instead = f"--model {settings.model}: it has adapters of its own", folder.advice
    if record.roles != "task-frozen" or settings.share == ONE:
        raise InputError(
            f"{what} (roles {record.roles}); only adapters with roles task-frozen can be extended, with share task "
            f"or group; {instead}"
        )
    if settings.method != record.method or settings.width not in (0, record.width) or settings.budget:
        raise InputError(
            f"{what}: method {record.method}, width {record.width}; give the same method and width, or {instead}"
        )
    if known := [task for task in tasks if settings.group_of.get(task, task) in record.tasks]:
        raise InputError(f"{what}, and {known[0]!r} has one already; choose other tasks, or {instead}")
    return replace(settings.adapters, tune_width=record.width)


def _config(settings: AdaptSettings, base: EncoderConfig, tasks: Sequence[str], limit: int) -> EncoderConfig:
    """Returns the base model's configuration; a task without a prompt there gets an empty prompt."""
    if settings.query_length > limit:
        raise InputError(f"query_length is {settings.query_length}; the model allows 1 to {limit} tokens")
    config = replace(base, query_length=settings.query_length, query_lengths={}) if settings.query_length else base
    if not config.prompts or ANY_TASK in config.prompts:
        return config
    return replace(config, prompts={**dict.fromkeys(tasks, ""), **config.prompts})


def _with_tasks(settings: AdaptSettings, record: AdapterRecord, tasks: Sequence[str]) -> AdapterRecord:
    """Returns the record with the tasks that share an adapter."""
    if settings.share == ONE:
        return replace(record, tasks=tuple(tasks))
    if settings.share == GROUP:
        return record.with_lenders({task: settings.group_of[task] for task in tasks})
    return record


def _in_own_words(text: str) -> str:
    for own, key in OF_ADAPTERS.items():
        text = text.replace(f"{key} ", f"{own} ").replace(f"{key}:", f"{own}:")
    return text


def without_adapters(model: DualEncoder) -> TextEncoder:
    """Returns the encoder as it was before the adaptation, without new adapters; the weights are not copied."""
    encoder = model.as_text_encoder()
    assert encoder.record is not None
    encoder.record = replace(encoder.record, tasks=(), lent={ANY_TASK: BARE})
    return encoder


def leave_out(tasks: Sequence[str], settings: AdaptSettings, source: Path, target: Path) -> None:
    """Copy the adapters' record and tensors from `source` to `target`, but leave out `tasks`.

    Queries of these tasks then use the original model. Adapters that no task uses any more are not written.
    """
    record, tensors = read_record(source), read_safetensors(source / TENSORS_FILE)
    lent = {**record.lent, **dict.fromkeys(tasks, BARE)}
    groups = settings.group_of
    unused = {*tasks, *groups.values()} - {group for task, group in groups.items() if task not in tasks}
    kept = replace(record, tasks=tuple(owner for owner in record.tasks if owner not in unused), lent=lent)
    if not kept.tasks:  # nor do queries of no task
        kept = replace(kept, lent={**lent, ANY_TASK: BARE})
    kept.save(target)
    save_file(
        {name: tensor for name, tensor in tensors.items() if adapter_of(name) in kept.names}, target / TENSORS_FILE
    )
