"""What was made under other conditions than those there are now is refused: a study's driver would skip it as done."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import InputError, read_json
from taco_ir.studies.conditions import Job
from taco_ir.studies.runner import Runner

Facts = dict[str, str]  # name of a fact -> its value
NOTHING = "nothing"
SCORED = ("search", "answer")


class Edit(NamedTuple):
    """A fact that differs, its value when it was made and now, and what to remove to have it made anew."""

    fact: str
    before: str
    now: str
    remove: Path


def refuse_edited(runner: Runner, jobs: Collection[Job]) -> None:
    """Raise InputError where any of these jobs was made otherwise, naming the first, both values and what to remove."""
    found = {job: edits for job in jobs if (edits := list(edits_of(runner, job)))}
    if not found:
        return
    job, edits = next(iter(found.items()))
    first, remove = edits[0], " and ".join(dict.fromkeys(str(edit.remove) for edit in edits))
    heirs = _heirs(runner, {each for each, of_each in found.items() if runner.folder(each) in {edit.remove for edit in of_each}})
    before, now = _apart(first.before, first.now)
    raise InputError(
        f"{job}: {first.fact} was {before!r}, now {now!r}; restore it, or remove {remove} to have it made anew"
        + (f", and the folders of what was made of it: {'; '.join(map(str, heirs))}" if heirs else "")
        + (f"; likewise {'; '.join(map(str, list(found)[1:]))}" if len(found) > 1 else "")
    )


def _apart(before: str, now: str) -> tuple[str, str]:
    """Two texts by the words in which they differ, behind the first word and the one that both have before; `...` stands for all others."""
    words, others = before.split(), now.split()
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(words, others, strict=False))))
    behind = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(reversed(words[same:]), reversed(others[same:]), strict=False))))
    if same < 3:
        return before, now
    first, second = (" ".join([each[0], "...", *each[same - 1 : len(each) - behind], *["..."] * (behind > 0)]) for each in (words, others))
    return first, second


def edits_of(runner: Runner, job: Job) -> Iterator[Edit]:
    """What of a job was made otherwise than it would be now. What a stamp of before does not say is taken as it is."""
    commands = runner.study.conditions[job.condition].commands
    folder = runner.folder(job)
    for path in sorted(folder.glob("step-*.json")):
        number = int(path.stem.removeprefix("step-"))
        now = _now(runner, job, commands[number]) if number < len(commands) else {"command": NOTHING}
        yield from _differing(_facts(read_json(path)), now, folder)
    tried = runner.study.tried(job.condition)
    for name, scores in runner.commands.choice(job).items():
        fact = f"choice of {name}"
        yield from _differing({fact: " ".join(sorted(scores))}, {fact: " ".join(sorted(tried.get(name, ())))}, folder)
    for corpus in runner.corpora(job):
        if (record := runner.record(job, corpus)).is_file():
            yield from _of_record(runner, job, record)
            if (stamp := runner.stamp(job, corpus)).is_file():
                scored = read_json(stamp)
                for verb, template in runner.commands.scoring(job).items():
                    yield from _differing(_facts(scored.get(verb, {})), _now(runner, job, template), record)
                yield from _differing(scored.get("of", {}), runner.scope(job, corpus), record)


def _of_record(runner: Runner, job: Job, record: Path) -> Iterator[Edit]:
    """Commands and labels of a record, whoever made it, with its own choice among what was tried.

    Raises:
        InputError: for a file that is no record of a study.
    """
    condition, values = runner.study.conditions[job.condition], read_json(record)
    try:
        made, labels = values["made"], {name: values[name] for name in ("system", "base")}
        entries = {f"step {number}": each for number, each in enumerate(made["commands"])} | {
            verb: made[verb] for verb in SCORED if verb in made
        }
        before = {what: each["command"] for what, each in entries.items()}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{record}: not the record of a study ({type(error).__name__}: {error}); remove it to have it made anew"
        ) from error
    templates = {f"step {number}": each for number, each in enumerate(condition.commands)} | runner.commands.scoring(job)
    now = {what: runner.commands.named(job, template, made.get("best", {})) for what, template in templates.items()}
    every = dict.fromkeys([*before, *now], NOTHING)
    yield from _differing(every | before, every | now, record)
    yield from _differing(labels, {"system": condition.system, "base": condition.base}, record)


def _now(runner: Runner, job: Job, template: str) -> Facts:
    return _facts({"command": runner.commands.named(job, template), **runner.commands.reads(job, template)})


def _facts(made: Mapping[str, Any]) -> Facts:
    """Of a stamp, those that must not change."""
    return {
        **{name: made[name] for name in ("command", "collection") if name in made},
        **{f"weights of {name}": value for name, value in made.get("models", {}).items()},
        **{f"hash of {name}": value for name, value in made.get("files", {}).items()},
    }


def _differing(before: Mapping[str, Any], now: Mapping[str, Any], remove: Path) -> Iterator[Edit]:
    """Facts that both know and that differ."""
    for fact, value in before.items():
        if fact in now and now[fact] != value:
            yield Edit(fact, value, now[fact], remove)


def _heirs(runner: Runner, edited: Collection[Job]) -> list[Job]:
    """Jobs that were made of edited ones."""
    needs = {job: runner.study.with_needs([job]) for job in runner.study.jobs() if job not in edited and runner.step(job, 0).is_file()}
    return [job for job, needed in needs.items() if not needed.isdisjoint(edited)]
