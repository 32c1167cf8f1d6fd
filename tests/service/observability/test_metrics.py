"""Metrics exist from the start, and the bulk histogram counts as the library's own does."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from service.observability.bulk_histogram import BulkHistogram
from service.observability.metrics import SECONDS, STATES, Metrics
from service.settings import Settings
from tests.service.serving import serving

finite = st.floats(-100, 100) | st.sampled_from([-2.0, -0.5, 0.0, 0.5, 2.0])
bounds = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 2.0, 64.0]), min_size=1, unique=True).map(sorted)


@given(bounds, st.lists(st.lists(finite, max_size=20), max_size=4))
def test_the_bulk_histogram_is_the_library_s(buckets, batches):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bulk = BulkHistogram("h", "Help.", buckets, ours)
    single = Histogram("h", "Help.", buckets=buckets, registry=theirs)
    for batch in batches:
        bulk.observe(batch)
        for value in batch:
            single.observe(value)
    found, expected = (
        {
            (sample.name, *sample.labels.items()): sample.value
            for metric in registry.collect()
            for sample in metric.samples
        }
        for registry in (ours, theirs)
    )
    assert found == pytest.approx(expected)


def test_equal_bounds_are_one():
    registry = CollectorRegistry()
    BulkHistogram("h", "Help.", [1, 1, 2], registry)
    (metric,) = registry.collect()
    assert [sample.labels["le"] for sample in metric.samples[:3]] == ["1.0", "2.0", "+Inf"]


@pytest.mark.parametrize(("centre", "spread"), [(0.0, 1.0), (-3.7, 0.01), (1e6, 1e-12), (0.0, 1e-320)])
def test_the_score_histogram_fits_any_calibration(centre, spread):
    metrics = Metrics("1.0")
    metrics.set_model("m", "0" * 64, "fp32", "p", centre, spread, {})
    assert metrics.score is not None
    metrics.score.observe([centre, centre - 100, centre + 100])
    text = generate_latest(metrics.registry).decode()
    (family,) = (family for family in text_string_to_metric_families(text) if family.name == "assay_score")
    counts = [sample.value for sample in family.samples if sample.name == "assay_score_bucket"]
    assert counts == sorted(counts)
    assert counts[-1] == 3


def test_exactly_one_state():
    metrics = Metrics("1.0")
    for state in STATES:
        metrics.watch_state(lambda state=state: state)
        values = {name: metrics.registry.get_sample_value("assay_engine_state", {"state": name}) for name in STATES}
        assert values == dict.fromkeys(STATES, 0) | {state: 1}


def test_buckets_of_durations_can_be_chosen():
    metrics = Metrics("1.0", seconds=(0.1, 0.2))
    metrics.stage_duration.labels("infer").observe(0.15)
    labels = {"stage": "infer"}
    assert metrics.registry.get_sample_value("assay_stage_duration_seconds_bucket", labels | {"le": "0.2"}) == 1
    assert metrics.registry.get_sample_value("assay_stage_duration_seconds_bucket", labels | {"le": "0.5"}) is None


def test_buckets_of_durations_are_a_setting(pocket_bundle):
    with serving(pocket_bundle, duration_buckets_s="0.1, 20") as served:
        assert served.score("a").status == 200
        text = served.get("/metrics").content.decode()
    rows = [row for row in text.splitlines() if re.match(r"assay_(http_request|stage)_duration_seconds_bucket", row)]
    assert {re.search(r'le="(.*?)"', row)[1] for row in rows} == {"0.1", "20.0", "+Inf"}
    assert 'assay_stage_duration_seconds_count{stage="infer"} 1.0' in text.splitlines()
    assert any(row.startswith("assay_http_request_duration_seconds_count{") for row in text.splitlines())


@pytest.mark.parametrize("given", ["", "1,1", "2,1", "0,1", "-1", "1,inf", "a", "nan", "1,,2"])
def test_buckets_that_are_none(given):
    with pytest.raises(ValidationError, match="duration_buckets_s"):
        Settings(duration_buckets_s=given)


def test_durations_begin_below_a_millisecond_and_end_at_a_minute():
    assert SECONDS[0] < 0.001
    assert SECONDS[-1] == 60
    assert not math.isinf(SECONDS[-1])
