"""Retry rules, each as a pure function of its inputs."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay_client import retry
from assay_client.errors import AssayError, BadReplyError, ConnectionFailedError, NonFiniteScoreError
from assay_client.retry import RetryBudget, backoff_s, is_fault, is_free, is_transient, parse_retry_after


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_transient_statuses(status: int) -> None:
    assert is_transient(AssayError("", status=status), internal_errors=0)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 409, 413, 415, 422, 431, 501, 505])
def test_final_statuses(status: int) -> None:
    assert not is_transient(AssayError("", status=status), internal_errors=0)


def test_an_internal_error_is_retried_once_and_a_non_finite_score_never() -> None:
    assert is_transient(AssayError("", status=500, code="internal"), internal_errors=1)
    assert is_transient(AssayError("", status=500), internal_errors=1)
    assert not is_transient(AssayError("", status=500, code="internal"), internal_errors=2)
    assert not is_transient(NonFiniteScoreError("", status=500, code="nonfinite_score"), internal_errors=1)


def test_failures_without_a_status() -> None:
    assert is_transient(ConnectionFailedError(""), internal_errors=0)
    assert not is_transient(ConnectionFailedError("", code="tls"), internal_errors=0)
    assert not is_transient(BadReplyError(""), internal_errors=0)


@pytest.mark.parametrize(
    ("error", "free", "fault"),
    [
        (AssayError("", status=429), True, False),
        (AssayError("", status=502), True, False),
        (AssayError("", status=503), True, False),
        (ConnectionFailedError("", code="not_connected"), True, False),
        (AssayError("", status=504, retry_after_s=0.0), True, False),
        (AssayError("", status=500, retry_after_s=1.0), False, True),
        (AssayError("", status=503, code="engine_failed", retry_after_s=1.0), False, True),
        (AssayError("", status=408), False, False),
        (AssayError("", status=504), False, False),
        (ConnectionFailedError("", code="connection_lost"), False, False),
        (ConnectionFailedError("", code="incomplete_reply"), False, True),
        (AssayError("", status=500), False, True),
    ],
)
def test_what_limits_retries_beside_the_deadline(error: AssayError, free: bool, fault: bool) -> None:
    assert (is_free(error), is_fault(error)) == (free, fault)


@given(
    st.integers(1, 5000),
    st.none() | st.floats(0, 1000),
    st.floats(0, 1000),
    st.integers(),
)
def test_backoff_stays_between_its_bounds(number: int, retry_after: float | None, spare: float, seed: int) -> None:
    least = retry_after or 0.0
    delay = backoff_s(number, retry_after_s=retry_after, remaining_s=least + spare, rng=random.Random(seed))
    ceiling = min(retry.BACKOFF_CAP_S, retry.BACKOFF_BASE_S * 2.0 ** min(number - 1, 60))
    assert least <= delay <= least + min(ceiling, spare) + 1e-9


def test_jitter_is_full() -> None:
    """The wait is spread over the whole range from zero, not over its upper part only."""
    rng = random.Random(0)
    ceiling = retry.BACKOFF_BASE_S * 8
    delays = [backoff_s(4, retry_after_s=None, remaining_s=1e6, rng=rng) for _ in range(2000)]
    assert min(delays) < 0.01 * ceiling and max(delays) > 0.99 * ceiling
    assert sum(delays) / len(delays) == pytest.approx(ceiling / 2, rel=0.05)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("Mon, 23 Nov 2026 12:00:07 GMT", 7.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2026 00:00:00 +99999999999999", None),
        ("", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, now=datetime(2026, 11, 23, 12, tzinfo=UTC)) == seconds


def test_the_budget_follows_requests_and_time() -> None:
    now = 0.0
    budget = RetryBudget(per_request=0.1, per_second=1.0, capacity=2.0, clock=lambda: now)
    assert [budget.try_spend() for _ in range(3)] == [True, True, False]
    for _ in range(11):
        budget.add_request()
    assert [budget.try_spend() for _ in range(2)] == [True, False]
    now = 1.0
    assert [budget.try_spend() for _ in range(2)] == [True, False]
    now = 1000.0
    assert [budget.try_spend() for _ in range(3)] == [True, True, False]


@given(st.lists(st.booleans(), max_size=300))
def test_retries_never_exceed_the_share_of_requests_and_the_floor(events: list[bool]) -> None:
    budget = RetryBudget(per_request=0.1, per_second=1.0, capacity=5.0, clock=lambda: 0.0)
    requests = retries = 0
    for is_request in events:
        if is_request:
            budget.add_request()
            requests += 1
        else:
            retries += budget.try_spend()
        assert retries <= 5.0 + 0.1 * requests + 1e-6
