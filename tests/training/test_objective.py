"""The number that is minimised, against the losses put together by hand."""

import math
from typing import Any

import pytest
import torch

from training.config import LossConfig
from training.losses import bradley_terry, centring, davidson, plackett_luce, rao_kupper
from training.objective import first_threshold, objective

THRESHOLD = torch.tensor(0.3)
SCORES = torch.tensor([[0.5, -1.0], [1.5, 0.0], [-0.5, 2.0], [0.2, 0.1], [-2.0, 0.4]])


def batch(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Three judgements on the three responses of one element, and one on the two of another."""
    return {
        "first": torch.tensor([0, 0, 1, 3]),
        "second": torch.tensor([1, 2, 2, 4]),
        "element": torch.tensor([0, 0, 0, 1]),
        "preference": torch.tensor([1.0, 0.25, 0.5, 0.0]),
        "tie": torch.tensor([0.0, 0.5, 1.0, 0.0]),
        "margin": torch.tensor([0.0, 1.0, 0.0, -0.5]),
        "length_term": torch.zeros(4),
        "weights": torch.tensor([[1.0, 0.0], [0.5, 1.0], [1.0, 2.0], [0.0, 1.0]]),
        "ranking": torch.tensor([[1, 0, 2], [3, 4, -1]]),
        **changes,
    }


def settings(**changes: Any) -> LossConfig:
    return LossConfig(**{"centring": 0.0, **changes})


def by_hand(values: torch.Tensor, given_batch: dict[str, torch.Tensor]) -> float:
    weighted = (values * given_batch["weights"]).sum(1)
    return float((weighted[:3].mean() + weighted[3]) / 2)


def differences(given_batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return SCORES[given_batch["first"]] - SCORES[given_batch["second"]]


def test_bradley_terry_with_all_that_can_be_added() -> None:
    given_batch = batch(length_term=torch.tensor([0.3, -0.2, 0.0, 1.0]))
    config = settings(label_smoothing=0.1, centring=0.01, margin_weight=0.5)
    difference = differences(given_batch) - 0.5 * given_batch["margin"][:, None] + given_batch["length_term"][:, None]
    values = bradley_terry(difference, given_batch["preference"][:, None], 0.1)
    values = values + 0.01 * centring(SCORES[given_batch["first"]], SCORES[given_batch["second"]])
    assert float(objective(SCORES, given_batch, THRESHOLD, config)) == pytest.approx(by_hand(values, given_batch))


@pytest.mark.parametrize(("kind", "loss"), [("rao-kupper", rao_kupper), ("davidson", davidson)])
def test_losses_with_ties(kind: str, loss: Any) -> None:
    given_batch = batch()
    preference, tie = given_batch["preference"][:, None], given_batch["tie"][:, None]
    values = loss(differences(given_batch), preference, tie, THRESHOLD)
    found = objective(SCORES, given_batch, THRESHOLD, settings(kind=kind))
    assert float(found) == pytest.approx(by_hand(values, given_batch))


def test_rankings() -> None:
    given_batch = batch()
    first = plackett_luce(SCORES[[1, 0, 2]][None], torch.ones(1, 3, dtype=torch.bool))[0]
    second = plackett_luce(SCORES[[3, 4]][None], torch.ones(1, 2, dtype=torch.bool))[0]
    weights = given_batch["weights"]
    expected = ((first * weights[:3].mean(0)).sum() + (second * weights[3]).sum()) / 2
    found = objective(SCORES, given_batch, THRESHOLD, settings(kind="plackett-luce"))
    assert float(found) == pytest.approx(float(expected))


def test_a_head_that_nothing_teaches_has_no_gradient() -> None:
    scores = SCORES.clone().requires_grad_()
    weights = torch.tensor([[1.0, 0.0]] * 4)
    objective(scores, batch(weights=weights), THRESHOLD, settings(centring=0.1)).backward()
    assert scores.grad is not None
    assert scores.grad[:, 0].abs().min() > 0
    assert not scores.grad[:, 1].any()


def test_what_length_explains_need_not_be_learnt() -> None:
    """Where the length term already tells the preference, equal scores lose little."""
    term = torch.tensor([6.0, -6.0, 0.0, -6.0])
    given_batch = batch(preference=torch.tensor([1.0, 0.0, 0.5, 0.0]), length_term=term, weights=torch.ones(4, 1))
    loss = objective(torch.zeros(5, 1), given_batch, THRESHOLD, settings())
    assert float(loss) == pytest.approx((math.log(2) / 3) / 2, abs=5e-3)


def test_settings_that_rankings_do_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="margin_weight is of losses on pairs"):
        settings(kind="plackett-luce", margin_weight=1.0)


@pytest.mark.parametrize(("kind", "loss"), [("rao-kupper", rao_kupper), ("davidson", davidson)])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.9])
def test_equal_scores_begin_by_tying_as_often_as_people_do(kind: str, loss: Any, share: float) -> None:
    threshold = torch.tensor(first_threshold(kind, share))
    value = loss(torch.zeros(1), torch.tensor([0.5]), torch.ones(1), threshold)
    assert math.exp(-float(value)) == pytest.approx(share, rel=1e-4)


def test_data_without_ties_have_a_threshold_too() -> None:
    assert all(
        math.isfinite(first_threshold(kind, share)) for kind in ("rao-kupper", "davidson") for share in (0.0, 1.0)
    )
