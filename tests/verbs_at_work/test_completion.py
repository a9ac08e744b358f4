"""`taco-ir completion`: what shells complete, from the flags that verbs have; without shtab it says what to install."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from taco_ir.__main__ import GROUPS, verbs
from taco_ir.completion import main
from taco_ir.core.files import InputError
from taco_ir.data.__main__ import COMMANDS

ASK = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_taco_ir taco-ir "${{COMP_WORDS[COMP_CWORD]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def test_every_verb_is_in_one_group_of_the_help() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(verbs())


def test_without_shtab_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(InputError, match="^completion needs the package shtab; install it with `pip install shtab`$"):
        main(["bash"])


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    path = tmp_path_factory.mktemp("completion") / "taco-ir.bash"
    command = [sys.executable, "-m", "taco_ir", "completion", "bash"]
    path.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("taco-ir ''", sorted(verbs())),
        ("taco-ir lead", ["leaderboard"]),
        ("taco-ir search --out", ["--output", "--output-format"]),
        ("taco-ir search --retriever ''", ["bm25", "dense", "hybrid"]),
        ("taco-ir train --schedule ''", ["alternating", "joint", "sequential"]),
        ("taco-ir data ''", sorted(COMMANDS)),
        ("taco-ir data subset --dis", ["--distractors"]),
    ],
)
def test_bash_completes(script: Path, words: str, expected: list[str]) -> None:
    asked = ASK.format(script=script, words=words)
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_theirs(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    main([shell])
    printed = capsys.readouterr().out
    assert "leaderboard" in printed and "--retriever" in printed
