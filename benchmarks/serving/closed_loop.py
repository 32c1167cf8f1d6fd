"""The closed loop: callers that each wait for their reply before they ask again. It measures capacity."""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from benchmarks.serving.arms import Arm
from benchmarks.serving.peers.base import Call, ReplyError
from benchmarks.serving.rendering import Item

TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Loop:
    """One pass over a list of requests.

    Attributes:
        seconds: from the first request to the last reply.
        latencies: seconds of each request, in order.
        scores: of each request's items, in order.
    """

    seconds: float
    latencies: list[float]
    scores: list[list[float]]

    @property
    def responses_per_second(self) -> float:
        """Scores over time."""
        return sum(map(len, self.scores)) / self.seconds


async def _drive(
    arm: Arm, work: Sequence[Sequence[Call]], connections: int
) -> tuple[float, list[tuple[float, list[bytes]]]]:
    """Post all calls; returns the seconds of all, and of each request with its replies."""
    done: list[tuple[float, list[bytes]]] = [(0.0, [])] * len(work)
    waiting = iter(enumerate(work))
    connector = aiohttp.TCPConnector(limit=connections)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(arm.url, connector=connector, timeout=timeout, headers=headers) as session:

        async def caller() -> None:
            for place, calls in waiting:
                began = time.perf_counter()
                replies = []
                for call in calls:
                    async with session.post(call.path, data=call.body) as reply:
                        body = await reply.read()
                        if reply.status != 200:
                            raise ReplyError(f"{arm.peer.label}: status {reply.status}: {body[:400]!r}")
                        replies.append(body)
                done[place] = (time.perf_counter() - began, replies)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(caller())
        return time.perf_counter() - began, done


def run_loop(arm: Arm, requests: Sequence[Sequence[Item]], connections: int) -> Loop:
    """Score all requests; bodies are encoded before the clock starts and replies read after it stops.

    Raises:
        ReplyError: an error, a reply of another form, a missing score or one that is not finite.
    """
    work = [arm.peer.calls(items) for items in requests]
    try:
        seconds, done = asyncio.run(_drive(arm, work, connections))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    scores = [checked(arm, items, replies) for items, (_, replies) in zip(requests, done, strict=True)]
    return Loop(seconds, [latency for latency, _ in done], scores)


def checked(arm: Arm, items: Sequence[Item], replies: Sequence[bytes]) -> list[float]:
    """The scores of one request: as many as items, and all finite.

    Raises:
        ReplyError: they are not.
    """
    try:
        scores = arm.peer.scores([json.loads(reply) for reply in replies])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ReplyError(f"{arm.peer.label}: a reply of another form: {error!r}") from error
    if len(scores) != len(items) or not all(map(math.isfinite, scores)):
        raise ReplyError(f"{arm.peer.label}: {len(scores)} scores for {len(items)} items, or some that are not finite")
    return scores
