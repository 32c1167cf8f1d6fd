"""Clients that do not read what they asked for, on real sockets."""

import contextlib
import json
import socket
import time
from typing import Any

import pytest

from tests.service.api.wire import head
from tests.service.doubles import PATIENCE
from tests.service.serving import Served, serving

ASKS = b"GET /v1/model HTTP/1.1\r\nHost: h\r\n\r\n"
CLOSING = ASKS[:-2] + b"Connection: close\r\n\r\n"


def clog(served: Served, connection: socket.socket) -> set[Any]:
    """Connect and ask until some kilobytes of replies stay with the server; gives its connections, that one."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", served.port))
    there: set[Any] = served.server.server_state.connections
    until = time.monotonic() + PATIENCE
    while not there or next(iter(there)).transport.get_write_buffer_size() < 20_000:
        assert time.monotonic() < until
        connection.sendall(ASKS)
        time.sleep(0.001)
    return there


def test_a_reply_that_nobody_reads_is_given_up(pocket_bundle):
    """A ranking of many responses is a reply of megabytes: it must not stay in memory because its reader sleeps."""
    texts = [f"{number}" for number in range(900)]
    body = json.dumps({"prompt": "p", "responses": texts}).encode()
    with serving(pocket_bundle, receive_timeout_s=0.2, max_rank_items=900) as served, served.connect() as connection:
        connection.sendall(head(length=len(body), path="/v1/rank") + body)
        until = time.monotonic() + PATIENCE
        while not served.server.server_state.connections:
            assert time.monotonic() < until, "never connected"
        while served.server.server_state.connections:
            assert time.monotonic() < until, "the reply is kept for a reader that does not read"
            time.sleep(0.01)


@pytest.mark.parametrize("last", [b"", CLOSING])
def test_a_few_replies_that_nobody_reads_do_not_keep_their_connection(pocket_bundle, last):
    """Less than what a transport calls full: closing it would wait for ever for these bytes to be taken."""
    with (
        serving(pocket_bundle, receive_timeout_s=0.3, keep_alive_s=1) as served,
        contextlib.closing(socket.socket()) as connection,
    ):
        there, until = clog(served, connection), time.monotonic() + PATIENCE
        assert not next(iter(there)).flow.write_paused
        connection.sendall(last)
        while there:
            assert time.monotonic() < until, "the connection is kept for a reader that does not read"
            time.sleep(0.01)


def test_a_client_that_leaves_replies_unread_and_half_a_request_behind(pocket_bundle):
    """Its last bytes end the timer of idle connections, and its end comes before the request does."""
    with (
        serving(pocket_bundle, receive_timeout_s=0.3, keep_alive_s=1) as served,
        contextlib.closing(socket.socket()) as connection,
    ):
        there, until = clog(served, connection), time.monotonic() + PATIENCE
        connection.sendall(b"GET / HT")
        connection.shutdown(socket.SHUT_WR)
        while there:
            assert time.monotonic() < until, "the connection is kept for a reader that does not read"
            time.sleep(0.01)


def test_no_timer_is_left_when_a_connection_is_lost(pocket_bundle, caplog):
    with serving(pocket_bundle, receive_timeout_s=0.2) as served:
        for sent in (b"", b"GET / HT", ASKS, CLOSING, ASKS * 50, b"x\r\n\r\n"):
            with served.connect() as connection:
                connection.sendall(sent)
        time.sleep(0.5)  # longer than any of them
        served.get("/live")
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_headers_far_over_the_limit_are_told_so_before_the_connection_ends(pocket_bundle):
    """What was on its way must be read, or the client's system throws the reply away."""
    with serving(pocket_bundle) as served:
        for _ in range(5):
            with served.connect() as connection:
                with contextlib.suppress(OSError):
                    connection.sendall(b"GET /live HTTP/1.1\r\nX-Large: " + b"x" * 2**21 + b"\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 431 ")
