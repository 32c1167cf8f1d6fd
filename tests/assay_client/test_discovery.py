"""One client, several servers: the load is shared, one that fails is left, names are resolved again."""

import asyncio
import time
from contextlib import ExitStack

import pytest

from assay_client import AsyncRewardClient, ConnectionFailedError, ModelMismatchError, RewardClient, discovery
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
    with RewardClient(urls(pair)) as client:
        assert list(client.score("p", ["a" * n for n in range(1, 161)])) == [float(n) for n in range(1, 161)]
    counts = [len(server.requests) for server in pair]
    assert sum(counts) == 40
    assert min(counts) >= 10


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
        await client.score("p", ["a"])
        assert len(pair[1].requests) == 1
        behind[:] = []  # the resolver is away: what is known goes on
        await client.score("p", ["a"])
        assert len(pair[1].requests) == 2


async def test_a_name_without_an_address_is_told():
    async with AsyncRewardClient("dns+http://no-such-host.invalid:8000", timeout=2, retries=0) as client:
        with pytest.raises(ConnectionFailedError, match="no address behind the name"):
            await client.score("p", ["a"])
