"""The jobs of the offline side: valid, restricted, and calls that the command knows, which end where servers read."""

import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.k8s.rendering import JOBS, K8S, job_folder, one, rendered
from tests.k8s.test_manifests import VERSIONS, settings_of
from training.config import TrainingConfig
from training.settings import load_configuration


def pods() -> list[dict[str, Any]]:
    """Of jobs and of the pod to copy files through."""
    found = []
    for folder in JOBS:
        for manifest in job_folder(folder):
            if manifest["kind"] == "Job":
                found.append(manifest["spec"]["template"]["spec"])
            elif manifest["kind"] == "Pod":
                found.append(manifest["spec"])
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", JOBS)
def test_they_are_strictly_valid(folder: str, version: str) -> None:
    for manifest in job_folder(folder):
        kubernetes_validate.validate(manifest, version, strict=True)
        assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "assay"


def test_they_are_restricted_and_write_where_they_may() -> None:
    assert len(pods()) == 3
    claims = {claim["metadata"]["name"] for claim in job_folder("claims")}
    for spec in pods():
        (container,) = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable <= {"/work", "/bundles", "/data", "/tmp"}
        named = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
        assert named <= claims


def configuration() -> TrainingConfig:
    return TrainingConfig.model_validate(tomllib.loads((K8S / "jobs/train/train.toml").read_text()))


def mounted_at(spec: dict[str, Any], claim: str) -> str:
    """Where a claim is seen in the one container of a pod."""
    (name,) = [v["name"] for v in spec["volumes"] if v.get("persistentVolumeClaim", {}).get("claimName") == claim]
    (path,) = [mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == name]
    return str(path)


def test_a_bundle_is_written_where_the_servers_read_it() -> None:
    train = one(job_folder("train"), "Job")["spec"]["template"]["spec"]
    serve = one(rendered("cpu"), "Deployment")["spec"]["template"]["spec"]
    written = configuration().bundle.relative_to(mounted_at(train, "assay-bundle"))
    read = settings_of(rendered("cpu")).bundle.relative_to(mounted_at(serve, "assay-bundle"))
    assert written == read


def test_training_calls_what_the_command_knows_with_the_run_that_it_is_configured_for() -> None:
    config = configuration()
    assert config.run.is_relative_to("/work")
    job = one(job_folder("train"), "Job")
    generated = one(job_folder("train"), "ConfigMap")
    volumes = job["spec"]["template"]["spec"]["volumes"]
    assert generated["metadata"]["name"] in [v.get("configMap", {}).get("name") for v in volumes]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (script,) = container["args"]
    known = script.replace('"$(setting bundle)"', str(config.bundle)).replace('"$run"', str(config.run))
    check_calls(known, config, {"evaluate", "export", "run"})


@pytest.mark.parametrize(("file", "calls"), [("training.json", ["evaluate", "export"]), ("", ["run"])])
def test_the_script_of_the_training_job_goes_by_the_configuration(tmp_path: Path, file: str, calls: list[str]) -> None:
    """Run by a shell, with a command that only says what it was called with."""
    run = tmp_path / "work/other"
    run.mkdir(parents=True)
    if file:
        (run / file).touch()
    (tmp_path / "train.toml").write_text(f'run = "{run}"\nbundle = "{tmp_path}/bundles/other"\n')
    command = tmp_path / "assay-train"
    command.write_text('#!/bin/sh\necho "$@"\n')
    command.chmod(0o755)
    (container,) = one(job_folder("train"), "Job")["spec"]["template"]["spec"]["containers"]
    script = container["args"][0].replace("/etc/assay/train.toml", str(tmp_path / "train.toml"))
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(
        [*container["command"], script], capture_output=True, text=True, env={"PATH": path}, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == calls
    assert all(str(run) in line or str(tmp_path / "train.toml") in line for line in lines)
    assert ("--overwrite" in done.stdout) == (not file)


def test_evaluation_is_of_the_run_that_training_leaves() -> None:
    (container,) = one(job_folder("evaluate"), "Job")["spec"]["template"]["spec"]["containers"]
    check_calls(shlex.join(container["command"]), configuration(), {"evaluate"})


def check_calls(script: str, config: TrainingConfig, expected: set[str]) -> None:
    called = set()
    for line in script.splitlines():
        _, found, call = line.partition("assay-train ")
        if not found:
            continue
        command, *flags = call.split()
        called.add(command)
        known = [flag for flag in flags if not flag.startswith(("--config", "/etc"))]
        loaded = load_configuration(command, known, TrainingConfig)
        if "--run" in known:
            assert loaded.run == config.run
        if "--bundle" in known:
            assert loaded.bundle == config.bundle
    assert called == expected


def test_a_job_that_runs_twice_takes_nothing_away() -> None:
    """Applied again or started again, it deletes no finished training."""
    (container,) = one(job_folder("train"), "Job")["spec"]["template"]["spec"]["containers"]
    before, _, after = container["args"][0].partition("--overwrite")
    assert "training.json" in before
    assert "else" in before.splitlines()[-1]
    assert not after.strip().startswith("--run")
