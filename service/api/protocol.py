"""HTTP parsing with the two limits that uvicorn does not have: header bytes, and time to arrive whole."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol with limits; make one with `limited_protocol`."""

    max_header_bytes: int
    receive_timeout_s: float
    on_refusal: Callable[[str], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_bytes = 0
        self._header_tail = b""
        self._in_headers = True
        self._receive_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection must bring its first request in time."""
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Count bytes until the headers are complete; a body's bytes are counted by the application."""
        if self._in_headers and self._header_bytes_with(data) > self.max_header_bytes:
            self._refuse(
                b"431 Request Header Fields Too Large", "headers_too_large",
                f"the request line and headers exceed {self.max_header_bytes} bytes; send less in headers",
            )  # fmt: skip
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins to arrive."""
        super().on_message_begin()
        if self._receive_deadline is None:
            self._arm()

    def on_headers_complete(self) -> None:
        """What follows is body."""
        self._in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there; the next bytes are another one's headers."""
        super().on_message_complete()
        self._disarm()
        self._header_bytes = 0
        self._header_tail = b""
        self._in_headers = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._disarm()
        super().connection_lost(exc)

    def _header_bytes_with(self, data: bytes) -> int:
        """Bytes of headers once `data` has come; what follows the blank line is body and does not count."""
        window = self._header_tail + data  # the blank line may be cut in two
        end = window.find(b"\r\n\r\n")
        self._header_bytes += len(data) if end < 0 else max(0, end - len(self._header_tail))
        self._header_tail = window[-3:]
        return self._header_bytes

    def _arm(self) -> None:
        self._receive_deadline = self.loop.call_later(self.receive_timeout_s, self._on_deadline)

    def _disarm(self) -> None:
        if self._receive_deadline is not None:
            self._receive_deadline.cancel()
            self._receive_deadline = None

    def _on_deadline(self) -> None:
        self._receive_deadline = None
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()
            return
        self._refuse(
            b"408 Request Timeout", "request_timeout", f"the request did not arrive within {self.receive_timeout_s:g} s"
        )

    def _refuse(self, status: bytes, code: str, message: str) -> None:
        """Reply without the application, which has not seen the request, and close."""
        self._disarm()
        if self.transport.is_closing():
            return
        type(self).on_refusal(code)
        body = json.dumps({"error": {"code": code, "message": message}}).encode()
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, len(body)) + body)
        self.transport.close()


def limited_protocol(
    max_header_bytes: int, receive_timeout_s: float, on_refusal: Callable[[str], None]
) -> type[LimitedProtocol]:
    """A protocol class for uvicorn's `http` option; `on_refusal` is told the code of each refusal."""
    members = {
        "max_header_bytes": max_header_bytes,
        "receive_timeout_s": receive_timeout_s,
        "on_refusal": staticmethod(on_refusal),
    }
    return type("LimitedProtocol", (LimitedProtocol,), members)
