"""Traces of a real server, by the SDK's own caller, at a collector that speaks OTLP over HTTP."""

import contextlib
import http.server
import json
import signal
import threading
import time

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_span_id, format_trace_id

from assay_client import AsyncRewardClient, InvalidRequestError, RewardClient
from tests.end_to_end.process import PATIENCE, command, run_to_the_end, server_process

STAGES = {"parse", "tokenize", "score", "queue", "infer", "serialize"}
CALLER = TracerProvider().get_tracer("a worker")


class Collector(http.server.ThreadingHTTPServer):
    """Takes spans, by trace, and then by name."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.resources: list[dict[str, str]] = []
        self.spans: dict[str, dict] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, body: bytes) -> None:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(_attributes(group.resource))
            for scope in group.scope_spans:
                for span in scope.spans:
                    self.spans.setdefault(span.trace_id.hex(), {})[span.name] = span

    def until_trace(self, trace_id: str, *names: str) -> dict:
        """Poll until the trace has spans of these names."""
        deadline = time.monotonic() + PATIENCE
        while not set(names) <= set(self.spans.get(trace_id, {})):
            assert time.monotonic() < deadline, self.spans.keys()
            time.sleep(0.01)
        return self.spans[trace_id]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        self.server.take(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def _attributes(holder) -> dict:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in holder.attributes}


@pytest.fixture
def collector(monkeypatch):
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


@pytest.fixture
def server(pocket_bundle, tmp_path, collector):
    with server_process(pocket_bundle, tmp_path, "--tracing", "--log-json") as server:
        yield server


@contextlib.contextmanager
def callers_span():
    with CALLER.start_as_current_span("step") as span:
        yield format_trace_id(span.get_span_context().trace_id), format_span_id(span.get_span_context().span_id)


async def test_a_request_is_a_part_of_its_callers_trace(server, collector):
    async with AsyncRewardClient(server.url) as client:
        await client.model()
        with callers_span() as (trace_id, parent):
            await client.score("p", ["a", "b c"])
    spans = collector.until_trace(trace_id, "POST /v1/score", *STAGES)
    root = spans["POST /v1/score"]
    assert root.parent_span_id.hex() == parent
    assert root.kind == root.SPAN_KIND_SERVER
    attributes = _attributes(root)
    assert attributes["http.route"] == "/v1/score"
    assert attributes["http.response.status_code"] == 200
    assert attributes["assay.items"] == 2
    assert attributes["assay.tokens"] > 0
    assert len(attributes["assay.model_digest"]) == 64
    for name in STAGES:
        above = spans["score"] if name in ("queue", "infer") else root
        assert spans[name].parent_span_id == above.span_id
        assert root.start_time_unix_nano <= spans[name].start_time_unix_nano <= spans[name].end_time_unix_nano
    order = [spans[name].start_time_unix_nano for name in ("parse", "tokenize", "queue", "infer", "serialize")]
    assert order == sorted(order)
    assert collector.resources[0]["service.name"] == "assay"
    lines = map(json.loads, server.log.splitlines())
    assert attributes["assay.request_id"] in {line["request_id"] for line in lines if line.get("trace_id") == trace_id}


def test_the_blocking_client_takes_the_trace_along(server, collector):
    with RewardClient(server.url) as client, callers_span() as (trace_id, parent):
        client.score("p", ["a"])
    assert collector.until_trace(trace_id, "POST /v1/score")["POST /v1/score"].parent_span_id.hex() == parent


async def test_a_refusal_says_why_and_holds_no_text(server, collector):
    async with AsyncRewardClient(server.url) as client:
        with callers_span() as (trace_id, _), pytest.raises(InvalidRequestError):
            await client.score("my secret", ["r", ""])
    spans = collector.until_trace(trace_id, "POST /v1/score")
    root = spans["POST /v1/score"]
    assert _attributes(root)["assay.error"] == "empty_text"
    assert root.status.code == root.status.STATUS_CODE_UNSET  # the caller's mistake
    for path in ("/v1/my-secret", "/v1/model?text=secret"):
        server.request("GET", path, headers={"traceparent": f"00-{trace_id}-{'7' * 16}-01", "Host": "secret"})
    spans = collector.until_trace(trace_id, "GET", "GET /v1/model")
    assert b"secret" not in b"".join(span.SerializeToString() for span in spans.values()).lower()


def test_probes_and_scrapes_have_no_trace(server, collector):
    for path in ("/live", "/ready"):
        server.request("GET", path)
    server.metric("assay_http_requests_in_flight")
    server.request("GET", "/nowhere", headers={"traceparent": f"00-{'7' * 32}-{'7' * 16}-01"})
    collector.until_trace("7" * 32, "GET")
    assert {name for spans in collector.spans.values() for name in spans} == {"GET"}


@pytest.mark.parametrize("sampled", ["01", "00"])
def test_the_caller_decides_what_is_sampled(server, collector, sampled):
    for trace_id, flags in (("1" * 32, sampled), ("2" * 32, "01")):
        server.request("GET", "/v1/model", headers={"traceparent": f"00-{trace_id}-{'3' * 16}-{flags}"})
    collector.until_trace("2" * 32, "GET /v1/model")
    assert ("1" * 32 in collector.spans) == (sampled == "01")


def test_headers_that_are_no_trace_are_no_error(server, collector):
    hostile = {"traceparent": "00-zz-\xff", "tracestate": "a=" * 2000, "baggage": "\xff=%ff" * 200, "Host": "[::1"}
    assert server.request("GET", "/v1/model", headers=hostile)[0] == 200
    assert server.request("GET", "/v1/model?a=%ff&%00;=")[0] == 200
    assert "Traceback" not in server.log


def test_what_was_traced_last_is_sent_before_the_end(pocket_bundle, tmp_path, collector, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    with server_process(pocket_bundle, tmp_path, "--tracing", "--drain-notice-s", "0") as server:
        server.request("GET", "/v1/model", headers={"traceparent": f"00-{'4' * 32}-{'3' * 16}-01"})
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
    assert "GET /v1/model" in collector.spans["4" * 32]


def test_a_collector_that_is_not_there_costs_no_score(pocket_bundle, tmp_path, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with server_process(pocket_bundle, tmp_path, "--tracing", "--drain-notice-s", "0") as server:
        for _ in range(20):
            assert server.request("POST", "/v1/score", {"prompt": "p", "responses": ["a"]})[0] == 200
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
    assert "the last traces were not taken" in server.log


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf alone"),
        ("OTEL_TRACES_EXPORTER", "console", "by otlp alone"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318", "it must be http:// or https:// and a host"),
    ],
)
def test_what_cannot_be_sent_is_an_error_at_start(pocket_bundle, monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    ended = run_to_the_end(*command(pocket_bundle, "--tracing"))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"assay-serve: {variable} is {value}")
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_without_the_setting_nothing_is_sent(pocket_bundle, tmp_path, collector):
    with server_process(pocket_bundle, tmp_path, "--drain-notice-s", "0") as server:
        server.request("GET", "/v1/model", headers={"traceparent": f"00-{'4' * 32}-{'3' * 16}-01"})
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
    assert not collector.spans
