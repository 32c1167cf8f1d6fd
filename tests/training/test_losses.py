"""The losses as mathematics: symmetry, minima, stability, gradients, and torch's own as a reference."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from training.losses import bradley_terry, centring, davidson, mean_by_element, plackett_luce, rao_kupper

scores = st.floats(-1e4, 1e4)
shares = st.floats(0, 1)
smoothings = st.floats(0, 0.9)


def loss(i: float, j: float, share: float, smoothing: float = 0.0) -> float:
    return float(bradley_terry(torch.tensor([i]) - torch.tensor([j]), torch.tensor([share]), smoothing))


def rounding(i: float, j: float) -> float:
    """What a share that float32 rounds does to the loss of a difference: a share near 1 is off by 2**-25 and more."""
    return 2**-22 * abs(i - j)


@given(scores, scores, shares, smoothings)
def test_swapping_the_sides_changes_nothing(i: float, j: float, share: float, smoothing: float) -> None:
    swapped = loss(j, i, 1 - share, smoothing)
    assert loss(i, j, share, smoothing) == pytest.approx(swapped, rel=1e-4, abs=1e-5 + rounding(i, j))


@given(scores, scores, shares, smoothings)
def test_equals_torch_s_cross_entropy(i: float, j: float, share: float, smoothing: float) -> None:
    difference = (torch.tensor(i) - torch.tensor(j)).double()  # in single, torch's own loses digits at 1e2
    target = torch.tensor(share * (1 - smoothing) + smoothing / 2, dtype=torch.float64)
    expected = float(binary_cross_entropy_with_logits(difference, target))
    assert loss(i, j, share, smoothing) == pytest.approx(expected, rel=1e-4, abs=1e-5 + rounding(i, j))


@given(st.floats(-50, 50))
def test_a_tie_is_least_at_equal_scores(difference: float) -> None:
    assert loss(0, 0, 0.5) == pytest.approx(math.log(2))
    assert loss(difference, 0, 0.5) >= math.log(2) - 1e-6


@pytest.mark.parametrize("difference", [1e4, -1e4, 3e38])
def test_stable_at_large_differences(difference: float) -> None:
    score = torch.tensor([difference], requires_grad=True)
    value = bradley_terry(score, torch.ones(1))
    value.sum().backward()
    assert float(value.detach()) == pytest.approx(max(0.0, -difference), rel=1e-6)
    assert score.grad is not None
    assert float(score.grad) == pytest.approx(-1.0 if difference < 0 else 0.0)


def test_a_small_loss_is_not_lost() -> None:
    assert loss(30, 0, 1.0) == pytest.approx(math.exp(-30), rel=1e-3)


def test_label_smoothing_has_its_least_at_a_finite_difference() -> None:
    smoothing = 0.2
    best = math.log((1 - smoothing / 2) / (smoothing / 2))
    values = [loss(best + step, 0, 1.0, smoothing) for step in (-0.5, 0.0, 0.5)]
    assert values[1] == min(values)


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    difference, share = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(2))
    share = share.sigmoid()
    difference.requires_grad_()
    bradley_terry(difference, share, 0.1).sum().backward()
    assert difference.grad is not None
    expected = (torch.sigmoid(difference) - (share * 0.9 + 0.05)).detach()
    torch.testing.assert_close(difference.grad, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_scores_are_compared_in_single() -> None:
    one = torch.tensor([1.0], dtype=torch.bfloat16)
    assert bradley_terry(one, one).dtype == centring(one, one).dtype == torch.float32


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


TIES: dict[str, Callable[..., torch.Tensor]] = {"rao-kupper": rao_kupper, "davidson": davidson}
differences = st.floats(-20, 20)
thresholds = st.floats(-3, 3)


def outcomes(kind: str, difference: float, threshold: float) -> tuple[float, float, float]:
    """Probabilities of i, j and a tie: the loss of each, were it all that was voted."""
    votes = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.5, 1.0]])
    values = TIES[kind](torch.full((3,), difference), votes[:, 0], votes[:, 1], torch.tensor(threshold))
    win, lose, tie = torch.exp(-values.double()).tolist()
    return win, lose, tie


@pytest.mark.parametrize("kind", TIES)
@given(differences, thresholds)
def test_the_three_outcomes_are_all_there_are(kind: str, difference: float, threshold: float) -> None:
    assert sum(outcomes(kind, difference, threshold)) == pytest.approx(1, abs=1e-4)


@given(differences, thresholds)
def test_rao_and_kupper_s_formula(difference: float, threshold: float) -> None:
    theta, i, j = 1 + math.exp(threshold), math.exp(difference / 2), math.exp(-difference / 2)
    win, lose = i / (i + theta * j), j / (j + theta * i)
    tie = (theta**2 - 1) * i * j / ((i + theta * j) * (j + theta * i))
    assert outcomes("rao-kupper", difference, threshold) == pytest.approx((win, lose, tie), rel=2e-3, abs=1e-6)


@given(differences, thresholds)
def test_davidson_s_formula(difference: float, threshold: float) -> None:
    nu, i, j = math.exp(threshold), math.exp(difference / 2), math.exp(-difference / 2)
    total = i + j + nu * math.sqrt(i * j)
    expected = (i / total, j / total, nu * math.sqrt(i * j) / total)
    assert outcomes("davidson", difference, threshold) == pytest.approx(expected, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("kind", TIES)
@given(differences, shares, shares, thresholds, smoothings)
def test_ties_do_not_know_which_side_is_first(
    kind: str, difference: float, share: float, tie: float, threshold: float, smoothing: float
) -> None:
    preference = tie / 2 + share * (1 - tie)

    def value(d: float, p: float) -> float:
        parts = (torch.tensor([x]) for x in (d, p, tie))
        return float(TIES[kind](*parts, torch.tensor(threshold), smoothing))

    assert value(difference, preference) == pytest.approx(value(-difference, 1 - preference), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", TIES)
def test_ties_that_never_happen_leave_bradley_and_terry(kind: str) -> None:
    difference, share = torch.linspace(-4, 4, 9), torch.linspace(0, 1, 9)
    with_ties = TIES[kind](difference, share, torch.zeros(9), torch.tensor(-30.0), 0.1)
    torch.testing.assert_close(with_ties, bradley_terry(difference, share, 0.1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", TIES)
@pytest.mark.parametrize("difference", [1e4, -1e4])
def test_ties_are_stable_at_large_differences(kind: str, difference: float) -> None:
    score, threshold = torch.tensor([difference], requires_grad=True), torch.tensor(0.0, requires_grad=True)
    value = TIES[kind](score, torch.tensor([0.75]), torch.tensor([0.5]), threshold)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert score.grad is not None and torch.isfinite(score.grad).all()
    assert threshold.grad is not None and torch.isfinite(threshold.grad).all()


@pytest.mark.parametrize("kind", TIES)
def test_the_threshold_learns_how_often_people_tie(kind: str) -> None:
    """Where all responses are equal, a third of votes each way and a third of ties."""
    threshold = torch.tensor(2.0, requires_grad=True)
    optimiser = torch.optim.Adam([threshold], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        TIES[kind](torch.zeros(1), torch.tensor([0.5]), torch.tensor([1 / 3]), threshold).sum().backward()
        optimiser.step()
    assert outcomes(kind, 0.0, float(threshold.detach())) == pytest.approx((1 / 3,) * 3, abs=1e-3)


rankings = st.lists(st.floats(-20, 20), min_size=2, max_size=6)


@given(rankings)
def test_plackett_and_luce_s_formula(values: list[float]) -> None:
    worth = [math.exp(value) for value in values]
    expected = -sum(math.log(worth[k] / sum(worth[k:])) for k in range(len(worth) - 1)) / (len(worth) - 1)
    ranked = torch.ones(1, len(values), dtype=torch.bool)
    assert float(plackett_luce(torch.tensor([values]), ranked)) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=4))
def test_the_probabilities_of_all_rankings_sum_to_one(values: list[float]) -> None:
    orders = torch.tensor([list(order) for order in itertools.permutations(values)])
    losses = plackett_luce(orders, torch.ones_like(orders, dtype=torch.bool)) * (len(values) - 1)
    assert float(torch.exp(-losses.double()).sum()) == pytest.approx(1, abs=1e-4)


def test_a_ranking_of_two_is_bradley_and_terry() -> None:
    scores = torch.tensor([[1.5, -0.5], [-2.0, 3.0]])
    expected = bradley_terry(scores[:, 0] - scores[:, 1], torch.ones(2))
    torch.testing.assert_close(plackett_luce(scores, torch.ones(2, 2, dtype=torch.bool)), expected)


def test_what_lies_behind_a_shorter_ranking_counts_for_nothing() -> None:
    scores = torch.tensor([[2.0, 1.0, 9.0], [2.0, 1.0, 0.0]], requires_grad=True)
    ranked = torch.tensor([[True, True, False], [True, True, True]])
    values = plackett_luce(scores, ranked)
    values[0].backward()
    torch.testing.assert_close(values[:1], bradley_terry(torch.tensor([1.0]), torch.ones(1)))
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert float(scores.grad[0, 2]) == 0


def test_each_head_has_its_ranking_loss() -> None:
    scores = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    ranked = torch.tensor([[True] * 4, [True] * 3 + [False], [True, True, False, False]])
    together = plackett_luce(scores, ranked)
    for head in range(2):
        torch.testing.assert_close(together[:, head], plackett_luce(scores[..., head], ranked))
