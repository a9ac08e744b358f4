"""A verb that only encodes imports less, finds the same vectors bit for bit, and leaves no trace in other modules."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from taco_ir.encoders.config import EncoderConfig
from taco_ir.encoders.light_imports import COMPILER, TRACING
from taco_ir.encoders.text_encoder import load_encoder

QUERIES = ["who painted the mona lisa", "a", "bach wrote suites for the cello " * 9]
LEFT_OUT = ("torch._dynamo.utils", "torch.distributed.tensor", "torch._inductor", "accelerate", "scipy")
ENCODE = """
import sys
import numpy as np
from taco_ir.core.processes import OURS
from taco_ir.encoders.light_imports import prefer_light_imports
if {ours}:
    OURS.set()
prefer_light_imports()
from taco_ir.encoders.text_encoder import load_encoder
vectors = [load_encoder(folder, pooling="mean").encode_queries({queries!r}, None) for folder in {folders!r}]
print([name for name in {left_out!r} if name in sys.modules])
np.savez({output!r}, *vectors)
import torch, transformers
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
assert torch._dynamo.config.suppress_errors is False and sys.modules[{compiler!r}].__file__
assert isinstance(TransformGetItemToIndex, type) and sys.modules[{tracing!r}].__file__
assert transformers.utils.is_scipy_available() and transformers.utils.import_utils.is_torch_distributed_available()
models, read = transformers.models, transformers.utils.import_utils.define_import_structure
whole = type(models)("whole", models.__file__, read.__wrapped__(models.__file__), models.__spec__)
assert models._class_to_module == whole._class_to_module and models._modules == whole._modules != set()
"""


def fresh(code: str) -> str:
    """What a program prints in a process of its own, in which nothing is imported yet."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("ours", [True, False])
def test_vectors_are_the_same_and_less_is_imported(
    ours: bool, tmp_path: Path, tiny_bert: Path, tiny_t5: Path, tiny_modernbert: Path
) -> None:
    folders = [str(each) for each in (tiny_bert, tiny_t5, tiny_modernbert)]
    filled = {"ours": ours, "queries": QUERIES, "folders": folders, "left_out": LEFT_OUT, "compiler": COMPILER}
    printed = fresh(ENCODE.format(**filled, tracing=TRACING, output=str(tmp_path / "found.npz")))
    imported = printed.strip()
    assert (imported == "[]") == ours, imported
    found = np.load(tmp_path / "found.npz")
    for name, folder in zip(found.files, folders, strict=True):
        expected_BD = load_encoder(folder, pooling="mean").encode_queries(QUERIES, None)
        np.testing.assert_array_equal(found[name], expected_BD)


def test_a_query_is_answered_without_what_it_does_not_need(tmp_path: Path, tiny_bert: Path) -> None:
    """By the verb as a user starts it; a program that calls the verb's function gets everything."""
    model = shutil.copytree(tiny_bert, tmp_path / "model")
    EncoderConfig("mean", True, query_length=32, passage_length=64).save(model)
    told = []
    for start in ("from taco_ir.cli import run_verb\n    run_verb(main)", "main(sys.argv[1:])"):
        code = (
            "import sys\nfrom taco_ir.search import main\n"
            f"sys.argv[1:] = ['--query', 'mona lisa', '--model', {str(model)!r}, '--hits', '2']\n"
            f"try:\n    {start}\nexcept SystemExit:\n    pass\n"
            f"print([name for name in {LEFT_OUT!r} if name in sys.modules])"
        )
        told.append(fresh(code).splitlines())
    (*hits, light), (*others, whole) = told
    assert light == "[]" and "torch._dynamo.utils" in whole
    assert hits == others and len(hits) == 4


def test_a_version_that_needs_more_is_imported_as_it_is(tiny_bert: Path) -> None:
    encode = f"load_encoder({str(tiny_bert)!r}, pooling='mean').encode_queries({QUERIES!r}, None)"
    code = (
        "import sys\nfrom taco_ir.encoders import light_imports\n"
        "light_imports.SHARED += ('transformers.no_such_module',)\nlight_imports.LIGHT.set()\n"
        f"from taco_ir.encoders.text_encoder import load_encoder\nfound = {encode}\n"
        f"print('torch._dynamo.utils' in sys.modules, found.shape == {(len(QUERIES), 32)})"
    )
    assert fresh(code) == "True True\n"
