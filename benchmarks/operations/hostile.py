"""Slow and hostile clients: closed at a deadline by the server itself, and no harm to neighbours.

    python -m benchmarks.operations.hostile [--rounds N]

Honest callers score small groups at half of the rate that the server can do, whatever becomes of them: times are from
when a request was due, so that what holds up one is not left out of the next. Rounds alternate: quiet, and with all of
these at once: connections that send half of their headers, bodies that drip, headers of 2 MB, bodies of 60 MB announced
or in chunks, replies that nobody reads, and Debian's slowhttptest (slow headers and slow bodies).
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import select
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from benchmarks.arrivals import at_random
from benchmarks.result import Result, Row, Target, refuse_uncommitted
from benchmarks.server import serving
from benchmarks.verify_line import BUNDLE, ensure_bundle

CALLERS, LOAD = 4, 0.5
RECEIVE_TIMEOUT_S = 5
HALF_HEADERS, DRIPS, UNREAD = 200, 50, 20
MOST_SLOWER = 1.5
_HEAD = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_MIB, _LETTERS = b" " * 2**20, b"x" * 2**20


@dataclass
class Seen:
    """Of one kind of client.

    Attributes:
        open_seconds: how long each connection lasted until the server closed it.
        statuses: of replies that came before.
    """

    open_seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)


Attack = Callable[[asyncio.StreamWriter], Awaitable[None]]


def slowly(head: bytes, piece: bytes) -> Attack:
    """A beginning, and then a piece now and then, without an end."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            await asyncio.sleep(0.5)
            writer.write(piece)
            await writer.drain()

    return send


