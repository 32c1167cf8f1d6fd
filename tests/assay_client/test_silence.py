"""When a server counts as silent: in virtual time, and by what comes back on a real socket."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from assay_client import ConnectionFailedError, connection
from assay_client.connection import Connection
from assay_client.endpoints import Endpoint
from assay_client.errors import SILENT
from assay_client.settings import Settings
from assay_client.silence import PROBE_PAUSE_S, SILENCE_S, Watch
from tests.assay_client.virtual_time import VirtualLoop, run


class World:
    """One request of `takes` seconds, and a server that says nothing to a probe when `silent` does so."""

    def __init__(self, silent: Callable[[int], bool]) -> None:
        self.loop = VirtualLoop()
        self.probes: list[float] = []
        self._silent = silent

    async def _is_silent(self, endpoint: Endpoint) -> bool:
        self.probes.append(self.loop.time())
        return self._silent(len(self.probes) - 1)

    def request(self, takes: float, beside: Callable[[], Awaitable[None]] | None = None) -> str:
        async def work() -> str:
            watch = Watch(self._is_silent)
            others = [] if beside is None else [asyncio.ensure_future(beside())]
            try:
                return await watch.guard(Endpoint("http://h"), asyncio.sleep(takes, "scores"))
            finally:
                watch.close()
                for other in others:
                    other.cancel()

        return str(run(work(), self.loop))


def test_a_short_request_asks_nothing() -> None:
    world = World(lambda probe: True)
    assert world.request(SILENCE_S - 1) == "scores"
    assert not world.probes


def test_a_long_one_asks_now_and_then_and_is_waited_for() -> None:
    world = World(lambda probe: False)
    assert world.request(60) == "scores"
    assert len(world.probes) == 11


def test_two_silences_in_a_row_end_it_and_one_does_not() -> None:
    world = World(lambda probe: probe in (0, 3, 4))
    with pytest.raises(ConnectionFailedError, match="no longer answers /live") as failed:
        world.request(600)
    assert failed.value.code == SILENT
    assert world.loop.time() == world.probes[4]
    assert world.probes[4] - world.probes[3] == PROBE_PAUSE_S
    assert len(world.probes) == 5


def test_what_stalls_the_caller_is_not_the_servers_silence() -> None:
    world = World(lambda probe: True)

    async def busy() -> None:
        while True:  # computes on the loop: its clock goes on and nothing else runs
            await asyncio.sleep(0.01)
            world.loop._jumping.now += 6.0

    assert world.request(100, busy) == "scores"
    assert not world.probes


@pytest.fixture
async def listener() -> AsyncIterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


async def is_silent(url: str) -> bool:
    mine = Connection(Settings((url,), None, 10.0, 1, None, None, 0))
    try:
        return await mine._is_silent(Endpoint(url))
    finally:
        await mine.close()


async def reset_all(listener: socket.socket) -> None:
    while True:
        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_reset_is_an_answer(listener: socket.socket, scheme: str) -> None:
    resetting = asyncio.ensure_future(reset_all(listener))
    assert not await is_silent(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
    resetting.cancel()


async def test_a_refusal_is_an_answer(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    assert not await is_silent(f"http://127.0.0.1:{port}")


async def test_a_name_that_cannot_be_resolved_says_nothing_of_the_server() -> None:
    assert not await is_silent("http://name.invalid")


async def test_a_resolver_that_answers_nothing_says_nothing_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(connection, "LIVE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", hang)
    assert not await is_silent("http://localhost:9")


async def test_no_descriptor_left_says_nothing_of_the_server(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def out_of_files(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", out_of_files)
    assert not await is_silent(f"http://127.0.0.1:{listener.getsockname()[1]}")


async def test_a_connection_that_is_taken_and_never_answered_is_silence(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LIVE_TIMEOUT_S", 0.1)
    assert await is_silent(f"http://127.0.0.1:{listener.getsockname()[1]}")


async def test_no_way_to_the_machine_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_route(*_: object, **__: object) -> None:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", no_route)
    assert await is_silent("http://127.0.0.1:9")


async def test_a_probe_that_this_process_kept_waiting_says_nothing(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LIVE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(connection, "STALL_S", 0.05)
    asyncio.get_running_loop().call_later(0.02, time.sleep, 0.3)
    assert not await is_silent(f"http://127.0.0.1:{listener.getsockname()[1]}")
