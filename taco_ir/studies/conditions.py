"""A conditions file -> what is to be run, with which seeds, after what.

Commands are verbs of this package that make something, and write into {out}, the condition's own output; other placeholders are
{collection}, {folder} (of the conditions file), {seed}, the names of `models`, and the names of other conditions, which stand for their output with the same seed. A
condition runs after those that it names. Conditions share commands through a `recipe`, whose {args} are the condition's `args`.
With `best = { rate = "tune-*" }`, {rate} is what stands for the * in the condition that ranks held-out train queries best.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

from taco_ir.core.files import InputError, read_toml
from taco_ir.core.typed import abbreviate
from taco_ir.studies.checks import CORPORA, NUMBERS, RESERVED, check_command, check_kinds, check_names

WHOLE = "whole"
TOP = ("name", "models", "topics", "hits", "tolerance", "corpora", "slice", "recipe", "condition")


class Job(NamedTuple):
    """One condition with one seed."""

    condition: str
    seed: int

    def __str__(self) -> str:
        return f"{self.condition}, seed {self.seed}"


class Part(NamedTuple):
    """A corpus that is a part of the collection: the topics' gold passages and distractors drawn by the seed."""

    distractors: int
    seed: int = 0


class Slice(NamedTuple):
    """The queries of `topics` whose `meta` has `value` under `field`, reported under a name of their own."""

    name: str
    topics: str
    field: str
    value: Any


@dataclass(frozen=True)
class Condition:
    """What is run and scored. `commands` run in order; `search` are the flags of the search that is scored ("": none), and
    `answer` those of the answers that are scored with it.

    `best`, by placeholder, are patterns of conditions to choose among.
    """

    name: str
    seeds: tuple[int, ...]
    system: str = ""
    base: str = ""
    commands: tuple[str, ...] = ()
    search: str = ""
    answer: str = ""
    topics: tuple[str, ...] = ()
    corpora: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    best: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> set[str]:
        """Every placeholder of its commands, its search and its answers."""
        return {name for template in (*self.commands, self.search, self.answer) for name in placeholders(template)}


@dataclass(frozen=True)
class Study:
    """A conditions file, read and checked."""

    name: str
    folder: Path
    models: tuple[str, ...]
    topics: tuple[str, ...]
    hits: int
    tolerance: float
    parts: Mapping[str, Part]
    slices: tuple[Slice, ...]
    conditions: Mapping[str, Condition]

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def jobs(self) -> list[Job]:
        """First seeds of all conditions first, so that every system is there before any is repeated."""
        longest = max(len(condition.seeds) for condition in self.conditions.values())
        return [
            Job(condition.name, condition.seeds[turn])
            for turn in range(longest)
            for condition in self.conditions.values()
            if turn < len(condition.seeds)
        ]

    def needs(self, job: Job) -> dict[str, Job]:
        """The jobs whose output a job reads, by placeholder. Raises: InputError for one without the job's seed."""
        needed = {}
        tried = {name for each in self.tried(job.condition).values() for name in each.values()}
        for name in sorted((self.conditions[job.condition].names() | tried) & self.conditions.keys()):
            seeds = self.conditions[name].seeds
            if job.seed not in seeds and len(seeds) > 1:
                raise InputError(f"condition {job} needs {name}, which has seeds {', '.join(map(str, seeds))}")
            needed[name] = Job(name, job.seed if job.seed in seeds else seeds[0])
        return needed

    def with_needs(self, jobs: Iterable[Job]) -> set[Job]:
        """Jobs and all that they need, directly or not."""
        found = set(jobs)
        while more := {needed for job in found for needed in self.needs(job).values()} - found:
            found |= more
        return found

    def tried(self, condition: str) -> dict[str, dict[str, str]]:
        """For each placeholder of `best`: what it may stand for, and the condition that tries it."""
        patterns = {
            name: re.compile(re.escape(text).replace(r"\*", "(.+)"))
            for name, text in self.conditions[condition].best.items()
        }
        return {
            placeholder: {found[1]: name for name in self.conditions if (found := pattern.fullmatch(name))}
            for placeholder, pattern in patterns.items()
        }


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def read_study(path: Path) -> Study:
    """Read a conditions file. Raises: InputError naming the file, the condition, the value and what is allowed."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    values = read_toml(path)
    _refuse_unknown(path, "file", values, TOP)
    _check_tables(path, values)
    try:
        study = Study(
            name=str(values["name"]),
            folder=path.resolve().parent,
            models=tuple(values.get("models", ())),
            topics=tuple(values["topics"]),
            hits=int(values.get("hits", 100)),
            tolerance=float(values["tolerance"]),
            parts={name: Part(**part) for name, part in values.get("corpora", {}).items()},
            slices=tuple(Slice(**each) for each in values.get("slice", ())),
            conditions=_conditions(path, values),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{path}: {error!r}") from error
    check_names(f"{path}: name", [study.name])
    check_names(f"{path}: corpora", study.parts, (WHOLE,))
    check_names(f"{path}: models", study.models, RESERVED)
    check_names(f"{path}: topics", study.topics)
    for condition in study.conditions.values():
        _check(path, study, condition)
    return study


def _check_tables(path: Path, values: Mapping[str, Any]) -> None:
    """Raise InputError for a part of the file that is of a wrong kind."""
    check_kinds(f"{path}: file", values)
    for key in ("recipe", "corpora"):  # by name
        if not isinstance(found := values.get(key, {}), dict) or not all(
            isinstance(each, dict) for each in found.values()
        ):
            raise InputError(f"{path}: {key} must hold tables, as [{key}.NAME] makes them")
    for key in ("condition", "slice"):
        if not isinstance(found := values.get(key, []), list) or not all(isinstance(each, dict) for each in found):
            raise InputError(f"{path}: {key} must hold tables, as [[{key}]] makes them")
    for name, part in values.get("corpora", {}).items():
        check_kinds(f"{path}: corpora.{name}", part)
    for each in values.get("slice", ()):
        check_kinds(f"{path}: slice", each, {"topics": "text"})


def _conditions(path: Path, values: Mapping[str, Any]) -> dict[str, Condition]:
    found: dict[str, Condition] = {}
    for table in values["condition"]:
        check_kinds(f"{path}: condition {abbreviate(table.get('name'))}", table, {"recipe": "text"})
        for variant in _each(table):
            made = _condition(path, variant, values)
            if made.name in found:
                raise InputError(f"{path}: two conditions are called {made.name!r}")
            found[made.name] = made
    return found


def _each(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A table with `each = { task = [...] }` once for every value, which stands in its texts as {task}."""
    table = dict(table)
    axes = table.pop("each", {})
    for values in itertools.product(*axes.values()):
        filled: dict[str, Any] = _filled(table, dict(zip(axes, values, strict=True)))
        yield filled


