"""Manifests against the schemas of Kubernetes, and against the server that they start."""

import copy
import re
from typing import Any
from urllib.parse import urlsplit

import cloudcoil.models.keda.v1alpha1 as keda
import cloudcoil.models.prometheus_operator.v1 as operator
import kubernetes_validate
import pytest

from service.api import health
from service.app import _STOP_SECONDS
from service.observability import tracing
from service.settings import Settings, refuse_unknown_variables
from tests.k8s.rendering import COMPONENTS, IN_OVERLAYS, OVERLAYS, Manifest, everything, one, rendered

VERSIONS = ("1.34", "1.36", "1.37")
"""The oldest that may still be in use, the one before the newest, and the newest with a schema."""
CRDS = {
    "ServiceMonitor": operator.ServiceMonitor,
    "PrometheusRule": operator.PrometheusRule,
    "ScaledObject": keda.ScaledObject,
}


def pod(manifests: list[Manifest]) -> dict[str, Any]:
    spec: dict[str, Any] = one(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(manifests: list[Manifest]) -> dict[str, Any]:
    (found,) = pod(manifests)["containers"]
    return dict(found)


def environment(manifests: list[Manifest]) -> dict[str, str]:
    """What the server finds, from the ConfigMap that it names and its own variables."""
    own = container(manifests)
    (name,) = [source["configMapRef"]["name"] for source in own["envFrom"]]
    requests = own["resources"]["requests"]
    given = dict(one(manifests, "ConfigMap", name)["data"])
    for entry in own["env"]:
        if "fieldRef" in entry.get("valueFrom", {}):
            continue
        resource = entry.get("valueFrom", {}).get("resourceFieldRef", {}).get("resource", "")
        given[entry["name"]] = entry["value"] if "value" in entry else requests[resource.removeprefix("requests.")]
    return given


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("overlay", "component"), everything())
def test_core_manifests_are_strictly_valid(overlay: str, component: str | None, version: str) -> None:
    for manifest in rendered(overlay, component):
        if manifest["kind"] not in CRDS:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize(("overlay", "component"), everything())
def test_custom_resources_are_valid_and_nothing_in_them_is_misspelt(overlay: str, component: str | None) -> None:
    """The models drop what they do not know, so what comes back must be what went in."""
    found = [manifest for manifest in rendered(overlay, component) if manifest["kind"] in CRDS]
    assert bool(found) == (component in ("keda", "monitoring"))
    for manifest in found:
        back = CRDS[manifest["kind"]].model_validate(manifest).model_dump(by_alias=True, exclude_none=True, mode="json")
        expected = copy.deepcopy(manifest["spec"])
        if manifest["kind"] == "ScaledObject":  # of KEDA 2.17; the newest model is of 2.16
            assert expected["fallback"].pop("behavior") == "currentReplicasIfHigher"
        assert back["spec"] == expected


def test_there_is_no_other_kind_of_manifest() -> None:
    known = {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "PriorityClass", "Service"}
    known |= {"ServiceAccount", "HorizontalPodAutoscaler", *CRDS}
    assert {m["kind"] for overlay, component in everything() for m in rendered(overlay, component)} == known


