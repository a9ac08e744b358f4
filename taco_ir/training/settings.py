"""All settings of a training, in nine sections: each key with its default, meaning and allowed values.

In flags, TOML files and saved settings, keys have no sections; `flags.py` reads these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from itertools import pairwise
from types import MappingProxyType, SimpleNamespace
from typing import Any, get_args, get_type_hints

from taco_ir.core.files import InputError
from taco_ir.core.settings import Only, Rules, Settings, Values, check_value, check_values, flag, rules_of
from taco_ir.core.suggestions import suggest
from taco_ir.core.tasks import canonical_task
from taco_ir.core.typed import abbreviate
from taco_ir.encoders.adapters.folder import ROLES
from taco_ir.encoders.adapters.methods import BUDGET, FULL, METHODS, PLAIN, SHIFTED
from taco_ir.encoders.config import NONE, ROLE_MARKS, Pooling, is_template
from taco_ir.training import TRACKERS
from taco_ir.weighting import WEIGHTINGS

NOTHING = ("none",)
NO, AUTO = {"none": 0}, {"auto": 0}  # words that stand for 0, where 0 has a special meaning
SCHEDULES = ("joint", "alternating", "sequential")
MLM, INVERSE_CLOZE = SELF_SUPERVISED = ("mlm", "inverse_cloze")
PARTS = (MLM, "span_contrast", "condenser")  # terms of the pre-training loss
MIN_SPAN = 8  # tokens of a span without its special tokens
MINED = ("bm25", "ance")  # sources of negatives that a training mines itself
NO_FILES = ("none", "given", *MINED)  # sources of negatives that are not files
PHASES = re.compile(r"\d+(\.\d+)?(,\d+(\.\d+)?){2}")
SHARES = re.compile(r"proportional|temperature|uniform|[1-9]\d*(,[1-9]\d*)*")
# conditions under which a setting has any effect
PRETRAINS = Only("pre-training", lambda run: run.objective != NOTHING)
MINES = Only(f"negatives {' or '.join(MINED)}", lambda run: any(source in MINED for source in sources_of(run)))
RETRIEVES = Only("tasks other than none", lambda run: tuple(run.tasks) != NOTHING or PRETRAINS.acts(run))
HARD = Only(
    "tasks and negatives other than none",
    lambda run: RETRIEVES.acts(run) and (set(sources_of(run)) != {"none"} or not run.hard_negatives),
)
TUNES = Only(f"a tune other than {FULL}", lambda run: run.tune != FULL)
READS = Only("reading other than none", lambda run: run.reading != NOTHING)
SELF_SUPERVISES = Only("self_supervised other than none", lambda run: run.self_supervised != NOTHING)
ON_PASSAGES = Only(SELF_SUPERVISES.goes_with, lambda run: SELF_SUPERVISES.acts(run) or PRETRAINS.acts(run))
SEVERAL_KINDS = Only("reading or self_supervised", lambda run: READS.acts(run) or SELF_SUPERVISES.acts(run))
ALTERNATING = Only("schedule alternating", lambda run: SEVERAL_KINDS.acts(run) and run.schedule == "alternating")
SEQUENTIAL = Only("schedule sequential", lambda run: SEVERAL_KINDS.acts(run) and run.schedule == "sequential")
BY_TEMPERATURE = Only("shares temperature", lambda run: run.shares == "temperature")
BATCHED = Only(
    "tasks other than none, and shares that are a word or sum to batch_size",
    lambda run: RETRIEVES.acts(run) and run.batch_size == queries_of_step(run.shares, run.batch_size),
)
BY_EPOCHS = Only("steps auto", lambda run: not run.steps)
REMEMBERS = Only("a weighting other than naive", lambda run: run.weighting != "naive")
MASKS = Only("objective mlm or condenser", lambda run: MLM in run.objective or "condenser" in run.objective)
CONTRASTS = Only("objective span_contrast", lambda run: "span_contrast" in run.objective)
COMPARES = Only(CONTRASTS.goes_with, lambda run: not PRETRAINS.acts(run) or CONTRASTS.acts(run))
MEASURES = Only("held_out other than none", lambda run: not PRETRAINS.acts(run) or run.held_out > 0)
TABLES = tuple[Mapping[str, Any], ...]  # the type of a key


def sources_of(run: Any) -> list[str]:
    """Returns the sources of hard negatives, such as bm25, of all tasks."""
    return [table.get("negatives", run.negatives) for table in run.task_tables.values()] or [run.negatives]


def queries_of_step(shares: str, batch: int) -> int:
    """Returns the number of queries in a step, over all tasks: `batch`, or the sum of `shares` if it lists numbers."""
    return batch if shares.isalpha() else sum(map(int, shares.split(",")))


@dataclass(frozen=True)
class RunSettings(Settings):
    """Settings for model, data and output."""

    collection: str = flag(
        "sample",
        "where passages and queries come from: sample (shipped with the package), kilt (the full benchmark), or "
        "a folder",
        metavar="COLLECTION",
    )
    tasks: tuple[str, ...] = flag(
        ("all",),
        "tasks to train retrieval for, such as nq,fever; all: every task with a train file; none: train only the "
        "tasks of --reading or --self-supervised",
    )
    model: str = flag(
        "", "the encoder to start from: a checkpoint, a Hugging Face folder, or a hub name", metavar="MODEL"
    )
    output: str = flag("", "folder to write checkpoints, logs and the trained model to", metavar="FOLDER")
    seed: int = flag(0, "random seed", min=0, max=2**32 - 1)
    device: str = flag("cpu", "device to train on: cpu, cuda, cuda:1, ...", metavar="DEVICE")
    train_share: float = flag(
        1.0, "fraction of each task's train queries to use, sampled with the seed", above=0, max=1
    )
    max_examples: int = flag(
        0, "use at most this many train queries of each task, sampled with the seed; none: all", min=1, named=NO
    )


@dataclass(frozen=True)
class EncoderSettings(Settings):
    """Settings for how the encoder makes vectors from texts, and which weights are trained."""

    pooling: str | None = flag(
        None,
        "how to make one vector from the token vectors of a plain Hugging Face model. first, last: one token's "
        "vector; mean: the mean of all; pooler: the model's own pooler; decoder: the first decoder state (T5)",
        choices=get_args(Pooling),
    )
    normalize: bool = flag(False, "scale vectors to length 1")
    prompts: bool = flag(True, "put the task's name before its queries")
    query_length: int = flag(
        0,
        "cut queries after this many tokens; auto: as in TACO, 32 to 256 depending on the task, plus 4 with prompts",
        min=1,
        named=AUTO,
    )
    passage_length: int = flag(160, "cut passages after this many tokens", min=1)
    passage_template: str = flag(
        "{title} {text}",
        "how to join title and text of a passage; the fields are {title} and {text}",
        test=is_template,
        allowed="a text with the fields {title} and {text}",
    )
    passage_prompt: str | None = flag(
        None, "text to put before every passage, in addition to the template [default: the base model's prompt]"
    )
    untied: bool = flag(False, "train separate encoders for queries and passages (two towers)")
    head: int = flag(0, "add a linear layer on top, of this output width; none: no layer", min=1, named=NO)
    freeze_embeddings: bool = flag(False, "do not train the token embeddings")
    freeze_layers: int = flag(0, "do not train this many layers, counted from the lowest", min=0)
    roles: str = flag(
        NONE,
        "how to mark queries, passages and a reader's inputs: by token types, a reserved token (marker), a learned "
        "vector (embedding), or a deep prompt or adapter for each of the three",
        choices=ROLE_MARKS,
    )
    dropout: float = flag(-1.0, "dropout rate in training; auto: the model's own", min=0, below=1, named={"auto": -1})


@dataclass(frozen=True)
class AdapterSettings(Settings):
    """Settings for adapters: small trained modules on a frozen backbone."""

    tune: str = flag(
        FULL,
        "full: train the whole backbone; others: freeze the backbone and train adapters (bitfit: its biases)",
        choices=(FULL, *METHODS),
    )
    tune_width: int = flag(
        0,
        "width of adapters, rank of LoRA, or length of prompts; auto: the method's usual width",
        min=1,
        named=AUTO,
        only=TUNES,
    )
    tune_budget: str = flag(
        "",
        "instead of --tune-width: use the largest width with at most this percentage of the backbone's parameters; "
        "write the percentage with its sign",
        test=lambda text: not text or BUDGET.fullmatch(text),
        allowed="a share such as 0.5%, or nothing",
        only=TUNES,
    )
    tune_roles: str = flag(
        "shared",
        "which texts share an adapter. shared: all texts share one. tower: queries share one, passages another. "
        "task: the queries of each task have their own, and passages share one. task-frozen: as task, but passages "
        "use the frozen backbone. query-frozen: queries share one, and passages use the frozen backbone",
        choices=ROLES,
        only=TUNES,
    )
    tune_positions: str | None = flag(
        None,
        "where the position ids of a text start if adapters are prompts: after the prompt (shifted) or at 0 "
        "(plain) [default: shifted with --tune prompt, plain with prefix and mam]",
        choices=(SHIFTED, PLAIN),
        only=TUNES,
    )
    tune_reparameterise: bool = flag(
        False,
        "train prompts through an embedding and a two-layer network; only the resulting prompts are saved",
        only=TUNES,
    )


@dataclass(frozen=True)
class BatchSettings(Settings):
    """Settings for retrieval batches and their contrastive loss."""

    batch_size: int = flag(64, "number of queries in a batch, over all tasks", min=1, only=BATCHED)
    shares: str = flag(
        "temperature",
        "how to divide a batch among the tasks: proportional (to their numbers of queries), temperature (the same, "
        "but more even), uniform (equal parts), or a number for each task, such as 16,8,8, instead of a batch size",
        test=SHARES.fullmatch,
        allowed="proportional, temperature, uniform, or whole numbers as in 16,8,8",
    )
    share_temperature: float = flag(
        4.0,
        "with --shares temperature: each task's part of a batch is proportional to (its number of queries)^(1/c); "
        "this sets c, and a larger c makes the parts more equal",
        above=0,
        only=BY_TEMPERATURE,
    )
    hard_negatives: int = flag(
        1,
        "number of hard negatives for each query, besides in-batch negatives; each epoch uses the next in the list",
        min=0,
        only=HARD,
    )
    multi_positive: bool = flag(False, "use all passages of an evidence set as positives, not only one", only=RETRIEVES)
    cross_device: bool = flag(True, "use the passages of all processes as negatives")
    temperature: float = flag(
        0.0, "divide scores by this; auto: 1, or 0.05 if vectors are normalised", above=0, named=AUTO, only=COMPARES
    )


@dataclass(frozen=True)
class ObjectiveSettings(Settings):
    """Settings for training beyond retrieval: reading, self-supervised tasks, and pre-training on spans."""

    reading: tuple[str, ...] = flag(
        NOTHING,
        "tasks whose questions the encoder also learns to answer, such as nq,squad; all: the same tasks as --tasks",
    )
    self_supervised: tuple[str, ...] = flag(
        NOTHING,
        "self-supervised tasks to train on passages in addition: mlm, inverse_cloze, or both",
        test=lambda names: tuple(names) == NOTHING or set(names) <= set(SELF_SUPERVISED),
        allowed=f"none, or some of {', '.join(SELF_SUPERVISED)}",
    )
    schedule: str = flag(
        "joint",
        "joint: every step trains all tasks. alternating: each step trains one task. sequential: first "
        "self-supervised tasks, then retrieval, then reading; only validations in the last of these phases "
        "choose the best model and count for --patience",
        choices=SCHEDULES,
        only=SEVERAL_KINDS,
    )
    schedule_alpha: float = flag(
        0.5,
        "with --schedule alternating: a task is sampled in proportion to (its number of examples)^alpha",
        min=0,
        max=1,
        only=ALTERNATING,
    )
    phase_shares: str = flag(
        "1,1,1",
        "with --schedule sequential: relative numbers of steps for self-supervised tasks, retrieval and reading",
        test=lambda text: PHASES.fullmatch(text) and all(map(float, text.split(","))),
        allowed="three numbers above 0, as in 1,2,1",
        only=SEQUENTIAL,
    )
    rehearsal: float = flag(
        0.0,
        "with --schedule sequential: probability that a step trains tasks of an earlier phase instead",
        min=0,
        below=1,
        only=SEQUENTIAL,
    )
    reading_batch: int = flag(16, "number of questions in a reading task's batch", min=1, only=READS)
    reading_negatives: int = flag(
        7,
        "read each question with a gold passage and at most this many mined passages without an answer",
        min=0,
        only=READS,
    )
    reading_weight: float = flag(1.0, "multiply the loss of reading tasks by this", above=0, only=READS)
    passage_batch: int = flag(16, "passages in a self-supervised task's batch", min=2, only=SELF_SUPERVISES)
    passage_weight: float = flag(
        1.0, "multiply the loss of self-supervised tasks by this", above=0, only=SELF_SUPERVISES
    )
    max_passages: int = flag(
        0,
        "read at most this many passages into memory for self-supervised tasks, sampled with the seed; none: all",
        min=1,
        named=NO,
        only=ON_PASSAGES,
    )
    objective: tuple[str, ...] = flag(
        NOTHING,
        f"parts of the pre-training loss, which are summed: one or more of {', '.join(PARTS)}",
        metavar="PART",
        words=(*PARTS, *NOTHING),
    )
    span_from: str = flag(
        "passage",
        "where the two spans of a pair come from: one passage, without overlap, or two passages of one page",
        choices=("passage", "page"),
        only=CONTRASTS,
    )
    length: int = flag(128, "maximum tokens in a span, including special tokens", min=2 * MIN_SPAN, only=PRETRAINS)
    mask_share: float = flag(
        0.15, "fraction of the tokens that mlm and condenser mask and predict", above=0, max=0.5, only=MASKS
    )

    def check(self) -> None:
        object.__setattr__(self, "objective", tuple(part for part in (*PARTS, *NOTHING) if part in self.objective))

    @property
    def kinds(self) -> list[str]:
        """Names of the kinds of tasks, as in `objectives.OBJECTIVES`, in the order in which a step trains them."""
        if self.pretrains:
            return ["documents"]
        return ["retrieval", "reading", *(name for name in self.self_supervised if (name,) != NOTHING)]

    @property
    def shared(self) -> bool:
        """Whether reading or self-supervised tasks are trained."""
        return SEVERAL_KINDS.acts(self)

    @property
    def pretrains(self) -> bool:
        """Whether the backbone is pre-trained on spans of documents."""
        return PRETRAINS.acts(self)

    @property
    def masked(self) -> bool:
        """Whether pre-training predicts masked tokens."""
        return MASKS.acts(self)

    @property
    def contrasted(self) -> bool:
        """Whether pre-training has a contrastive loss on spans."""
        return CONTRASTS.acts(self)


@dataclass(frozen=True)
class OptimiserSettings(Settings):
    """Settings for the length of a training and for the optimiser."""

    learning_rate: float = flag(2e-5, "peak learning rate; it rises linearly, then falls linearly to 0", above=0)
    weight_decay: float = flag(0.01, "AdamW's weight decay", min=0)
    warmup: float = flag(0.1, "fraction of the steps during which the learning rate rises", min=0, max=1)
    clip: float = flag(1.0, "clip the combined gradient to this norm; none: no clipping", above=0, named=NO)
    epochs: float = flag(
        1.0, "passes over the queries of the largest task; smaller tasks are repeated", above=0, only=BY_EPOCHS
    )
    steps: int = flag(0, "number of steps in each episode; auto: from the number of epochs", min=1, named=AUTO)
    accumulate: int = flag(
        1, "compute each batch in this many slices; a query's negatives come only from its own slice", min=1
    )
    gradcache: int = flag(
        0,
        "encode only N texts at once, so that a large batch fits in memory (GradCache); none: all at once",
        min=1,
        named=NO,
    )
    precision: str = flag("float32", "number format in which the encoder computes", choices=("float32", "bf16"))
    gradient_checkpointing: bool = flag(
        False, "recompute activations to save memory; steps take a fifth to a third longer"
    )


@dataclass(frozen=True)
class WeightingSettings(Settings):
    """Settings for how the gradients of several tasks are combined into one update."""

    weighting: str = flag(
        "naive", "how to combine the gradients of the tasks into one update", choices=tuple(WEIGHTINGS)
    )
    weighting_options: Mapping[str, Any] = flag(
        {},
        "options of the weighting, such as tau=2 beta=0.999; for static, weights of tasks, such as nq=2 fever=0.5",
    )
    keep_optimizer: bool = flag(False, "start with the optimiser state of the previous episode")
    keep_importance: bool = flag(False, "start with the weighting's state of the previous episode", only=REMEMBERS)


@dataclass(frozen=True)
class NegativeSettings(Settings):
    """Settings for the source of hard negatives."""

    negatives: str = flag(
        "bm25",
        "where hard negatives come from: bm25, ance (mined with the model at the start of each episode), given "
        "(listed in the training file), none, or a file written by taco_ir.mine",
        test=bool,
        allowed="bm25, ance, given, none, or a file of taco_ir.mine",
    )
    mine_depth: int = flag(
        200, "rank this many passages for each query and take negatives from them", min=1, only=MINES
    )
    mine_skip: int = flag(0, "skip this many passages at the top of each ranking", min=0, only=MINES)
    mine_keep: int = flag(32, "keep at most this many negatives for each query, best ranked first", min=1, only=MINES)


@dataclass(frozen=True)
class ValidationSettings(Settings):
    """Settings for when the model is validated, saved and logged."""

    validate_every: int = flag(
        0, "validate every N steps; auto: at the end of each epoch", min=1, named=AUTO, only=MEASURES
    )
    validate_on: str = flag(
        "dev",
        "validate on dev queries, or on train queries that are left out of training",
        choices=("dev", "train"),
    )
    pool_queries: int = flag(50, "validate on at most this many queries of each task", min=1)
    pool_hard: int = flag(10, "number of BM25 hits of each query in the pool of passages that validation ranks", min=0)
    pool_random: int = flag(1000, "number of random passages in the validation pool", min=0)
    patience: int = flag(0, "stop after this many validations without improvement; none: never", min=1, named=NO)
    checkpoint_every: int = flag(200, "save a checkpoint every N steps", min=1)
    keep_checkpoints: int = flag(2, "keep the latest N checkpoints", min=1)
    log_cosines: int = flag(
        0,
        "log the cosines between the tasks' gradients every N steps, with an error of about 0.006; none: never",
        min=1,
        named=NO,
    )
    log_dose: int = flag(
        20,
        "log the dose every N steps: how far updates are from the mean of the tasks' gradients; none: never",
        min=1,
        named=NO,
    )
    track: tuple[str, ...] = flag(
        NOTHING,
        f"also send the log to experiment trackers: one or more of {', '.join(TRACKERS)}",
        metavar="NAME",
        words=(*TRACKERS, *NOTHING),
    )
    held_out: int = flag(
        128,
        "hold out this many documents from training and measure the loss on them; none: do not measure",
        min=1,
        named=NO,
        only=PRETRAINS,
    )


@dataclass(frozen=True)
class TaskSettings(Settings):
    """Settings for one task, in a table [tasks.NAME]. None: use the training's setting."""

    collection: str | None = flag(
        None, "where the task's passages and queries come from", test=lambda text: text != "", allowed="a collection"
    )
    task: str | None = flag(
        None, "the task's name in that collection [default: NAME]", test=lambda text: text != "", allowed="a task"
    )
    prompt: str | None = flag(None, "text to put before the task's queries")
    query_length: int | None = flag(None, "maximum number of tokens of a query, including the prompt", min=1)
    passage_length: int | None = flag(None, "maximum number of tokens of a passage in the task's batches", min=1)
    share: int | None = flag(None, "the task's queries in a batch; tasks without a share divide the rest", min=1)
    hard_negatives: int | None = flag(None, "number of hard negatives for each query", min=0)
    negatives: str | None = flag(
        None,
        "where the task's hard negatives come from",
        test=lambda text: text != "",
        allowed="bm25, ance, given, none, or a file of taco_ir.mine",
    )
    temperature: float | None = flag(None, "divide scores by this", above=0)
    weight: float = flag(1.0, "multiply the task's loss by this, before the weighting of tasks", above=0)

    @property
    def given(self) -> Values:
        """The settings that differ from their defaults, by key."""
        return {entry.name: value for entry in fields(self) if (value := getattr(self, entry.name)) != entry.default}


