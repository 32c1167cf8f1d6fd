"""Scores of items that were seen before, the most recently used ones."""

import math
from collections import OrderedDict

HeadScores = tuple[float, ...]
"""Raw scores of one item by all heads of the model, the reward first."""


class ScoreCache:
    """The raw scores of a bounded number of items, by model digest and token ids. What is not finite is never kept.

    A score depends on its tokens alone up to rounding, so a score from here is one that the model really gave.

    Args:
        items: the most items; each holds its token ids too, 4 bytes a token.
        digest: of the model.
    """

    def __init__(self, items: int, digest: str) -> None:
        self._items = items
        self._digest = digest
        self._scores: OrderedDict[tuple[str, bytes], HeadScores] = OrderedDict()

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, key: bytes) -> HeadScores | None:
        """The scores of an item by its token key, None if they are not kept; it is the most recently used now."""
        full = (self._digest, key)
        if full not in self._scores:
            return None
        self._scores.move_to_end(full)
        return self._scores[full]

    def put(self, key: bytes, scores: HeadScores) -> None:
        """Keep the scores of an item, in place of the least recently used one if there is no room."""
        if self._items < 1 or not all(map(math.isfinite, scores)):
            return
        self._scores[self._digest, key] = scores
        self._scores.move_to_end((self._digest, key))
        if len(self._scores) > self._items:
            self._scores.popitem(last=False)
