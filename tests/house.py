"""Measures of the layout, by which a newcomer finds their way in the package: `python tests/house.py`.

Each is read from the source and printed beside its target; the exit code is 1 if one is past it. A target that was
never reached is printed as such, and held at the lines that there are: more of them fail as well. What leads from one
file to another is followed by imports, those inside functions included, so that moving code cannot meet a measure.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SHARED_BY_VERBS = {"cli", "__init__", "__main__"}
SMALL = 70  # lines
FORMULA = "weighting.taco"
WHOLE_SETTINGS = {"TrainSettings"}


class Measure(NamedTuple):
    """A figure and its target.

    Attributes:
        most: the target.
        held: the most that passes for a target that was never reached.
    """

    what: str
    value: int
    most: int
    held: int = 0

    @property
    def fails(self) -> bool:
        return self.value > max(self.most, self.held)

    def __str__(self) -> str:
        missed = "" if self.value <= self.most else "  PAST ITS TARGET"
        held = f", held at {self.held:,}" if missed and self.held else ""
        return f"{self.value:>7,} (at most {self.most:,}): {self.what}{missed}{held}"


class File(NamedTuple):
    """A source file: its lines, its syntax tree, and the files that it imports."""

    lines: int
    tree: ast.Module
    imports: frozenset[str]


Files = Mapping[str, File]


def read_package(root: Path) -> Files:
    """Every file of the package by its dotted name below it; a package's own file has the name of the package.

    A registry's strings lead on from the files that resolve them, not from those that only list its names.
    """
    paths = {dotted(path.relative_to(root / "taco_ir")): path for path in sorted((root / "taco_ir").rglob("*.py"))}
    texts = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    named = {name: set(registered(tree, paths)) for name, tree in trees.items()}
    files = {}
    for name, tree in trees.items():
        found = set(imported(tree, paths))
        if any(isinstance(node, ast.Name) and node.id == "resolve" for node in ast.walk(tree)):
            found |= {each for registry in found & named.keys() for each in named[registry]}
        files[name] = File(len(texts[name].splitlines()), tree, frozenset(found - {name}))
    return files


def dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imported(tree: ast.Module, known: Iterable[str]) -> Iterator[str]:
    """Files of the package that a file imports, late ones and those for types included."""
    known = set(known)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("taco_ir"):
            package = (node.module or "").removeprefix("taco_ir").lstrip(".")
            for each in node.names:
                whole = f"{package}.{each.name}".lstrip(".")
                yield whole if whole in known else package or "__init__"
        elif isinstance(node, ast.Import):
            yield from (each.name.removeprefix("taco_ir.") for each in node.names if each.name.startswith("taco_ir."))


def registered(tree: ast.Module, known: Iterable[str]) -> Iterator[str]:
    """Files that a registry names in strings, such as "taco_ir.weighting.taco:Taco"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("taco_ir."):
            name, colon, _ = node.value.removeprefix("taco_ir.").partition(":")
            if colon and name in set(known):
                yield name


def reached(start: str, leads: Callable[[str], Iterable[str]]) -> set[str]:
    found, ahead = {start}, [start]
    while ahead:
        new = set(leads(ahead.pop())) - found
        found |= new
        ahead += new
    return found


def between(files: Files, start: str, end: str) -> set[str]:
    """Files on any path of imports from one file to another, both included."""
    to_end = reached(end, lambda name: [each for each, file in files.items() if name in file.imports])
    return reached(start, lambda name: files[name].imports & files.keys()) & to_end


def largest_circle(files: Files) -> int:
    """Files of the largest set in which each leads to every other; 0 where there is no such set."""
    ahead = {name: reached(name, lambda each: files[each].imports & files.keys()) for name in files}
    return max(
        (count for name in files if (count := sum(name in ahead[other] for other in ahead[name])) > 1), default=0
    )


def functions(file: File) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(file.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def takes(function: ast.FunctionDef | ast.AsyncFunctionDef, types: set[str]) -> bool:
    """Whether the annotation of a parameter names one of these types."""
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    nodes = [node for each in given if each.annotation for node in ast.walk(each.annotation)]
    return bool({node.id for node in nodes if isinstance(node, ast.Name)} & types)


def late_imports(file: File) -> int:
    """Imports of the package's own files that stand inside functions."""
    inside = {
        id(node)
        for function in functions(file)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("taco_ir")
    }
    return len(inside)


def is_verb(name: str, file: File) -> bool:
    return "." not in name and any(isinstance(node, ast.Name) and node.id == "run_verb" for node in ast.walk(file.tree))


def lines_of(folder: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py"))


def measured(root: Path) -> list[Measure]:
    """All measures of a checkout."""
    files = read_package(root)
    verbs = {name for name, file in files.items() if is_verb(name, file)} | SHARED_BY_VERBS
    library = [file for name, file in files.items() if name not in verbs]
    strays = [
        name for name in files if "." not in name and name not in verbs and not (root / "taco_ir" / name).is_dir()
    ]
    formula = between(files, "train", FORMULA) | reached(FORMULA, lambda name: files[name].imports & files.keys())
    own = [function for file in library for function in functions(file)]
    every = [function for file in files.values() for function in functions(file)]
    return [
        Measure("files at the top that are neither verb nor shared by verbs", len(strays), 0),
        Measure("files of the largest circle of imports", largest_circle(files), 0),
        Measure("functions outside verbs that take a Namespace", sum(takes(each, {"Namespace"}) for each in own), 0),
        Measure(
            "functions that take the whole settings of a training",
            sum(takes(each, WHOLE_SETTINGS) for each in every),
            8,
        ),
        Measure("files from train to TACO's formula, and what that loads", len(formula), 16),
        Measure("lines of these", sum(files[name].lines for name in formula), 2500),
        Measure("imports of the package inside functions", sum(map(late_imports, files.values())), 60),
        Measure(f"files below {SMALL} lines", sum(file.lines < SMALL for file in files.values()), 30),
        Measure("lines of the package", lines_of(root / "taco_ir"), 17500, held=37560),
        Measure("lines of the tests", lines_of(root / "tests"), 18500, held=38080),
    ]


def main() -> int:
    """Print the measures of this checkout, or of one that is named; 1 if one fails."""
    found = measured(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    print(*found, sep="\n")
    return int(any(measure.fails for measure in found))


if __name__ == "__main__":
    sys.exit(main())
