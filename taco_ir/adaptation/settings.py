"""The settings of an adaptation. A setting has the same name as a flag, in a TOML file and in the saved record.

Settings that a training also has mean the same here, and are checked by the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from taco_ir.core.files import InputError, read_toml
from taco_ir.core.settings import Only, Settings, Values, as_flag, check_values, flag, rules_of
from taco_ir.core.suggestions import suggest
from taco_ir.core.tasks import canonical_task
from taco_ir.encoders.adapters.folder import QUERY_FROZEN
from taco_ir.encoders.adapters.methods import METHODS
from taco_ir.training.settings import (
    AUTO,
    BY_EPOCHS,
    BY_TEMPERATURE,
    KEYS,
    NO,
    NOTHING,
    AdapterSettings,
    BatchSettings,
    OptimiserSettings,
    ValidationSettings,
    WeightingSettings,
)

Section = TypeVar("Section", bound=Settings)
ONE, TASK, GROUP = SHARES = ("one", "task", "group")
OF_ADAPTERS = {"method": "tune", "width": "tune_width", "budget": "tune_budget", "positions": "tune_positions"}
BUDGET = "instead of --width: the largest width with at most this percentage of the backbone's parameters, such as 0.5%"
POSITIONS = "prompts: position ids start after the prompt (shifted) or at 0 (plain) [default: plain; prompt: shifted]"
UNLIKE = {"validate_on", "held_out"}  # of a training, where these keys mean something else
SHARED = (BatchSettings, OptimiserSettings, WeightingSettings, ValidationSettings)
GROUPED = Only("share group", lambda settings: settings.share == GROUP)
SPLITS = Only("no validate_on", lambda settings: settings.validate_on == NOTHING)
MEASURES = Only("queries that are held out", lambda settings: settings.held_out > 0 or not SPLITS.acts(settings))
COMPARES = Only(
    "a collection and queries that are held out", lambda settings: settings.collection != "" and MEASURES.acts(settings)
)
BATCHED = Only("shares given as a word", lambda settings: settings.shares.isalpha())


def same(key: str, **changes: Any) -> Any:
    """Returns a setting like the training setting `key`; `changes` replace its default, help or rules."""
    entry = KEYS[key]
    rules = {name: rule for name, rule in {**entry.metadata, **changes}.items() if rule is not None}
    if "default" not in rules:
        rules["default"] = entry.default if key != "weighting_options" else {}
    return flag(**rules)


@dataclass(frozen=True)
class AdaptSettings(Settings):
    """All settings of an adaptation: model, index, queries, adapter, training and validation.

    Raises:
        InputError: for a value that is not allowed, or one that has no effect and is not the default.
    """

    index: str = flag(
        "",
        "the index to keep: one built by taco_ir, vector blocks, a Pyserini folder, a faiss index, or a matrix "
        "in an .npy or parquet file",
        metavar="INDEX",
    )
    docids: str = flag(
        "", "for an index without docids: a file with one docid per line, in the order of the vectors", metavar="FILE"
    )
    model: str = flag(
        "",
        "the encoder that the index was built with: a checkpoint, a Hugging Face folder, or a hub name",
        metavar="MODEL",
    )
    pooling: str | None = same("pooling")
    normalize: bool = flag(False, "scale the vectors of a plain Hugging Face model to length 1")
    topics: tuple[str, ...] = flag(
        NOTHING,
        "queries to learn from, with gold: query sets of the collection, such as nq-train, or files. Files are "
        "KILT records or, with --qrels, id<TAB>text, TREC <top> or BEIR's JSON lines. A file without task names "
        "is one task with the file's name",
        metavar="TOPICS",
        whole=True,
    )
    qrels: tuple[str, ...] = flag(
        NOTHING, "files with the relevance judgments of all queries (TREC or BEIR qrels)", metavar="FILE", whole=True
    )
    collection: str = flag(
        "",
        "the collection of the query sets in --topics. If it has the texts of the index, the encoder's vectors of a "
        "few texts are compared with the index",
        metavar="COLLECTION",
    )
    output: str = flag("", "folder to write checkpoints, log, report and the model to", metavar="FOLDER")
    max_examples: int = same("max_examples")
    seed: int = same("seed")
    device: str = same("device")
    share: str = flag(
        ONE,
        "which queries share an adapter. one: all; task: each task has its own; group: each group of tasks has its own",
        choices=SHARES,
    )
    groups: tuple[str, ...] = flag(
        NOTHING,
        "the groups and their tasks, such as a=nq,squad b=fever",
        metavar="GROUP=TASKS",
        whole=True,
        only=GROUPED,
    )
    method: str = flag("adapter", "kind of adapter", choices=tuple(METHODS))
    width: int = same("tune_width", only=None)
    budget: str = same("tune_budget", only=None, help=BUDGET)
    positions: str | None = same("tune_positions", only=None, help=POSITIONS)
    query_length: int = flag(0, "cut queries after this many tokens; auto: the model's own length", min=1, named=AUTO)
    temperature: float = same("temperature", only=None)
    softmax_passages: int = flag(
        500_000,
        "up to this many passages, compute the softmax over the whole index; for a larger index, estimate it from "
        "the hits and random passages",
        min=0,
    )
    hits: int = flag(
        256,
        "for a sampled softmax: how many top passages of each query to include, found with the current adapter",
        min=1,
    )
    random: int = flag(
        8192, "for a sampled softmax: how many random passages to include; they stand for all other passages", min=1
    )
    batch_size: int = same("batch_size", only=BATCHED)
    shares: str = same("shares")
    share_temperature: float = same("share_temperature", only=BY_TEMPERATURE)
    weighting: str = same("weighting")
    weighting_options: Mapping[str, Any] = same("weighting_options")
    learning_rate: float = same("learning_rate", default=3e-3)
    weight_decay: float = same("weight_decay")
    warmup: float = same("warmup")
    clip: float = same("clip")
    steps: int = flag(200, "number of steps; auto: from the number of epochs", min=1, named=AUTO)
    epochs: float = same("epochs", only=BY_EPOCHS)
    accumulate: int = flag(1, "compute each batch in this many slices, to save memory", min=1)
    gradcache: int = same("gradcache")
    precision: str = same("precision")
    dropout: float = same("dropout")
    held_out: float = flag(
        0.2,
        "hold out this fraction of each task's queries; their gold pages are not trained on. Half of these "
        "queries decide which step is best and which tasks use the adapter; the other half are for the report. "
        "none: hold out nothing",
        above=0,
        named=NO,
        below=1,
        only=SPLITS,
    )
    validate_on: tuple[str, ...] = flag(
        NOTHING, "hold out these query sets or files instead, given as in --topics", metavar="TOPICS", whole=True
    )
    validation_queries: int = flag(400, "hold out at most this many queries of each task", min=2, only=MEASURES)
    validate_every: int = same("validate_every", default=25, only=MEASURES)
    patience: int = same("patience", only=MEASURES)
    keep_if_better: bool = flag(
        True, "keep the original model for each task with held-out queries that do not improve", only=MEASURES
    )
    compare: bool = flag(True, "also search the held-out queries with BM25, and report its scores", only=COMPARES)
    checkpoint_every: int = same("checkpoint_every", default=50)
    keep_checkpoints: int = same("keep_checkpoints", default=1)
    log_cosines: int = same("log_cosines")
    log_dose: int = same("log_dose")
    track: tuple[str, ...] = same("track")

    def check(self) -> None:
        for key in ("index", "model", "output"):
            if not getattr(self, key):
                raise InputError(f"{as_flag(key)} is needed: {rules_of(AdaptSettings)[key][1]['help']}")
        if self.topics == NOTHING:
            raise InputError("--topics is needed: queries to learn from")
        if self.share == GROUP and self.groups == NOTHING:
            raise InputError("share is group, so groups is needed, as in a=nq,squad b=fever")
        for key, goes_with in self.idle.items():
            if getattr(self, key) != DEFAULTS[key]:
                raise InputError(f"{key} is {getattr(self, key)!r}; it has an effect only with {goes_with}")
        _ = self.group_of, self.adapters, [self.section(kind) for kind in SHARED]

    @property
    def idle(self) -> dict[str, str]:
        """Returns the settings without effect, each with the condition (in words) under which it has an effect."""
        limits = {entry.name: entry.metadata["only"] for entry in fields(self) if "only" in entry.metadata}
        return {key: only.goes_with for key, only in limits.items() if not only.acts(self)}

    @property
    def measures(self) -> bool:
        """True if queries are held out."""
        return MEASURES.acts(self)

    @property
    def group_of(self) -> dict[str, str]:
        """Returns the group of each task; {} without groups. Raises: InputError for text that is not GROUP=TASKS."""
        found: dict[str, str] = {}
        for text in self.groups if self.share == GROUP else ():
            group, _, tasks = text.partition("=")
            names = [canonical_task(task) for task in tasks.split(",") if task]
            if not group or not names:
                raise InputError(f"groups: {text!r} is not GROUP=TASKS, as in a=nq,squad")
            for task in names:
                if found.setdefault(task, group) != group:
                    raise InputError(
                        f"groups: task {task} is in groups {found[task]} and {group}; remove it from one of them"
                    )
        if clash := next((group for group in found.values() if group in found), None):
            raise InputError(f"groups: {clash!r} is the name of both a group and a task; give the group another name")
        return found

    @property
    def adapters(self) -> AdapterSettings:
        roles = QUERY_FROZEN if self.share == ONE else "task-frozen"
        return AdapterSettings(tune_roles=roles, **{key: getattr(self, own) for own, key in OF_ADAPTERS.items()})

    def section(self, kind: type[Section]) -> Section:
        """Returns a section of training settings, with the values of the keys that mean the same here."""
        own = rules_of(kind).keys() - UNLIKE  # type: ignore[arg-type]
        return kind(**{key: value for key, value in vars(self).items() if key in own})

    def flat(self) -> Values:
        """Returns all settings and their values, in the form that files have."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


