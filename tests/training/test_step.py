"""One step of one process: each task's gradient is that of the loss written out; without a finite one nothing moves."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_steps import (
    SMALL,
    TASKS,
    TEXTS,
    assert_near,
    encoder,
    examples,
    gradient,
    gradients,
    one_by_one,
    samplers,
    step_of,
    written_out,
)
from torch import Tensor
from weighting_steps import OWN, TRAINED

from taco_ir.training.backward import Arithmetic, backward
from taco_ir.training.base_model import start_encoder
from taco_ir.training.batches import make_batch, slice_batch
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.loop import adamw
from taco_ir.training.objectives import contrastive as step_module
from taco_ir.training.objectives.base import LossSettings
from taco_ir.training.sampling import TaskSampler
from taco_ir.weighting import blocks, median


@pytest.fixture
def model(tiny_bert: Path) -> DualEncoder:
    return encoder(tiny_bert)


def expected(model: DualEncoder, sampler: TaskSampler, step: int, settings: LossSettings) -> Tensor:
    """The loss of a task's step by its definition: of each part with its own passages, each query counting alike."""
    batch = make_batch(sampler.sample(step), TEXTS.page_of, settings.negatives, settings.multi_positive, settings.seed)
    total = torch.zeros((), dtype=torch.float64)
    for turn in range(settings.accumulate):
        own = slice_batch(batch, turn, settings.accumulate)
        if own.queries:
            vectors = one_by_one(model, own.queries, own.task, [TEXTS.passages[docid] for docid in own.passages])
            total = total + written_out(*vectors, own.positives, own.blocked_BN, settings.temperature) * len(
                own.queries
            )
    return total / len(batch.queries)


