"""The limits of the HTTP parser, on real sockets: header bytes, and time to arrive whole."""

import contextlib
import http.client
import json
import socket
import time

import pytest

from tests.service.api.wire import BODY, CHUNKED, head, parse, replies
from tests.service.doubles import PATIENCE, ScriptedSession
from tests.service.serving import JSON, read_raw, read_reply, serving

LIMIT = 4096
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
GONE = {"route": "/v1/score", "method": "POST", "status": "499"}


def padded(size: int, length: int = len(BODY)) -> bytes:
    """Headers that fill `size` bytes, the blank line's included."""
    without = len(head("X-Pad: ", length=length))
    return head("X-Pad: " + "x" * (size - without), length=length)


@pytest.fixture(scope="module")
def served(pocket_bundle):
    with serving(pocket_bundle, max_header_bytes=LIMIT) as served:
        yield served


@pytest.mark.parametrize("chunk", [1, 3, 1000, 10**6])
def test_headers_of_just_the_limit_pass(served, chunk):
    data = padded(LIMIT) + BODY
    with served.connect() as connection:
        for start in range(0, len(data), chunk):
            connection.sendall(data[start : start + chunk])
        (reply,) = replies(connection, 1)
        assert reply.status == 200


@pytest.mark.parametrize("chunk", [500, 10**6])
def test_larger_headers_are_refused(served, chunk):
    before = served.rejected().get("headers", 0)
    data = padded(LIMIT + 1) + BODY
    with served.connect() as connection:
        with contextlib.suppress(ConnectionError):  # it may close while we still send
            for start in range(0, len(data), chunk):
                connection.sendall(data[start : start + chunk])
        reply = parse(read_raw(connection))
    assert (reply.status, reply.error["code"]) == (431, "headers_too_large")
    assert f"exceed {LIMIT} bytes" in reply.error["message"]
    assert reply.headers["connection"] == "close"
    assert served.rejected()["headers"] == before + 1


