"""Checks the settings of adapters against the base model, and builds the adapters on its frozen backbone."""

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
BACKBONE_KEYS = ("untied", "freeze_embeddings", "freeze_layers")  # settings for a backbone that is trained
PROBE_TOKENS = 8


def check_adapters(adapters: AdapterSettings, encoder: EncoderSettings, folder: Path, base: Path) -> None:
    """Checks that the settings fit the model in `folder`; `base` is the folder of its backbone.

    Raises:
        InputError: if the model cannot have these adapters, or has adapters although `tune` is full, or if other
            settings contradict `tune`.
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
                f"{key} is {value!r}, but tune {tune} has no prompts (only {methods} have prompts); leave {key} out"
            )
    for key in BACKBONE_KEYS:
        if value := getattr(encoder, key):
            raise InputError(
                f"{key} is {value!r}; with tune {tune} the whole backbone is frozen and shared; leave {key} out "
                "(tune_roles tower trains one adapter for queries and one for passages)"
            )
    if ModelFolder(base).kind is Kind.TOWERS:
        raise InputError(f"tune is {tune}, but {base} has two towers; give a single tower, such as {base}/passage")
    if encoder.head and not ModelFolder(base).has_head:
        raise InputError(f"head is {encoder.head}, but tune {tune} cannot add a head to a frozen model; leave head out")


def build_adapters(
    settings: AdapterSettings, given: str, backbone: nn.Module, folder: Path, base: Path, tasks: Sequence[str]
) -> tuple[Adapters, AdapterRecord]:
    """Builds the adapters to train, and the record that describes them. Adapters saved in `folder` are loaded.

    If a saved model gets new tasks, only their new adapters are trained, so that its passage vectors remain valid.

    Args:
        given: the base model, as the user named it.
        base: the folder of the backbone.

    Raises:
        InputError: if the method does not allow the width or budget, or the settings differ from the saved adapters.
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
            f"{folder / RECORD_FILE}: the adapters of {', '.join(tasks)} are frozen; add a new task to --tasks"
        )
    adapters.train_only(trained)
    return adapters, record


def _load(
    reparameterise: bool, backbone: nn.Module, folder: Path, record: AdapterRecord, saved: Collection[str]
) -> Adapters:
    """Loads the adapters in `saved` from `folder`, and makes new ones for the other names in the record.

    Raises:
        InputError: if tensors do not fit, or if prompts cannot be reparameterised because only their vectors are left.
    """
    training = read_training(folder) if reparameterise else {}
    new = set(record.names).difference(saved)
    reparameterised = {adapter_of(name) for name in training} | new if reparameterise else set()
    if reparameterise and not reparameterised:
        raise InputError(
            f"tune_reparameterise is True, but {folder} has only the prompts' vectors, not the network that made them; "
            f"leave tune_reparameterise out, or start from the base model {record.base}"
        )
    adapters = Adapters(backbone, record.method, record.width, record.names, record.positions, reparameterised)
    if saved:
        stored, begun = read_safetensors(folder / TENSORS_FILE), adapters.named_tensors()
        plain = {name: tensor for name, tensor in stored.items() if adapter_of(name) not in reparameterised}
        fresh = {name: tensor for name, tensor in begun.items() if adapter_of(name) in new}
        adapters.load({**fresh, **plain, **training}, str(folder / TENSORS_FILE))
    return adapters


def _record_positions(settings: AdapterSettings, backbone: nn.Module) -> str:
    """Returns `tune_positions` for the record ("" if usual); InputError if positions of the backbone are relative."""
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
                f"{key} is {given!r}, but model {folder} has {found!r}; give {found!r}, or {ModelFolder(folder).advice}"
            )


def config_for_further_tuning(model: DualEncoder, folder: Path, base: EncoderConfig) -> EncoderConfig:
    """Returns the configuration for training saved adapters further; tasks that are not trained keep their settings.

    If the passage adapter is not trained, settings for passages are kept too, so that indexed vectors remain valid.

    Raises:
        InputError: if a setting for passages was changed, but the passage adapter is not trained.
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
                f"{key} is {given!r}, but the passage vectors of {folder} were made with {found!r}; leave {key} out"
            )
    return replace(config, **{key: getattr(base, key) for key in kept})


def check_positions(model: DualEncoder, limit: int) -> None:
    """Raises InputError if a learned prompt and the longest text together need more than `limit` positions."""
    config, record = model.config, model.record
    longest_text = max(config.query_length, config.passage_length, *config.query_lengths.values())
    if record is not None and is_shifted(record.method, record.positions) and record.width + longest_text > limit:
        raise InputError(
            f"tune_width is {record.width}, but texts of {longest_text} tokens leave {max(limit - longest_text, 0)} of"
            f" the backbone's {limit} positions; lower tune_width, query_length or passage_length"
        )


def probe_adapters(model: DualEncoder) -> None:
    """Raises InputError if an adapter cannot change the vectors of this backbone (see `Adapters.check`)."""
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
    """Returns lines on how many parameters each adapter trains and stores; an empty text without adapters."""
    adapters, record = model.adapters, model.record
    if adapters is None or record is None:
        return ""
    shape, width = adapters.shape, record.width
    count = f"{parameters(record.method, shape, width):,}"
    lines = [
        f"tune: {record.method}{f', width {width}' if width else ''}: {count} parameters,"
        f" {share(record.method, shape, width)} of the backbone, in each of the adapters {', '.join(adapters.names)}\n"
    ]
    for name in adapters.names:
        if name in adapters.reparameterised:
            trained = sum(tensor.numel() for tensor in adapters.tensors(name).values())
            lines.append(
                f"tune: {name} is reparameterised: {trained:,} parameters are trained, and {count} are stored\n"
            )
    return "".join(lines)
