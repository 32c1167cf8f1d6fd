"""The tiles are those that a mask of every query and key gives, and none that holds something is left out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from service.bundle.layout import Family, plan_layout
from training.examples import layout_tensors
from training.tiles import TILE, tile_mask


@st.composite
def trees(draw: st.DrawFn) -> list[np.ndarray]:  # type: ignore[type-arg]
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stems = [generator.integers(0, 50, n) for n in draw(st.lists(st.integers(1, 400), min_size=1, max_size=3))]
    tails = [generator.integers(0, 50, n) for n in draw(st.lists(st.integers(1, 150), min_size=1, max_size=4))]
    return [np.concatenate([stem, tail]) for stem in stems for tail in tails]


@pytest.mark.parametrize("family", Family)
@settings(max_examples=25, deadline=None)
@given(sequences=trees(), window=st.sampled_from([None, 1, 40, 300]))
def test_tiles_are_those_of_the_whole_mask(
    family: Family,
    sequences: list[np.ndarray],  # type: ignore[type-arg]
    window: int | None,
) -> None:
    tensors = layout_tensors(plan_layout(sequences, family))
    positions, start, stop = (tensors[name] for name in ("position_ids", "seen_from", "seen_to"))
    mask = tile_mask(positions, start, stop, window)
    tokens = len(positions)
    query, key = torch.arange(tokens)[:, None], torch.arange(tokens)[None]
    whole = mask.mask_mod(0, 0, query, key)
    padded = torch.zeros([-(-tokens // TILE) * TILE] * 2, dtype=torch.bool)
    padded[:tokens, :tokens] = whole
    tiles = padded.view(len(padded) // TILE, TILE, -1, TILE).transpose(1, 2)
    some, every = tiles.any(-1).any(-1), tiles.all(-1).all(-1)
    computed = mask.to_dense()[0, 0].bool()
    assert not (some & ~computed).any()
    full = torch.zeros_like(some)
    for row, (count, order) in enumerate(zip(mask.full_kv_num_blocks[0, 0], mask.full_kv_indices[0, 0], strict=True)):
        full[row, order[:count].long()] = True
    assert not (full & ~every).any()
    if window is None:
        assert torch.equal(computed, some)
        theirs = create_block_mask(mask.mask_mod, None, None, tokens, tokens, device="cpu")
        assert torch.equal(full, every)
        assert torch.equal(mask.kv_num_blocks, theirs.kv_num_blocks)
        assert torch.equal(mask.full_kv_num_blocks, theirs.full_kv_num_blocks)


def test_distant_tiles_of_a_window_are_left_out() -> None:
    tensors = layout_tensors(plan_layout([np.arange(1000) % 50], Family.CAUSAL))
    mask = tile_mask(tensors["position_ids"], tensors["seen_from"], tensors["seen_to"], 100)
    assert int(mask.to_dense().sum()) == 2 * 8 - 1  # each tile, and the one before it
