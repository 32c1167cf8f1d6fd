"""Who waits for what: requests and the items they share, without threads, clocks or event loop.

An example. A brings 1,000 texts, predicted to take 48 s; then comes B with 8 texts of its own (`added` 0.4 s) and 240
of A's (11.5 s). B is done no sooner than all 248 are, so its `size` is that of 11.9 s: a class below A's. Its items go
into batches before the rest of A's, and the 240 with them, which now count to B's size; should B leave, they go back
to A's. B is `predicted` to take what waits in its class and below, over 3/4 of the engine's time, since A is older and
larger and has the rest: about 16 s. With less time than that B is refused, and its 8 texts cost nobody anything (see
`service.scoring.admission`).
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from service.bundle.layout import Family, IntArray
from service.scoring.cost import CostModel
from service.scoring.prefixes import PrefixIndex

_LEAST_SECONDS = 1e-6


@dataclass(eq=False)
class WaitingItem:
    """One token sequence that somebody waits for, computed once for all of them.

    Attributes:
        waiters: the requests, and whether each of them takes up a place in the queue for this item. Those that were
            there when it was taken into a batch do not any more; those that came later do until it is done.
        seconds: predicted, that it added to what waits; the same for all items that came with it.
        size: of the smallest of the requests that wait for it, with which it goes into a batch; see `Work`.
        sizes: how many requests of each size wait for it, while it waits.
    """

    key: bytes
    sequence: IntArray
    waiters: "dict[Work, bool]" = field(default_factory=dict)
    seconds: float = 0.0
    size: int = 0
    sizes: Counter[int] = field(default_factory=Counter)

    def wanted(self, now: float) -> bool:
        """Whether anybody who waits for it still has time."""
        return any(not work.late(now) for work in self.waiters)


@dataclass(eq=False)
class Work:
    """One admitted request.

    Attributes:
        admitted: monotonic seconds.
        deadline: monotonic seconds after which it waits for nothing any more, None for none.
        items: what it waits for, in depth-first order, those that another request brought included.
        waiting: those of `items` that are in no batch yet.
        size: magnitude, to base 4, of the predicted seconds that it added to what waits, and of its part of those that
            others had added.
        added: those seconds; 0 where all of it waited or ran already.
        predicted: seconds from when it came until it is done, as the cost model has it; 0 where nothing was predicted.
    """

    admitted: float
    deadline: float | None
    items: list[WaitingItem] = field(default_factory=list)
    waiting: dict[WaitingItem, None] = field(default_factory=dict)
    size: int = 0
    added: float = 0.0
    predicted: float = 0.0

    def late(self, now: float) -> bool:
        """Whether its time is up."""
        return self.deadline is not None and self.deadline <= now


class WaitingLine:
    """The items that wait, in the order of their prefixes, and the requests, by age and by size.

    Equal sequences are one item, whichever requests bring them and whether it waits or runs.

    Attributes:
        places: items that requests wait for, each request's own count; this is what admission bounds.
        index: the items that are in no batch yet.
    """

    def __init__(self, family: Family) -> None:
        self.places = 0
        self.index = PrefixIndex(family)
        self._waiting: dict[bytes, WaitingItem] = {}
        self._running: dict[bytes, WaitingItem] = {}
        self._by_age: OrderedDict[Work, None] = OrderedDict()  # leaves quickly from anywhere
        self._by_size: dict[int, OrderedDict[Work, None]] = {}
        self._seconds_of_size: dict[int, float] = {}
        self._items_of_size: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._by_age)

    def __contains__(self, key: bytes) -> bool:
        return key in self._waiting or key in self._running

    def __getitem__(self, key: bytes) -> WaitingItem:
        """The waiting item of a key."""
        return self._waiting[key]

    @property
    def running(self) -> int:
        """Items in batches that are not done."""
        return len(self._running)

    @property
    def oldest(self) -> float | None:
        """When the oldest of the requests with items in no batch yet was admitted."""
        return next(iter(self._by_age)).admitted if self._by_age else None

    def seconds(self, model: CostModel) -> float:
        """Predicted seconds of one batch of all that waits, if padding and memory were no matter; 0 for nothing."""
        return model.seconds(self.index.tokens, self.index.length_tokens) if len(self.index) else 0.0

    def seconds_up_to(self, work: Work) -> float:
        """Predicted seconds of a request, which has just joined, and of what waits and is smaller or of its size."""
        return sum(seconds for size, seconds in self._seconds_of_size.items() if size <= work.size)

    def seconds_after(self, work: Work) -> float:
        """The same of larger requests, which go after it but for the share of the oldest."""
        return sum(seconds for size, seconds in self._seconds_of_size.items() if size > work.size)

    def requests_up_to(self, work: Work) -> int:
        """How many requests wait that are smaller or of its size, itself included."""
        return sum(len(peers) for size, peers in self._by_size.items() if size <= work.size)

    def by_age(self) -> Iterator[Work]:
        """Requests with items in no batch yet, first come first."""
        return iter(self._by_age)

    def by_size(self) -> Iterator[Iterable[Work]]:
        """The same in classes of fourfold size, smallest first; within a class first come first."""
        for size in sorted(self._by_size):
            yield self._by_size[size]

    def join(self, sequences: Mapping[bytes, IntArray], now: float, deadline: float | None, model: CostModel) -> Work:
        """Admit a request.

        Args:
            sequences: its distinct token sequences by key, in depth-first order.
            now: monotonic seconds.
            deadline: monotonic seconds, None for none.
            model: predicts how much work it is.

        Raises:
            ValueError: it has no items; it would never be done.
        """
        if not sequences:
            raise ValueError("a request needs at least one item")
        work = Work(now, deadline)
        before = self.seconds(model)
        fresh = []
        for key, sequence in sequences.items():
            item = self._waiting.get(key) or self._running.get(key)
            if item is None:
                item = self._waiting[key] = WaitingItem(key, sequence)
                self.index.add(key, sequence)
                fresh.append(item)
            item.waiters[work] = True
            work.items.append(item)
            if key in self._waiting:
                work.waiting[item] = None
        self.places += len(sequences)
        if work.waiting:
            # A text that another one begins with makes what waits shorter on average, and no more.
            work.added = max(0.0, self.seconds(model) - before) if fresh else 0.0
            # It is as large as what it waits for, whoever brought that: it is done no sooner. (Fresh items
            # have no seconds yet.)
            own = work.added + sum(item.seconds for item in work.waiting)
            work.size = math.frexp(max(own, _LEAST_SECONDS))[1] // 2
            for item in fresh:
                item.seconds = work.added / len(fresh)
                self._count(item, work.size)
            for item in work.waiting:
                item.sizes[work.size] += 1
                self._resize(item)
            self._by_age[work] = None
            self._by_size.setdefault(work.size, OrderedDict())[work] = None
        return work

    def take(self, keys: Iterable[bytes]) -> list[WaitingItem]:
        """Move waiting items into a batch."""
        items = [self._waiting.pop(key) for key in keys]
        for item in items:
            self._leave(item)
            self._running[item.key] = item
            for work in item.waiters:
                self._settle(work, item)
                item.waiters[work] = False
            self.places -= len(item.waiters)
        return items

    def finish(self, items: Iterable[WaitingItem]) -> None:
        """The items of a batch are done, or it failed. Twice does nothing."""
        for item in items:
            if self._running.get(item.key) is item:
                del self._running[item.key]
                self.places -= sum(item.waiters.values())

    def drop(self, work: Work) -> None:
        """Nobody waits for a request any more; items that only it waited for leave the line. Twice does nothing."""
        for item in work.items:
            if work not in item.waiters:
                continue
            in_queue = item.waiters.pop(work)
            if self._running.get(item.key) is item:
                self.places -= in_queue
            elif self._waiting.get(item.key) is item:
                self.places -= in_queue
                self._settle(work, item)
                if item.waiters:
                    item.sizes[work.size] -= 1
                    self._resize(item)
                else:
                    del self._waiting[item.key]
                    self._leave(item)

    def _leave(self, item: WaitingItem) -> None:
        """An item goes into a batch, or nobody waits for it any more."""
        self.index.remove(item.key)
        self._discount(item)

    def _resize(self, item: WaitingItem) -> None:
        """A request has joined those that wait for an item, or has left them."""
        size = min(size for size, works in item.sizes.items() if works)
        if size != item.size:
            self._discount(item)
            self._count(item, size)

    def _count(self, item: WaitingItem, size: int) -> None:
        item.size = size
        self._seconds_of_size[size] = self._seconds_of_size.get(size, 0.0) + item.seconds
        self._items_of_size[size] += 1

    def _discount(self, item: WaitingItem) -> None:
        self._seconds_of_size[item.size] -= item.seconds
        self._items_of_size[item.size] -= 1
        if not self._items_of_size[item.size]:
            del self._items_of_size[item.size], self._seconds_of_size[item.size]  # and with it what rounding left

    def _settle(self, work: Work, item: WaitingItem) -> None:
        """An item of a request waits no longer; with its last one the request leaves the order."""
        del work.waiting[item]
        if work.waiting:
            return
        del self._by_age[work]
        peers = self._by_size[work.size]
        del peers[work]
        if not peers:
            del self._by_size[work.size]
