"""A server that is told to stop, or whose engine hangs."""

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.end_to_end.process import PATIENCE, server_process

HELD = "tests.end_to_end.held_server"
SCORE = {"prompt": "p", "responses": ["a", "b"]}
OTHER = {"prompt": "p", "responses": ["c", "d"]}
REJECTED_DRAINING = 'assay_requests_rejected_total{reason="draining"}'


@pytest.fixture
def callers():
    with ThreadPoolExecutor(4) as executor:
        yield executor


def test_sigterm_drains_without_loss(pocket_bundle, tmp_path, callers):
    with server_process(pocket_bundle, tmp_path, "--drain-notice-s", "600", module=HELD) as server:
        alone = [server.request("POST", "/v1/score", request)[1]["scores"] for request in (SCORE, OTHER)]
        server.hold()
        before = callers.submit(server.request, "POST", "/v1/score", SCORE)
        server.until_metric("assay_inflight_samples", 2)
        server.signal(signal.SIGTERM)
        server.until("/ready", 503)
        assert server.request("GET", "/ready")[1] == {"ready": False, "state": "draining"}
        assert server.request("GET", "/live")[0] == 200
        during = callers.submit(server.request, "POST", "/v1/score", OTHER)  # balancers still send: served
        server.until_metric("assay_inflight_samples", 4)
        server.signal(signal.SIGTERM)  # the notice is over
        server.until_closed()
        assert not before.done()
        server.let_go()
        for reply, scores in zip((before, during), alone, strict=True):
            status, body = reply.result(30)
            assert (status, body["scores"]) == (200, scores)
        assert server.ended() == 0
        assert "Traceback" not in server.log


def test_the_notice_ends_by_itself(pocket_bundle, tmp_path):
    with server_process(pocket_bundle, tmp_path, "--drain-notice-s", "0.5") as server:
        server.signal(signal.SIGTERM)
        server.until_closed()
        assert server.ended() == 0
        assert "draining: /ready is 503, the listener closes in 0.5 s" in server.log


def test_a_drain_ends_with_typed_errors_when_its_time_is_up(pocket_bundle, tmp_path, callers):
    flags = ("--drain-notice-s", "0", "--drain-timeout-s", "1")
    with server_process(pocket_bundle, tmp_path, *flags, module=HELD) as server:
        server.hold()
        stuck = callers.submit(server.request, "POST", "/v1/score", SCORE)
        server.until_metric("assay_inflight_samples", 2)
        with socket.create_connection(
            (server.host, server.port), timeout=PATIENCE
        ) as half:  # must not hold up the end either
            head = b"POST /v1/score HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
            half.sendall(head + b"{")
            server.until_metric("assay_http_requests_in_flight", 3)
            server.signal(signal.SIGTERM)
            assert half.recv(100).startswith(b"HTTP/1.1 503 ")  # at once: it may go elsewhere
            assert not stuck.done()
            status, body = stuck.result(30)
            assert (status, body["error"]["code"]) == (503, "draining")
            assert server.ended() == 0
        assert "the engine is stuck" in server.log
        assert "Traceback" not in server.log


def test_a_second_sigterm_cuts_the_notice_short(pocket_bundle, tmp_path):
    with server_process(pocket_bundle, tmp_path, "--drain-notice-s", "600") as server:
        server.signal(signal.SIGTERM)
        server.until("/ready", 503)
        assert server.request("POST", "/v1/score", SCORE)[0] == 200
        server.signal(signal.SIGTERM)
        assert server.ended() == 0


def test_sigint_stops_at_once(pocket_bundle, tmp_path):
    with server_process(pocket_bundle, tmp_path, "--drain-notice-s", "600") as server:
        idle = socket.create_connection((server.host, server.port))
        server.signal(signal.SIGINT)
        assert server.ended() == 0  # within the patience of the test, which is less than the notice
        idle.close()
        assert "Traceback" not in server.log