def _filled(value: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace(f"{{{name}}}", str(text))
        return value
    if isinstance(value, dict):
        return {key: _filled(each, names) for key, each in value.items()}
    return [_filled(each, names) for each in value] if isinstance(value, list) else value


def _condition(path: Path, table: dict[str, Any], values: Mapping[str, Any]) -> Condition:
    where = f"condition {table.get('name')!r}"
    recipes, own = values.get("recipe", {}), {entry.name for entry in fields(Condition)} - {"corpora"}
    corpora = {WHOLE, *values.get("corpora", {})}
    if (recipe := table.pop("recipe", "")) and recipe not in recipes:
        raise InputError(f"{path}: {where}: recipe {recipe!r}; allowed: {', '.join(recipes)}")
    merged = {**recipes.get(recipe, {}), **table}
    args = merged.pop("args", "")
    _refuse_unknown(path, where, merged, own | corpora)
    check_kinds(f"{path}: {where}", {"name": "", "seeds": [], **merged}, dict.fromkeys(corpora, NUMBERS))
    merged = _filled({"commands": [], **merged}, {"args": args})
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in merged.items()}
    return Condition(
        **{name: value for name, value in given.items() if name in own},
        corpora={name: value for name, value in given.items() if name in corpora},
    )


def _check(path: Path, study: Study, condition: Condition) -> None:
    where = f"{path}: condition {condition.name!r}"
    check_names(where, [condition.name], (*RESERVED, CORPORA))
    check_names(f"{where}: topics", condition.topics)
    if not condition.seeds:
        raise InputError(f"{where}: no seeds")
    for template in condition.commands:
        check_command(where, template, scored=False)
    for template in filter(None, (condition.search, condition.answer)):
        check_command(where, template, scored=True)
    known = {*RESERVED, *study.models, *study.conditions}
    for placeholder, pattern in condition.best.items():
        if pattern.count("*") != 1 or not study.tried(condition.name)[placeholder]:
            raise InputError(f"{where}: best {placeholder} = {pattern!r} must match conditions, with one * in it")
        if placeholder in known:
            raise InputError(
                f"{where}: best {placeholder}: {{{placeholder}}} stands for something else; give another name"
            )
    known |= condition.best.keys()
    if unknown := condition.names() - known:
        raise InputError(f"{where}: {{{min(unknown)}}} stands for nothing; known are {', '.join(sorted(known))}")
    _check_scored(where, study, condition)
    for job in (Job(condition.name, seed) for seed in condition.seeds):
        study.needs(job)


def _check_scored(where: str, study: Study, condition: Condition) -> None:
    """Raise InputError for a condition that is scored on what it does not have, or lacks what scoring needs."""
    for corpus, seeds in condition.corpora.items():
        if corpus != WHOLE and corpus not in study.parts:
            raise InputError(f"{where}: corpus {corpus!r}; allowed: {', '.join([WHOLE, *study.parts])}")
        if foreign := set(seeds) - set(condition.seeds):
            raise InputError(
                f"{where}: {corpus} names seed {min(foreign)}; its seeds are {', '.join(map(str, condition.seeds))}"
            )
    if bool(condition.corpora) != bool(condition.search and condition.system):
        raise InputError(
            f"{where}: what is scored needs search, system and a corpus with seeds ({', '.join([WHOLE, *study.parts])})"
        )
    if condition.answer and not condition.search:
        raise InputError(f"{where}: answers are scored with the search that they come from; search is missing")


def _refuse_unknown(path: Path, what: str, values: Mapping[str, Any], known: Iterable[str]) -> None:
    known = sorted(known)
    for key in values:
        if key not in known:
            raise InputError(f"{path}: {what} has unknown key {key!r}; allowed: {', '.join(known)}")


def arguments(template: str, names: Mapping[str, str]) -> list[str]:
    """A command's words with its placeholders filled in; what is filled in stays one word."""
    return [word.format_map(names) for word in shlex.split(template)]


def folders(models: Iterable[str]) -> dict[str, str]:
    """The folder of each model, from texts such as bert-tiny=models/tiny. Raises: InputError."""
    found = {}
    for text in models:
        name, _, folder = text.partition("=")
        if not (name and folder):
            raise InputError(f"--models {text!r} is not NAME=FOLDER")
        found[name] = folder
    return found
