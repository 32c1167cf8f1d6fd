"""Traces by OpenTelemetry: where they are sent, and spans of a request's stages; the span of the request is FastAPI's.

Without `start_tracing` nothing is recorded.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context

logger = logging.getLogger("assay.server")

_STOP_SECONDS = 3.0
_TRACER = trace.get_tracer("assay")
_PROTOCOL = "http/protobuf"
_SAMPLERS = tuple(
    f"{start}{kind}" for start in ("", "parentbased_") for kind in ("always_on", "always_off", "traceidratio")
)
_CALLERS_WORDS = frozenset({"url.path", "url.query", "http.request.method_original", "server.address"})


def start_tracing(version: str) -> Callable[[], None]:
    """Send the spans of this process to where the `OTEL_*` variables say, by OTLP over HTTP.

    Those variables also set sampler, headers, propagators, resource, limits and batches, as they do everywhere:
    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/

    Args:
        version: of the package, for the resource.

    Returns:
        What sends the rest and ends it. A collector that does not take it holds it up for three seconds at most.

    Raises:
        ValueError: in one line: packages are missing, or the variables ask for what is not there.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ValueError(f"tracing needs the package {error.name}: pip install 'assay[tracing]'") from error
    check_variables(os.environ)

    class WithoutTexts(SpanProcessor):
        """Takes out what callers may write anything into; the route says what was asked."""

        def on_start(self, span: Span, parent_context: Context | None = None) -> None:
            span.set_attributes(dict.fromkeys(_CALLERS_WORDS & (span.attributes or {}).keys(), "REDACTED"))

    resource = Resource.create({"service.version": version})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):  # the variables name none
        resource = resource.merge(Resource({"service.name": "assay"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(WithoutTexts())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    if trace.get_tracer_provider() is not provider:
        raise ValueError(
            "something else in this process traces already (OTEL_PYTHON_TRACER_PROVIDER, or an instrumentation that "
            "starts it); leave out one of the two"
        )
    return lambda: _stop(provider.shutdown)


def _stop(shut_down: Callable[[], None]) -> None:
    # By itself it goes on trying for longer than a drain may last.
    thread = threading.Thread(target=shut_down, name="assay-traces-end", daemon=True)
    thread.start()
    thread.join(_STOP_SECONDS)
    if thread.is_alive():
        logger.warning("the last traces were not taken within %g s and are lost", _STOP_SECONDS)


def check_variables(environment: Mapping[str, str]) -> None:
    """Refuse what the exporter would fail at only when it sends, in a thread of its own, or takes for something else.

    Raises:
        ValueError: naming the variable; the value of none that may hold a key.
    """
    if (environment.get("OTEL_SDK_DISABLED") or "").strip().lower() == "true":
        raise ValueError("OTEL_SDK_DISABLED is true, so that no trace would be sent; leave out that or tracing")
    if (exporter := environment.get("OTEL_TRACES_EXPORTER") or "otlp") != "otlp":
        raise ValueError(
            f"OTEL_TRACES_EXPORTER is {exporter}; traces are sent by otlp alone (to send none, do not trace)"
        )
    _check_sampler(environment)
    protocol = _first(environment, "PROTOCOL")
    if protocol is not None and protocol[1] != _PROTOCOL:
        raise ValueError(f"{protocol[0]} is {protocol[1]}; traces are sent by {_PROTOCOL} alone (most often port 4318)")
    if (endpoint := _first(environment, "ENDPOINT")) is not None:
        try:
            parts = urlsplit(endpoint[1])
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, a bracket that is not closed
            whole = False
        if not whole:
            raise ValueError(f"{endpoint[0]} is {endpoint[1]}; it must be http:// or https:// and a host")
    for setting in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        if (file := _first(environment, setting)) is not None and not _readable(file[1]):
            raise ValueError(f"{file[0]} is {file[1]}, which is no file that can be read")
    headers = _first(environment, "HEADERS")
    if headers is not None and not all("=" in part for part in headers[1].split(",") if part.strip()):
        raise ValueError(f"{headers[0]} must be name=value pairs, separated by commas")


def _readable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.R_OK)


def _check_sampler(environment: Mapping[str, str]) -> None:
    sampler, argument = (environment.get(f"OTEL_TRACES_SAMPLER{end}") or "" for end in ("", "_ARG"))
    sampler = sampler.strip().lower()  # as OpenTelemetry takes it
    if sampler and sampler not in _SAMPLERS:
        raise ValueError(f"OTEL_TRACES_SAMPLER is {sampler}; it must be one of {', '.join(_SAMPLERS)}")
    if sampler.endswith("traceidratio") and argument:
        try:
            in_range = 0 <= float(argument) <= 1
        except ValueError:
            in_range = False
        if not in_range:
            raise ValueError(f"OTEL_TRACES_SAMPLER_ARG is {argument}; it must be a number from 0 to 1")


def _first(environment: Mapping[str, str], setting: str) -> tuple[str, str] | None:
    """Name and value of the variable that counts: that of traces before that of all signals; empty ones are not set."""
    names = f"OTEL_EXPORTER_OTLP_TRACES_{setting}", f"OTEL_EXPORTER_OTLP_{setting}"
    return next(((name, environment[name]) for name in names if environment.get(name)), None)


@contextlib.contextmanager
def span(name: str) -> Iterator[trace.Span]:
    """A span below the current one. An error ends it by its type alone: its text may be of a caller."""
    with _TRACER.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as current:
        try:
            yield current
        except BaseException as error:
            current.set_attribute("error.type", type(error).__name__)
            current.set_status(trace.StatusCode.ERROR)
            raise


def record(name: str, seconds: float, ended_s_ago: float = 0.0) -> None:
    """A span below the current one, of what has ended already."""
    if trace.get_current_span().is_recording():
        end = time.time_ns() - int(ended_s_ago * 1e9)
        _TRACER.start_span(name, start_time=end - int(seconds * 1e9)).end(end)


def describe(**attributes: str | int | float) -> None:
    """Add to the current span; the names are those of Assay (`assay.tokens`)."""
    current = trace.get_current_span()
    if current.is_recording():
        current.set_attributes({f"assay.{name}": value for name, value in attributes.items()})


def trace_id() -> str | None:
    """Of the current trace, as hexadecimal digits; None where there is none."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None
