"""The most that a number was within the last minute, for whoever looks only now and then.

A burst that lasts seconds comes and goes between two scrapes of a gauge. Pure: the clock is given.
"""

import math
from collections import deque
from collections.abc import Callable


class Peak:
    """A maximum over a sliding window.

    Args:
        clock: monotonic seconds.
        window_s: how long a value is remembered; longer than from one scrape to the next.
    """

    def __init__(self, clock: Callable[[], float], window_s: float = 60.0) -> None:
        self._clock = clock
        self._window_s = window_s
        self._slot_s = window_s / 60  # values of one slot are one: what is remembered is bounded
        self._seen: deque[tuple[int, float]] = deque()  # falling values; of each, the last slot in which it was seen

    def see(self, value: float) -> None:
        """The number is this now."""
        self._forget()
        slot = math.floor(self._clock() / self._slot_s)
        while self._seen and self._seen[-1][1] <= value:
            self._seen.pop()
        if not self._seen or self._seen[-1][0] != slot:
            self._seen.append((slot, value))

    def most(self) -> float:
        """The largest that was seen within the window; 0 where none was."""
        self._forget()
        return self._seen[0][1] if self._seen else 0.0

    def _forget(self) -> None:
        oldest = (self._clock() - self._window_s) / self._slot_s
        while self._seen and self._seen[0][0] + 1 < oldest:
            self._seen.popleft()