def test_probes_tell_the_truth_about_a_hung_engine(pocket_bundle, tmp_path, callers):
    with server_process(pocket_bundle, tmp_path, "--stuck-after-s", "0.3", module=HELD) as server:
        server.hold()
        stuck = callers.submit(server.request, "POST", "/v1/score", SCORE)
        server.until("/live", 503)
        assert server.request("GET", "/live")[1] == {"live": False, "state": "wedged"}
        assert server.request("GET", "/ready")[0] == 503  # neither waits for the batch, which is still held
        server.let_go()
        assert stuck.result(30)[0] == 200
        assert server.request("GET", "/live")[0] == server.request("GET", "/ready")[0] == 200
        lines = [json.loads(line) for line in server.log.splitlines()]
        assert any(line.get("route") == "/v1/score" and line["request_id"] for line in lines)


def test_an_engine_that_hangs_for_good_fails_what_it_holds_and_ends_the_process(pocket_bundle, tmp_path, callers):
    flags = ("--stuck-after-s", "0.3", "--stuck-exit-s", "3")
    with server_process(pocket_bundle, tmp_path, *flags, module=HELD) as server:
        server.hold()
        requests = [callers.submit(server.request, "POST", "/v1/score", body) for body in (SCORE, OTHER)]
        for request in requests:
            status, body = request.result(30)
            assert (status, body["error"]["code"]) == (503, "engine_failed")
            assert "the engine hangs in a batch" in body["error"]["message"]
        assert server.ended() == 1
        assert server.log.splitlines()[-1].endswith("the engine hangs in a batch, so the server ended")


@pytest.mark.parametrize("notice", ["0", "600"])
def test_an_engine_that_hangs_in_a_drain_fails_what_it_holds_and_is_told_by_the_status(
    pocket_bundle, tmp_path, callers, notice
):
    flags = ("--stuck-after-s", "0.3", "--stuck-exit-s", "3", "--drain-notice-s", notice)
    with server_process(pocket_bundle, tmp_path, *flags, module=HELD) as server:
        server.hold()
        request = callers.submit(server.request, "POST", "/v1/score", SCORE)
        server.until_metric("assay_inflight_samples", 2)
        server.signal(signal.SIGTERM)
        status, body = request.result(30)
        assert (status, body["error"]["code"]) == (503, "engine_failed")
        assert "the engine hangs in a batch" in body["error"]["message"]
        assert server.ended() == 1
        assert server.log.splitlines()[-1].endswith("the engine hangs in a batch, so the server ended")


def test_a_warm_up_that_hangs_is_not_live_and_does_not_keep_the_process(pocket_bundle, tmp_path):
    (tmp_path / "gate").touch()
    flags = ("--stuck-after-s", "0.3", "--drain-notice-s", "0")
    with server_process(pocket_bundle, tmp_path, *flags, module=HELD, wait=False) as server:
        server.until("/live", 503)
        assert server.request("GET", "/ready")[1] == {"ready": False, "state": "wedged"}
        status, body = server.request("POST", "/v1/score", SCORE)
        assert (status, body["error"]["code"]) == (503, "not_ready")
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
        assert "the engine is stuck" in server.log


def test_the_greeting_comes_when_its_curl_works(pocket_bundle, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    with server_process(pocket_bundle, tmp_path, module=HELD, wait=False) as server:
        server.until_said(r"listens at http://\S+ and warms up; /ready says when it is done\n")
        server.until("/ready", 503)
        assert "curl" not in server.said
        server.let_go()
        url, body = server.until_said(r"(?s)curl -s (\S+) -H 'Content-Type: application/json' -d '(.*?)'\n").groups()
        assert url == f"{server.url}/v1/score"
        body = {"prompt": "p", "responses": json.loads(body)["responses"], "truncate": "response_right"}  # pocket-sized
        assert server.request("POST", "/v1/score", body)[0] == 200
