"""Names of tasks and topics, and how aliases resolve to them.

The eleven KILT tasks (Petroni et al., NAACL 2021) are named like KILT's files; a collection may add its own tasks.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from taco_ir.core.files import InputError

SPLITS = ("train", "dev", "test")


class TaskSpec(NamedTuple):
    """A KILT task: its canonical name, its kind (such as open-domain QA), and its aliases."""

    name: str
    kind: str
    aliases: tuple[str, ...] = ()


KILT_TASKS = (
    TaskSpec("nq", "open-domain QA", ("naturalquestions",)),
    TaskSpec("hotpotqa", "multi-hop QA", ("hopo", "hotpot")),
    TaskSpec("triviaqa", "open-domain QA", ("tqa", "trivia")),
    TaskSpec("eli5", "long-form QA"),
    TaskSpec("fever", "fact checking", ("fev",)),
    TaskSpec("trex", "slot filling", ("t-rex",)),
    TaskSpec("structured_zeroshot", "slot filling, unseen relations", ("zsre", "zs-re")),
    TaskSpec("wow", "dialogue", ("wizard",)),
    TaskSpec("aidayago2", "entity linking", ("aida", "ay2")),
    TaskSpec("wned", "entity linking", ("wnwi",)),
    TaskSpec("cweb", "entity linking", ("wncw",)),
)
KINDS = {task.name: task.kind for task in KILT_TASKS}
TASK_NAMES = tuple(task.name for task in KILT_TASKS)
CANONICAL = {name: task.name for task in KILT_TASKS for name in (task.name, *task.aliases)}
TOPICS = re.compile(r"(?:kilt/)?(?P<task>.+?)[-/](?P<split>train|dev|test)")


class TopicsName(NamedTuple):
    task: str
    split: str

    def __str__(self) -> str:
        return f"{self.task}-{self.split}"


def canonical_task(name: str) -> str:
    """Return the canonical name of a KILT task, given its name or an alias; other names are returned unchanged."""
    return CANONICAL.get(name.lower(), name)


def resolve_task(name: str, known: Iterable[str] = TASK_NAMES) -> str:
    """Return the known task that a name or alias means. Raises: InputError with the nearest names and all names."""
    valid = sorted(known)
    return _pick(name if name in valid else canonical_task(name), name, valid, "task")


def resolve_topics(name: str, known: Iterable[TopicsName]) -> TopicsName:
    """Return the known topics that a name means, such as `nq-dev`, `kilt/nq/dev` or the alias `zsre-dev`.

    Raises:
        InputError: for an unknown name, with the nearest names and all names.
    """
    by_name = {str(topics): topics for topics in known}
    matched = TOPICS.fullmatch(name)
    wanted = f"{canonical_task(matched['task'])}-{matched['split']}" if matched else name
    return by_name[_pick(wanted, name, sorted(by_name), "topics")]


def _pick(wanted: str, given: str, valid: list[str], what: str) -> str:
    if wanted in valid:
        return wanted
    suffixes = ("", *(f"-{split}" for split in SPLITS))
    spelled = [alias + suffix for alias, name in CANONICAL.items() for suffix in suffixes if name + suffix in valid]
    near = difflib.get_close_matches(wanted, dict.fromkeys(valid + spelled), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"unknown {what} {given!r}; {hint}valid: {', '.join(valid) or 'none'}")
