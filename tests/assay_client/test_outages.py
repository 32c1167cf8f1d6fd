"""Outages in virtual time: calls outlive what costs the server nothing, and do not storm what does."""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

import assay_client as assay
from assay_client import AsyncRewardClient, async_client, calls, errors, retry
from tests.assay_client.virtual_time import VirtualLoop, run

MODEL = json.dumps(
    {"model": {"name": "toy", "digest": "d"}, "limits": {"body_bytes": 1000, "items_per_request": 8}}
).encode()

REFUSALS: dict[str, Callable[[], assay.AssayError]] = {
    "not connected": lambda: assay.ConnectionFailedError("refused", code=errors.NOT_CONNECTED),
    "503, come back in 1 s": lambda: assay.UnavailableError("draining", status=503, retry_after_s=1.0),
    "503": lambda: assay.UnavailableError("not ready", status=503),
    "502": lambda: assay.UnavailableError("bad gateway", status=502),
    "429, come back in 1 s": lambda: assay.OverloadedError("queue full", status=429, retry_after_s=1.0),
    "429": lambda: assay.OverloadedError("queue full", status=429),
}


def lost() -> assay.AssayError:
    return assay.ConnectionFailedError("reset", code=errors.CONNECTION_LOST)


def silent() -> assay.AssayError:
    return assay.ConnectionFailedError("no longer answers", code=errors.SILENT)


def incomplete() -> assay.AssayError:
    return assay.ConnectionFailedError("reset", code=errors.INCOMPLETE_REPLY)


def engine_failed() -> assay.AssayError:
    return assay.UnavailableError("the batch failed", status=503, code=errors.ENGINE_FAILED, retry_after_s=1.0)


def timed_out() -> assay.AssayError:
    return assay.UnavailableError("gateway timeout", status=504)


