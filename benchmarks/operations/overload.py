"""Four times more than the server can do, from callers that do not wait for each other.

    python -m benchmarks.operations.overload [--seconds 300]

First the peak: so many callers in a closed loop that the engine is never idle. Then requests arrive at four times that
rate, each with a deadline of a few seconds, as workers have that would rather go on without a reward than wait. What
counts is what is scored in time; how soon the others are refused, and with what; how soon the server is itself again.
Nobody who is refused comes back. Of two shorter arms one has the server's own deadline, and one callers of the SDK,
who come back until their deadline.
"""

import argparse
import asyncio
import contextlib
import itertools
import logging
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

from assay_client import AssayError, AsyncRewardClient
from benchmarks.arrivals import at_random
from benchmarks.result import Result, Row, Target, refuse_uncommitted
from benchmarks.server import metric, serving
from benchmarks.verify_line import BUNDLE, ensure_bundle

RESPONSES = 16
"""Of one request."""
DEADLINE_MS = 4000
RETURNING = 0.85
"""Of the peak, from callers who come back: each time their texts are tokenized, on the cores that the engine uses."""
LEAST_ARM_S = 20.0
"""Of the shorter arms: some deadlines."""
TIMES = 4.0
CALLERS, WORKERS = 16, 32
"""In the closed loop, and clients of the SDK."""
_WORDS = (
    "water", "yolk", "soft", "hard", "minutes", "boil", "pan", "heat", "egg", "cold", "then", "wait", "until", "it",
)  # fmt: skip
_TIMEOUT = aiohttp.ClientTimeout(total=150)


@dataclass
class Load:
    """What became of the requests. Times in seconds.

    Attributes:
        scored: when each reply with scores ended that came within the deadline.
        late: replies with scores that did not.
        refused: how long each refusal took, by status.
        advised: seconds of each Retry-After; None where there was none.
        expired: replies that say that the deadline passed.
        other: anything else, which should not be.
    """

    scored: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    advised: list[float | None] = field(default_factory=list)
    expired: int = 0
    late: int = 0
    other: list[str] = field(default_factory=list)


def bodies(seed: int, **settings: Any) -> Iterator[dict[str, Any]]:
    """Requests, never the same twice; about 60 tokens a response."""
    generator = np.random.default_rng(seed)
    for number in itertools.count():
        texts = [" ".join(generator.choice(_WORDS, 60)) for _ in range(RESPONSES)]
        yield {"prompt": f"How do I boil egg number {number}?", "responses": texts, **settings}


async def one(session: aiohttp.ClientSession, body: dict[str, Any], found: Load) -> None:
    """Ask once, and note what came."""
    began = time.monotonic()
    try:
        async with session.post("/v1/score", json=body) as reply:
            content = await reply.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        found.other.append(f"{type(error).__name__}: {error}")
        return
    took = time.monotonic() - began
    if reply.status == 200 and took > body.get("timeout_ms", np.inf) / 1000:
        found.late += 1
    elif reply.status == 200:
        found.scored.append(time.monotonic())
    elif reply.status == 429:
        found.refused.append(took)
        given = reply.headers.get("Retry-After", "")
        found.advised.append(float(given) if given.isdecimal() else None)
    elif content["error"]["code"] == "deadline_exceeded":
        found.expired += 1
    else:
        found.other.append(f"{reply.status} {content['error']['code']}")


async def peak(session: aiohttp.ClientSession, work: Iterator[dict[str, Any]], seconds: float) -> float:
    """Requests a second in a closed loop."""
    found, ends = Load(), time.monotonic() + seconds

    async def caller() -> None:
        while time.monotonic() < ends:
            await one(session, next(work), found)

    began = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return len(found.scored) / (time.monotonic() - began)


async def idle(session: aiohttp.ClientSession) -> float:
    """Milliseconds of one small request, when there is nothing else; of several the median."""
    times = []
    for number in range(20):
        began = time.monotonic()
        async with session.post("/v1/score", json={"prompt": "p", "responses": [f"one {number}"]}) as reply:
            reply.raise_for_status()
            await reply.read()
        times.append(1000 * (time.monotonic() - began))
    return statistics.median(times)


