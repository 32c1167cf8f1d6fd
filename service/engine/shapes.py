"""Batches in few shapes, for runtimes that prepare their kernels for every shape they meet: no two batches are alike.

Sizes are rounded up to the next of a grid, so that kernels are found again. What is added belongs to no sequence, is
seen by no token and is read by nobody. What it costs and gains, `benchmarks/serving/shapes.py` measures.
"""

from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.bundle.layout import BlockGroup, Layout

_STEPS: Final = 8
"""Sizes of the grid from one power of two to the next, beginning with 16; all below are on it."""
_LARGEST_STEP: Final = 32
"""In tokens, queries or keys: what is added to a large batch must not cost more than a new shape."""
_BLOCKS: Final = 2
"""The largest step in blocks, of which each is a hundred queries."""


def rounded(size: int, largest_step: int = _LARGEST_STEP) -> int:
    """The next size on the grid: at most an eighth more, and less than a step."""
    if size <= 2 * _STEPS:
        return size
    step = min(largest_step, (1 << ((size - 1).bit_length() - 1)) // _STEPS)
    return -(-size // step) * step


def in_few_shapes(layout: Layout) -> Layout:
    """The same scores from arrays whose sizes are on the grid; but N, which costs next to nothing, stays as it is."""
    size = len(layout.input_ids)
    more = rounded(size) - size
    if not more and all(_sizes(group) == _rounded_sizes(group) for group in layout.groups):
        return layout
    groups = tuple(map(_rounded_group, layout.groups))
    rows = _moved(layout, groups)
    # A filler is the first token once more, all the way, so that it is finite where that is.
    return replace(
        layout,
        input_ids=np.pad(layout.input_ids, (0, more), constant_values=layout.input_ids[0]),
        position_ids=np.pad(layout.position_ids, (0, more), constant_values=layout.position_ids[0]),
        seen_from=np.pad(layout.seen_from, (0, more)),
        seen_to=np.pad(layout.seen_to, (0, more)),
        unblock_index=np.pad(rows, (0, more), constant_values=rows[0]),
        groups=groups,
        filler=layout.filler + more,
    )


def _sizes(group: BlockGroup) -> tuple[int, int, int]:
    """Blocks, queries and keys."""
    return (*group.query_index.shape, group.key_index.shape[1])


def _rounded_sizes(group: BlockGroup) -> tuple[int, int, int]:
    blocks, queries, keys = _sizes(group)
    return rounded(blocks, _BLOCKS), rounded(queries), rounded(keys)


def _rounded_group(group: BlockGroup) -> BlockGroup:
    more_blocks, more_queries, more_keys = (
        new - old for new, old in zip(_rounded_sizes(group), _sizes(group), strict=True)
    )
    width = ((0, more_blocks), (0, more_keys))
    key_valid = np.pad(group.key_valid, width)
    key_valid[len(group.key_valid) :, 0] = True  # a softmax over nothing is NaN
    return BlockGroup(
        query_index=np.pad(group.query_index, ((0, more_blocks), (0, more_queries))),
        key_index=np.pad(group.key_index, width),
        key_valid=key_valid,
    )


def _moved(layout: Layout, groups: tuple[BlockGroup, ...]) -> npt.NDArray[Any]:
    """Rows of the flat tokens in the results of `groups`, which hold the blocks of the layout and more."""
    rows = layout.unblock_index.copy()
    before = after = 0
    for old, new in zip(layout.groups, groups, strict=True):
        of_group = (layout.unblock_index >= before) & (layout.unblock_index < before + old.query_index.size)
        block, place = np.divmod(layout.unblock_index[of_group] - before, old.query_index.shape[1])
        rows[of_group] = after + block * new.query_index.shape[1] + place
        before += old.query_index.size
        after += new.query_index.size
    return rows
