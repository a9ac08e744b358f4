"""Conditions files: which systems a study trains and scores, with which seeds, and what depends on what.

A command is a verb of this package that writes into {out}, the folder of its condition. Other placeholders are
{collection}, {folder} (of the conditions file), {seed}, the names in `models`, and the names of other conditions, which
stand for their {out} with the same seed. A condition runs after the conditions that it names. Conditions can share the
commands of a `recipe`, where {args} stands for a condition's `args`. With `best = { rate = "tune-*" }`, {rate} is what
the * matches in the condition that ranks held-out train queries best.

A study runs only verbs of this package, which write into the work folder. In this respect, it is safe to run somebody
else's study.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Annotated, Any, NamedTuple

from taco_ir.core.files import InputError, check_type, read_toml
from taco_ir.core.typed import abbreviate

WHOLE = "whole"
CORPORA = "corpora"  # folder of subsets in the work folder, next to the folders of conditions
RESERVED = ("collection", "folder", "out", "seed")  # placeholders
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
VERBS = ("train", "pretrain", "adapt", "mine", "encode", "index", "export", "data", "search", "answer")  # with --output
DATA_COMMANDS = ("hold-out", "subset")  # of the verb data; its other commands write to the data home
Count = Annotated[int, 0]


class Job(NamedTuple):
    """One condition with one seed."""

    condition: str
    seed: int

    def __str__(self) -> str:
        return f"{self.condition}, seed {self.seed}"


class Subset(NamedTuple):
    """A smaller corpus: the gold passages of all topics, and sampled distractors (other passages)."""

    distractors: Count
    seed: Count = 0


class Slice(NamedTuple):
    """Queries of `topics` that are scored separately, as `name`: they have `value` in the field `field` of `meta`."""

    name: str
    topics: str
    field: str
    value: Any


class ConditionsFile(NamedTuple):
    """The keys of a conditions file."""

    name: str
    topics: tuple[str, ...]
    tolerance: float
    condition: tuple[dict[str, Any], ...]
    models: tuple[str, ...] = ()
    hits: Count = 100
    corpora: Mapping[str, Subset] = {}
    slice: tuple[Slice, ...] = ()
    recipe: Mapping[str, dict[str, Any]] = {}


class Template(NamedTuple):
    """The keys of a [[condition]] table that make several conditions: one for each combination of values in `each`."""

    name: str
    each: Mapping[str, tuple[Any, ...]] = {}
    recipe: str = ""
    args: str = ""


@dataclass(frozen=True)
class Condition:
    """One system of a study, or an intermediate step that other conditions need.

    Attributes:
        commands: the commands to run, in order.
        search: flags of the search that is scored; "" if nothing is scored.
        answer: flags of `answer`, if answers are scored, too.
        topics: topics to use instead of the topics of the study.
        corpora: by name of corpus, the seeds to score on it.
        best: by placeholder, the pattern of the conditions to choose from.
    """

    name: str
    seeds: tuple[Count, ...]
    system: str = ""
    base: str = ""
    commands: tuple[str, ...] = ()
    search: str = ""
    answer: str = ""
    topics: tuple[str, ...] = ()
    corpora: Mapping[str, tuple[Count, ...]] = field(default_factory=dict)
    best: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> set[str]:
        """Return all placeholders in the commands, and in the flags of search and answer."""
        return {name for template in (*self.commands, self.search, self.answer) for name in placeholders(template)}


@dataclass(frozen=True)
class Study:
    """A conditions file that has been read and checked."""

    name: str
    folder: Path
    models: tuple[str, ...]
    topics: tuple[str, ...]
    hits: int
    tolerance: float
    subsets: Mapping[str, Subset]
    slices: tuple[Slice, ...]
    conditions: Mapping[str, Condition]

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def corpora(self) -> tuple[str, ...]:
        return (WHOLE, *self.subsets)

    def jobs(self) -> list[Job]:
        """Return all jobs: first each condition with its first seed, then each with its second seed, and so on."""
        turns = itertools.zip_longest(*([Job(each.name, s) for s in each.seeds] for each in self.conditions.values()))
        return [job for turn in turns for job in turn if job is not None]

    def needs(self, job: Job) -> dict[str, Job]:
        """Return the jobs that a job reads output from, by condition. Raises: InputError if one lacks the seed."""
        candidates = {name for each in self.candidates(job.condition).values() for name in each.values()}
        needed = {}
        for name in sorted((self.conditions[job.condition].names() | candidates) & self.conditions.keys()):
            seeds = self.conditions[name].seeds
            if job.seed not in seeds and len(seeds) > 1:
                raise InputError(
                    f"condition {job} needs {name} with the same seed, but {name} only has seeds "
                    f"{', '.join(map(str, seeds))}"
                )
            needed[name] = Job(name, job.seed if job.seed in seeds else seeds[0])
        return needed

    def with_needs(self, jobs: Iterable[Job]) -> set[Job]:
        """Return these jobs and all jobs that they need, directly or indirectly."""
        found = set(jobs)
        while more := {needed for job in found for needed in self.needs(job).values()} - found:
            found |= more
        return found

    def candidates(self, condition: str) -> dict[str, dict[str, str]]:
        """Return the values to choose from for each placeholder of `best`, with the condition that tries each value."""
        found = {}
        for placeholder, text in self.conditions[condition].best.items():
            pattern = re.compile(re.escape(text).replace(r"\*", "(.+)"))
            found[placeholder] = {match[1]: name for name in self.conditions if (match := pattern.fullmatch(name))}
        return found


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def read_study(path: Path) -> Study:
    """Read a conditions file. Raises: InputError naming the file, the condition, the value and what is allowed."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    file = check_type(read_toml(path), ConditionsFile, str(path))
    conditions: dict[str, Condition] = {}
    for table in file.condition:
        for made in _read_conditions(path, table, file):
            if made.name in conditions:
                raise InputError(f"{path}: two conditions are called {made.name!r}; rename one")
            conditions[made.name] = made
    _check_names(f"{path}: name", [file.name])
    _check_names(f"{path}: corpora", file.corpora, (WHOLE,))
    _check_names(f"{path}: models", file.models, RESERVED)
    _check_names(f"{path}: topics", file.topics)
    folder = path.resolve().parent
    study = Study(
        file.name, folder, file.models, file.topics, file.hits, file.tolerance, file.corpora, file.slice, conditions
    )
    for condition in conditions.values():
        _check_condition(f"{path}: condition {condition.name[:100]!r}", study, condition)
    try:
        TopologicalSorter({job: study.needs(job).values() for job in study.jobs()}).prepare()
    except CycleError as error:
        raise InputError(
            f"{path}: conditions depend on each other in a circle: {' -> '.join(map(str, error.args[1]))}"
        ) from error
    return study


