"""Alert rules: tested by Prometheus's own tool, explained, and about metrics that a server really has."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from service.bundle.reader import Bundle
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
    headings = re.findall(r"^## (.+)$", (K8S / "RUNBOOK.md").read_text(), re.MULTILINE)
    assert {name.strip() for heading in headings for name in heading.split(",")} == set(ALERTS)
    for rule in ALERTS.values():
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
    labels = {(m, k, v) for m, k, v in re.findall(r'(assay_\w+)\{(\w+)=~?"([^"]+)"', yaml.safe_dump(RULES))}
    for metric, label, value in labels:
        for alternative in value.replace("5..", "").split("|"):
            assert re.search(rf'^{metric}\{{[^}}]*{label}="{alternative}', text, re.MULTILINE), (
                metric,
                label,
                alternative,
            )
