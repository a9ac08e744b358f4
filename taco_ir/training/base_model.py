"""Turns a base model into the encoder to train: prompts, lengths, head and adapters, and which weights are frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch

from taco_ir.core.files import InputError
from taco_ir.core.tasks import canonical_task
from taco_ir.encoders.adapters.adapter_set import load_adapters
from taco_ir.encoders.adapters.methods import FULL
from taco_ir.encoders.config import NONE, EncoderConfig, Pooling, Role
from taco_ir.encoders.head import HEAD_FILE
from taco_ir.encoders.model_folder import Kind, ModelFolder
from taco_ir.reading.reader import ReaderConfig
from taco_ir.training.adapters import (
    build_adapters,
    check_adapters,
    check_positions,
    config_for_further_tuning,
    probe_adapters,
)
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.objectives.masking import MASKS
from taco_ir.training.pretraining_encoder import PretrainModel
from taco_ir.training.settings import (
    INVERSE_CLOZE,
    MIN_SPAN,
    MLM,
    NOTHING,
    AdapterSettings,
    EncoderSettings,
    ObjectiveSettings,
    RunSettings,
    TaskSettings,
    TrainSettings,
)
from taco_ir.training.shared_encoder import QUESTION_TOKENS, SharedEncoder

# TACO's names of tasks in prompts; other tasks have their name in capitals
LABELS = {"triviaqa": "TQA", "hotpotqa": "HOPO", "structured_zeroshot": "ZSRE", "aidayago2": "AIDA"}
SEPARATORS = ("<extra_id_1>", "[SEP]", "</s>")  # TACO's, then those of other vocabularies
QUERY_LENGTHS = {"fever": 64, "eli5": 64, "aidayago2": 128, "wned": 128, "cweb": 128, "wow": 256}  # TACO's
SHORT_QUERY, PROMPT_TOKENS = 32, 4
LEFT_CONTEXT = 64  # words before a mention, as in TACO for AIDA
UNSAID = (None, 0, NONE)  # values that mean: not set, so the other of settings and base model decides


def start_encoder(
    settings: TrainSettings, base: Path, tasks: Sequence[str], checkpoint: Path | None = None
) -> DualEncoder:
    """Loads the encoder to train, with the heads for its tasks, from `base` or, to resume, from `checkpoint`.

    Raises:
        InputError: if the base model cannot be trained with these settings.
    """
    run, encoder, adapters, objectives = settings.run, settings.encoder, settings.adapters, settings.objectives
    folder = checkpoint or base
    model: DualEncoder
    if objectives.pretrains:
        model = build_pretraining(run.seed, encoder, objectives, settings.batch.temperature, base, checkpoint)
    elif objectives.shared:
        model = build_shared(run, encoder, adapters, objectives, folder, tasks, settings.task_tables)
    else:
        model = build_encoder(run, encoder, adapters, folder, tasks, embeds=bool(tasks), tables=settings.task_tables)
    model.to(torch.device(run.device))
    if encoder.dropout >= 0:
        model.set_dropout(encoder.dropout)
    if settings.optimiser.gradient_checkpointing:
        model.checkpoint_gradients()
    if settings.optimiser.precision == "bf16" and run.device == "cpu":
        model.use_plain_attention()
    refuse_not_finite(model, folder)
    probe_adapters(model)
    return model


def build_encoder(
    run: RunSettings,
    settings: EncoderSettings,
    adapters: AdapterSettings,
    folder: Path,
    tasks: Sequence[str],
    embeds: bool,
    kind: type[DualEncoder] = DualEncoder,
    tables: Mapping[str, TaskSettings] = MappingProxyType({}),
) -> DualEncoder:
    """Loads the base model in `folder` and turns it into the encoder that the settings describe.

    Args:
        embeds: whether vectors of texts are trained, for retrieval or self-supervised tasks.
        kind: the class of the encoder.
        tables: settings of single tasks, by task.

    Raises:
        InputError: if the base model cannot be loaded or trained with these settings, or has too few positions.
    """
    own = ModelFolder(folder)
    backbone = own.backbone()
    limit = backbone.longest
    passages = own.towers[Role.PASSAGE].path
    if not tasks and settings.pooling is None and not ModelFolder(passages).describes_itself:
        settings = replace(settings, pooling="first")  # no vector is trained
    base = base_config(settings, passages, limit)
    check_adapters(adapters, settings, folder, backbone.path)
    if adapters.tune != FULL and base.roles != NONE:
        raise InputError(
            f"roles is {base.roles}, but tune is {adapters.tune}: adapters tell queries from passages by tune_roles; "
            "leave roles out, or set tune to full"
        )
    for key in ("passage_length", "query_length"):
        if (value := getattr(settings, key)) > limit:
            raise InputError(f"{key} is {value}; {folder} takes 1 to {limit} tokens")
        for name, table in tables.items():
            if (value := getattr(table, key) or 0) > limit:
                raise InputError(f"tasks.{name}.{key} is {value}; {folder} takes 1 to {limit} tokens")
    torch.manual_seed(run.seed)  # for a new head
    model = kind(backbone.path, base, settings.untied or backbone.kind is Kind.TOWERS)
    if embeds:
        model.config = config_for_tasks(settings, base, tasks, model.find_separator(SEPARATORS), limit, tables)
    if adapters.tune != FULL:
        modules, record = build_adapters(adapters, run.model, model.backbone("passage"), folder, backbone.path, tasks)
        others = {name: task for name, task in find_other_names(tasks, tables).items() if name not in record.tasks}
        model.attach_adapters(modules, record.with_lenders(others) if record.tasks and others else record)
        model.config = config_for_further_tuning(model, folder, base)
        check_positions(model, limit)
    model.use_sparse_tables(embeds)  # a training of only a reader adds dense gradients
    model.freeze(settings.freeze_embeddings, settings.freeze_layers)
    return model


def build_shared(
    run: RunSettings,
    settings: EncoderSettings,
    adapters: AdapterSettings,
    objectives: ObjectiveSettings,
    folder: Path,
    tasks: Sequence[str],
    tables: Mapping[str, TaskSettings] = MappingProxyType({}),
) -> SharedEncoder:
    """Loads an encoder for retrieval, reading and self-supervised tasks. Heads that are not in `folder` are newly made.

    Raises:
        InputError: as `build_encoder`, and if the base model does not support the tasks.
    """
    if adapters.tune != FULL:
        raise InputError(
            f"tune is {adapters.tune}, but reading and self-supervised tasks train the whole encoder; leave out tune, "
            "or leave out these tasks"
        )
    if (own := ModelFolder(folder)).record is not None:
        own.require_weights()
    embeds = bool(tasks) or objectives.self_supervised != NOTHING
    model = build_encoder(run, settings, adapters, folder, tasks, embeds, SharedEncoder, tables)
    assert isinstance(model, SharedEncoder)
    if not tasks and INVERSE_CLOZE not in objectives.self_supervised and "head" in model.towers["passage"]:  # type: ignore[operator]
        model.towers["passage"]["head"].requires_grad_(False)  # type: ignore[index]
    torch.manual_seed(run.seed)  # for new heads
    if objectives.reading != NOTHING:
        model.add_reader(folder, ReaderConfig(settings.query_length or QUESTION_TOKENS, settings.passage_length))
    if MLM in objectives.self_supervised:
        model.add_mlm(folder)
    return model


def build_pretraining(
    seed: int,
    settings: EncoderSettings,
    objectives: ObjectiveSettings,
    temperature: float,
    base: Path,
    checkpoint: Path | None,
) -> PretrainModel:
    """Loads the model to pre-train from the folder `base`, or from a checkpoint of the training to resume.

    Raises:
        InputError: if the base model cannot be loaded, has two towers, a linear head or marks of roles, has too few
            positions for the spans, or does not support a part of the loss.
    """
    if ModelFolder(base).kind is Kind.TOWERS:
        raise InputError(
            f"--model {base}: the model has two towers, but pre-training needs a single backbone; give one tower, such"
            f" as --model {base}/passage"
        )
    ModelFolder(base).require_weights()
    limit = ModelFolder(base).longest
    if objectives.length > limit:
        raise InputError(f"--length is {objectives.length}; {base} takes {2 * MIN_SPAN} to {limit} tokens")
    if not objectives.contrasted and settings.pooling is None and not ModelFolder(base).describes_itself:
        config = EncoderConfig("mean")  # no vector is pooled
    else:
        config = base_config(settings, base, limit)
        if "condenser" in objectives.objective and config.pooling in ("mean", "last"):
            raise InputError(
                f"--objective condenser trains the first token's vector to summarise the text, but --model {base} "
                f"uses pooling {config.pooling}; leave condenser out, or add `--pooling first`"
            )
    if config.head:
        raise InputError(
            f"--model {base}: the model has a linear head of width {config.head}; give a model without a head"
        )
    if config.roles != NONE:
        raise InputError(f"--model {base}: the model was trained with roles {config.roles}; give a model without roles")
    torch.manual_seed(seed)  # for new heads
    model = PretrainModel(checkpoint or base, config, objectives, temperature)
    if objectives.masked and model.vocabulary().mask is None:
        raise InputError(
            f"--model {base}: mlm and condenser need a tokenizer with one of {', '.join(MASKS)}; leave them out"
        )
    return model


def config_for_tasks(
    settings: EncoderSettings,
    base: EncoderConfig,
    tasks: Sequence[str],
    separator: str,
    limit: int,
    tables: Mapping[str, TaskSettings] = MappingProxyType({}),
) -> EncoderConfig:
    """Returns the base model's configuration with the tasks' prompts and lengths; no length is above `limit` tokens.

    A prompt is the task's name and `separator`. If `tables` set passage lengths for single tasks, search uses the
    longest. If a collection has another name for a task, prompt and length are stored under both names. The other name
    is left out if another task has it.
    """
    lengths = {task: settings.query_length or query_length(task, settings.prompts) for task in tasks}
    prompts = {task: f"{LABELS.get(task, task.upper())} {separator} " for task in tasks} if settings.prompts else {}
    own = {task: tables[task] for task in tasks if task in tables}
    lengths |= {task: table.query_length for task, table in own.items() if table.query_length}
    if given := {task: table.prompt for task, table in own.items() if table.prompt is not None}:
        said = {task: f"{prompt.rstrip()} " if prompt.strip() else "" for task, prompt in given.items()}
        prompts = {**(prompts or dict.fromkeys(tasks, "")), **said}
    for name, task in find_other_names(tasks, tables).items():
        lengths[name] = lengths[task]
        prompts |= {name: prompts[task]} if prompts else {}
    passage_length = max((each.passage_length or settings.passage_length for each in own.values()), default=0)
    return replace(
        base,
        prompts=prompts,
        query_length=min(max(lengths.values(), default=base.query_length), limit),
        query_lengths={task: min(length, limit) for task, length in lengths.items()},
        passage_length=passage_length or settings.passage_length,
        passage_template=settings.passage_template,
        passage_prompt=base.passage_prompt if settings.passage_prompt is None else settings.passage_prompt,
        left_context=LEFT_CONTEXT,
    )


def find_other_names(tasks: Sequence[str], tables: Mapping[str, TaskSettings]) -> dict[str, str]:
    """Returns {name in the collection: name in `tables`} for tasks with two names; ambiguous names are left out."""
    named = [(canonical_task(tables[task].task or task), task) for task in tasks if task in tables]
    names = [name for name, _ in named]
    return {name: task for name, task in named if name not in tables and names.count(name) == 1}


def refuse_not_finite(model: DualEncoder, folder: Path) -> None:
    """Raises InputError if the model, which was loaded from `folder`, has infinite or NaN weights."""
    for name, param in model.named_parameters():
        if not torch.isfinite(param).all():
            raise InputError(f"--model {folder}: {name} contains infinite numbers or NaN; give another model")


def trained_encoder(folder: Path, device: str) -> DualEncoder:
    """Loads a trained encoder for computing gradients: its parameters are trainable, and dropout is off.

    Raises:
        InputError: if the folder does not record how vectors are pooled, or lacks weights.
    """
    model_folder = ModelFolder(folder)
    config, backbone = model_folder.trained_config, model_folder.backbone()
    for own in dict.fromkeys(backbone.towers.values()):
        if config.head and not own.has_head:
            raise InputError(
                f"{own}: the model has a head of width {config.head}, but {HEAD_FILE} is missing; restore the file"
            )
    model = DualEncoder(backbone.path, config, backbone.kind is Kind.TOWERS)
    if (record := model_folder.record) is not None:
        model.attach_adapters(load_adapters(model.backbone("passage"), folder), record)
    model.to(torch.device(device))
    model.use_sparse_tables(True)
    return model.eval()


def base_config(settings: EncoderSettings, folder: Path, limit: int) -> EncoderConfig:
    """Returns the base model's configuration, completed by the settings. Raises InputError if the two contradict."""
    own = ModelFolder(folder)
    if not own.describes_itself:
        plain = own.config(cast("Pooling | None", settings.pooling), settings.normalize, limit)
        return replace(plain, head=settings.head, roles=settings.roles)
    base = own.config(longest=limit)
    for key, found, wanted in (
        ("pooling", base.pooling, settings.pooling),
        ("head", base.head, settings.head),
        ("roles", base.roles, settings.roles),
    ):
        if wanted not in UNSAID and found not in UNSAID and found != wanted:
            raise InputError(f"{key} is {wanted}, but the base model {folder} has {found}; leave {key} out")
    roles = settings.roles if base.roles == NONE else base.roles
    return replace(base, normalize=base.normalize or settings.normalize, head=base.head or settings.head, roles=roles)


def query_length(task: str, prompts: bool) -> int:
    """Returns the maximum number of tokens of a task's queries in the TACO paper, plus 4 if they have prompts."""
    return QUERY_LENGTHS.get(task, SHORT_QUERY) + PROMPT_TOKENS * prompts