def _read_conditions(path: Path, table: Mapping[str, Any], file: ConditionsFile) -> Iterator[Condition]:
    """Yield the conditions of one [[condition]] table: one for each combination of the values in `each`."""
    where = f"{path}: condition {abbreviate(table.get('name'))}"
    axes = check_type(table, Template, where, others=True).each
    for values in itertools.product(*axes.values()):
        filled = _fill(
            {key: value for key, value in table.items() if key != "each"}, dict(zip(axes, values, strict=True))
        )
        yield _read_condition(f"{path}: condition {abbreviate(filled['name'])}", filled, file)


def _read_condition(where: str, table: dict[str, Any], file: ConditionsFile) -> Condition:
    if (recipe := table.pop("recipe", "")) and recipe not in file.recipe:
        raise InputError(f"{where}: unknown recipe {recipe!r}; allowed: {', '.join(file.recipe)}")
    merged = {**file.recipe.get(recipe, {}), **table}
    args = check_type(merged, Template, where, others=True).args
    merged = _fill({key: value for key, value in merged.items() if key != "args"}, {"args": args})
    allowed = {each.name for each in fields(Condition)} - {"corpora"} | {WHOLE, *file.corpora}
    if unknown := [key for key in merged if key not in allowed]:
        raise InputError(f"{where} has unknown key {abbreviate(unknown[0])}; allowed: {', '.join(sorted(allowed))}")
    corpora = {name: merged.pop(name) for name in list(merged) if name in (WHOLE, *file.corpora)}
    return check_type({**merged, "corpora": corpora}, Condition, where)


def _fill(value: Any, names: Mapping[str, Any]) -> Any:
    """Replace {name} in all texts of a value."""
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace(f"{{{name}}}", str(text))
        return value
    if isinstance(value, dict):
        return {key: _fill(each, names) for key, each in value.items()}
    return [_fill(each, names) for each in value] if isinstance(value, list) else value


