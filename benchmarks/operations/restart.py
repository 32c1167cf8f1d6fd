"""Replace both replicas under load, again and again: no request may fail, come twice, or get another's scores.

    python -m benchmarks.operations.restart [--quick]

Two servers, first behind HAProxy (Debian's; a client without retries), then behind the SDK's own choice of server, and
then behind a name that the SDK resolves (`dns+http://`): there each replacement has another address, as pods have; it
comes under the name when it is ready, and the one before leaves it some seconds before its SIGTERM (preStop).
Requests come at 50 a second whatever happens, each with texts of its own, and every reply is compared with what the
texts score. Meanwhile each server is sent SIGTERM, waited for, and started again. What the servers say they accepted is
compared with what was asked for: a request that was scored twice would show there.
"""

import argparse
import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from assay_client import AsyncRewardClient
from benchmarks.result import Result, Row, Target, refuse_uncommitted
from benchmarks.server import free_port, metric
from benchmarks.verify_line import BUNDLE, ensure_bundle

RATE = 50.0
SAME = 1e-3
"""Scores of one text in another company, in fp32."""
PATIENCE_S = 120.0
PRE_STOP_S = 5.0
"""As k8s/base has it."""
NAME = "assay-headless.test"
_TEXTS = [f"An answer that says the number {number} in {number % 7} different ways." for number in range(40)]
_PROMPT = "Which number do you like?"

Call = Callable[[list[str]], Awaitable[list[float]]]


@dataclass
class Replica:
    """A server process on an address that stays."""

    port: int
    operations_port: int
    host: str = "127.0.0.1"
    process: asyncio.subprocess.Process | None = None
    accepted: float = 0.0
    statuses: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        """Start, and wait until it is ready."""
        flags = [f"--bundle={BUNDLE}", f"--host={self.host}", f"--port={self.port}"]
        flags += [f"--operations-port={self.operations_port}"]
        flags += ["--precision=fp32", "--threads=1", "--log-level=warning"]
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service", *flags, stdout=asyncio.subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE_S
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/ready") as reply:
                        if reply.status == 200:
                            return
                await asyncio.sleep(0.05)
        raise RuntimeError(f"the server at {self.url} was not ready within {PATIENCE_S:g} s")

    async def stop(self) -> None:
        """SIGTERM; what it has accepted is read until its end: its metrics are there longer than its listener."""
        assert self.process is not None
        self.process.terminate()
        last = 0.0
        async with aiohttp.ClientSession() as session:
            while self.process.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    last = await self.items(session)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.process.wait(), 0.02)
        self.accepted += last
        self.statuses.append(self.process.returncode)

    async def items(self, session: aiohttp.ClientSession) -> float:
        """Accepted since it was started."""
        return await metric(session, f"http://{self.host}:{self.operations_port}", "assay_request_samples_sum")


@dataclass
class Load:
    """What became of the requests.

    Attributes:
        asked: items.
        failed: errors, in words.
        wrong: replies that were not the scores of their texts, in their order.
        slowest: seconds.
    """

    requests: int = 0
    asked: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: int = 0
    slowest: float = 0.0


async def load(call: Call, expected: dict[str, float], stop: asyncio.Event) -> Load:
    """Requests at a fixed rate until told to stop."""
    found = Load()
    tasks: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        texts = [_TEXTS[(number + step) % len(_TEXTS)] for step in range(2 + number % 3)]
        began = time.monotonic()
        try:
            scores = await call(texts)
        except Exception as error:  # any failure is the figure
            found.failed.append(f"{type(error).__name__}: {error}"[:200])
            return
        found.slowest = max(found.slowest, time.monotonic() - began)
        right = len(scores) == len(texts) and all(
            abs(score - expected[text]) < SAME for score, text in zip(scores, texts, strict=True)
        )
        found.wrong += not right
        found.asked += len(texts)

    began = time.monotonic()
    while not stop.is_set():
        task = asyncio.create_task(one(found.requests))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        found.requests += 1
        await asyncio.sleep(max(0.0, began + found.requests / RATE - time.monotonic()))
    await asyncio.gather(*tasks)
    return found


@contextlib.asynccontextmanager
async def haproxy(replicas: list[Replica]) -> AsyncIterator[str]:
    """The address of a proxy that goes by /ready."""
    port = free_port()
    servers = "\n".join(
        f"    server replica{number} 127.0.0.1:{replica.port}" for number, replica in enumerate(replicas)
    )
    configuration = f"""
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
listen rewards
    bind 127.0.0.1:{port}
    balance leastconn
    option httpchk GET /ready
    default-server check inter 300ms fall 1 rise 1
{servers}
"""
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
        file.write(configuration)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            "haproxy", "-db", "-f", file.name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            await asyncio.sleep(1.0)  # for its first checks
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            await process.wait()


async def plain(session: aiohttp.ClientSession, url: str, texts: list[str]) -> list[float]:
    """One call without a retry."""
    async with session.post(f"{url}/v1/score", json={"prompt": _PROMPT, "responses": texts}) as reply:
        reply.raise_for_status()
        scores: list[float] = (await reply.json())["scores"]
        return scores


