"""Attempts against a real server: what is retried, when a call gives up, and what the error then tells."""

import asyncio
import socket
import time
from collections.abc import Awaitable
from typing import Any

import pytest
from aiohttp import web

import assay_client as assay
from assay_client import AsyncRewardClient, retry


async def hang(*_: Any) -> None:
    await asyncio.Event().wait()


def never(request: Any, body: Any) -> Awaitable[None]:
    return hang()


def texts(count: int) -> list[str]:
    return [f"response-{i}" for i in range(count)]


def numbers(count: int) -> tuple[float, ...]:
    return tuple(float(i) for i in range(count))


async def test_transient_failures_are_retried_under_the_same_name(server: Any) -> None:
    refuse = server.refuse
    server.script = [
        refuse(503, "draining", headers={"Retry-After": "0"}),
        refuse(429, "queue_full", retry_after_s=0.02),
        server.reset,
        refuse(500, "internal"),
        refuse(504, "deadline_exceeded"),
    ]
    async with AsyncRewardClient(server.url) as client:
        assert (await client.score("p", ["x-7"])).scores == (7.0,)
    assert [seen.headers["X-Assay-Attempt"] for seen in server.seen] == list("123456")
    assert len({seen.headers["X-Request-Id"] for seen in server.seen}) == 1
    left = [seen.body["timeout_ms"] for seen in server.seen]
    assert left == sorted(left, reverse=True) and left[0] > left[-1]


async def test_retry_after_is_waited_for(server: Any) -> None:
    server.script = [server.refuse(429, "queue_full", retry_after_s=0.3)]
    async with AsyncRewardClient(server.url) as client:
        await client.model()
        start = time.monotonic()
        await client.score("p", ["x-7"])
    assert time.monotonic() - start >= 0.3


@pytest.mark.parametrize(("status", "code"), [(429, "queue_full"), (503, "not_ready")])
async def test_a_retry_after_beyond_the_deadline_fails_at_once(server: Any, status: int, code: str) -> None:
    server.always = server.refuse(status, code, headers={"Retry-After": "30"})
    start = time.monotonic()
    async with AsyncRewardClient(server.url, timeout=10) as client:
        with pytest.raises(assay.OverloadedError) as caught:
            await client.score("p", ["x-7"])
    assert time.monotonic() - start < 5
    error = caught.value
    assert (error.retry_after_s, error.status, error.code, error.attempts) == (30.0, status, code, 1)


def break_off(request: Any, body: Any) -> Awaitable[web.StreamResponse]:
    """Begin a reply and cut the connection within."""

    async def reply() -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        request.transport.close()
        return response

    return reply()


async def test_retries_of_faults_end(server: Any) -> None:
    server.always = break_off
    async with AsyncRewardClient(server.url, retries=2) as client:
        with pytest.raises(assay.ConnectionFailedError) as caught:
            await client.score("p", ["x-7"])
    assert len(server.seen) == caught.value.attempts == 3
    assert caught.value.code == "incomplete_reply"
    assert caught.value.elapsed_s > 0 and caught.value.request_id is not None


@pytest.mark.parametrize("status", [429, 500, 503, 504])
async def test_without_retries_nothing_is_repeated(server: Any, status: int) -> None:
    server.always = server.refuse(status, "internal")
    async with AsyncRewardClient(server.url, retries=0) as client:
        with pytest.raises(assay.AssayError) as caught:
            await client.score("p", ["x-7"])
    assert len(server.seen) == caught.value.attempts == 1


@pytest.mark.parametrize(
    ("status", "code", "kind", "sent"),
    [
        (400, "invalid_json", assay.InvalidRequestError, 1),
        (401, "unauthorized", assay.UnauthorizedError, 1),
        (409, "model_mismatch", assay.ModelMismatchError, 1),
        (413, "body_too_large", assay.TooLargeError, 1),
        (422, "empty_text", assay.InvalidRequestError, 1),
        (500, "nonfinite_score", assay.NonFiniteScoreError, 1),
        (500, "internal", assay.ServerError, 2),
    ],
)
async def test_final_failures(server: Any, status: int, code: str, kind: type[Exception], sent: int) -> None:
    server.always = server.refuse(status, code)
    async with AsyncRewardClient(server.url) as client:
        with pytest.raises(kind) as caught:
            await client.score("p", ["x-7"])
    assert type(caught.value) is kind
    assert len(server.seen) == sent


