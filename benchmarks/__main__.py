"""Runs all benchmarks and prints every ratio with its bound: `python benchmarks`, which is `make bench`.

A benchmark that fails does not stop the others. The exit code is 1 where one failed or a bound does not hold.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bounds import MARK, add_tiny

FOLDER = Path(__file__).resolve().parent
TAKES = {  # benchmark: which of the flags below are handed to it
    "encode": ("collection",),
    "search": ("collection",),
    "growth": (),
    "kilt_evaluation": (),
    "adapters": ("model",),
    "train_step": ("model", "collection"),
}


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument(
        "--only", nargs="+", choices=tuple(TAKES), default=list(TAKES), metavar="NAME", help=f"of {', '.join(TAKES)}"
    )
    flags.add_argument(
        "--collection", nargs=1, default=[], help="whose passages, queries and examples are read [default: sample]"
    )
    flags.add_argument("--model", nargs="+", default=[], help="what is trained: names or folders [default: minilm-l6]")
    add_tiny(flags)
    return flags


def run(name: str, arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Exit code of a benchmark, and the lines of its bounds; all that it prints is passed on."""
    print(f"== {name} {' '.join(arguments)}".rstrip(), flush=True)
    found: list[str] = []
    with subprocess.Popen(
        [sys.executable, str(FOLDER / f"{name}.py"), *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith(MARK):
                found.append(line.rstrip())
    return process.returncode, found


def main() -> None:
    options = parser().parse_args()
    codes: dict[str, int] = {}
    lines: list[str] = []
    for name in dict.fromkeys(options.only):
        given = [word for flag in TAKES[name] if (values := getattr(options, flag)) for word in (f"--{flag}", *values)]
        codes[name], found = run(name, given + ["--tiny"] * options.tiny)
        lines += [f"{name}: {line.removeprefix(MARK)}" for line in found]
    print("== all bounds", *lines, sep="\n")
    bad = [f"{name} (code {code})" for name, code in codes.items() if code]
    good = "shown, none held" if options.tiny else "hold"
    print(f"not well: {', '.join(bad)}" if bad else f"{len(lines)} bounds {good}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
