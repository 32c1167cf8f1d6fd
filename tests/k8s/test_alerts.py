"""Alert rules: tested by Prometheus's own tool, explained, and about metrics that a server really has."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from service.bundle.reader import Bundle
from service.observability.metrics import FAULTS, REJECTIONS
from service.settings import Settings
from tests.k8s.rendering import K8S, need
from tests.service.serving import serving

RULES: dict[str, Any] = yaml.safe_load((K8S / "components/monitoring/rules.yaml").read_text())["spec"]
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    need("promtool", "apt-get install prometheus")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    (tmp_path / "tests.yaml").write_text((K8S / "alerts/tests.yaml").read_text())
    return tmp_path


def promtool(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_rules_are_valid_and_do_what_their_tests_say(folder: Path) -> None:
    checked = promtool("check", "rules", "rules.yaml", cwd=folder)
    assert checked.returncode == 0, checked.stderr
    tested = promtool("test", "rules", "tests.yaml", cwd=folder)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_tests_can_fail(folder: Path) -> None:
    (folder / "rules.yaml").write_text(yaml.safe_dump(RULES).replace("> 60)", "> 6000)"))
    assert promtool("test", "rules", "tests.yaml", cwd=folder).returncode != 0


def test_every_alert_fires_in_a_test_and_has_an_entry_in_the_runbook() -> None:
    tests = (K8S / "alerts/tests.yaml").read_text()
    fired = set(re.findall(r'\{alertname="(\w+)"\}', tests))
    assert fired == set(ALERTS)
    runbook = (K8S / "RUNBOOK.md").read_text()
    assert re.findall(r"^## (.+)$", runbook, re.MULTILINE) == list(ALERTS)
    assert set(re.findall(r"\(#(\w+)\)", runbook)) <= {name.lower() for name in ALERTS}
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"].endswith(f"/k8s/RUNBOOK.md#{name.lower()}")
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]


def test_every_metric_that_is_named_is_there_before_any_traffic(pocket_bundle: Bundle) -> None:
    with serving(pocket_bundle) as served:
        text = generate_latest(served.context.metrics.registry).decode()
    there = set(re.findall(r"^(\w+)", text, re.MULTILINE))
    recorded = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
    for path in K8S.rglob("*.yaml"):
        if path.parent.name == "alerts":
            continue
        named = set(re.findall(r"\b((?:assay|process)_\w+|assay:[a-z]\w*:\w+)", path.read_text()))
        assert named <= there | recorded, path
    for path in K8S.glob("*.md"):
        histograms = {name.removesuffix("_count") for name in there}
        assert set(re.findall(r"\bassay_(?!client)\w+", path.read_text())) <= there | histograms, path
    for metric, selector in set(re.findall(r"(assay_\w+)\{([^}]*)\}", yaml.safe_dump(RULES, width=10_000))):
        for label, value in re.findall(r'(\w+)=~?"([^"]+)"', selector):
            for alternative in value.split("|"):
                found = re.search(rf'^{metric}\{{[^}}]*{label}="{alternative}"', text, re.MULTILINE)
                assert found, (metric, label, alternative)


def test_settings_that_the_runbook_names_are_there() -> None:
    text = (K8S / "RUNBOOK.md").read_text()
    text = re.sub(r"`assay_\w+`", "", text)  # metrics
    named = {name.removeprefix("ASSAY_").lower() for name in re.findall(r"`(ASSAY_\w+|[a-z]+_[a-z_]+)(?:=\w+)?`", text)}
    assert named <= set(Settings.model_fields) | set(FAULTS) | set(REJECTIONS)
