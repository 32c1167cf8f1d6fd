"""HTTP parsing with what uvicorn's lacks: limits of headers, arrival time and connections, half-closed clients."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.middleware import OPEN_PATHS
from service.api.parser import PlainParser

_LINGER_SECONDS, _LINGER_BYTES = 1.0, 2**22
"""How long, and how much, a refused connection is still read from; see `LimitedProtocol._linger`."""

_FIRST_PROBE_SECONDS, _LONGEST_PROBE_SECONDS = 0.1, 5.0
"""Between two looks whether a client that sends nothing more is still there; see `LimitedProtocol._probe`."""

_TOO_MANY = "too_many_connections"
_SURPLUS, _SURPLUS_SECONDS = 64, 2.0
"""Connections over the limit that are still read from, for probes and to be told why; and how long for a request."""

_WRITE_BUFFER = 2**16
_READ_AHEAD = 4
"""Requests read while another one on their connection runs: who does not read does not hear that the client left."""


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol with limits; make one with `limited_protocol`."""

    max_header_bytes: int
    receive_timeout_s: float
    max_connections: int
    on_refusal: Callable[[str], None]
    is_stopping: Callable[[], bool]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = PlainParser(self)  # type: ignore[assignment]
        self.access_log = False  # uvicorn's has paths in it, and goes by whether a logger has handlers
        self._arriving = False  # between the first and the last byte of a request
        self._in_headers = True
        self._surplus = False  # there were too many connections when it came
        self._header_bytes = 0
        self._tail = b""  # of what came so far
        self._body_came = False
        self._unread: int | None = None  # once refused: bytes that may still come before the connection is cut
        self._stopping = False  # the server is
        self._running: Any = None  # the cycle that the application has; `cycle` is the last that began to arrive
        self._half_closed = False  # the client has closed its sending side
        self._lost = False  # the connection is
        self._receive_deadline: asyncio.TimerHandle | None = None
        self._send_deadline: asyncio.TimerHandle | None = None

    def has_room(self, connections: int) -> bool:
        """Whether there may be one more than so many; counts a refusal."""
        if connections < self.max_connections + _SURPLUS:
            return True
        type(self).on_refusal(_TOO_MANY)
        return False

    def handshake_seconds(self, connections: int) -> float:
        """How long one more than so many connections has until it is HTTP."""
        surplus = connections >= self.max_connections
        return min(self.receive_timeout_s, _SURPLUS_SECONDS) if surplus else self.receive_timeout_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection must bring its first request in time."""
        super().connection_made(transport)
        if not self.has_room(len(self.connections) - 1):
            transport.abort()
            return
        if type(self).is_stopping():  # a handshake that ended after the server had told all connections
            self._close()
            return
        if len(self.connections) > self.max_connections:
            self._surplus = True
            self.receive_timeout_s = min(self.receive_timeout_s, _SURPLUS_SECONDS)
        if not transport.can_write_eof():  # TLS keeps half a megabyte before it says that nobody reads
            transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Count bytes of headers; a body's bytes are counted by the application."""
        if self._unread is not None:
            self._unread -= len(data)
            if self._unread < 0:
                self._close()
            return
        in_body = not self._in_headers
        if not in_body:
            self._count_headers(data)
        self._tail = (self._tail + data[-3:])[-3:]
        if not in_body and self._too_many_headers():
            return
        self._body_came = False
        super().data_received(data)
        if in_body and not self._in_headers:  # what brings no body is the frame of a chunked one, or headers after it
            self._header_bytes = 0 if self._body_came else self._header_bytes + len(data)
            self._too_many_headers()
        elif self._unattended():
            self._arm()

    def on_message_begin(self) -> None:
        """A request begins to arrive."""
        super().on_message_begin()
        self._arriving = True
        if self._receive_deadline is None:
            self._arm()

    def on_headers_complete(self) -> None:
        """What follows is body."""
        if self._unread is not None:
            return
        if self._surplus and self.cycle is None and self.url.partition(b"?")[0].decode("latin-1") not in OPEN_PATHS:
            self._refuse(
                b"503 Service Unavailable", _TOO_MANY,
                f"{self.max_connections} connections are open, and no more are allowed; try again in a moment",
                retry_after_s=1,
            )  # fmt: skip
            return
        super().on_headers_complete()
        if self._surplus:
            self.cycle.keep_alive = False
        if 0 < len(self.pipeline) <= _READ_AHEAD:
            self.flow.resume_reading()
        self._in_headers = False
        self._header_bytes = 0

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_came = True
        if self.cycle is not None:  # else the connection was one too many
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there; the next bytes are another one's headers."""
        if self.cycle is None:  # the connection was one too many
            return
        super().on_message_complete()
        self._disarm()
        self._arriving = False
        self._in_headers = True
        self._header_bytes = 0

    def on_response_complete(self) -> None:
        """Go on with the next request, if there is to be one."""
        super().on_response_complete()
        self._bound_closing()
        if self._half_closed and not self._reply_due():
            self._close()
        elif self._stopping and self._bodiless():
            self._refuse_stopping()

    def shutdown(self) -> None:
        """The server stops: requests that are there get their replies, those that are not do not hold up the end."""
        self._stopping = True
        if self._bodiless():
            self._refuse_stopping()
        else:
            super().shutdown()
            self._bound_closing()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more; true to keep the connection until it has its replies."""
        if self._unread is not None or not self._reply_due() or not self.transport.can_write_eof():
            self.loop.call_soon(self._bound_closing)
            return False  # TLS has no half of a connection
        self._half_closed = True
        if not self._arriving:
            self.cycle.keep_alive = False
        self._probe(_FIRST_PROBE_SECONDS)
        return True

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _probe(self, pause: float) -> None:
        """See whether the client is still there, and look again after `pause` seconds.

        One that has closed its socket altogether looks the same as one that only has nothing more to send, until it is
        written to: then its system resets the connection. So it is told to continue, which any client must ignore.
        """
        if self.transport.is_closing() or not self._reply_due():
            return
        if not self._running.response_started and self._running.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.loop.call_later(pause, self._probe, min(2 * pause, _LONGEST_PROBE_SECONDS))

    def pause_writing(self) -> None:
        """The client does not read its reply: it may not keep it in our memory for ever."""
        super().pause_writing()  # type: ignore[no-untyped-call, unused-ignore]
        self._send_deadline = self.loop.call_later(self.receive_timeout_s, self._cut)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()  # type: ignore[no-untyped-call, unused-ignore]
        self._forget_send_deadline()
        self._bound_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines, and tell the application; uvicorn tells it of the last request alone."""
        self._lost = True
        self._disarm()
        self._forget_send_deadline()
        super().connection_lost(exc)
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for too long."""
        super().timeout_keep_alive_handler()
        self._bound_closing()

    def _close(self) -> None:
        self.transport.close()
        self._bound_closing()

    def _bound_closing(self) -> None:
        """A closed connection waits for its last bytes to be taken; one that takes none may not wait for ever."""
        if self.transport.is_closing() and self._send_deadline is None and not self._lost:
            self._send_deadline = self.loop.call_later(self.receive_timeout_s, self._cut)

    def _cut(self) -> None:
        """Close at once, by a reset: else the system keeps what was not read for minutes after the process let go."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            with contextlib.suppress(OSError, ValueError):  # it is gone already
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _forget_send_deadline(self) -> None:
        if self._send_deadline is not None:
            self._send_deadline.cancel()
            self._send_deadline = None

    def send_400_response(self, msg: str) -> None:
        """What uvicorn does when its parser gives up, in the form of every other error."""
        self._refuse(b"400 Bad Request", "invalid_http", "this is not valid HTTP/1.1")

    def _count_headers(self, data: bytes) -> None:
        """Add what of `data` comes up to the blank line; what follows it is body, or the next request."""
        end = (self._tail + data).find(b"\r\n\r\n")  # the blank line may be cut in two
        self._header_bytes += len(data) if end < 0 else end + 4 - len(self._tail)

    def _too_many_headers(self) -> bool:
        if self._header_bytes <= self.max_header_bytes:
            return False
        self._refuse(
            b"431 Request Header Fields Too Large", "headers_too_large",
            f"the request line and headers exceed {self.max_header_bytes} bytes; send less in headers",
        )  # fmt: skip
        return True

    def _unattended(self) -> bool:
        """Whether no timer watches the connection: any byte, even none of a request, stops uvicorn's keep-alive."""
        timers = self._receive_deadline or self.timeout_keep_alive_task
        busy = self._arriving or (self.cycle is not None and not self.cycle.response_complete)
        return timers is None and not busy and not self.transport.is_closing()

    def _reply_due(self) -> bool:
        """Whether an earlier request on this connection still waits for its reply."""
        earlier = self._in_headers and self.cycle is not None and not self.cycle.response_complete
        return earlier or bool(self.pipeline)

    def _bodiless(self) -> bool:
        """Whether nothing is due but the reply to a request that has not arrived whole."""
        answered = not self._in_headers and self.cycle.response_started
        return self._arriving and not self._reply_due() and not answered

    def _refuse_stopping(self) -> None:
        self._refuse(
            b"503 Service Unavailable", "draining",
            "the server is stopping and this request had not arrived; try another one", retry_after_s=1,
        )  # fmt: skip

    def _arm(self) -> None:
        self._receive_deadline = self.loop.call_later(self.receive_timeout_s, self._on_deadline)

    def _disarm(self) -> None:
        if self._receive_deadline is not None:
            self._receive_deadline.cancel()
            self._receive_deadline = None

    def _on_deadline(self) -> None:
        self._receive_deadline = None
        if self._reply_due():
            self._arm()  # nothing is read meanwhile, so the client is not to blame
        elif self._arriving:
            self._refuse(
                b"408 Request Timeout", "request_timeout",
                f"the request did not arrive within {self.receive_timeout_s:g} s",
            )  # fmt: skip
        else:
            self._close()  # not a byte of a request: nobody to reply to

    def _refuse(self, status: bytes, code: str, message: str, retry_after_s: int | None = None) -> None:
        """Reply without the application, which has not seen the whole request, and close."""
        self._disarm()
        if self.transport.is_closing():
            self._bound_closing()
            return
        type(self).on_refusal(code)
        if self._reply_due():  # ours would be taken for the reply to another request
            self._close()
            return
        if self._in_headers or not self.cycle.response_started:
            retry = {} if retry_after_s is None else {"retry_after_s": retry_after_s}
            body = json.dumps({"error": {"code": code, "message": message} | retry}).encode()
            head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % (status, len(body))
            if retry_after_s is not None:
                head += b"retry-after: %d\r\n" % retry_after_s
            self.transport.write(head + b"connection: close\r\n\r\n" + body)
        self._linger()

    def _linger(self) -> None:
        """Say that nothing more will be sent, and throw away what still comes, for a moment.

        A socket that is closed with bytes unread resets the connection, and the client may then lose the reply that
        says what was wrong (RFC 9112, section 9.6).
        """
        self._unread = _LINGER_BYTES
        if self.cycle is not None and not self.cycle.response_complete:  # the application must let go of it
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_reading()
        if not self.transport.can_write_eof():  # TLS: closing says so, and sends what was written
            self._close()
            return
        self.transport.write_eof()
        self._receive_deadline = self.loop.call_later(_LINGER_SECONDS, self._close)


def limited_protocol(
    max_header_bytes: int,
    receive_timeout_s: float,
    max_connections: int,
    on_refusal: Callable[[str], None],
    is_stopping: Callable[[], bool] = lambda: False,
) -> type[LimitedProtocol]:
    """A protocol class for uvicorn's `http` option.

    Args:
        max_header_bytes, receive_timeout_s, max_connections: see `service.settings`.
        on_refusal: is told the code of each refusal.
        is_stopping: whether connections that begin only now come too late.
    """
    members = {
        "max_header_bytes": max_header_bytes,
        "receive_timeout_s": receive_timeout_s,
        "max_connections": max_connections,
        "on_refusal": staticmethod(on_refusal),
        "is_stopping": staticmethod(is_stopping),
    }
    return type("LimitedProtocol", (LimitedProtocol,), members)