async def resident(session: aiohttp.ClientSession) -> float:
    """Of the server, in MiB."""
    return await metric(session, "", "process_resident_memory_bytes") / 2**20


async def arrive(
    session: aiohttp.ClientSession, work: Iterator[dict[str, Any]], rate: float, seconds: float
) -> tuple[Load, list[float], float]:
    """Requests at a constant rate; gives what became of them, resident memory once a second, and when the last came."""
    found, tasks, memory = Load(), set[asyncio.Task[None]](), []
    began = time.monotonic()
    for number in itertools.count():
        due = began + number / rate
        if due > began + seconds:
            break
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(one(session, next(work), found))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if number % max(1, round(rate)) == 0:
            memory.append(await resident(session))
    ended = time.monotonic()
    await asyncio.gather(*tasks)
    return found, memory, ended


async def arrive_with_sdk(
    url: str, work: Iterator[dict[str, Any]], rate: float, seconds: float
) -> tuple[list[float], Counter[str]]:
    """The same by the SDK; gives the seconds from the first arrival until each was scored, and the errors of others."""
    logging.getLogger("assay_client").setLevel(logging.ERROR)  # a line for each of thousands of retries
    scored: list[float] = []
    failed = Counter[str]()
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncRewardClient(url, timeout=DEADLINE_MS / 1000, max_concurrency=64))
            for _ in range(WORKERS)
        ]
        await asyncio.gather(*(client.model() for client in clients))  # each asks for the limits once
        began = time.monotonic()

        async def ask(number: int) -> None:
            body = next(work)
            try:
                await clients[number % WORKERS].score(body["prompt"], body["responses"])
                scored.append(time.monotonic() - began)
            except AssayError as error:
                failed[type(error).__name__] += 1

        await at_random(rate, seconds, 0, ask)
    return scored, failed


async def recovery(session: aiohttp.ClientSession, since: float, usual: float) -> float:
    """Seconds from the last arrival until a small request takes no more than twice the idle time, five in a row."""
    good = 0
    while good < 5 and time.monotonic() - since < 300:
        began = time.monotonic()
        async with session.post("/v1/score", json={"prompt": "p", "responses": [f"{began}"]}) as reply:
            await reply.read()
        took = 1000 * (time.monotonic() - began)
        good = good + 1 if reply.status == 200 and took <= 2 * usual else 0
    return time.monotonic() - since


async def measure(url: str, seconds: float) -> dict[str, Any]:
    """Peak, overload, recovery."""
    work = bodies(0, timeout_ms=DEADLINE_MS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, timeout=_TIMEOUT, connector=connector) as session:
        await peak(session, work, 5)  # the server's caches and the scheduler's rate
        usual = await idle(session)
        best = await peak(session, work, min(30.0, seconds))
        before = await resident(session)
        overload = asyncio.create_task(arrive(session, work, TIMES * best, seconds))
        found, memory, ended = await overload
        back = await recovery(session, ended, usual)
        arm_s = max(LEAST_ARM_S, seconds / 5)
        patient, _, last = await arrive(session, bodies(1), TIMES * best, arm_s)
        done = [moment for moment in patient.scored if moment <= last]
        returning, given_up = await arrive_with_sdk(url, bodies(2), TIMES * best, arm_s)
        waited = {
            "seconds": arm_s,
            "goodput_requests_a_second": len(done) / arm_s,
            "refused": len(patient.refused),
            "scored_after_the_last_arrival": len(patient.scored) - len(done),
            "until_all_were_done_s": max(patient.scored, default=last) - last,
            "failed": len(patient.other) + patient.expired + patient.late,
            "other": patient.other[:5],
        }
    steady_s = arm_s - DEADLINE_MS / 1000  # the queue is full after a deadline
    sdk = {
        "seconds": arm_s,
        "goodput_requests_a_second": sum(DEADLINE_MS / 1000 <= when <= arm_s for when in returning) / steady_s,
        "scored": len(returning),
        "given_up": dict(given_up),
    }
    began = ended - seconds
    in_time = [moment for moment in found.scored if began + DEADLINE_MS / 1000 <= moment <= ended]
    goodput = len(in_time) / (seconds - DEADLINE_MS / 1000)
    refusals = np.array(found.refused or [np.inf])
    return {
        "peak_requests_a_second": best,
        "goodput_requests_a_second": goodput,
        "idle_ms": usual,
        "requests": len(found.scored) + len(found.refused) + found.expired + found.late + len(found.other),
        "scored": len(found.scored),
        "refused": len(found.refused),
        "expired": found.expired + found.late,
        "failed": len(found.other),
        "other": found.other[:5],
        "refusal_ms": {q: float(1000 * np.quantile(refusals, p)) for q, p in (("p50", 0.5), ("p99", 0.99))},
        "advised_s": sorted({advice for advice in found.advised if advice is not None}),
        "without_advice": sum(advice is None for advice in found.advised),
        "recovery_s": back,
        "default_deadline": waited,
        "sdk": sdk,
        "resident_mib": {"before": before, "most": max(memory), "last": memory[-1]},
    }


