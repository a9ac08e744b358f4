"""Two spans of one document never overlap; masking follows BERT's shares, and labels are the true tokens."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from taco_ir.core.hashes import generator
from taco_ir.training.documents import NEIGHBOURS, build_documents, sample_rows, sample_span_pair, sample_window
from taco_ir.training.objectives.masking import UNLABELLED, mask_tokens

MASK = 999_999
VOCABULARY = np.arange(500_000, 510_000)
LENGTHS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60)), min_size=1, max_size=12)
SHORTEST = 4


def numbered(lengths: list[tuple[str, int]]) -> list[tuple[str, np.ndarray]]:
    """Passages whose tokens are all different."""
    ends = np.cumsum([0, *(length for _, length in lengths)])
    return [(page, np.arange(ends[i], ends[i + 1], dtype=np.int32)) for i, (page, _) in enumerate(lengths)]


@given(LENGTHS, st.booleans())
def test_documents_hold_every_passage_that_is_long_enough_once(lengths: list[tuple[str, int]], by_page: bool) -> None:
    passages = numbered(lengths)
    documents = build_documents(passages, SHORTEST, by_page)
    long = [(page, ids_L) for page, ids_L in passages if len(ids_L) >= SHORTEST]
    found = [[ids_L.tolist() for ids_L in documents.passages(number)] for number in range(documents.size)]
    if by_page:
        expected = [
            [ids_L.tolist() for page, ids_L in long if page == wanted]
            for wanted in dict.fromkeys(page for page, _ in long)
        ]
        assert found == [group for group in expected if len(group) > 1]
    else:
        assert found == [[ids_L.tolist()] for _, ids_L in long]


@given(LENGTHS, st.booleans(), st.integers(SHORTEST, 40), st.integers(0, 2**32))
def test_two_spans_of_one_document_never_overlap(
    lengths: list[tuple[str, int]], by_page: bool, most: int, seed: int
) -> None:
    documents = build_documents(numbered(lengths), SHORTEST * (1 if by_page else 2), by_page)
    for number in range(documents.size):
        passages = documents.passages(number)
        pair = sample_span_pair(passages, most, SHORTEST, generator(seed, number))
        owners = []
        for span_L in pair:
            assert SHORTEST <= len(span_L) <= most
            assert (np.diff(span_L) == 1).all(), "not tokens in a row"
            (owner,) = [i for i, ids_L in enumerate(passages) if set(span_L) <= set(ids_L)]
            owners.append(owner)
        assert not set(pair[0]) & set(pair[1])
        assert (owners[0] != owners[1]) == by_page


def test_either_span_may_come_first_and_every_token_is_drawn() -> None:
    passage = [np.arange(40)]
    pairs = [sample_span_pair(passage, 6, SHORTEST, generator(number)) for number in range(400)]
    assert 150 < sum(bool(first[0] < second[0]) for first, second in pairs) < 250
    assert {int(token) for pair in pairs for span_L in pair for token in span_L} == set(range(40))


@given(st.integers(0, 30), st.integers(1, 40), st.integers(0, 99))
def test_a_window_is_as_long_as_it_may_be(length: int, most: int, seed: int) -> None:
    found = sample_window(np.arange(length), most, generator(seed))
    assert len(found) == min(length, most) and (np.diff(found) == 1).all()


@given(st.integers(0, 50), st.floats(0.01, 0.5), st.integers(0, 2**32))
def test_labels_are_the_truth_where_something_is_to_be_filled_in(length: int, share: float, seed: int) -> None:
    ids_L = np.arange(length)
    found_L, labels_L = mask_tokens(ids_L, share, MASK, VOCABULARY, generator(seed))
    chosen_L = labels_L != UNLABELLED
    assert (labels_L[chosen_L] == ids_L[chosen_L]).all()
    assert (found_L[~chosen_L] == ids_L[~chosen_L]).all()
    assert all(
        found in (MASK, truth) or found in VOCABULARY
        for found, truth in zip(found_L[chosen_L], ids_L[chosen_L], strict=True)
    )


def test_masking_statistics() -> None:
    """15 % of the tokens, of them 80 % masked, 10 % random, 10 % as they were: within four standard deviations."""
    count = 400_000
    ids_L = np.arange(count)
    found_L, labels_L = mask_tokens(ids_L, 0.15, MASK, VOCABULARY, generator("statistics"))
    chosen_L = labels_L != UNLABELLED
    masked_L, same_L = found_L == MASK, found_L == ids_L
    chosen = int(chosen_L.sum())
    for seen, of, share in (
        (chosen, count, 0.15),
        (int((masked_L & chosen_L).sum()), chosen, 0.8),
        (int((same_L & chosen_L).sum()), chosen, 0.1),
        (int((~masked_L & ~same_L).sum()), chosen, 0.1),
    ):
        assert abs(seen - of * share) < 4 * math.sqrt(of * share * (1 - share))
    drawn = found_L[~masked_L & ~same_L]
    assert len(np.unique(drawn)) > 0.4 * len(VOCABULARY), "random tokens are not drawn from the whole vocabulary"


@settings(max_examples=30)
@given(st.integers(1, 1000), st.integers(0, 1000), st.integers(0, 9))
def test_rows_are_drawn_in_runs_of_neighbours(count: int, most: int, seed: int) -> None:
    rows = sample_rows(count, most, seed)
    assert rows == sorted(set(rows)) == sample_rows(count, most, seed) and set(rows) <= set(range(count))
    assert len(rows) == (min(most, count) if most else count)
    whole = [block for block in range(count // NEIGHBOURS) if any(row // NEIGHBOURS == block for row in rows)]
    assert sum(sum(row // NEIGHBOURS == block for row in rows) < NEIGHBOURS for block in whole) <= 1


def test_another_seed_draws_other_passages() -> None:
    assert sample_rows(10_000, 640, 0) != sample_rows(10_000, 640, 1)
