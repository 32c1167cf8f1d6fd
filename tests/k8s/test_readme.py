"""The folders that the README has a platform engineer write."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.k8s.rendering import K8S, need, one
from tests.k8s.test_alerts import ALERTS
from tests.k8s.test_manifests import CRDS, settings_of

README = (K8S / "README.md").read_text()
BLOCKS = re.findall(r"```yaml\n(# (mine[\w-]*)/kustomization\.yaml([^\n]*)\n.*?)```", README, re.DOTALL)
FOLDERS = {name: text for text, name, more in BLOCKS if more != ", more of it"}
FOLDERS["mine-with-more"] = "".join(text for text, name, _ in BLOCKS if name == "mine")


@pytest.fixture
def manifests(tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    need("kubectl", "a release of Kubernetes; Debian's is too old")
    shutil.copytree(K8S, tmp_path / "k8s")
    found = {}
    for name, text in FOLDERS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "kustomization.yaml").write_text(text)
        shutil.copy(K8S / "jobs/train/train.toml", tmp_path / name)
        done = subprocess.run(
            ["kubectl", "kustomize", str(tmp_path / name)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        found[name] = list(yaml.safe_load_all(done.stdout))
    return found


def test_they_are_what_is_said_of_them(manifests: dict[str, list[dict[str, Any]]]) -> None:
    assert set(manifests) == {"mine", "mine-with-more", "mine-train"}
    for manifest in (manifest for found in manifests.values() for manifest in found):
        if manifest["kind"] not in CRDS:
            kubernetes_validate.validate(manifest, "1.37", strict=True)
        if manifest["kind"] != "PriorityClass":
            assert manifest["metadata"]["namespace"] == "rewards"
        for image in re.findall(r"'image': '([^']+)'", str(manifest)):
            assert image.startswith("REGISTRY/assay:0.1.0-")
    mine = manifests["mine-with-more"]
    assert settings_of(mine).queue_items == 16384
    assert 'namespace="rewards"' in one(mine, "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    rules = [rule for group in one(mine, "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    for rule in (rule for rule in rules if "alert" in rule):
        link = f"https://your.git/assay/blob/main/k8s/RUNBOOK.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == link
    assert "links" not in str([manifest["metadata"]["name"] for manifest in mine])


def test_numbers_and_paths_of_the_commands() -> None:
    assert f"# {len(ALERTS)} alerts" in README
    for path in re.findall(r"-k k8s/(\S+)", README):
        assert (K8S / path / "kustomization.yaml").is_file()
