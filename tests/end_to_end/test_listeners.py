"""Ports of a real process: TLS, and probes and metrics apart."""

import contextlib
import http.client
import json
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from tests.end_to_end.process import PATIENCE, command, run_to_the_end, server_process


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    issue(authority, tmp_path)
    return authority


def issue(authority: trustme.CA, folder: Path) -> None:
    """A new key and its certificate."""
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(folder / "certificate.pem", append=number > 0)


def test_tls(pocket_bundle, tmp_path, authority):
    flags = ("--tls-certificate", str(tmp_path / "certificate.pem"), "--tls-key", str(tmp_path / "key.pem"))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with server_process(pocket_bundle, tmp_path, *flags, wait=False) as server:
        server.until_said("Assay serves at")
        assert server.url.startswith("https://127.0.0.1:")
        body = json.dumps({"prompt": "p", "responses": ["a", "b"]}).encode()
        request = urllib.request.Request(f"{server.url}/v1/score", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, context=trusting) as reply:
            assert len(json.load(reply)["scores"]) == 2
        with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
            urllib.request.urlopen(f"{server.url}/live", context=ssl.create_default_context())
        # A refusal of the parser must arrive too: TLS has no half-closed connections to linger on.
        connection = http.client.HTTPSConnection(server.host, server.port, context=trusting)
        connection.request("GET", "/live", headers={"X-Large": "x" * 2**16})
        assert connection.getresponse().status == 431
        with pytest.raises((http.client.HTTPException, OSError)):
            urllib.request.urlopen(f"http://{server.host}:{server.port}/live", timeout=10)


def test_a_handshake_that_ends_in_a_drain_does_not_hold_it_up(pocket_bundle, tmp_path, authority):
    flags = ["--tls-certificate", str(tmp_path / "certificate.pem"), "--tls-key", str(tmp_path / "key.pem")]
    flags += ["--drain-notice-s", "0", "--drain-timeout-s", "600", "--operations-port", "0"]
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    module = "tests.end_to_end.held_server"
    with (
        server_process(pocket_bundle, tmp_path, *flags, module=module, wait=False) as server,
        ThreadPoolExecutor(1) as caller,
    ):
        operations = server.until_said(r"metrics: (http://127\.0\.0\.1:\d+)/metrics")[1]
        server.hold()

        def score() -> int:
            body = json.dumps({"prompt": "p", "responses": ["a"]}).encode()
            request = urllib.request.Request(f"{server.url}/v1/score", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, context=trusting, timeout=PATIENCE) as reply:
                return int(reply.status)

        status = caller.submit(score)
        deadline = time.monotonic() + PATIENCE
        while b"assay_inflight_samples 1.0" not in urllib.request.urlopen(f"{operations}/metrics").read():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        late = socket.create_connection((server.host, server.port), timeout=PATIENCE)
        server.signal(signal.SIGTERM)
        server.until_closed()
        with contextlib.suppress(OSError), trusting.wrap_socket(late, server_hostname="127.0.0.1") as connection:
            assert connection.recv(1) == b""
        server.let_go()
        assert status.result(PATIENCE) == 200
        assert server.ended() == 0


def test_a_certificate_is_exchanged_without_a_restart(pocket_bundle, tmp_path, authority):
    flags = ("--tls-certificate", str(tmp_path / "certificate.pem"), "--tls-key", str(tmp_path / "key.pem"))
    with server_process(pocket_bundle, tmp_path, *flags, wait=False) as server:
        server.until_said("Assay serves at")

        def served() -> str:
            return ssl.get_server_certificate((server.host, server.port))

        first = served()
        issue(authority, tmp_path)
        deadline = time.monotonic() + PATIENCE
        while served() == first:
            assert time.monotonic() < deadline, server.log
            time.sleep(0.1)
        assert served() in (tmp_path / "certificate.pem").read_text()


def test_those_that_begin_no_handshake_count_as_connections_and_are_left(pocket_bundle, tmp_path, authority):
    flags = ["--tls-certificate", str(tmp_path / "certificate.pem"), "--tls-key", str(tmp_path / "key.pem")]
    flags += ["--max-connections", "10", "--receive-timeout-s", "5", "--operations-port", "0"]
    with server_process(pocket_bundle, tmp_path, *flags, wait=False) as server, contextlib.ExitStack() as stack:
        operations = server.until_said(r"metrics: (http://127\.0\.0\.1:\d+)/metrics")[1]

        def metric(line: str) -> float:
            with urllib.request.urlopen(f"{operations}/metrics") as reply:
                rows = reply.read().decode().splitlines()
            return float(next(row.rpartition(" ")[2] for row in rows if row.startswith(f"{line} ")))

        silent = [
            stack.enter_context(socket.create_connection((server.host, server.port), timeout=PATIENCE))
            for _ in range(200)
        ]
        assert [connection.recv(1) for connection in silent] == [b""] * len(silent)
        assert metric('assay_requests_rejected_total{reason="too_many_connections"}') == 200 - (10 + 64)


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        ("missing.pem", "key.pem", "No such file"),
        ("key.pem", "key.pem", "cannot be used"),
        ("certificate.pem", None, "go together"),
    ],
)
def test_tls_that_cannot_be_is_said_before_anything_is_loaded(
    pocket_bundle, tmp_path, authority, certificate, key, reason
):
    flags = ["--tls-certificate", str(tmp_path / certificate)] + (
        [] if key is None else ["--tls-key", str(tmp_path / key)]
    )
    done = run_to_the_end(*command(pocket_bundle, *flags))
    assert done.returncode in (1, 2)
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_probes_and_metrics_have_a_port_of_their_own(pocket_bundle, tmp_path):
    with server_process(pocket_bundle, tmp_path, "--operations-port", "0", "--api-keys", "secret") as server:
        operations = server.until_said(r"metrics: (http://127\.0\.0\.1:\d+)/metrics")[1]
        assert operations != server.url

        def status(url: str) -> int:
            try:
                with urllib.request.urlopen(url) as reply:
                    return int(reply.status)
            except urllib.error.HTTPError as error:
                return error.code

        assert [status(f"{operations}{path}") for path in ("/live", "/ready", "/metrics")] == [200] * 3
        assert [status(f"{operations}{path}") for path in ("/v1/model", "/docs", "/openapi.json", "/")] == [404] * 4
        assert [status(f"{server.url}{path}") for path in ("/live", "/ready", "/metrics")] == [200, 200, 404]
        with urllib.request.urlopen(f"{operations}/metrics") as reply:
            text = reply.read().decode()
        assert 'assay_http_requests_total{method="GET",route="/ready",status="200"}' in text
        assert "/metrics" not in text
