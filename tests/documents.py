"""Code blocks of a document, and a program that runs them: `python documents.py DOCUMENT [BACKBONE FLAGS...]`."""

from __future__ import annotations

import glob
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import warm

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
VERB = re.compile(r"taco_ir\.(\w+)")
NEEDS = re.compile(r"# needs (?=.*\w+ \w+)")  # the first line of a block that no test runs; it says what it takes


def blocks(text: str) -> list[tuple[str, str]]:
    """(what stands behind the fence, content) of each code block."""
    return BLOCK.findall(text)


def runnable(text: str) -> list[tuple[str, str]]:
    """The blocks of code that need no more than this package."""
    return [(fence, block) for fence, block in blocks(text) if fence in ("sh", "python") and not NEEDS.match(block)]


def lines_of(block: str) -> list[str]:
    """The commands of a block, continued lines joined."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def command(line: str) -> tuple[str, list[str]]:
    """The verb and its arguments."""
    words = [word for word in shlex.split(line, comments=True) if word not in ("...", "&")]
    place = next(number for number, word in enumerate(words) if VERB.fullmatch(word))
    matched = VERB.fullmatch(words[place])
    assert matched and words[place - 1] == "-m", line
    return matched[1], words[place + 1 :]


def module(verb: str) -> str:
    return "taco_ir.data.__main__" if verb == "data" else f"taco_ir.{verb}"


def run_block(fence: str, block: str, more: Mapping[str, Sequence[str]], before: str) -> None:
    """Run Python, with a line before it, in a process of its own, and verbs in this process, with `more` flags."""
    if fence == "python":
        done = warm.run([sys.executable, "-c", before + block])
        print(done.stdout, done.stderr, sep="\n")
        done.check_returncode()
        return
    for line in lines_of(block):
        if "-m taco_ir" not in line:
            subprocess.run(["/bin/bash", "-c", line], check=True)
            continue
        verb, argv = command(line)
        words = [found for word in argv for found in sorted(glob.glob(word) if "*" in word else []) or [word]]  # noqa: PTH207
        print(f"$ {line}", file=sys.stderr)
        importlib.import_module(module(verb)).main([*words, *more.get(verb, ())])


def main(document: str, backbone: str = "", *more: str) -> None:
    """Run a document in this folder; `backbone` stands for the package's own, and trainings have `more` flags."""
    before = ""
    if backbone:
        before = (
            "from pathlib import Path; from taco_ir.encoders import names as builtin;"
            f"builtin.BUILTIN[builtin.SHIPPED_BACKBONE] = lambda: Path({backbone!r})\n"
        )
        exec(before, {})
    for fence, block in runnable(Path(document).read_text(encoding="utf-8")):
        run_block(fence, block, {"train": more}, before)


if __name__ == "__main__":
    if asked := warm.divide():
        warm.become(asked)
    else:
        main(*sys.argv[1:])
