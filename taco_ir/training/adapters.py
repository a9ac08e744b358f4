"""Adapters in a training: checks their settings against the base model, and builds them on its frozen backbone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from taco_ir.core.files import InputError
from taco_ir.encoders.adapters.adapter_set import Adapters
from taco_ir.encoders.adapters.deep_prompts import has_positions
from taco_ir.encoders.adapters.folder import RECORD_FILE, TENSORS_FILE, AdapterRecord, adapter_of, read_training
from taco_ir.encoders.adapters.hook_points import shape_of
from taco_ir.encoders.adapters.methods import FULL, is_shifted, parameters, positions_of, share, width_of, with_prompts
from taco_ir.encoders.config import ANY_TASK, EncoderConfig
from taco_ir.encoders.model_folder import Kind, ModelFolder
from taco_ir.encoders.pooling import embed
from taco_ir.encoders.weights import read_safetensors
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.settings import AdapterSettings, EncoderSettings

PROMPT_KEYS = ("tune_positions", "tune_reparameterise")
BACKBONE_KEYS = ("untied", "freeze_embeddings", "freeze_layers")  # of a backbone that trains itself
PROBE_TOKENS = 8


def check_adapters(adapters: AdapterSettings, encoder: EncoderSettings, folder: Path, base: Path) -> None:
    """Check that the settings fit the model in `folder`, whose backbone is `base`.

    Raises:
        InputError: for a model that cannot have such adapters, or one that has adapters where the settings have none.
    """
    tune = adapters.tune
    if tune == FULL:
        if (record := ModelFolder(folder).record) is not None:
            raise InputError(
                f"tune is {FULL}, but {folder} has adapters (method {record.method}); give tune {record.method}, "
                f"or {ModelFolder(folder).advice}"
            )
        return
    for key in PROMPT_KEYS:
        if (value := getattr(adapters, key)) and tune not in with_prompts():
            methods = ", ".join(with_prompts())
            raise InputError(
                f"{key} is {value!r}, but tune {tune} has no prompts (only {methods} have); leave {key} out"
            )
    for key in BACKBONE_KEYS:
        if value := getattr(encoder, key):
            raise InputError(
                f"{key} is {value!r}; with tune {tune} the whole backbone is frozen and shared; leave {key} out "
                "(tune_roles tower trains one adapter for queries and one for passages)"
            )
    if ModelFolder(base).kind is Kind.TOWERS:
        raise InputError(f"tune is {tune}, but {base} has two towers; adapters need a single backbone")
    if encoder.head and not ModelFolder(base).has_head:
        raise InputError(
            f"head is {encoder.head}, but tune {tune} cannot add a head to the frozen base; leave head out"
        )


def build_adapters(
    settings: AdapterSettings, given: str, backbone: nn.Module, folder: Path, base: Path, tasks: Sequence[str]
) -> tuple[Adapters, AdapterRecord]:
    """Build the adapters: new ones, or those in `folder` plus new ones for its new tasks.

    If a model gains tasks, its old adapters stay frozen, so that its passage vectors remain valid.

    Args:
        given: the base model's name, as the user gave it.

    Raises:
        InputError: for a width or budget that the method does not allow, or settings that differ from the folder's
            adapters.
    """
    old = ModelFolder(folder).record
    shape = shape_of(backbone)
    own_tasks = tuple(tasks) if settings.tune_roles.startswith("task") else ()
    if old is None:
        record = AdapterRecord(
            method=settings.tune,
            width=width_of(settings.tune, shape, settings.tune_width, settings.tune_budget),
            roles=settings.tune_roles,
            tasks=own_tasks,
            frozen=(),
            base=given if given and not Path(given).exists() else str(folder.resolve()),
            digest=ModelFolder(base).fingerprint,
            positions=_record_positions(settings, backbone),
        )
    else:
        _refuse_other_adapters(settings, old, folder)
        if settings.tune_budget and (width := width_of(settings.tune, shape, 0, settings.tune_budget)) != old.width:
            raise InputError(
                f"tune_budget {settings.tune_budget} means width {width}, but {folder} has width {old.width}; "
                f"leave tune_budget out, or {ModelFolder(folder).advice}"
            )
        new = tuple(task for task in own_tasks if task not in old.tasks)
        frozen = tuple(old.names) if new else old.frozen
        record = replace(old, tasks=(*old.tasks, *new), frozen=frozen, base=ModelFolder(folder).base_name)
    adapters = _load(settings.tune_reparameterise, backbone, folder, record, old.names if old is not None else ())
    used = {record.own_adapter(task) for task in tasks} | {record.passage_adapter}
    trained = [name for name in adapters.names if name in used and name not in record.frozen]
    if not trained:
        raise InputError(
            f"{folder / RECORD_FILE}: its adapters for {', '.join(tasks)} are frozen, so nothing would be trained"
        )
    adapters.train_only(trained)
    return adapters, record


def _load(
    reparameterise: bool, backbone: nn.Module, folder: Path, record: AdapterRecord, saved: Collection[str]
) -> Adapters:
    """The adapters of a record: those named in `saved` from the folder, the others new.

    Raises:
        InputError: for prompts of which only the vectors are left, so that nothing could be reparameterised, or tensors
            that do not fit.
    """
    training = read_training(folder) if reparameterise else {}
    new = set(record.names).difference(saved)
    reparameterised = {adapter_of(name) for name in training} | new if reparameterise else set()
    if reparameterise and not reparameterised:
        raise InputError(
            f"tune_reparameterise: a finished training keeps only the prompts' vectors, and so does {folder}; "
            f"leave tune_reparameterise out, or start from the base {record.base}"
        )
    adapters = Adapters(backbone, record.method, record.width, record.names, record.positions, reparameterised)
    if saved:
        stored, begun = read_safetensors(folder / TENSORS_FILE), adapters.named_tensors()
        plain = {name: tensor for name, tensor in stored.items() if adapter_of(name) not in reparameterised}
        fresh = {name: tensor for name, tensor in begun.items() if adapter_of(name) in new}
        adapters.load({**fresh, **plain, **training}, str(folder / TENSORS_FILE))
    return adapters


def _record_positions(settings: AdapterSettings, backbone: nn.Module) -> str:
    """What the record says of positions. Raises: InputError for a backbone whose positions cannot be shifted."""
    if settings.tune_positions and not has_positions(backbone):
        kind = backbone.config.model_type  # type: ignore[union-attr]
        raise InputError(
            f"tune_positions is {settings.tune_positions!r}; a backbone of type {kind!r} has relative positions; "
            "leave tune_positions out"
        )
    return "" if settings.tune_positions in (None, positions_of(settings.tune)) else settings.tune_positions


def _refuse_other_adapters(settings: AdapterSettings, old: AdapterRecord, folder: Path) -> None:
    positions = positions_of(old.method, old.positions)
    for key, given, found in (
        ("tune", settings.tune, old.method),
        ("tune_roles", settings.tune_roles, old.roles),
        ("tune_width", settings.tune_width or old.width, old.width),
        ("tune_positions", settings.tune_positions or positions, positions),
    ):
        if given != found:
            raise InputError(
                f"{key} is {given!r}, but the model {folder} has {found!r}; give that, or {ModelFolder(folder).advice}"
            )


def config_for_further_tuning(model: DualEncoder, folder: Path, base: EncoderConfig) -> EncoderConfig:
    """The configuration for training a model's adapters further; other tasks keep their settings.

    Settings for passages are kept too, if the passage adapter is not trained.

    Raises:
        InputError: for changed passage settings, if indexed passage vectors must remain valid.
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
    kept = ("passage_length", "passage_template", "passage_prompt")
    for key in kept:
        given, found = getattr(own, key), getattr(base, key)
        if given not in (getattr(EncoderSettings, key), found):
            raise InputError(
                f"{key} is {given!r}; passages keep the vectors of {folder}, which has {found!r}; leave {key} out"
            )
    return replace(config, **{key: getattr(base, key) for key in kept})


