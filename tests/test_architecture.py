"""Who may import whom, which third parties have one door, that starting costs nothing, and TACO's formula is near."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from house import largest_circle, read_package

PACKAGE = Path(__file__).resolve().parents[1] / "taco_ir"
# a file imports from its own package and from those of lines before; verbs, the files at the top, import from all
ORDER = (
    ("core",),
    ("weighting", "data", "encoders", "scale"),
    ("evaluation", "retrieval"),
    ("pages",),
    ("serving",),
    ("negatives",),
    ("reading",),
    ("training",),
    ("adaptation",),
    ("analysis", "studies"),
    ("release",),
)
RANKS = {package: rank for rank, packages in enumerate(ORDER) for package in packages}
HEAVY = {"torch", "faiss", "pyserini", "transformers", "ir_datasets", "jnius", "pandas", "scipy"}
TORCH = (
    "weighting/",
    "training/",
    "adaptation/",
    "encoders/adapters/",
    "analysis/measure.py",
)  # imported late as a whole
DOORS = {
    "faiss": {"retrieval/faiss_index.py", "retrieval/frozen_faiss.py", "retrieval/on_disk.py", "retrieval/recall.py"},
    "transformers": {"encoders/backbone.py", "encoders/adapters/deep_prompts.py"},
    "peft": {"encoders/adapters/lora.py"},
    "ir_datasets": {
        "data/ir_datasets.py",
        "data/kilt_files.py",
        "data/kilt_ids.py",
        "data/formats/irds.py",
        "data/__main__.py",
    },
    "datasets": {"data/formats/huggingface.py"},
    "ir_measures": {"evaluation/measures.py"},
    "pytrec_eval": {"evaluation/measures.py"},
    "pyserini": {"retrieval/pyserini_bridge.py"},
    "jnius": {"retrieval/lucene.py"},
    "jnius_config": {"retrieval/lucene.py"},
}
POSIX = {"fcntl", "grp", "posix", "pwd", "resource", "syslog", "termios"}
TO_THE_FORMULA = (
    *("train.py", "training/run.py", "training/loop.py", "training/step.py"),
    *("weighting/base.py", "weighting/taco.py"),
)
VERBS = sorted(
    path.stem
    for path in PACKAGE.glob("*.py")
    if "run_verb(main)" in path.read_text(encoding="utf-8") and path.stem != "__init__"
)


def imports(path: Path) -> set[tuple[str, bool]]:
    """(module, whether at the top level and at run time) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(name.name, id(node) in top) for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "", id(node) in top))
    return found


FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def test_every_package_has_its_place() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == RANKS.keys()


@pytest.mark.parametrize("file", FILES)
def test_imports_go_one_way(file: str) -> None:
    package = file.partition("/")[0]
    if package not in RANKS or file == "data/__main__.py":
        return
    before = {name for name, rank in RANKS.items() if rank < RANKS[package]} | {package}
    for module, _ in imports(PACKAGE / file):
        if module.startswith("taco_ir."):
            assert module.split(".")[1] in before, f"{file} imports {module}; allowed are {sorted(before)}"


def test_no_file_leads_back_to_itself() -> None:
    """Late imports, those for types, and names in registries included."""
    assert largest_circle(read_package(PACKAGE.parent)) == 0


@pytest.mark.parametrize("file", FILES)
def test_verbs_are_imported_by_nothing(file: str) -> None:
    called = {module.split(".")[1] for module, _ in imports(PACKAGE / file) if module.startswith("taco_ir.")}
    assert not called & set(VERBS), f"{file} imports the verbs {sorted(called & set(VERBS))}"


@pytest.mark.parametrize("file", FILES)
def test_heavy_libraries_have_one_door_opened_late(file: str) -> None:
    for module, at_top in imports(PACKAGE / file):
        name = module.split(".")[0]
        if name in DOORS:
            assert file in DOORS[name], f"{file} imports {name}; its door is {sorted(DOORS[name])}"
        if name == "torch" and file.startswith(TORCH):
            continue
        assert not (at_top and name in {*DOORS, "torch", "pandas", "scipy", "huggingface_hub"}), (
            f"{file} imports {name} at the top"
        )
    if file.startswith("evaluation/"):
        assert not any(module.split(".")[0] == "torch" for module, _ in imports(PACKAGE / file))


@pytest.mark.parametrize("file", FILES)
def test_no_module_is_needed_that_windows_lacks(file: str) -> None:
    """Locks are filelock's; only the peak of memory is asked of `resource`, late, where there is one."""
    lacking = {(module, at_top) for module, at_top in imports(PACKAGE / file) if module in POSIX}
    assert lacking <= ({("resource", False)} if file == "core/processes.py" else set())


@pytest.mark.parametrize("verb", [*VERBS, "data"])
def test_help_is_light(verb: str) -> None:
    """--help imports no heavy library and teaches by an example."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['taco_ir.{verb}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('taco_ir.{verb}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        f"    heavy = {HEAVY} & set(sys.modules)\n"
        "    print(sorted(heavy), file=sys.stderr)\n"
        "    sys.exit(end.code or bool(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "example:" in done.stdout


def test_importing_the_package_is_light() -> None:
    modules = (
        "sys, taco_ir, taco_ir.retrieval.retrievers, taco_ir.evaluation.scoring, taco_ir.retrieval.pyserini_bridge"
    )
    code = f"import {modules}\nprint({HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_path_to_the_formula_is_short() -> None:
    """Each file names the next, or what it inherits from, and the last states the formula."""
    texts = [(PACKAGE / name).read_text(encoding="utf-8") for name in TO_THE_FORMULA]
    for text, following in zip(texts, TO_THE_FORMULA[1:4], strict=False):
        assert f"taco_ir.{following.removesuffix('.py').replace('/', '.')}" in text
    assert "taco_ir.weighting.base" in texts[3] and "taco_ir.weighting.base" in texts[5]
    assert "q = softmax_k(S / tau)" in texts[-1]
