"""Which of the waiting items go into the next batch: the smallest requests first, with a share for the oldest."""

from collections.abc import Iterable, Iterator
from itertools import islice

from service.bundle.layout import Family
from service.scoring.batch import Batch, Bounds
from service.scoring.cost import Attention, CostModel
from service.scoring.waiting import WaitingItem, WaitingLine, Work

AGE_SHARE = 0.25
"""Part of the engine's time that goes to the oldest requests while smaller ones keep coming."""

_WINDOW = 512
"""Items of one size class that are sorted by length before they are tried."""
_PATIENCE = 32
"""Items that are refused one after the other before a batch counts as full."""


class Picker:
    """Picks batches. Deterministic, and never waits: while anything waits that is not late, a batch is not empty.

    Most batches go *by size*: items of the smallest requests, in classes of fourfold work, with the others that share
    at least half of themselves with one that was picked; within a class those of similar length first.

    `AGE_SHARE` of all seconds picked while anything waited is owed to the oldest requests. Once about a batch is owed,
    the next one begins *by age*: items of the oldest requests, strictly in order, until all is paid or one does not
    belong in the batch; what is left of it goes by size, unless still more than a batch is owed.

    The bound. Let W be the predicted seconds, item by item, of all that is waiting when a request is admitted, the
    request included. Its last item is picked at the latest when the batches picked since add up to

        W / AGE_SHARE + 2 * b

    predicted seconds, b being `FAMILY_STRETCH` times the bound of a batch in seconds, or one item if that takes
    longer. For what goes by age goes to no younger request before this one is done, an item in company costs no more
    than alone, and a batch adds at most AGE_SHARE * b to a debt that was below AGE_SHARE * b.

    Args:
        line: what waits.
        bounds: of a batch.
        family: of the model.
        attention: of the layout.
    """

    def __init__(self, line: WaitingLine, bounds: Bounds, family: Family, attention: Attention) -> None:
        self.bounds = bounds
        self._line = line
        self._family = family
        self._attention = attention
        self._owed = 0.0  # seconds, to the oldest
        self._patience = (1 - AGE_SHARE) * bounds.seconds  # what one batch by age pays; below AGE_SHARE * b

    def pick(self, now: float, model: CostModel) -> tuple[Batch, list[Work]]:
        """The next batch, empty if nothing waits that is not late; and requests that were met and are late.

        Nothing has left the line yet. An item is passed over when all who wait for it are late.

        Args:
            now: monotonic seconds.
            model: predicts the seconds of batches.
        """
        batch = Batch(self.bounds, model, self._family, self._attention)
        late: dict[Work, None] = {}
        if self._owed > self._patience:
            self._pick_by_age(batch, now, late)
        by_age = batch.seconds
        if self._owed <= self._patience:
            self._pick_by_size(batch, now, late)
            self._owed += AGE_SHARE * (batch.seconds - by_age)
        if len(batch) == len(self._line.index):
            self._owed = 0.0  # nobody was made to wait
        return batch, list(late)

    def _pick_by_age(self, batch: Batch, now: float, late: dict[Work, None]) -> None:
        for item in _items(self._line.by_age(), now, late):
            if self._owed <= 0:
                break
            before = batch.seconds
            if item.key not in batch:
                if not batch.add(item.key, item.sequence):
                    return
                self._owed -= (1 - AGE_SHARE) * (batch.seconds - before)
        self._owed = max(0.0, self._owed)

    def _pick_by_size(self, batch: Batch, now: float, late: dict[Work, None]) -> None:
        filling = _Filling(batch, self._line, now)
        if all(filling.with_siblings(key) for key in list(batch.sequences)):
            for works in self._line.by_size():
                candidates = _items(works, now, late)
                while window := list(islice(candidates, _WINDOW)):
                    anchor = batch.longest or len(window[0].sequence)
                    window.sort(key=lambda item, anchor=anchor: abs(len(item.sequence) - anchor))  # type: ignore[misc]
                    for item in window:
                        if not filling.offer(item) or not filling.with_siblings(item.key):
                            return


class _Filling:
    """Offers items to a batch until too many in a row are refused."""

    def __init__(self, batch: Batch, line: WaitingLine, now: float) -> None:
        self._batch = batch
        self._line = line
        self._now = now
        self._refused = 0
        self._families_seen: set[bytes] = set()

    def offer(self, item: WaitingItem) -> bool:
        """Offer one item; false once the batch counts as full."""
        if item.key not in self._batch:
            self._refused = 0 if self._batch.add(item.key, item.sequence) else self._refused + 1
        return self._refused < _PATIENCE

    def with_siblings(self, key: bytes) -> bool:
        """Offer what shares most of itself with an item of the batch; false as above."""
        if key not in self._batch or key in self._families_seen:
            return True
        for sibling in self._line.index.siblings(key):
            self._families_seen.add(sibling)
            item = self._line[sibling]
            if item.wanted(self._now) and not self.offer(item):
                return False
        return True


def in_time(works: Iterable[Work], now: float, late: dict[Work, None]) -> Iterator[Work]:
    """The requests that still have time, in their order; those that are late are set aside."""
    for work in works:
        if work.late(now):
            late[work] = None
        else:
            yield work


def _items(works: Iterable[Work], now: float, late: dict[Work, None]) -> Iterator[WaitingItem]:
    """What waits of the requests that still have time, in their order."""
    for work in in_time(works, now, late):
        yield from work.waiting
