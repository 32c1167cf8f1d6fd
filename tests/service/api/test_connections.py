"""More connections than are allowed: they are told so, and probes are served all the same."""

import time

import pytest

from service.api import protocol
from tests.service.api.wire import BODY, head, parse, replies
from tests.service.doubles import PATIENCE
from tests.service.serving import read_raw, serving


@pytest.fixture
def served(pocket_bundle):
    with serving(pocket_bundle, max_connections=2) as served:
        yield served


@pytest.fixture
def full(served):
    """As many connections as there may be."""
    connections = [served.connect() for _ in range(2)]
    served.until("assay_http_connections", 2)
    yield connections
    for connection in connections:
        connection.close()


def test_one_more_is_refused(served, full):
    reply = served.score("a")
    assert (reply.status, reply.error["code"], reply.error["retry_after_s"]) == (503, "too_many_connections", 1)
    assert (reply.headers["retry-after"], reply.headers["connection"]) == ("1", "close")
    assert "2 connections are open" in reply.error["message"]
    assert served.rejected() == {"too_many_connections": 1}


def test_a_body_that_comes_with_it_or_later_is_thrown_away(served, full):
    for later in (False, True):
        with served.connect() as connection:
            connection.sendall(head() + (b"" if later else BODY + head() + BODY))
            if later:
                served.until("assay_requests_rejected_total", 2, reason="too_many_connections")
                connection.sendall(BODY)
            assert parse(read_raw(connection)).status == 503


def test_those_that_were_there_go_on(served, full):
    full[0].sendall(head() + BODY)
    assert replies(full[0], 1)[0].status == 200


def test_probes_are_served(served, full):
    for path in ("/live", "/ready", "/metrics?x=1"):
        reply = served.get(path)
        assert (reply.status, reply.headers["connection"]) == (200, "close")


def test_when_one_has_left_there_is_room(served, full):
    full.pop().close()
    served.until("assay_http_connections", 1)
    assert served.score("a").status == 200


def test_far_too_many_are_cut(served, full, monkeypatch):
    monkeypatch.setattr(protocol, "_SURPLUS", 0)
    with served.connect() as connection:
        assert read_raw(connection) == b""
    assert served.rejected() == {"too_many_connections": 1}


def test_one_too_many_that_says_nothing_does_not_stay(served, full, monkeypatch):
    monkeypatch.setattr(protocol, "_SURPLUS_SECONDS", 0.1)
    began = time.monotonic()
    with served.connect() as connection:
        assert read_raw(connection) == b""
    assert time.monotonic() - began < PATIENCE / 2
