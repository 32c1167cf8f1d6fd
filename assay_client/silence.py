"""Servers that have fallen silent: frozen, cut off, or on a machine that is gone. Nothing closes their connections.

A reply may take as long as the queue is, so no pause of a reply says anything by itself. A request that has waited for
some seconds asks beside it whether its server still answers /live, and is given up where it does not: another server
may have the scores long before the deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from assay_client.endpoints import Endpoint
from assay_client.errors import SILENT, ConnectionFailedError

T = TypeVar("T")

SILENCE_S = 5.0
"""How long a request waits before it asks, and then how often."""
PROBES, PROBE_PAUSE_S = 2, 1.0
"""So many in a row must get no answer, with a pause between them: one may be bad luck."""
STALL_S = 1.0
"""A wait that took so much longer than it should: this process did not run, and cannot say that the server did not."""


class Watch:
    """Over the requests in flight to each server. For one event loop.

    Args:
        is_silent: asks a server once, and tells whether no answer of any kind came in time.
    """

    def __init__(self, is_silent: Callable[[Endpoint], Awaitable[bool]]) -> None:
        self._is_silent = is_silent
        self._waiting: dict[Endpoint, dict[asyncio.Timeout, float]] = {}
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}

    async def guard(self, endpoint: Endpoint, request: Awaitable[T]) -> T:
        """What the request gives.

        Raises:
            ConnectionFailedError: the server fell silent meanwhile (code "silent"); else what the request raises.
        """
        try:
            async with asyncio.timeout(None) as limit:
                waiting = self._waiting.setdefault(endpoint, {})
                waiting[limit] = asyncio.get_running_loop().time()
                if endpoint not in self._tasks:
                    self._tasks[endpoint] = asyncio.create_task(self._look_after(endpoint))
                try:
                    return await request
                finally:
                    del waiting[limit]
        except TimeoutError:
            if not limit.expired():
                raise
        raise ConnectionFailedError(f"no reply from {endpoint.url}, which no longer answers /live either", code=SILENT)

    def close(self) -> None:
        """End what looks after requests."""
        for task in self._tasks.values():
            task.cancel()

    async def _look_after(self, endpoint: Endpoint) -> None:
        """Until nothing is in flight there: a task lasts over many short requests."""
        loop, waiting = asyncio.get_running_loop(), self._waiting[endpoint]
        try:
            while waiting:
                asked = loop.time() + SILENCE_S
                await asyncio.sleep(SILENCE_S)
                if loop.time() > asked + STALL_S:
                    continue
                old = [limit for limit, began in waiting.items() if began <= asked - SILENCE_S]
                if old and await self._stays_silent(endpoint):
                    for limit in old:
                        if limit in waiting:
                            limit.reschedule(loop.time())
        finally:
            del self._tasks[endpoint]
            if not waiting:
                del self._waiting[endpoint]

    async def _stays_silent(self, endpoint: Endpoint) -> bool:
        for probe in range(PROBES):
            if probe:
                await asyncio.sleep(PROBE_PAUSE_S)
            if not await self._is_silent(endpoint):
                return False
        return True
