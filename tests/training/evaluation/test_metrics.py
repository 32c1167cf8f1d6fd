"""Metrics against slow references and against data whose figures are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit

from training.evaluation import metrics
from training.evaluation.metrics import (
    FloatArray,
    accuracy,
    brier,
    calibration_error,
    clustered_interval,
    correct,
    fit_temperature,
    length_margin,
    length_matched,
    log_loss,
    spearman,
)

margins = st.integers(1, 40).flatmap(
    lambda size: st.tuples(
        arrays(np.float64, size, elements=st.sampled_from([-30.0, -2.0, -0.5, 0.0, 0.5, 1.0, 25.0])),
        arrays(np.float64, size, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
    )
)
temperatures = st.sampled_from([0.1, 1.0, 7.0])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@given(margins)
def test_accuracy(pairs: tuple[FloatArray, FloatArray]) -> None:
    points = [
        0.5 if margin == 0 else float((margin > 0) == (share > 0.5))
        for margin, share in zip(*pairs, strict=True)
        if share != 0.5
    ]
    got = accuracy(*pairs)
    assert math.isnan(got) if not points else got == pytest.approx(sum(points) / len(points))


@given(margins, temperatures)
def test_log_loss_and_brier(pairs: tuple[FloatArray, FloatArray], temperature: float) -> None:
    losses, squares = [], []
    for margin, share in zip(*pairs, strict=True):
        p, q = sigmoid(margin / temperature), sigmoid(-margin / temperature)
        losses.append(sum(part * -math.log(odds) for part, odds in ((share, p), (1 - share, q)) if part))
        squares.append((p - share) ** 2)
    assert log_loss(*pairs, temperature) == pytest.approx(np.mean(losses), rel=1e-9)
    assert brier(*pairs, temperature) == pytest.approx(np.mean(squares), rel=1e-9, abs=1e-12)


@given(margins, temperatures)
def test_calibration_error(pairs: tuple[FloatArray, FloatArray], temperature: float) -> None:
    bins: dict[int, list[tuple[float, float]]] = {}
    for margin, share in zip(*pairs, strict=True):
        confidence = sigmoid(abs(margin) / temperature)
        observed = 0.5 if margin == 0 else share if margin > 0 else 1 - share
        place = min(9, max(0, int((confidence - 0.5) * 20)))
        bins.setdefault(place, []).append((confidence, observed))
    gaps = [abs(sum(c for c, _ in members) - sum(o for _, o in members)) for members in bins.values()]
    assert calibration_error(*pairs, temperature) == pytest.approx(sum(gaps) / len(pairs[0]), abs=1e-9)


@given(margins, temperatures)
def test_which_side_is_called_first_does_not_matter(pairs: tuple[FloatArray, FloatArray], temperature: float) -> None:
    margin, share = pairs
    for metric in (log_loss, brier, calibration_error):
        swapped = metric(-margin, 1 - share, temperature)
        assert metric(margin, share, temperature) == pytest.approx(swapped, abs=1e-9)


def votes(temperature: float, count: int = 20_000, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Margins and single votes of people who follow Bradley-Terry at a temperature."""
    generator = np.random.default_rng(seed)
    margin = generator.normal(0, 2, count)
    return margin, (generator.random(count) < expit(margin / temperature)).astype(np.float64)


def test_calibrated_scores_have_next_to_no_calibration_error() -> None:
    assert calibration_error(*votes(1.0)) < 0.015
    assert calibration_error(*votes(4.0)) > 0.1
    assert calibration_error(*votes(4.0), temperature=4.0) < 0.015


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_temperature_is_recovered(temperature: float) -> None:
    assert fit_temperature(*votes(temperature)) == pytest.approx(temperature, rel=0.06)


def test_temperature_stays_finite_without_errors_or_signal() -> None:
    margin = np.array([1.0, 2.0])
    assert fit_temperature(margin, np.ones(2)) == pytest.approx(0.01, rel=0.05)
    assert fit_temperature(margin, np.zeros(2)) == pytest.approx(100, rel=0.05)


def test_the_interval_covers() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for seed in range(200):
        values = (generator.random(150) < 0.7).astype(np.float64)
        interval = clustered_interval(values, np.arange(150), seed=seed, draws=400)
        assert interval.low <= interval.value <= interval.high
        inside += interval.low <= 0.7 <= interval.high
    assert 0.88 <= inside / 200 <= 0.99