def check_positions(model: DualEncoder, limit: int) -> None:
    """Raise InputError if a learned prompt that takes up positions leaves too few of `limit` for the longest text."""
    config, record = model.config, model.record
    longest_text = max(config.query_length, config.passage_length, *config.query_lengths.values())
    if record is not None and is_shifted(record.method, record.positions) and record.width + longest_text > limit:
        raise InputError(
            f"tune_width is {record.width}; with texts of {longest_text} tokens the prompt takes at most"
            f" {max(limit - longest_text, 0)} of the backbone's {limit} positions; give a shorter one, or shorter texts"
        )


def probe_adapters(model: DualEncoder) -> None:
    """Raise InputError if an adapter has no effect on this backbone (see `Adapters.check`)."""
    adapters = model.adapters
    if adapters is None:
        return
    ids_BL = torch.arange(1, 2 * PROBE_TOKENS + 1, device=model.device).view(2, PROBE_TOKENS)
    mask_BL = torch.ones_like(ids_BL)
    mask_BL[1, PROBE_TOKENS // 2 :] = 0
    modules = model.tower_modules("passage")
    training = model.training
    model.eval()
    adapters.check(lambda: embed(modules["backbone"], model.config, ids_BL, mask_BL, modules.get("head")))
    model.train(training)


def describe_adapters(model: DualEncoder) -> str:
    """Lines that say how many parameters each adapter trains and stores; empty without adapters."""
    adapters, record = model.adapters, model.record
    if adapters is None or record is None:
        return ""
    shape, width = adapters.shape, record.width
    count = f"{parameters(record.method, shape, width):,}"
    lines = [
        f"tune: {record.method}{f', width {width}' if width else ''}: {count} numbers,"
        f" {share(record.method, shape, width)} of the backbone, for each of: {', '.join(adapters.names)}\n"
    ]
    for name in adapters.names:
        if name in adapters.reparameterised:
            trained = sum(tensor.numel() for tensor in adapters.tensors(name).values())
            lines.append(
                f"tune: {name} is reparameterised: {trained:,} numbers train, the {count} that they make are stored\n"
            )
    return "".join(lines)
