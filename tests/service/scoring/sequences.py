"""Token sequences for tests of the queue: few ids and short, so that prefixes and twins are common."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from service.bundle.layout import Family, IntArray, added_tokens, depth_first_order
from service.scoring.prefixes import Sequences

FAMILIES = list(Family)
sequences = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(lambda ids: np.array(ids, dtype=np.int64))
requests = st.lists(sequences, min_size=1, max_size=8)


def distinct(items: Sequence[IntArray], family: Family = Family.CAUSAL) -> dict[bytes, IntArray]:
    """What a request brings to the line."""
    return Sequences.of(items, family).distinct


def forest(items: Sequence[IntArray], family: Family) -> list[tuple[int, int]]:
    """Length and added tokens of each distinct sequence, in depth-first order, as the layout counts them."""
    unique = list({item.tobytes(): item for item in items}.values())
    if family is Family.BIDIRECTIONAL:
        return [(len(item), len(item)) for item in unique]
    order = depth_first_order(unique)
    return [
        (len(unique[place]), added) for place, added in zip(order, added_tokens(unique, order), strict=True) if added
    ]
