"""The loss as mathematics: symmetry, minima, stability, gradients, and torch's own as a reference."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from training.losses import bradley_terry, centring, mean_by_element

scores = st.floats(-1e4, 1e4)
shares = st.floats(0, 1)
margins = st.floats(-5, 5)
smoothings = st.floats(0, 0.9)


def loss(i: float, j: float, share: float, margin: float | None = None, smoothing: float = 0.0) -> float:
    given_margin = None if margin is None else torch.tensor([margin])
    return float(bradley_terry(torch.tensor([i]), torch.tensor([j]), torch.tensor([share]), given_margin, smoothing))


def rounding(i: float, j: float) -> float:
    """What a share that float32 rounds does to the loss of a difference: a share near 1 is off by 2**-25 and more."""
    return 2**-22 * abs(i - j)


@given(scores, scores, shares, margins, smoothings)
def test_swapping_the_sides_changes_nothing(i: float, j: float, share: float, margin: float, smoothing: float) -> None:
    swapped = loss(j, i, 1 - share, -margin, smoothing)
    assert loss(i, j, share, margin, smoothing) == pytest.approx(swapped, rel=1e-4, abs=1e-5 + rounding(i, j))


@given(scores, scores, shares, smoothings)
def test_equals_torch_s_cross_entropy(i: float, j: float, share: float, smoothing: float) -> None:
    difference = (torch.tensor(i) - torch.tensor(j)).double()  # in single, torch's own loses digits at 1e2
    target = torch.tensor(share * (1 - smoothing) + smoothing / 2, dtype=torch.float64)
    expected = float(binary_cross_entropy_with_logits(difference, target))
    assert loss(i, j, share, None, smoothing) == pytest.approx(expected, rel=1e-4, abs=1e-5 + rounding(i, j))


@given(st.floats(-50, 50))
def test_a_tie_is_least_at_equal_scores(difference: float) -> None:
    assert loss(0, 0, 0.5) == pytest.approx(math.log(2))
    assert loss(difference, 0, 0.5) >= math.log(2) - 1e-6


@pytest.mark.parametrize("difference", [1e4, -1e4, 3e38])
def test_stable_at_large_differences(difference: float) -> None:
    score = torch.tensor([difference], requires_grad=True)
    value = bradley_terry(score, torch.zeros(1), torch.ones(1))
    value.sum().backward()
    assert float(value.detach()) == pytest.approx(max(0.0, -difference), rel=1e-6)
    assert score.grad is not None
    assert float(score.grad) == pytest.approx(-1.0 if difference < 0 else 0.0)


def test_a_small_loss_is_not_lost() -> None:
    assert loss(30, 0, 1.0) == pytest.approx(math.exp(-30), rel=1e-3)


@given(st.floats(-5, 5), st.floats(0, 5))
def test_margin_is_a_required_difference(difference: float, margin: float) -> None:
    # Differences of up to 10 are rounded to about 1e-6 in float32, and the loss has a slope of at most 1.
    assert loss(difference, 0, 1.0, margin) == pytest.approx(loss(difference - margin, 0, 1.0), abs=4e-6)
    assert loss(difference, 0, 1.0, margin) >= loss(difference, 0, 1.0) - 4e-6


def test_label_smoothing_has_its_least_at_a_finite_difference() -> None:
    smoothing = 0.2
    best = math.log((1 - smoothing / 2) / (smoothing / 2))
    values = [loss(best + step, 0, 1.0, None, smoothing) for step in (-0.5, 0.0, 0.5)]
    assert values[1] == min(values)


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    i, j, share, margin = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(4))
    share = share.sigmoid()
    i.requires_grad_()
    j.requires_grad_()
    value = bradley_terry(i, j, share, margin, 0.1).sum()
    value.backward()
    target = share * 0.9 + 0.05
    expected = (torch.sigmoid(i - j - margin) - target).detach()
    assert i.grad is not None
    assert j.grad is not None
    torch.testing.assert_close(i.grad, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(j.grad, -expected, rtol=1e-4, atol=1e-5)


def test_half_precision_scores_are_compared_in_single() -> None:
    one = torch.tensor([1.0], dtype=torch.bfloat16)
    assert bradley_terry(one, one, one).dtype == centring(one, one).dtype == torch.float32


@given(scores, scores)
def test_centring_knows_the_sum_alone(i: float, j: float) -> None:
    value = float(centring(torch.tensor([i]), torch.tensor([j])))
    assert value == pytest.approx((i + j) ** 2, rel=1e-3, abs=2.0)
    assert float(centring(torch.tensor([i]), torch.tensor([-i]))) == 0


def test_every_element_counts_once() -> None:
    values = torch.tensor([1.0, 3.0, 10.0])
    assert float(mean_by_element(values, torch.tensor([4, 4, 7]))) == pytest.approx((2 + 10) / 2)
    assert float(mean_by_element(values[:1], torch.tensor([2]))) == 1.0


def test_no_judgement_is_no_loss_and_no_gradient() -> None:
    score = torch.ones(3, requires_grad=True)
    value = mean_by_element(score[:0], torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert float(value.detach()) == 0
    assert score.grad is not None
    assert not score.grad.any()
