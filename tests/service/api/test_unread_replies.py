"""Clients that do not read what they asked for, on real sockets."""

import contextlib
import json
import socket
import time

import pytest

from tests.service.api.wire import head
from tests.service.doubles import PATIENCE
from tests.service.serving import serving

ASKS = b"GET /v1/model HTTP/1.1\r\nHost: h\r\n\r\n"
CLOSING = ASKS[:-2] + b"Connection: close\r\n\r\n"


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
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", served.port))
        there = served.server.server_state.connections
        until = time.monotonic() + PATIENCE
        while not there or next(iter(there)).transport.get_write_buffer_size() < 20_000:
            assert time.monotonic() < until
            connection.sendall(ASKS)
            time.sleep(0.001)
        assert not next(iter(there)).flow.write_paused
        connection.sendall(last)
        while there:
            assert time.monotonic() < until, "the connection is kept for a reader that does not read"
            time.sleep(0.01)
