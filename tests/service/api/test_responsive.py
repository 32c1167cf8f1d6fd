"""No request of legal size keeps the event loop, and with it the probes, from answering."""

import contextlib
import http.client
import json
import threading
import time

import pytest

from service.api.structure import MAX_MESSAGES, _outside_of_strings
from tests.service.doubles import PATIENCE
from tests.service.serving import serving

ATTEMPTS = 3
BOUND = 0.4
"""Seconds that a probe may take on a slow machine with two busy threads; each of these took more, up to 12."""

MESSAGE = b'{"role":"user","content":"x"}'


def messages(count: int) -> bytes:
    return b"[" + b",".join([MESSAGE] * count) + b"]"


def fields(count: int) -> bytes:
    return b",".join(b'"field%d":1' % number for number in range(count))


def pairs(count: int, prompt: bytes) -> bytes:
    return b'{"pairs":[' + b",".join([b'{"prompt":' + prompt + b',"response":"a"}'] * count) + b"]}"


HEAVY = {
    "a million unknown fields": (b'{"prompt":"p","responses":["a"],' + fields(900_000) + b"}", "/v1/score", 413),
    "unknown fields": (b'{"prompt":"p","responses":["a"],' + fields(80_000) + b"}", "/v1/score", 422),
    "unknown fields of a pair": (b'{"pairs":[{' + fields(80_000) + b"}]}", "/v1/score", 422),
    "unknown fields of a message": (b'{"prompt":[{' + fields(80_000) + b'}],"responses":["a"]}', "/v1/score", 422),
    "messages of every pair": (pairs(500, messages(1000)), "/v1/score", 413),
    "as many messages as may be": (pairs(1024, messages(MAX_MESSAGES // 1024)), "/v1/score", 422),
    "a million empty lists": (b'{"responses":[' + b"[]," * 4_000_000 + b"[]]}", "/v1/score", 413),
    "millions of numbers": (b'{"timeout_ms":[' + b"1," * 7_000_000 + b"1]}", "/v1/score", 413),
    "wrong comparisons": (b'{"comparisons":[' + b"{}," * 500 + b"{}]}", "/v1/compare", 422),
    "nothing but escapes": (b'{"prompt":"p","responses":["' + rb"\\" * 7_500_000 + b'"]}', "/v1/score", 422),
    "a ranking": (json.dumps({"prompt": "p", "responses": [f"{n}" for n in range(1024)]}).encode(), "/v1/rank", 200),
    "a conversation with many ends": (
        b'{"prompt":' + messages(1024) + b',"responses":[' + b",".join([b'"a"'] * 1024) + b"]}", "/v1/score", 422,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def served(pocket_bundle):
    with serving(pocket_bundle) as served:
        yield served


def slowest_probe(served, until: threading.Event) -> float:
    """The longest that /live took, in seconds, asked one after the other on one connection."""
    slowest = 0.0
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as connection:
        while not until.is_set():
            began = time.perf_counter()
            connection.request("GET", "/live")
            connection.getresponse().read()
            slowest = max(slowest, time.perf_counter() - began)
    return slowest


@pytest.mark.parametrize("name", HEAVY)
def test_probes_do_not_wait_for_a_heavy_request(served, name):
    body, path, status = HEAVY[name]
    assert len(body) <= served.context.settings.max_body_bytes
    # A busy machine may hold up one probe; a loop that is blocked holds them up every time.
    assert min(slowest_beside(served, path, body, status) for _ in range(ATTEMPTS)) < BOUND


def slowest_beside(served, path: str, body: bytes, status: int) -> float:
    """The longest that a probe took while the request was answered, in seconds."""
    replies, done = [], threading.Event()

    def send():
        try:
            replies.append(served.post(path, body))
        finally:
            done.set()

    caller = threading.Thread(target=send)
    caller.start()
    slowest = slowest_probe(served, done)
    caller.join(PATIENCE)
    assert [reply.status for reply in replies] == [status]
    return slowest


def test_too_many_messages_are_told_where(served):
    reply = served.post("/v1/score", pairs(33, messages(1000)))
    assert (reply.status, reply.error["code"], reply.error["field"]) == (413, "too_many_items", "pairs.32.prompt")
    assert f"the {MAX_MESSAGES} chat messages of one request" in reply.error["message"]


def test_a_large_body_is_the_same_as_a_small_one(served):
    small = served.score("a", "b").json
    large = served.post("/v1/score", b'{"prompt":"p","responses":["a","b"]}' + b" " * 2**17).json
    assert large["scores"] == small["scores"]
    reply = served.post("/v1/score", b'{"prompt":"p","responses":["a",1]}' + b" " * 2**17)
    assert (reply.status, reply.error["field"]) == (422, "responses.1")
    assert served.post("/v1/score", b"[" * 2**17).error["code"] == "invalid_json"


@pytest.mark.parametrize("size", [1, 7, 2**18 - 1, 2**18, 2**18 + 1, 2**19 + 3])
@pytest.mark.parametrize("text", ["", "\\", '"', '\\"', ',[{:"', "\\\\,", "é", "\n"])
def test_strings_are_told_from_structure_wherever_they_are_cut(size, text):
    document = json.dumps({"a": "x" * size + text * 9, "b": [text, {"c": "\\" * size}]}).encode()
    outside = b"".join(_outside_of_strings(document))
    assert outside == b"{: , : [, {: }]}"