def much(head: bytes, piece: bytes, times: int, end: bytes = b"") -> Attack:
    """A beginning, so many pieces, and an end, as fast as it goes."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for _ in range(times):
            writer.write(piece)
            await writer.drain()
        writer.write(end)

    return send


ATTACKS: dict[str, tuple[Attack, int]] = {
    "half headers": (slowly(b"POST /v1/score HTTP/1.1\r\nHost: x\r\n", b"X-More: 1\r\n"), HALF_HEADERS),
    "dripping bodies": (slowly(_HEAD + b"Content-Length: 1000\r\n\r\n", b" "), DRIPS),
    "2 MB of headers": (much(_HEAD + b"X-Large: ", _LETTERS, 2, b"\r\n\r\n"), 4),
    "60 MB bodies": (much(_HEAD + b"Content-Length: %d\r\n\r\n" % (60 * len(_MIB)), _MIB, 60), 2),
    "60 MB in chunks": (
        much(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n" % (len(_MIB), _MIB), 60, b"0\r\n\r\n"), 2,
    ),
}  # fmt: skip
"""What each connection does, and how many there are at a time."""


async def attack(host: str, port: int, what: Attack, seen: Seen, ends: float) -> None:
    """One connection after the other until the time is up."""
    while time.monotonic() < ends:
        reader, writer = await asyncio.open_connection(host, port)
        began = time.monotonic()
        sending = asyncio.ensure_future(what(writer))
        try:
            reply = b""
            with contextlib.suppress(OSError):
                async with asyncio.timeout(60):
                    while part := await reader.read(4096):
                        reply += part
            seen.open_seconds.append(time.monotonic() - began)
            seen.statuses[reply[9:12].decode("latin-1") or "none"] += 1
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.close()
        await asyncio.sleep(0.5)  # a flood of connections is another matter


async def unread(host: str, port: int, seen: Seen, ends: float) -> None:
    """Asks for large replies, many at once, and reads none."""
    while time.monotonic() < ends:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # else the system takes megabytes for it
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (host, port))
        _, writer = await asyncio.open_connection(sock=connection, limit=1024)
        began = time.monotonic()
        assert isinstance(writer.transport, asyncio.ReadTransport)
        writer.transport.pause_reading()
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
            await asyncio.wait_for(writer.drain(), 60)
        watch = select.poll()
        watch.register(writer.get_extra_info("socket").fileno(), select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        while time.monotonic() < began + 60 and not watch.poll(0):
            await asyncio.sleep(0.1)
        seen.open_seconds.append(time.monotonic() - began)
        writer.transport.abort()


async def slowhttptest(url: str, seconds: float) -> str | None:
    """Its own word on whether the service was available; None where it is not installed."""
    if shutil.which("slowhttptest") is None:
        await asyncio.sleep(seconds)
        return None
    said = []
    for mode in ("-H", "-B"):
        with tempfile.TemporaryDirectory() as folder:
            process = await asyncio.create_subprocess_exec(
                "slowhttptest", mode, "-c", "200", "-r", "100", "-i", "1", "-l", str(int(seconds / 2)), "-p", "3",
                "-u", f"{url}/v1/score", cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, "TERM": "dumb"},
            )  # fmt: skip
            output = (await process.communicate())[0].decode(errors="replace")
        lines = [line for line in output.splitlines() if "service available" in line]
        said.append("YES" if lines and all("YES" in line for line in lines) else "NO")
    return ", ".join(said)


async def ask(session: aiohttp.ClientSession, number: int) -> None:
    """One request of a neighbour, which must be answered."""
    texts = [f"Answer {number} {place}: boil it for some minutes." for place in range(4)]
    async with session.post("/v1/score", json={"prompt": "How do I boil an egg?", "responses": texts}) as reply:
        reply.raise_for_status()
        assert len((await reply.json())["scores"]) == len(texts)


async def capacity(url: str, seconds: float) -> float:
    """Requests a second of a few callers in a closed loop."""
    ends, count = time.monotonic() + seconds, 0
    async with aiohttp.ClientSession(url) as session:

        async def caller() -> None:
            nonlocal count
            while time.monotonic() < ends:
                count += 1
                await ask(session, -count)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return count / seconds


async def honest(url: str, rate: float, seconds: float) -> list[float]:
    """Milliseconds from when each request of the neighbours was due, at a rate, to its scores."""
    async with aiohttp.ClientSession(url) as session:
        times = await at_random(rate, seconds, 0, lambda number: ask(session, number))
    return [1000 * took for took in times]


async def all_attacks(url: str, seconds: float) -> dict[str, Seen]:
    """All of them at once; gives what each kind saw."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    ends = time.monotonic() + seconds
    seen = {name: Seen() for name in (*ATTACKS, "unread replies")}
    attackers = [
        attack(address.hostname, address.port, what, seen[name], ends)
        for name, (what, count) in ATTACKS.items()
        for _ in range(count)
    ]
    attackers += [unread(address.hostname, address.port, seen["unread replies"], ends) for _ in range(UNREAD)]
    generator = random.Random(0)

    async def later(attacker: Coroutine[Any, Any, None]) -> None:
        # Begun together, they would all be closed in one moment, and all come back in one: a flood every five seconds.
        await asyncio.sleep(generator.uniform(0, RECEIVE_TIMEOUT_S))
        await attacker

    await asyncio.gather(*map(later, attackers))
    return seen


async def hostile_round(url: str, rate: float, seconds: float, seen: dict[str, Seen]) -> tuple[list[float], str | None]:
    """The neighbours' times while all attacks go on, from a process that takes no processor time from them."""
    command = ["nice", "-n", "19", sys.executable, "-m", "benchmarks.operations.hostile", "--attack", url]
    process = await asyncio.create_subprocess_exec(*command, "--seconds", str(seconds), stdout=asyncio.subprocess.PIPE)
    tool = asyncio.ensure_future(slowhttptest(url, seconds))
    times = await honest(url, rate, seconds)
    said = await tool
    output, _ = await process.communicate()
    for name, found in json.loads(output).items():
        seen[name].open_seconds += found["open_seconds"]
        seen[name].statuses.update(found["statuses"])
    return times, said


