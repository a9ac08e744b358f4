"""Two processes train as one does on the same batches, under every weighting."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small_steps import TASKS, encoder, step_of
from started_ranks import run_ranks
from torch import Tensor
from torch.nn import Parameter
from two_processes import CASES, DROPOUT, KINDS, PARTED, POISONED, UNLOGGED, steps_of

from taco_ir.core.files import read_log
from taco_ir.training import processes
from taco_ir.training.dose import DoseMeter
from taco_ir.training.log import Reporter, TrainingLog
from taco_ir.training.logged import LOG_FILE, LogLine
from taco_ir.training.objectives.base import LossSettings
from taco_ir.training.processes import Processes

Found = Mapping[str, Tensor]
LINEAR = ("naive", "static", "uw")


def alone() -> Processes:
    return Processes(torch.device("cpu"))


@pytest.fixture(scope="module")
def both(tiny_bert: Path, tiny_mlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where two processes, started as torchrun starts them, left what they found."""
    folder = tmp_path_factory.mktemp("processes")
    argv = [sys.executable, Path(__file__).with_name("two_processes.py"), tiny_bert, tiny_mlm, folder]
    run_ranks(argv, 2, folder)
    return folder


def found_by(both: Path, name: str) -> tuple[Found, Found]:
    return load_file(both / f"{name}-0"), load_file(both / f"{name}-1")


@pytest.mark.parametrize("name", [*CASES, *PARTED, *UNLOGGED, *DROPOUT])
def test_processes_agree_to_the_bit(both: Path, name: str) -> None:
    """Or they would drift apart: no process ever sends its parameters."""
    first, second = found_by(both, name)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value.nan_to_num(-1), second[key].nan_to_num(-1)), key


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(both: Path, tiny_bert: Path, tiny_mlm: Path, name: str) -> None:
    case = CASES[name]
    ours, _ = found_by(both, name)
    expected = steps_of(case, tiny_bert, tiny_mlm, alone(), True)
    assert ours["losses"].shape == (
        case.steps,
        len(KINDS["self_supervised"]) + 1 + len(TASKS) if case.schedule else len(TASKS),
    )
    rounding = max(1e-6, case.tolerance / 10) if not case.schedule else 1e-5  # of losses up to 10
    torch.testing.assert_close(ours["losses"], expected["losses"], rtol=0, atol=rounding, equal_nan=True)
    # without a reduction for each task, norms are those of logged steps, up to a task that is not finite
    known = torch.ones_like(ours["norms"], dtype=torch.bool)
    if case.weighting in LINEAR:
        known = ~ours["norms"].isnan()
        assert case.schedule or known.any(1).tolist() == [number % 2 == 1 for number in range(case.steps)]
    norms = [each["norms"][known] for each in (ours, expected)]
    torch.testing.assert_close(*norms, rtol=1e-4, atol=1e-6, equal_nan=True)
    # rounding can swap two entries at the median of TACO's sensitivities, and its weights then take a step
    steps = 10 if case.weighting == "taco" else 1
    torch.testing.assert_close(
        ours["weights"], expected["weights"], rtol=0, atol=steps * case.tolerance, equal_nan=True
    )
    torch.testing.assert_close(ours["params"], expected["params"], rtol=0, atol=case.tolerance)


def test_the_cases_move_parameters_by_far_more_than_the_tolerance(both: Path) -> None:
    """And differently: what is compared depends on the weighting and on where negatives come from."""
    ends = {name: found_by(both, name)[0]["params"] for name, case in CASES.items() if case.steps == 10}
    names = list(ends)
    for row, one in enumerate(names):
        for other in names[row + 1 :]:
            if "bf16" not in one + other:
                assert float((ends[one] - ends[other]).abs().max()) > 2e-5, (one, other)


def test_a_query_for_fewer_processes_than_there_are_parts(both: Path) -> None:
    """Three turns of two processes, one query: five empty parts, and finite losses all the same."""
    (name,) = PARTED
    losses = found_by(both, name)[0]["losses"]
    assert bool(torch.isfinite(losses).all()) and bool((losses[:, 0] > 0).all())


def test_a_gradient_that_is_not_finite_in_one_process_skips_the_step_in_all(both: Path) -> None:
    for name in ("taco", "naive", "uw"):
        for found in found_by(both, f"poisoned {name}"):
            assert torch.isnan(found["weights"]).all(1).tolist() == [number == POISONED for number in range(5)]
            assert torch.isfinite(found["norms"][POISONED]).tolist() == [True, False, name == "taco"]
            assert bool(torch.isfinite(found["params"]).all())