class Fleet:
    """Two replicas, and those that were."""

    def __init__(self) -> None:
        self.replicas = [Replica(free_port(), free_port()) for _ in range(2)]
        self.gone: list[Replica] = []

    async def replace_in_place(self, which: int) -> None:
        """Stop one and start it again where it was."""
        await self.replicas[which].stop()
        await self.replicas[which].start()

    async def replace_elsewhere(self, which: int, hosts: set[str]) -> None:
        """Start another one at a new address, as a rolling update does, before the old one leaves the name and ends."""
        old = self.replicas[which]
        new = Replica(old.port, old.operations_port, f"127.0.1.{len(self.gone) + 10}")
        await new.start()
        hosts.add(new.host)
        hosts.remove(old.host)
        self.replicas[which] = new
        self.gone.append(old)
        await asyncio.sleep(PRE_STOP_S)
        await old.stop()

    async def end(self) -> None:
        """End all that still run."""
        for replica in (*self.replicas, *self.gone):
            if replica.process is not None and replica.process.returncode is None:
                replica.process.terminate()
                await replica.process.wait()


@contextlib.contextmanager
def named(hosts: set[str]) -> Iterator[None]:
    """The name stands for these addresses at any time."""
    ask = socket.getaddrinfo

    def answer(host: str, *rest: Any, **more: Any) -> Any:
        return [found for each in (sorted(hosts) if host == NAME else [host]) for found in ask(each, *rest, **more)]

    socket.getaddrinfo = answer  # type: ignore[assignment]
    try:
        yield
    finally:
        socket.getaddrinfo = ask


async def measure(way: str, times: int) -> tuple[Load, float, list[int]]:
    """The load, the items that the servers say they accepted, and the statuses that they ended with."""
    fleet = Fleet()
    hosts: set[str] = set()
    if way == "name":
        port, operations_port = free_port(), free_port()
        fleet.replicas = [Replica(port, operations_port, f"127.0.1.{number}") for number in (1, 2)]
        hosts |= {replica.host for replica in fleet.replicas}
    await asyncio.gather(*(replica.start() for replica in fleet.replicas))
    stop = asyncio.Event()
    try:
        async with contextlib.AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            expected = dict(zip(_TEXTS, await plain(session, fleet.replicas[0].url, _TEXTS), strict=True))
            if way == "haproxy":
                url = await stack.enter_async_context(haproxy(fleet.replicas))

                async def call(texts: list[str]) -> list[float]:
                    return await plain(session, url, texts)
            else:
                stack.enter_context(named(hosts))
                urls = [replica.url for replica in fleet.replicas]
                client = await stack.enter_async_context(
                    AsyncRewardClient(urls if way == "sdk" else f"dns+http://{NAME}:{fleet.replicas[0].port}")
                )

                async def call(texts: list[str]) -> list[float]:
                    return list(await client.score(_PROMPT, texts))

            loading = asyncio.create_task(load(call, expected, stop))
            for which in list(range(2)) * times:
                if way == "name":
                    await fleet.replace_elsewhere(which, hosts)
                else:
                    await fleet.replace_in_place(which)
                await asyncio.sleep(1.5)  # until everybody has seen that it is back
            stop.set()
            found = await loading
            now = [await replica.items(session) for replica in fleet.replicas]
            before = [replica.accepted for replica in (*fleet.replicas, *fleet.gone)]
            accepted = sum(now) + sum(before) - len(_TEXTS)
    finally:
        await fleet.end()
    return found, accepted, [status for replica in (*fleet.replicas, *fleet.gone) for status in replica.statuses]


def missing_tools() -> list[str]:
    """What has to be installed first."""
    return [] if shutil.which("haproxy") else ["haproxy"]


def run(quick: bool) -> Result:
    """All ways."""
    ensure_bundle()
    times = 1 if quick else 3
    targets, rows, figures = [], [], {}
    ways = {
        "haproxy": "HAProxy, a client without retries",
        "sdk": "the SDK's choice of server",
        "name": "a name whose addresses change and that the SDK resolves",
    }
    for way, what in ways.items():
        found, accepted, statuses = asyncio.run(measure(way, times))
        bad = len(found.failed) + found.wrong
        targets += [
            Target(
                f"two replicas behind {what}, each replaced {times} times: requests that failed or got wrong scores",
                "0", f"{bad} of {found.requests}{': ' + found.failed[0] if found.failed else ''}", bad == 0,
            ),
            Target(
                f"two replicas behind {what}: items that the servers accepted, less those that were asked for",
                "0: nothing lost, nothing twice", f"{accepted - found.asked:+.0f} of {found.asked}",
                accepted == found.asked,
            ),
            Target(
                f"two replicas behind {what}: servers ended with status 0", "all",
                f"{statuses.count(0)} of {len(statuses)}", set(statuses) == {0} and len(statuses) == 2 * times,
                detail=True,
            ),
        ]  # fmt: skip
        rows.append(Row(f"rolling restart behind {what}: slowest request", f"{1000 * found.slowest:.0f} ms"))
        figures[way] = {**vars(found), "items_accepted": accepted}
    return Result("restart", quick, 0, targets, figures, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each replica is replaced once")
    flags = parser.parse_args()
    if missing_tools():
        sys.exit("haproxy: not installed; apt-get install haproxy")
    refuse_uncommitted(flags.quick)
    run(flags.quick).publish()
