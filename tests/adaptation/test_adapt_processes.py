"""Two processes teach what one does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from started_ranks import run_ranks

from taco_ir.encoders.adapters.folder import TENSORS_FILE

FLAGS = (
    "--pooling mean --normalize --collection sample --topics nq-train wow-train --width 4 --steps 4 --batch-size 7"
    " --learning-rate 1e-4 --dropout 0 --validate-every 2 --no-compare --no-keep-if-better"
)


@pytest.mark.parametrize("more", ["--weighting taco", "--softmax-passages 100 --hits 20 --random 40 --accumulate 2"])
def test_two_processes_are_one(index: Path, tiny_bert: Path, tmp_path: Path, more: str) -> None:
    for name, world in (("one", 1), ("two", 2)):
        words = [*FLAGS.split(), *more.split(), "--index", index, "--model", tiny_bert, "--output", tmp_path / name]
        run_ranks([sys.executable, "-m", "taco_ir.adapt", *words], world, tmp_path)
    one, two = (load_file(tmp_path / name / "model" / TENSORS_FILE) for name in ("one", "two"))
    scale = max(float(tensor.abs().max()) for tensor in one.values())
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) <= 1e-5 * scale
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    losses = [[list(line["loss"].values()) for line in map(json.loads, log) if "loss" in line] for log in logs]
    assert np.allclose(*losses, rtol=1e-5)
