"""Which tiles of queries and keys FlexAttention computes, from a layout; never a mask of every query and key."""

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask

TILE = 128
"""Queries and keys of one tile, as FlexAttention has them by default."""


def tile_mask(
    position_ids: torch.Tensor, seen_from: torch.Tensor, seen_to: torch.Tensor, window: int | None = None
) -> BlockMask:
    """The tiles in which some query sees some key, and those in which all see all.

    A key is seen by queries in a row, so that one range of query tiles is touched by it, and one within that is
    covered: in O(T + (T / 128)^2) time and memory for T tokens.

    Args:
        position_ids, seen_from, seen_to: (T,) as in `service.bundle.layout.Layout`.
        window: for sliding-window layers, positions that are so far apart or further do not see each other.
    """

    def visible(batch: Any, head: Any, query: Any, key: Any) -> Any:
        seen = (seen_from[key] <= query) & (query < seen_to[key])
        if window is None:
            return seen
        return seen & ((position_ids[query] - position_ids[key]).abs() < window)

    tokens = len(seen_from)
    touched = _keys_by_tile(seen_from // TILE, (seen_to + TILE - 1) // TILE) > 0
    full = _keys_by_tile((seen_from + TILE - 1) // TILE, seen_to // TILE) == TILE
    if window is not None:
        full = torch.zeros_like(full)
        touched &= _distance(position_ids) < window
    return BlockMask.from_kv_blocks(
        *_listed(touched & ~full),
        *_listed(full),
        BLOCK_SIZE=TILE,
        mask_mod=visible,
        seq_lengths=(tokens, tokens),
    )


def _keys_by_tile(start: torch.Tensor, stop: torch.Tensor) -> torch.Tensor:
    """(query tiles, key tiles): how many keys of a tile have a query tile in their range from `start` to `stop`."""
    tiles = -(-len(start) // TILE)
    some = (start < stop).int()
    key_tile = torch.arange(len(start), device=start.device) // TILE
    change = torch.zeros(tiles + 1, tiles, dtype=torch.int32, device=start.device)
    change.index_put_((start, key_tile), some, accumulate=True)
    change.index_put_((stop, key_tile), -some, accumulate=True)
    return change.cumsum(0)[:-1]


def _distance(position_ids: torch.Tensor) -> torch.Tensor:
    """(query tiles, key tiles): the least that positions of two tiles can be apart."""
    tiles = torch.split(position_ids, TILE)
    least, most = (torch.stack([reduce(tile) for tile in tiles]) for reduce in (torch.min, torch.max))
    return torch.maximum(least[:, None] - most, least - most[:, None]).clamp(min=0)


def _listed(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a (query tiles, key tiles) mask: how many key tiles each query tile has, and which, those first."""
    order = mask.int().argsort(dim=1, descending=True, stable=True)
    return mask.sum(1, dtype=torch.int32)[None, None], order.int()[None, None]
