"""Blocks: how the tokens of a layout are cut up for attention, and how they are padded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.layout import GRAPH_INPUTS, Family, plan_layout
from tests.service.bundle.forests import BATCHES, FAMILIES, QUERIES, Ids, plan, seen_by


@given(BATCHES, QUERIES, FAMILIES, st.booleans())
def test_blocks_hold_each_token_once_as_neighbours_on_one_path(
    sequences: list[Ids], queries: int, family: Family, share_prefixes: bool
) -> None:
    layout = plan(sequences, family, queries, share_prefixes)
    assert layout.query_index.shape[1] == queries
    by_block: dict[int, list[int]] = {}
    for token in range(layout.tokens):
        by_block.setdefault(int(layout.unblock_index[token]) // queries, []).append(token)
    assert sorted(by_block) == list(range(len(layout.query_index)))
    for block, tokens in by_block.items():
        assert tokens == list(range(tokens[0], tokens[-1] + 1))
        assert set(tokens) <= set(seen_by(layout, tokens[-1], family))
        assert layout.query_index[block].tolist() == tokens + [0] * (queries - len(tokens))


@given(BATCHES, QUERIES, FAMILIES, st.booleans())
def test_unblock_index_inverts_query_index(
    sequences: list[Ids], queries: int, family: Family, share_prefixes: bool
) -> None:
    layout = plan(sequences, family, queries, share_prefixes)
    assert layout.query_index.ravel()[layout.unblock_index].tolist() == list(range(layout.tokens))
    assert len(set(layout.unblock_index.tolist())) == layout.tokens


@given(BATCHES, QUERIES, FAMILIES, st.booleans())
def test_padding_is_index_0_not_valid_and_after_the_keys(
    sequences: list[Ids], queries: int, family: Family, share_prefixes: bool
) -> None:
    layout = plan(sequences, family, queries, share_prefixes)
    counts = layout.key_valid.sum(1)
    assert (layout.key_valid == (np.arange(layout.key_index.shape[1]) < counts[:, None])).all()
    assert (layout.key_index[~layout.key_valid] == 0).all()
    assert counts.min() >= 1
    assert counts.max() == layout.key_index.shape[1]
    for keys, valid in zip(layout.key_index, layout.key_valid, strict=True):
        assert len(set(keys[valid].tolist())) == valid.sum()


@given(BATCHES, QUERIES)
def test_a_causal_block_carries_no_key_after_its_last_query(sequences: list[Ids], queries: int) -> None:
    layout = plan(sequences, queries=queries)
    last = np.full(len(layout.query_index), -1)
    np.maximum.at(last, layout.unblock_index // queries, layout.position_ids)
    assert (layout.key_valid.sum(1) == last + 1).all()


@given(BATCHES, QUERIES, FAMILIES)
def test_arrays_have_the_names_shapes_and_types_of_the_graph(
    sequences: list[Ids], queries: int, family: Family
) -> None:
    layout = plan(sequences, family, queries)
    tokens, blocks, keys = layout.tokens, len(layout.query_index), layout.key_index.shape[1]
    shapes = {
        "input_ids": (tokens,),
        "position_ids": (tokens,),
        "query_index": (blocks, queries),
        "key_index": (blocks, keys),
        "key_valid": (blocks, keys),
        "unblock_index": (tokens,),
        "read_index": (len(sequences),),
    }
    assert {name: array.shape for name, array in layout.arrays().items()} == shapes
    assert tuple(layout.arrays()) == GRAPH_INPUTS
    for name, array in layout.arrays().items():
        assert array.dtype == (np.bool_ if name == "key_valid" else np.int64), name


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 127, 128, 129])
def test_a_sequence_around_the_size_of_a_block(length: int) -> None:
    layout = plan_layout([np.arange(length, dtype=np.int64)], Family.CAUSAL)
    assert layout.query_index.shape == ((length + 63) // 64, 64)
    assert layout.read_index.tolist() == [length - 1]
