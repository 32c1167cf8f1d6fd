"""PPO's clipped losses (Schulman et al. 2017), over the tokens of a minibatch. Pure functions."""

from dataclasses import dataclass

import torch

from training.feedback.returns import masked_mean


@dataclass(frozen=True)
class PolicyLoss:
    """The loss, and how much of it is held back.

    Attributes:
        loss: scalar with gradient.
        clip_fraction: share of the tokens whose gradient is stopped.
    """

    loss: torch.Tensor
    clip_fraction: torch.Tensor


def policy_loss(
    log_probs: torch.Tensor, sampled: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, clip: float
) -> PolicyLoss:
    """Minus the clipped surrogate (equation 7), averaged over tokens.

    Args:
        log_probs: (B, T) of the sampled tokens by the policy as it is, with gradient.
        sampled: (B, T) the same by the policy that sampled them.
        advantages: (B, T).
        mask: (B, T) bool, true on tokens.
        clip: epsilon.
    """
    log_ratio = torch.where(mask, log_probs - sampled, 0.0)
    ratio = log_ratio.exp()
    plain, bounded = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    with torch.no_grad():
        clip_fraction = masked_mean((bounded < plain).float(), mask)
    return PolicyLoss(-masked_mean(torch.minimum(plain, bounded), mask), clip_fraction)


def value_loss(
    values: torch.Tensor, sampled: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, clip: float
) -> torch.Tensor:
    """Half the squared error of the values, the larger of plain and clipped (as in PPO's first published code).

    Args:
        values: (B, T) by the value head as it is, with gradient.
        sampled: (B, T) the same when the responses were sampled.
        returns: (B, T), what they should be.
        mask: (B, T) bool, true on tokens.
        clip: the furthest a value may move from `sampled` before its gradient stops.
    """
    bounded = sampled + (values - sampled).clamp(-clip, clip)
    worse = torch.maximum((values - returns) ** 2, (bounded - returns) ** 2)
    return masked_mean(worse, mask) / 2
