"""Dashboards and alert rules in a real Prometheus that scrapes a real server under load."""

import importlib.util
import json
from collections.abc import Iterator

import pytest

from service.bundle.reader import Bundle
from tests.k8s.prometheus import Prometheus
from tests.k8s.rendering import K8S
from tests.k8s.test_alerts import RULES
from tests.service.serving import Served, serving

_spec = importlib.util.spec_from_file_location("make", K8S / "components/dashboards/make.py")
assert _spec is not None
assert _spec.loader is not None
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)
EXPRESSIONS = [
    (name, panel.title, legend, expression)
    for name, (_, panels) in make.DASHBOARDS.items()
    for panel in panels
    for legend, expression in panel.lines.items()
]


@pytest.mark.parametrize("name", make.DASHBOARDS)
def test_the_files_are_those_that_are_made(name: str) -> None:
    text = (K8S / f"components/dashboards/{name}.json").read_text()
    assert json.loads(text) == make.dashboard(name), "run `python k8s/components/dashboards/make.py`"


@pytest.fixture(scope="module")
def watched(pocket_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Prometheus]]:
    """A server that has had some load, and a Prometheus that saw it."""
    with (
        serving(pocket_bundle, score_cache_items=10) as served,
        Prometheus(tmp_path_factory.mktemp("prometheus"), RULES, [served.port]) as prometheus,
    ):
        prometheus.until("assay_build_info")
        for number in range(30):
            served.score(f"a response {number}", f"another response {number % 3}")
            if number % 10 == 0:
                served.post("/v1/score", "{")
                prometheus.until(f"assay_http_requests_total{{route='/v1/score',status='200'}} > {number - 1}")
        prometheus.until("rate(assay_engine_batches_total[10m]) > 0")
        yield served, prometheus


@pytest.mark.parametrize(("dashboard", "title", "legend", "expression"), EXPRESSIONS)
def test_every_panel_shows_something(
    watched: tuple[Served, Prometheus], dashboard: str, title: str, legend: str, expression: str
) -> None:
    _, prometheus = watched
    found = prometheus.query(
        expression.replace(make.RATE, "10m").replace("$__range", "10m").replace("$namespace", ".*")
    )
    assert found, (dashboard, title, expression)
    for sample in found:
        for label in set(_labels(legend)):
            assert label in sample["metric"], (dashboard, title, legend)
        assert sample["value"][1] not in ("NaN", "+Inf", "-Inf"), (dashboard, title, expression)


def _labels(legend: str) -> list[str]:
    return [part.partition("}}")[0] for part in legend.split("{{")[1:]]


def test_no_rule_is_broken_and_a_healthy_server_is_quiet(watched: tuple[Served, Prometheus]) -> None:
    _, prometheus = watched
    rules = prometheus.rules()
    assert len(rules) == sum(len(group["rules"]) for group in RULES["groups"])
    assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
