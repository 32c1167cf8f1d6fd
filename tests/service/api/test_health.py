"""Probes and metrics: they tell the truth, at once, and all of it from the start."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api.dialects.registry import DIALECTS
from service.engine.session import EngineError
from service.observability.metrics import ENGINE_ERRORS, FAULTS, OUTCOMES, REJECTIONS, RELOADED, STAGES, STATES
from tests.service.doubles import ScriptedSession, fails
from tests.service.serving import serving

SERIES = {
    "assay_provider_fallback": "gauge",
    "assay_score_reference": "gauge",
    "assay_score_reference_mean": "gauge",
    "assay_score_reference_stddev": "gauge",
    "assay_http_requests": "counter",
    "assay_http_request_duration_seconds": "histogram",
    "assay_http_requests_in_flight": "gauge",
    "assay_request_samples": "histogram",
    "assay_request_body_bytes": "histogram",
    "assay_request_bodies_held_bytes": "gauge",
    "assay_requests_rejected": "counter",
    "assay_request_faults": "counter",
    "assay_reload_failed": "gauge",
    "assay_samples": "counter",
    "assay_stage_duration_seconds": "histogram",
    "assay_http_connections": "gauge",
    "assay_queue_samples": "gauge",
    "assay_queue_tokens": "gauge",
    "assay_queue_oldest_age_seconds": "gauge",
    "assay_queue_limit_samples": "gauge",
    "assay_inflight_samples": "gauge",
    "assay_peak_samples": "gauge",
    "assay_saturation_ratio": "gauge",
    "assay_batch_samples": "histogram",
    "assay_batch_tokens": "histogram",
    "assay_tokens": "counter",
    "assay_attention_cells": "counter",
    "assay_cost_model_scale": "gauge",
    "assay_score_cache_hits": "counter",
    "assay_input_tokens": "histogram",
    "assay_scores_nonfinite": "counter",
    "assay_score": "histogram",
    "assay_engine_last_progress_timestamp_seconds": "gauge",
    "assay_engine_batches": "counter",
    "assay_engine_errors": "counter",
    "assay_engine_state": "gauge",
    "assay_model_load_seconds": "gauge",
    "assay_warmup_seconds": "gauge",
    "assay_model_info": "gauge",
    "assay_build_info": "gauge",
}
"""The golden list: dashboards and alerts go by these names."""


@pytest.fixture
def session():
    return ScriptedSession()


@pytest.fixture
def served(pocket_bundle, session):
    with serving(pocket_bundle, session, stuck_after_s=0.2, queue_items=100, max_items=100) as served:
        session.pass_warm_up()
        yield served
        session.let_go()


def families(served):
    text = served.get("/metrics").content.decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family, label: str) -> dict[str, float]:
    return {sample.labels[label]: sample.value for sample in family.samples}


def test_every_metric_is_there_before_traffic(served, pocket_bundle):
    found = families(served)
    ours = {name: family.type for name, family in found.items() if not name.startswith("process_")}
    assert ours == SERIES
    assert {"process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"} <= set(found)
    assert values(found["assay_requests_rejected"], "reason") == dict.fromkeys(REJECTIONS, 0)
    assert values(found["assay_request_faults"], "code") == dict.fromkeys(FAULTS, 0)
    assert values(found["assay_reload_failed"], "what") == dict.fromkeys(RELOADED, 0)
    assert values(found["assay_samples"], "outcome") == dict.fromkeys(OUTCOMES, 0)
    assert values(found["assay_engine_errors"], "kind") == dict.fromkeys(ENGINE_ERRORS, 0)
    assert values(found["assay_engine_state"], "state") == dict.fromkeys(STATES, 0) | {"ready": 1}
    assert {sample.labels["stage"] for sample in found["assay_stage_duration_seconds"].samples} == set(STAGES)
    assert set(values(found["assay_tokens"], "kind")) == {"real", "shared", "padding"}
    for name in (
        "queue_samples",
        "queue_tokens",
        "inflight_samples",
        "peak_samples",
        "saturation_ratio",
        "scores_nonfinite",
    ):
        (sample,) = found[f"assay_{name}"].samples
        assert sample.value == 0, name
    (model,) = found["assay_model_info"].samples
    assert model.labels == {
        "model": "pocket",
        "revision": pocket_bundle.digest[:12],
        "sha256": pocket_bundle.digest,
        "precision": "fp32",
        "provider": "ScriptedProvider",
    }
    assert [sample.value for sample in found["assay_warmup_seconds"].samples] > [0]
    (progress,) = found["assay_engine_last_progress_timestamp_seconds"].samples
    assert time.time() - 60 < progress.value <= time.time()  # the warm-up's


def test_requests_of_every_route_are_at_zero_before_the_first(served):
    requests = families(served)["assay_http_requests"].samples
    at_zero = {sample.labels["route"] for sample in requests if sample.labels["status"] == "200"}
    native = {"/v1/score", "/v1/compare", "/v1/rank", "/v1/model", "/live", "/ready", "/metrics"}
    assert {route for route in at_zero if route.split("/")[1] not in DIALECTS} == native
    assert {"/vllm/classify", "/openrlhf/get_reward", "/kserve/v2/models/{name}/infer"} <= at_zero


def test_labels_hold_nothing_that_a_caller_makes_up(served):
    for path in "/a", "/b/%ff", "/v1/score/x":
        served.get(path)
    served.request("BREW", "/v1/score")
    served.request("PROPFIND", "/v1/model")
    requests = [sample for sample in families(served)["assay_http_requests"].samples if sample.value]
    assert {(sample.labels["route"], sample.labels["method"], sample.labels["status"]) for sample in requests} == {
        ("unmatched", "GET", "404"),
        ("/v1/model", "other", "405"),
    }


def test_what_a_request_adds(served):
    assert served.score("a", "b", "cc").status == 200
    assert served.score("a", scale="nothing").status == 422
    found = families(served)

    def sample(name: str, **labels: str) -> float:
        (value,) = (
            sample.value
            for family in found.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
        return value

    assert sample("assay_http_requests_total", route="/v1/score", method="POST", status="200") == 1
    assert sample("assay_http_requests_total", route="/v1/score", method="POST", status="422") == 1
    assert sample("assay_http_request_duration_seconds_count", route="/v1/score", method="POST") == 2
    assert sample("assay_request_body_bytes_count") == 2
    assert sample("assay_request_samples_sum") == 3
    assert sample("assay_samples_total", outcome="ok") == 3
    assert sample("assay_score_count") == 3
    assert sample("assay_input_tokens_sum") == 6 + 6 + 7
    assert sample("assay_requests_rejected_total", reason="invalid") == 1
    for stage in STAGES:
        assert sample("assay_stage_duration_seconds_count", stage=stage) >= 1
    assert sample("assay_http_requests_in_flight") == 1  # this very scrape


def test_probes_of_a_healthy_server(served):
    live, ready = served.get("/live"), served.get("/ready")
    assert (live.status, live.json) == (200, {"live": True, "state": "ready"})
    assert (ready.status, ready.json) == (200, {"ready": True, "state": "ready"})


@pytest.mark.parametrize("path", ["/live", "/ready"])
def test_probes_by_head(served, path):
    reply = served.request("HEAD", path)
    assert (reply.status, reply.content) == (200, b"")
    assert reply.headers["content-length"] == str(len(served.get(path).content))


def test_a_hung_engine_is_neither_live_nor_ready_and_that_is_told_at_once(served, session):
    session.hold()
    import threading

    caller = threading.Thread(target=served.score, args=("a",))
    caller.start()
    session.wait_for_batch()
    assert served.get("/live").status == 200  # a batch may take its time
    deadline = time.monotonic() + 10
    while served.get("/live").status == 200:
        assert time.monotonic() < deadline
    began = time.monotonic()
    assert served.get("/live").json == {"live": False, "state": "wedged"}
    assert values(families(served)["assay_engine_state"], "state") == dict.fromkeys(STATES, 0) | {"wedged": 1}
    ready = served.get("/ready")
    assert (ready.status, ready.headers["retry-after"]) == (503, "1")
    assert served.get("/metrics").status == 200
    assert time.monotonic() - began < 2
    session.let_go()
    caller.join(10)
    assert (served.get("/live").status, served.get("/ready").status) == (200, 200)
    assert values(families(served)["assay_engine_state"], "state") == dict.fromkeys(STATES, 0) | {"ready": 1}


def test_a_dead_runner_is_not_live(served):
    assert served.context.runner.stop(10)
    assert (served.get("/live").status, served.get("/ready").status) == (503, 503)
    reply = served.score("a")
    assert (reply.status, reply.error["code"]) == (503, "engine_failed")


def test_an_engine_that_fails_on_every_batch_is_given_up(served, session, monkeypatch):
    """The probe that the warm-up left fails too, so it is not the batches."""
    monkeypatch.setattr("service.engine.runner.PROBES_FAIL_FOR", 0.0)
    session.always(fails(EngineError("CUDA failure 700: an illegal memory access")))
    for text in "abc":
        assert served.score(text).error["code"] == "engine_failed"
    served.until("assay_engine_state", 1, state="failed")
    assert "the engine fails on every batch: CUDA failure 700" in served.context.failure