@dataclass(frozen=True, init=False)
class TrainSettings:
    """All settings of a training, given as flat keys: `TrainSettings(model="bert-base-uncased", output="my-run")`.

    Attributes:
        episodes: for each episode of the training, in order, the keys that differ from the other settings.
        task_tables: settings of single tasks, by name; in files and arguments they are part of `tasks`.

    Raises:
        InputError: if a key is unknown, a value is not allowed, or a value has no effect and is not the default.

    Examples:
        >>> settings = taco_ir.TrainSettings(model="bert-base-uncased", output="my-run", pooling="mean", epochs=2)
        >>> settings.optimiser.epochs, settings.weighting.weighting
        (2.0, 'naive')
        >>> taco_ir.TrainSettings(learning_rat=1e-5)
        Traceback (most recent call last):
        taco_ir.core.errors.InputError: unknown key 'learning_rat'; did you mean learning_rate?
    """

    run: RunSettings
    encoder: EncoderSettings
    adapters: AdapterSettings
    batch: BatchSettings
    objectives: ObjectiveSettings
    optimiser: OptimiserSettings
    weighting: WeightingSettings
    negatives: NegativeSettings
    validation: ValidationSettings
    episodes: tuple[Mapping[str, Any], ...] = ()
    task_tables: Mapping[str, TaskSettings] = field(default_factory=dict)

    def __init__(
        self,
        episodes: tuple[Mapping[str, Any], ...] = (),
        task_tables: Mapping[str, Any] = MappingProxyType({}),
        **keys: Any,
    ) -> None:
        if isinstance(keys.get("tasks"), Mapping):
            task_tables = check_tables(keys.pop("tasks"), "")
        object.__setattr__(self, "task_tables", _named_tables(task_tables))
        checked_keys(dict.fromkeys(keys.keys() - KEYS.keys()), KEYS, "")
        for name, kind in SECTIONS.items():
            object.__setattr__(self, name, kind(**{key: keys[key] for key in rules_of(kind) if key in keys}))  # type: ignore[arg-type]
        object.__setattr__(self, "episodes", checked_keys({"episodes": episodes}, ("episodes",), "")["episodes"])
        number = 1
        for table in self.episodes:
            try:
                self.of_episode(table)
            except InputError as error:
                raise InputError(f"episode {number}: {error}") from error
            number += table.get("repeat", 1)
        if not self.episodes:
            self._check_across_sections()
        self._check_shares()
        values = self.flat()
        for key, goes_with in idle_in_run(values).items():
            if values[key] != DEFAULTS[key]:
                raise InputError(f"{key} is {values[key]!r}; it has an effect only with {goes_with}")

    def _check_across_sections(self) -> None:
        if self.objectives.pretrains and self.batch.batch_size < 2:
            raise InputError(
                f"batch_size is {self.batch.batch_size}; it must be a whole number, at least 2, because each "
                "document is contrasted with the others"
            )
        if self.run.tasks == NOTHING and not (self.objectives.shared or self.objectives.pretrains):
            raise InputError("tasks is none, so there is nothing to train; give tasks, reading or self_supervised")
        if self.run.tasks == NOTHING and self.objectives.reading == ("all",):
            raise InputError(
                "reading = all stands for the tasks given by `tasks`, but tasks = none; name the tasks to read"
            )
        source = self.negatives
        left = min(source.mine_depth - source.mine_skip, source.mine_keep)
        hard = max(
            (
                self.batch.hard_negatives if own.hard_negatives is None else own.hard_negatives
                for own in self.task_tables.values() or [TaskSettings()]
                if (own.negatives or source.negatives) in MINED
            ),
            default=None,
        )
        if hard is not None and left < max(hard, 1):
            raise InputError(
                f"mine_depth {source.mine_depth}, mine_skip {source.mine_skip} and mine_keep {source.mine_keep} "
                f"leave {max(left, 0)} negatives for each query, but hard_negatives {hard} needs at least "
                f"{max(hard, 1)}; lower hard_negatives or mine_skip, or raise the others"
            )

    def _check_shares(self) -> None:
        """Raises InputError if queries of a batch are given twice: for single tasks and for all tasks."""
        shares = {name: own.share for name, own in self.task_tables.items() if own.share is not None}
        if shares and not self.batch.shares.isalpha():
            name, share = next(iter(shares.items()))
            raise InputError(
                f"tasks.{name}.share is {share}, and shares is {self.batch.shares!r}; leave one of the two out"
            )

    def flat(self) -> Values:
        """Returns all settings by key, as files store them; `task_tables` is left out if it is empty."""
        values = {key: value for name in SECTIONS for key, value in vars(getattr(self, name)).items()}
        tables = {name: own.given for name, own in self.task_tables.items()}
        return values | {"episodes": self.episodes} | ({"task_tables": tables} if tables else {})

    def replace(self, **keys: Any) -> TrainSettings:
        """Returns the same settings with some keys changed. Keys that then have no effect get their defaults."""
        keys = checked_keys(keys, (*KEYS, "episodes", "task_tables"), "")
        return TrainSettings(**_drop_idle({**self.flat(), **keys}, keys))

    def each_episode(self) -> list[TrainSettings]:
        """Returns the settings of each episode in order. Without episodes, the list has only these settings."""
        tables = [table for table in self.episodes for _ in range(table.get("repeat", 1))]
        return [self.of_episode(table) for table in tables] or [self]

    def of_episode(self, table: Mapping[str, Any]) -> TrainSettings:
        """Returns the settings of an episode: these settings, changed by the keys in the episode's table."""
        own = {key: value for key, value in table.items() if key != "repeat"}
        return TrainSettings(**_drop_idle(merge({**self.flat(), "episodes": ()}, own), own))

    def check_episodes(self) -> None:
        """Raises InputError if a weighting does not fit the schedule, or episodes do not fit each other."""
        episodes = self.each_episode()
        for weighting in (each.weighting.weighting for each in episodes if each.objectives.schedule != "joint"):
            if weighting != "naive":
                raise InputError(
                    f"weighting is {weighting}; it combines the gradients of all tasks, but with schedule "
                    f"{self.objectives.schedule} a step has only some tasks; give weighting naive, or schedule "
                    "joint"
                )
        for key in ("keep_optimizer", "keep_importance"):
            first, *later = (getattr(each.weighting, key) for each in episodes)
            if first and not any(later):
                raise InputError(
                    f"{key} is True, but there is no earlier episode whose state could be kept; leave {key} out, "
                    "or give more episodes"
                )
        for number, (before, now) in enumerate(pairwise(each.weighting for each in episodes), 2):
            if now.keep_importance and now.weighting != before.weighting:
                raise InputError(
                    f"episode {number}: keep_importance is True, but the weighting is {now.weighting}, and was "
                    f"{before.weighting} in the previous episode; leave keep_importance out, or use the same "
                    "weighting in both"
                )
        if self.adapters.tune_reparameterise and (count := len(episodes)) > 1:
            raise InputError(
                f"tune_reparameterise is possible only with one episode, and there are {count}: an episode saves "
                "only the prompts' vectors; leave tune_reparameterise out, or give one episode"
            )


