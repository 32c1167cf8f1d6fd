"""What a model gives: names, sums and disagreement."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.bundle.layout import Family, IntArray, plan_layout
from tests.training.tiny import tiny_checkpoint
from training.examples import layout_tensors
from training.heads import Heads
from training.model import RewardModel

ITEMS: list[IntArray] = [np.arange(5, 5 + length, dtype=np.int64) for length in (1, 9, 40)]


def model_of(heads: Heads, family: Family = Family.CAUSAL) -> RewardModel:
    base = tiny_checkpoint(family).model
    model = RewardModel(base.backbone, family, base.pooling, heads).eval()
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    return model


def scores(model: RewardModel) -> torch.Tensor:
    rewards: torch.Tensor = model(**layout_tensors(plan_layout(ITEMS, model.family, block_queries=16)))
    return rewards


def test_outputs_by_name() -> None:
    assert Heads().outputs == ("reward",)
    assert Heads.ensemble(3).outputs == ("reward", "uncertainty", "member_1", "member_2", "member_3")
    aspects = Heads(kind="aspects", weights={"helpful": 1, "harmless": 2})
    assert aspects.outputs == ("reward", "helpful", "harmless")
    assert [heads.learnt for heads in (Heads(), Heads.ensemble(3), aspects)] == [(0,), (2, 3, 4), (0, 1, 2)]


@given(st.integers(2, 7))
def test_every_linear_head_learns_once(members: int) -> None:
    heads = Heads.ensemble(members)
    assert [heads.outputs[place] for place in heads.learnt] == list(heads.weights)
    assert sum(heads.weights.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("weights", "kind", "reason"),
    [
        ({"reward": 1.0}, "aspects", "'reward' is the name of what the heads are combined to"),
        ({"uncertainty": 1.0}, "single", "'uncertainty' is the name"),
        ({}, "aspects", "at least 1 item"),
        ({"helpful": 0.0}, "aspects", "every head has the weight 0"),
    ],
)
def test_refused(weights: dict[str, float], kind: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Heads.model_validate({"kind": kind, "weights": weights})


@pytest.mark.parametrize("family", list(Family))
def test_an_ensemble_gives_mean_and_deviation(family: Family) -> None:
    with torch.no_grad():
        given_scores = scores(model_of(Heads.ensemble(5), family))
    members = given_scores[:, 2:]
    torch.testing.assert_close(given_scores[:, 0], members.mean(1))
    torch.testing.assert_close(given_scores[:, 1], members.std(1))


def test_aspects_add_up_by_their_weights() -> None:
    with torch.no_grad():
        given_scores = scores(model_of(Heads(kind="aspects", weights={"helpful": 1.0, "harmless": -0.5})))
    torch.testing.assert_close(given_scores[:, 0], given_scores[:, 1] - 0.5 * given_scores[:, 2])


def test_members_that_agree_have_a_gradient() -> None:
    """The root of a spread of zero has none; it must not spoil that of the members."""
    model = model_of(Heads.ensemble(3))
    with torch.no_grad():
        model.head.weight[:] = model.head.weight[0]
    outputs = scores(model)
    assert outputs[:, 1].abs().max() < 1e-6
    outputs.sum().backward()
    assert model.head.weight.grad is not None
    assert model.head.weight.grad.isfinite().all()
