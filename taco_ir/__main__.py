"""Runs verbs: `taco-ir VERB ...` and `python -m taco_ir VERB ...` do the same as `python -m taco_ir.VERB ...`."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from taco_ir.cli import run_verb
from taco_ir.core.files import InputError
from taco_ir.core.suggestions import nearest

FOLDER = Path(__file__).parent
NO_VERBS = {"__init__", "__main__", "cli"}
GROUPS = {  # what a user wants to do -> verbs for it
    "search, and score what was found": ("search", "answer", "evaluate"),
    "your own data": ("data", "encode", "index"),
    "train": ("mine", "pretrain", "train", "adapt"),
    "compare, and look inside": ("reproduce", "leaderboard", "analyze"),
    "publish, and use in other tools": ("push", "pull", "export", "card", "submission", "pyserini"),
    "this command": ("completion",),
}


def verbs() -> dict[str, str]:
    """Returns the purpose of each verb by name. The purpose is the first sentence of the verb's file."""
    files = {path.stem: path for path in FOLDER.glob("*.py") if path.stem not in NO_VERBS}
    files["data"] = FOLDER / "data" / "__main__.py"
    return {name: _purpose(files[name]) for name in sorted(files)}


def import_verb(name: str) -> Any:
    """Import the module of a verb. It has the function `main`, and `parser` or (for several commands) `COMMANDS`."""
    return importlib.import_module("taco_ir.data.__main__" if name == "data" else f"taco_ir.{name}")


def _purpose(path: Path) -> str:
    words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return words.splitlines()[0].partition(": ")[2]


def _help() -> None:
    known = verbs()
    print("usage: taco-ir VERB ...\n\nMulti-task dense retrieval: train, search, evaluate.")
    for wanted, names in GROUPS.items():
        print(f"\n{wanted}:")
        for name in names:
            print(f"  {name:<14}{known[name]}")
    print("\nexample:\n  taco-ir search --topics nq-dev\n  taco-ir search --help")


def main() -> NoReturn:
    """Run the verb that the command line names, with the arguments after it."""
    run_verb(_run)


def _run(argv: Sequence[str]) -> None:
    if argv[:1] in (["--help"], ["-h"], []):
        _help()
        return
    verb, known = argv[0], verbs()
    if verb not in known:
        near = nearest(verb, known)
        raise InputError(
            f"{verb!r} is not a taco-ir command{f'; did you mean {near}?' if near else ''} (see taco-ir --help)"
        )
    import_verb(verb).main(argv[1:])


if __name__ == "__main__":
    main()
