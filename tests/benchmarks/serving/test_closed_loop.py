import asyncio
import json
import subprocess
import threading
from typing import Any

import pytest
from aiohttp import web

from benchmarks.serving.arms import Arm
from benchmarks.serving.closed_loop import run_loop
from benchmarks.serving.peers.base import ReplyError
from benchmarks.serving.peers.scripts import PlainScript
from benchmarks.serving.rendering import Item


class Stub:
    """A server on the loopback that answers /score; `answer` maps texts to the body of the reply."""

    def __init__(self, answer: Any) -> None:
        self.url = ""
        self._answer = answer
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Stub":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _serve(self) -> None:
        async def handle(request: web.Request) -> web.Response:
            status, body = self._answer(json.loads(await request.read())["texts"])
            return web.json_response(body, status=status)

        async def serve() -> None:
            app = web.Application()
            app.router.add_post("/score", handle)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()

        self._loop.run_until_complete(serve())
        self._loop.close()


def arm_of(stub: Stub) -> Arm:
    process: subprocess.Popen[bytes] = None  # type: ignore[assignment]  # never signalled here
    return Arm(PlainScript(), stub.url, process)


def requests(count: int) -> list[list[Item]]:
    return [[Item("", "", (), "x" * n), Item("", "", (), "")] for n in range(count)]


def test_scores_come_in_the_order_of_the_requests():
    with Stub(lambda texts: (200, {"scores": [len(text) for text in texts]})) as stub:
        loop = run_loop(arm_of(stub), requests(20), 4)
    assert loop.scores == [[n, 0] for n in range(20)]
    assert len(loop.latencies) == 20 and min(loop.latencies) > 0
    assert loop.responses_per_second == pytest.approx(40 / loop.seconds)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((503, {"error": "busy"}), "status 503"),
        ((200, {"scores": [1.0]}), "1 scores for 2 items"),
        ((200, {"scores": [1.0, float("nan")]}), "not finite"),
        ((200, {"other": []}), "another form"),
    ],
)
def test_an_error_or_a_wrong_reply_ends_the_run(reply, message):
    with Stub(lambda texts: reply) as stub, pytest.raises(ReplyError, match=message):
        run_loop(arm_of(stub), requests(3), 2)
