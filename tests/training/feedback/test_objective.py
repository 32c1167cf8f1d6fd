"""The clipped losses: their values token by token, and where their gradients stop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.feedback.objective import policy_loss, value_loss

TOKENS = st.lists(
    st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-5, 5), st.booleans()), min_size=1, max_size=8
)


def columns(tokens: list[tuple[float, float, float, bool]]) -> tuple[torch.Tensor, ...]:
    first, second, third, kept = zip(*tokens, strict=True)
    return (*(torch.tensor([row], dtype=torch.float64) for row in (first, second, third)), torch.tensor([kept]))


@given(TOKENS, st.floats(0.05, 0.5))
def test_the_surrogate_is_the_lower_of_plain_and_clipped(tokens, clip):
    new, old, advantages, mask = columns(tokens)
    found = policy_loss(new, old, advantages, mask, clip)
    terms, stopped = [], 0
    for log_prob, sampled, advantage, kept in tokens:
        if kept:
            ratio = math.exp(log_prob - sampled)
            bounded = min(max(ratio, 1 - clip), 1 + clip)
            terms.append(min(ratio * advantage, bounded * advantage))
            stopped += bounded * advantage < ratio * advantage
    count = max(1, len(terms))
    assert float(found.loss) == pytest.approx(-sum(terms) / count, rel=1e-6, abs=1e-9)
    assert float(found.clip_fraction) == pytest.approx(stopped / count)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "moves"),
    [(1.0, 1.0, False), (1.0, -1.0, True), (-1.0, -1.0, False), (-1.0, 1.0, True), (0.0, 1.0, True)],
)
def test_a_gradient_stops_only_where_the_ratio_has_gone_the_wanted_way(log_ratio, advantage, moves):
    new = torch.tensor([[log_ratio]], requires_grad=True)
    mask = torch.tensor([[True]])
    policy_loss(new, torch.zeros(1, 1), torch.tensor([[advantage]]), mask, 0.2).loss.backward()
    assert bool(new.grad.abs().sum() > 0) == moves


def test_what_is_masked_out_moves_nothing_even_if_it_is_infinite():
    new = torch.tensor([[0.1, float("inf")]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    found = policy_loss(new, torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), mask, 0.2)
    found.loss.backward()
    assert torch.isfinite(found.loss)
    assert new.grad[0, 1] == 0


@given(TOKENS, st.floats(0.05, 0.5))
def test_the_value_loss_is_the_worse_of_plain_and_clipped(tokens, clip):
    values, sampled, returns, mask = columns(tokens)
    terms = []
    for value, old, wanted, kept in tokens:
        if kept:
            bounded = old + min(max(value - old, -clip), clip)
            terms.append(max((value - wanted) ** 2, (bounded - wanted) ** 2))
    expected = sum(terms) / max(1, len(terms)) / 2
    assert float(value_loss(values, sampled, returns, mask, clip)) == pytest.approx(expected, rel=1e-6, abs=1e-9)