def test_what_is_logged_changes_no_update(both: Path) -> None:
    (name,) = UNLOGGED
    logged, unlogged = found_by(both, "uw across")[0], found_by(both, name)[0]
    assert bool(unlogged["norms"].isnan().all()) and torch.equal(logged["params"], unlogged["params"])


def test_exchanges(both: Path) -> None:
    first, second = found_by(both, "exchanges")
    for found in (first, second):
        assert found["from_first"].item() == 1 / 3
        assert found["sum"].tolist() == [2, 30]
        for name, rows in {"odd": 4, "one empty": 2, "other empty": 2, "both empty": 0}.items():
            assert found[f"rows, {name}"].tolist() == torch.arange(2.0 * rows).view(-1, 2).tolist()
    # the gradient of row r, column c is 2 r + c + 1, each process' own rows only
    assert first["gradient, odd"].tolist() == [[1, 2], [3, 4], [5, 6]] and second["gradient, odd"].tolist() == [[7, 8]]
    assert first["gradient, one empty"].shape == (0, 2) and second["gradient, one empty"].tolist() == [[1, 2], [3, 4]]
    assert first["gradient, other empty"].tolist() == [[1, 2], [3, 4]] and second["gradient, other empty"].shape == (
        0,
        2,
    )


def test_one_process_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    one = alone()
    own_ND = torch.ones(2, 3, requires_grad=True)
    assert (one.rank, one.world, one.first) == (0, 1, True)
    assert one.gather(own_ND, [2]) is own_ND and one.sum(own_ND) is own_ND and one.from_first(0.5) == 0.5
    one.wait()
    one.end()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("device", "backend", "taken"), [("cpu", "gloo", None), ("cuda", "nccl", 3), ("cuda:1", "nccl", None)]
)
def test_each_process_takes_its_own_accelerator(
    device: str, backend: str, taken: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cuda` is the one that torchrun numbers; a numbered one stays."""
    seen: list[object] = []
    for name, value in {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "meeting_place", torch.distributed.HashStore)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, *_: seen.append(backend))
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    made = Processes(torch.device(device))
    assert (made.rank, made.world, made.first) == (3, 4, False)
    assert seen == [*([] if taken is None else [taken]), backend]


def test_gradients_are_sent_in_buckets_without_a_large_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Tensor] = []

    def double(values: Tensor, async_op: bool) -> SimpleNamespace:
        sent.append(values)
        values.mul_(2)
        return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr(processes, "BUCKET", 10)
    monkeypatch.setattr(torch.distributed, "all_reduce", double)
    two = alone()
    two.world = 2
    params = [Parameter(torch.zeros(size)) for size in (4, 6, 3, 20, 2, 1)]
    for number, param in enumerate(params[:-1]):
        param.grad = torch.full_like(param, number)
    large = params[3].grad
    assert two.sum_gradients(params, torch.tensor(1.5)) == 3
    assert [len(values) for values in sent] == [7, 10, 3, 20, 3]
    assert large is not None and sent[3].data_ptr() == large.data_ptr()
    assert [param.grad is None or param.grad.unique().tolist() for param in params] == [[0], [2], [4], [6], [8], True]


@pytest.mark.parametrize("name", [*LINEAR, "gradnorm", "taco"])
def test_a_linear_weighting_sends_its_update_once_a_step(
    name: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others send each task's gradient; for the log, in every second step here, linear ones do so as well."""
    sent: list[int] = []

    def double(values: Tensor, async_op: bool = False) -> SimpleNamespace:
        sent.append(values.numel())
        values.mul_(1 + async_op)
        return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr(torch.distributed, "all_reduce", double)
    two = alone()
    two.world = 2
    step = step_of(encoder(tiny_bert), name, LossSettings(negatives=2, cross_device=False), processes=two)
    step.dose = DoseMeter(step.params, step.weighting, 2)
    size = sum(param.numel() for param in step.params)
    log = TrainingLog(tmp_path, Reporter(), 0)
    for number, times in enumerate((1, 1 + len(TASKS)) if name in LINEAR else (len(TASKS), len(TASKS))):
        sent.clear()
        result = step(number, 0.0)
        assert sum(sent) // size == times
        assert list(result.norms) == ([] if times == 1 else list(TASKS))
        log.step(number, result, 0.1, 1.0, 1.0)
        step.model.zero_grad()
    lines = [json.loads(text) for text, _ in read_log(tmp_path / LOG_FILE, LogLine)]
    assert ["gradient_norm" in line for line in lines] == [name not in LINEAR, True]
