"""No request of legal size keeps the event loop, and with it the probes, from answering."""

import contextlib
import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.api.structure import MAX_MESSAGES
from tests.end_to_end.process import PATIENCE, server_process

BOUND = 0.3
"""Seconds that a probe may take, at best of a few times on a busy machine; with the most of these it took up to 12."""

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
def server(pocket_bundle, tmp_path_factory):
    with server_process(pocket_bundle, tmp_path_factory.mktemp("server"), "--max-rank-items", "1024") as server:
        yield server


def slowest_probe(server, path: str, body: bytes) -> tuple[int, float]:
    """Status of a heavy request, and the longest that /live took meanwhile, in seconds, asked again and again."""

    def send() -> int:
        with contextlib.closing(http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)) as connection:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            return response.status

    slowest = 0.0
    probe = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
    with ThreadPoolExecutor(1) as caller, contextlib.closing(probe):
        reply = caller.submit(send)
        while not reply.done():
            began = time.perf_counter()
            probe.request("GET", "/live")
            probe.getresponse().read()
            slowest = max(slowest, time.perf_counter() - began)
        return reply.result(), slowest


@pytest.mark.parametrize("name", HEAVY)
def test_probes_do_not_wait_for_a_heavy_request(server, name):
    body, path, expected = HEAVY[name]
    assert len(body) <= 16 * 2**20
    slowest = []
    while len(slowest) < 4 and min(slowest, default=BOUND) >= BOUND:  # a loop that is held up is so every time
        status, seconds = slowest_probe(server, path, body)
        assert status == expected
        slowest.append(seconds)
    assert min(slowest) < BOUND, slowest
