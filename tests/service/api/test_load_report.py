"""Callers that choose among servers are told how busy this one is, if they ask."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from assay_client.load_report import ASKING, requests_in_flight
from tests.service.doubles import ScriptedSession
from tests.service.serving import serving

BODY = {"prompt": "p", "responses": ["a"]}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("TEXT", "TEXT named_metrics.requests_in_flight=0"),
        ("text", "TEXT named_metrics.requests_in_flight=0"),
        ("JSON", 'JSON {"named_metrics": {"requests_in_flight": 0}}'),
        ("BIN", None),
        ("", None),
        (None, None),
    ],
)
def test_the_load_is_told_in_the_format_that_is_asked_for(served, wanted, expected):
    served.until("assay_http_requests_in_flight", 0)
    headers = {} if wanted is None else {"endpoint-load-metrics-format": wanted}
    assert served.post("/v1/score", BODY, headers).headers.get("endpoint-load-metrics") == expected


def test_a_refusal_tells_it_too(served):
    served.until("assay_http_requests_in_flight", 0)
    reply = served.post("/v1/score", {"prompt": "p"}, ASKING)
    assert reply.status == 422
    assert requests_in_flight(reply.headers) == 0


def test_it_is_what_others_have_in_flight(pocket_bundle):
    """Two are held by the engine while a third is answered; a probe, and the one that is answered, do not count."""
    session = ScriptedSession()
    with serving(pocket_bundle, session=session) as served, ThreadPoolExecutor(2) as callers:
        session.hold()
        held = [callers.submit(served.post, "/v1/score", BODY) for _ in range(2)]
        served.until("assay_http_requests_in_flight", 2)
        assert requests_in_flight(served.get("/v1/model", ASKING).headers) == 2
        session.let_go()
        assert [future.result().status for future in held] == [200, 200]
        served.until("assay_http_requests_in_flight", 0)
        assert requests_in_flight(served.get("/live", ASKING).headers) == 0


def test_a_caller_without_a_key_is_not_told(pocket_bundle):
    with serving(pocket_bundle, session=ScriptedSession(), api_keys="secret") as served:
        reply = served.post("/v1/score", BODY, ASKING)
        assert reply.status == 401
        assert requests_in_flight(reply.headers) is None
        assert (
            requests_in_flight(served.post("/v1/score", BODY, {**ASKING, "Authorization": "Bearer secret"}).headers)
            == 0
        )
