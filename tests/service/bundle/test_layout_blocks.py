"""Blocks: how the tokens of a layout are cut up for attention, and how they are padded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.layout import BLOCK_GROUPS, GRAPH_INPUTS, Family, plan_layout
from tests.service.bundle.forests import BATCHES, FAMILIES, QUERIES, Ids, block_of, plan, seen_by

CUT = (BATCHES, QUERIES, FAMILIES, st.booleans())


@given(*CUT)
def test_each_token_is_a_query_in_one_place(
    sequences: list[Ids], queries: int, family: Family, share_prefixes: bool
) -> None:
    layout = plan(sequences, family, queries, share_prefixes)
    rows = np.concatenate([group.query_index.ravel() for group in layout.groups])
    assert rows[layout.unblock_index].tolist() == list(range(layout.tokens))
    assert len(set(layout.unblock_index.tolist())) == layout.tokens


@given(*CUT)
def test_the_queries_of_a_block_are_neighbours_with_padding_behind(
    sequences: list[Ids], queries: int, family: Family, share_prefixes: bool
) -> None:
    layout = plan(sequences, family, queries, share_prefixes)
    places: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for token in range(layout.tokens):
        group, block, place = block_of(layout, token)
        places.setdefault((id(group), block), []).append((place, token))
    for group in layout.groups:
        assert group.query_index.shape[1] <= queries
        for block, row in enumerate(group.query_index.tolist()):
            held = places.get((id(group), block), [])
            assert [place for place, _ in held] == list(range(len(held)))
            tokens = [token for _, token in held]
            assert row == tokens + [0] * (len(row) - len(tokens))
            assert not tokens or tokens == list(range(tokens[0], tokens[-1] + 1))


@given(*CUT)
def test_padding_is_index_0_not_valid_and_after_the_keys(
    sequences: list[Ids], queries: int, family: Family, share_prefixes: bool
) -> None:
    for group in plan(sequences, family, queries, share_prefixes).groups:
        counts = group.key_valid.sum(1)
        assert (group.key_valid == (np.arange(group.key_index.shape[1]) < counts[:, None])).all()
        assert (group.key_index[~group.key_valid] == 0).all()
        assert counts.min() >= 1
        assert counts.max() == group.key_index.shape[1]
        for keys, valid in zip(group.key_index, group.key_valid, strict=True):
            assert (np.diff(keys[valid]) > 0).all()


@given(*CUT)
def test_a_block_carries_no_key_that_none_of_its_queries_sees(
    sequences: list[Ids], queries: int, family: Family, share_prefixes: bool
) -> None:
    layout = plan(sequences, family, queries, share_prefixes)
    seen: dict[tuple[int, int], set[int]] = {}
    for token in range(layout.tokens):
        group, block, _ = block_of(layout, token)
        seen.setdefault((id(group), block), set()).update(seen_by(layout, token))
    for group in layout.groups:
        for block, (keys, valid) in enumerate(zip(group.key_index, group.key_valid, strict=True)):
            if (id(group), block) in seen:
                assert set(keys[valid].tolist()) == seen[id(group), block]


@given(*CUT)
def test_cells_and_padding_are_counted(
    sequences: list[Ids], queries: int, family: Family, share_prefixes: bool
) -> None:
    layout = plan(sequences, family, queries, share_prefixes)
    real = 0
    for token in range(layout.tokens):
        group, block, _ = block_of(layout, token)
        real += int(group.key_valid[block].sum())
    assert layout.cells == sum(
        g.query_index.shape[0] * g.query_index.shape[1] * g.key_index.shape[1] for g in layout.groups
    )
    assert layout.padded_cells == layout.cells - real
    assert layout.query_slots == sum(g.query_index.size for g in layout.groups)


@given(BATCHES, QUERIES)
def test_two_groups_pad_no_more_than_one(sequences: list[Ids], queries: int) -> None:
    layout = plan(sequences, queries=queries)
    used = [group for group in layout.groups if len(group.query_index)]
    slots = sum(group.query_index.size for group in used)
    # The group that nobody needs is one cell.
    assert layout.cells <= slots * max(group.key_index.shape[1] for group in used) + 1


@given(BATCHES, QUERIES)
def test_a_causal_batch_pads_fewer_queries_than_there_are_blocks(sequences: list[Ids], queries: int) -> None:
    layout = plan(sequences, queries=queries)
    blocks = sum(len(group.query_index) for group in layout.groups)
    assert layout.query_slots - layout.tokens <= blocks


@given(BATCHES, QUERIES, FAMILIES)
def test_arrays_have_the_names_shapes_and_types_of_the_graph(
    sequences: list[Ids], queries: int, family: Family
) -> None:
    layout = plan(sequences, family, queries)
    assert len(layout.groups) == BLOCK_GROUPS
    flat = {"input_ids", "position_ids", "seen_from", "seen_to", "unblock_index"}
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(flat, (layout.tokens,))
    shapes["read_index"] = (len(sequences),)
    for number, group in enumerate(layout.groups):
        blocks, keys = len(group.query_index), group.key_index.shape[1]
        shapes[f"query_index_{number}"] = (blocks, group.query_index.shape[1])
        shapes[f"key_index_{number}"] = (blocks, keys)
        shapes[f"key_valid_{number}"] = (blocks, keys)
    assert {name: array.shape for name, array in layout.arrays().items()} == shapes
    assert tuple(layout.arrays()) == GRAPH_INPUTS
    for name, array in layout.arrays().items():
        assert array.dtype == (np.bool_ if name.startswith("key_valid") else np.int64), name


@pytest.mark.parametrize(
    ("length", "blocks", "queries"),
    [(1, 1, 1), (2, 1, 2), (127, 1, 127), (128, 1, 128), (129, 2, 65), (256, 2, 128), (257, 3, 86)],
)
@pytest.mark.parametrize("family", Family)
def test_a_sequence_around_the_size_of_a_block(family: Family, length: int, blocks: int, queries: int) -> None:
    layout = plan_layout([np.arange(length, dtype=np.int64)], family)
    used = [group for group in layout.groups if group.key_valid.sum() > 1 or length == 1]
    assert max(group.query_index.shape[1] for group in used) == queries
    assert sum(len(group.query_index) for group in used) in (blocks, blocks + (length == 1))
    assert layout.read_index.tolist() == [length - 1 if family is Family.CAUSAL else 0]


def test_siblings_share_a_block() -> None:
    stem = list(range(100, 132))
    layout = plan_layout([np.array([*stem, *[tail] * 8]) for tail in range(12)], Family.CAUSAL, block_queries=32)
    assert layout.query_slots == layout.tokens == 32 + 12 * 8