def _check_condition(where: str, study: Study, condition: Condition) -> None:
    _check_names(where, [condition.name], (*RESERVED, CORPORA))
    _check_names(f"{where}: topics", condition.topics)
    if not condition.seeds:
        raise InputError(f"{where}: no seeds; give at least one")
    for template in condition.commands:
        _check_command(where, template, scored=False)
    for template in filter(None, (condition.search, condition.answer)):
        _check_command(where, template, scored=True)
    known = {*RESERVED, *study.models, *study.conditions}
    for placeholder, pattern in condition.best.items():
        if pattern.count("*") != 1 or not study.candidates(condition.name)[placeholder]:
            raise InputError(
                f"{where}: best {placeholder} = {pattern!r}: the pattern needs exactly one *, and must match the name"
                " of at least one condition"
            )
        if placeholder in known:
            raise InputError(f"{where}: best {placeholder}: {{{placeholder}}} already has a meaning; give another name")
    known |= condition.best.keys()
    if unknown := condition.names() - known:
        names = ", ".join(sorted(known))
        raise InputError(
            f"{where}: {{{min(unknown)}}} is not defined; defined: {names} (and the names of models and conditions)"
        )
    _check_scored(where, study, condition)
    for seed in condition.seeds:
        study.needs(Job(condition.name, seed))


def _check_scored(where: str, study: Study, condition: Condition) -> None:
    """Raise InputError if a key for scoring is missing, or if a corpus names a seed that the condition lacks."""
    for corpus, seeds in condition.corpora.items():
        if foreign := set(seeds) - set(condition.seeds):
            raise InputError(
                f"{where}: {corpus} names seed {min(foreign)}, which the condition does not have; the condition's seeds"
                f" are {', '.join(map(str, condition.seeds))}"
            )
    if bool(condition.corpora) != bool(condition.search and condition.system):
        raise InputError(
            f"{where}: a condition that is scored needs search, system and a corpus with seeds "
            f"({', '.join(study.corpora)})"
        )
    if condition.answer and not condition.search:
        raise InputError(f"{where}: answer needs search too, since answers are scored together with their search")


def _check_names(where: str, names: Iterable[str], taken: Collection[str] = ()) -> None:
    """Raise InputError for a name that is taken, or that is unsafe as the name of a file or folder."""
    for name in names:
        if not NAME.fullmatch(name) or name in taken:
            but = f", and not {', '.join(taken)}" if taken else ""
            raise InputError(
                f"{where}: {name[:100]!r}: a name has at most 100 letters, digits, dots, _, + and -, and begins "
                f"with a letter or digit{but}"
            )


def _check_command(where: str, template: str, scored: bool) -> None:
    """Raise InputError for a command that is not a verb of this package, or that may write outside {out}.

    Args:
        scored: True for the flags of search and answer; their --output is set by the runner.
    """
    quoted = f"{where}: {template[:200]!r}"
    try:
        words = shlex.split(template)
        parsed = [each for each in Formatter().parse(template) if each[1] is not None]
    except ValueError as error:
        raise InputError(f"{quoted}: {error}") from error
    if any(spec or conversion for _, _, spec, conversion in parsed):
        raise InputError(f"{quoted}: placeholders must be plain names in braces, without : and !")
    if not scored:
        _check_verb(where, words)
    outputs = [place for place, word in enumerate(words) if word.partition("=")[0] == "--output"]
    if scored and outputs:
        raise InputError(f"{quoted}: the study sets --output itself; leave it out")
    elsewhere = words[:1] in (["search"], ["answer"]) or any(word.startswith("--config") for word in words)
    if len(outputs) > 1 or (elsewhere and not outputs and not scored):
        raise InputError(f"{quoted}: --output {{out}}, or a path inside {{out}}, is needed exactly once")
    for place in outputs:
        text = "".join(words[place + 1 : place + 2])
        path = PurePosixPath(text)
        if path.parts[:1] != ("{out}",) or ".." in path.parts or "\\" in text or "\0" in text:
            raise InputError(f"{quoted}: --output {text[:200]!r}; it must be {{out}}, or a path inside it")


def _check_verb(where: str, words: Sequence[str]) -> None:
    if not words or words[0] not in VERBS or (words[0] == "data" and "".join(words[1:2]) not in DATA_COMMANDS):
        allowed = [*(verb for verb in VERBS if verb != "data"), *(f"data {each}" for each in DATA_COMMANDS)]
        raise InputError(f"{where}: unknown command {' '.join(words[:2])[:200]!r}; allowed: {', '.join(allowed)}")


def parse_models(texts: Iterable[str]) -> dict[str, str]:
    """Parse texts such as bert-tiny=models/tiny; return the folder of each model, by name. Raises: InputError."""
    found = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not (name and folder):
            raise InputError(f"--models {text!r} is not NAME=FOLDER")
        found[name] = folder
    return found
