"""`python -m taco_ir.completion`: print scripts that complete commands in shells, and a schema for settings files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taco_ir.__main__ import import_verb, verbs
from taco_ir.cli import Parser, run_verb
from taco_ir.core.files import InputError
from taco_ir.training.schema import train_schema

SHELLS, TOML = ("bash", "zsh", "tcsh"), "toml"
# metavars of flags
FOLDERS, FILES = ("COLLECTION", "FOLDER", "INDEX", "MODEL"), ("FILE", "PATH", "RUN", "SOURCE", "TOPICS")


def parser() -> Parser:
    flags = Parser(
        "completion",
        "Print a script that lets your shell complete taco-ir commands. Evaluate it in the shell's start-up file, "
        "as in the example, or write it to the folder where the shell looks for completions. Needs the package "
        "shtab (pip install shtab). With toml, print a JSON Schema instead, with which editors check the TOML "
        "files of train: start such a file with #:schema ./train.schema.json.",
        example="python -m taco_ir.completion zsh > ~/.zfunc/_taco-ir\n"
        "  echo 'eval \"$(taco-ir completion bash)\"' >> ~/.bashrc\n"
        "  python -m taco_ir.completion toml > train.schema.json",
    )
    what = (*SHELLS, TOML)
    flags.flag("what", f"a shell: {', '.join(SHELLS)}; or {TOML}", choices=what, metavar="|".join(what))
    return flags


def whole_parser() -> argparse.ArgumentParser:
    """Returns a parser for `taco-ir`; all verbs are its subcommands."""
    whole = argparse.ArgumentParser("taco-ir", description="Multi-task dense retrieval: train, search, evaluate.")
    below = whole.add_subparsers(metavar="VERB", parser_class=argparse.ArgumentParser)
    for name, purpose in verbs().items():
        module = import_verb(name)
        commands = getattr(module, "COMMANDS", {})
        own = below.add_parser(name, help=purpose, parents=[] if commands else [module.parser()], add_help=False)
        inside = own.add_subparsers(metavar="COMMAND") if commands else None
        for command, found in commands.items():
            parents = [found.parser()]
            inside.add_parser(command, parents=parents, help=parents[0].description, add_help=False)  # type: ignore[union-attr]
    return whole


def mark_values(found: argparse.ArgumentParser, file: Any, folder: Any) -> None:
    """Tell shtab how to complete each flag: with its `file` or `folder` completion, or the words in the metavar."""
    for action in found._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                mark_values(each, file, folder)
        elif action.choices is None and "|" in str(action.metavar):
            action.choices = str(action.metavar).split("|")
        elif action.metavar in FOLDERS:
            action.complete = folder  # type: ignore[attr-defined]
        elif action.metavar in FILES or action.type is Path:
            action.complete = file  # type: ignore[attr-defined]


def main(argv: Sequence[str]) -> None:
    shell = parser().parse_args(argv).what
    if shell == TOML:
        print(json.dumps(train_schema(), indent=1))
        return
    try:
        import shtab
    except ImportError as error:
        raise InputError("completion needs the package shtab; install it with `pip install shtab`") from error
    whole = whole_parser()
    mark_values(whole, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(whole, shell))


if __name__ == "__main__":
    run_verb(main)
