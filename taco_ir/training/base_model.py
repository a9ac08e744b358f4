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

# TACO's names of tasks in prompts; others: the task in capitals
LABELS = {"triviaqa": "TQA", "hotpotqa": "HOPO", "structured_zeroshot": "ZSRE", "aidayago2": "AIDA"}
SEPARATORS = ("<extra_id_1>", "[SEP]", "</s>")  # TACO's, then those of other vocabularies
QUERY_LENGTHS = {"fever": 64, "eli5": 64, "aidayago2": 128, "wned": 128, "cweb": 128, "wow": 256}  # TACO's; others: 32
SHORT_QUERY, PROMPT_TOKENS = 32, 4
LEFT_CONTEXT = 64  # words before a mention, as TACO for AIDA
UNSAID = (None, 0, NONE)  # values with which settings or base leave the choice to the other


def start_encoder(
    settings: TrainSettings, base: Path, tasks: Sequence[str], checkpoint: Path | None = None
) -> DualEncoder:
    """The encoder to train, from the model in `base` or a checkpoint of it, with the heads that it needs.

    Raises:
        InputError: for a base model that cannot be trained with these settings.
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
    """Load the base model in `folder` and turn it into the encoder that the settings describe.

    Args:
        embeds: whether vectors of texts are trained, for retrieval or self-supervised tasks.
        tables: settings of single tasks.

    Raises:
        InputError: for a base model that cannot be loaded or trained with these settings, or lengths beyond its
            positions.
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
            f"roles is {base.roles}, which does not go with tune {adapters.tune}: adapters tell queries from passages "
            "by tune_roles; leave roles out, or let tune be full"
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
    model.use_sparse_tables(embeds)  # a reader alone sums densely, which rounds otherwise
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
    """The encoder in `folder` with the heads that the objectives need: those in the folder, or new ones.

    Raises:
        InputError: as `build_encoder`, and for a base model that does not support the objectives.
    """
    if adapters.tune != FULL:
        raise InputError(
            f"tune is {adapters.tune}; reading and self-supervised tasks train the whole encoder; leave out tune, "
            "or these tasks"
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
    """The model to pre-train, from the folder of its base model or of a checkpoint.

    Raises:
        InputError: for a base model that cannot be loaded or has two towers or a linear head, spans beyond its
            positions, or a part of the loss that it does not support.
    """
    if ModelFolder(base).kind is Kind.TOWERS:
        raise InputError(
            f"--model {base}: it has two towers, and pre-training needs a single backbone; give one of the towers, such"
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
            f"--model {base}: it has a linear head of width {config.head}; pre-training needs a plain backbone"
        )
    if config.roles != NONE:
        raise InputError(
            f"--model {base}: it marks the roles of texts (roles {config.roles}); pre-training needs a plain backbone"
        )
    torch.manual_seed(seed)  # for new heads
    model = PretrainModel(checkpoint or base, config, objectives, temperature)
    if objectives.masked and model.vocabulary().mask is None:
        raise InputError(f"--model {base}: its tokenizer has none of {', '.join(MASKS)}, which mlm and condenser need")
    return model


def config_for_tasks(
    settings: EncoderSettings,
    base: EncoderConfig,
    tasks: Sequence[str],
    separator: str,
    limit: int,
    tables: Mapping[str, TaskSettings] = MappingProxyType({}),
) -> EncoderConfig:
    """The base model's configuration with the tasks' prompts, and with lengths of at most `limit` tokens.

    If tables set passage lengths, search uses the longest. If a collection has another name for a task, prompt and
    length are under both names, unless the other name belongs to another task.
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
    """Map a collection's name for a task to its table's name, where the two differ and the name has only one table."""
    named = [(canonical_task(tables[task].task or task), task) for task in tasks if task in tables]
    names = [name for name, _ in named]
    return {name: task for name, task in named if name not in tables and names.count(name) == 1}


def refuse_not_finite(model: DualEncoder, folder: Path) -> None:
    """Raise InputError for infinite or NaN weights from `folder`."""
    for name, param in model.named_parameters():
        if not torch.isfinite(param).all():
            raise InputError(f"--model {folder}: {name} contains infinite numbers or NaN")


def trained_encoder(folder: Path, device: str) -> DualEncoder:
    """A trained encoder, with all its parameters trainable and without dropout.

    Raises:
        InputError: for a folder that does not record its pooling, or that lacks weights.
    """
    model_folder = ModelFolder(folder)
    config, backbone = model_folder.trained_config, model_folder.backbone()
    for own in dict.fromkeys(backbone.towers.values()):
        if config.head and not own.has_head:
            raise InputError(
                f"{own}: the model has a linear head of width {config.head}, but the file {HEAD_FILE} is missing"
            )
    model = DualEncoder(backbone.path, config, backbone.kind is Kind.TOWERS)
    if (record := model_folder.record) is not None:
        model.attach_adapters(load_adapters(model.backbone("passage"), folder), record)
    model.to(torch.device(device))
    model.use_sparse_tables(True)
    return model.eval()


def base_config(settings: EncoderSettings, folder: Path, limit: int) -> EncoderConfig:
    """The base model's configuration, with pooling from `folder` or the settings. Raises: InputError if they
    contradict.
    """
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
    """The maximum number of tokens of a task's queries in TACO, including the prompt."""
    return QUERY_LENGTHS.get(task, SHORT_QUERY) + PROMPT_TOKENS * prompts
