"""A batch while it is filled: what it holds, what it will take, and whether one more item belongs in it."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.bundle.layout import Family, IntArray
from service.scoring.cost import Attention, CostModel
from service.scoring.prefixes import PrefixIndex

FAMILY_STRETCH = 8
"""A batch may take this many times its seconds for the sake of items that are already half computed in it."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Bounds:
    """The most that one batch takes. A batch of one item may exceed any of them.

    Attributes:
        tokens: distinct tokens.
        cells: attention cells, which memory follows (see `Attention`).
        seconds: predicted; `FAMILY_STRETCH` times that for items that share at least half their tokens.
    """

    tokens: int
    cells: int
    seconds: float


class Batch:
    """Items that run together, by their keys.

    An item joins if the bounds allow it and if it costs no more here than in a batch of its own. Prefixes that are
    there already make it cheaper; a length unlike the others' makes it dearer, because every block of a batch has room
    for the keys of the longest item. So the seconds of a batch never exceed those of its items one by one.

    Attributes:
        sequences: of the items, by key, in the order they joined.
        longest: tokens of the longest.
        seconds: predicted.
    """

    def __init__(self, bounds: Bounds, model: CostModel, family: Family, attention: Attention) -> None:
        self.sequences: dict[bytes, IntArray] = {}
        self.longest = 0
        self.seconds = 0.0
        self._bounds = bounds
        self._model = model
        self._family = family
        self._index = PrefixIndex(family)
        self._attention = attention

    def __len__(self) -> int:
        return len(self.sequences)

    def __contains__(self, key: bytes) -> bool:
        return key in self.sequences

    @property
    def tokens(self) -> int:
        """Distinct tokens."""
        return self._index.tokens

    @property
    def cells(self) -> int:
        """Attention cells, padding included."""
        return self._attention.cells(self.tokens, self.longest)

    def alone(self, length: int) -> float:
        """Predicted seconds of a batch of one item."""
        return self._model.seconds(length, self._attention.cells(length, length))

    def add(self, key: bytes, sequence: IntArray) -> bool:
        """Take an item that is not in the batch, if it belongs in it; the first always does."""
        length = len(sequence)
        place = self._index.look(key, sequence)
        longest = max(self.longest, length)
        tokens = self.tokens + place.tokens
        cells = self._attention.cells(tokens, longest)
        seconds = self._model.seconds(tokens, cells)
        if self.sequences:
            bounds = self._bounds
            stretch = FAMILY_STRETCH if 2 * place.tokens <= length else 1
            fits = tokens <= bounds.tokens and cells <= bounds.cells and seconds <= bounds.seconds * stretch
            if not fits or seconds - self.seconds > self.alone(length) * (1 + _ROUNDING) + _ROUNDING * seconds:
                return False
        self._index.add(key, sequence, place)
        self.sequences[key] = sequence
        self.longest, self.seconds = longest, seconds
        return True

    def part(self, keys: Iterable[bytes]) -> "Batch":
        """Some of its items; for what is to be run again in less company."""
        part = Batch(self._bounds, self._model, self._family, self._attention)
        for key in keys:
            part._take(key, self.sequences[key])
        return part

    def _take(self, key: bytes, sequence: IntArray) -> None:
        """Take an item whatever it costs."""
        self._index.add(key, sequence)
        self.sequences[key] = sequence
        self.longest = max(self.longest, len(sequence))
        self.seconds = self._model.seconds(self.tokens, self.cells)
