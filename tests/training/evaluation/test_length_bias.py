"""What length explains is found and taken off, whichever side comes first."""

import numpy as np
import pytest

from training.evaluation.length_bias import length_trend
from training.evaluation.metrics import spearman

GENERATOR = np.random.default_rng(0)
LENGTHS = GENERATOR.integers(10, 1000, (400, 2))
DIFFERENCE = np.log(LENGTHS[:, 0]) - np.log(LENGTHS[:, 1])


def test_a_margin_that_is_length_leaves_nothing() -> None:
    trend = length_trend(3 * DIFFERENCE, LENGTHS[:, 0], LENGTHS[:, 1])
    assert trend is not None
    assert np.abs(3 * DIFFERENCE - trend).max() < 0.05


def test_what_is_left_does_not_know_length() -> None:
    own = GENERATOR.normal(size=400)
    margin = own + 2 * np.tanh(DIFFERENCE)
    trend = length_trend(margin, LENGTHS[:, 0], LENGTHS[:, 1])
    assert trend is not None
    assert abs(spearman(margin - trend, DIFFERENCE) or 0) < 0.05
    assert np.corrcoef(margin - trend, own)[0, 1] > 0.98


def test_turning_pairs_round_turns_the_trend_round() -> None:
    margin = GENERATOR.normal(size=400) + DIFFERENCE
    one = length_trend(margin, LENGTHS[:, 0], LENGTHS[:, 1])
    other = length_trend(-margin, LENGTHS[:, 1], LENGTHS[:, 0])
    assert one is not None
    assert other is not None
    assert one == pytest.approx(-other, abs=1e-9)


def test_few_pairs_or_equal_lengths_tell_nothing() -> None:
    assert length_trend(np.ones(29), LENGTHS[:29, 0], LENGTHS[:29, 1]) is None
    same = np.full(100, 7)
    assert length_trend(np.ones(100), same, same) is None
