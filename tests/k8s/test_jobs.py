"""The jobs of the offline side: valid, restricted, and calls that the command knows."""

import tomllib
from typing import Any

import kubernetes_validate
import pytest

from tests.k8s.rendering import K8S, Manifest, jobs
from tests.k8s.test_manifests import VERSIONS
from training.config import TrainingConfig
from training.settings import load_configuration


def of_kind(kind: str) -> list[Manifest]:
    return [manifest for manifest in jobs() if manifest["kind"] == kind]


def spec(job: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_they_are_strictly_valid(version: str) -> None:
    for manifest in jobs():
        kubernetes_validate.validate(manifest, version, strict=True)
    assert {job["metadata"]["name"] for job in of_kind("Job")} == {"assay-train", "assay-evaluate"}


def test_they_are_restricted_and_write_where_they_may() -> None:
    for job in of_kind("Job"):
        (container,) = spec(job)["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert spec(job)["securityContext"]["runAsNonRoot"] is True
        assert spec(job)["automountServiceAccountToken"] is False
        volumes = {volume["name"]: volume for volume in spec(job)["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/work", "/bundles", "/tmp"}


def test_their_configuration_is_one_and_lies_in_what_is_mounted() -> None:
    config = TrainingConfig.model_validate(tomllib.loads((K8S / "jobs/train.toml").read_text()))
    assert config.run.is_relative_to("/work")
    assert config.bundle.is_relative_to("/bundles")
    assert all(source.startswith("/data/") for source in config.data.train)
    (generated,) = of_kind("ConfigMap")
    for job in of_kind("Job"):
        (mounted,) = [v["configMap"]["name"] for v in spec(job)["volumes"] if "configMap" in v]
        assert mounted == generated["metadata"]["name"]
        (container,) = spec(job)["containers"]
        text = " ".join([*container["command"], *container.get("args", ())])
        assert str(config.run) in text
        for line in text.splitlines() if "\n" in text else [text]:
            _, found, call = line.partition("assay-train ")
            if not found and line.startswith("assay-train, "):
                call = line
            if not found:
                continue
            command, *flags = call.split()
            without_file = [flag for flag in flags if not flag.startswith(("--config", "/etc"))]
            load_configuration(command, without_file, TrainingConfig)
