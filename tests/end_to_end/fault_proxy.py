"""A TCP proxy that spoils connections: what a network, a balancer or a dying server does to them."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

_PIECE = 65536


@dataclass(frozen=True)
class Fault:
    """What happens to a connection. Bytes count from its beginning, seconds are for each piece.

    Attributes:
        latency_s: before every piece, both ways.
        piece: the most bytes passed on at once.
        reset_at: of the request: after so many bytes both sides get a reset.
        reset_reply_at: likewise, of the reply.
        half_close_at: after so many bytes of the reply the client sees its end, and the server may go on.
        half_open: the server sees the end of the request's side once the request is there.
        black_hole_at: after so many bytes of the request nothing passes any more, either way, and nothing closes.
        black_hole_reply_at: likewise, of the reply.
    """

    latency_s: float = 0.0
    piece: int = _PIECE
    reset_at: int | None = None
    reset_reply_at: int | None = None
    half_close_at: int | None = None
    half_open: bool = False
    black_hole_at: int | None = None
    black_hole_reply_at: int | None = None


HEALTHY = Fault()


class FaultProxy:
    """Stands before a server; the next `times` connections have the fault, later ones have none.

    Attributes:
        url: where it listens.
        connections: how many it has taken.
        spoilt: the first line of each request that went into a connection with a fault.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._fault, self._times = HEALTHY, 0.0
        self.url = ""
        self.connections = 0
        self.spoilt: list[str] = []
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def spoil(self, fault: Fault, times: float = float("inf")) -> None:
        """Spoil connections from now on."""
        self._fault, self._times = fault, times

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["FaultProxy"]:
        """Until the end of the block."""

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(reader, writer))
            self._clients[task] = writer
            task.add_done_callback(self._clients.pop)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            tasks = list(self._clients)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def hang_up(self) -> None:
        """Close what clients keep open, and wait until they have: their next request makes a new connection."""
        for writer in self._clients.values():
            writer.write_eof()
        await asyncio.gather(*self._clients)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        fault, self._times = (self._fault, self._times - 1) if self._times > 0 else (HEALTHY, 0)
        if fault.reset_at == 0:
            _reset(to_client)
            return
        server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        writers = to_client, to_server
        hole = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                heard = None if fault == HEALTHY else self.spoilt.append
                there = _Way(fault.reset_at, fault.black_hole_at, ends_with_headers=fault.half_open, heard=heard)
                back = _Way(fault.reset_reply_at, fault.black_hole_reply_at, fault.half_close_at)
                group.create_task(_pass(client, to_server, fault, there, writers, hole))
                group.create_task(_pass(server, to_client, fault, back, writers, hole))
        except* OSError:
            pass
        finally:
            for writer in writers:
                writer.close()


@dataclass(frozen=True)
class _Way:
    """What a fault does to one direction: see `Fault`."""

    reset_at: int | None
    hole_at: int | None
    end_at: int | None = None
    ends_with_headers: bool = False
    heard: Callable[[str], None] | None = None


async def _pass(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, fault: Fault, way: _Way,
    writers: tuple[asyncio.StreamWriter, ...], hole: asyncio.Event,
) -> None:  # fmt: skip
    """Pass on what comes, until the fault or the end."""
    passed = 0
    while piece := await source.read(fault.piece):
        if way.heard is not None and passed == 0:
            way.heard(piece.partition(b"\r\n")[0].decode())
        await asyncio.sleep(fault.latency_s)
        if hole.is_set():
            await asyncio.Event().wait()
        whole = passed + len(piece)
        if way.hole_at is not None and whole > way.hole_at:
            hole.set()
        stops = [at for at in (way.hole_at, way.reset_at, way.end_at) if at is not None and at <= whole]
        target.write(piece[: min(stops) - passed] if stops else piece)
        await target.drain()
        if hole.is_set():
            await asyncio.Event().wait()
        if way.reset_at is not None and whole >= way.reset_at:
            for writer in writers:
                _reset(writer)
            raise ConnectionResetError
        if (way.end_at is not None and whole >= way.end_at) or (way.ends_with_headers and b"\r\n\r\n" in piece):
            break
        passed = whole
    with contextlib.suppress(OSError):
        target.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a process that is killed with unread data does."""
    connection: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