SECTIONS: dict[str, type[Settings]] = {
    name: kind for name, kind in get_type_hints(TrainSettings).items() if name not in ("episodes", "task_tables")
}
KEYS = {entry.name: entry for kind in SECTIONS.values() for entry in fields(kind)}  # type: ignore[arg-type]
DEFAULTS: Values = {
    key: entry.default if entry.default_factory is MISSING else entry.default_factory() for key, entry in KEYS.items()
}
EPISODE_KEYS = (
    *("negatives", "mine_depth", "mine_skip", "mine_keep", "hard_negatives"),
    *("weighting", "weighting_options", "keep_optimizer", "keep_importance", "patience", "validate_every"),
    *("epochs", "steps", "learning_rate", "warmup", "batch_size", "shares", "temperature"),
)
TABLE_KEYS = (*EPISODE_KEYS, "repeat")
# type and rules by key; in files, `episodes` is called `episode`, and its tables may have `repeat`
RULES: dict[str, Rules] = {
    **{key: rules for kind in SECTIONS.values() for key, rules in rules_of(kind).items()},  # type: ignore[arg-type]
    "episodes": (TABLES, {}),
    "episode": (TABLES, {}),
    "task_tables": (Mapping[str, object], {}),
    "repeat": (int, {"min": 1, "max": 1000}),
}


