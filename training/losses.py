"""Losses: pure functions of scores, in float32.

Shapes: P judgements, E elements (a prompt with its responses), R responses of an element, H scores of a response.
"""

import torch
from torch.nn.functional import logsigmoid, softplus


def bradley_terry(difference: torch.Tensor, preference: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Soft-label Bradley-Terry loss, in nats.

    -p log sigma(d) - (1 - p) log sigma(-d): Bradley & Terry (1952) with the share of votes as target. Written with
    softplus, which neither overflows nor loses a small loss at large differences.

    Args:
        difference: d, score_i - score_j of each judgement, less the margin by which i should win; any shape.
        preference: share of votes for i, a tie counting half, in [0, 1]; of a shape that broadcasts to that.
        label_smoothing: probability that a label is noise, in [0, 1).

    Returns:
        float32 of the shape of `difference`.
    """
    difference, preference = difference.float(), preference.float()
    target = preference * (1 - label_smoothing) + label_smoothing / 2
    # Not 1 - target, whose rounding a large difference would magnify on one side alone.
    other = (1 - preference) * (1 - label_smoothing) + label_smoothing / 2
    return target * softplus(-difference) + other * softplus(difference)


def rao_kupper(
    difference: torch.Tensor,
    preference: torch.Tensor,
    tie: torch.Tensor,
    threshold: torch.Tensor,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Loss under Bradley-Terry with ties of Rao & Kupper (1967), in nats.

    A side wins where it is better by more than a threshold eta >= 0: P(i) = sigma(d - eta), P(j) = sigma(-d - eta),
    and what is left, (e^(2 eta) - 1) P(i) P(j), is a tie. Their theta is e^eta.

    Args:
        difference, preference, label_smoothing: as of `bradley_terry`; the smoothing leaves the share of ties alone.
        tie: share of votes for a tie, in [0, 1].
        threshold: eta is softplus of this, a scalar to be learnt with the scores.
    """
    wins, losses = _decided_shares(preference, tie, label_smoothing)
    eta = softplus(threshold.float())
    log_i, log_j = logsigmoid(difference.float() - eta), logsigmoid(-difference.float() - eta)
    log_tie = log_i + log_j + 2 * eta + torch.log(-torch.expm1(-2 * eta))
    loss: torch.Tensor = -(wins * log_i + losses * log_j + tie.float() * log_tie)
    return loss


def davidson(
    difference: torch.Tensor,
    preference: torch.Tensor,
    tie: torch.Tensor,
    threshold: torch.Tensor,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Loss under Bradley-Terry with ties of Davidson (1970), in nats.

    P(i) : P(j) : P(tie) = e^(d/2) : e^(-d/2) : nu.

    Args:
        difference, preference, tie, label_smoothing: as of `rao_kupper`.
        threshold: log nu, a scalar to be learnt with the scores.
    """
    wins, losses = _decided_shares(preference, tie, label_smoothing)
    half = difference.float() / 2
    logits = torch.stack([half, -half, threshold.float().expand_as(half)])
    log_i, log_j, log_tie = torch.log_softmax(logits, dim=0)
    loss: torch.Tensor = -(wins * log_i + losses * log_j + tie.float() * log_tie)
    return loss


def _decided_shares(
    preference: torch.Tensor, tie: torch.Tensor, label_smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares of votes for i and for j, smoothed; with that of ties they sum to 1."""
    preference, tie = preference.float(), tie.float()
    spread = label_smoothing * (1 - tie) / 2
    wins, losses = (preference - tie / 2).clamp(min=0), (1 - preference - tie / 2).clamp(min=0)
    return wins * (1 - label_smoothing) + spread, losses * (1 - label_smoothing) + spread


def plackett_luce(scores: torch.Tensor, ranked: torch.Tensor) -> torch.Tensor:
    """Loss of a ranking, in nats for each choice: the best is chosen from all, the next from the rest, and so on.

    Plackett (1975), Luce (1959). Of two responses it is Bradley-Terry.

    Args:
        scores: (E, R) or (E, R, H) scores, best response first.
        ranked: (E, R) bool, false behind the end of a shorter ranking; at least two of each row are true.

    Returns:
        (E,) or (E, H) float32: the mean over the choices of an element, of which the last, from one, is none.
    """
    beyond = ~ranked.view(*ranked.shape, *[1] * (scores.ndim - 2))
    scores = scores.float().masked_fill(beyond, torch.finfo(torch.float32).min)
    # The log of the sum over a response and all ranked below it.
    rest = scores.flip(1).logcumsumexp(1).flip(1)
    losses = (rest - scores).masked_fill(beyond, 0.0)
    mean: torch.Tensor = losses.sum(1) / (ranked.sum(1) - 1).view(-1, *[1] * (scores.ndim - 2))
    return mean


def centring(score_i: torch.Tensor, score_j: torch.Tensor) -> torch.Tensor:
    """Penalty (score_i + score_j)^2 that keeps scores near 0 without touching their differences; of their shape.

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
