"""The keys of a training run: their types, defaults, ranges and meaning; which of them an episode may set; and the presets."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, get_args, get_type_hints

from taco_ir.core.files import InputError
from taco_ir.core.settings import Rules, Settings, Values, checked, nearest, rules_of
from taco_ir.encoders.adapters.routing import ROLES
from taco_ir.encoders.adapters.sizes import BUDGET, FULL, METHODS, PLAIN, SHIFTED
from taco_ir.encoders.config import Pooling, is_template
from taco_ir.encoders.role_marks import NONE, ROLE_MARKS

WEIGHTING_NAMES = ("naive", "uw", "gradnorm", "pcgrad", "cgd", "taco")
GROUPS = (
    "what is trained",
    "encoder",
    "batches and loss",
    "reading and self-supervision",
    "optimisation",
    "weighting of tasks",
    "negatives",
    "validation, checkpoints and logs",
)
SCHEDULES = ("joint", "alternating", "sequential")
MLM, INVERSE_CLOZE = SELF_SUPERVISED = ("mlm", "inverse_cloze")
NOTHING = ("none",)
MINED = ("bm25", "ance")  # negatives that a training mines itself
PHASES = re.compile(r"\d+(\.\d+)?(,\d+(\.\d+)?){2}")
SHARES = re.compile(r"proportional|temperature|uniform|[1-9]\d*(,[1-9]\d*)*")


def _key(group: str, help: str, **rules: Any) -> Values:
    return {"group": group, "help": help, **rules}


_what, _encoder, _batch, _kinds, _optimiser, _weighting, _negatives, _checks = (partial(_key, group) for group in GROUPS)


@dataclass(frozen=True)
class TrainConfig(Settings):
    """A training run. A key's metadata say what it means and which values it takes: help, ranges and choices.

    Raises:
        InputError: for a value that is not allowed, in an episode as well, or mining that leaves too few negatives.
    """

    collection: str = field(default="sample", metadata=_what("sample (embedded), kilt (the full benchmark), or a folder"))
    tasks: tuple[str, ...] = field(
        default=("all",), metadata=_what("tasks to train on, such as nq,fever; all: every task with a train file")
    )
    model: str = field(default="", metadata=_what("the encoder to start from: a checkpoint, a Hugging Face folder, or a hub name"))
    output: str = field(default="", metadata=_what("folder of the run: checkpoints, logs, the trained model"))
    seed: int = field(default=0, metadata=_what("seed of everything random", min=0, max=2**32 - 1))
    device: str = field(default="cpu", metadata=_what("cpu, cuda, cuda:1, ..."))
    train_share: float = field(
        default=1.0, metadata=_what("share of a task's train queries that are used, drawn by the seed", above=0, max=1)
    )
    max_examples: int = field(default=0, metadata=_what("train queries of a task, at most, drawn by the seed; 0: all", min=0))

    pooling: str | None = field(
        default=None,
        metadata=_encoder(
            "for a plain Hugging Face model: first token, mean of tokens, or T5's first decoder state", choices=get_args(Pooling)
        ),
    )
    normalize: bool = field(default=False, metadata=_encoder("scale vectors to length 1"))
    prompts: bool = field(default=True, metadata=_encoder("put the task's name before its queries"))
    query_length: int = field(
        default=0, metadata=_encoder("most tokens of a query; 0: as TACO, 32 to 256 by task, 4 more with prompts", min=0)
    )
    passage_length: int = field(default=160, metadata=_encoder("most tokens of a passage", min=1))
    passage_template: str = field(
        default="{title} {text}",
        metadata=_encoder(
            "how a passage is read; its fields are {title} and {text}",
            test=is_template,
            allowed="a text with the fields {title} and {text}",
        ),
    )
    untied: bool = field(default=False, metadata=_encoder("two towers, one for queries and one for passages"))
    head: int = field(default=0, metadata=_encoder("width of a linear layer on top; 0: none", min=0))
    freeze_embeddings: bool = field(default=False, metadata=_encoder("leave the token embeddings as they are"))
    freeze_layers: int = field(default=0, metadata=_encoder("leave this many of the lowest layers as they are", min=0))
    tune: str = field(
        default=FULL,
        metadata=_encoder(
            "train all of the backbone, or keep it frozen and train small modules on it; bitfit: all biases but a pooler's, which vectors do not use",
            choices=(FULL, *METHODS),
        ),
    )
    tune_width: int = field(default=0, metadata=_encoder("width of the modules, rank or length of prompts; 0: the method's own", min=0))
    tune_budget: str = field(
        default="",
        metadata=_encoder(
            "instead of a width: the largest one with at most this share of the backbone's parameters, in per cent with its sign",
            test=lambda text: not text or BUDGET.fullmatch(text),
            allowed="a share such as 0.5%, or nothing",
        ),
    )
    tune_roles: str = field(
        default="shared",
        metadata=_encoder(
            "modules: one for all texts, one for each tower, or one for the queries of each task and one for passages; frozen: none for passages",
            choices=ROLES,
        ),
    )
    tune_positions: str | None = field(
        default=None,
        metadata=_encoder(
            "with prompts, whether the positions of a text begin behind them or at 0; left out: shifted for prompt, plain for prefix and mam",
            choices=(SHIFTED, PLAIN),
        ),
    )
    tune_reparameterise: bool = field(
        default=False,
        metadata=_encoder("train an embedding and two layers that make the prompts; the model holds the prompts alone, as without"),
    )
    roles: str = field(
        default=NONE,
        metadata=_encoder(
            "how the encoder is told queries, passages and a reader's input apart: by token types, a reserved token, a learned vector,"
            " or a deep prompt or adapters of each role's own, which train with all the rest",
            choices=ROLE_MARKS,
        ),
    )
    dropout: float = field(default=-1.0, metadata=_encoder("dropout while training; negative: the model's own", below=1))

    batch_size: int = field(default=64, metadata=_batch("queries of a step, all tasks together", min=1))
    shares: str = field(
        default="temperature",
        metadata=_batch(
            "a task's part of a batch: proportional to its size, by temperature, uniform, or queries by task as in 16,8,8 (instead of the batch size)",
            test=SHARES.fullmatch,
            allowed="proportional, temperature, uniform, or whole numbers as in 16,8,8",
        ),
    )
    share_temperature: float = field(
        default=4.0, metadata=_batch("c in shares by temperature: (task's part of the queries)^(1/c)", above=0)
    )
    hard_negatives: int = field(
        default=1,
        metadata=_batch("hard negatives of a query, beside the other queries' passages; every epoch takes the next ones", min=0),
    )
    multi_positive: bool = field(default=False, metadata=_batch("learn from all positives of a query at once"))
    cross_device: bool = field(default=True, metadata=_batch("take negatives from all processes"))
    temperature: float = field(default=0.0, metadata=_batch("scores are divided by it; 0: 1, or 0.05 with normalised vectors", min=0))

    reading: tuple[str, ...] = field(
        default=NOTHING,
        metadata=_kinds("tasks whose questions the same encoder learns to answer as well, such as nq,squad; all: those of --tasks; none"),
    )
    self_supervised: tuple[str, ...] = field(
        default=NOTHING,
        metadata=_kinds(
            "what the same encoder learns from passages alone: mlm, inverse_cloze, both; none",
            test=lambda names: tuple(names) == NOTHING or set(names) <= set(SELF_SUPERVISED),
            allowed=f"none, or some of {', '.join(SELF_SUPERVISED)}",
        ),
    )
    schedule: str = field(
        default="joint",
        metadata=_kinds(
            "joint: every task in every step; alternating: one task a step; sequential: self-supervised tasks, then retrieval, then reading,"
            " and validation chooses the best model of the last phase, where patience begins to count, too",
            choices=SCHEDULES,
        ),
    )
    schedule_alpha: float = field(
        default=0.5, metadata=_kinds("alternating: a task is drawn with a probability proportional to its size to this power", min=0, max=1)
    )
    phase_shares: str = field(
        default="1,1,1",
        metadata=_kinds(
            "sequential: shares of the steps for self-supervised tasks, retrieval and reading; those without a task take none",
            test=lambda text: PHASES.fullmatch(text) and all(map(float, text.split(","))),
            allowed="three numbers above 0, as in 1,2,1",
        ),
    )
    rehearsal: float = field(default=0.0, metadata=_kinds("sequential: probability that a step is one of an earlier phase", min=0, below=1))
    reading_batch: int = field(default=16, metadata=_kinds("questions of a step, for each reading task", min=1))
    reading_negatives: int = field(
        default=7,
        metadata=_kinds(
            "mined passages without an answer that are read with the gold one, at most; validation has as many of its pool", min=0
        ),
    )
    reading_weight: float = field(default=1.0, metadata=_kinds("what the loss of a reading task is multiplied by", above=0))
    passage_batch: int = field(default=16, metadata=_kinds("passages of a step, for each self-supervised task", min=2))
    passage_weight: float = field(default=1.0, metadata=_kinds("what the loss of a self-supervised task is multiplied by", above=0))
    max_passages: int = field(
        default=0, metadata=_kinds("passages that self-supervised tasks read, at most, drawn by the seed; kept in memory; 0: all", min=0)
    )

    learning_rate: float = field(default=2e-5, metadata=_optimiser("peak of the linear schedule", above=0))
    weight_decay: float = field(default=0.01, metadata=_optimiser("AdamW's decay of weights", min=0))
    warmup: float = field(default=0.1, metadata=_optimiser("share of the steps with a rising learning rate", min=0, max=1))
    clip: float = field(default=1.0, metadata=_optimiser("largest norm of the update; 0: not clipped", min=0))
    epochs: float = field(default=1.0, metadata=_optimiser("passes over the longest task; the others cycle", above=0))
    steps: int = field(default=0, metadata=_optimiser("steps of an episode; 0: by epochs", min=0))
    accumulate: int = field(default=1, metadata=_optimiser("parts that a batch is computed in; negatives come from one's own part", min=1))
    gradcache: int = field(default=0, metadata=_optimiser("texts encoded at once, so that large batches fit (GradCache); 0: off", min=0))
    precision: str = field(default="float32", metadata=_optimiser("arithmetic of the encoder", choices=("float32", "bf16")))
    gradient_checkpointing: bool = field(default=False, metadata=_optimiser("less memory for a fifth to a third more time"))

    weighting: str = field(default="naive", metadata=_weighting("how the tasks' gradients become one update", choices=WEIGHTING_NAMES))
    weighting_options: Mapping[str, Any] = field(
        default_factory=dict, metadata=_weighting("options of the weighting, such as tau=2 beta=0.999")
    )
    keep_optimizer: bool = field(default=False, metadata=_weighting("an episode goes on with the optimiser of the one before"))
    keep_importance: bool = field(default=False, metadata=_weighting("an episode goes on with the weighting's state of the one before"))
    episodes: tuple[Mapping[str, Any], ...] = field(
        default=(), metadata=_weighting("parts of the run, one after the other, each with keys of its own; in files only")
    )

    negatives: str = field(
        default="bm25",
        metadata=_negatives(
            "bm25, ance (mined with the model at the episode's start), none, or a file of taco_ir.mine",
            test=bool,
            allowed="bm25, ance, none, or a file of taco_ir.mine",
        ),
    )
    mine_depth: int = field(default=200, metadata=_negatives("hits of a query that negatives are taken from", min=1))
    mine_skip: int = field(default=0, metadata=_negatives("best hits of a query that are left out", min=0))
    mine_keep: int = field(default=32, metadata=_negatives("negatives kept for a query, the hardest first", min=1))

    validate_every: int = field(default=0, metadata=_checks("steps between validations; 0: at the end of each epoch", min=0))
    validate_on: str = field(
        default="dev",
        metadata=_checks("split that validation draws its queries from; those of train are not trained on", choices=("dev", "train")),
    )
    pool_queries: int = field(default=50, metadata=_checks("queries of a task in a validation", min=1))
    pool_hard: int = field(default=10, metadata=_checks("BM25 hits of each of them in the pool that is ranked", min=0))
    pool_random: int = field(default=1000, metadata=_checks("random passages in the pool", min=0))
    patience: int = field(default=0, metadata=_checks("stop after this many validations without a gain; 0: never", min=0))
    checkpoint_every: int = field(default=200, metadata=_checks("steps between checkpoints", min=1))
    keep_checkpoints: int = field(default=2, metadata=_checks("checkpoints kept, the latest", min=1))
    log_cosines: int = field(
        default=0,
        metadata=_checks("log the cosines of the tasks' gradients every so many steps, to within about 0.006; 0: never", min=0),
    )
    tensorboard: bool = field(default=False, metadata=_checks("write TensorBoard logs as well"))

    def check(self) -> None:
        tables = (checked_keys(table, TABLE_KEYS, f"episode {number}: ") for number, table in enumerate(self.episodes, 1))
        object.__setattr__(self, "episodes", tuple(tables))
        number = 1
        for table in self.episodes:
            try:
                episode_of(self, table)
            except InputError as error:
                raise InputError(f"episode {number}: {error}") from error
            number += table.get("repeat", 1)
        if not self.episodes:
            self._check_mining()

    def _check_mining(self) -> None:
        """Raise InputError where mining cannot leave as many negatives as an example takes."""
        left = min(self.mine_depth - self.mine_skip, self.mine_keep)
        if self.negatives in MINED and left < max(self.hard_negatives, 1):
            raise InputError(
                f"mine_depth {self.mine_depth}, mine_skip {self.mine_skip} and mine_keep {self.mine_keep} leave {max(left, 0)} negatives"
                f" of a query; hard_negatives {self.hard_negatives} needs at least {max(self.hard_negatives, 1)}"
            )

    @property
    def shared(self) -> bool:
        """Whether there are tasks beside those of retrieval."""
        return self.reading != NOTHING or self.self_supervised != NOTHING


KEYS = {entry.name: entry for entry in fields(TrainConfig)}
FLAG_KEYS = tuple(key for key in KEYS if key != "episodes")
EPISODE_KEYS = (
    *("negatives", "mine_depth", "mine_skip", "mine_keep", "hard_negatives"),
    *("weighting", "weighting_options", "keep_optimizer", "keep_importance"),
    *("epochs", "steps", "learning_rate", "warmup", "batch_size", "shares", "temperature", "patience", "validate_every"),
)
TABLE_KEYS = (*EPISODE_KEYS, "repeat")
PRESETS: dict[str, Values] = {
    "dpr": {
        **{"untied": True, "pooling": "first", "prompts": False, "dropout": 0.1},
        **{"negatives": "bm25", "hard_negatives": 1, "batch_size": 128, "shares": "proportional"},
        **{"learning_rate": 1e-5, "epochs": 40.0},
    },
}
HINTS = get_type_hints(TrainConfig)


# type and rules by key; those that only files have are `episode` and, in it, `repeat`
RULES: dict[str, Rules] = {
    **rules_of(TrainConfig),
    "episode": (HINTS["episodes"], {}),
    "repeat": (int, {"min": 1, "max": 1000}),
}


def episode_of(config: TrainConfig, table: Mapping[str, Any]) -> TrainConfig:
    """The configuration of an episode: the run's, with what its table says instead."""
    base = {key: getattr(config, key) for key in FLAG_KEYS}
    return TrainConfig(**over(base, {key: value for key, value in table.items() if key != "repeat"}))


