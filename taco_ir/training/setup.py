"""What a configuration means for one model and its tasks: prompts, lengths, the encoder that trains, the optimiser."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch.nn import Parameter
from torch.optim import AdamW

from taco_ir.core.files import InputError
from taco_ir.core.registry import resolve
from taco_ir.core.settings import checked
from taco_ir.core.typed import nearest
from taco_ir.encoders.adapters.adapted import load_adapters
from taco_ir.encoders.adapters.methods import FULL
from taco_ir.encoders.config import NONE, EncoderConfig, Pooling, Role
from taco_ir.encoders.model_folder import HEAD_FILE, Kind, ModelFolder
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.settings import NOTHING, EncoderSettings, OptimiserSettings, TrainSettings, WeightingSettings
from taco_ir.training.tuning import check_modules, check_positions, check_tuning, going_on, tuned
from taco_ir.weighting import WEIGHTINGS
from taco_ir.weighting.base import TaskWeighting

LABELS = {
    "triviaqa": "TQA",
    "hotpotqa": "HOPO",
    "structured_zeroshot": "ZSRE",
    "aidayago2": "AIDA",
}  # others: the name in capitals
SEPARATORS = ("<extra_id_1>", "[SEP]", "</s>")  # TACO's, then what other vocabularies have
QUERY_LENGTHS = {"fever": 64, "eli5": 64, "aidayago2": 128, "wned": 128, "cweb": 128, "wow": 256}  # TACO's; others: 32
SHORT_QUERY, PROMPT_TOKENS = 32, 4
LEFT_CONTEXT = 64  # words before a mention, as TACO for AIDA
NORMALIZED_TEMPERATURE = 0.05
UNSAID = (None, 0, NONE)  # of a key, or a base, that leaves it to the other


def start_encoder(
    config: TrainSettings, folder: Path, tasks: Sequence[str], kind: type[DualEncoder] = DualEncoder
) -> DualEncoder:
    """Load the base model in `folder` and make it the encoder that `config` describes.

    Raises:
        InputError: for a base that cannot be loaded, cannot be tuned as `config` says, or lengths beyond its positions.
    """
    own = ModelFolder(folder)
    backbone = own.backbone()
    limit = backbone.longest
    passages = own.towers[Role.PASSAGE].path
    settings = config.encoder
    if not tasks and settings.pooling is None and not ModelFolder(passages).describes_itself:
        settings = replace(settings, pooling="first")  # no vector is trained
    base = base_config(settings, passages, limit)
    check_tuning(config.adapters, config.encoder, folder, backbone.path)
    if config.adapters.tune != FULL and base.roles != NONE:
        raise InputError(
            f"roles is {base.roles}; with tune {config.adapters.tune} the modules tell roles apart (tune_roles); leave one of both out"
        )
    for key, value in (
        ("passage_length", config.encoder.passage_length),
        ("query_length", config.encoder.query_length),
    ):
        if value > limit:
            raise InputError(f"{key} is {value}; {folder} takes 1 to {limit} tokens")
    torch.manual_seed(config.run.seed)  # for weights that are new: a head
    model = kind(backbone.path, base, config.encoder.untied or backbone.kind is Kind.TOWERS)
    vectors = bool(tasks) or config.objectives.self_supervised != NOTHING
    if vectors:
        lengths = {task: settings.query_length or query_length(task, settings.prompts) for task in tasks}
        model.config = replace(
            base,
            prompts={task: f"{label(task)} {model.separator(SEPARATORS)} " for task in tasks}
            if settings.prompts
            else {},
            query_length=min(max(lengths.values(), default=base.query_length), limit),
            query_lengths={task: min(length, limit) for task, length in lengths.items()},
            passage_length=settings.passage_length,
            passage_template=settings.passage_template,
            left_context=LEFT_CONTEXT,
        )
    if config.adapters.tune != FULL:
        model.tune(*tuned(config.adapters, config.run.model, model.backbone("passage"), folder, backbone.path, tasks))
        model.config = going_on(model, folder, base)
        check_positions(model, limit)
    model.to(torch.device(config.run.device))
    model.sparse_tables(vectors)  # a reader alone sums densely, which rounds otherwise
    model.freeze(config.encoder.freeze_embeddings, config.encoder.freeze_layers)
    if config.encoder.dropout >= 0:
        model.set_dropout(config.encoder.dropout)
    if config.optimiser.gradient_checkpointing:
        model.checkpoint_gradients()
    refuse_not_finite(model, folder)
    if model.tuning is not None:
        check_modules(model)
    return model


def refuse_not_finite(model: DualEncoder, folder: Path) -> None:
    """Raise InputError for weights, loaded from `folder`, that are not finite."""
    for name, param in model.named_parameters():
        if not torch.isfinite(param).all():
            raise InputError(f"--model {folder}: {name} holds numbers that are not finite")


def trained_encoder(folder: Path, device: str) -> DualEncoder:
    """The encoder in a model folder that says itself how it pools, all of it trainable, as it searches: without dropout.

    Raises:
        InputError: for a folder that does not, or that lacks weights.
    """
    model_folder = ModelFolder(folder)
    config, backbone = model_folder.trained_config, model_folder.backbone()
    for own in dict.fromkeys(backbone.towers.values()):
        if config.head and not (own.path / HEAD_FILE).is_file():
            raise InputError(
                f"{own}: the model has a linear layer of {config.head} numbers; its file {HEAD_FILE} is missing"
            )
    model = DualEncoder(backbone.path, config, backbone.kind is Kind.TOWERS)
    if (record := model_folder.record) is not None:
        model.tune(load_adapters(model.backbone("passage"), folder), record)
    model.to(torch.device(device))
    model.sparse_tables(True)
    return model.eval()


def base_config(settings: EncoderSettings, folder: Path, limit: int) -> EncoderConfig:
    """How the base model in `folder` pools, as itself or `settings` say. Raises: InputError where they disagree."""
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
            raise InputError(f"{key} is {wanted}; the base {folder} says {found}; leave {key} out")
    roles = settings.roles if base.roles == NONE else base.roles
    return replace(base, normalize=base.normalize or settings.normalize, head=base.head or settings.head, roles=roles)


def label(task: str) -> str:
    return LABELS.get(task, task.upper())


def query_length(task: str, prompts: bool) -> int:
    """Most tokens of a task's queries in TACO, and the prompt's."""
    return QUERY_LENGTHS.get(task, SHORT_QUERY) + PROMPT_TOKENS * prompts


def loss_temperature(given: float, encoder: EncoderConfig) -> float:
    return given or (NORMALIZED_TEMPERATURE if encoder.normalize else 1.0)


def adamw(model: DualEncoder, settings: OptimiserSettings) -> AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019); biases and layer norms do not decay."""
    named = model.trained()
    groups = [
        {"params": [param for _, param in named if param.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [param for _, param in named if param.dim() <= 1], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)


def learning_rate(settings: OptimiserSettings, step: int, steps: int) -> float:
    """Linear up over the first `warmup` of the steps, then linear down to 0; the rate of step `step`, from 0."""
    rising = round(settings.warmup * steps)
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    return settings.learning_rate * (steps - step) / max(steps - rising, 1)


def check_weighting(settings: WeightingSettings, tasks: int) -> None:
    """Raise InputError, without a model, where `weighting_of` would."""
    _weighting(settings, [Parameter(torch.zeros(1))], tasks, [])


def weighting_of(settings: WeightingSettings, model: DualEncoder, tasks: int) -> TaskWeighting:
    """The weighting that `settings` name, with its options.

    Raises:
        InputError: for an option that the weighting does not have, or a value that it does not take.
    """
    params = [param for _, param in model.trained()]
    tables = model.embedding_tables()
    return _weighting(settings, params, tasks, [place for place, param in enumerate(params) if id(param) in tables])


def _weighting(
    settings: WeightingSettings, params: Sequence[Parameter], tasks: int, embeddings: Sequence[int]
) -> TaskWeighting:
    kind: type[TaskWeighting] = resolve(WEIGHTINGS[settings.weighting])
    defaults = {
        name: entry.default
        for name, entry in inspect.signature(kind).parameters.items()
        if entry.kind is entry.KEYWORD_ONLY
    }
    options = {}
    for name, value in settings.weighting_options.items():
        if name not in defaults:
            raise InputError(
                f"weighting_options: unknown option {name!r} of {settings.weighting}; {nearest(name, defaults)}"
            )
        options[name] = checked(f"weighting_options: {name}", value, type(defaults[name]), {})
    return kind(params, tasks, embeddings, **options)