def require(values: Mapping[str, Any], said: Callable[[str], str] = str) -> None:
    """Raises InputError if the model or the output is not set. `said(key)` is the name of a key in the message."""
    for key in ("model", "output"):
        if not values.get(key):
            raise InputError(f"{said(key)} is needed: {KEYS[key].metadata['help']}")


def idle_keys(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the keys that have no effect with these values, and for each the condition for an effect, in words."""
    whole = SimpleNamespace(**{**DEFAULTS, "task_tables": {}, **values})
    limits = {key: entry.metadata["only"] for key, entry in KEYS.items() if "only" in entry.metadata}
    return {key: only.goes_with for key, only in limits.items() if not only.acts(whole)}


def idle_in_run(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the keys that have no effect in any episode, in the form of `idle_keys`."""
    first, *others = (idle_keys(merge(values, table)) for table in values.get("episodes") or [{}])
    return {key: goes_with for key, goes_with in first.items() if all(key in each for each in others)}


def drop_idle(values: Mapping[str, Any]) -> Values:
    """Returns the values that have an effect. Keys without an effect are removed from tables of episodes too."""
    found = _drop_idle(values, ())
    if "episodes" in values:
        found["episodes"] = tuple(
            {key: value for key, value in table.items() if key not in idle_keys(merge(values, table))}
            for table in values["episodes"]
        )
    return found


def _drop_idle(values: Mapping[str, Any], kept: Collection[str]) -> Values:
    """Returns the values that have an effect, and those in `kept`."""
    idle = idle_in_run(values)
    return {key: value for key, value in values.items() if key in kept or key not in idle}


def override(base: Mapping[str, Any], given: Mapping[str, Any]) -> Values:
    """Returns `base` changed by `given`. Values of `base` that lose their effect through `given` are left out."""
    found = merge(base, given)
    left = idle_in_run(found).keys() - idle_in_run(base).keys() - given.keys()
    return {key: value for key, value in found.items() if key not in left}


def merge(base: Mapping[str, Any], given: Mapping[str, Any]) -> Values:
    """Returns `base` changed by `given`. A new weighting removes the old options; new `epochs` remove `steps`."""
    found = {**base, **given}
    if "weighting_options" in base:
        other = "weighting" in base and given.get("weighting", base["weighting"]) != base["weighting"]
        kept = {} if other else base["weighting_options"]
        found["weighting_options"] = {**kept, **given.get("weighting_options", {})}
    if "epochs" in given and "steps" not in given and "steps" in base:
        found["steps"] = 0
    return found


def checked_keys(
    values: Mapping[str, Any], allowed: Collection[str], where: str, said: Callable[[str], str] = str
) -> Values:
    """Checks values by key, also in episodes; returns them in the types of their keys.

    Args:
        where: text to put before a key in messages.
        said: gives the name of a key in messages.

    Raises:
        InputError: if a key is not in `allowed`, or a value is not allowed.
    """
    found: Values = {}
    for key, value in values.items():
        if key not in allowed:
            reason = f"unknown key {key!r}; {suggest(key, allowed)}"
            if key in KEYS and "repeat" in allowed:
                reason = (
                    f"key {key!r} can be set only for the whole training; allowed in an episode: {', '.join(allowed)}"
                )
            raise InputError(f"{where}{reason}")
        if key == "task_tables" or (key == "tasks" and isinstance(value, Mapping)):
            found["task_tables"] = check_tables(value, where)
            continue
        found[key] = check_value(f"{where}{said(key)}", value, *RULES[key])
        if RULES[key][0] == TABLES:
            tables = enumerate(found[key], 1)
            found[key] = tuple(
                checked_keys(table, TABLE_KEYS, f"{where}episode {number}: ") for number, table in tables
            )
    return found


def check_tables(tables: Mapping[str, Any], where: str) -> dict[str, Values]:
    """Checks the settings of single tasks; returns them. Raises InputError for unknown keys or wrong values."""
    if not isinstance(tables, Mapping) or not tables:
        raise InputError(f"{where}tasks is {abbreviate(tables)}; it must be a list of names, or tables [tasks.NAME]")
    rules, found = rules_of(TaskSettings), {}
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise InputError(
                f"{where}tasks.{name} is {abbreviate(table)}; it must be a table, [tasks.{name}] in a file"
            )
        for key in table:
            if key not in rules:
                raise InputError(f"{where}tasks.{name}.{key}: unknown key; {suggest(key, rules)}")
        found[name] = check_values(table, rules, lambda key, name=name: f"{where}tasks.{name}.{key}")  # type: ignore[misc]
    return found


def _named_tables(tables: Mapping[str, Any]) -> dict[str, TaskSettings]:
    """Returns settings of tasks by canonical name. Raises InputError for two tables of one task."""
    found: dict[str, TaskSettings] = {}
    given: dict[str, str] = {}
    for spelled, values in (check_tables(tables, "") if tables else {}).items():
        name = canonical_task(spelled)
        if name in found:
            raise InputError(f"tasks.{given[name]} and tasks.{spelled} are the same task {name}; leave one out")
        found[name], given[name] = TaskSettings(**values), spelled
    return found
