"""The gate of a precision: it opens only where no clear preference is turned over."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.layout import Family
from service.bundle.reference import Reference, ReferencePair
from service.engine.gate import compare, measure_gate
from tests.pocket import pocket_reward

MODULE = np.array([[0.1 * place, -0.07 * place] for place in range(1, 41)])
VOTES = np.ones(40)


def test_equal_scores_pass():
    gate = compare("bf16", MODULE, MODULE, VOTES)
    assert gate.failure is None
    assert (gate.flips, gate.small_flips, gate.accuracy_change, gate.max_error) == (0, 0, 0, 0)
    assert gate.spearman == pytest.approx(1)


@pytest.mark.parametrize(
    "distorted",
    [lambda s: s + 5, lambda s: 10 * s, lambda s: np.tanh(s) / 20],
)
def test_scores_in_the_right_order_that_are_others_shut_it(distorted):
    """Raw rewards and calibrated probabilities are what is learnt from, not the order alone."""
    gate = compare("int8", distorted(MODULE), MODULE, VOTES)
    assert gate.flips == 0
    assert gate.error == pytest.approx(np.sqrt(np.mean((distorted(MODULE) - MODULE) ** 2)) / MODULE.std())
    assert gate.failure.endswith("of their standard deviation, and 0.2 is the most")


def test_fp32_must_be_fp32():
    rounded = MODULE * (1 + 2e-3 * np.sin(np.arange(80).reshape(40, 2)))
    assert compare("bf16", rounded, MODULE, VOTES).failure is None
    assert "scores are off by" in compare("fp32", rounded, MODULE, VOTES).failure
    assert compare("fp32", MODULE * (1 + 1e-6), MODULE, VOTES).failure is None


def test_a_flip_of_a_clear_pair_shuts_it():
    scores = MODULE.copy()
    scores[20] = scores[20][::-1]
    gate = compare("bf16", scores, MODULE, VOTES)
    assert (gate.flips, gate.small_flips) == (1, 0)
    assert gate.failure == "1 of 40 held-out pairs are ordered otherwise than by the trained module"


def test_a_flip_of_a_pair_that_was_a_coin_toss_does_not():
    scores = MODULE.copy()
    scores[0] = scores[0][::-1]
    gate = compare("bf16", scores, MODULE, VOTES)
    assert (gate.flips, gate.small_flips) == (0, 1)
    assert gate.accuracy_change == pytest.approx(-1 / 40)
    assert gate.failure is None


def test_one_pair_of_few_that_have_votes_is_no_change_of_accuracy():
    votes = np.where(np.arange(40) < 10, 1, 0.5)
    scores = MODULE.copy()
    scores[0] = scores[0][::-1]
    gate = compare("bf16", scores, MODULE, votes)
    assert (gate.voted, gate.accuracy_change) == (10, pytest.approx(-1 / 10))
    assert gate.failure is None


def test_several_flips_of_coin_tosses_change_the_accuracy():
    scores = MODULE.copy()
    scores[:3] = scores[:3, ::-1]
    gate = compare("bf16", scores, MODULE, VOTES)
    assert gate.flips == 0
    assert gate.failure == "the accuracy on held-out pairs changes by -7.50 points"


def test_ties_of_the_voters_say_nothing_of_accuracy():
    assert compare("bf16", MODULE[:, ::-1], MODULE, np.full(40, 0.5)).accuracy_change == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_not_finite_shuts_it(value):
    scores = MODULE.copy()
    scores[3, 0] = value
    assert compare("bf16", scores, MODULE, VOTES).failure == "a score is not finite"


def test_shuffled_scores_that_flip_nothing_shut_it():
    """Pairs may be ordered rightly while scores of different prompts are not."""
    scores = MODULE + np.random.default_rng(0).normal(scale=20, size=(40, 1))
    gate = compare("bf16", scores, MODULE, VOTES)
    assert gate.flips == 0
    assert "rank correlation" in str(gate.failure)


@given(st.integers(0, 2**32), st.floats(1e-6, 1e-3))
def test_rounding_far_below_the_margins_passes(seed, size):
    generator = np.random.default_rng(seed)
    scores = MODULE + generator.uniform(-size, size, MODULE.shape)
    gate = compare("bf16", scores, MODULE, VOTES)
    assert gate.failure is None
    assert gate.max_error <= size


def test_a_session_is_measured_on_the_pairs(onnx_session):
    pairs = [((97, 98, 99), (97, 98)), ((100,), (101,) * 30), ((97,) * 60, (98,) * 60)]
    reference = Reference(
        pairs=tuple(
            ReferencePair(
                first=first, second=second, preference=1,
                scores=(pocket_reward(first, Family.CAUSAL), pocket_reward(second, Family.CAUSAL)),
            )
            for first, second in pairs * 20
        )
    )  # fmt: skip
    gate = measure_gate(onnx_session, reference, Family.CAUSAL, 8)
    assert (gate.pairs, gate.flips) == (60, 0)
    assert gate.max_error < 1e-5
