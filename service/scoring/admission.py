"""Who may join the line: requests whole or not at all, by items before they are tokenized and by tokens after."""

import math
import sys
from dataclasses import dataclass

from service.scoring.errors import NeverFitsError, QueueFullError
from service.scoring.pace import Pace
from service.scoring.picking import AGE_SHARE
from service.scoring.waiting import WaitingLine, Work

_LEAST_RETRY, _MOST_RETRY = 0.1, 60.0
_ROOM = 1.25
"""How much longer than predicted a request may take and still be in time: predictions are no promises."""
_LEAST_LEARNT = 0.5
"""From predictions of less than half a second nothing is learnt: other things than the line decide there."""
_LEARNT_IN, _MOST_STRETCH = 5.0, 10.0
"""Seconds of lessons in which two thirds of what they say is learnt, and the most that is."""
_FORGOTTEN_IN = 60.0
"""Seconds without a lesson in which two thirds of what was learnt go (of its logarithm): it may hold no more, and whom
it refuses can teach nothing."""
_MOST_WEIGHT, _MOST_LEARNT = 0.5, 3.0
"""Of one lesson, however long ago the one before it was, and how often what was known it can say at most. A process
that was stopped for a minute makes every request late; they tell so at one moment, and the next ones are not."""


@dataclass(frozen=True)
class Limits:
    """What may wait and what may run at once."""

    queue_items: int
    queue_tokens: int
    batch_tokens: int
    batch_cells: int = sys.maxsize
    """Attention cells, see `service.scoring.cost.Attention`."""
    batch_seconds: float = 0.25
    """Predicted seconds of one batch."""


class Reservation:
    """Places in the queue, held for a request until it joins the line or is given up."""

    def __init__(self, admission: "Admission", items: int) -> None:
        self._admission = admission
        self._items = items
        admission.reserved += items

    def release(self) -> None:
        """Give the places back; a second time does nothing."""
        self._admission.reserved -= self._items
        self._items = 0


