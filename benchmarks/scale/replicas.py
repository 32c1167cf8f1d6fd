"""Throughput against replicas, and how evenly they are used, by the SDK's choice and with connections that stay put."""

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp

from assay_client import AsyncRewardClient
from benchmarks.server import metric, serving
from benchmarks.verify_line import BUNDLE

CALLERS, RESPONSES = 2, 16
"""Callers for each replica, and responses of each of their requests."""
Balancing = Literal["sdk", "pinned"]


@dataclass(frozen=True)
class Measured:
    """Attributes: items a second of all; what each replica scored; the largest share over the mean one."""

    replicas: int
    balancing: Balancing
    items_a_second: float
    by_replica: list[float]

    @property
    def skew(self) -> float:
        """1 where all did the same."""
        return max(self.by_replica) * len(self.by_replica) / sum(self.by_replica)


@contextlib.contextmanager
def replicas(count: int) -> Iterator[list[str]]:
    """Addresses of so many servers."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(serving(BUNDLE, "benchmarks.scale.paced_server", threads="1")) for _ in range(count)]


async def measure(urls: list[str], balancing: Balancing, seconds: float, seed: int) -> Measured:
    """Closed loop of callers, each with a client of its own as workers have.

    Pinned is what kube-proxy does to a pool of one connection: it goes to one replica, drawn once, for good.
    """
    generator = random.Random(seed)
    callers = CALLERS * len(urls)
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                AsyncRewardClient(urls if balancing == "sdk" else generator.choice(urls), timeout=60)
            )
            for _ in range(callers)
        ]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await asyncio.gather(*(client.model() for client in clients))
        before = [await scored(session, url) for url in urls]
        began = time.monotonic()

        async def caller(number: int, client: AsyncRewardClient) -> None:
            count = 0
            while time.monotonic() - began < seconds:
                count += 1
                texts = [f"Answer {number} {count} {place} is to boil it for minutes." for place in range(RESPONSES)]
                await client.score(f"How do I boil egg {number} {count}?", texts)

        await asyncio.gather(*(caller(number, client) for number, client in enumerate(clients)))
        took = time.monotonic() - began
        by_replica = [await scored(session, url) - then for url, then in zip(urls, before, strict=True)]
    return Measured(len(urls), balancing, sum(by_replica) / took, by_replica)


async def scored(session: aiohttp.ClientSession, url: str) -> float:
    """Items that a replica has scored."""
    return await metric(session, url, "assay_samples_total", 'outcome="ok"')


def run_replicas(quick: bool) -> dict[str, list[dict[str, Any]]]:
    """1, 2 and 4 replicas, both ways by turns."""
    rounds, seconds = (1, 5.0) if quick else (3, 10.0)
    found: dict[str, list[dict[str, Any]]] = {}
    for count in (1, 2, 4):
        with replicas(count) as urls:
            for seed in range(rounds):
                for balancing in ("sdk", "pinned"):
                    one = asyncio.run(measure(urls, balancing, seconds, seed))
                    figures = {"items_a_second": one.items_a_second, "by_replica": one.by_replica, "skew": one.skew}
                    found.setdefault(f"{count} {balancing}", []).append(figures)
    return found
