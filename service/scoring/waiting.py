"""The waiting line, without threads, clocks or event loop: requests in, batches of items out."""

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


class WaitingLine:
    """First come, first served, in batches bounded by tokens.

    Args:
        max_batch_tokens: the most tokens of a batch. An item longer than this goes alone.
    """

    def __init__(self, max_batch_tokens: int) -> None:
        self.max_batch_tokens = max_batch_tokens
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
        room = self.max_batch_tokens
        while self._line:
            work = next(iter(self._line))
            if work.deadline is not None and work.deadline <= now:
                self.drop(work)
                on_expired(work)
                continue
            start = work.taken
            stop = start
            for tokens in _costs(work, start):
                if tokens > room and (batch or stop > start):
                    break
                room -= tokens
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


def _costs(work: Work, start: int) -> Iterator[int]:
    """Tokens of each item from `start` on, when the first of them opens a new batch and has nothing to share with."""
    for place in range(start, len(work.order)):
        yield len(work.sequences[work.order[place]]) if place == start else work.added[place]