class World:
    """A client in virtual time, whose server fails in one way for a while. Times in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = VirtualLoop()
        self.attempts = 0
        self.others: float | None = None
        monkeypatch.setattr(retry, "BACKOFF_BASE_S", 0.25)
        monkeypatch.setattr(retry, "_process_budget", retry.RetryBudget(clock=self.loop.time))
        monkeypatch.setattr(calls, "_jitter", random.Random(0))
        monkeypatch.setattr(async_client, "Connection", self._connection)

    def _connection(self, settings: Any) -> Any:
        world = self

        class Connection:
            slots = asyncio.Semaphore(settings.max_concurrency)
            servers = 2

            def belongs_here(self) -> bool:
                return True

            def another_can_be_asked_in(self) -> float | None:
                return world.others

            async def exchange(self, *_: Any, **__: Any) -> bytes:
                world.attempts += 1
                if world.loop.time() < world.outage:
                    raise world.failure()
                return MODEL

            async def close(self) -> None:
                pass

        return Connection()

    def call(self, count: int, outage: float, failure: Callable[[], Any], timeout: float) -> list[tuple[Any, float]]:
        """What `count` concurrent calls end with, and when."""
        self.outage, self.failure = outage, failure

        async def one(client: AsyncRewardClient) -> tuple[Any, float]:
            try:
                return await client.model(), self.loop.time()
            except assay.AssayError as error:
                return error, self.loop.time()

        async def all_calls() -> list[tuple[Any, float]]:
            async with AsyncRewardClient("http://h", timeout=timeout) as client:
                return await asyncio.gather(*(one(client) for _ in range(count)))

        results: list[tuple[Any, float]] = run(all_calls(), self.loop)
        return results


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.mark.parametrize("outage", [0.5, 12.0])
@pytest.mark.parametrize("failure", REFUSALS.values(), ids=REFUSALS)
def test_all_calls_outlive_an_outage(world: World, failure: Callable[[], Any], outage: float) -> None:
    results = world.call(100, outage, failure, timeout=60)
    assert all(isinstance(result, assay.ModelInfo) for result, _ in results)
    # The longest pause is what the server asked for and the cap of the back-off.
    assert outage <= max(end for _, end in results) <= outage + 1 + retry.BACKOFF_CAP_S
    # Backing off, a call knocks less than twice a second over a dozen seconds.
    assert world.attempts <= 100 * (5 + 2 * outage)


@pytest.mark.parametrize("failure", REFUSALS.values(), ids=REFUSALS)
def test_refusals_are_retried_until_the_deadline(world: World, failure: Callable[[], Any]) -> None:
    ((error, end),) = world.call(1, 1e9, failure, timeout=120)
    assert isinstance(error, assay.DeadlineExceededError | assay.OverloadedError)
    assert isinstance(error.__cause__, type(failure()))
    # The end is early by no more than the pause that would no longer have fitted in.
    assert 118.5 <= end <= 120 and error.attempts > 30


def test_a_lost_connection_is_retried_too(world: World) -> None:
    """A balancer that takes connections for a server that is away looks like this."""
    ((result, end),) = world.call(1, 12.0, lost, timeout=60)
    assert isinstance(result, assay.ModelInfo) and end <= 12 + retry.BACKOFF_CAP_S


@pytest.mark.parametrize("failure", [lost, timed_out])
def test_work_that_may_have_been_done_is_repeated_within_the_budget(world: World, failure: Callable[[], Any]) -> None:
    results = world.call(100, 1e9, failure, timeout=60)
    assert all(isinstance(error, assay.DeadlineExceededError) for error, _ in results)
    capacity, earned = 32, 0.1 * 100 + 1.0 * 60
    assert 100 + capacity <= world.attempts <= 100 + capacity + earned


def test_from_a_silent_server_all_go_to_another_at_once(world: World) -> None:
    """Tokens of the budget are for work that may have been done; there are 32 of them, and one a second."""
    world.others = 0.0
    results = world.call(256, 1.0, silent, timeout=60)
    assert all(isinstance(result, assay.ModelInfo) for result, _ in results)
    assert max(end for _, end in results) <= 1 + 2 * retry.BACKOFF_CAP_S


def test_where_there_is_no_other_they_knock_at_a_silent_one_within_the_budget(world: World) -> None:
    results = world.call(100, 1e9, silent, timeout=60)
    assert all(isinstance(error, assay.DeadlineExceededError) for error, _ in results)
    assert world.attempts <= 100 + 32 + 0.1 * 100 + 60


@pytest.mark.parametrize("failure", [incomplete, engine_failed])
def test_work_that_failed_is_repeated_so_many_times(world: World, failure: Callable[[], Any]) -> None:
    ((error, end),) = world.call(1, 1e9, failure, timeout=120)
    assert isinstance(error, type(failure())) and end < 20
    assert error.attempts == world.attempts == 6
    assert not all(retry.process_budget().try_spend() for _ in range(32))


def test_free_retries_leave_the_budget_to_others(world: World) -> None:
    world.call(100, 5.0, REFUSALS["503"], timeout=60)
    assert world.attempts > 200
    assert all(retry.process_budget().try_spend() for _ in range(32))


@pytest.mark.parametrize(("others", "passes"), [(None, False), (0.0, True), (0.5, True)])
def test_what_one_server_asks_for_does_not_bind_others_that_are_soon_back(
    world: World, others: float | None, passes: bool
) -> None:
    """It wants an hour, and the deadline is in a minute; another one can be asked now, or in half a second."""
    world.others = others
    hour = lambda: assay.OverloadedError("queue full", status=429, retry_after_s=3600.0)  # noqa: E731
    ((result, end),) = world.call(1, 0.4, hour, timeout=60)
    if passes:
        assert isinstance(result, assay.ModelInfo) and end <= 2 + retry.BACKOFF_CAP_S
    else:
        assert isinstance(result, assay.OverloadedError) and end < 1


def test_where_all_are_full_a_request_is_sent_more_and_more_rarely(world: World) -> None:
    """Each refusal may come after the texts were tokenized; but there may be more servers at any time."""
    world.others = 0.0
    busy = lambda: assay.OverloadedError("queue full", status=429, retry_after_s=60.0)  # noqa: E731
    ((result, end),) = world.call(1, 50.0, busy, timeout=120)
    assert isinstance(result, assay.ModelInfo) and end <= 50 + 10 + 2 * retry.BACKOFF_CAP_S
    assert world.attempts <= 20


def test_where_all_are_full_no_request_ends_before_its_time(world: World) -> None:
    world.others = 0.0
    busy = lambda: assay.OverloadedError("queue full", status=429, retry_after_s=60.0)  # noqa: E731
    results = world.call(20, 8.0, busy, timeout=30)
    assert all(isinstance(result, assay.ModelInfo) for result, _ in results)