async def test_a_hard_failure_cancels_the_other_parts(server: Any) -> None:
    server.limits["items_per_request"] = 2
    others = asyncio.Event()
    loop = asyncio.get_running_loop()

    def step(request: Any, body: dict[str, Any]) -> Any:
        if body["responses"][0] != "response-4":
            if server.in_flight == 4:
                loop.call_soon_threadsafe(others.set)
            return hang()
        return server.refuse(422, "empty_text", field="responses.1")(request, body)

    server.always = step
    async with AsyncRewardClient(server.url) as client:
        with pytest.raises(assay.InvalidRequestError) as caught:
            await client.score("p", texts(8))
        error = caught.value
        assert (error.field, error.message) == ("responses.5", "responses.5 was refused")
        server.always = None
        assert (await client.score("p", texts(8))).scores == numbers(8)
    assert len(server.seen) <= 8


async def test_the_deadline_covers_all_attempts(server: Any) -> None:
    server.script = [server.refuse(503, "not_ready")]
    server.always = never
    start = time.monotonic()
    async with AsyncRewardClient(server.url, timeout=60) as client:
        with pytest.raises(assay.DeadlineExceededError) as caught:
            await client.score("p", ["x-7"], timeout=0.4)
    assert 0.39 <= time.monotonic() - start < 5
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value.__cause__, assay.UnavailableError)
    assert caught.value.attempts == 2 and "not_ready" in repr(caught.value.__cause__.code)
    assert all(seen.body["timeout_ms"] <= 400 for seen in server.seen)


async def test_an_unreachable_server_is_a_connection_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with AsyncRewardClient(url, timeout=0.5) as client, AsyncRewardClient(url, retries=0) as hasty:
            with pytest.raises(assay.DeadlineExceededError) as caught:
                await client.score("p", ["x-7"])
            with pytest.raises(assay.ConnectionFailedError) as once:
                await hasty.score("p", ["x-7"])
    assert isinstance(caught.value.__cause__, assay.ConnectionFailedError)
    assert caught.value.attempts > 2 and "last failure: no reply from" in caught.value.message
    assert (once.value.attempts, once.value.code) == (1, "not_connected") and isinstance(once.value, ConnectionError)


async def test_a_connection_lost_before_the_reply(server: Any) -> None:
    server.always = server.reset
    async with AsyncRewardClient(server.url, retries=0) as client:
        with pytest.raises(assay.ConnectionFailedError) as caught:
            await client.score("p", ["x-7"])
    assert caught.value.code == "connection_lost"


async def test_a_hundred_calls_outlive_half_a_second_of_outage(server: Any) -> None:
    server.always = server.refuse(503, "not_ready", headers={"Retry-After": "1"})
    asyncio.get_running_loop().call_later(0.5, setattr, server, "always", None)
    start = time.monotonic()
    async with AsyncRewardClient(server.url, timeout=60) as client:
        results = await asyncio.gather(*(client.score("p", [f"x-{i}"]) for i in range(100)))
    assert [result[0] for result in results] == list(range(100))
    assert 100 < len(server.seen) <= 200 and time.monotonic() - start < 5


async def test_an_empty_budget_delays_retries(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = retry.RetryBudget(per_request=0.0, per_second=1e-3, capacity=3.0)
    monkeypatch.setattr(retry, "_process_budget", budget)
    server.always = server.refuse(504, "gateway")
    async with AsyncRewardClient(server.url, timeout=0.5) as client:
        calls = (client.score("p", ["x-1"]) for _ in range(10))
        failures = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(failure, assay.DeadlineExceededError) for failure in failures)
    assert len(server.seen) == 13