def test_endless_headers_are_refused_long_before_they_end(served):
    with served.connect() as connection:
        sent = connection.send(b"GET /live HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 50 * 2**20:
                sent += connection.send(b"X-More: " + b"x" * 1000 + b"\r\n")
        assert sent < 50 * 2**20


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_blank_line_cut_in_two_with_a_large_body_behind(served, cut):
    body = json.dumps({"prompt": "p", "responses": ["a"] * 20_000}).encode()
    data = head(length=len(body))
    with served.connect() as connection:
        connection.sendall(data[:-cut])
        served.until("assay_http_requests_in_flight", 0)
        connection.sendall(data[-cut:] + body)
        (reply,) = replies(connection, 1)
        assert (reply.status, reply.error["code"]) == (413, "too_many_items")  # it was read whole


@pytest.mark.parametrize("cut", range(1, 5))
def test_the_same_behind_another_request(served, cut):
    body = json.dumps({"prompt": "p", "responses": ["a"] * 20_000}).encode()
    data = head(length=len(body))
    with served.connect() as connection:
        connection.sendall(head()[:-2])
        served.until("assay_http_requests_in_flight", 0)
        connection.sendall(b"\r\n" + BODY + data[:-cut])  # begins in headers, ends in other headers
        (first,) = replies(connection, 1)
        connection.sendall(data[-cut:] + body)
        (second,) = replies(connection, 1)
        assert (first.status, second.status) == (200, 413)


def test_a_connection_is_used_again_and_again(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    for _ in range(20):  # their headers together are more than the limit
        connection.request("POST", "/v1/score", BODY, JSON | {"X-Pad": "x" * 1000})
        assert read_reply(connection).status == 200
    connection.close()


def test_pipelined_requests_are_answered_in_order(served):
    paths = ["/v1/model", "/live", "/nothing", "/ready"] * 3
    with served.connect() as connection:
        connection.sendall(b"".join(head(method="GET", path=path, length=0) for path in paths))
        assert [reply.status for reply in replies(connection, 12)] == [200, 200, 404, 200] * 3


def test_the_limit_holds_for_a_later_request_too(served):
    with served.connect() as connection:
        connection.sendall(head() + BODY)
        replies(connection, 1)
        with contextlib.suppress(ConnectionError):
            connection.sendall(padded(LIMIT + 1))
        assert parse(read_raw(connection)).status == 431


def test_headers_after_a_chunked_body_are_limited_too(served):
    chunked = (
        b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with served.connect() as connection:
        connection.sendall(chunked + b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY))
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 50 * 2**20:
                sent += connection.send(b"X-More: " + b"x" * 1000 + b"\r\n")
        assert sent < 50 * 2**20


def test_a_chunked_body_in_many_small_pieces(served):
    with served.connect() as connection:
        connection.sendall(head().replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked"))
        for byte in BODY:
            connection.sendall(b"1;extension=" + b"e" * 200 + b"\r\n")
            connection.sendall(bytes([byte]) + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert replies(connection, 1)[0].status == 200


def test_continue_is_sent_when_the_body_is_wanted(served):
    with served.connect() as connection:
        connection.sendall(head("Expect: 100-continue"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert replies(connection, 1)[0].status == 200


@pytest.mark.parametrize(
    "data",
    [b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
     b"GET  HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
     b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
     b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_gets_a_typed_error(served, data):
    before = served.rejected().get("invalid_http", 0)
    with served.connect() as connection:
        connection.sendall(data)
        reply = parse(read_raw(connection))
    assert (reply.status, reply.error["code"]) == (400, "invalid_http")
    assert served.rejected()["invalid_http"] == before + 1


class TestHalfClosed:
    """A client that sends nothing more waits for its replies, or has left."""

    @pytest.fixture
    def session(self):
        return ScriptedSession()

    @pytest.fixture
    def served(self, pocket_bundle, session):
        with serving(pocket_bundle, session) as served:
            session.pass_warm_up()
            yield served

    def test_it_gets_its_reply(self, served):
        with served.connect() as connection:
            connection.sendall(head() + BODY)
            connection.shutdown(socket.SHUT_WR)
            raw = read_raw(connection)
        assert parse(raw.removeprefix(CONTINUE)).status == 200

    def test_it_gets_its_reply_after_a_long_batch(self, served, session):
        session.hold()
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/score", BODY, JSON)
            session.wait_for_batch()
            connection.sock.shutdown(socket.SHUT_WR)
            for _ in range(3):  # it is told that it is heard, now and then
                assert connection.sock.recv(len(CONTINUE), socket.MSG_WAITALL) == CONTINUE
            session.let_go()
            reply = read_reply(connection)
            assert (reply.status, reply.headers["connection"]) == (200, "close")

    def test_it_gets_all_its_replies(self, served):
        paths = ["/v1/model", "/nothing", "/ready"]
        with served.connect() as connection:
            connection.sendall(b"".join(head(method="GET", path=path, length=0) for path in paths))
            connection.shutdown(socket.SHUT_WR)
            assert [reply.status for reply in replies(connection, 3)] == [200, 404, 200]
            assert read_raw(connection) == b""

    @pytest.mark.parametrize("sent", [b"", head()[:20], head() + BODY[:5]])
    def test_what_has_not_arrived_gets_none(self, served, sent):
        with served.connect() as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert read_raw(connection) == b""

    @pytest.mark.parametrize("then", [b"", head()[:20], head(), head() + BODY, (head() + BODY) * 3])
    def test_one_that_has_left_is_found_out(self, served, session, then):
        left = served.context.metrics.registry.get_sample_value("assay_http_requests_total", GONE) or 0
        session.hold()
        with served.connect() as connection:
            connection.sendall(head() + BODY + then)
            session.wait_for_batch()
        served.until("assay_http_requests_total", left + 1, **GONE)
        session.let_go()


class TestStopping:
    """The server stops while requests are under way."""

    @pytest.mark.parametrize(
        "sent", [head()[:20], head() + BODY[:5], head().replace(b"Content-Length: %d" % len(BODY), CHUNKED) + b"5"]
    )
    def test_what_has_not_arrived_is_told_so_and_not_waited_for(self, pocket_bundle, sent):
        with serving(pocket_bundle) as served, served.connect() as connection:
            connection.sendall(sent)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            until = time.monotonic() + PATIENCE
            while not any(protocol._arriving for protocol in served.server.server_state.connections):
                assert time.monotonic() < until, "never arrived"
                time.sleep(0.002)
            if b"\r\n\r\n" in sent:
                served.until("assay_http_requests_in_flight", 1)
            served.server.stop()
            reply = parse(read_raw(connection))
            assert (reply.status, reply.error["code"], reply.error["retry_after_s"]) == (503, "draining", 1)
            assert (reply.headers["retry-after"], reply.headers["connection"]) == ("1", "close")
            served.until("assay_requests_rejected_total", 1, reason="draining")
            served.until("assay_request_bodies_held_bytes", 0)

    def test_behind_a_request_that_is_under_way(self, pocket_bundle):
        session = ScriptedSession()
        with serving(pocket_bundle, session) as served, served.connect() as connection:
            session.pass_warm_up()
            session.hold()
            connection.sendall(head() + BODY + head() + BODY[:5])
            session.wait_for_batch()
            served.server.stop()
            until = time.monotonic() + PATIENCE
            while not any(protocol._stopping for protocol in served.server.server_state.connections):
                assert time.monotonic() < until, "never told to stop"
                time.sleep(0.002)
            session.let_go()
            assert [reply.status for reply in replies(connection, 2)] == [200, 503]


class TestDeadline:
    """With 0.3 s for a request to arrive."""

    @pytest.fixture(scope="class")
    def session(self):
        return ScriptedSession()

    @pytest.fixture(scope="class")
    def served(self, pocket_bundle, session):
        with serving(pocket_bundle, session, receive_timeout_s=0.3, keep_alive_s=2) as served:
            session.pass_warm_up()
            yield served

    def drip(self, connection, data: bytes) -> bytes:
        """Send a byte now and then until the other side has had enough; what it said."""
        connection.settimeout(0.05)
        said, began = b"", time.monotonic()
        for byte in data:
            assert time.monotonic() - began < 5
            with contextlib.suppress(ConnectionError):
                connection.sendall(bytes([byte]))
            try:
                part = connection.recv(65536)
            except TimeoutError:
                continue
            if not part:
                break
            said += part
        return said

    def test_dripping_headers(self, served):
        before = served.rejected().get("slow_request", 0)
        with served.connect() as connection:
            reply = parse(self.drip(connection, head()))
        assert (reply.status, reply.error["code"]) == (408, "request_timeout")
        assert "within 0.3 s" in reply.error["message"]
        assert served.rejected()["slow_request"] == before + 1

    def test_a_dripping_body(self, served):
        before = served.rejected().get("slow_request", 0)
        with served.connect() as connection:
            connection.sendall(head())
            reply = parse(self.drip(connection, BODY))
        assert (reply.status, reply.error["code"]) == (408, "request_timeout")
        assert served.rejected()["slow_request"] == before + 1
        served.until("assay_http_requests_in_flight", 0)  # the application has let go of it

    def test_silence(self, served):
        before = served.rejected()
        with served.connect() as connection:
            began = time.monotonic()
            assert read_raw(connection) == b""
            assert 0.2 < time.monotonic() - began < 1.5
        assert served.rejected() == before  # there was no request

    @pytest.mark.parametrize("first", [b"", head() + BODY])
    def test_empty_lines_do_not_keep_a_connection(self, served, first):
        with served.connect() as connection:
            if first:
                connection.sendall(first)
                replies(connection, 1)
            connection.sendall(b"\r\n\r\n")
            began = time.monotonic()
            assert read_raw(connection) == b""
            assert time.monotonic() - began < 1.5

    def test_the_rest_of_a_refused_body_is_under_the_deadline_too(self, served):
        with served.connect() as connection:
            connection.sendall(head(length=2**30))
            (reply,) = replies(connection, 1)
            assert reply.status == 413
            assert self.drip(connection, b"x" * 100) == b""  # no second reply to the same request

    def test_a_connection_between_two_requests_has_longer(self, served):
        with served.connect() as connection:
            connection.sendall(head() + BODY)
            assert replies(connection, 1)[0].status == 200
            connection.settimeout(0.6)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(10)
            connection.sendall(head() + BODY)
            assert replies(connection, 1)[0].status == 200

    def test_a_second_request_that_drips(self, served):
        with served.connect() as connection:
            connection.sendall(head() + BODY)
            replies(connection, 1)
            assert parse(self.drip(connection, head())).status == 408

    def test_the_time_to_answer_does_not_count(self, served, session):
        session.hold()
        with served.connect() as connection:
            connection.sendall(head() + BODY)
            session.wait_for_batch()
            connection.settimeout(0.6)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            session.let_go()
            connection.settimeout(10)
            assert replies(connection, 1)[0].status == 200

    def test_a_pipelined_request_is_not_blamed_for_the_one_before(self, served, session):
        session.hold()
        with served.connect() as connection:
            connection.sendall(head() + BODY + head())  # the second one's body follows later
            session.wait_for_batch()
            connection.settimeout(0.6)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            session.let_go()
            connection.settimeout(10)
            connection.sendall(BODY)
            assert [reply.status for reply in replies(connection, 2)] == [200, 200]
