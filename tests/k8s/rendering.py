"""The manifests as `kubectl apply -k` would send them."""

import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())
JOBS = sorted(path.name for path in (K8S / "jobs").iterdir())
IN_OVERLAYS = ("api-keys", "network-policy")
"""Components that the overlays have already."""

Manifest = dict[str, Any]


def need(tool: str, package: str) -> None:
    """Skip where a tool is not there."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed ({package})")


@lru_cache
def job_folder(name: str) -> list[Manifest]:
    """Those of a folder of the offline side."""
    need("kubectl", "a release of Kubernetes; Debian's is too old")
    done = subprocess.run(
        ["kubectl", "kustomize", str(K8S / "jobs" / name)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@lru_cache
def rendered(overlay: str, component: str | None = None) -> list[Manifest]:
    """All manifests of an overlay, with one component more if wished."""
    need("kubectl", "a release of Kubernetes; Debian's is too old")
    with tempfile.TemporaryDirectory() as scratch:
        folder = K8S / "overlays" / overlay
        if component is not None:
            parts = {"resources": folder, "components": K8S / "components" / component}
            folder = Path(scratch).resolve()
            content: dict[str, Any] = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
            content |= {name: [os.path.relpath(part, folder)] for name, part in parts.items()}
            (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
        done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def one(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The manifest of a kind, and of a name if there are several."""
    (found,) = [m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"])]
    return found


def everything() -> list[tuple[str, str | None]]:
    """Each overlay alone, and with each component that it has not already."""
    more = [name for name in COMPONENTS if name not in IN_OVERLAYS]
    return [(overlay, component) for overlay in OVERLAYS for component in (None, *more)]
