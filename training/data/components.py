"""Connected components: which items are linked, directly or not, by the keys they share."""

from collections.abc import Collection, Hashable, Sequence

import numpy as np
from scipy.sparse import coo_array  # type: ignore[import-untyped, unused-ignore]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped, unused-ignore]


def components(keys: Sequence[Collection[Hashable]]) -> list[int]:
    """The component number of each item; two items are linked if they share a key. O(items + keys).

    `keys` holds the keys of each item; an item without keys is alone.
    """
    if not keys:
        return []
    nodes: dict[Hashable, int] = {}
    items: list[int] = []
    shared: list[int] = []
    for item, own in enumerate(keys):
        for key in own:
            items.append(item)
            shared.append(len(keys) + nodes.setdefault(key, len(nodes)))
    size = len(keys) + len(nodes)
    graph = coo_array((np.ones(len(items), dtype=np.int8), (items, shared)), shape=(size, size))
    labels = connected_components(graph, directed=False)[1]
    return [int(label) for label in labels[: len(keys)]]
