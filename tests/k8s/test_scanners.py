"""What two scanners of manifests find, but for what is so on purpose (`make scanners` installs them)."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.rendering import JOBS, everything, job_folder, rendered

SCANNERS = Path(__file__).parents[2] / "build/scanners"
CHECKOV_ACCEPTED = {
    "CKV_K8S_8": "liveness: the pod to copy files through serves nothing",
    "CKV_K8S_9": "readiness: likewise",
    "CKV_K8S_11": "no CPU limit: a request is a fair share, and a limit stops an engine in the middle of a batch",
    "CKV_K8S_15": "pull policy: tags are versions and do not move; Always would need the registry at each start",
    "CKV_K8S_21": "default namespace: the user's own kustomization names one",
    "CKV_K8S_43": "image by digest: the image is the user's",
    "CKV2_K8S_6": "network policy of jobs: they take no connections, and may need a registry of data",
}
TRIVY_ACCEPTED = {
    "KSV011": "no CPU limit: as above",
    "AVD-KSV-01010": "a ConfigMap with secrets: it takes ASSAY_BUNDLE_DIGEST, or a word on a dashboard, for one",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All manifests, in files."""
    if not (SCANNERS / ".installed").is_file():
        pytest.skip("checkov and trivy are not installed (make scanners)")
    folder = tmp_path_factory.mktemp("manifests")
    sets = {f"{overlay}-{component or 'plain'}": rendered(overlay, component) for overlay, component in everything()}
    sets |= {f"job-{name}": job_folder(name) for name in JOBS}
    for name, manifests in sets.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(manifests))
    return folder


def output_of(*command: str) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def by_checkov(folder: Path) -> set[tuple[str, str]]:
    """Ids and names of the checks that fail."""
    command = ("-d", str(folder), "--framework", "kubernetes", "--output", "json", "--quiet", "--soft-fail")
    report = output_of(str(SCANNERS / "bin/checkov"), *command)
    return {(check["check_id"], check["check_name"]) for check in report["results"]["failed_checks"]}


def by_trivy(folder: Path) -> set[tuple[str, str]]:
    """The same."""
    command = ("config", "--quiet", "--skip-check-update", "--format", "json", str(folder))
    report = output_of(str(SCANNERS / "trivy"), *command)
    return {(one["ID"], one["Title"]) for result in report["Results"] for one in result.get("Misconfigurations", ())}


def test_checkov_finds_nothing_that_is_not_meant(folder: Path) -> None:
    assert {check for check, _ in by_checkov(folder)} == set(CHECKOV_ACCEPTED)


def test_trivy_finds_nothing_that_is_not_meant(folder: Path) -> None:
    assert {check for check, _ in by_trivy(folder)} == set(TRIVY_ACCEPTED)


def test_both_find_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    manifests = list(yaml.safe_load_all((folder / "cpu-plain.yaml").read_text()))
    (deployment,) = (manifest for manifest in manifests if manifest["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump_all(manifests))
    assert {check for check, _ in by_checkov(tmp_path)} - set(CHECKOV_ACCEPTED)
    assert {check for check, _ in by_trivy(tmp_path)} - set(TRIVY_ACCEPTED)
