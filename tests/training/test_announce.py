"""What is said before a training is what it then does: the mix, negatives, parameters, memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from small_steps import SMALL, TASKS, TEXTS, encoder, examples, samplers
from weighting_steps import TRAINED

from taco_ir.core.processes import peak_memory, resident_memory
from taco_ir.train import main as train
from taco_ir.training.announce import describe, describe_peak
from taco_ir.training.backward import Arithmetic
from taco_ir.training.batches import make_batch, slice_batch
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.objectives.base import LossSettings, Means
from taco_ir.training.objectives.contrastive import Contrastive
from taco_ir.training.processes import Processes
from taco_ir.training.sampling import TaskSampler
from taco_ir.training.settings import TrainSettings

UNITS = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> DualEncoder:
    return encoder(tiny_bert)


def rows(text: str) -> dict[str, list[str]]:
    """Columns of the table by task."""
    lines = [re.split(r"\s{2,}|\s*\|\s*", line.strip(" |")) for line in text.splitlines()]
    return {line[0]: line[1:] for line in lines if line[0] in TASKS}


def memory(text: str) -> float:
    found = re.search(r"at most about ([\d.]+) ([KMGT]?B) of memory", text)
    assert found
    return float(found[1]) * UNITS[found[2]]


def said(model: DualEncoder, processes: int = 1, weighting_bytes: float = 0, **values: Any) -> str:
    return described(model, samplers(), config(**values), processes, weighting_bytes)


def described(
    model: DualEncoder, dealt: Sequence[TaskSampler], settings: TrainSettings, processes: int = 1, more: float = 0
) -> str:
    """What is said of tasks of retrieval that train in so many processes."""
    batch, optimiser = settings.batch, settings.optimiser
    loss = LossSettings(batch.hard_negatives, cross_device=batch.cross_device, accumulate=optimiser.accumulate)
    arithmetic = Arithmetic(optimiser.precision == "bf16", optimiser.gradcache)
    means = Means(TEXTS, loss, arithmetic, cast("Processes", SimpleNamespace(world=processes)))
    tasks = [Contrastive(model, sampler, means) for sampler in dealt]
    return describe(tasks, optimiser, settings.weighting.weighting, more)


def config(**values: Any) -> TrainSettings:
    return SMALL.replace(**{"hard_negatives": 2} | values)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("cross_device", [True, False])
@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("hard", [0, 2])
def test_negatives_are_those_of_a_batch(
    model: DualEncoder, accumulate: int, cross_device: bool, processes: int, hard: int
) -> None:
    """All columns of the first query but its positive: of its own part or, across devices, of all processes."""
    text = said(model, processes, accumulate=accumulate, cross_device=cross_device, hard_negatives=hard)
    for sampler in samplers():
        batch = make_batch(sampler.sample(0), TEXTS.page_of, hard, False, 0)
        scored = slice_batch(batch, 0, accumulate)
        if not cross_device:
            scored = slice_batch(scored, 0, processes)
        count, share, negatives, of_them_hard, *_ = rows(text)[sampler.task]
        assert (int(count), int(share)) == (len(sampler.examples), sampler.share)
        assert int(negatives) == len(scored.passages) - 1
        assert int(of_them_hard) == batch.starts[1] - 1


def test_a_task_without_mined_negatives_has_none(model: DualEncoder) -> None:
    pair = [TaskSampler(examples("nq", 9, negatives=0), 4, 0, "nq"), TaskSampler(examples("wow", 9), 4, 0, "wow")]
    found = rows(described(model, pair, config()))
    assert found["nq"][2:4] == ["3", "0"] and found["wow"][2:4] == ["11", "2"]


def test_lengths_and_prompts(model: DualEncoder, tiny_bert: Path) -> None:
    assert rows(said(model))["nq"][4:] == ["12 / 24", "NQ <extra_id_1>"]
    assert rows(said(encoder(tiny_bert, prompts=False, query_length=0)))["wow"][4:] == ["128 / 24", "-"]


@pytest.mark.parametrize("name", TRAINED)
def test_it_names_the_weighting(model: DualEncoder, name: str) -> None:
    assert f"weighting: {name};" in said(model, weighting=name)


def test_parameters_that_are_trained(model: DualEncoder, tiny_bert: Path) -> None:
    every = sum(param.numel() for param in model.parameters())
    pooler = 32 * 32 + 32
    assert f"{every - pooler:,} of {every:,} parameters are trained" in said(model)
    half = encoder(tiny_bert, freeze_embeddings=True)
    trained = sum(param.numel() for _, param in half.trained_parameters())
    assert trained < every / 2 and f"{trained:,} of {every:,} parameters" in said(half)


def test_memory_grows_with_what_takes_it(model: DualEncoder, tiny_bert: Path) -> None:
    base = memory(said(model))
    trained = sum(param.numel() for _, param in model.trained_parameters())
    assert base > 16 * trained
    assert memory(said(encoder(tiny_bert, untied=True))) == pytest.approx(base + 16 * trained, rel=0.02)
    assert memory(said(encoder(tiny_bert, freeze_embeddings=True))) < base
    assert memory(said(model, weighting_bytes=5e6)) == pytest.approx(base + 5e6, rel=0.02)
    assert memory(said(encoder(tiny_bert, passage_length=100))) > base
    assert memory(said(model, hard_negatives=9)) > base


def test_memory_falls_with_what_spares_it(model: DualEncoder) -> None:
    base = memory(said(model))
    spared: tuple[dict[str, Any], ...] = (
        {"accumulate": 5},
        {"gradcache": 2},
        {"precision": "bf16"},
        {"gradient_checkpointing": True},
    )
    for values in spared:
        assert memory(said(model, **values)) < base, values
    assert memory(said(model, gradcache=10_000)) == base  # a chunk larger than the batch spares nothing
    assert memory(said(model, processes=5)) < base and said(model, processes=5).endswith("for each of 5 processes")
    assert "processes" not in said(model)


def test_a_decoder_doubles_the_layers(tiny_t5: Path) -> None:
    one, two = encoder(tiny_t5), encoder(tiny_t5, pooling="decoder")
    states = [16 * sum(param.numel() for _, param in made.trained_parameters()) for made in (one, two)]
    activations = [memory(said(made)) - state for made, state in zip((one, two), states, strict=True)]
    assert activations[1] == pytest.approx(2 * activations[0], rel=0.1)


def test_what_the_process_holds_already_is_added(model: DualEncoder) -> None:
    """The sum is what the process holds, weights included, and what gradients, optimiser and activations add."""
    text = said(model, weighting_bytes=3e9)
    found = re.search(r"of memory, about ([\d.]+) ([KMG]B) with the ([\d.]+) ([KMG]B) that are in use now$", text)
    assert found, text
    whole, held = float(found[1]) * UNITS[found[2]], float(found[3]) * UNITS[found[4]]
    assert held > 1e8 and held == pytest.approx(resident_memory(), rel=0.2)
    assert whole == pytest.approx(held + memory(text) - 4 * sum(param.numel() for param in model.parameters()), abs=2e8)


def test_the_peak_is_told(model: DualEncoder) -> None:
    found = re.fullmatch(r"memory at its peak: ([\d.]+) ([KMG]B)", describe_peak(model))
    assert found and float(found[1]) * UNITS[found[2]] == pytest.approx(peak_memory(), rel=0.1)


def test_a_training_tells_its_peak(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = (
        f"--model {tiny_bert} --output {tmp_path / 'run'} --pooling mean --negatives none --tasks nq --batch-size 4"
    )
    pools = "--steps 1 --passage-length 40 --pool-hard 0 --pool-random 5 --pool-queries 2"
    train([*shared.split(), *pools.split()])
    told = capsys.readouterr().err
    assert re.search(r"about [\d.]+ .B with the [\d.]+ .B that are in use now\n", told)
    assert re.search(r"memory at its peak: [\d.]+ .B\n", told)
