"""Which failures are worth another attempt, what limits their number, and how long to wait before each.

A refusal costs the server nothing, so only the call's deadline and the back-off limit its repeats: a worker must
outlive a restart of the server. Where the server may have worked, the process's retry budget limits them too. Where
it worked and failed, they are counted as well.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Protocol

from assay_client.errors import (
    ENGINE_FAILED,
    INCOMPLETE_REPLY,
    NOT_CONNECTED,
    TLS_REFUSED,
    AssayError,
    ConnectionFailedError,
)

BACKOFF_BASE_S = 0.25
BACKOFF_CAP_S = 4.0
"""Short against a restart, after which calls should go on soon; long against the cost of a refusal."""


class Uniform(Protocol):
    """The part of `random.Random` that jitter needs."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number between a and b."""


def is_transient(error: AssayError, *, internal_errors: int) -> bool:
    """Tell whether the same request may succeed later. Scoring has no side effects, so repeating it is safe.

    `internal_errors` counts the replies of status 500 to this request so far, this one included: the first
    may be bad luck, the second is a fault. A score that is not finite stays so and is never asked for again.
    """
    if isinstance(error, ConnectionFailedError):
        return error.code != TLS_REFUSED
    if error.status == 500:
        return error.code in (None, "internal") and internal_errors <= 1
    return error.status in (408, 429, 502, 503, 504)


def is_fault(error: AssayError) -> bool:
    """Tell whether the server did the work and failed at it: after a few of these, another will not help."""
    return error.status == 500 or error.code in (ENGINE_FAILED, INCOMPLETE_REPLY)


def is_free(error: AssayError) -> bool:
    """Tell whether a retry needs no token of the budget.

    That is so if the server said when to come back, and if it did no work: it was not reached, or it (or, with 502,
    a proxy that did not reach it) refused at the door. Hundreds of calls meet such a failure at once in every
    restart, and must not queue for tokens after it. A fault is never free: the work was done, and may be in vain again.
    """
    if is_fault(error):
        return False
    return error.retry_after_s is not None or error.status in (429, 502, 503) or error.code == NOT_CONNECTED


def backoff_s(retry: int, *, retry_after_s: float | None, remaining_s: float, rng: Uniform) -> float:
    """Seconds to wait before the given retry (1, 2, ...): exponential with full jitter.

    The wait is at least `retry_after_s`, with the jitter on top to spread callers that were told the same,
    and ends before the deadline, which is `remaining_s` away: an early attempt is worth more than none.
    """
    least = retry_after_s or 0.0
    # The exponent is bounded because 2.0 ** 1024 overflows.
    jitter = rng.uniform(0.0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(retry - 1, 30)))
    return least + min(jitter, max(0.0, remaining_s - least) / 2)


def parse_retry_after(header: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds from a Retry-After header, given as such or as an HTTP date; None if absent or unreadable."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except (ValueError, OverflowError):
            return None
        # A date with the zone "-0000" is read as naive; HTTP dates are always UTC.
        date = date.replace(tzinfo=UTC) if date.tzinfo is None else date
        seconds = max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    return seconds if isfinite(seconds) and seconds >= 0 else None


class RetryBudget:
    """A token bucket: a retry takes one token, a request brings `per_request`, time brings `per_second`.

    So a process whose every request fails makes the server work about 10 % more than without retries, and a quiet
    one can still retry now and then. Retries that are free (`is_free`) take none. Safe to use from several threads.
    """

    def __init__(
        self,
        *,
        per_request: float = 0.1,
        per_second: float = 1.0,
        capacity: float = 32.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.per_request = per_request
        self.per_second = per_second
        self.capacity = capacity
        self._clock = clock
        self._tokens = capacity
        self._counted_at = clock()
        self._lock = threading.Lock()

    def add_request(self) -> None:
        """Count a request's first attempt."""
        with self._lock:
            self._tokens = min(self.capacity, self._tokens + self.per_request)

    def try_spend(self) -> bool:
        """Take the token of one retry; False if there is none."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self.capacity, self._tokens + (now - self._counted_at) * self.per_second)
            self._counted_at = now
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


_process_budget = RetryBudget()


def process_budget() -> RetryBudget:
    """The budget that all clients of this process share."""
    return _process_budget


def _renew_process_budget() -> None:
    global _process_budget
    _process_budget = RetryBudget()


# A forked child starts afresh: it is another process, and another thread may have held the lock at the fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_process_budget)