CASES = {
    "plain": LossSettings(negatives=2),
    "no hard negatives": LossSettings(negatives=0),
    "several positives": LossSettings(negatives=1, multi_positive=True),
    "temperature": LossSettings(negatives=2, temperature=0.3),
    "two parts": LossSettings(negatives=2, accumulate=2),
    "more parts than queries": LossSettings(negatives=1, accumulate=4),
    "another seed": LossSettings(negatives=2, seed=7),
    "not across devices": LossSettings(negatives=2, cross_device=False),
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
@pytest.mark.parametrize("gradcache", [0, 3])
def test_a_task_s_gradient_is_that_of_the_loss_written_out(
    model: DualEncoder, settings: LossSettings, gradcache: int
) -> None:
    step = step_of(model, settings=settings, arithmetic=Arithmetic(gradcache=gradcache))
    for task in step.objectives:
        loss = gradient(task, 5)  # two epochs meet in it, with other negatives and positives
        ours = gradients(model)
        wanted = expected(model, task.sampler, 5, settings)
        assert loss.dim() == 0 and float(loss) == pytest.approx(float(wanted.detach()), rel=1e-5, abs=1e-6)
        if wanted.requires_grad and float(wanted.detach()) > 1e-6:
            wanted.backward()  # type: ignore[no-untyped-call]
            assert_near(ours, gradients(model), 1e-4)


def test_the_cases_differ(model: DualEncoder) -> None:
    """Each setting changes the number, so that the test above tells them apart; one process has no other devices."""
    losses = {name: float(expected(model, samplers()[0], 5, settings).detach()) for name, settings in CASES.items()}
    assert losses.pop("not across devices") == losses["plain"]
    assert len(set(losses.values())) == len(losses)


def test_passages_of_gold_pages_are_no_negatives(model: DualEncoder) -> None:
    """A hard negative on a gold page leaves loss and gradient as if it were not there."""
    (each,) = examples("nq", 1)  # its first negative is on the gold page
    assert TEXTS.page_of[each.negatives[0]] in each.pages and TEXTS.page_of[each.negatives[1]] not in each.pages
    found = []
    for negatives in (each.negatives, each.negatives[1:], each.negatives[:1]):
        sampler = TaskSampler([each._replace(negatives=negatives)], 1, 0, "nq")
        step = step_of(model, settings=LossSettings(negatives=len(negatives)), sampled=[sampler])
        found.append((float(gradient(step.objectives[0], 0)), gradients(model)))
    (both_loss, both), (free_loss, free), (blocked_loss, blocked) = found
    assert both_loss == pytest.approx(free_loss, rel=1e-6) and free_loss > 0.1
    assert_near(both, free, 1e-5)
    assert blocked_loss == 0 and not any(grad.any() for grad in blocked)


def test_a_query_with_fewer_negatives_than_asked_counts_each_once(model: DualEncoder) -> None:
    each = examples("nq", 2)[1]
    losses = []
    for asked, negatives in (
        (1, each.negatives[:1]),
        (3, each.negatives[:1]),
        (3, (*each.positives[0], each.negatives[0])),
    ):
        sampler = TaskSampler([each._replace(negatives=negatives)], 1, 0, "nq")
        step = step_of(model, settings=LossSettings(negatives=asked), sampled=[sampler])
        losses.append(float(gradient(step.objectives[0], 0)))
    assert losses[0] > 0.1 and losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_a_step_reports_losses_and_norms_and_leaves_the_combination(model: DualEncoder) -> None:
    step = step_of(model)
    of_task, losses = {}, {}
    for task in step.objectives:
        losses[task.task] = float(gradient(task, 2))
        of_task[task.task] = gradients(model)
    result = step(2, 0.5)
    assert list(result.losses) == list(result.norms) == list(TASKS) and not result.not_finite
    assert result.losses == losses
    for task, grads in of_task.items():
        assert result.norms[task] == pytest.approx(
            math.sqrt(sum(float(grad.double().square().sum()) for grad in grads)), rel=1e-5
        )
    assert result.report is not None and result.report.weights == (1 / 3,) * 3
    mean = [torch.stack(parts).mean(0) for parts in zip(*of_task.values(), strict=True)]
    assert_near(gradients(model), mean, 1e-6)


@pytest.mark.parametrize("name", TRAINED)
def test_every_weighting_makes_finite_updates(model: DualEncoder, name: str) -> None:
    step = step_of(model, name)
    optimizer = adamw(model, SMALL.replace(learning_rate=1e-3).optimiser)
    losses = []
    for number in range(4):
        before = [param.detach().clone() for param in step.params]
        result = step(0, number / 4)  # the same batch: its loss must fall
        assert result.report is not None and len(result.report.weights) == len(TASKS)
        assert all(math.isfinite(weight) for weight in result.report.weights)
        assert all(param.grad is not None and bool(torch.isfinite(param.grad).all()) for param in step.params)
        optimizer.step()
        optimizer.zero_grad()
        assert any(not torch.equal(old, param) for old, param in zip(before, step.params, strict=True))
        losses.append(sum(result.losses.values()))
    assert losses[-1] < losses[0]


def test_progress_reaches_the_weighting(model: DualEncoder) -> None:
    step = step_of(model, "taco", burn_in=0.5)
    early, late = step(0, 0.4).report, step(1, 0.6).report
    assert early is not None and late is not None
    assert early.weights == (1 / 3,) * 3 != late.weights


# what is added to the loss, what a gradient is multiplied by, and of which tasks
POISONS = {
    "the loss": (math.nan, 1.0, ["nq"]),
    "an infinite loss": (math.inf, 1.0, ["wow"]),
    "the gradient alone": (0.0, math.inf, ["nq", "fever"]),
}


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("kind", POISONS)
def test_a_gradient_that_is_not_finite_skips_the_step(
    tiny_bert: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is skipped and names its tasks; parameters stay, and the weighting goes on."""
    model = encoder(tiny_bert)
    step = step_of(model, name)
    assert step(0, 0.5).report is not None
    before = copy.deepcopy(model.state_dict())
    addend, factor, poisoned = POISONS[kind]

    def spoiled(*args: Any) -> float:
        loss = backward(*args)
        if args[4][1] in poisoned:  # the task, in the seed
            next(param.grad for param in step.params if param.grad is not None and not param.grad.is_sparse).view(-1)[
                0
            ] *= factor
            loss += addend
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(step_module, "backward", spoiled)
        for param in step.params:
            param.grad = None
        result = step(1, 0.6)
    assert result.report is None and result.not_finite == poisoned
    assert list(result.losses) == list(result.norms) == list(TASKS)  # what was seen is still reported
    for task in TASKS:
        assert (math.isfinite(result.norms[task]) and math.isfinite(result.losses[task])) == (task not in poisoned)
    assert all(param.grad is None for param in step.params)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(bool(torch.isfinite(value).all()) for value in step.weighting.state_dict().values())
    with pytest.raises(ValueError, match=r"only tasks \[\] of 3"):
        step.weighting.combine(step.params)  # nothing is kept of the step
    again = step(2, 0.7)
    assert again.report is not None and not again.not_finite
    assert all(param.grad is not None and bool(torch.isfinite(param.grad).all()) for param in step.params)


def test_weights_that_overflow_skip_the_step(tiny_bert: Path) -> None:
    """Not by a patch: one word's vector is infinite, and one task alone reads it."""
    model = encoder(tiny_bert, prompts=True)
    table = model.towers["passage"]["backbone"].embeddings.word_embeddings  # type: ignore[index]
    first = [model.tokenize_queries([sampler.examples[0].text], sampler.task)[0] for sampler in samplers()]
    others = {int(token) for passage in TEXTS.passages.values() for token in model.tokenize_passages([passage])[0].ids}
    others |= {
        int(token)
        for sampler in samplers()[1:]
        for each in sampler.examples
        for token in model.tokenize_queries([each.text], sampler.task)[0].ids
    }
    own = [int(token) for token in first[0].ids if int(token) not in others]
    assert own  # a piece of the prompt of nq
    with torch.no_grad():
        table.weight[own[0]] = math.inf
    result = step_of(model, "taco")(0, 0.5)
    assert result.report is None and result.not_finite == ["nq"]


def test_the_same_step_has_the_same_dropout(tiny_bert: Path) -> None:
    """However many steps came before; another step, part or seed has another."""
    model = encoder(tiny_bert, dropout=0.3)
    sampler = TaskSampler(examples("nq", 5), 5, 0, "nq")
    (task,) = step_of(model, sampled=[sampler]).objectives
    first = float(gradient(task, 0))
    later = float(gradient(task, 3))
    assert float(gradient(task, 0)) == first != later
    (other,) = step_of(model, sampled=[sampler], settings=LossSettings(negatives=2, seed=1)).objectives
    assert float(gradient(other, 0)) != first


def test_parts_do_not_share_their_dropout(tiny_bert: Path) -> None:
    model = encoder(tiny_bert, dropout=0.3)
    seen: list[tuple[int | str, ...]] = []

    def watched(*args: Any) -> float:
        seen.append(args[4])
        return 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "backward", watched)
        step = step_of(model, settings=LossSettings(accumulate=3))
        for task in step.objectives:
            for number in range(2):
                for param in step.params:
                    param.grad = torch.zeros_like(param)
                gradient(task, number)
    assert len(seen) == len(set(seen)) == 3 * 2 * 3


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_of_touched_rows_are_those_of_whole_tables(model: DualEncoder, name: str) -> None:
    found = []
    for sparse in (False, True):
        model.use_sparse_tables(sparse)
        step = step_of(model, name)
        gradient(step.objectives[0], 0)
        assert any(param.grad is not None and param.grad.is_sparse for param in step.params) == sparse
        model.zero_grad()
        result = step(0, 0.5)
        found.append((list(result.norms.values()), gradients(model)))
    (norms, dense), (same_norms, same) = found
    assert same_norms == pytest.approx(norms, rel=1e-5)
    assert_near(same, dense, 1e-5)


READINGS = ("item", "tolist", "nonzero", "cpu", "__bool__", "__float__", "__int__", "__index__")


def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the methods that read numbers of a tensor, one for each call; an accelerator would wait at each."""
    found: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        method = getattr(Tensor, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            found.append(name)
            return method(*args, **kwargs)

        return call

    for name in READINGS:
        monkeypatch.setattr(Tensor, name, counted(name))
    return found


@pytest.mark.parametrize("sizes", ["small", "large"])
@pytest.mark.parametrize("name", OWN)
def test_a_step_hardly_waits_for_an_accelerator(
    name: str, sizes: str, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step reads at most five numbers a task, however many parameters and chunks there are."""
    if sizes == "large":  # many chunks, and medians by a bracket
        monkeypatch.setattr(blocks, "CHUNK_BYTES", {"cpu": 1 << 12})
        monkeypatch.setattr(median, "SMALL", 1000)
        monkeypatch.setattr(median, "SAMPLE", 40_000)
    others = ["hotpotqa", "trex", "structured_zeroshot", "wned", "eli5"]
    model = start_encoder(SMALL, tiny_bert, [*TASKS, *others])
    sampled = [*samplers(), *(TaskSampler(examples(task, 9), 2, 0, task) for task in others)]
    step = step_of(model, name, sampled=sampled, **({"burn_in": 0.0} if name == "taco" else {}))
    step(0, 0.0)
    monkeypatch.setattr(blocks, "read_at_once", lambda _: False)
    found = readings(monkeypatch)
    assert step(1, 0.5).report is not None
    assert len(found) <= 5 * len(step.objectives), Counter(found)
