"""The layout against what it stands for: each distinct token once, seeing its own path and nothing else."""

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.layout import Family, Layout, added_tokens, common_prefix, depth_first_order
from tests.service.bundle.forests import (
    BATCHES,
    FAMILIES,
    QUERIES,
    Ids,
    arrays,
    plan,
    prefixes,
    seen_by,
    spelled,
)


def written_paths(layout: Layout) -> Counter[Ids]:
    """How often each path from a root is written."""
    return Counter(spelled(layout, seen_by(layout, token)) for token in range(layout.tokens))


# -- what is written, and what it sees -----------------------------------------


@given(BATCHES, QUERIES)
def test_every_node_of_the_trie_is_written_exactly_once(sequences: list[Ids], queries: int) -> None:
    layout = plan(sequences, queries=queries)
    trie = {prefix for sequence in sequences for prefix in prefixes(sequence)}
    assert layout.tokens == len(trie)
    assert written_paths(layout) == Counter(trie)


@given(BATCHES, QUERIES)
def test_without_sharing_every_sequence_is_written_out(sequences: list[Ids], queries: int) -> None:
    layout = plan(sequences, queries=queries, share_prefixes=False)
    assert layout.input_ids.tolist() == [token for sequence in sequences for token in sequence]
    assert written_paths(layout) == Counter(prefix for sequence in sequences for prefix in prefixes(sequence))
    assert len(set(layout.read_index.tolist())) == len(sequences)


@given(BATCHES, QUERIES)
def test_a_bidirectional_model_shares_whole_sequences_only(sequences: list[Ids], queries: int) -> None:
    layout = plan(sequences, Family.BIDIRECTIONAL, queries)
    distinct = set(sequences)
    assert layout.tokens == sum(map(len, distinct))
    starts = np.flatnonzero(layout.position_ids == 0).tolist()
    assert Counter(spelled(layout, seen_by(layout, start)) for start in starts) == Counter(distinct)
    for start, stop in zip(starts, [*starts[1:], layout.tokens], strict=True):
        for token in range(start, stop):
            assert seen_by(layout, token) == list(range(start, stop))


@given(BATCHES, QUERIES)
def test_a_bidirectional_batch_without_sharing_repeats_duplicates(sequences: list[Ids], queries: int) -> None:
    layout = plan(sequences, Family.BIDIRECTIONAL, queries, share_prefixes=False)
    assert layout.input_ids.tolist() == [token for sequence in sequences for token in sequence]
    for read, sequence in zip(layout.read_index.tolist(), sequences, strict=True):
        assert seen_by(layout, read) == list(range(read, read + len(sequence)))


@given(BATCHES, QUERIES, st.booleans())
def test_a_token_sees_itself_last_and_before_it_what_its_parent_sees(
    sequences: list[Ids], queries: int, share_prefixes: bool
) -> None:
    layout = plan(sequences, queries=queries, share_prefixes=share_prefixes)
    for token in range(layout.tokens):
        *ancestors, last = seen_by(layout, token)
        assert last == token
        assert layout.position_ids[[*ancestors, token]].tolist() == list(range(len(ancestors) + 1))
        if ancestors:
            assert seen_by(layout, ancestors[-1]) == ancestors


@given(BATCHES, QUERIES)
def test_two_sequences_have_in_common_their_prefix_and_nothing_else(sequences: list[Ids], queries: int) -> None:
    layout = plan(sequences, queries=queries)
    seen = [set(seen_by(layout, read)) for read in layout.read_index.tolist()]
    for (tokens_a, a), (tokens_b, b) in combinations(zip(seen, sequences, strict=True), 2):
        assert len(tokens_a & tokens_b) == len(set(prefixes(a)) & set(prefixes(b)))


@given(BATCHES, QUERIES, FAMILIES, st.booleans())
def test_a_score_is_read_where_the_whole_sequence_is_seen(
    sequences: list[Ids], queries: int, family: Family, share_prefixes: bool
) -> None:
    layout = plan(sequences, family, queries, share_prefixes)
    for read, sequence in zip(layout.read_index.tolist(), sequences, strict=True):
        tokens = seen_by(layout, read)
        assert spelled(layout, tokens) == sequence
        assert read == (tokens[-1] if family is Family.CAUSAL else tokens[0])


