"""The caller's OpenTelemetry trace, which its requests take along, so that the server's spans become part of it."""

from __future__ import annotations

import sys


def trace_headers() -> dict[str, str]:
    """Headers of the current trace (W3C Trace Context), where this process has OpenTelemetry in use; else none.

    Of the trace alone, whatever propagators are set: baggage is not for a server that may be somebody else's.
    """
    if "opentelemetry.trace" not in sys.modules:  # who has a span has imported it; others do not pay for it
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers
