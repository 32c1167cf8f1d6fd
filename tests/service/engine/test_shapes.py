"""Batches in few shapes: the same tokens see the same tokens, and what is added is seen by nobody."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.layout import Layout, plan_layout
from service.engine.shapes import in_few_shapes, rounded
from tests.service.bundle.forests import BATCHES, FAMILIES, QUERIES, block_of, plan, seen_by


def sizes(layout: Layout) -> list[int]:
    """Tokens, queries and keys."""
    return [len(layout.input_ids)] + [n for g in layout.groups for n in (g.query_index.shape[1], g.key_index.shape[1])]


def blocks(layout: Layout) -> list[int]:
    return [len(group.query_index) for group in layout.groups]


@given(st.integers(1, 10**6))
def test_the_grid_is_above_by_an_eighth_at_most(size):
    assert size <= rounded(size) <= max(16, size * 9 / 8)
    assert rounded(size) - size < 32
    assert rounded(rounded(size)) == rounded(size)
    assert rounded(size) <= rounded(size + 1)


def test_the_grid_has_eight_sizes_to_an_octave():
    assert [n for n in range(1, 65) if rounded(n) == n] == [*range(1, 17), *range(18, 33, 2), *range(36, 65, 4)]


def large(draw):
    """Lengths above those that are on the grid anyway."""
    lengths = draw(st.lists(st.integers(1, 90), min_size=1, max_size=12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    stem = generator.integers(0, 3, 90)
    return [np.concatenate([stem[: n // 2], generator.integers(0, 3, n - n // 2)]) for n in lengths]


@given(st.data(), QUERIES | st.integers(17, 40), FAMILIES)
def test_every_token_sees_what_it_saw(data, queries, family):
    if data.draw(st.booleans()):
        layout = plan(data.draw(BATCHES), family, queries)
    else:
        layout = plan_layout(large(data.draw), family, block_queries=queries)
    shaped = in_few_shapes(layout)
    assert [rounded(size) for size in sizes(layout)] == sizes(shaped)
    assert [rounded(count, 2) for count in blocks(layout)] == blocks(shaped)
    assert {name: array.dtype for name, array in layout.arrays().items()} == {
        name: array.dtype for name, array in shaped.arrays().items()
    }
    assert shaped.read_index.tolist() == layout.read_index.tolist()
    for token in range(layout.tokens):
        assert shaped.input_ids[token] == layout.input_ids[token]
        assert shaped.position_ids[token] == layout.position_ids[token]
        assert seen_by(shaped, token) == seen_by(layout, token)
        group, block, place = block_of(shaped, token)
        assert group.query_index[block, place] == token
    for filler in range(layout.tokens, len(shaped.input_ids)):  # is the first token once more, in every layer
        assert shaped.input_ids[filler] == layout.input_ids[0]
        assert shaped.position_ids[filler] == layout.position_ids[0]
        assert shaped.unblock_index[filler] == shaped.unblock_index[0]


@given(BATCHES, st.integers(1, 40), FAMILIES)
def test_what_is_added_is_counted_and_seen_by_nobody(sequences, queries, family):
    layout = plan(sequences * 4, family, queries)
    shaped = in_few_shapes(layout)
    assert shaped.tokens == layout.tokens
    assert shaped.padded_tokens == max(shaped.query_slots, len(shaped.input_ids)) - layout.tokens
    for group in shaped.groups:
        assert group.key_valid.any(1).all()  # a softmax over nothing is NaN
        assert (group.key_index[group.key_valid] < layout.tokens).all()
    needed = shaped.cells - shaped.padded_cells
    assert needed == sum(len(valid(shaped, token)) for token in range(layout.tokens))


def valid(layout, token):
    """Keys of the block that a token is a query of."""
    group, block, _ = block_of(layout, token)
    return np.flatnonzero(group.key_valid[block])


@given(BATCHES, QUERIES, FAMILIES)
def test_a_batch_that_is_on_the_grid_stays_as_it_is(sequences, queries, family):
    shaped = in_few_shapes(plan(sequences, family, queries))
    assert in_few_shapes(shaped) is shaped