def over(base: Mapping[str, Any], given: Mapping[str, Any]) -> Values:
    """`base` with what is given instead; another weighting leaves the old one's options behind, epochs a number of steps."""
    merged = {**base, **given}
    if "weighting_options" in base:
        other = "weighting" in base and given.get("weighting", base["weighting"]) != base["weighting"]
        merged["weighting_options"] = {**({} if other else base["weighting_options"]), **given.get("weighting_options", {})}
    if "epochs" in given and "steps" not in given and "steps" in base:
        merged["steps"] = 0
    return merged


def checked_keys(
    values: Mapping[str, Any],
    allowed: Collection[str],
    where: str,
    every: Mapping[str, Rules] = RULES,
    said: Callable[[str], str] = str,
) -> Values:
    """Values of the types and within the ranges of their keys, those of episodes too. `where` comes before a key in messages.

    Raises:
        InputError: naming key, value and what is allowed.
    """
    found: Values = {}
    for key, value in values.items():
        if key not in allowed:
            reason = (
                f"key {key!r} belongs to the whole run; valid: {', '.join(allowed)}"
                if key in every and key in FLAG_KEYS
                else f"unknown key {key!r}; {nearest(key, allowed)}"
            )
            raise InputError(f"{where}{reason}")
        found[key] = checked(f"{where}{said(key)}", value, *every[key])
        if every[key][0] == HINTS["episodes"]:
            tables = enumerate(found[key], 1)
            found[key] = tuple(checked_keys(table, TABLE_KEYS, f"{where}episode {number}: ") for number, table in tables)
    return found
