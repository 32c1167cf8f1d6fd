"""Scores of items that were seen before, the most recently used ones."""

import math
from collections import OrderedDict


class ScoreCache:
    """A bounded number of raw scores, by model digest and token ids. What is no number is never kept.

    A score depends on its tokens alone up to rounding, so a score from here is one that the model really gave.

    Args:
        items: the most scores; each holds its token ids too, 4 bytes a token.
        digest: of the model.
    """

    def __init__(self, items: int, digest: str) -> None:
        self._items = items
        self._digest = digest
        self._scores: OrderedDict[tuple[str, bytes], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, key: bytes) -> float | None:
        """The score of an item by its token key, None if it is not kept; it is the most recently used now."""
        full = (self._digest, key)
        if full not in self._scores:
            return None
        self._scores.move_to_end(full)
        return self._scores[full]

    def put(self, key: bytes, score: float) -> None:
        """Keep a score, in place of the least recently used one if there is no room."""
        if self._items < 1 or not math.isfinite(score):
            return
        self._scores[self._digest, key] = score
        self._scores.move_to_end((self._digest, key))
        if len(self._scores) > self._items:
            self._scores.popitem(last=False)
