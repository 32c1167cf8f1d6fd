"""A call's deadline and identity, and sending one request of it until it succeeds or must not be repeated."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from assay_client.connection import Connection
from assay_client.errors import (
    SILENT,
    TLS_REFUSED,
    AssayError,
    DeadlineExceededError,
    ModelMismatchError,
    OverloadedError,
    UnavailableError,
)
from assay_client.retry import backoff_s, is_fault, is_free, is_transient, process_budget

ASKED_IN_A_ROW = 4
"""Servers that a request is sent to before it waits: where all are full, each refusal may cost the tokenizing of its
texts."""
SHORTEST_ATTEMPT_S = 0.05
"""With less time than this left, another attempt would only load the server."""

PROBE_TIMEOUT_S = 5.0
PROBE_PAUSE_S = 2.0

# Not the module's own generator: a trainer seeds it alike in all workers, and then they would retry in step.
_jitter = random.SystemRandom()
_log = logging.getLogger("assay_client")


def _now() -> float:
    # The loop's clock, as `asyncio.timeout` uses: one deadline must not have two clocks.
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class Call:
    """What all parts and attempts of one public call share. Times in seconds."""

    timeout_s: float
    digest: str | None
    request_id: str = field(default_factory=lambda: uuid4().hex)
    started: float = field(default_factory=_now)
    attempts: int = 0
    last_failure: AssayError | None = None

    def elapsed_s(self) -> float:
        """Time since the call began."""
        return _now() - self.started

    def remaining_s(self) -> float:
        """Time until the deadline; negative after it."""
        return self.timeout_s - self.elapsed_s()

    def complete(self, error: AssayError) -> None:
        """Add to an error what only the call knows."""
        error.request_id = error.request_id or self.request_id
        error.attempts = error.attempts or self.attempts
        error.elapsed_s = error.elapsed_s or self.elapsed_s()

    def deadline_error(self) -> DeadlineExceededError:
        """Return the error of a passed deadline, caused by what was being retried."""
        message = f"the deadline of {self.timeout_s:g} s passed"
        if self.last_failure is not None:
            message += f"; last failure: {self.last_failure.message}"
        error = DeadlineExceededError(message)
        error.__cause__ = self.last_failure
        self.complete(error)
        return error

    def check_digest(self, digest: str) -> None:
        """Require the pinned digest, or else the digest of this call's first reply, from every reply."""
        if self.digest is None:
            self.digest = digest
        elif digest != self.digest:
            raise ModelMismatchError(f"a reply is of model {digest}, expected {self.digest}")


async def send(
    connection: Connection,
    call: Call,
    method: str,
    path: str,
    *,
    request_id: str,
    retries: int,
    body: Callable[[int], bytes] | None = None,
) -> bytes:
    """Send a request, again while its failure is transient, and return the reply's body.

    `body` makes the JSON from the milliseconds that remain. The caller enforces the deadline; this function
    gives up before it where waiting is of no use: after `retries` faults of the server, after a second internal
    error, and with `retries` 0 after any failure.
    """
    budget = process_budget()
    budget.add_request()
    attempt, internal_errors, faults, refusals, rows = 0, 0, 0, 0, 0
    while True:
        attempt += 1
        call.attempts = max(call.attempts, attempt)
        try:
            async with connection.slots:
                content = None if body is None else body(max(1, int(call.remaining_s() * 1000)))
                return await connection.exchange(
                    method, path, content, request_id, attempt, expires=call.started + call.timeout_s
                )
        except AssayError as error:
            failure = error
        failure.request_id = failure.request_id or request_id
        failure.attempts, failure.elapsed_s = attempt, call.elapsed_s()
        internal_errors += failure.status == 500
        faults += is_fault(failure)
        if retries == 0 or faults > retries or not _may_pass(failure, connection, internal_errors):
            raise failure
        call.last_failure = failure
        retry_after = failure.retry_after_s
        refusals = 0 if retry_after is None else refusals + 1
        if retry_after is not None and (others := connection.another_can_be_asked_in()) is not None:
            # What one server asked for does not bind the others. Where several in a row had no room, the request waits
            # a second, the next time two, and so on: there may be others, or more at any time.
            if refusals < min(connection.servers, ASKED_IN_A_ROW):
                retry_after = min(retry_after, others)
            else:
                refusals, rows = 0, rows + 1
                retry_after = min(retry_after, max(others, float(rows)))
        remaining = call.remaining_s()
        if retry_after is not None and retry_after > remaining:
            raise _too_long_a_wait(failure, retry_after, remaining) from failure
        if remaining < SHORTEST_ATTEMPT_S:
            raise call.deadline_error()
        delay = backoff_s(attempt, retry_after_s=retry_after, remaining_s=remaining, rng=_jitter)
        _log.warning("attempt %d of %s failed, next in %.2f s: %s", attempt, path, delay, failure)
        await asyncio.sleep(delay)
        # Without a token the retry waits, up to the deadline, for the process to earn one.
        while not (is_free(failure) or _left_behind(failure, connection) or budget.try_spend()):
            await asyncio.sleep(_jitter.uniform(0.5, 1.5) / budget.per_second)


async def poll_ready(connection: Connection, call: Call) -> None:
    """Ask `/ready` until it answers 200. The caller enforces the deadline.

    Raises the error of a refusal that waiting cannot cure, such as 404.
    """
    while True:
        call.attempts += 1
        try:
            expires = _now() + PROBE_TIMEOUT_S
            async with asyncio.timeout_at(expires):
                await connection.exchange("GET", "/ready", None, call.request_id, call.attempts, expires=expires)
            return
        except AssayError as error:
            if not _may_pass(error, connection, internal_errors=1):
                raise
            call.last_failure = error
        except TimeoutError:
            call.last_failure = UnavailableError(f"/ready did not answer within {PROBE_TIMEOUT_S:g} s")
        ceiling = min(PROBE_PAUSE_S, 0.1 * 2.0 ** min(call.attempts, 10))
        await asyncio.sleep(_jitter.uniform(ceiling / 2, ceiling))


def _may_pass(error: AssayError, connection: Connection, internal_errors: int) -> bool:
    """Whether another attempt may succeed. A certificate that is refused stays so, but it is one server's."""
    elsewhere = error.code == TLS_REFUSED and connection.another_can_be_asked_in() == 0
    return elsewhere or is_transient(error, internal_errors=internal_errors)


def _left_behind(failure: AssayError, connection: Connection) -> bool:
    """Whether the server is silent and there is another: then no work is done twice that anybody could still get."""
    return failure.code == SILENT and connection.another_can_be_asked_in() == 0


def _too_long_a_wait(failure: AssayError, retry_after_s: float, remaining_s: float) -> OverloadedError:
    return OverloadedError(
        f"{failure.message}; the server wants {retry_after_s:g} s, the deadline is in {remaining_s:.2g} s",
        request_id=failure.request_id,
        attempts=failure.attempts,
        elapsed_s=failure.elapsed_s,
        status=failure.status,
        code=failure.code,
        field=failure.field,
        retry_after_s=retry_after_s,
    )
