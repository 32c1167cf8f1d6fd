"""Losses: pure functions of scores, in float32."""

import torch
from torch.nn.functional import softplus


def bradley_terry(
    score_i: torch.Tensor,
    score_j: torch.Tensor,
    preference: torch.Tensor,
    margin: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Soft-label Bradley-Terry loss of each judgement, in nats.

    -p log sigma(d) - (1 - p) log sigma(-d) with d = score_i - score_j - margin: Bradley & Terry (1952) with
    the share of votes as target, and the margin of Llama 2 (Touvron et al. 2023, eq. 2). Written with
    softplus, which neither overflows nor loses a small loss at large differences.

    Args:
        score_i: (P,) scores of the first response of each judgement.
        score_j: (P,) scores of the second.
        preference: (P,) share of votes for the first, a tie counting half, in [0, 1].
        margin: (P,) by how much the first should win (negative: lose); none if absent.
        label_smoothing: probability that a label is noise, in [0, 1).

    Returns:
        (P,) float32.
    """
    difference = score_i.float() - score_j.float()
    if margin is not None:
        difference = difference - margin.float()
    target = preference.float() * (1 - label_smoothing) + label_smoothing / 2
    # Not 1 - target, whose rounding a large difference would magnify on one side alone.
    other = (1 - preference.float()) * (1 - label_smoothing) + label_smoothing / 2
    return target * softplus(-difference) + other * softplus(difference)


def centring(score_i: torch.Tensor, score_j: torch.Tensor) -> torch.Tensor:
    """(P,) penalty (score_i + score_j)^2 that keeps scores near 0 without touching their differences.

    Eisenstein et al. (2023), "Helping or Herding?", section 2; a weight of 0.01 is usual.
    """
    return (score_i.float() + score_j.float()).square()


def mean_by_element(values: torch.Tensor, element: torch.Tensor) -> torch.Tensor:
    """Mean over elements of the mean over each element's judgements.

    An element counts once however many of its responses were compared (Ouyang et al. 2022, eq. 1: 1 / C(K, 2)).

    Args:
        values: (P,) loss of each judgement.
        element: (P,) int64, which element of the batch a judgement belongs to.

    Returns:
        A scalar; 0 if there is no judgement.
    """
    if values.numel() == 0:
        return values.sum()
    _, place, count = torch.unique(element, return_inverse=True, return_counts=True)
    mean: torch.Tensor = (values / count[place]).sum() / len(count)
    return mean
