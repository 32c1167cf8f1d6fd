"""TLS before HTTP: certificates that are read again when they change, and handshakes that count as connections."""

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from pathlib import Path
from typing import Any

from service.api.protocol import LimitedProtocol
from service.reloading import Reloaded

_SHUTDOWN_SECONDS = 2
"""For a client to take what was written and to agree on the end; it may read nothing."""

Certificates = Reloaded[ssl.SSLContext]


def read_certificates(certificate: Path, key: Path) -> Certificates:
    """The context of the two files, made anew when they change: half of a pair must not spoil the one in use.

    Raises:
        ValueError: naming the files and the reason.
    """

    def read() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key, password=_no_password)
        return context

    try:
        return Reloaded("the certificate", [certificate, key], read)
    except (OSError, ValueError) as error:  # ssl's errors are of the first kind
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"tls_certificate {certificate} and tls_key {key} cannot be used: {reason}") from error


def _no_password() -> str:
    raise ValueError("the key has a password")


class TlsProtocol(SSLProtocol):
    """What the socket talks to, in front of the HTTP protocol; make one with `tls_protocol`.

    A server that is given the context itself tells of a connection only after the handshake. Whoever says nothing would
    never be counted, and stay for a minute: enough of those take every descriptor of the process.
    """

    # Of its buffer, which it has before the first byte comes; asyncio's own is four times as large.
    max_size = 2**16
    certificates: Certificates
    http: type[LimitedProtocol]
    connections: set["TlsProtocol"]

    def __init__(self, **options: Any) -> None:
        """`options` are uvicorn's, for the HTTP protocol."""
        self._http = self.http(**options)
        super().__init__(
            asyncio.get_running_loop(),
            self._http,
            self.certificates.value,
            waiter=None,  # type: ignore[arg-type]  # nobody waits
            server_side=True,
            # The stubs have whole seconds.
            ssl_handshake_timeout=self._http.handshake_seconds(len(self.connections)),  # type: ignore[arg-type]
            ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake, if there are not too many connections already."""
        self.connections.add(self)
        if not self._http.has_room(len(self.connections) - 1):
            assert hasattr(transport, "abort")
            transport.abort()
            return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        self.connections.discard(self)
        super().connection_lost(exc)


def tls_protocol(http: type[LimitedProtocol], certificates: Certificates) -> type[TlsProtocol]:
    """A protocol class for uvicorn's `http` option, in front of another one."""
    members = {"http": http, "certificates": certificates, "connections": set()}
    return type("TlsProtocol", (TlsProtocol,), members)
