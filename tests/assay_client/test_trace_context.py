import os
import subprocess
import sys

from opentelemetry.sdk.trace import TracerProvider

from assay_client.trace_context import trace_headers


def test_a_trace_is_taken_along():
    with TracerProvider().get_tracer("a worker").start_as_current_span("step") as span:
        context = span.get_span_context()
        expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        assert trace_headers() == {"traceparent": expected}
    assert trace_headers() == {}


def test_a_process_without_opentelemetry_stays_so():
    lines = "import sys, assay_client.trace_context as t; print(t.trace_headers(), 'opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{} False"


def test_neither_baggage_nor_a_propagator_that_is_not_there_gets_in_the_way():
    lines = (
        "from opentelemetry import baggage, context, trace\n"
        "context.attach(baggage.set_baggage('user.email', 'somebody'))\n"
        "from assay_client.trace_context import trace_headers\n"
        "print(trace_headers())"
    )
    variables = {**os.environ, "OTEL_PROPAGATORS": "tracecontext,nobody"}
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True, env=variables)
    assert done.stdout.strip() == "{}"
