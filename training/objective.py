"""What is minimised: from the scores of a step and the judgements on them to one number."""

import math
from collections.abc import Mapping
from functools import partial

import torch

from training.config import LossConfig
from training.losses import bradley_terry, centring, davidson, mean_by_element, plackett_luce, rao_kupper

KNOW_TIES = {"rao-kupper": rao_kupper, "davidson": davidson}
"""Losses with a threshold that is learnt beside the scores."""


def first_threshold(kind: str, tie_share: float) -> float:
    """The threshold of a loss that knows ties, such that equal scores tie as often as people do.

    Rao and Kupper's P(tie) at equal scores is tanh(eta / 2), Davidson's nu / (nu + 2); see `training.losses`.
    """
    share = min(max(tie_share, 0.01), 0.95)
    if kind == "rao-kupper":
        return math.log(math.expm1(2 * math.atanh(share)))
    return math.log(2 * share / (1 - share))


def objective(
    scores: torch.Tensor, batch: Mapping[str, torch.Tensor], threshold: torch.Tensor, config: LossConfig
) -> torch.Tensor:
    """Mean over elements of the weighted losses of their judgements, or of their ranking.

    Args:
        scores: (N, L) of the heads that learn.
        batch: as `training.examples.Collator` makes it.
        threshold: scalar, of the losses that know ties.
        config: which loss, and what is added.

    Returns:
        A scalar, float32.
    """
    score_i, score_j = scores[batch["first"]], scores[batch["second"]]
    weights, element = batch["weights"], batch["element"]
    values = torch.zeros_like(weights)
    if config.kind != "plackett-luce":
        difference = score_i - score_j - config.margin_weight * batch["margin"][:, None]
        # Length explains what it can beside the score, which then need not learn it.
        difference = difference + batch["length_term"][:, None]
        preference, tie = batch["preference"][:, None], batch["tie"][:, None]
        if config.kind == "bradley-terry":
            loss = partial(bradley_terry, difference, preference)
        else:
            loss = partial(KNOW_TIES[config.kind], difference, preference, tie, threshold)
        values = loss(label_smoothing=config.label_smoothing)
    if config.centring:
        values = values + config.centring * centring(score_i, score_j)
    total = mean_by_element((values * weights).sum(1), element)
    if config.kind == "plackett-luce":
        total = total + _rankings(scores, batch)
    return total


def _rankings(scores: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean over elements of the loss of their ranking, each head with its mean weight of the element's judgements."""
    ranking, weights, element = batch["ranking"], batch["weights"], batch["element"]
    values = plackett_luce(scores[ranking.clamp(min=0)], ranking >= 0)
    count = torch.bincount(element, minlength=len(ranking)).to(weights.dtype)[:, None]
    mean_weights = torch.zeros_like(values).index_add(0, element, weights) / count
    return (values * mean_weights).sum(1).mean()
