"""The caller's OpenTelemetry trace, which its requests take along, so that the server's spans become part of it."""

from __future__ import annotations

import sys


def trace_headers() -> dict[str, str]:
    """Headers of the current trace (W3C Trace Context), where this process has OpenTelemetry in use; else none."""
    if "opentelemetry.trace" not in sys.modules:  # who has a span has imported it; others do not pay for it
        return {}
    from opentelemetry.propagate import inject

    headers: dict[str, str] = {}
    inject(headers)
    return headers
