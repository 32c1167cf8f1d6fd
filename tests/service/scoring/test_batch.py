"""What a batch takes: nothing beyond its bounds, and nothing that would be cheaper on its own."""

import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.layout import Family, plan_layout
from service.scoring.batch import FAMILY_STRETCH, Batch, Bounds
from service.scoring.cost import Attention, CostModel
from service.scoring.prefixes import token_key
from tests.service.scoring.sequences import FAMILIES, forest, sequences

models = st.builds(CostModel, st.floats(0, 5), st.floats(0.01, 1), st.floats(0, 0.1))
bounds = st.builds(Bounds, st.integers(1, 60), st.integers(1, 400), st.floats(0.1, 30))
ANY = sys.maxsize


@given(st.lists(sequences, min_size=1, max_size=30), bounds, models, st.sampled_from(FAMILIES), st.integers(1, 4))
def test_a_batch_stays_within_its_bounds_and_is_never_dearer_than_its_items_one_by_one(
    items, limits, model, family, queries
):
    batch = Batch(limits, model, family, Attention(queries))
    for sequence in items:
        if token_key(sequence) not in batch:
            had = len(batch)
            assert batch.add(token_key(sequence), sequence) == (len(batch) > had)
    inside = list(batch.sequences.values())
    trees = forest(inside, family)
    layout = plan_layout(inside, family, block_queries=queries)
    assert batch.tokens == sum(added for _, added in trees) == layout.tokens
    assert batch.cells == -(-batch.tokens // queries) * queries * (max(map(len, inside)) + queries)
    if family is Family.CAUSAL:
        assert layout.cells - 2 <= batch.cells  # a group of blocks that nobody needs has a cell too
    assert batch.seconds == model.seconds(batch.tokens, batch.cells)
    assert batch.seconds <= sum(batch.alone(len(item)) for item in inside) * (1 + 1e-6)
    if len(batch) > 1:
        assert batch.tokens <= limits.tokens and batch.cells <= limits.cells
        assert batch.seconds <= limits.seconds * FAMILY_STRETCH


def batch_of(limits: Bounds, model: CostModel, *lengths: int) -> list[int]:
    """Lengths of those items that a batch took; no two share a token."""
    batch = Batch(limits, model, Family.CAUSAL, Attention(1))
    for place, length in enumerate(lengths):
        sequence = np.arange(1000 * place, 1000 * place + length)
        batch.add(token_key(sequence), sequence)
    return [len(sequence) for sequence in batch.sequences.values()]


def test_a_long_item_does_not_join_short_ones_where_padding_costs_more_than_a_batch_of_its_own():
    dear = CostModel(fixed=1.0, per_token=0.1, per_cell=0.01)
    assert batch_of(Bounds(ANY, ANY, 1e9), dear, *[2] * 50, 100, 2) == [2] * 51
    assert batch_of(Bounds(ANY, ANY, 1e9), CostModel(1.0, 0.1, 0.0), *[2] * 50, 100) == [2] * 50 + [100]


def test_seconds_bound_a_batch_but_not_its_first_item():
    assert batch_of(Bounds(ANY, ANY, 2.5), CostModel(0.0, 1.0, 0.0), 9, 1) == [9]
    assert batch_of(Bounds(ANY, ANY, 2.5), CostModel(0.0, 1.0, 0.0), 1, 1, 1) == [1, 1]


def test_items_that_are_half_computed_already_may_exceed_the_seconds():
    batch = Batch(Bounds(ANY, ANY, 10.0), CostModel(0.0, 1.0, 0.0), Family.CAUSAL, Attention(1))
    prefix = np.arange(8)
    taken = [batch.add(token_key(item), item) for last in range(100) if len(item := np.append(prefix, 100 + last))]
    assert sum(taken) == FAMILY_STRETCH * 10 - 8
    stranger = np.arange(50, 52)
    assert not batch.add(token_key(stranger), stranger)