DEFAULTS: Values = {
    entry.name: {} if entry.name == "weighting_options" else entry.default for entry in fields(AdaptSettings)
}
SECTIONS = {  # the first key of each group of flags in --help
    "index": "model, index and queries",
    "share": "adapter",
    "temperature": "loss and batches",
    "weighting": "weighting and optimisation",
    "held_out": "validation, checkpoints and report",
}


def read_settings(path: Path | None, flags: Mapping[str, Any]) -> AdaptSettings:
    """Combine settings from defaults, a TOML file and flags; each overrides the one before.

    Args:
        flags: values by key that were given on the command line.

    Raises:
        InputError: naming file or flag, key, value and what is allowed.
    """
    rules, values = rules_of(AdaptSettings), Values()
    if path is not None:
        if not path.is_file():
            raise InputError(f"--config {path}: no such file")
        found = read_toml(path)
        if unknown := next((key for key in found if key not in rules), None):
            raise InputError(f"{path}: unknown key {unknown!r}; {suggest(unknown, rules)}")
        values = check_values(found, rules, lambda key: f"{path}: {key}")
    values |= check_values(flags, rules, as_flag)
    try:
        settings = AdaptSettings(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}" if path else str(error)) from error
    for key, goes_with in settings.idle.items():
        if key in flags:  # refused even if the value is the default
            raise InputError(f"{as_flag(key)} has an effect only with {goes_with}")
    return settings
