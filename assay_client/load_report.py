"""What servers tell of their load with each reply: Open Request Cost Aggregation (ORCA), as vLLM and Triton have it."""

from __future__ import annotations

from collections.abc import Mapping

ASKING = {"endpoint-load-metrics-format": "TEXT"}
"""Headers of a request whose reply shall tell."""

_HEADER, _FORMAT, _METRIC = "endpoint-load-metrics", "TEXT ", "named_metrics.requests_in_flight"


def requests_in_flight(headers: Mapping[str, str]) -> int | None:
    """Requests in flight at the server beside the one replied to; None where it does not say."""
    report = headers.get(_HEADER, "")
    if not report.startswith(_FORMAT):
        return None
    metrics = dict(part.strip().partition("=")[::2] for part in report.removeprefix(_FORMAT).split(","))
    count = metrics.get(_METRIC, "")
    # As few characters as a count has: what a hostile server sends is not taken for a load.
    return int(count) if count.isascii() and count.isdecimal() and len(count) < 10 else None
