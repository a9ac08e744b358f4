"""What the package offers by name: every name is there, and none costs anything before it is used."""

import subprocess
import sys

import pytest

import taco_ir


@pytest.mark.parametrize("name", taco_ir.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    assert name in dir(taco_ir)
    assert name == "__version__" or getattr(taco_ir, name).__doc__


def test_a_name_that_is_not_there_is_told_by_name() -> None:
    with pytest.raises(AttributeError, match="load_everything"):
        _ = taco_ir.load_everything


def test_importing_a_light_name_imports_nothing_heavy() -> None:
    code = "import sys; from taco_ir import Query, Run, open_collection; sys.exit(str({'torch', 'faiss', 'transformers'} & set(sys.modules) or ''))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr in (
        "",
        "\n",
    )
