"""The jobs of the offline side: valid, restricted, and calls that the command knows, which end where servers read."""

import shlex
import subprocess
import sys
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
    known = script.replace('"$bundle"', str(config.bundle)).replace('"$run"', str(config.run))
    check_calls(known.replace('"$config"', "/etc/assay/train.toml"), config, {"evaluate", "export", "run"})


CONFIGURATIONS = {
    "plain": 'run = "{run}"\nbundle = "{bundle}"\n',
    "other spellings": "\"bundle\"='{bundle}' # the \"best\" one\n'run'= '{run}'  # first\n[data]\nrun = 'no'\n",
}


class TrainingJob:
    """Its script in a shell, with a command that only says what it was called with."""

    def __init__(self, folder: Path, configuration: str = CONFIGURATIONS["plain"]) -> None:
        self._folder = folder
        self.run, self.bundle = folder / "work/runs/first", folder / "bundles/first"
        self.configure(configuration)
        command = folder / "assay-train"
        command.write_text('#!/bin/sh\necho "$@"\n')
        command.chmod(0o755)
        (folder / "python3").symlink_to(sys.executable)

    def configure(self, content: str) -> None:
        (self._folder / "train.toml").write_text(content.format(run=self.run, bundle=self.bundle))

    def leave(self, *files: Path) -> None:
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    def calls(self) -> list[str]:
        """What was called; raises `AssertionError` with the last line of what it says where it fails."""
        (container,) = one(job_folder("train"), "Job")["spec"]["template"]["spec"]["containers"]
        script = container["args"][0].replace("/etc/assay/train.toml", str(self._folder / "train.toml"))
        done = subprocess.run(
            [*container["command"], script],
            capture_output=True,
            text=True,
            env={"PATH": f"{self._folder}:/usr/bin:/bin"},
        )
        assert done.returncode == 0, f"{done.stderr.strip().splitlines()[-1]} (exit code {done.returncode})"
        return [line.replace(str(self._folder), "") for line in done.stdout.splitlines()]


BEGIN = "run --config /train.toml --overwrite --no-progress"
GO_ON = "run --config /train.toml --resume --no-progress"
FINISH = [
    "evaluate --run /work/runs/first --no-progress",
    "export --run /work/runs/first --bundle /bundles/first --no-progress",
]


@pytest.mark.parametrize("spelling", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_the_training_job_begins_goes_on_and_finishes(tmp_path: Path, spelling: str) -> None:
    job = TrainingJob(tmp_path, spelling)
    assert job.calls() == [BEGIN]
    assert job.calls() == [BEGIN]  # nothing was saved before it was killed
    job.leave(job.run / "checkpoints/checkpoint-9/trainer_state.json")
    assert job.calls() == [GO_ON]
    job.leave(job.run / "training.json")
    assert job.calls() == FINISH
    job.leave(job.bundle / "bundle.json")
    assert job.calls() == ["/bundles/first is there already"]


@pytest.mark.parametrize("left", ["checkpoints/checkpoint-9/trainer_state.json", "training.json"])
def test_another_configuration_does_not_take_a_run_for_its_own(tmp_path: Path, left: str) -> None:
    job = TrainingJob(tmp_path)
    job.calls()
    job.leave(job.run / left)
    job.configure(CONFIGURATIONS["plain"] + "[model]\nmax_tokens = 9\n")
    with pytest.raises(AssertionError, match=r"train\.toml is not what .*first began with: name another run.*code 2"):
        job.calls()


def test_a_mistake_in_the_configuration_can_be_mended(tmp_path: Path) -> None:
    """Nothing was trained with it."""
    job = TrainingJob(tmp_path, CONFIGURATIONS["plain"] + "[modle]\n")
    assert job.calls() == [BEGIN]  # which refuses it
    job.configure(CONFIGURATIONS["plain"])
    assert job.calls() == [BEGIN]
    job.leave(job.run / "training.json")
    assert job.calls() == FINISH


def test_a_bundle_that_servers_may_have_open_is_not_replaced(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path)
    job.leave(job.bundle / "bundle.json")
    with pytest.raises(AssertionError, match="is there and not of this run: name another bundle.*code 2"):
        job.calls()


def test_an_empty_folder_is_no_bundle(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path)
    job.bundle.mkdir(parents=True)
    assert job.calls() == [BEGIN]


@pytest.mark.parametrize("folder", ["train", "evaluate"])
def test_what_a_retry_cannot_mend_is_not_retried_and_an_eviction_does_not_count(folder: str) -> None:
    job = one(job_folder(folder), "Job")["spec"]
    disruption, mistake = job["podFailurePolicy"]["rules"]
    assert disruption == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    (container,) = job["template"]["spec"]["containers"]
    assert (mistake["action"], mistake["onExitCodes"]["containerName"]) == ("FailJob", container["name"])
    assert mistake["onExitCodes"]["values"] == [2]  # of a call or configuration that assay-train refuses


def test_a_configuration_without_a_bundle_ends_before_anything_is_called(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, 'run = "{run}"\n')
    with pytest.raises(AssertionError, match="KeyError: 'bundle'.*code 2"):
        job.calls()
    assert not job.run.parent.exists()


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
