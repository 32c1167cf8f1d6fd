"""What a server tells of its load is taken as it is meant, and never taken for more than it is."""

import pytest

from assay_client import RewardClient
from assay_client.load_report import requests_in_flight
from assay_client.testing import FakeRewardServer


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("TEXT named_metrics.requests_in_flight=3", 3),
        ("TEXT cpu_utilization=0.3, named_metrics.requests_in_flight=12,rps=4", 12),
        ("TEXT named_metrics.num_requests_waiting=3", None),
        ('JSON {"named_metrics": {"requests_in_flight": 3}}', None),
        ("TEXT named_metrics.requests_in_flight", None),
        ("TEXT named_metrics.requests_in_flight=-1", None),
        ("TEXT named_metrics.requests_in_flight=nan", None),
        ("TEXT named_metrics.requests_in_flight=" + "9" * 400, None),
        ("TEXT named_metrics.requests_in_flight=²", None),
        ("", None),
    ],
)
def test_a_count_or_nothing(report, expected):
    assert requests_in_flight({"endpoint-load-metrics": report}) == expected


def test_no_header_is_no_count():
    assert requests_in_flight({}) is None


def test_a_server_that_tells_nothing_is_asked_all_the_same():
    with FakeRewardServer(lambda prompt, response: float(len(response))) as server, RewardClient(server.url) as client:
        assert list(client.score("p", ["a", "bb"])) == [1.0, 2.0]
        assert server.requests[-1].headers["endpoint-load-metrics-format"] == "TEXT"
