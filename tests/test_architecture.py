"""Who may import whom, which third parties have one door, and that starting costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "taco_ir"
BASE = {"records", "columns", "files", "hashes", "settings", "tasks"}
SIBLINGS = {"data", "models", "weighting", "retrieval", "evaluation"}
TRAINING = BASE | SIBLINGS | {"training"}  # what training may know
TORCH = ("weighting/", "training/", "models/tuning/")  # imported late as a whole
SHARED = {
    "console",
    "progress",
    "systems",
    "scoring",
    "encoding",
    "episodes",
    "pretraining",
    "training_data",
    "training_steps",
    "reading",
    "reporting",
    "rankings",
    "run_files",
    "mining",
    "auditing",
    "analysing",
    "study",
}  # what verbs share; no sibling may know it
DOORS = {
    "faiss": {"retrieval/index.py"},
    "transformers": {"models/encoder.py", "models/tuning/prompts.py"},
    "peft": {"models/tuning/lora.py"},
    "ir_datasets": {"data/kilt.py", "data/kilt_files.py", "data/__main__.py"},
    "pytrec_eval": {"evaluation/measures.py"},
    "pyserini": {"retrieval/pyserini.py"},
    "jnius": {"retrieval/bm25.py"},
    "jnius_config": {"retrieval/bm25.py"},
}
OUTER_FACES = {"retrieval/pyserini.py": {"models"}}  # called by Pyserini, which hands it a model's name
VERBS = sorted(
    path.stem for path in PACKAGE.glob("*.py") if "run_verb(main)" in path.read_text(encoding="utf-8") and path.stem != "__init__"
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


@pytest.mark.parametrize("file", FILES)
def test_imports_go_one_way(file: str) -> None:
    part = file.split("/", maxsplit=1)[0] if "/" in file else file.removesuffix(".py")
    for module, _ in imports(PACKAGE / file):
        if not module.startswith("taco_ir."):
            continue
        target = module.split(".")[1]
        if part in BASE:
            assert target in BASE, f"{file} imports {module}; the base layer imports nothing above it"
        elif part in SIBLINGS and not file.endswith("__main__.py"):
            allowed = BASE | {part} | OUTER_FACES.get(file, set())
            assert target in allowed, f"{file} imports {module}; allowed are {sorted(allowed)}"
        elif part == "training":
            assert target in TRAINING, f"{file} imports {module}; allowed are {sorted(TRAINING)}"
        assert target not in VERBS or target == "pyserini", f"{file} imports the verb {module}; verbs are imported by nothing"


@pytest.mark.parametrize("file", FILES)
def test_heavy_libraries_have_one_door_opened_late(file: str) -> None:
    for module, at_top in imports(PACKAGE / file):
        name = module.split(".")[0]
        if name in DOORS:
            assert file in DOORS[name], f"{file} imports {name}; its door is {sorted(DOORS[name])}"
        if name == "torch" and file.startswith(TORCH):
            continue
        assert not (at_top and name in {*DOORS, "torch", "pandas", "scipy", "huggingface_hub"}), f"{file} imports {name} at the top"
    if file.startswith("evaluation/"):
        assert not any(module.split(".")[0] == "torch" for module, _ in imports(PACKAGE / file))


@pytest.mark.parametrize("verb", [*VERBS, "data"])
def test_help_is_light(verb: str) -> None:
    """--help imports no heavy library and teaches by an example."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['taco_ir.{verb}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('taco_ir.{verb}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    heavy = {'torch', 'faiss', 'pyserini', 'transformers', 'ir_datasets', 'jnius', 'pandas', 'scipy'} & set(sys.modules)\n"
        "    print(sorted(heavy), file=sys.stderr)\n"
        "    sys.exit(end.code or bool(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "example:" in done.stdout


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, taco_ir, taco_ir.systems, taco_ir.scoring, taco_ir.retrieval.pyserini\n"
        "sys.exit(str(sorted({'pyserini', 'jnius', 'torch', 'faiss', 'transformers'} & set(sys.modules))) + '' if "
        "{'pyserini', 'jnius', 'torch', 'faiss', 'transformers'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
