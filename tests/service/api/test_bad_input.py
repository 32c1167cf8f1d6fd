"""Whatever is wrong with a request, the reply says what to change, it is counted by reason, and nobody is hurt."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from service.bundle.reader import read_bundle
from tests.pocket import pocket_formatter, reseal, write_pocket_bundle
from tests.service.serving import JSON, serving

GOOD = {"prompt": "p", "responses": ["a"]}
PAIR = {"prompt": "p", "response": "a"}
COMPARISON = {"prompt": "p", "response_a": "a", "response_b": "b"}


@dataclass
class Bad:
    """A request and what is to be said of it."""

    name: str
    body: Any
    status: int
    code: str
    field: str | None
    says: str
    reason: str = ""
    path: str = "/v1/score"
    method: str = "POST"
    headers: Any = None


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


CASES = [
    # JSON
    Bad("no body", b"", 422, "invalid", None, "a JSON object is missing as the body"),
    Bad("cut JSON", b'{"prompt": "p", "respo', 400, "invalid_json", None, "not valid JSON"),
    Bad("no JSON", b"prompt=p", 400, "invalid_json", None, "not valid JSON"),
    Bad("bare NaN", b'{"prompt":"p","responses":["a"],"timeout_ms":NaN}', 400, "invalid_json", None, "not valid JSON"),
    Bad("-Infinity", b'{"timeout_ms":-Infinity}', 400, "invalid_json", None, "not valid JSON"),
    Bad("1e999", b'{"prompt":"p","responses":["a"],"timeout_ms":1e999}', 4, "", "", ""),
    Bad("5000 digits", b'{"prompt":"p","responses":["a"],"timeout_ms":' + b"9" * 5000 + b"}", 4, "", "", ""),
    Bad("lone surrogate", rb'{"prompt":"p","responses":["a\ud800"]}', 400, "invalid_json", None, "not valid JSON"),
    Bad("surrogate key", rb'{"\udfff":1}', 400, "invalid_json", None, "not valid JSON"),
    Bad("invalid UTF-8", b'{"prompt":"\xff","responses":["a"]}', 400, "invalid_json", None, "not valid JSON"),
    Bad("UTF-16", json.dumps(GOOD).encode("utf-16"), 400, "invalid_json", None, "not valid JSON"),
    Bad("byte order mark", b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), 400, "invalid_json", None, "not valid JSON"),
    Bad("deep nesting", b"[" * 100_000, 400, "invalid_json", None, "not valid JSON"),
    Bad("two documents", b"{} {}", 400, "invalid_json", None, "not valid JSON"),
    # shape
    Bad("a list", [GOOD], 422, "invalid", None, "must be a JSON object"),
    Bad("null", b"null", 422, "invalid", None, "object"),
    Bad("nothing", {}, 422, "invalid", None, 'send either "pairs", or "prompt" together with "responses"'),
    Bad("both forms", GOOD | {"pairs": [PAIR]}, 422, "invalid", None, 'send either "pairs"'),
    Bad("no responses", {"prompt": "p"}, 422, "invalid", None, '"prompt" and "responses" go together'),
    Bad("no prompt", {"responses": ["a"]}, 422, "invalid", None, '"prompt" and "responses" go together'),
    Bad("no responses", {"prompt": "p", "responses": []}, 422, "invalid", "responses", "at least 1 item"),
    Bad("no pairs", {"pairs": []}, 422, "invalid", "pairs", "at least 1 item"),
    Bad("no messages", GOOD | {"prompt": []}, 422, "invalid", "prompt", "at least 1 item"),
    Bad("a pair lacks", {"pairs": [PAIR, {"prompt": "p"}]}, 422, "invalid", "pairs.1.response", "is missing"),
    Bad("unknown field", GOOD | {"sacle": "raw"}, 422, "invalid", "sacle", "unknown field 'sacle'; remove it"),
    Bad("unknown field in a pair", {"pairs": [PAIR | {"id": 1}]}, 422, "invalid", "pairs.0.id", "unknown field 'id'"),
    Bad("field called body", GOOD | {"body": 1}, 422, "invalid", "body", "unknown field 'body'"),
    Bad("field like a form", GOOD | {"<text>": 1}, 422, "invalid", "<text>", "unknown field '<text>'"),
    Bad("huge field name", GOOD | {"x" * 500_000: 1}, 422, "invalid", "x" * 100 + "...", "unknown field"),
    Bad("number as text", GOOD | {"responses": ["a", 7]}, 422, "invalid", "responses.1", "valid string"),
    Bad("null as text", GOOD | {"responses": [None]}, 422, "invalid", "responses.0", "valid string"),
    Bad("text as list", GOOD | {"responses": "a"}, 422, "invalid", "responses", "valid list"),
    Bad("number as prompt", GOOD | {"prompt": 7}, 422, "invalid", "prompt", "valid string"),
    Bad("message lacks", GOOD | {"prompt": [{"role": "user"}]}, 422, "invalid", "prompt.0.content", "is missing"),
    Bad("message unknown", GOOD | {"prompt": [{"role": "user", "content": "x", "name": "y"}]}, 422, "invalid",
        "prompt.0.name", "unknown field 'name'"),
    Bad("message no text", GOOD | {"prompt": [{"role": "user", "content": [1]}]}, 422, "invalid", "prompt.0.content",
        "valid string"),
    Bad("unknown role", GOOD | {"prompt": [{"role": "wizard", "content": "x"}]}, 422, "invalid", "prompt",
        "no such role: wizard"),
    Bad("unknown scale", GOOD | {"scale": "logits"}, 422, "invalid", "scale", "'raw', 'centred'"),
    Bad("unknown side", GOOD | {"truncate": "left"}, 422, "invalid", "truncate", "'prompt_left' or 'response_right'"),
    Bad("no time", GOOD | {"timeout_ms": 0}, 422, "invalid", "timeout_ms", "greater than 0"),
    Bad("time as text", GOOD | {"timeout_ms": "100"}, 422, "invalid", "timeout_ms", "valid number"),
    Bad("truth as time", GOOD | {"timeout_ms": True}, 422, "invalid", "timeout_ms", "valid number"),
    Bad("NUL", GOOD | {"responses": ["a\0b"]}, 422, "invalid", "responses.0", "U+0000 at position 1; remove it"),
    Bad("NUL in a message", GOOD | {"prompt": [{"role": "user", "content": "\0"}]}, 422, "invalid", "prompt.0.content",
        "U+0000"),
    Bad("several", {"pairs": [{}, {}]}, 422, "invalid", "pairs.0.prompt", "(and 1 more problem)"),
    Bad("thousands of wrong responses", {"prompt": "p", "responses": [1] * 5_000}, 413, "too_many_items", "responses",
        "5000 items, more than the 50 of one request", reason="too_many_items"),
    Bad("encoded", GOOD, 415, "unsupported_media_type", None, "without Content-Encoding", reason="media_type",
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}),
    Bad("yes for true", GOOD | {"allow_empty": "yes"}, 422, "invalid", "allow_empty", "valid boolean"),
    Bad("NUL in a role", {"prompt": [{"role": "a\0", "content": "b"}], "responses": ["a"]}, 422, "invalid",
        "prompt.0.role", "U+0000"),
    Bad("far too long a text", GOOD | {"responses": ["x" * 300_000]}, 422, "too_many_tokens", "responses.0",
        "300000 characters, more than the 262144 of one text"),
    # content
    Bad("empty response", GOOD | {"responses": ["a", ""]}, 422, "empty_text", "responses.1",
        'send "allow_empty": true if it is meant'),
    Bad("empty prompt", GOOD | {"prompt": ""}, 422, "empty_text", "prompt", "the prompt is empty"),
    Bad("empty messages", {"pairs": [PAIR, {"prompt": [{"role": "user", "content": ""}], "response": "a"}]}, 422,
        "empty_text", "pairs.1.prompt", "the prompt is empty"),
    Bad("long response", GOOD | {"responses": ["a", "x" * 100]}, 422, "too_many_tokens", "responses.1",
        'limit of 64; shorten it, or send "truncate"'),
    Bad("long prompt", {"pairs": [PAIR, {"prompt": "x" * 100, "response": "a"}]}, 422, "too_many_tokens",
        "pairs.1.response", "limit of 64"),
    Bad("cut is not enough", {"prompt": "x" * 100, "responses": ["a"], "truncate": "response_right"}, 422,
        "too_many_tokens", "responses.0", "cutting response_right is not enough"),
    Bad("no digest", GOOD | {"model_digest": "latest"}, 422, "invalid", "model_digest", "pattern '^[0-9a-f]{64}$'"),
    Bad("digest and a line", GOOD | {"model_digest": "0" * 64 + "\n"}, 422, "invalid", "model_digest", "pattern"),
    Bad("huge digest", GOOD | {"model_digest": "0" * 500_000}, 422, "invalid", "model_digest", "pattern"),
    Bad("huge role", {"prompt": [{"role": "r" * 500_000, "content": "b"}], "responses": ["a"]}, 422, "invalid",
        "prompt.0.role", "at most 64 characters"),
    Bad("huge content type", json.dumps(GOOD), 415, "unsupported_media_type", None, "send Content-Type",
        "media_type", headers={"Content-Type": "x" * 3000}),
    Bad("huge path", None, 404, "not_found", None, "nothing at /xxx", path="/" + "x" * 3000, method="GET"),
    Bad("other model", GOOD | {"model_digest": "0" * 64}, 409, "model_mismatch", None, "this server holds"),
    # limits
    Bad("too many items", {"prompt": "p", "responses": ["a"] * 51}, 413, "too_many_items", "responses",
        "51 items, more than the 50 of one request; split them"),
    Bad("thousands of pairs", {"pairs": [PAIR] * 3000}, 413, "too_many_items", "pairs", "3000 items"),
    Bad("large body", {"prompt": "p", "responses": ["x" * 2**20]}, 413, "body_too_large", None,
        "larger than 1048576 bytes; send fewer items"),
    # routes
    Bad("no comparisons", {"comparisons": []}, 422, "invalid", "comparisons", "at least 1 item", path="/v1/compare"),
    Bad("half a comparison", {"comparisons": [without(COMPARISON, "response_b")]}, 422, "invalid",
        "comparisons.0.response_b", "is missing", path="/v1/compare"),
    Bad("empty comparison", {"comparisons": [COMPARISON, COMPARISON | {"response_b": ""}]}, 422, "empty_text",
        "comparisons.1.response_b", "the response is empty", path="/v1/compare"),
    Bad("a comparison has two items", {"comparisons": [COMPARISON] * 26}, 413, "too_many_items", "comparisons",
        "52 items", path="/v1/compare"),
    Bad("scale of a comparison", {"comparisons": [COMPARISON], "scale": "raw"}, 422, "invalid", "scale",
        "unknown field 'scale'", path="/v1/compare"),
    Bad("nothing to rank", {"prompt": "p", "responses": []}, 422, "invalid", "responses", "at least 1 item",
        path="/v1/rank"),
    Bad("unknown route", GOOD, 404, "not_found", None, "nothing at /v1/scores; the routes are listed under /docs",
        "not_found", path="/v1/scores"),
    Bad("slash at the end", GOOD, 404, "not_found", None, "nothing at /v1/score/", path="/v1/score/"),
    Bad("wrong method", None, 405, "method_not_allowed", None, "GET is not allowed at /v1/score; use POST", "method",
        method="GET"),
    Bad("odd method", None, 405, "method_not_allowed", None, "PROPFIND is not allowed at /ready; use GET", "method",
        path="/ready", method="PROPFIND"),
    Bad("no content type", json.dumps(GOOD), 415, "unsupported_media_type", None, "is missing; send Content-Type",
        "media_type", headers={}),
    Bad("a form", "prompt=p", 415, "unsupported_media_type", None, "application/x-www-form-urlencoded", "media_type",
        headers={"Content-Type": "application/x-www-form-urlencoded"}),
    Bad("text/json", json.dumps(GOOD), 415, "unsupported_media_type", None, "send Content-Type: application/json",
        "media_type", headers={"Content-Type": "text/vnd+json"}),
]  # fmt: skip
# How the decoder takes numbers that no float holds is its own; that it is a refusal is ours.
EXACT = [case for case in CASES if case.status >= 100]
NUMBERS = [case for case in CASES if case.status < 100]


def send(served, case: Bad):
    headers = JSON if case.headers is None else case.headers
    body = case.body if isinstance(case.body, bytes | str | None) else json.dumps(case.body)
    return served.request(case.method, case.path, body, headers)


@pytest.fixture
def counted(served):
    """Rejections since the test began, by reason; a good request goes through before and after."""
    alone = served.score("a", "b").json["scores"]
    before = served.rejected()

    def counted():
        assert served.score("a", "b").json["scores"] == alone
        return {reason: n - before.get(reason, 0) for reason, n in served.rejected().items() if n != before.get(reason)}

    return counted


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_bad_input(served, counted, case):
    reply = send(served, case)
    assert (reply.status, reply.error["code"], reply.error.get("field")) == (case.status, case.code, case.field)
    assert case.says in reply.error["message"]
    assert len(reply.content) < 2000  # it echoes no input
    assert reply.error["request_id"] == reply.headers["x-request-id"]
    assert counted() == {case.reason or case.code: 1}


@pytest.mark.parametrize("case", NUMBERS, ids=lambda case: case.name)
def test_numbers_that_no_float_holds(served, counted, case):
    reply = send(served, case)
    assert (reply.status, reply.error["code"]) in {(400, "invalid_json"), (422, "invalid")}
    assert counted() == {reply.error["code"]: 1}


@pytest.mark.parametrize("text", ["\x02", "é", "🤗", "a\u202eb", "\ufffe", "\U0010ffff", "e\u0301" * 5, " ", "\r\n"])
def test_unusual_text_is_scored_as_it_is(served, text):
    reply = served.score(f"x{text}y")
    assert reply.status == 200
    (tokens,) = (detail["tokens"] for detail in reply.json["details"])
    assert tokens == 5 + 2 + len(text.encode())  # the pocket tokenizer: a token a byte


def test_a_duplicate_key_counts_as_its_last(served):
    reply = served.post("/v1/score", '{"prompt": "x", "prompt": "p", "responses": ["a"]}')
    assert reply.json["scores"] == served.score("a").json["scores"]


def test_a_template_that_repeats_what_it_refuses(tmp_path):
    formatter = pocket_formatter()
    refusal = "{{ raise_exception('I will not have ' + messages[0].content) }}"
    template = f"{{% if messages[0].content | length > 10000 %}}{refusal}{{% endif %}}short"
    folder = write_pocket_bundle(tmp_path / "bundle").folder
    (folder / "chat_template.jinja").write_text(template)
    same = type(formatter)(formatter.text_format, template, formatter.tokenizer, 64)
    reseal(folder, text_format_sha256=same.sha256)
    with serving(read_bundle(folder)) as served:
        reply = served.post("/v1/score", {"prompt": "x" * 200_000, "responses": ["a"]})
        assert (reply.status, reply.error["field"]) == (422, "prompt")
        assert "I will not have xxx" in reply.error["message"]
        assert len(reply.content) < 2000


def test_ten_megabytes_in_one_text(pocket_bundle):
    with serving(pocket_bundle) as served:  # with its own default limits
        reply = served.score("x" * 10_000_000)
        assert (reply.status, reply.error["code"], reply.error["field"]) == (422, "too_many_tokens", "responses.0")
        reply = served.score("x" * 17_000_000)
        assert (reply.status, reply.error["code"]) == (413, "body_too_large")


def test_a_chunked_body_is_counted_as_it_comes(served, counted):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    chunks = (b"x" * 2**16 for _ in range(32))
    connection.request("POST", "/v1/score", chunks, JSON, encode_chunked=True)
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["error"]["code"]) == (413, "body_too_large")
    connection.request("POST", "/v1/score", json.dumps(GOOD), JSON)  # the connection goes on
    assert connection.getresponse().status == 200
    connection.close()
    assert counted() == {"body_too_large": 1}
