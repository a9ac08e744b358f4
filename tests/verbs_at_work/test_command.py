"""`python -m taco_ir VERB` is `python -m taco_ir.VERB`: the same output and exit codes; without a verb, a list."""

import subprocess
import sys

import pytest

from taco_ir.__main__ import verbs


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("given", [(), ("--help",)])
def test_it_lists_every_verb_with_its_purpose(given: tuple[str, ...]) -> None:
    done = run("taco_ir", *given)
    assert done.returncode == 0
    for name, purpose in verbs().items():
        assert purpose and f"  {name} " in done.stdout and purpose in done.stdout


@pytest.mark.parametrize(
    "verb", [("search", "--help"), ("data", "list"), ("evaluate", "nothing.trec", "--topics", "nq-dev")]
)
def test_a_verb_is_what_it_is_as_a_module(verb: tuple[str, ...]) -> None:
    name, *words = verb
    one, other = run("taco_ir", *verb), run(f"taco_ir.{name}", *words)
    assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)


def test_a_wrong_verb_is_one_line_with_the_nearest() -> None:
    done = run("taco_ir", "serch")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: 'serch' is not a taco-ir command; did you mean search? (see taco-ir --help)\n"
