"""A request's time begins with its headers, and covers the reading of its body and the writing of its reply."""

import contextlib
import json
import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from tests.service.api.wire import head, replies
from tests.service.doubles import PATIENCE
from tests.service.serving import serving

LARGE = [f"{number}" for number in range(250)]
"""Responses whose ranking is a reply of more than 64 KB."""


@pytest.fixture
def served(pocket_bundle):
    with serving(pocket_bundle) as served:
        yield served


@pytest.fixture
def callers():
    with ThreadPoolExecutor(2) as executor:
        yield executor


@contextlib.contextmanager
def busy(thread: Executor):
    """A thread that has something else to do."""
    done = threading.Event()
    waiting = thread.submit(done.wait, PATIENCE)
    try:
        yield
    finally:
        done.set()
        waiting.result()


def send_slowly(served, **options) -> dict:
    body = json.dumps({"prompt": "p", "responses": ["a"], **options}).encode()
    with served.connect() as connection:
        connection.sendall(head(length=len(body)))
        served.until("assay_http_requests_in_flight", 1)
        time.sleep(0.2)
        connection.sendall(body)
        (reply,) = replies(connection, 1)
        return reply.json


def test_the_time_that_a_body_takes_to_arrive_counts(served):
    assert send_slowly(served)["timing"]["total_ms"] >= 200
    assert send_slowly(served, timeout_ms=150)["error"]["code"] == "deadline_exceeded"


def test_the_time_that_a_body_waits_to_be_read_counts(served, callers):
    body = json.dumps({"prompt": "p", "responses": ["a"], "timeout_ms": 100}).encode() + b" " * 2**17
    with busy(served.context.body_thread):
        call = callers.submit(served.post, "/v1/score", body)
        time.sleep(0.3)
    reply = call.result()
    assert (reply.status, reply.error["code"]) == (504, "deadline_exceeded")


def test_a_reply_that_would_come_too_late_is_not_written(served, callers):
    with busy(served.context.reply_thread):
        call = callers.submit(served.post, "/v1/rank", {"prompt": "p", "responses": LARGE, "timeout_ms": 1000})
        time.sleep(1.2)
    reply = call.result()
    assert (reply.status, reply.error["code"]) == (504, "deadline_exceeded")
    assert "before its reply could be written" in reply.error["message"]


def test_a_body_does_not_wait_for_the_replies_of_others(served, callers):
    with busy(served.context.reply_thread):
        body = json.dumps({"prompt": "p", "responses": ["a"]}).encode() + b" " * 2**17
        assert callers.submit(served.post, "/v1/score", body).result(PATIENCE / 2).status == 200
