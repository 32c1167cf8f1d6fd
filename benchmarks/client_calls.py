"""2,048 concurrent single calls: our client against bare aiohttp, in turn, against one small server.

    python -m benchmarks.client_calls [--quick]

The server is a process that answers at once with one fixed score, so that what is measured is the client: encoding,
connections, checking of the reply, deadlines. Bare aiohttp has all its calls in flight at once. Our client is run as it
comes, which is 16 requests in flight and the rest waiting within the client, and with all in flight too. Each makes the
same calls twice: with its connections to be made, and over those that are open.
"""

import argparse
import asyncio
import json
import multiprocessing
import multiprocessing.connection
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import aiohttp
from aiohttp import web

from assay_client import AsyncRewardClient
from benchmarks.result import Result, Row, Target, refuse_uncommitted

SEED = 0
CALLS = 2048
LIMIT = 1.5
PROMPT, RESPONSE = "What is 15 % of 80?", "It is 12, since 10 % are 8 and 5 % are 4."
DIGEST = "0" * 64
REPLY = json.dumps(
    {
        "model": {"name": "fixed", "digest": DIGEST},
        "scores": [0.5],
        "scale": "raw",
        "details": [{"tokens": 20, "truncated": False, "tokens_removed": 0}],
        "usage": {"items": 1, "tokens": 20, "computed_tokens": 20},
        "timing": {"total_ms": 1.0, "tokenize_ms": 0.1, "queue_ms": 0.1, "infer_ms": 0.5},
    }
).encode()
MODEL = json.dumps(
    {"model": {"name": "fixed", "digest": DIGEST}, "limits": {"body_bytes": 2**24, "items_per_request": 256}}
).encode()


@dataclass(frozen=True)
class Seconds:
    """How long all calls took: with connections to be made, and over those that were there."""

    connecting: float
    connected: float


def serve(address: multiprocessing.connection.Connection) -> None:
    """Answer every post with the fixed score, for ever."""

    async def score(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=REPLY, content_type="application/json")

    async def model(request: web.Request) -> web.Response:
        return web.Response(body=MODEL, content_type="application/json")

    async def run() -> None:
        application = web.Application()
        application.router.add_post("/v1/score", score)
        application.router.add_get("/v1/model", model)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=2 * CALLS).start()
        address.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()

    asyncio.run(run())


async def ours(url: str, calls: int) -> Seconds:
    """All calls by `AsyncRewardClient` as it comes."""
    async with AsyncRewardClient(url) as client:
        return await timed(lambda: _score(client), calls)


async def ours_at_once(url: str, calls: int) -> Seconds:
    """The same, with all of them in flight."""
    async with AsyncRewardClient(url, max_concurrency=calls) as client:
        return await timed(lambda: _score(client), calls)


async def _score(client: AsyncRewardClient) -> float:
    return (await client.score(PROMPT, [RESPONSE]))[0]


async def bare(url: str, calls: int) -> Seconds:
    """The same posts by an aiohttp session that parses the JSON of the reply and checks nothing."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def post() -> float:
            body = {"prompt": PROMPT, "responses": [RESPONSE]}
            async with session.post(f"{url}/v1/score", json=body) as reply:
                found: float = (await reply.json())["scores"][0]
                return found

        return await timed(post, calls)


async def timed(call: Callable[[], Awaitable[float]], calls: int) -> Seconds:
    """All calls at once, twice.

    Raises:
        AssertionError: a score is another.
    """
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        scores = await asyncio.gather(*(call() for _ in range(calls)))
        taken.append(time.perf_counter() - began)
        assert scores == [0.5] * calls
    return Seconds(*taken)


def run(quick: bool) -> Result:
    """Rounds of both, in turn; the ratio is taken within a round."""
    rounds, calls = (3, 256) if quick else (15, CALLS)
    reader, writer = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(writer,), daemon=True)
    server.start()
    url = reader.recv()
    arms = (ours, ours_at_once, bare)
    order = random.Random(SEED)
    try:
        for arm in arms:
            asyncio.run(arm(url, calls))  # warm-up
        taken = []
        for _ in range(rounds):
            seconds = {arm.__name__: asyncio.run(arm(url, calls)) for arm in order.sample(arms, len(arms))}
            taken.append(seconds)
    finally:
        server.terminate()
        server.join()
    targets, rows = [], []
    for part, connections in (("connecting", "connections to be made"), ("connected", "connections open")):
        title = f"{calls} concurrent single calls, {connections}, to bare aiohttp"
        as_it_comes, at_once = (
            [getattr(seconds[arm.__name__], part) / getattr(seconds["bare"], part) for seconds in taken]
            for arm in (ours, ours_at_once)
        )
        held = statistics.median(as_it_comes) <= LIMIT
        name = f"client as it comes, 16 requests in flight: {title}"
        targets.append(Target(name, f"at most {LIMIT}x the time", _figure(as_it_comes), held))
        rows.append(Row(f"client with all in flight: {title}", _figure(at_once)))
    figures = {"calls": calls, "seconds": [{name: asdict(value) for name, value in row.items()} for row in taken]}
    return Result("client_calls", quick, SEED, targets, figures, rows)


def _figure(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)"


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="256 calls, three rounds")
    quick = parser.parse_args().quick
    refuse_uncommitted(quick)
    run(quick).publish()


if __name__ == "__main__":
    main()
