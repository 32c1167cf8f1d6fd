"""How busy the server is, told with replies to callers that ask, who choose among several servers by it.

Open Request Cost Aggregation (ORCA): the headers of vLLM and Triton.
"""

ASKED_BY, HEADER = b"endpoint-load-metrics-format", b"endpoint-load-metrics"


def load_report(wanted: str, requests_in_flight: int) -> bytes | None:
    """Value of the header of a reply.

    Args:
        wanted: format that the caller asked for: text or json, in any case.
        requests_in_flight: beside the one that is replied to.

    Returns:
        None for a format that there is not.
    """
    match wanted.lower():
        case "text":
            return b"TEXT named_metrics.requests_in_flight=%d" % requests_in_flight
        case "json":
            return b'JSON {"named_metrics": {"requests_in_flight": %d}}' % requests_in_flight
        case _:
            return None
