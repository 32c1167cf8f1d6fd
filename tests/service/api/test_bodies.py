"""The bodies of all requests together are bounded, and given back in whatever way a request ends."""

import contextlib
import json
import time

import pytest
from pydantic import ValidationError

from service.api.bodies import BodyBudget
from service.settings import Settings
from tests.service.doubles import PATIENCE, ScriptedSession
from tests.service.serving import read_raw, serving

HELD = "assay_request_bodies_held_bytes"
LIMIT, ONE = 150_000, 100_000


def head(length: int) -> bytes:
    lines = ["POST /v1/score HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


def padded(size: int) -> bytes:
    """A good request of so many bytes."""
    body = json.dumps({"prompt": "p", "responses": ["a"]}).encode()
    return body + b" " * (size - len(body))


@pytest.fixture
def session():
    return ScriptedSession()


@pytest.fixture
def served(pocket_bundle, session):
    limits = {"max_body_bytes": ONE, "max_bodies_bytes": LIMIT, "receive_timeout_s": 5}
    with serving(pocket_bundle, session, **limits) as served:
        session.pass_warm_up()
        yield served
        session.let_go()


@contextlib.contextmanager
def half_sent(served, size: int):
    """A connection that has sent `size` bytes of a body and not the rest."""
    before = served.metric(HELD)
    with served.connect() as connection:
        connection.sendall(head(ONE) + padded(ONE)[:size])
        served.until(HELD, before + size)
        yield connection


def test_a_body_too_many_is_refused_until_there_is_room(served):
    with half_sent(served, 60_000) as first:
        reply = served.post("/v1/score", padded(ONE))
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "too_many_bodies", "1")
        assert f"larger than {LIMIT} bytes; try again" in reply.error["message"]
        served.until(HELD, 60_000)
        assert served.score("a").status == 200  # there is room for a small one
        assert served.get("/live").status == served.get("/ready").status == 200
        first.sendall(padded(ONE)[60_000:])
        assert first.recv(100).startswith(b"HTTP/1.1 200")
    served.until(HELD, 0)
    assert served.post("/v1/score", padded(ONE)).status == 200
    assert served.rejected() == {"too_many_bodies": 1}


def test_a_body_is_held_until_its_request_has_ended(served, session):
    session.hold()
    with served.connect() as connection:
        connection.sendall(head(ONE) + padded(ONE))
        session.wait_for_batch()
        assert served.metric(HELD) == ONE
        session.let_go()
        connection.recv(100)
    served.until(HELD, 0)


@pytest.mark.parametrize("size", [0, 1, 60_000])
def test_a_client_that_leaves(served, size):
    with half_sent(served, size):
        pass
    served.until(HELD, 0)


@pytest.mark.parametrize(
    "body", [padded(ONE), b"{" * ONE, b'{"prompt":"p"}'.ljust(ONE), b" " * (ONE + 1), b'{"a":1}'.ljust(ONE)]
)  # fmt: skip
def test_after_any_reply(served, body):
    for _ in range(3):
        assert served.post("/v1/score", body).status in (200, 400, 413, 422)
        served.until(HELD, 0)


def test_a_body_that_is_announced_and_never_comes_holds_nothing(served):
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(half_sent(served, 0))
        assert served.post("/v1/score", padded(ONE)).status == 200


def test_a_body_that_drips_is_given_up(pocket_bundle):
    limits = {"max_body_bytes": ONE, "max_bodies_bytes": ONE, "receive_timeout_s": 0.2}
    with serving(pocket_bundle, ScriptedSession(), **limits) as served, half_sent(served, 60_000) as connection:
        assert b" 408 " in read_raw(connection)[:20]
        served.until(HELD, 0)


def test_many_at_once_give_all_back(served):
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(half_sent(served, 40_000))
        began = time.monotonic()
        assert served.post("/v1/score", padded(ONE)).status == 503
        assert time.monotonic() - began < PATIENCE
    served.until(HELD, 0)


def test_a_share_is_given_back_once():
    budget = BodyBudget(10)
    first, second = budget.open(), budget.open()
    assert first.take(6)
    assert second.take(4)
    assert not second.take(1)
    first.close()
    first.close()
    assert budget.held == 4
    assert not first.take(1)  # it has ended
    second.close()
    assert budget.held == 0


def test_a_legal_body_must_fit():
    with pytest.raises(ValidationError, match=r"max_bodies_bytes \(2000\) is below max_body_bytes \(2001\)"):
        Settings(max_body_bytes=2001, max_bodies_bytes=2000)