def settings_of(manifests: list[Manifest]) -> Settings:
    given = environment(manifests)
    refuse_unknown_variables(given)
    return Settings(**{name.removeprefix("ASSAY_").lower(): value for name, value in given.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_the_server_s_and_work(overlay: str) -> None:
    settings = settings_of(rendered(overlay))
    ports = {port["name"]: port["containerPort"] for port in container(rendered(overlay))["ports"]}
    assert ports == {"http": settings.port, "operations": settings.operations_port}
    assert settings.host == "0.0.0.0"
    mounts = {mount["mountPath"] for mount in container(rendered(overlay))["volumeMounts"]}
    assert str(settings.bundle.parent) in mounts
    assert str(settings.api_keys_file) in mounts
    assert settings.threads == int(container(rendered(overlay))["resources"]["requests"]["cpu"])
    (check,) = pod(rendered(overlay))["initContainers"]
    assert check["command"][-2:] == ["$(ASSAY_BUNDLE)", "--digest=$(ASSAY_BUNDLE_DIGEST)"]
    assert check["envFrom"] == container(rendered(overlay))["envFrom"]


def test_a_changed_setting_is_a_rollout() -> None:
    """Else replicas that a scaler starts later would have other settings than those that run."""
    for overlay in OVERLAYS:
        (source,) = container(rendered(overlay))["envFrom"]
        assert re.fullmatch(r"assay-settings-\w{10}", source["configMapRef"]["name"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_tls_reads_what_is_mounted(overlay: str) -> None:
    manifests = rendered(overlay, "tls")
    settings = settings_of(manifests)
    assert settings.tls_certificate is not None
    assert settings.tls_key is not None
    mounts = {mount["mountPath"] for mount in container(manifests)["volumeMounts"]}
    assert {str(settings.tls_certificate.parent), str(settings.tls_key.parent)} <= mounts
    assert settings.api_keys_file is not None  # the one component does not take the other's variables away


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_traces_reach_the_collector_that_is_named(overlay: str) -> None:
    manifests = rendered(overlay, "tracing")
    assert settings_of(manifests).tracing
    variables = environment(manifests)
    tracing.check_variables(variables)
    collector = urlsplit(variables["OTEL_EXPORTER_OTLP_ENDPOINT"])
    egress = one(manifests, "NetworkPolicy")["spec"]["egress"]
    (way,) = [rule for rule in egress if rule["ports"][0]["port"] == collector.port]
    (to,) = way["to"]
    assert (
        collector.hostname == f"otel-collector.{to['namespaceSelector']['matchLabels']['kubernetes.io/metadata.name']}"
    )
    assert any({"protocol": "UDP", "port": 53} in rule["ports"] for rule in egress)
    assert not one(rendered(overlay), "NetworkPolicy")["spec"]["egress"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_start_may_take_as_long_as_its_probe_allows(overlay: str) -> None:
    probe = container(rendered(overlay))["startupProbe"]
    allowed = probe["periodSeconds"] * probe["failureThreshold"]
    assert one(rendered(overlay), "Deployment")["spec"]["progressDeadlineSeconds"] >= allowed + 300


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_what_the_server_answers_on_a_port_that_is_there(overlay: str) -> None:
    own = container(rendered(overlay))
    routes = {route.path for route in health.probes.routes}  # type: ignore[attr-defined]
    asked = {name: own[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {probe["path"] for probe in asked.values()} <= routes
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "startup": "/ready", "readiness": "/ready", "liveness": "/live",
    }  # fmt: skip
    assert {probe["port"] for probe in asked.values()} == {"operations"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_there_is_time_to_drain(overlay: str) -> None:
    settings = settings_of(rendered(overlay))
    sleep = container(rendered(overlay))["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = sleep + settings.drain_notice_s + settings.drain_timeout_s + _STOP_SECONDS
    assert pod(rendered(overlay))["terminationGracePeriodSeconds"] >= needed + 10


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_rollout_and_a_drained_node_leave_a_replica(overlay: str) -> None:
    deployment = one(rendered(overlay), "Deployment")["spec"]
    budget = one(rendered(overlay), "PodDisruptionBudget")["spec"]
    assert deployment["replicas"] - deployment["strategy"]["rollingUpdate"]["maxUnavailable"] >= 1
    assert deployment["replicas"] - budget["maxUnavailable"] >= 1


@pytest.mark.parametrize(("overlay", "component"), everything())
def test_pods_meet_the_restricted_standard(overlay: str, component: str | None) -> None:
    spec = pod(rendered(overlay, component))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 9999
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    for each in (*spec["containers"], *spec.get("initContainers", ())):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert each["resources"]["limits"]["memory"]
        assert all(m.get("readOnly") for m in each["volumeMounts"] if m["name"] != "tmp")
    assert all(volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"] if "emptyDir" in volume)
    mounted = {
        m["name"] for each in (*spec["containers"], *spec.get("initContainers", ())) for m in each["volumeMounts"]
    }
    assert mounted == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_meet(overlay: str) -> None:
    manifests = rendered(overlay)
    labels = one(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    recommended = {"app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/part-of"}
    for manifest in manifests:
        assert recommended <= set(manifest["metadata"]["labels"])
    ports = {port["name"] for port in container(manifests)["ports"]}
    for service in (m for m in manifests if m["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for name, path in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert one(manifests, name)["spec"][path]["matchLabels"].items() <= labels.items()
    for constraint in pod(manifests)["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"].items() <= labels.items()
    policy = one(manifests, "NetworkPolicy")["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports
    assert policy["egress"] == []


def test_the_monitor_finds_the_service_and_its_port() -> None:
    manifests = rendered("cpu", "monitoring")
    monitor = one(manifests, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    found = [m for m in manifests if m["kind"] == "Service" and wanted <= m["metadata"]["labels"].items()]
    (service,) = found
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} == {
        port["name"] for port in service["spec"]["ports"]
    }
    jobs = set(re.findall(r'job="([^"]+)"', str(one(manifests, "PrometheusRule"))))
    assert jobs == {service["metadata"]["name"]}  # the operator names the job after the Service


@pytest.mark.parametrize("component", ["keda", "hpa"])
def test_the_scaler_owns_the_replicas_of_the_deployment(component: str) -> None:
    manifests = rendered("cpu", component)
    deployment = one(manifests, "Deployment")
    assert "replicas" not in deployment["spec"]
    scaler = one(manifests, {"keda": "ScaledObject", "hpa": "HorizontalPodAutoscaler"}[component])
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_bundles_come_in_three_ways() -> None:
    def source(component: str | None) -> list[dict[str, Any]]:
        return [volume for volume in pod(rendered("cpu", component))["volumes"] if volume["name"] == "bundle"]

    assert [set(volume) for volume in source(None)] == [{"name", "persistentVolumeClaim"}]
    assert [set(volume) for volume in source("image-volume")] == [{"name", "image"}]
    assert source("baked-in") == []
    assert "initContainers" not in pod(rendered("cpu", "baked-in"))


def test_the_gpu_overlay_asks_for_a_card_and_for_nothing_less() -> None:
    manifests = rendered("gpu")
    limits = container(manifests)["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    settings = environment(manifests)
    assert settings["ASSAY_PROVIDER"] == "cuda"
    assert "ASSAY_ALLOW_FALLBACK" not in settings
    assert {t["key"] for t in pod(manifests)["tolerations"]} == {"nvidia.com/gpu"}
    assert one(manifests, "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_all_components_are_looked_at() -> None:
    assert set(IN_OVERLAYS) <= set(COMPONENTS)
