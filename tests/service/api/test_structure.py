"""A request's structure is looked at before anything is built of it."""

import json

import pytest

from service.api.structure import MAX_MESSAGES, _outside_of_strings
from tests.service.serving import serving

MESSAGE = {"role": "user", "content": ""}


@pytest.fixture(scope="module")
def served(pocket_bundle):
    with serving(pocket_bundle) as served:  # with its own default limits
        yield served


def test_too_many_messages_are_told_where(served):
    reply = served.post("/v1/score", {"pairs": [{"prompt": [MESSAGE] * 1000, "response": "a"}] * 33})
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
