"""Failures that are not the caller's: typed, traceable, and nobody else's."""

import contextlib
import http.client
import json
import logging
import time

import pytest

from service.engine.session import EngineError
from tests.service.doubles import ScriptedSession, fails
from tests.service.serving import JSON, in_background, serving

SECRET = "my very private text"


@pytest.fixture
def session():
    return ScriptedSession()


@pytest.fixture
def served(pocket_bundle, session):
    with serving(pocket_bundle, session, queue_items=50, max_items=50, max_batch_tokens=64) as served:
        session.pass_warm_up()
        yield served
        session.let_go()


def test_a_failed_batch(served, session):
    session.then(fails(EngineError("out of memory")))
    reply = served.score("a")
    assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "engine_failed", "1")
    assert "out of memory" in reply.error["message"]
    assert served.score("a").status == 200


def test_the_queue_is_full(served, session):
    session.hold()
    waits = [in_background(served.score, "a")]
    session.wait_for_batch()
    waits.append(in_background(served.score, "b"))
    served.until("assay_inflight_samples", 2)
    waits.append(in_background(served.score, *map(str, range(45))))
    served.until("assay_queue_samples", 45)
    reply = served.score(*"abcdef")
    assert (reply.status, reply.error["code"]) == (429, "queue_full")
    assert reply.headers["retry-after"] == "1"
    assert 0.1 <= reply.error["retry_after_s"] <= 60
    served.until("assay_saturation_ratio", 0.9)  # read from this thread, it may be caught between two steps of joining
    session.let_go()
    assert [wait().status for wait in waits] == [200, 200, 200]
    served.until("assay_queue_samples", 0)
    assert served.metric("assay_peak_samples") == 47  # an autoscaler that looks now sees what there was
    assert served.rejected() == {"queue_full": 1}


def test_the_time_is_up(served, session):
    session.hold()
    began = time.monotonic()
    reply = served.score("a", timeout_ms=50)
    assert (reply.status, reply.error["code"]) == (504, "deadline_exceeded")
    assert time.monotonic() - began < 5
    assert served.rejected() == {"deadline": 1}
    session.let_go()


def test_a_time_longer_than_allowed_is_cut(pocket_bundle, session):
    with serving(pocket_bundle, session, max_timeout_ms=50, default_timeout_ms=50) as served:
        session.hold()
        assert served.score("a", timeout_ms=1e9).status == 504
        session.let_go()


def test_the_unforeseen_is_a_traceable_500(served, monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(served.context.scorer, "score", broken)
    reply = served.post("/v1/score", {"prompt": "p", "responses": ["a"]}, {"X-Request-Id": "trace-me"})
    assert (reply.status, reply.error["code"], reply.error["request_id"]) == (500, "internal", "trace-me")
    assert "unforeseen" not in reply.error["message"]
    assert reply.headers["x-request-id"] == "trace-me"
    (record,) = (record for record in caplog.records if record.exc_info)
    assert record.name == "assay.access"
    labels = {"route": "/v1/score", "method": "POST", "status": "500"}
    served.until("assay_http_requests_total", 1, **labels)


def test_a_client_that_leaves_takes_its_work_along(served, session):
    session.hold()
    first = in_background(served.score, "a")
    session.wait_for_batch()
    second = in_background(served.score, "b")
    served.until("assay_inflight_samples", 2)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.request("POST", "/v1/score", json.dumps({"prompt": "p", "responses": [*"abcde"]}), JSON)
    served.until("assay_queue_samples", 5)
    connection.close()
    served.until("assay_queue_samples", 0)
    served.until("assay_samples_total", 5, model="pocket", outcome="cancelled")
    served.until("assay_http_requests_total", 1, route="/v1/score", method="POST", status="499")
    session.let_go()
    assert (first().status, second().status) == (200, 200)
    assert served.metric("assay_http_requests_in_flight") == 0
    assert served.rejected() == {}


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_bad_request(served):
    with contextlib.closing(served.connect()) as connection:
        head = b"POST /v1/score HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        connection.sendall(head + b'{"prompt')
        served.until("assay_http_requests_in_flight", 1)
    served.until("assay_http_requests_total", 1, route="/v1/score", method="POST", status="499")
    assert served.rejected() == {}


def test_logs_hold_no_text_of_a_caller(served, session, caplog):
    caplog.set_level(logging.DEBUG)
    served.score(SECRET)
    served.post("/v1/score", {"prompt": [{"role": "user", "content": SECRET}], "responses": [SECRET]})
    served.score(SECRET * 10)
    served.post("/v1/score", {"prompt": SECRET, "responses": 3, SECRET: 1})
    served.post("/v1/score", f'{{"prompt": {SECRET}')
    served.get(f"/{SECRET.replace(' ', '-')}")
    session.then(fails(EngineError("out of memory")))
    served.score(SECRET)
    served.until("assay_http_requests_in_flight", 0)
    said = "\n".join(record.getMessage() + repr(vars(record)) for record in caplog.records)
    assert "/v1/score" in said
    assert SECRET not in said
    assert SECRET.replace(" ", "-") not in said
