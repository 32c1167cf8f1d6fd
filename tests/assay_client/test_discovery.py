"""One client, several servers: the load is shared, one that fails is left, names are resolved again."""

import asyncio
import threading
import time
from contextlib import ExitStack

import pytest

from assay_client import (
    AsyncRewardClient,
    ConnectionFailedError,
    DeadlineExceededError,
    ModelMismatchError,
    RewardClient,
    discovery,
)
from assay_client.endpoints import Endpoint
from assay_client.testing import FakeRewardServer


def length(prompt: object, response: str) -> float:
    return float(len(response))


@pytest.fixture
def pair():
    with ExitStack() as stack:
        yield [stack.enter_context(FakeRewardServer(length, items_per_request=4)) for _ in range(2)]


def urls(servers: list[FakeRewardServer]) -> list[str]:
    return [server.url for server in servers]


def test_a_call_in_parts_is_shared_by_the_servers(pair):
    """Sixteen parts are in flight: while nobody answers, each server has half of them, whatever the machine does."""
    halves = threading.Event()

    def when_both_have_half(prompt: object, response: str) -> float:
        deadline = time.monotonic() + 20
        while min(len(server.requests) for server in pair) < 8 and time.monotonic() < deadline:
            halves.wait(0.005)
        return length(prompt, response)

    for server in pair:
        server.serve(when_both_have_half, digest=server.digest)
    with RewardClient(urls(pair)) as client:
        assert list(client.score("p", ["a" * n for n in range(1, 161)])) == [float(n) for n in range(1, 161)]
    counts = [len(server.requests) for server in pair]
    assert sum(counts) == 40
    assert min(counts) >= 8


def test_servers_are_named_in_the_environment_too(pair, monkeypatch):
    monkeypatch.setenv("ASSAY_URL", ", ".join(urls(pair)))
    with RewardClient() as client:
        for _ in range(20):
            client.score("p", ["a"])
    assert all(server.requests for server in pair)


def test_one_that_is_gone_is_left_and_found_again(pair):
    with RewardClient(urls(pair), timeout=20) as client:
        pair[0].go_away()
        assert list(client.score("p", ["a" * n for n in range(1, 41)])) == [float(n) for n in range(1, 41)]
        pair[0].come_back()
        before, deadline = len(pair[0].requests), time.monotonic() + 30
        while len(pair[0].requests) == before:
            assert time.monotonic() < deadline, "it was never asked again"
            client.score("p", ["a"])


def test_an_overloaded_one_is_not_waited_for_while_another_is_free(pair):
    with RewardClient(urls(pair), timeout=20) as client:
        client.model()
        pair[0].refuse(429, retry_after=3600)  # beyond the deadline: of a single server this ends the call
        assert [list(client.score("p", ["ab"])) for _ in range(8)] == [[2.0]] * 8


def test_two_servers_with_different_models_are_no_one_model(pair):
    pair[1].serve(digest="1" * 64)
    with RewardClient(urls(pair)) as client:
        with pytest.raises(ModelMismatchError):
            client.score("p", ["a" * n for n in range(1, 161)])


async def test_a_name_is_resolved_to_all_its_addresses(monkeypatch):
    asked = []

    async def getaddrinfo(host, port, **_):
        asked.append((host, port))
        return [(2, 1, 6, "", (address, port)) for address in ("10.0.0.2", "10.0.0.1", "10.0.0.2")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo, raising=False)
    found = await discovery.resolve("dns+https://reward-headless/assay")
    assert asked == [("reward-headless", 443)]
    assert [(each.url, each.host) for each in found] == [
        ("https://10.0.0.1:443/assay", "reward-headless"),
        ("https://10.0.0.2:443/assay", "reward-headless"),
    ]


