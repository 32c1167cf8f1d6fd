"""Requests that arrive at random moments, whatever becomes of those before."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np


async def at_random(rate: float, seconds: float, seed: int, request: Callable[[int], Awaitable[None]]) -> list[float]:
    """Poisson arrivals; gives for each the seconds from when it was due until it was done.

    Counted from then, a request that was held up by the one before is not left out (coordinated omission).

    Args:
        rate: requests a second.
        seconds: how long they arrive.
        seed: of the moments.
        request: makes the request of a number; what it raises ends all of them.
    """
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds)))
    times: list[float] = []
    began = time.monotonic()

    async def one(number: int, at: float) -> None:
        await request(number)
        times.append(time.monotonic() - began - at)

    async with asyncio.TaskGroup() as group:
        for number, at in enumerate(due.tolist()):
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            group.create_task(one(number, at))
    return times
