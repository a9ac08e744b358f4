"""Which tasks a step takes: laws of the three schedules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.training.schedules import (
    PHASES,
    READING,
    RETRIEVAL,
    SELF_SUPERVISED,
    Plan,
    Schedule,
    ScheduledTask,
    alternate,
    bound_phases,
    compute_odds,
    count_epoch_steps,
    find_last_phase,
    plan_steps,
    sequence_phases,
)
from taco_ir.training.settings import ObjectiveSettings

TASKS = [
    ScheduledTask(RETRIEVAL, 400),
    ScheduledTask(RETRIEVAL, 100),
    ScheduledTask(READING, 25),
    ScheduledTask(SELF_SUPERVISED, 1600),
]
SHARES = st.tuples(*[st.floats(0.1, 9)] * 3)
STEPS = st.integers(1, 200)
KINDS = st.lists(st.sampled_from(PHASES), min_size=1, max_size=6).map(
    lambda phases: [ScheduledTask(phase, 10) for phase in phases]
)


@given(KINDS, STEPS, st.sampled_from(["joint", "alternating", "sequential"]), st.floats(0, 0.9), st.integers(0, 5))
def test_no_task_leaves_a_batch_out_or_deals_one_twice(
    tasks: list[ScheduledTask], steps: int, kind: str, rehearsal: float, seed: int
) -> None:
    """Every step takes a task, and the batches of each are numbered 0, 1, 2, ... as they come."""
    schedule = Schedule(plan_steps(ObjectiveSettings(schedule=kind, rehearsal=rehearsal), seed, tasks, steps))
    dealt: dict[int, list[int]] = {}
    for step in range(steps):
        turns = schedule.turns(step)
        assert turns
        for task, batch in turns:
            dealt.setdefault(task, []).append(batch)
    assert all(batches == list(range(len(batches))) for batches in dealt.values())


@given(KINDS, STEPS)
def test_joint_takes_all(tasks: list[ScheduledTask], steps: int) -> None:
    assert Schedule(plan_steps(ObjectiveSettings(), 0, tasks, steps)).turns(steps - 1) == [
        (task, steps - 1) for task in range(len(tasks))
    ]


@given(st.integers(1, 100), st.integers(100, 300), st.floats(0, 1), st.integers(0, 9))
def test_alternating_takes_one_and_depends_on_seed_and_step_alone(few: int, many: int, alpha: float, seed: int) -> None:
    drawn_ST = alternate(TASKS, many, alpha, seed)
    assert (drawn_ST.sum(1) == 1).all()
    assert np.array_equal(alternate(TASKS, few, alpha, seed), drawn_ST[:few])


@pytest.mark.parametrize(
    ("alpha", "shares"), [(0.0, [1, 1, 1, 1]), (0.5, [20, 10, 5, 40]), (1.0, [400, 100, 25, 1600])]
)
def test_alternating_draws_by_shares(alpha: float, shares: list[float]) -> None:
    """Probability ~ size^alpha; the counts of 20,000 steps are within five standard deviations of it."""
    expected = np.array(shares) / sum(shares)
    assert np.allclose(compute_odds(TASKS, alpha), expected)
    counts = alternate(TASKS, 20_000, alpha, 3).sum(0)
    assert (np.abs(counts / 20_000 - expected) < 5 * np.sqrt(expected * (1 - expected) / 20_000)).all()
    assert not np.array_equal(alternate(TASKS, 50, 0.0, 3), alternate(TASKS, 50, 0.0, 4))


@given(KINDS, STEPS, SHARES)
def test_sequential_goes_through_the_phases_in_order(
    tasks: list[ScheduledTask], steps: int, shares: tuple[float, ...]
) -> None:
    """Self-supervised tasks, then retrieval, then reading; all tasks of a phase together, for its share of steps."""
    bounds = bound_phases(tasks, steps, shares)
    assert list(bounds) == [phase for phase in PHASES if any(task.phase == phase for task in tasks)]
    assert sum(stop - start for start, stop in bounds.values()) == steps
    whole = sum(share for phase, share in zip(PHASES, shares, strict=True) if phase in bounds)
    for phase, share in zip(PHASES, shares, strict=True):
        if phase in bounds:
            start, stop = bounds[phase]
            assert abs(stop - start - steps * share / whole) <= 1
    active_ST = sequence_phases(tasks, steps, shares, 0.0, 0)
    for task, (phase, _) in enumerate(tasks):
        start, stop = bounds[phase]
        assert active_ST[start:stop, task].all() and active_ST[:, task].sum() == stop - start


def test_rehearsal_is_of_earlier_phases() -> None:
    steps, often = 30_000, 0.3
    active_ST = sequence_phases(TASKS, steps, (1, 1, 1), often, 1)
    third = steps // 3
    assert active_ST[:third, 3].all() and not active_ST[:third, :3].any()  # the first phase has nothing to rehearse
    assert not active_ST[:, 2][: 2 * third].any()
    assert abs(active_ST[third : 2 * third, 3].mean() - often) < 0.02
    for earlier in (0, 3):  # one of two phases, each as likely
        assert abs(active_ST[2 * third :, earlier].mean() - often / 2) < 0.02
    assert (active_ST[:, 0] == active_ST[:, 1]).all()


@given(KINDS, STEPS, SHARES, st.floats(0, 0.9))
def test_the_last_phase_is_the_one_that_ends(
    tasks: list[ScheduledTask], steps: int, shares: tuple[float, ...], rehearsal: float
) -> None:
    """From its first step on, steps that rehearse nothing are of the last phase; other schedules have no phases."""
    config = ObjectiveSettings(schedule="sequential", phase_shares=",".join(map(str, shares)), rehearsal=rehearsal)
    first = find_last_phase(config, tasks, steps)
    new_ST = sequence_phases(tasks, steps, shares, 0.0, 0)
    assert (
        0 <= first < steps and (new_ST[first:] == new_ST[-1]).all() and not (new_ST[:first] == new_ST[-1]).all(1).any()
    )
    assert (
        find_last_phase(ObjectiveSettings(), tasks, steps)
        == find_last_phase(ObjectiveSettings(schedule="alternating"), tasks, steps)
        == 0
    )


def test_an_epoch_deals_every_query_once() -> None:
    batches = [10, 10, 5, 8]  # of 400, 100, 25; passages do not count
    assert count_epoch_steps(ObjectiveSettings(), TASKS, batches) == 40
    assert count_epoch_steps(ObjectiveSettings(schedule="alternating", schedule_alpha=0.0), TASKS, batches) == 160
    assert count_epoch_steps(ObjectiveSettings(schedule="sequential", phase_shares="1,2,1"), TASKS, batches) == 80
    assert (
        count_epoch_steps(ObjectiveSettings(), [ScheduledTask(RETRIEVAL, 100), ScheduledTask(RETRIEVAL, 7)], [16, 2])
        == 7
    )


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 50)), min_size=1, max_size=8))
def test_an_epoch_is_the_longest_task(tasks: list[tuple[int, int]]) -> None:
    steps = count_epoch_steps(
        ObjectiveSettings(), [ScheduledTask(RETRIEVAL, size) for size, _ in tasks], [share for _, share in tasks]
    )
    assert all(steps * share >= size for size, share in tasks)
    assert any((steps - 1) * share < size for size, share in tasks)


def test_a_plan_says_when_it_validates() -> None:
    assert Plan(4, 9).when_validated == Plan(4, 4).when_validated == "validated after the last step"
    assert Plan(10, 4).when_validated == "validated every 4 steps and after the last"
