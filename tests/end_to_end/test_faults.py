"""Spoilt connections and frozen or killed servers: every call ends with the right scores in order, or a typed error."""

import asyncio
import contextlib
import random
import signal
import time

import pytest

from assay_client import (
    AssayError,
    AsyncRewardClient,
    ConnectionFailedError,
    DeadlineExceededError,
    connection,
    silence,
)
from assay_client.errors import CONNECTION_LOST, INCOMPLETE_REPLY, SILENT
from tests.end_to_end.fault_proxy import HEALTHY, Fault, FaultProxy
from tests.end_to_end.process import PATIENCE, server_process
from tests.pocket import pocket_reward

SLOW = {
    "latency": Fault(latency_s=0.05),
    "drip": Fault(latency_s=0.0005, piece=7),
    "narrow": Fault(latency_s=0.01, piece=512),
    "half open": Fault(half_open=True),
}
"""What only takes longer."""
BROKEN = {
    "reset at once": Fault(reset_at=0),
    "reset in the headers of the request": Fault(reset_at=30),
    "reset in the body of the request": Fault(reset_at=400),
    "reset before the reply": Fault(reset_reply_at=0),
    "reset in the headers of the reply": Fault(reset_reply_at=20),
    "reset in the body of the reply": Fault(reset_reply_at=700),
    "closed before the reply": Fault(half_close_at=0),
    "closed in the body of the reply": Fault(half_close_at=700),
}
"""What ends the connection before the reply is whole."""
HOLES = {
    "black hole at once": Fault(black_hole_at=0),
    "black hole before the reply": Fault(black_hole_reply_at=0),
    "black hole in the reply": Fault(black_hole_reply_at=20),
}
"""What never ends by itself."""
RESPONSES = [f"response {number}" for number in range(40)]
POST, LIVE = "POST /v1/score HTTP/1.1", "GET /live HTTP/1.1"
LIVE_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def server(pocket_bundle, tmp_path_factory):
    with server_process(pocket_bundle, tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture
def right(pocket_bundle):
    """The rewards of responses, computed from their tokens alone."""

    def right(prompt: str, responses: list[str]):
        items = pocket_bundle.formatter.encode(prompt, responses)
        return pytest.approx([pocket_reward(item.ids, pocket_bundle.manifest.family) for item in items], abs=1e-5)

    return right


@pytest.fixture
def curious(monkeypatch):
    """A client that asks after a third of a second whether the server lives."""
    monkeypatch.setattr(silence, "SILENCE_S", 0.3)


@pytest.fixture
def impatient(monkeypatch, curious):
    """A client that takes a server for silent soon after."""
    monkeypatch.setattr(connection, "LIVE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(silence, "PROBE_PAUSE_S", 0.1)


@pytest.fixture
async def proxy(server):
    async with FaultProxy(server.port).listening() as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def unharmed(server):
    """Whatever a test does to its connections, the server ends nothing, holds nothing and fails at nothing."""
    yield
    server.until_metric("assay_inflight_samples", 0)
    server.until_metric("assay_queue_samples", 0)
    server.until_metric("assay_request_bodies_held_bytes", 0)
    assert server.request("GET", "/ready")[0] == server.request("GET", "/live")[0] == 200
    assert server.metric('assay_engine_errors_total{kind="runtime"}') == 0
    assert "Traceback" not in server.log


@contextlib.asynccontextmanager
async def informed(proxy, fault=HEALTHY, times=float("inf"), **settings):
    """A client that knows the limits, and whose next request, which is that for scores, makes a new connection."""
    async with AsyncRewardClient(proxy.url, **settings) as client:
        await client.model(timeout=PATIENCE)
        await proxy.hang_up()
        proxy.spoil(fault, times)
        yield client
    assert all(POST.startswith(line) or LIVE.startswith(line) for line in proxy.spoilt)


@pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW)
async def test_slow_connections_give_scores(proxy, right, fault):
    async with informed(proxy, fault) as client:
        assert list(await client.score("p", RESPONSES)) == right("p", RESPONSES)


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
async def test_broken_connections_are_tried_again(proxy, right, fault):
    async with informed(proxy, fault, times=2) as client:
        assert list(await client.score("p", RESPONSES)) == right("p", RESPONSES)
    assert proxy.connections > 3
    assert len(proxy.spoilt) == (0 if fault.reset_at == 0 else 2)


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
async def test_a_broken_connection_is_a_typed_error_without_retries(proxy, fault):
    async with informed(proxy, fault, retries=0) as client:
        with pytest.raises(ConnectionFailedError) as failed:
            await client.score("p", RESPONSES)
    assert failed.value.code in (CONNECTION_LOST, INCOMPLETE_REPLY)


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
async def test_connections_that_always_break_are_a_typed_error_at_the_deadline(proxy, fault):
    async with informed(proxy, fault, timeout=1) as client:
        began = time.monotonic()
        # The latter after a few scorings that were whole and lost.
        with pytest.raises((DeadlineExceededError, ConnectionFailedError)) as late:
            await client.score("p", RESPONSES)
        assert time.monotonic() - began < PATIENCE
    assert any(isinstance(error, ConnectionFailedError) for error in (late.value, late.value.__cause__))


@pytest.mark.parametrize("fault", HOLES.values(), ids=HOLES)
async def test_black_holes_are_left_after_a_while(proxy, right, impatient, fault, caplog):
    async with informed(proxy, fault) as client:
        scoring = asyncio.ensure_future(client.score("p", RESPONSES))
        while "no longer answers /live" not in caplog.text and not scoring.done():
            await asyncio.sleep(0.01)
        proxy.spoil(HEALTHY)
        assert list(await scoring) == right("p", RESPONSES)


@pytest.mark.parametrize("fault", HOLES.values(), ids=HOLES)
async def test_black_holes_for_good_are_a_typed_error(proxy, impatient, fault):
    async with informed(proxy, fault, retries=0) as client:
        with pytest.raises(ConnectionFailedError, match="no longer answers /live") as failed:
            await client.score("p", RESPONSES)
    assert failed.value.code == SILENT


async def test_a_black_hole_for_large_requests_alone_is_a_typed_error(proxy, impatient):
    """As packets of more than some size are lost: /live is answered, so only the deadline helps."""
    async with informed(proxy, Fault(black_hole_at=600), timeout=1.5) as client:
        with pytest.raises(DeadlineExceededError):
            await client.score("p", RESPONSES)


async def test_a_slow_reply_of_a_server_that_lives_is_waited_for(pocket_bundle, tmp_path, right, curious):
    with server_process(pocket_bundle, tmp_path, module="tests.end_to_end.held_server") as held:
        async with AsyncRewardClient(held.url, retries=0) as client:
            await client.model()
            held.hold()
            waiting = asyncio.ensure_future(client.score("p", ["r"]))
            await asyncio.sleep(2)  # many times what it takes to call a server silent
            held.let_go()
            assert list(await waiting) == right("p", ["r"])


async def test_a_server_that_drains_is_waited_for(pocket_bundle, tmp_path, right, curious):
    """It takes no new connections, so that what asks whether it lives is refused; its replies come all the same."""
    flags = "--drain-notice-s", "0"
    with server_process(pocket_bundle, tmp_path, *flags, module="tests.end_to_end.held_server") as held:
        async with AsyncRewardClient(held.url, retries=0) as client:
            await client.model()
            held.hold()
            waiting = asyncio.ensure_future(client.score("p", ["r"]))
            await asyncio.to_thread(held.until_metric, "assay_inflight_samples", 1)
            held.signal(signal.SIGTERM)
            await asyncio.to_thread(held.until_closed)
            await asyncio.sleep(2)
            held.let_go()
            assert list(await waiting) == right("p", ["r"])


async def test_calls_in_a_storm_of_faults_never_mix_up_scores(server, proxy, right):
    """Each connection with a fault of its own; neighbours on good ones are not disturbed; afterwards all is well."""
    generator = random.Random(0)
    faults = [*SLOW.values(), *BROKEN.values(), HEALTHY]
    calls = [(f"p{call}", [f"{call} {number}" for number in range(generator.randrange(1, 60))]) for call in range(60)]

    async def weather() -> None:
        while True:
            proxy.spoil(generator.choice(faults))
            await asyncio.sleep(0.02)

    async with AsyncRewardClient(proxy.url, max_items=20) as client, AsyncRewardClient(server.url) as neighbour:
        storm = asyncio.ensure_future(weather())
        in_storm, beside = await asyncio.gather(
            asyncio.gather(*(client.score(*call) for call in calls), return_exceptions=True),
            asyncio.gather(*(neighbour.score(*call) for call in calls)),
        )
        storm.cancel()
        proxy.spoil(HEALTHY)
        await proxy.hang_up()
        after = await asyncio.gather(*(client.score(*call) for call in calls))
    for call, stormy, *calm in zip(calls, in_storm, beside, after, strict=True):
        assert isinstance(stormy, AssayError) or list(stormy) == right(*call)
        assert [list(scores) for scores in calm] == [right(*call)] * 2


async def test_a_frozen_server_is_left_for_another(pocket_bundle, tmp_path, right, impatient):
    with contextlib.ExitStack() as stack:
        servers = []
        for name in "ab":
            (tmp_path / name).mkdir()
            servers.append(stack.enter_context(server_process(pocket_bundle, tmp_path / name)))
        async with AsyncRewardClient([server.url for server in servers], timeout=60) as client:
            await client.score("p", ["r"])
            servers[0].signal(signal.SIGSTOP)
            texts = [[f"{call} {number}" for number in range(20)] for call in range(40)]
            scores = await asyncio.gather(*(client.score("p", responses) for responses in texts))
            for responses, got in zip(texts, scores, strict=True):
                assert list(got) == right("p", responses)
            servers[0].signal(signal.SIGCONT)
            began = time.monotonic()
            await asyncio.to_thread(servers[0].until, "/live", 200)
            await asyncio.to_thread(servers[0].until, "/ready", 200)
            assert time.monotonic() - began < LIVE_WITHIN_S
            await asyncio.to_thread(servers[0].until_metric, "assay_inflight_samples", 0)


async def test_a_killed_server_is_left_for_another(pocket_bundle, tmp_path, right):
    with contextlib.ExitStack() as stack:
        servers = []
        for name in "ab":
            (tmp_path / name).mkdir()
            module = "tests.end_to_end.held_server"
            servers.append(stack.enter_context(server_process(pocket_bundle, tmp_path / name, module=module)))
        async with AsyncRewardClient([server.url for server in servers], timeout=60) as client:
            await client.score("p", ["r"])
            servers[0].hold()  # so that it has work that is lost
            texts = [[f"{call} {number}" for number in range(20)] for call in range(20)]
            calls = [asyncio.ensure_future(client.score("p", responses)) for responses in texts]
            await asyncio.to_thread(has_work, servers[0])
            servers[0].signal(signal.SIGKILL)
            for responses, scores in zip(texts, await asyncio.gather(*calls), strict=True):
                assert list(scores) == right("p", responses)


def has_work(server) -> None:
    """Poll until the server has a request, beside the one that asks."""
    deadline = time.monotonic() + PATIENCE
    while server.metric("assay_http_requests_in_flight") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
