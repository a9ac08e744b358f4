"""The settings of a training in nine sections: each key with its default, meaning and allowed values.

Flags, TOML files and saved settings have the keys flat, without sections; `flags.py` reads and writes these.
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
NO, AUTO = {"none": 0}, {"auto": 0}  # words for zero, where it has a meaning of its own
SCHEDULES = ("joint", "alternating", "sequential")
MLM, INVERSE_CLOZE = SELF_SUPERVISED = ("mlm", "inverse_cloze")
PARTS = (MLM, "span_contrast", "condenser")  # of the loss of pre-training
MIN_SPAN = 8  # tokens of a span without its special tokens
MINED = ("bm25", "ance")  # negatives that a training mines itself
NO_FILES = ("none", "given", *MINED)  # sources of negatives that are no file
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
READS = Only("tasks of reading", lambda run: run.reading != NOTHING)
SELF_SUPERVISES = Only("tasks of self_supervised", lambda run: run.self_supervised != NOTHING)
ON_PASSAGES = Only(SELF_SUPERVISES.goes_with, lambda run: SELF_SUPERVISES.acts(run) or PRETRAINS.acts(run))
SEVERAL_KINDS = Only("reading or self_supervised", lambda run: READS.acts(run) or SELF_SUPERVISES.acts(run))
ALTERNATING = Only("schedule alternating", lambda run: SEVERAL_KINDS.acts(run) and run.schedule == "alternating")
SEQUENTIAL = Only("schedule sequential", lambda run: SEVERAL_KINDS.acts(run) and run.schedule == "sequential")
BY_TEMPERATURE = Only("shares temperature", lambda run: run.shares == "temperature")
BATCHED = Only(
    "tasks other than none, and shares in words, or as many as they are in all",
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
    """Sources of the negatives of all tasks."""
    return [table.get("negatives", run.negatives) for table in run.task_tables.values()] or [run.negatives]


def queries_of_step(shares: str, batch: int) -> int:
    """Queries of a step over all tasks: the sum of the shares, where they are numbers, else a batch."""
    return batch if shares.isalpha() else sum(map(int, shares.split(",")))


@dataclass(frozen=True)
class RunSettings(Settings):
    """What is trained on which data, and where the results go."""

    collection: str = flag("sample", "sample (embedded), kilt (the full benchmark), or a folder", metavar="COLLECTION")
    tasks: tuple[str, ...] = flag(
        ("all",),
        "retrieval tasks, such as nq,fever; all: every task with a train file;"
        " none: only tasks of --reading or --self-supervised",
    )
    model: str = flag(
        "", "the encoder to start from: a checkpoint, a Hugging Face folder, or a hub name", metavar="MODEL"
    )
    output: str = flag("", "folder for checkpoints, logs and the trained model", metavar="FOLDER")
    seed: int = flag(0, "seed of everything random", min=0, max=2**32 - 1)
    device: str = flag("cpu", "cpu, cuda, cuda:1, ...", metavar="DEVICE")
    train_share: float = flag(1.0, "share of each task's train queries to use, sampled by the seed", above=0, max=1)
    max_examples: int = flag(0, "train queries of a task at most, sampled by the seed; none: all", min=1, named=NO)


@dataclass(frozen=True)
class EncoderSettings(Settings):
    """How the encoder reads texts and makes vectors, and which of its weights train."""

    pooling: str | None = flag(
        None,
        "for a plain Hugging Face model: first token, mean of tokens, last token, the model's pooler, or T5's first"
        " decoder state",
        choices=get_args(Pooling),
    )
    normalize: bool = flag(False, "scale vectors to length 1")
    prompts: bool = flag(True, "put the task's name before its queries")
    query_length: int = flag(
        0, "tokens of a query at most; auto: as TACO, 32 to 256 by task, 4 more with prompts", min=1, named=AUTO
    )
    passage_length: int = flag(160, "tokens of a passage at most", min=1)
    passage_template: str = flag(
        "{title} {text}",
        "how a passage is read; its fields are {title} and {text}",
        test=is_template,
        allowed="a text with the fields {title} and {text}",
    )
    passage_prompt: str | None = flag(None, "text before every passage, beside the template [default: the base's]")
    untied: bool = flag(False, "two towers, one for queries and one for passages")
    head: int = flag(0, "width of a linear layer on top; none: no layer", min=1, named=NO)
    freeze_embeddings: bool = flag(False, "do not train the token embeddings")
    freeze_layers: int = flag(0, "do not train this many of the lowest layers", min=0)
    roles: str = flag(
        NONE,
        "how the encoder tells queries, passages and a reader's input apart: by token types, a reserved token,"
        " a learned vector, or a deep prompt or adapters for each role, which train with everything else",
        choices=ROLE_MARKS,
    )
    dropout: float = flag(-1.0, "dropout while training; auto: the model's own", min=0, below=1, named={"auto": -1})


@dataclass(frozen=True)
class AdapterSettings(Settings):
    """Adapters: small modules that train on a frozen backbone."""

    tune: str = flag(
        FULL,
        "train the whole backbone, or freeze it and train adapters on it;"
        " bitfit: train its biases, except a pooler's, which vectors do not use",
        choices=(FULL, *METHODS),
    )
    tune_width: int = flag(
        0, "width of adapters, rank, or length of prompts; auto: the method's own", min=1, named=AUTO, only=TUNES
    )
    tune_budget: str = flag(
        "",
        "instead of a width: the largest width with at most this percentage of the backbone's parameters",
        test=lambda text: not text or BUDGET.fullmatch(text),
        allowed="a share such as 0.5%, or nothing",
        only=TUNES,
    )
    tune_roles: str = flag(
        "shared",
        "adapters: one for all texts, one for each tower, or one for the queries of each task and one for passages;"
        " task-frozen: as task, but none for passages; query-frozen: one for all queries, none for passages",
        choices=ROLES,
        only=TUNES,
    )
    tune_positions: str | None = flag(
        None,
        "with prompts: whether the positions of a text begin behind them or at 0;"
        " by default shifted for prompt, plain for prefix and mam",
        choices=(SHIFTED, PLAIN),
        only=TUNES,
    )
    tune_reparameterise: bool = flag(
        False, "train prompts through an embedding and two layers; the saved model has the prompts alone", only=TUNES
    )


@dataclass(frozen=True)
class BatchSettings(Settings):
    """Batches of retrieval and their contrastive loss."""

    batch_size: int = flag(64, "queries of a step, all tasks together", min=1, only=BATCHED)
    shares: str = flag(
        "temperature",
        "a task's share of a batch: proportional to its size, by temperature, uniform,"
        " or queries by task as in 16,8,8 (instead of the batch size)",
        test=SHARES.fullmatch,
        allowed="proportional, temperature, uniform, or whole numbers as in 16,8,8",
    )
    share_temperature: float = flag(
        4.0,
        "temperature c: shares grow as (a task's share of the queries)^(1/c); larger is more even",
        above=0,
        only=BY_TEMPERATURE,
    )
    hard_negatives: int = flag(
        1,
        "hard negatives of a query, beside the other queries' passages; each epoch takes the next ones",
        min=0,
        only=HARD,
    )
    multi_positive: bool = flag(False, "learn from all positives of a query at once", only=RETRIEVES)
    cross_device: bool = flag(True, "take negatives from all processes")
    temperature: float = flag(
        0.0,
        "scores are divided by it; auto: 1, or 0.05 with normalised vectors",
        above=0,
        named=AUTO,
        only=COMPARES,
    )


@dataclass(frozen=True)
class ObjectiveSettings(Settings):
    """What the encoder learns beside retrieval: reading, self-supervised tasks, and pre-training on spans."""

    reading: tuple[str, ...] = flag(
        NOTHING,
        "tasks whose questions the encoder also learns to answer, such as nq,squad; all: those of --tasks; none",
    )
    self_supervised: tuple[str, ...] = flag(
        NOTHING,
        "what the encoder also learns from passages alone: mlm, inverse_cloze, both; none",
        test=lambda names: tuple(names) == NOTHING or set(names) <= set(SELF_SUPERVISED),
        allowed=f"none, or some of {', '.join(SELF_SUPERVISED)}",
    )
    schedule: str = flag(
        "joint",
        "joint: every task in every step; alternating: one task a step; sequential: self-supervised tasks, then"
        " retrieval, then reading. In the last phase alone, validation chooses the best model and counts for patience",
        choices=SCHEDULES,
        only=SEVERAL_KINDS,
    )
    schedule_alpha: float = flag(
        0.5,
        "alternating: a task is sampled with a probability proportional to its size to this power",
        min=0,
        max=1,
        only=ALTERNATING,
    )
    phase_shares: str = flag(
        "1,1,1",
        "sequential: shares of the steps for self-supervised tasks, retrieval and reading, of those that have tasks",
        test=lambda text: PHASES.fullmatch(text) and all(map(float, text.split(","))),
        allowed="three numbers above 0, as in 1,2,1",
        only=SEQUENTIAL,
    )
    rehearsal: float = flag(
        0.0, "sequential: probability that a step belongs to an earlier phase", min=0, below=1, only=SEQUENTIAL
    )
    reading_batch: int = flag(16, "questions of a step for each reading task", min=1, only=READS)
    reading_negatives: int = flag(
        7,
        "mined passages without an answer that are read beside the gold one, at most; validation takes up to as many",
        min=0,
        only=READS,
    )
    reading_weight: float = flag(1.0, "factor of the loss of a reading task", above=0, only=READS)
    passage_batch: int = flag(16, "passages of a step for each self-supervised task", min=2, only=SELF_SUPERVISES)
    passage_weight: float = flag(1.0, "factor of the loss of a self-supervised task", above=0, only=SELF_SUPERVISES)
    max_passages: int = flag(
        0,
        "passages that self-supervised tasks read at most, sampled by the seed and kept in memory; none: all",
        min=1,
        named=NO,
        only=ON_PASSAGES,
    )
    objective: tuple[str, ...] = flag(
        NOTHING,
        f"parts of the loss of pre-training, which are summed: some of {', '.join(PARTS)}",
        metavar="PART",
        words=(*PARTS, *NOTHING),
    )
    span_from: str = flag(
        "passage",
        "where two spans that attract come from: one passage, without overlap, or two passages of one page",
        choices=("passage", "page"),
        only=CONTRASTS,
    )
    length: int = flag(128, "tokens of a span at most, with its special tokens", min=2 * MIN_SPAN, only=PRETRAINS)
    mask_share: float = flag(0.15, "share of the tokens that mlm and condenser fill in", above=0, max=0.5, only=MASKS)

    def check(self) -> None:
        object.__setattr__(self, "objective", tuple(part for part in (*PARTS, *NOTHING) if part in self.objective))

    @property
    def kinds(self) -> list[str]:
        """Kinds of tasks in the order in which a step takes them: names of `objectives.OBJECTIVES`."""
        if self.pretrains:
            return ["documents"]
        return ["retrieval", "reading", *(name for name in self.self_supervised if (name,) != NOTHING)]

    @property
    def shared(self) -> bool:
        """Whether there are tasks beside retrieval."""
        return SEVERAL_KINDS.acts(self)

    @property
    def pretrains(self) -> bool:
        """Whether the backbone is pre-trained on spans of documents."""
        return PRETRAINS.acts(self)

    @property
    def masked(self) -> bool:
        """Whether pre-training fills in masked tokens."""
        return MASKS.acts(self)

    @property
    def contrasted(self) -> bool:
        """Whether pre-training contrasts spans."""
        return CONTRASTS.acts(self)


@dataclass(frozen=True)
class OptimiserSettings(Settings):
    """How long a training is, and how gradients change weights."""

    learning_rate: float = flag(2e-5, "peak of the linear schedule", above=0)
    weight_decay: float = flag(0.01, "AdamW's weight decay", min=0)
    warmup: float = flag(0.1, "share of the steps with a rising learning rate", min=0, max=1)
    clip: float = flag(1.0, "largest norm of the update; none: not clipped", above=0, named=NO)
    epochs: float = flag(1.0, "passes over the longest task; the others cycle", above=0, only=BY_EPOCHS)
    steps: int = flag(0, "steps of an episode; auto: by epochs", min=1, named=AUTO)
    accumulate: int = flag(1, "slices that a batch is computed in; a query's negatives come from its own slice", min=1)
    gradcache: int = flag(0, "texts encoded at once, so that large batches fit (GradCache); none: off", min=1, named=NO)
    precision: str = flag("float32", "arithmetic of the encoder", choices=("float32", "bf16"))
    gradient_checkpointing: bool = flag(False, "less memory for a fifth to a third more time")


@dataclass(frozen=True)
class WeightingSettings(Settings):
    """How the gradients of several tasks become one update."""

    weighting: str = flag("naive", "how the tasks' gradients become one update", choices=tuple(WEIGHTINGS))
    weighting_options: Mapping[str, Any] = flag(
        {}, "options of the weighting, such as tau=2 beta=0.999; of static, weights of tasks such as nq=2 fever=0.5"
    )
    keep_optimizer: bool = flag(False, "an episode continues with the optimiser state of the one before")
    keep_importance: bool = flag(
        False, "an episode continues with the weighting's state of the one before", only=REMEMBERS
    )


@dataclass(frozen=True)
class NegativeSettings(Settings):
    """Where hard negatives come from."""

    negatives: str = flag(
        "bm25",
        "bm25, ance (mined with the model at the episode's start), given (by the training file), none, or a file of "
        "taco_ir.mine",
        test=bool,
        allowed="bm25, ance, given, none, or a file of taco_ir.mine",
    )
    mine_depth: int = flag(200, "hits of a query that negatives are taken from", min=1, only=MINES)
    mine_skip: int = flag(0, "best hits of a query that are left out", min=0, only=MINES)
    mine_keep: int = flag(32, "negatives kept for a query, the hardest first", min=1, only=MINES)


@dataclass(frozen=True)
class ValidationSettings(Settings):
    """When the model is measured, saved and logged."""

    validate_every: int = flag(
        0, "steps between validations; auto: at the end of each epoch", min=1, named=AUTO, only=MEASURES
    )
    validate_on: str = flag(
        "dev",
        "split that validation samples its queries from; sampled queries of train are not trained on",
        choices=("dev", "train"),
    )
    pool_queries: int = flag(50, "queries of a task in a validation", min=1)
    pool_hard: int = flag(10, "BM25 hits of each of them in the pool that is ranked", min=0)
    pool_random: int = flag(1000, "random passages in the pool", min=0)
    patience: int = flag(0, "stop after this many validations without a gain; none: never", min=1, named=NO)
    checkpoint_every: int = flag(200, "steps between checkpoints", min=1)
    keep_checkpoints: int = flag(2, "checkpoints kept, the latest", min=1)
    log_cosines: int = flag(
        0,
        "steps between logs of the cosines of the tasks' gradients, to within about 0.006; none: never",
        min=1,
        named=NO,
    )
    log_dose: int = flag(
        20,
        "steps between logs of the weighting's dose: how far its update is from the mean of the tasks' gradients;"
        " none: never",
        min=1,
        named=NO,
    )
    track: tuple[str, ...] = flag(
        NOTHING,
        f"send the log to trackers as well: some of {', '.join(TRACKERS)}",
        metavar="NAME",
        words=(*TRACKERS, *NOTHING),
    )
    held_out: int = flag(
        128,
        "documents that are not trained on, to measure the loss on; none: no documents",
        min=1,
        named=NO,
        only=PRETRAINS,
    )


@dataclass(frozen=True)
class TaskSettings(Settings):
    """What a table [tasks.NAME] sets for one task; None: as the whole training."""

    collection: str | None = flag(
        None, "where its passages and queries come from", test=lambda text: text != "", allowed="a collection"
    )
    task: str | None = flag(
        None, "its name in that collection; by default the table's", test=lambda text: text != "", allowed="a task"
    )
    prompt: str | None = flag(None, "text before its queries")
    query_length: int | None = flag(None, "tokens of a query at most, with the prompt", min=1)
    passage_length: int | None = flag(None, "tokens of a passage in its batches, at most", min=1)
    share: int | None = flag(None, "its queries of a batch; tasks without one divide the rest", min=1)
    hard_negatives: int | None = flag(None, "hard negatives of a query", min=0)
    negatives: str | None = flag(
        None,
        "where its hard negatives come from",
        test=lambda text: text != "",
        allowed="bm25, ance, given, none, or a file of taco_ir.mine",
    )
    temperature: float | None = flag(None, "scores are divided by it", above=0)
    weight: float = flag(1.0, "factor of its loss, before the weighting of tasks", above=0)

    @property
    def given(self) -> Values:
        """The keys that are not left to the whole training."""
        return {entry.name: value for entry in fields(self) if (value := getattr(self, entry.name)) != entry.default}


@dataclass(frozen=True, init=False)
class TrainSettings:
    """All settings of a training, given as flat keys: `TrainSettings(model="bert-base-uncased", output="my-run")`.

    Attributes:
        episodes: tables of keys for each episode of the training, in order.
        task_tables: settings of single tasks by name, where tasks have any; files and arguments call them `tasks`.

    Raises:
        InputError: for an unknown key, a value that is not allowed, or one that has no effect and is not the default.

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
                raise InputError(f"{key} is {values[key]!r}; it goes with {goes_with} and does nothing here")

    def _check_across_sections(self) -> None:
        if self.objectives.pretrains and self.batch.batch_size < 2:
            raise InputError(
                f"batch_size is {self.batch.batch_size}; it must be a whole number, at least 2,"
                " so that there are documents to contrast"
            )
        if self.run.tasks == NOTHING and not (self.objectives.shared or self.objectives.pretrains):
            raise InputError("tasks is none; there is nothing to train; name some by tasks, reading or self_supervised")
        if self.run.tasks == NOTHING and self.objectives.reading == ("all",):
            raise InputError(
                "reading is all, which are the tasks of retrieval; with tasks none there are none; name those to read"
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
                f"mine_depth {source.mine_depth}, mine_skip {source.mine_skip} and mine_keep {source.mine_keep} leave"
                f" {max(left, 0)} negatives of a query; hard_negatives {hard} needs at least {max(hard, 1)}"
            )

    def _check_shares(self) -> None:
        """Raise InputError where queries of a batch are given twice: by tables of tasks and for all tasks."""
        shares = {name: own.share for name, own in self.task_tables.items() if own.share is not None}
        if shares and not self.batch.shares.isalpha():
            name, share = next(iter(shares.items()))
            raise InputError(f"tasks.{name}.share is {share}; shares is {self.batch.shares!r}; leave one of them out")

    def flat(self) -> Values:
        """All keys with their values, as files have them; `task_tables` only where there are any."""
        values = {key: value for name in SECTIONS for key, value in vars(getattr(self, name)).items()}
        tables = {name: own.given for name, own in self.task_tables.items()}
        return values | {"episodes": self.episodes} | ({"task_tables": tables} if tables else {})

    def replace(self, **keys: Any) -> TrainSettings:
        """The same settings with these keys instead, and defaults for those that then have no effect."""
        keys = checked_keys(keys, (*KEYS, "episodes", "task_tables"), "")
        return TrainSettings(**_drop_idle({**self.flat(), **keys}, keys))

    def each_episode(self) -> list[TrainSettings]:
        """The settings of each episode in order; without episodes, these."""
        tables = [table for table in self.episodes for _ in range(table.get("repeat", 1))]
        return [self.of_episode(table) for table in tables] or [self]

    def of_episode(self, table: Mapping[str, Any]) -> TrainSettings:
        """These settings with those of an episode's table instead."""
        own = {key: value for key, value in table.items() if key != "repeat"}
        return TrainSettings(**_drop_idle(merge({**self.flat(), "episodes": ()}, own), own))

    def check_episodes(self) -> None:
        """Raise InputError where a weighting does not fit the schedule, or an episode cannot continue from the last."""
        episodes = self.each_episode()
        for weighting in (each.weighting.weighting for each in episodes if each.objectives.schedule != "joint"):
            if weighting != "naive":
                raise InputError(
                    f"weighting is {weighting}; it combines the gradients of all tasks, but a step has only some of"
                    f" them with schedule {self.objectives.schedule}; give weighting naive, or schedule joint"
                )
        for key in ("keep_optimizer", "keep_importance"):
            first, *later = (getattr(each.weighting, key) for each in episodes)
            if first and not any(later):
                raise InputError(
                    f"{key} is True; no earlier episode has a state to keep; leave {key} out, or give more episodes"
                )
        for number, (before, now) in enumerate(pairwise(each.weighting for each in episodes), 2):
            if now.keep_importance and now.weighting != before.weighting:
                raise InputError(
                    f"episode {number}: keep_importance is True; the weighting is {now.weighting}, that of the episode"
                    f" before {before.weighting}; leave keep_importance out, or give both one weighting"
                )
        if self.adapters.tune_reparameterise and (count := len(episodes)) > 1:
            raise InputError(
                f"tune_reparameterise: an episode leaves plain vectors, from which the next of the {count} cannot"
                " continue; leave it out, or give one episode"
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
# type and rules by key; files call `episodes` `episode`, and have `repeat` in it
RULES: dict[str, Rules] = {
    **{key: rules for kind in SECTIONS.values() for key, rules in rules_of(kind).items()},  # type: ignore[arg-type]
    "episodes": (TABLES, {}),
    "episode": (TABLES, {}),
    "task_tables": (Mapping[str, object], {}),
    "repeat": (int, {"min": 1, "max": 1000}),
}


def require(values: Mapping[str, Any], said: Callable[[str], str] = str) -> None:
    """Raise InputError for settings without a model or an output; messages write a key as `said(key)`."""
    for key in ("model", "output"):
        if not values.get(key):
            raise InputError(f"{said(key)} is needed: {KEYS[key].metadata['help']}")


def idle_keys(values: Mapping[str, Any]) -> dict[str, str]:
    """Keys that have no effect beside these values (defaults where they are silent), and what they would go with."""
    whole = SimpleNamespace(**{**DEFAULTS, "task_tables": {}, **values})
    limits = {key: entry.metadata["only"] for key, entry in KEYS.items() if "only" in entry.metadata}
    return {key: only.goes_with for key, only in limits.items() if not only.acts(whole)}


def idle_in_run(values: Mapping[str, Any]) -> dict[str, str]:
    """Keys that have no effect in any episode, as `idle_keys`."""
    first, *others = (idle_keys(merge(values, table)) for table in values.get("episodes") or [{}])
    return {key: goes_with for key, goes_with in first.items() if all(key in each for each in others)}


def drop_idle(values: Mapping[str, Any]) -> Values:
    """The values, and those in episodes, that have an effect."""
    found = _drop_idle(values, ())
    if "episodes" in values:
        found["episodes"] = tuple(
            {key: value for key, value in table.items() if key not in idle_keys(merge(values, table))}
            for table in values["episodes"]
        )
    return found


def _drop_idle(values: Mapping[str, Any], kept: Collection[str]) -> Values:
    """The values that have an effect, and those to keep in any case."""
    idle = idle_in_run(values)
    return {key: value for key, value in values.items() if key in kept or key not in idle}


def override(base: Mapping[str, Any], given: Mapping[str, Any]) -> Values:
    """`base` with what is given instead, without the values that have no effect any more."""
    found = merge(base, given)
    left = idle_in_run(found).keys() - idle_in_run(base).keys() - given.keys()
    return {key: value for key, value in found.items() if key not in left}


def merge(base: Mapping[str, Any], given: Mapping[str, Any]) -> Values:
    """`base` with what is given instead: another weighting drops the old one's options, epochs drop the steps."""
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
    """Values as the types of their keys, those of episodes too.

    Args:
        where: precedes a key in messages.
        said: how messages write a key.

    Raises:
        InputError: naming key, value and what is allowed.
    """
    found: Values = {}
    for key, value in values.items():
        if key not in allowed:
            reason = f"unknown key {key!r}; {suggest(key, allowed)}"
            if key in KEYS and "repeat" in allowed:
                reason = f"key {key!r} belongs to the whole run; valid: {', '.join(allowed)}"
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
    """Settings of single tasks by name, as their types. Raises: InputError naming table, key and value."""
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
    """Settings of tasks by canonical name. Raises: InputError for two tables of one task."""
    found: dict[str, TaskSettings] = {}
    given: dict[str, str] = {}
    for spelled, values in (check_tables(tables, "") if tables else {}).items():
        name = canonical_task(spelled)
        if name in found:
            raise InputError(f"tasks.{given[name]} and tasks.{spelled} are one task, {name}; leave one of them out")
        found[name], given[name] = TaskSettings(**values), spelled
    return found