async def test_new_pods_are_asked_and_the_host_header_is_the_name(pair, monkeypatch):
    behind = [pair[0]]

    async def resolve(url: str) -> list[Endpoint]:
        return [Endpoint(server.url, "reward-headless:8000") for server in behind]

    monkeypatch.setattr(discovery, "resolve", resolve)
    monkeypatch.setattr(discovery, "INTERVAL_S", 0.0)
    async with AsyncRewardClient("dns+http://reward-headless:8000") as client:
        for _ in range(4):
            await client.score("p", ["a"])
        assert len(pair[0].requests) == 4
        assert pair[0].requests[0].headers["Host"] == "reward-headless:8000"
        behind[:] = [pair[1]]
        while not pair[1].requests:  # names are resolved beside the calls
            assert len(pair[0].requests) < 100
            await client.score("p", ["a"])
        before = len(pair[0].requests)
        behind[:] = []  # the resolver is away: what is known goes on
        for _ in range(8):
            await client.score("p", ["a"])
        assert len(pair[0].requests) == before


async def test_a_name_without_an_address_is_told():
    async with AsyncRewardClient("dns+http://no-such-host.invalid:8000", timeout=2, retries=0) as client:
        with pytest.raises(ConnectionFailedError, match="no address behind the name"):
            await client.score("p", ["a"])


async def test_a_resolver_that_never_answers_holds_up_only_the_first_call(pair, monkeypatch):
    slow = False

    async def resolve(url: str) -> list[Endpoint]:
        if slow:
            await asyncio.Event().wait()
        return [Endpoint(server.url, "reward:8000") for server in pair]

    monkeypatch.setattr(discovery, "resolve", resolve)
    monkeypatch.setattr(discovery, "INTERVAL_S", 0.0)
    async with AsyncRewardClient("dns+http://reward:8000", timeout=10) as client:
        await client.score("p", ["a"])
        slow = True
        for _ in range(20):
            await client.score("p", ["a"])


async def test_names_are_resolved_apart(pair, monkeypatch):
    known = {"dns+http://a:1": [Endpoint(pair[0].url, "a:1")], "dns+http://b:1": [Endpoint(pair[1].url, "b:1")]}

    async def resolve(url: str) -> list[Endpoint]:
        return known[url]

    monkeypatch.setattr(discovery, "resolve", resolve)
    monkeypatch.setattr(discovery, "INTERVAL_S", 0.0)
    servers = discovery.Servers(list(known))
    await servers.choose()
    known["dns+http://b:1"] = []
    await servers.choose()
    await servers.choose()
    assert [endpoint.url for endpoint in servers.endpoints] == urls(pair)
    servers.close()


async def test_a_server_that_lets_deadlines_pass_is_left_alone(pair):
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    hanging = await asyncio.start_server(hang, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{hanging.sockets[0].getsockname()[1]}"
    failed = 0
    async with AsyncRewardClient([address, pair[0].url]) as client:
        for _ in range(12):  # the limits too must come from the one that works
            try:
                await client.score("p", ["a"], timeout=0.3)
            except DeadlineExceededError:
                failed += 1
    hanging.close()
    # Left alone for 0.5, 1, 2 ... seconds: once in a while, not every second time.
    assert 0 < len(pair[0].requests) >= 12 - failed
    assert failed <= 4


async def test_a_call_that_its_caller_gives_up_is_no_failure_of_the_server(pair):
    release = threading.Event()

    def slow(prompt: object, response: str) -> float:
        release.wait(30)
        return 1.0

    pair[0].serve(slow, digest=pair[0].digest)
    async with AsyncRewardClient(pair[0].url) as client:
        await client.model()
        call = asyncio.ensure_future(client.score("p", ["a"]))
        while not pair[0].requests:
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()
        assert client._connection is not None
        assert [endpoint.failures for endpoint in client._connection._servers.endpoints] == [0]


def test_one_that_fails_inside_is_left_for_the_other(pair):
    def broken(prompt: object, response: str) -> float:
        raise RuntimeError("broken")

    pair[0].serve(broken, digest=pair[0].digest)
    with RewardClient(urls(pair), timeout=30) as client:
        assert [client.score("p", ["ab"])[0] for _ in range(30)] == [2.0] * 30