def test_over_few_clusters_it_covers_less_and_says_so() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for seed in range(300):
        values, cluster = generator.normal(0.85, 0.06, 8), np.arange(8)
        interval = clustered_interval(values, cluster, seed=seed, draws=400)
        assert interval.clusters == 8
        assert interval.too_narrow
        inside += interval.low <= 0.85 <= interval.high
    assert inside / 300 < 0.91
    assert not clustered_interval(np.repeat(values, 5), np.arange(40)).too_narrow


def test_clusters_that_agree_widen_the_interval() -> None:
    generator = np.random.default_rng(2)
    once = (generator.random(200) < 0.7).astype(np.float64)
    values, cluster = np.repeat(once, 5), np.repeat(np.arange(200), 5)
    clustered = clustered_interval(values, cluster)
    loose = clustered_interval(values, np.arange(1000))
    alone = clustered_interval(once, np.arange(200))
    assert clustered.high - clustered.low > 1.8 * (loose.high - loose.low)
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=1e-9)


def test_interval_is_seeded_and_refuses_nothing() -> None:
    values, cluster = np.array([0.0, 1.0, 1.0]), np.array([7, 7, 9])
    assert clustered_interval(values, cluster) == clustered_interval(values, cluster)
    with pytest.raises(ValueError, match="no pair"):
        clustered_interval(values[:0], cluster[:0])


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1))
def test_length_rule_and_length_matched(lengths: list[tuple[int, int]]) -> None:
    i, j = (np.array(side) for side in zip(*lengths, strict=True))
    matched = length_matched(i, j)
    for place, (one, other) in enumerate(lengths):
        assert matched[place] == (min(one, other) >= 0.75 * max(one, other))
        assert np.sign(length_margin(i, j)[place]) == (one > other) - (one < other)
    assert (correct(length_margin(i, j), np.ones(len(i))) == [(1 + (a > b) - (a < b)) / 2 for a, b in lengths]).all()


def test_spearman() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(a, a**3) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, np.ones(4)) is None
    assert spearman(a[:1], a[:1]) is None


@given(st.integers(0, 2**31), st.integers(3, 12))
def test_a_resampled_mean_has_the_interval_of_the_mean(seed: int, clusters: int) -> None:
    generator = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(clusters), 4)[generator.permutation(4 * clusters)]
    values = generator.normal(size=len(cluster)) + cluster
    found = metrics.resampled_interval(lambda rows: float(values[rows].mean()), cluster, (-100, 100), draws=2000)
    expected = metrics.clustered_interval(values, cluster, draws=4000)
    assert found is not None
    assert found.value == pytest.approx(expected.value)
    assert found.clusters == expected.clusters == clusters
    tolerance = 0.25 * (expected.high - expected.low) + 1e-9
    assert found.low == pytest.approx(expected.low, abs=tolerance)
    assert found.high == pytest.approx(expected.high, abs=tolerance)


def test_a_resampled_figure_that_is_none_has_no_interval() -> None:
    assert metrics.resampled_interval(lambda rows: None, np.arange(5), (0, 1)) is None


def test_a_resampled_calibration_error_lies_around_its_figure() -> None:
    """Drawn again, the error itself would be larger than the figure in nearly every draw."""
    generator = np.random.default_rng(0)
    margin = generator.normal(size=300)
    preference = (generator.random(300) < 1 / (1 + np.exp(-margin))).astype(float)
    found = metrics.resampled_interval(
        lambda rows: metrics.calibration_error(margin[rows], preference[rows]), np.arange(300), (0, 1)
    )
    assert found is not None
    assert found.low < found.value < found.high
    assert found.value == metrics.calibration_error(margin, preference)


def test_a_draw_without_a_figure_takes_nothing_from_the_others() -> None:
    """Two prompts, one of which has a constant length: drawn twice, it has no rank correlation."""
    score, length, prompt = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 5.0, 5.0]), np.array([0, 0, 1, 1])
    found = metrics.resampled_interval(lambda rows: metrics.spearman(score[rows], length[rows]), prompt, (-1, 1))
    assert found is not None
    assert -1 <= found.low <= found.value <= found.high <= 1
