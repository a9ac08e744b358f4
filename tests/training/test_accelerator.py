"""What an accelerator computes is what the processor computes, up to rounding; skipped where torch sees none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_steps import assert_near, encoder, step_of
from verbs import call
from weighting_steps import TRAINED

from taco_ir.data.collection import open_collection
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.training.backward import Arithmetic
from taco_ir.training.processes import Processes

CUDA = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator that torch can use")


def combined(folder: Path, device: torch.device, weighting: str, gradcache: int) -> list[torch.Tensor]:
    """The combined gradients of the third step, when every weighting has a state."""
    model = encoder(folder)
    model.to(device)
    step = step_of(model, weighting, arithmetic=Arithmetic(gradcache=gradcache), processes=Processes(device))
    for number in range(3):
        result = step(number, 0.5 + number / 10)
        assert result.report is not None
        found = [param.grad.to_dense().cpu() for param in step.params if param.grad is not None]
        model.zero_grad()
    return found


@pytest.mark.parametrize("gradcache", [0, 3])
@pytest.mark.parametrize("weighting", TRAINED)
def test_gradients_are_the_processor_s(tiny_bert: Path, weighting: str, gradcache: int) -> None:
    ours, expected = (combined(tiny_bert, device, weighting, gradcache) for device in (CUDA, torch.device("cpu")))
    assert_near(ours, expected, 1e-4)


@pytest.mark.parametrize("weighting", ["naive", "taco"])
@pytest.mark.parametrize("tune", ["full", "adapter", "lora", "prompt"])
def test_a_trained_model_searches(tiny_bert: Path, tmp_path: Path, weighting: str, tune: str) -> None:
    """The verbs from end to end; the vectors are those of the processor."""
    words = (
        f"--model {tiny_bert} --output run --device cuda --weighting {weighting} --pooling mean --negatives none"
        " --tasks nq fever --batch-size 4 --learning-rate 1e-3 --pool-hard 0 --pool-random 20 --passage-length 40"
        f" --query-length 24 --steps 4 --checkpoint-every 2 {f'--tune {tune} --tune-width 2' if tune != 'full' else ''}"
    )
    trained = call("train", *words.split(), cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    texts = list(open_collection("sample").passages.read())[:20]
    ours, expected = (
        load_encoder(str(tmp_path / "run" / "model"), device=device).encode_passages(texts)
        for device in ("cuda", "cpu")
    )
    assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()
    searched = call(
        "search", "--model", "run/model", "--topics", "nq-dev", "--device", "cuda", "--no-compare", cwd=tmp_path
    )
    assert searched.returncode == 0, searched.stderr
