"""Every name in use resolves to one canonical name; every other name is refused with the nearest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.tasks import KILT_TASKS, SPLITS, TASK_NAMES, TopicsName, canonical_task, resolve_task, resolve_topics

ALL = [TopicsName(name, split) for name in TASK_NAMES for split in SPLITS]
SPELLINGS = [(alias, task.name) for task in KILT_TASKS for alias in (task.name, *task.aliases)]


def test_there_are_eleven_tasks_and_no_name_means_two() -> None:
    assert len(KILT_TASKS) == 11
    assert len({spelling for spelling, _ in SPELLINGS}) == len(SPELLINGS)


@given(
    st.sampled_from(SPELLINGS),
    st.sampled_from(SPLITS),
    st.sampled_from(["{}-{}", "kilt/{}/{}", "{}/{}"]),
    st.booleans(),
)
def test_every_spelling_of_topics_is_one_name(spelling: tuple[str, str], split: str, form: str, upper: bool) -> None:
    alias, name = spelling
    assert resolve_topics(form.format(alias.upper() if upper else alias, split), ALL) == (name, split)


@given(st.sampled_from(SPELLINGS))
def test_canonical_names_are_fixed_points(spelling: tuple[str, str]) -> None:
    alias, name = spelling
    assert resolve_task(alias) == canonical_task(alias) == name == canonical_task(name)


def test_tasks_of_a_collection_keep_their_names() -> None:
    assert canonical_task("Squad") == "Squad"
    known = [TopicsName("Squad", "dev"), TopicsName("my-task", "dev")]
    assert resolve_topics("Squad-dev", known) == known[0]
    assert resolve_topics("my-task-dev", known) == resolve_topics("my-task/dev", known) == known[1]


@pytest.mark.parametrize(
    ("given_name", "nearest"),
    [("nqq-dev", "nq-dev"), ("kilt/ng/dev", "nq-dev"), ("zsr-dev", "zsre-dev"), ("nq-devel", "nq-dev")],
)
def test_a_typo_is_told_the_nearest_and_all(given_name: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"unknown topics '{given_name}'; did you mean .*{nearest}") as refused:
        resolve_topics(given_name, ALL)
    assert all(str(name) in str(refused.value) for name in ALL)


def test_known_names_only() -> None:
    with pytest.raises(InputError, match="valid: nq-dev$"):
        resolve_topics("fever-dev", [TopicsName("nq", "dev")])
    with pytest.raises(InputError, match="valid: none$"):
        resolve_topics("fever-dev", [])
    with pytest.raises(InputError, match="unknown task 'fevr'; did you mean fever"):
        resolve_task("fevr")
