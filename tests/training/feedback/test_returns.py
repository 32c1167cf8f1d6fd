"""Token rewards and advantages against the sums they stand for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.feedback.returns import generalised_advantages, masked_mean, token_rewards

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def batch(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two random arrays (B, T), with rubbish where there is no token, and the mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return (*torch.randn(2, *mask.shape, generator=generator, dtype=torch.float64), mask)


@given(LENGTHS, st.integers(0, 99), st.floats(0, 2))
def test_token_rewards_sum_to_the_score_minus_the_divergence(lengths, seed, coefficient):
    log_probs, reference, mask = batch(lengths, seed)
    scores = torch.arange(len(lengths), dtype=torch.float64)
    rewards = token_rewards(scores, log_probs, reference, mask, coefficient)
    for row, length in enumerate(lengths):
        divergence = float((log_probs - reference)[row, :length].sum())
        assert float(rewards[row].sum()) == pytest.approx(row - coefficient * divergence, abs=1e-9)
        # All but the last token carry the divergence alone.
        for token in range(length - 1):
            expected = -coefficient * float(log_probs[row, token] - reference[row, token])
            assert float(rewards[row, token]) == pytest.approx(expected, abs=1e-12)
        assert not rewards[row, length:].any()


@given(LENGTHS, st.integers(0, 99), st.floats(0.1, 1), st.floats(0, 1))
def test_advantages_are_the_discounted_sums_of_td_errors(lengths, seed, discount, trace):
    rewards, values, mask = batch(lengths, seed)
    rewards = rewards * mask
    advantages, returns = generalised_advantages(rewards, values, mask, discount, trace)
    for row, length in enumerate(lengths):
        known = [*values[row, :length].tolist(), 0.0]
        td_errors = [float(rewards[row, t]) + discount * known[t + 1] - known[t] for t in range(length)]
        for token in range(length):
            expected = sum((discount * trace) ** (t - token) * td_errors[t] for t in range(token, length))
            assert float(advantages[row, token]) == pytest.approx(expected, abs=1e-9)
            assert float(returns[row, token]) == pytest.approx(expected + known[token], abs=1e-9)
        assert not advantages[row, length:].any()


@given(LENGTHS, st.integers(0, 99))
def test_with_trace_and_discount_one_the_return_is_what_is_still_to_come(lengths, seed):
    rewards, values, mask = batch(lengths, seed)
    rewards = rewards * mask
    _, returns = generalised_advantages(rewards, values, mask, 1.0, 1.0)
    to_come = rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(returns[mask], to_come[mask])


def test_a_masked_mean_sees_what_is_masked_in():
    values = torch.tensor([[1.0, 2.0], [3.0, 100.0]])
    assert float(masked_mean(values, torch.tensor([[True, True], [True, False]]))) == 2.0
    assert float(masked_mean(values, torch.zeros(2, 2, dtype=torch.bool))) == 0.0
