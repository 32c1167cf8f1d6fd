"""The synchronous client: inside a loop, from threads, over a fork, and at the end of its life."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import assay_client as assay
from assay_client import RewardClient


def client_threads() -> int:
    return sum(thread.name == "assay-client" for thread in threading.enumerate())


def test_all_methods(server: Any) -> None:
    with RewardClient(server.url) as client:
        client.wait_until_ready(10)
        assert client.score("p", ["x-2", "x-1"], timeout=30).scores == (2.0, 1.0)
        assert client.score_pairs([("p", "x-3")]).scores == (3.0,)
        assert client.compare([("p", "x-3", "x-1")])[0].preferred == "a"
        assert client.rank("p", ["x-3", "x-4"]).order == (1, 0)
        assert client.model().limits.items_per_request == 64


async def test_inside_a_running_loop(server: Any) -> None:
    with RewardClient(server.url) as client:
        assert client.score("p", ["x-2"]).scores == (2.0,)


def test_from_several_threads(server: Any) -> None:
    with RewardClient(server.url) as client, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: client.score("p", [f"x-{i}"])[0], range(100)))
        assert client_threads() == 1
    assert results == list(range(100))
    assert client_threads() == 0


def test_errors_arrive_whole(server: Any) -> None:
    server.always = server.refuse(422, "empty_text", field="responses.0")
    with RewardClient(server.url) as client, pytest.raises(assay.InvalidRequestError) as caught:
        client.score("p", [""])
    assert (caught.value.field, caught.value.attempts, caught.value.status) == ("responses.0", 1, 422)


def test_closing_ends_the_calls_of_other_threads(server: Any) -> None:
    arrived = threading.Event()

    def step(request: Any, body: Any) -> Awaitable[bool]:
        arrived.set()
        return asyncio.Event().wait()

    server.always = step
    client = RewardClient(server.url)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.score, "p", ["x-1"])
        assert arrived.wait(10)
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result(10)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.score("p", ["x-1"])


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
def test_an_interrupt_cancels_the_request(server: Any) -> None:
    cancelled = threading.Event()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    async def wait_for_cancellation() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    server.always = lambda request, body: wait_for_cancellation()
    former = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with RewardClient(server.url) as client:
            with pytest.raises(KeyboardInterrupt):
                client.score("p", ["x-1"])
            assert cancelled.wait(10)
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_an_interrupt_while_the_call_is_handed_over_cancels_it(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, cancelled = threading.Event(), threading.Event()

    async def wait_for_cancellation() -> None:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    hand_over = asyncio.run_coroutine_threadsafe

    def interrupted(*arguments: Any) -> None:
        hand_over(*arguments)
        assert arrived.wait(10)
        raise KeyboardInterrupt

    server.always = lambda request, body: wait_for_cancellation()
    with RewardClient(server.url) as client:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.score("p", ["x-1"])
        assert cancelled.wait(10)


def test_a_forgotten_client_ends_its_thread(server: Any) -> None:
    client = RewardClient(server.url)
    client.score("p", ["x-1"])
    assert client_threads() == 1
    del client
    gc.collect()
    assert client_threads() == 0


def run(program: str, *arguments: str) -> str:
    """Run a program in a new interpreter, for its own exit and forks; any complaint on stderr fails."""
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_client_nobody_closed_leaves_without_complaint(server: Any) -> None:
    program = """
import sys
from assay_client import RewardClient
client = RewardClient(sys.argv[1])
print(client.score("p", ["x-1"]).scores)
"""
    assert run(program, server.url) == "(1.0,)\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit(0)"])
def test_a_forked_child_connects_anew_and_leaves_the_parent_in_peace(server: Any, leave: str) -> None:
    """The child's clean-up at exit must not touch the sockets it shares with its parent."""
    program = f"""
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks with threads.
from assay_client import RewardClient
client = RewardClient(sys.argv[1], timeout=20)
print("parent", client.score("p", ["x-1"]).scores, flush=True)
for number in (2, 3):
    child = os.fork()
    if child == 0:
        print("child", client.score("p", [f"x-{{number}}"]).scores, flush=True)
        {leave}
    assert os.waitpid(child, 0)[1] == 0
    print("parent", client.score("p", ["x-9"]).scores, flush=True)
client.close()
"""
    lines = run(program, server.url).splitlines()
    assert lines == ["parent (1.0,)", "child (2.0,)", "parent (9.0,)", "child (3.0,)", "parent (9.0,)"]
    assert len({seen.peer for seen in server.seen}) == 3, "the parent kept its connection, each child made one"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_asynchronous_client_connects_anew_in_a_forked_child(server: Any) -> None:
    program = """
import asyncio, gc, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from assay_client import AsyncRewardClient

async def main():
    async with AsyncRewardClient(sys.argv[1], timeout=20) as client:
        print((await client.score("p", ["x-1"])).scores, flush=True)
        child = os.fork()
        if child == 0:
            print(asyncio.run(client.score("p", ["x-2"])).scores, flush=True)
            gc.collect()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print((await client.score("p", ["x-3"])).scores, flush=True)

asyncio.run(main())
"""
    assert run(program, server.url).splitlines() == ["(1.0,)", "(2.0,)", "(3.0,)"]
    assert len({seen.peer for seen in server.seen}) == 2
