"""Random batches of token sequences, and what a layout says of them, found the way the graph finds it."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from service.bundle.layout import BlockGroup, Family, IntArray, Layout, plan_layout

Ids = tuple[int, ...]

# Few ids and short sequences: prefixes, branches at every depth and duplicates are then the rule.
_BUSHY = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), min_size=1, max_size=8)
# Ids as large as a vocabulary may get, whose bytes do not sort like small ones.
_WIDE = st.lists(
    st.lists(st.sampled_from([0, 1, 255, 256, 65_535, 65_536, 2**31, 2**32 - 1]), min_size=1, max_size=5).map(tuple),
    min_size=1,
    max_size=6,
)


@st.composite
def _deep(draw: st.DrawFn) -> list[Ids]:
    """Sequences that each extend another: a tree as deep as it has nodes."""
    sequences: list[Ids] = [draw(st.tuples(st.integers(0, 2)))]
    for _ in range(draw(st.integers(1, 9))):
        stem = draw(st.sampled_from(sequences))
        more = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
        sequences.append((*stem[: draw(st.integers(1, len(stem)))], *more))
    return draw(st.permutations(sequences))


BATCHES = st.one_of(_BUSHY, _WIDE, _deep())
QUERIES = st.integers(1, 6)
FAMILIES = st.sampled_from(Family)


def arrays(sequences: Sequence[Ids]) -> list[IntArray]:
    return [np.array(sequence, dtype=np.int64) for sequence in sequences]


def plan(
    sequences: Sequence[Ids], family: Family = Family.CAUSAL, queries: int = 3, share_prefixes: bool = True
) -> Layout:
    return plan_layout(arrays(sequences), family, block_queries=queries, share_prefixes=share_prefixes)


def block_of(layout: Layout, token: int) -> tuple[BlockGroup, int, int]:
    """The group, block and place in it where a flat token is a query."""
    row = int(layout.unblock_index[token])
    for group in layout.groups:
        if row < group.query_index.size:
            return group, *divmod(row, group.query_index.shape[1])
        row -= group.query_index.size
    raise AssertionError(f"token {token} is in no block")


def seen_by(layout: Layout, token: int) -> list[int]:
    """Flat tokens that a flat token attends to, by position: as the graph finds them, through its block."""
    group, block, _ = block_of(layout, token)
    keys: list[int] = group.key_index[block][group.key_valid[block]].tolist()
    seen = [key for key in keys if layout.seen_from[key] <= token < layout.seen_to[key]]
    return sorted(seen, key=layout.position_ids.__getitem__)


def spelled(layout: Layout, tokens: Sequence[int]) -> Ids:
    return tuple(layout.input_ids[list(tokens)].tolist())


def prefixes(sequence: Ids) -> list[Ids]:
    return [sequence[:length] for length in range(1, len(sequence) + 1)]
