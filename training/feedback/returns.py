"""From rewards of whole responses to advantages of tokens. All arrays are (responses, tokens); pure functions."""

import torch


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of `values` where `mask` (same shape, bool) is true; 0 where it is nowhere."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def token_rewards(
    scores: torch.Tensor, log_probs: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, kl_coefficient: float
) -> torch.Tensor:
    """The reward of every token: minus its divergence from the reference, and the score on the last one.

    The divergence is its one-sample estimate log p - log q (Ziegler et al. 2019, equation 2).

    Args:
        scores: (B,) of the responses.
        log_probs, reference: (B, T) log-probabilities of the sampled tokens by the policy and by the reference.
        mask: (B, T) bool, true on the tokens of a response, which begin at 0 and are at least one.

    Returns:
        (B, T) float32, 0 where there is no token.
    """
    rewards = -kl_coefficient * (log_probs - reference) * mask
    last = mask.sum(dim=1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def generalised_advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, discount: float, gae_lambda: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16) over responses that all end.

    Args:
        rewards, values: (B, T); a value is that of the state before its token.
        mask: (B, T) bool; behind the last token the value is 0.
        discount, gae_lambda: gamma and lambda.

    Returns:
        Advantages (B, T), 0 where there is no token, and returns (B, T), which are advantages + values.
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    following_advantage = following_value = torch.zeros_like(rewards[:, 0])
    for token in reversed(range(rewards.shape[1])):
        td_error = rewards[:, token] + discount * following_value - values[:, token]
        following_advantage = (td_error + discount * gae_lambda * following_advantage) * mask[:, token]
        following_value = values[:, token]
        advantages[:, token] = following_advantage
    return advantages, advantages + values
