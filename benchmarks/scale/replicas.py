"""Throughput against replicas, and how evenly they are used, by the SDK's choice and with connections that stay put.

In a closed loop, which has every replica busy, for the throughput; and at a part of it in an open one, where callers
that meet on one replica wait although another idles.
"""

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import numpy as np

from assay_client import AsyncRewardClient
from benchmarks.arrivals import at_random
from benchmarks.server import metric, serving
from benchmarks.verify_line import BUNDLE

CALLERS, RESPONSES = 2, 16
"""Callers for each replica, and responses of each of their requests."""
OPEN_CALLERS, LOAD = 8, 0.7
"""Callers for each replica in the open loop, and its part of the closed loop's throughput."""
Balancing = Literal["sdk", "pinned"]
BALANCING: tuple[Balancing, ...] = ("sdk", "pinned")


@dataclass(frozen=True)
class Measured:
    """Attributes: items a second of all; what each replica scored; milliseconds of the slowest hundredth."""

    replicas: int
    balancing: Balancing
    items_a_second: float
    by_replica: list[float]
    p99_ms: float

    @property
    def skew(self) -> float:
        """1 where all did the same."""
        return max(self.by_replica) * len(self.by_replica) / sum(self.by_replica)


@contextlib.contextmanager
def replicas(count: int) -> Iterator[list[str]]:
    """Addresses of so many servers."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(serving(BUNDLE, "benchmarks.scale.paced_server", threads="1")) for _ in range(count)]


@contextlib.asynccontextmanager
async def callers(
    urls: list[str], balancing: Balancing, count: int, seed: int
) -> AsyncIterator[list[AsyncRewardClient]]:
    """Clients of so many workers, each of which knows the limits.

    Pinned is what kube-proxy does to a pool of one connection: it goes to one replica, drawn once, for good.
    """
    generator = random.Random(seed)
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                AsyncRewardClient(urls if balancing == "sdk" else generator.choice(urls), timeout=60)
            )
            for _ in range(count)
        ]
        await asyncio.gather(*(client.model() for client in clients))
        yield clients


async def ask(client: AsyncRewardClient, number: int, count: int) -> None:
    """A group of responses that nobody else sends."""
    texts = [f"Answer {number} {count} {place} is to boil it for minutes." for place in range(RESPONSES)]
    await client.score(f"How do I boil egg {number} {count}?", texts)


async def measure(
    urls: list[str], balancing: Balancing, seconds: float, seed: int, rate: float | None = None
) -> Measured:
    """Callers, each with a client of its own as workers have, in a closed loop.

    With a `rate`, in requests a second of all: at random moments, whoever still waits; times are from those moments.
    """
    per_replica = CALLERS if rate is None else OPEN_CALLERS
    async with (
        callers(urls, balancing, per_replica * len(urls), seed) as clients,
        aiohttp.ClientSession() as session,
    ):
        before = [await scored(session, url) for url in urls]
        times: list[float] = []
        began = time.monotonic()

        async def loop(number: int, client: AsyncRewardClient) -> None:
            count = 0
            while (asked := time.monotonic()) - began < seconds:
                count += 1
                await ask(client, number, count)
                times.append(time.monotonic() - asked)

        async def one(number: int) -> None:
            which = number % len(clients)
            await ask(clients[which], which, number)

        if rate is None:
            await asyncio.gather(*(loop(number, client) for number, client in enumerate(clients)))
        else:
            times += await at_random(rate, seconds, seed, one)
        took = time.monotonic() - began
        by_replica = [await scored(session, url) - then for url, then in zip(urls, before, strict=True)]
    p99_ms = 1000 * float(np.quantile(times, 0.99))
    return Measured(len(urls), balancing, sum(by_replica) / took, by_replica, p99_ms)


async def scored(session: aiohttp.ClientSession, url: str) -> float:
    """Items that a replica has scored."""
    return await metric(session, url, "assay_samples_total", 'outcome="ok"')


def run_replicas(quick: bool) -> dict[str, list[dict[str, Any]]]:
    """1, 2 and 4 replicas, both ways by turns; four also at a part of their throughput."""
    rounds, seconds = (1, 5.0) if quick else (3, 10.0)
    found: dict[str, list[dict[str, Any]]] = {}

    def note(key: str, one: Measured) -> None:
        figures = {"items_a_second": one.items_a_second, "by_replica": one.by_replica, "skew": one.skew}
        found.setdefault(key, []).append({**figures, "p99_ms": one.p99_ms})

    for count in (1, 2, 4):
        with replicas(count) as urls:
            for seed in range(rounds):
                for balancing in BALANCING:
                    note(f"{count} {balancing}", asyncio.run(measure(urls, balancing, seconds, seed)))
            if count == 4:
                peak = statistics.median(one["items_a_second"] for one in found["4 sdk"]) / RESPONSES
                for seed in range(rounds):
                    for balancing in BALANCING:
                        one = asyncio.run(measure(urls, balancing, 2 * seconds, seed, LOAD * peak))
                        note(f"4 {balancing} open", one)
    return found
