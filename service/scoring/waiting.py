"""The waiting line, without threads, clocks or event loop: requests in, batches of items out."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from service.bundle.layout import IntArray


@dataclass(eq=False)
class Work:
    """One admitted request.

    Attributes:
        sequences: its token sequences, each (L,) int64.
        order: the places of `sequences` in depth-first order, which is the order they are taken in.
        added: tokens that each item of `order` adds to those before it.
        admitted: monotonic seconds.
        deadline: monotonic seconds, None for none.
        taken: how many items of `order` are in batches already.
    """

    sequences: list[IntArray]
    order: list[int]
    added: list[int]
    admitted: float
    deadline: float | None = None
    taken: int = field(default=0, init=False)


@dataclass(frozen=True)
class BatchItem:
    """One item of a batch: which sequence of which request."""

    work: Work
    place: int


@dataclass
class _Room:
    """What a batch may still take: tokens, and attention cells (query slots of its blocks times its longest item).

    Attention is padded: every block has room for `block_queries` queries and for the keys of the longest item, so
    that one long item makes a thousand short ones expensive although their tokens are few.
    """

    tokens: int
    cells: int
    block_queries: int
    slots: int = 0
    longest: int = 0

    def take(self, added: int, length: int, first: bool) -> bool:
        """Take an item of `length` tokens, `added` of them new, if it fits or is the first of the batch."""
        slots = self.slots + -(-added // self.block_queries) * self.block_queries
        longest = max(self.longest, length)
        if not first and (added > self.tokens or slots * longest > self.cells):
            return False
        self.tokens -= added
        self.slots, self.longest = slots, longest
        return True


class WaitingLine:
    """First come, first served, in batches bounded by tokens and by attention cells.

    Args:
        max_batch_tokens: the most tokens of a batch. An item longer than this goes alone.
        max_batch_cells: the most attention cells of a batch, see `_Room`.
        block_queries: Q of the layout.
    """

    def __init__(self, max_batch_tokens: int, max_batch_cells: int = sys.maxsize, block_queries: int = 1) -> None:
        self.max_batch_tokens = max_batch_tokens
        self.max_batch_cells = max_batch_cells
        self.block_queries = block_queries
        self.items = 0
        self.tokens = 0
        self._line: OrderedDict[Work, None] = OrderedDict()  # leaves quickly from anywhere

    def __len__(self) -> int:
        return len(self._line)

    @property
    def oldest(self) -> float | None:
        """When the first request in line was admitted."""
        return next(iter(self._line)).admitted if self._line else None

    def join(self, work: Work) -> None:
        """Put a request at the end of the line.

        Raises:
            ValueError: it has no items; it would never leave the line.
        """
        if not work.order:
            raise ValueError("a request needs at least one item")
        self._line[work] = None
        self.items += len(work.order)
        self.tokens += sum(work.added)

    def take_batch(self, now: float, on_expired: Callable[[Work], None]) -> list[BatchItem]:
        """Items of the next batch, leaving out requests whose time is up.

        Tokens are counted with the sharing inside each request; sharing between requests only makes the batch
        smaller than its bound.

        Args:
            now: monotonic seconds.
            on_expired: called for each request dropped because its deadline has passed.
        """
        batch: list[BatchItem] = []
        room = _Room(self.max_batch_tokens, self.max_batch_cells, self.block_queries)
        while self._line:
            work = next(iter(self._line))
            if work.deadline is not None and work.deadline <= now:
                self.drop(work)
                on_expired(work)
                continue
            start = work.taken
            stop = start
            for added, length in _costs(work, start):
                if not room.take(added, length, first=not batch and stop == start):
                    break
                stop += 1
            if stop == start:
                break
            batch.extend(BatchItem(work, place) for place in work.order[start:stop])
            self._take(work, stop)
            if stop < len(work.order):
                break
            del self._line[work]
        return batch

    def drop(self, work: Work) -> None:
        """Take a request that nobody waits for any more out of the line; nothing if it is not in it."""
        if work in self._line:
            self._take(work, len(work.order))
            del self._line[work]

    def _take(self, work: Work, stop: int) -> None:
        """Take the items of a request up to `stop` out of the counts."""
        self.items -= stop - work.taken
        self.tokens -= sum(work.added[work.taken : stop])
        work.taken = stop


def _costs(work: Work, start: int) -> Iterator[tuple[int, int]]:
    """Added tokens and length of each item from `start` on; the first has nothing in the batch to share with."""
    for place in range(start, len(work.order)):
        length = len(work.sequences[work.order[place]])
        yield length if place == start else work.added[place], length