# -- company -------------------------------------------------------------------


@given(BATCHES, QUERIES, FAMILIES, st.data())
def test_the_order_of_the_sequences_moves_only_where_scores_are_read(
    sequences: list[Ids], queries: int, family: Family, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(sequences))))
    layout = plan(sequences, family, queries)
    permuted = plan([sequences[index] for index in order], family, queries)
    assert permuted.cells == layout.cells
    for name, array in layout.arrays().items():
        expected = array[list(order)] if name == "read_index" else array
        np.testing.assert_array_equal(permuted.arrays()[name], expected)


@given(BATCHES, QUERIES, FAMILIES)
def test_duplicates_are_written_and_read_once(sequences: list[Ids], queries: int, family: Family) -> None:
    once, twice = plan(sequences, family, queries), plan(sequences * 2, family, queries)
    assert twice.tokens == once.tokens
    assert twice.read_index.tolist() == once.read_index.tolist() * 2


@given(BATCHES)
def test_added_tokens_sum_to_the_size_of_the_layout(sequences: list[Ids]) -> None:
    batch = arrays(sequences)
    order = depth_first_order(batch)
    assert sorted(order) == list(range(len(batch)))
    assert sum(added_tokens(batch, order)) == plan(sequences).tokens


@given(BATCHES)
def test_depth_first_order_is_lexicographic(sequences: list[Ids]) -> None:
    assert [sequences[index] for index in depth_first_order(arrays(sequences))] == sorted(sequences)


@given(BATCHES)
def test_added_tokens_in_any_order_count_what_the_sequence_before_lacks(sequences: list[Ids]) -> None:
    added = added_tokens(arrays(sequences), range(len(sequences)))
    expected = [len(sequences[0])]
    for before, sequence in pairwise(sequences):
        expected.append(len(set(prefixes(sequence)) - set(prefixes(before))))
    assert added == expected


@given(st.lists(st.integers(0, 1), max_size=6), st.lists(st.integers(0, 1), max_size=6))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    reference = max(length for length in range(len(a) + 1) if a[:length] == b[:length] and length <= len(b))
    assert common_prefix(np.array(a, dtype=np.int64), np.array(b, dtype=np.int64)) == reference


# -- by example ----------------------------------------------------------------


def test_the_example_of_the_design() -> None:
    layout = plan([(7, 8, 1, 2), (7, 8, 1, 3), (9, 4), (7, 8, 5)], queries=2)
    assert layout.input_ids.tolist() == [7, 8, 1, 2, 3, 5, 9, 4]
    assert layout.position_ids.tolist() == [0, 1, 2, 3, 3, 2, 0, 1]
    assert layout.seen_from.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert layout.seen_to.tolist() == [6, 6, 5, 4, 5, 6, 8, 8]
    few, many = layout.groups
    assert few.query_index.tolist() == [[0, 1], [6, 7]]
    assert few.key_index.tolist() == [[0, 1], [6, 7]]
    assert many.query_index.tolist() == [[2, 3], [4, 5]]
    assert many.key_index.tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 4, 5]]
    assert many.key_valid.sum(1).tolist() == [4, 5]
    assert layout.unblock_index.tolist() == [0, 1, 4, 5, 6, 7, 2, 3]
    assert layout.read_index.tolist() == [3, 4, 7, 5]


@pytest.mark.parametrize("family", Family)
def test_one_token(family: Family) -> None:
    layout = plan([(5,)], family, queries=1)
    assert {name: array.tolist() for name, array in layout.arrays().items()} == {
        "input_ids": [5],
        "position_ids": [0],
        "seen_from": [0],
        "seen_to": [1],
        "unblock_index": [1],
        "read_index": [0],
        "query_index_0": [[0]],
        "key_index_0": [[0]],
        "key_valid_0": [[True]],
        "query_index_1": [[0]],
        "key_index_1": [[0]],
        "key_valid_1": [[True]],
    }


@pytest.mark.parametrize(
    ("sequences", "queries", "message"),
    [
        ([], 4, "at least one sequence"),
        ([(1,), ()], 4, "at least one token"),
        ([(1,)], 0, "block_queries .* not 0"),
    ],
)
def test_what_cannot_be_planned_is_refused(sequences: list[Ids], queries: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(sequences, queries=queries)
