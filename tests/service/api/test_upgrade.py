"""A client that offers another protocol is served by this one, as if it had not offered it."""

import pytest

from tests.service.api.wire import BODY, CHUNKED, head, parse, replies
from tests.service.serving import read_raw, serving

OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")


@pytest.fixture(scope="module")
def served(pocket_bundle):
    with serving(pocket_bundle) as served:
        yield served


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize("offer", [OFFER, ("Connection: Upgrade", "Upgrade: websocket")])
def test_its_body_is_read(served, pause, offer):
    with served.connect() as connection:
        connection.sendall(head(*offer))
        if pause:
            served.until("assay_http_requests_in_flight", 1)
        connection.sendall(BODY)
        assert replies(connection, 1)[0].status == 200
        connection.sendall(head() + BODY)
        assert replies(connection, 1)[0].status == 200


@pytest.mark.parametrize("pause", [False, True])
def test_its_body_is_no_request(served, pause):
    inner = head(method="GET", path="/v1/model", length=0)
    with served.connect() as connection:
        connection.sendall(head(*OFFER, length=len(inner)))
        if pause:
            served.until("assay_http_requests_in_flight", 1)
        connection.sendall(inner + head("Connection: close") + BODY)
        assert [reply.status for reply in replies(connection, 2)] == [400, 200]
        assert read_raw(connection) == b""


@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_a_chunked_body(served, chunk):
    start = head(*OFFER).replace(b"Content-Length: %d" % len(BODY), CHUNKED)
    data = (start + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)) * 2
    with served.connect() as connection:
        for place in range(0, len(data), chunk):
            connection.sendall(data[place : place + chunk])
        assert [reply.status for reply in replies(connection, 2)] == [200, 200]


def test_without_a_body(served):
    asked = b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with served.connect() as connection:
        connection.sendall(asked * 3)
        assert [reply.status for reply in replies(connection, 3)] == [200] * 3


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("pause", [False, True])
def test_the_last_request_of_a_connection(served, pause, version):
    offer = head("Connection: close, Upgrade", "Upgrade: h2c").replace(b"HTTP/1.1", b"HTTP/" + version.encode())
    with served.connect() as connection:
        connection.sendall(offer)
        if pause:
            served.until("assay_http_requests_in_flight", 1)
        connection.sendall(BODY)
        assert parse(read_raw(connection)).status == 200


def test_the_last_request_without_a_body(served):
    with served.connect() as connection:
        connection.sendall(b"GET /live HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert parse(read_raw(connection)).status == 200


def test_a_length_and_chunks_are_refused_all_the_same(served):
    with served.connect() as connection:
        connection.sendall(head(*OFFER, "Transfer-Encoding: chunked") + BODY)
        assert parse(read_raw(connection)).status == 400
