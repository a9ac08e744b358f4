"""Every benchmark starts, and no file beside programs or tests takes the place of a package that they import."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import warm

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
PROGRAMS = sorted(path for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8"))
COMPARED = {"encode", "search", "kilt_evaluation", "adapters"}  # have bounds whatever the model is
BOUND = re.compile(r"^bound: .*: \S+, at (least|most) \S+ needed: (holds|BELOW|ABOVE)$", re.MULTILINE)


def start(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return warm.run([sys.executable, *words], ROOT, environment)


@pytest.mark.parametrize("program", [path for path in PROGRAMS if path.stem != "__main__"], ids=lambda path: path.stem)
def test_each_benchmark_runs_on_little(program: Path, tiny_bert: Path) -> None:
    given = {"search": ["--pooling", "mean"], "adapters": [], "train_step": []}
    model = ["--model", tiny_bert, *given[program.stem]] if program.stem in given else []
    done = start(program, "--tiny", *model)
    assert done.returncode == 0, done.stdout + done.stderr
    assert bool(BOUND.search(done.stdout)) or program.stem not in COMPARED, done.stdout


def test_all_of_them_run_together_and_say_their_bounds() -> None:
    """The program that runs all knows every benchmark, and --tiny shows bounds without failing on them."""
    code = (
        "import runpy, sys; sys.path.insert(0, 'benchmarks'); print(*runpy.run_path('benchmarks/__main__.py')['TAKES'])"
    )
    assert set(start("-c", code).stdout.split()) == {path.stem for path in PROGRAMS} - {"__main__"}
    done = start("benchmarks", "--tiny", "--only", "kilt_evaluation")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"== all bounds\nkilt_evaluation: .*, at least 15 needed: (holds|BELOW)\n1 bounds shown, none held\n$",
        done.stdout,
    )


def test_a_bound_that_does_not_hold_is_said_and_is_the_exit_code() -> None:
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); from bounds import Bound, judged\n"
        "bounds = [Bound('speed', 1.0, 1.3), Bound('memory', 2.0, 1.0, at_most=True), Bound('same', 1.0, 1.0)]\n"
        "print([judged(bounds, True), judged(bounds[:1], False), judged(bounds[1:], False), judged(bounds[2:], False)])"
    )
    done = start("-c", code)
    assert done.stdout.splitlines()[:3] == [
        "bound: speed: 1, at least 1.3 needed: BELOW",
        "bound: memory: 2, at most 1 needed: ABOVE",
        "bound: same: 1, at least 1 needed: holds",
    ], done.stderr
    assert done.stdout.splitlines()[-1] == "[0, 1, 1, 0]"


@pytest.mark.parametrize("folder", ["benchmarks", "tests", "docs"])
def test_no_file_has_the_name_of_a_package(folder: str) -> None:
    """Python looks in a program's own folder first: a `peft.py` there would replace the package."""
    taken = {
        *importlib.metadata.packages_distributions(),
        *sys.stdlib_module_names,
        "evaluate",
        "tensorboard",
    }  # two that may be there
    own = {path.stem for path in (ROOT / folder).iterdir() if path.suffix == ".py" or path.is_dir()} - {
        "__main__",
        "__pycache__",
    }
    assert own and not own & taken


def test_what_is_no_program_is_imported_by_one() -> None:
    helpers = {path.stem for path in FOLDER.glob("*.py")} - {path.stem for path in PROGRAMS}
    texts = [path.read_text(encoding="utf-8") for path in PROGRAMS]
    assert all(any(f"from {name} import" in text for text in texts) for name in helpers), helpers