class Admission:
    """Guards a line.

    Args:
        limits: of the queue.
        line: what waits.
        pace: predicts how long that takes.
        deterministic: whether each request has batches of its own.

    Attributes:
        reserved: items of requests that are being tokenized.
    """

    def __init__(self, limits: Limits, line: WaitingLine, pace: Pace, deterministic: bool = False) -> None:
        self.limits = limits
        self.reserved = 0
        self._line = line
        self._pace = pace
        self._deterministic = deterministic
        # By `Work.size`: the seconds that requests take over those that were predicted, and when that was learnt last.
        self._stretch: dict[int, tuple[float, float]] = {}

    @property
    def items(self) -> int:
        """Items that wait, those of requests that are being tokenized included."""
        return self._line.places + self.reserved

    @property
    def saturation(self) -> float:
        """How full the queue is, by items or tokens, whichever is fuller."""
        return max(self.items / self.limits.queue_items, self._line.index.tokens / self.limits.queue_tokens)

    def reserve(self, items: int) -> Reservation:
        """Admission by items, before any work is done for the request.

        Raises:
            NeverFitsError: more items than the queue holds when empty.
            QueueFullError: no room now for all of them.
        """
        limit = self.limits.queue_items
        if items > limit:
            raise NeverFitsError(f"{items} items, and the whole queue holds {limit}; send them in several requests")
        if self.items + items > limit:
            raise QueueFullError(
                f"{self.items} items are waiting, {items} more do not fit the limit of {limit}",
                self.retry_after(), "queue_full",
            )  # fmt: skip
        return Reservation(self, items)

    def check_tokens(self, tokens: int, fresh: int) -> None:
        """Admission by tokens.

        Args:
            tokens: of the whole request, shared prefixes counted once.
            fresh: of those of its items that are neither waiting nor running already; what they share with other
                requests counts again here, until they wait.

        Raises:
            NeverFitsError, QueueFullError: as above.
        """
        limit, waiting = self.limits.queue_tokens, self._line.index.tokens
        if tokens > limit:
            raise NeverFitsError(f"{tokens} tokens, and the whole queue holds {limit}; send them in several requests")
        if waiting + fresh > limit:
            raise QueueFullError(
                f"{waiting} tokens are waiting, {fresh} more do not fit the limit of {limit}",
                self.retry_after(), "token_budget",
            )  # fmt: skip

    def check_time(self, work: Work, running_seconds: float, now: float) -> None:
        """Admission by time: a request that would be late when its turn is over must not cost those that are not.

        Without this, a server that gets more than it can do computes what nobody waits for any more: under a steady
        overload each request reaches the engine just before its deadline, and misses it.

        Args:
            work: has just joined the line.
            running_seconds: predicted, of the batches that it comes after.
            now: monotonic seconds.

        Raises:
            QueueFullError: it cannot be done in time, by the cost model and with some room. Never where nothing waits
                that goes before it, nor before the model was measured.
        """
        if not self._pace.measured or not work.added:  # what adds no work costs nobody anything
            return
        all_seconds = self._line.seconds_up_to(work)
        # Smaller ones and equals go first; larger ones that are older have a share.
        share = 1 - AGE_SHARE if self._line.seconds_after(work) > 0 else 1.0
        if self._deterministic:
            batches: float = self._line.requests_up_to(work)
        else:
            batches = 1 + all_seconds // self.limits.batch_seconds
        work.predicted = running_seconds + all_seconds / share + batches * self._pace.model.fixed
        if all_seconds <= work.added * (1 + 1e-9):  # nothing goes before it: there is nothing to spare
            return
        stretch = self._stretch_now(work.size, now)
        needed = _ROOM * stretch * work.predicted
        if work.deadline is not None and now + needed > work.deadline:
            own = _ROOM * stretch * work.added / share
            raise QueueFullError(
                f"what waits takes about {needed - own:.1f} s and then this request {own:.1f} s, and it has "
                f"{max(0.0, work.deadline - now):.1f} s",
                min(_MOST_RETRY, max(_LEAST_RETRY, now + needed - work.deadline)), "queue_time",
            )  # fmt: skip

    def learn(self, work: Work, seconds: float, done: bool) -> None:
        """A request took so long, or was given up after so long because its time was up.

        The engine has no batch between two batches, and shares its processors with what arrives: a line moves more
        slowly than the sum of its batches, and for large requests the more so as smaller ones go before them.
        """
        if work.predicted < _LEAST_LEARNT:
            return
        now, ratio = work.admitted + seconds, seconds / work.predicted
        stretch = self._stretch_now(work.size, now)
        if done or ratio > stretch:
            # A moving mean of logarithms over time, not over lessons: many of one moment say what one does.
            _, learnt = self._stretch.get(work.size, (1.0, -math.inf))
            weight = min(_MOST_WEIGHT, 1 - math.exp(min(0.0, learnt - now) / _LEARNT_IN))
            new = stretch ** (1 - weight) * min(ratio, _MOST_LEARNT * stretch) ** weight
            self._stretch[work.size] = min(_MOST_STRETCH, max(1.0, new)), max(now, learnt)

    def _stretch_now(self, size: int, now: float) -> float:
        stretch, learnt = self._stretch.get(size, (1.0, now))
        return float(stretch ** _kept(learnt, now))

    def retry_after(self) -> float:
        """Seconds until what waits now should be done, as the cost model predicts them; a second if it cannot yet."""
        if not self._pace.measured:
            return 1.0
        model, items = self._pace.model, len(self._line.index)
        seconds = self._line.seconds(model)
        further = min(seconds // self.limits.batch_seconds, max(0, items - 1))  # batches after the first
        seconds += model.fixed * further
        return min(_MOST_RETRY, max(_LEAST_RETRY, seconds))


def _kept(learnt: float, now: float) -> float:
    """Part that is left of what was learnt then."""
    return math.exp(min(0.0, learnt - now) / _FORGOTTEN_IN)
