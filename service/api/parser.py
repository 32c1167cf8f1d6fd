"""An HTTP/1.1 parser that goes on with HTTP/1.1 when the client offers another protocol.

A server may ignore `Upgrade` (RFC 9110, section 7.8), and clients that offer HTTP/2 count on it. httptools instead
ends the request at its headers, so that its body would be lost, or be taken for the next request.
"""

from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser

_FRAMING = (b"content-length", b"transfer-encoding")
"""The headers that say how long a body is."""


class PlainParser:
    """What uvicorn needs of httptools' parser; it passes to `protocol` what it would hear without the offer.

    Where httptools stops after the headers of a request, it is given headers once more, with those alone that say how
    long the body is. So httptools itself reads the body, by its own rules.
    """

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._framing: list[bytes] = []
        self._again = False  # these headers the protocol has had
        self.on_body = protocol.on_body  # before there is a parser, which looks for it when it is made
        self._parser = self._fresh()

    def _fresh(self) -> HttpRequestParser:
        parser = HttpRequestParser(self)
        # As uvicorn has it, so that the first of several requests is answered though it asks to close.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def get_http_version(self) -> str:
        """Such as "1.1"."""
        version: str = self._parser.get_http_version()
        return version

    def get_method(self) -> bytes:
        """Of the request whose headers are complete."""
        method: bytes = self._parser.get_method()
        return method

    def should_keep_alive(self) -> bool:
        """Whether the client wants more replies on this connection; asked when its headers are complete."""
        return bool(self._parser.should_keep_alive())

    def should_upgrade(self) -> bool:
        """Never: there is no other protocol here."""
        return False

    def feed_data(self, data: bytes) -> None:
        """Parse.

        Raises:
            HttpParserError: this is not HTTP.
        """
        rest = memoryview(data)  # a copy for each of many small requests would be quadratic
        while True:
            try:
                self._parser.feed_data(rest)
            except HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
                self._give_headers_again()
            else:
                return

    def _give_headers_again(self) -> None:
        lines = [b"POST / HTTP/%b" % self._parser.get_http_version().encode(), *self._framing, b"", b""]
        self._parser = self._fresh()  # the old one hears nothing more where the connection closes after the request
        self._again = True
        self._parser.feed_data(b"\r\n".join(lines))
        self._again = False

    def on_message_begin(self) -> None:
        """A request begins."""
        if not self._again:
            self._framing = []
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        if not self._again:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        if not self._again:
            if name.lower() in _FRAMING:
                self._framing.append(b"%b: %b" % (name, value))
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        """What follows is body."""
        if not self._again:
            self._protocol.on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there, unless httptools only takes it to end at its headers."""
        if not self._parser.should_upgrade():
            self._protocol.on_message_complete()
