"""Scales keep the order of the scores, and preferences are probabilities."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.bundle.calibration import Calibration, Scale, sigmoid

SCORES = st.floats(-1e6, 1e6)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
CALIBRATIONS = st.builds(
    Calibration,
    centre=st.floats(-100, 100),
    scale=st.floats(1e-3, 1e3),
    temperature=st.floats(1e-3, 1e3),
    quantiles=st.just({}),
)


@given(CALIBRATIONS, SCORES, SCORES, st.sampled_from(Scale))
def test_every_scale_keeps_the_order(calibration: Calibration, a: float, b: float, scale: Scale) -> None:
    low, high = sorted((a, b))
    assert calibration.rescale(low, scale) <= calibration.rescale(high, scale)


@given(CALIBRATIONS, st.integers(-200, 200), st.sampled_from(Scale))
def test_scores_that_differ_visibly_stay_apart(calibration: Calibration, step: int, scale: Scale) -> None:
    low, high = (calibration.centre + calibration.temperature * (step + shift) / 10 for shift in (0, 1))
    assert calibration.rescale(low, scale) < calibration.rescale(high, scale)


def test_the_scales_by_example() -> None:
    calibration = Calibration(centre=1, scale=2, temperature=0.5, quantiles={})
    assert [calibration.rescale(2, scale) for scale in Scale] == [
        2,
        1,
        0.5,
        pytest.approx(1 / (1 + math.exp(-2))),
    ]
    assert calibration.rescale(1, Scale.PROBABILITY) == 0.5
    assert calibration.preference(2, 1) == pytest.approx(1 / (1 + math.exp(-2)))


@given(CALIBRATIONS, st.floats(-10, 10), st.sampled_from(Scale))
def test_a_small_deviation_is_the_distance_of_two_scores(calibration: Calibration, step: float, scale: Scale) -> None:
    raw, deviation = calibration.centre + step * calibration.temperature, 1e-3 * calibration.temperature
    apart = calibration.rescale(raw + deviation, scale) - calibration.rescale(raw, scale)
    largest = max(abs(calibration.rescale(raw, scale)), abs(raw) / calibration.scale, abs(raw), 1)
    found = calibration.rescale_deviation(raw, deviation, scale)
    assert found == pytest.approx(apart, rel=2e-3, abs=1e-14 * largest)


@given(CALIBRATIONS, SCORES, SCORES)
def test_preference_is_symmetric_and_follows_the_scores(calibration: Calibration, a: float, b: float) -> None:
    forth, back = calibration.preference(a, b), calibration.preference(b, a)
    assert 0 <= forth <= 1
    assert forth + back == pytest.approx(1, abs=1e-15)
    assert forth >= 0.5 if a >= b else forth <= 0.5


@given(CALIBRATIONS, SCORES)
def test_nothing_is_preferred_to_itself(calibration: Calibration, a: float) -> None:
    assert calibration.preference(a, a) == 0.5


@given(CALIBRATIONS, SCORES)
def test_a_probability_is_a_preference_over_the_centre(calibration: Calibration, raw: float) -> None:
    assert calibration.rescale(raw, Scale.PROBABILITY) == calibration.preference(raw, calibration.centre)


@given(FINITE)
@example(-1.7976931348623157e308)
@example(1.7976931348623157e308)
def test_sigmoid_never_overflows(x: float) -> None:
    assert 0 <= sigmoid(x) <= 1


@given(st.floats(-690, 690))
def test_sigmoid_is_accurate_on_both_sides(x: float) -> None:
    # Relative to the smaller of the two tails, where 1 - sigmoid(-x) would have lost every digit.
    assert math.log(sigmoid(-abs(x))) == pytest.approx(-abs(x) - math.log1p(math.exp(-abs(x))), rel=1e-14, abs=1e-15)
    assert sigmoid(x) + sigmoid(-x) == pytest.approx(1, abs=1e-15)


@given(st.floats(-800, 800))
@example(-0.916291)  # exp(x) / (1 + exp(x)) falls between neighbours around here
@example(-700)
@example(0)
def test_sigmoid_does_not_fall_between_neighbouring_floats(x: float) -> None:
    for _ in range(20):
        following = math.nextafter(x, math.inf)
        assert sigmoid(x) <= sigmoid(following)
        x = following


def test_sigmoid_of_nan_is_nan() -> None:
    assert math.isnan(sigmoid(math.nan))


@pytest.mark.parametrize(
    "field",
    [{"scale": 0}, {"scale": -1}, {"temperature": 0}, {"centre": math.nan}, {"scale": math.inf}, {"more": 1}],
)
def test_a_calibration_that_means_nothing_is_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(field))):
        Calibration.model_validate({"centre": 0, "scale": 1, "temperature": 1, "quantiles": {}} | field)
