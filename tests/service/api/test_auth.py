"""Keys: denied by default, and no spelling of a path or header gets around them."""

import pytest

from tests.service.serving import read_raw, serving

PROTECTED = ["/v1/model", "/docs", "/openapi.json", "/redoc", "/docs/static/swagger-ui.css", "/", "/nothing"]


@pytest.fixture(scope="module")
def served(pocket_bundle):
    with serving(pocket_bundle, api_keys="first-key,second-key") as served:
        yield served


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("path", PROTECTED)
def test_everything_else_needs_a_key(served, path):
    before = served.rejected().get("unauthorized", 0)
    reply = served.get(path)
    assert (reply.status, reply.error["code"]) == (401, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer KEY" in reply.error["message"]
    assert served.rejected()["unauthorized"] == before + 1


@pytest.mark.parametrize("path", ["/live", "/ready", "/metrics"])
def test_probes_and_metrics_need_none(served, path):
    assert served.get(path).status == 200


@pytest.mark.parametrize("key", ["first-key", "second-key"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_any_of_the_keys_will_do(served, key, scheme):
    assert served.get("/v1/model", {"Authorization": f"{scheme} {key}"}).status == 200
    assert served.post("/v1/score", {"prompt": "p", "responses": ["a"]}, bearer(key)).status == 200


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer first", "Bearer first-key,second-key", "Bearer FIRST-KEY", "Basic first-key",
     "first-key", "Bearer first-key x", "Bearer \xff"],
)  # fmt: skip
def test_a_wrong_key(served, header):
    assert served.get("/v1/model", {"Authorization": header.encode("latin-1")}).status == 401


@pytest.mark.parametrize(
    "path",
    ["//live", "/live/", "/live/../v1/model", "/live%2f..%2fv1%2fmodel", "/live;/v1/model", "/LIVE", "/live.",
     "/live%00", "/live%2F", "/metrics/../v1/model", "/.//live", "/%2flive", "//127.0.0.1/live",
     "/v1/model?/live", "/v1/model#/live", "/v1//model", "/%76%31/model"],
)  # fmt: skip
def test_no_spelling_of_a_path_gets_around_them(served, path):
    assert served.get(path).status == 401


@pytest.mark.parametrize("path", ["/live", "/%6Cive", "/live?x=1"])
def test_other_spellings_of_an_open_path_are_that_path(served, path):
    assert served.get(path).json.keys() == {"live", "state"}


@pytest.mark.parametrize("host", ["live", "a/live?", "127.0.0.1/live#", "127.0.0.1:80@/live", "x\\/live", "[::1", ""])
def test_no_host_header_gets_around_them(served, host):
    with served.connect() as connection:
        connection.sendall(f"GET /v1/model HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert b" 401 " in read_raw(connection).split(b"\r\n")[0]


@pytest.mark.parametrize("target", ["http://x/live", "http://live/v1/model", "*", "/live /v1/model"])
def test_no_form_of_a_target_gets_around_them(served, target):
    with served.connect() as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        status = read_raw(connection).split(b" ")[1]
    assert status == (b"200" if target == "http://x/live" else status)
    assert status in (b"200", b"401", b"400")


def test_two_authorization_headers_are_the_first(served):
    with served.connect() as connection:
        connection.sendall(
            b"GET /v1/model HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n"
            b"Authorization: Bearer first-key\r\nConnection: close\r\n\r\n"
        )
        assert b" 401 " in read_raw(connection).split(b"\r\n")[0]


def test_without_keys_the_server_is_open(pocket_bundle):
    with serving(pocket_bundle) as served:
        assert served.get("/v1/model").status == 200


def test_a_host_header_does_not_bend_a_message(served):
    headers = bearer("first-key") | {"Host": "evil.example/?x="}
    assert served.get("/nothing", headers).error["message"].startswith("there is nothing at /nothing;")