async def measure(url: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Rounds by turns."""
    seen = {name: Seen() for name in (*ATTACKS, "unread replies")}
    quiet, loud, said = [], [], []
    await capacity(url, 3)
    rate = LOAD * await capacity(url, 5)
    for _ in range(rounds):
        quiet.append(await honest(url, rate, seconds))
        times, word = await hostile_round(url, rate, seconds, seen)
        loud.append(times)
        said.append(word)
    ratios = [float(np.quantile(b, 0.99) / np.quantile(a, 0.99)) for a, b in zip(quiet, loud, strict=True)]
    return {
        "p99_ms": {
            name: [float(np.quantile(times, 0.99)) for times in every]
            for name, every in (("quiet", quiet), ("loud", loud))
        },
        "p50_ms": {
            name: [statistics.median(times) for times in every] for name, every in (("quiet", quiet), ("loud", loud))
        },
        "rate": rate,
        "requests": {"quiet": sum(map(len, quiet)), "loud": sum(map(len, loud))},
        "ratios": ratios,
        "slowhttptest_service_available": said,
        "open_seconds": {name: max(kind.open_seconds, default=0.0) for name, kind in seen.items()},
        "connections": {name: len(kind.open_seconds) for name, kind in seen.items()},
        "statuses": {name: dict(kind.statuses) for name, kind in seen.items()},
    }


def run(quick: bool, rounds: int | None = None) -> Result:
    """Against the default model with a deadline of a few seconds for requests to arrive."""
    ensure_bundle()
    rounds = rounds or (2 if quick else 5)
    with serving(BUNDLE, receive_timeout_s=str(RECEIVE_TIMEOUT_S), threads="1") as url:
        figures = asyncio.run(measure(url, rounds, 15.0 if quick else 30.0))
    longest: dict[str, float] = figures["open_seconds"]
    ratios: list[float] = figures["ratios"]
    statuses: dict[str, dict[str, int]] = figures["statuses"]
    said: list[str | None] = figures["slowhttptest_service_available"]
    expected = {"2 MB of headers": {"431"}, "60 MB bodies": {"413"}, "60 MB in chunks": {"413"}}
    # Some see a reset before the reply: they were still sending.
    wrong = [
        name
        for name, codes in expected.items()
        if set(statuses[name]) - codes - {"none"} or 2 * statuses[name].get("none", 0) > sum(statuses[name].values())
    ]
    idle = [name for name, count in figures["connections"].items() if not count]
    ratio = statistics.median(ratios)
    targets = [
        Target(
            f"hostile clients ({HALF_HEADERS} half headers, {DRIPS} dripping bodies, {UNREAD} unread replies, large "
            "ones): closed by the server",
            f"within {RECEIVE_TIMEOUT_S} s and some", f"the last after {max(longest.values()):.1f} s",
            max(longest.values()) <= RECEIVE_TIMEOUT_S + 3 and not idle,
        ),
        Target(
            "2 MB of headers, bodies of 60 MB: refused", "431 and 413, most of them before a reset",
            "; ".join(f"{name}: {statuses[name]}" for name in expected), not wrong,
        ),
        Target(
            f"neighbours at {LOAD:.0%} of the peak, from when a request was due: p99 beside all of them, over that "
            "without", f"at most {MOST_SLOWER:g}",
            f"{ratio:.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f})", ratio <= MOST_SLOWER,
        ),
    ]  # fmt: skip
    words = sorted({word or "not installed" for word in said})
    targets.append(
        Target(
            "slowhttptest, 200 slow headers, then bodies: service available", "YES in every round", "; ".join(words),
            words == ["YES, YES"],
        )
    )  # fmt: skip
    rows = [
        Row(f"neighbours of hostile clients, {name}", f"p50 {statistics.median(figures['p50_ms'][name]):.0f} ms, "
            f"p99 {statistics.median(figures['p99_ms'][name]):.0f} ms at {figures['rate']:.0f} requests a second")
        for name in ("quiet", "loud")
    ]  # fmt: skip
    return Result("hostile", quick, 0, targets, figures, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds of 15 s")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--attack", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.attack:
        found = asyncio.run(all_attacks(flags.attack, flags.seconds))
        print(json.dumps({name: vars(kind) for name, kind in found.items()}))
        sys.exit(0)
    refuse_uncommitted(flags.quick)
    run(flags.quick, flags.rounds).publish()