def run(quick: bool, seconds: float | None = None) -> Result:
    """Against the default model, whose server has a core and the load the other."""
    ensure_bundle()
    seconds = seconds or (40.0 if quick else 300.0)
    with serving(BUNDLE, threads="1") as url:
        figures = asyncio.run(measure(url, seconds))
    share = figures["goodput_requests_a_second"] / figures["peak_requests_a_second"]
    late, memory = figures["refusal_ms"]["p99"], figures["resident_mib"]
    advice = figures["advised_s"]
    usable = figures["refused"] > 0 and not figures["without_advice"] and 1 <= min(advice) <= max(advice) <= 60
    name = f"{TIMES:g} times the peak for {seconds:g} s, each with {DEADLINE_MS / 1000:g} s of time"
    targets = [
        Target(f"{name}: scored in time", "at least 0.95 of the peak", f"{share:.2f} of it", share >= 0.95),
        Target(f"{name}: time of a refusal, p99", "at most 50 ms", f"{late:.0f} ms", late <= 50),
        Target(
            f"{name}: refusals say when to come back", "all, in 1 to 60 s",
            f"{figures['refused'] - figures['without_advice']} of {figures['refused']}, "
            f"{min(advice, default=0):g} to {max(advice, default=0):g} s", usable,
        ),
        Target(
            f"{name}: until a small request takes at most twice its idle time", "at most 5 s after the last arrival",
            f"{figures['recovery_s']:.1f} s", figures["recovery_s"] <= 5,
        ),
        Target(
            f"{name}: resident memory", "bounded: at most 512 MiB more than before",
            f"{memory['before']:.0f} MiB before, at most {memory['most']:.0f}",
            memory["most"] - memory["before"] <= 512,
        ),
        Target(f"{name}: replies that are neither scores nor a typed refusal", "0", str(figures["failed"]),
               not figures["failed"]),
    ]  # fmt: skip
    waited, sdk = figures["default_deadline"], figures["sdk"]
    returning = sdk["goodput_requests_a_second"] / figures["peak_requests_a_second"]
    targets.append(
        Target(
            f"{TIMES:g} times the peak for {sdk['seconds']:g} s from the SDK, which comes back until the deadline: "
            "scored in time", f"at least {RETURNING:g} of the peak",
            f"{returning:.2f} of it; {sdk['scored']} scored, {sum(sdk['given_up'].values())} given up",
            returning >= RETURNING,
        )
    )  # fmt: skip
    rows = [
        Row(
            f"overload for {waited['seconds']:g} s with the server's own deadline",
            f"{waited['goodput_requests_a_second'] / figures['peak_requests_a_second']:.2f} of the peak; what then "
            f"waited took {waited['until_all_were_done_s']:.0f} s more, and {waited['failed']} failed",
        ),
        Row("overload: peak", f"{figures['peak_requests_a_second']:.1f} requests of {RESPONSES} a second"),
        Row("overload: accepted and too late", f"{figures['expired']} of {figures['requests']}"),
    ]
    return Result("overload", quick, 0, targets, figures, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 seconds")
    parser.add_argument("--seconds", type=float, help="of overload")
    flags = parser.parse_args()
    if flags.seconds is not None and flags.seconds < LEAST_ARM_S:
        parser.error(f"--seconds must be {LEAST_ARM_S:g} or more")
    refuse_uncommitted(flags.quick)
    run(flags.quick, flags.seconds).publish()
