"""The cost model finds what a machine takes, never with a negative coefficient, and refuses nonsense."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.scoring.cost import NEUTRAL, CostModel

coefficients = st.floats(0, 1e-2).map(lambda value: 0.0 if value < 1e-8 else value)
SHAPES = [(1, 64), (64, 4096), (400, 448 * 400), (2000, 2048 * 300), (4096, 4096 * 4096)]
shapes = st.tuples(st.integers(1, 5000), st.integers(1, 10**7))


@given(coefficients, coefficients, coefficients)
def test_a_machine_that_follows_the_model_is_found(fixed, per_token, per_cell):
    assume(fixed + per_token + per_cell > 0)
    truth = CostModel(fixed, per_token, per_cell)
    found = CostModel.fit([(tokens, cells, truth.seconds(tokens, cells)) for tokens, cells in SHAPES])
    for tokens, cells in SHAPES:
        assert found.seconds(tokens, cells) == pytest.approx(truth.seconds(tokens, cells), rel=1e-4)


@given(st.lists(st.tuples(shapes, st.floats(1e-4, 10)), min_size=1, max_size=12))
def test_no_coefficient_is_negative_and_no_neighbour_is_better(measured):
    samples = [(tokens, cells, seconds) for (tokens, cells), seconds in measured]

    def error(model: CostModel) -> float:
        return sum((model.seconds(tokens, cells) / seconds - 1) ** 2 for tokens, cells, seconds in samples)

    model = CostModel.fit(samples)
    at = np.array([model.fixed, model.per_token, model.per_cell])
    assert (at >= 0).all()
    scale = np.array([1.0, 1 / 2500, 1 / 5e6]) * np.mean([seconds for *_, seconds in samples])
    for step in itertools.product((-1e-3, 0, 1e-3), repeat=3):
        near = np.maximum(at + scale * step, 0)
        if near.any():
            assert error(model) <= error(CostModel(*near.tolist())) * (1 + 1e-6) + 1e-9


@given(st.integers(0, 10**6), st.integers(0, 10**9), st.floats(1e-3, 1e3))
def test_a_scaled_model_takes_that_much_longer(tokens, cells, factor):
    assert NEUTRAL.scaled(factor).seconds(tokens, cells) == pytest.approx(factor * NEUTRAL.seconds(tokens, cells))


@pytest.mark.parametrize("samples", [[], [(1, 1, 0.0)], [(1, 1, -1.0)], [(1, 1, math.nan)], [(1, 1, math.inf)]])
def test_what_was_not_measured_cannot_be_fitted(samples):
    with pytest.raises(ValueError, match="samples"):
        CostModel.fit(samples)


@pytest.mark.parametrize("wrong", [(-1.0, 1.0, 1.0), (0.0, math.nan, 0.0), (0.0, 0.0, math.inf), (0.0, 0.0, 0.0)])
def test_a_model_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="coefficients"):
        CostModel(*wrong)
