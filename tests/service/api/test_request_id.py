"""A request can be found again by its id: the caller's, if it is a plain one."""

import re

import pytest


@pytest.mark.parametrize("given", ["abc", "A-1_b:2/c.d+e=f", "x" * 128])
def test_a_request_id_is_echoed(served, given):
    reply = served.post("/v1/score", {"prompt": "p", "responses": ["a"]}, {"X-Request-Id": given})
    assert reply.headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, 'a"b', "é", "{}", "a\tb"])
def test_an_unsafe_request_id_is_replaced(served, given):
    headers = {} if given is None else {"X-Request-Id": given.encode("latin-1")}
    reply = served.get("/v1/model", headers)
    assert reply.status == 200
    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["x-request-id"])
