"""Where the server listens: sockets, and the second server for probes and scrapes."""

import contextlib
import socket
from collections.abc import Iterator

import uvicorn


class OperationsServer(uvicorn.Server):
    """A server beside the main one, in its event loop, which leaves signals to it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet.

    Raises:
        OSError: naming the address and the reason.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    return listener


def listen(listener: socket.socket) -> None:
    """Listen, where two servers that were started together have both bound the address: the later one fails here.

    uvloop would go on without a listener.

    Raises:
        OSError: naming the address and the reason.
    """
    try:
        listener.listen()
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise _cannot_listen(host, port, error) from error


def address_of(listener: socket.socket, scheme: str = "http") -> str:
    """URL of a socket as a caller on this machine writes it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _cannot_listen(host: str, port: int, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    return OSError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port")
