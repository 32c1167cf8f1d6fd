import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.observability import tracing


@pytest.fixture
def finished(monkeypatch):
    """Names and spans that have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("test"))
    return lambda: {span.name: span for span in exporter.get_finished_spans()}


def test_nothing_is_recorded_of_what_belongs_to_no_trace(finished):
    tracing.record("queue", 1.0)
    tracing.describe(items=1)
    assert not finished()
    assert tracing.trace_id() is None


def test_what_has_ended_is_recorded_when_it_was(finished):
    with tracing.span("score") as score:
        tracing.describe(items=3)
        tracing.record("queue", 0.5, ended_s_ago=2.0)
        assert tracing.trace_id() == format(score.get_span_context().trace_id, "032x")
    queue, score = finished()["queue"], finished()["score"]
    assert queue.end_time - queue.start_time == 5e8
    assert 2e9 <= score.end_time - queue.end_time < 30e9
    assert queue.parent.span_id == score.get_span_context().span_id
    assert score.attributes == {"assay.items": 3}


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_its_type_and_not_its_text(finished, kind):
    with pytest.raises(kind), tracing.span("score"):
        raise kind("a caller's words")
    score = finished()["score"]
    assert score.attributes == {"error.type": kind.__name__}
    assert not score.status.is_ok
    assert "words" not in score.to_json()


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ValueError, match=r"needs the package opentelemetry.sdk.trace: pip install 'assay\[tracing\]'"):
        tracing.start_tracing("1")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector"},
        {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret,",
            "OTEL_SDK_DISABLED": "",
        },
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
        {"OTEL_TRACES_SAMPLER": "ALWAYS_ON"},
    ],
)
def test_usual_variables_are_taken(environment):
    tracing.check_variables(environment)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OTEL_SDK_DISABLED": "True"}, "OTEL_SDK_DISABLED is true"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http:/collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT is http:/collector"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://"}, "and a host"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:abc"}, "OTEL_EXPORTER_OTLP_ENDPOINT is"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT is"),
        ({"OTEL_EXPORTER_OTLP_CERTIFICATE": "/tmp"}, "no file that can be read"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "http:// or https://"),
        ({"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere.pem"}, r"CERTIFICATE is /nowhere\.pem, which is no file"),
        ({"OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": "/nowhere.pem"}, "TRACES_CLIENT_KEY is"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_ratio"}, "must be one of always_on, .*parentbased_traceidratio"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1%"}, "ARG is 1%; .* from 0 to 1"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "5"}, "from 0 to 1"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "api-key: secret"}, "HEADERS must be name=value pairs"),
    ],
)
def test_what_would_fail_later_or_be_taken_for_something_else_is_refused(environment, named):
    with pytest.raises(ValueError, match=named) as caught:
        tracing.check_variables(environment)
    assert "secret" not in str(caught.value)


def test_the_variable_for_traces_alone_wins():
    both = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    tracing.check_variables(both)


def test_a_provider_that_is_there_already_is_an_error_and_not_a_silence(monkeypatch):
    monkeypatch.setattr(tracing.trace, "set_tracer_provider", lambda provider: None)
    with pytest.raises(ValueError, match="something else in this process traces already"):
        tracing.start_tracing("1")
