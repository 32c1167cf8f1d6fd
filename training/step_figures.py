"""What a step shows of how well the model does, beside its loss."""

from collections.abc import Mapping

import torch


def step_sums(scores: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Sums over a step, of judgements once for each head that learns from them; sums of several steps add up.

    Args:
        scores: (N, L) of the heads that learn.
        batch: as `training.examples.Collator` makes it.

    Returns:
        (6,) float32: judgements with a winner, how many of these have it first (a tie of scores: half), all judgements,
        their differences of scores in favour of who won, scores, and their sum.
    """
    scores = scores.detach().float()
    counts = (
        batch["weights"] > 0
    )  # an ensemble's members each leave out judgements, and an aspect's head those of others
    difference = scores[batch["first"]] - scores[batch["second"]]
    favour = (2 * batch["preference"].float() - 1)[:, None]
    decided = counts & (favour != 0)
    right = torch.where(decided, 0.5 + 0.5 * difference.sign() * favour.sign(), 0.0)
    margins = torch.where(counts, difference * favour, 0.0)
    sums = [decided.sum(), right.sum(), counts.sum(), margins.sum(), torch.tensor(scores.numel()), scores.sum()]
    return torch.stack([part.to(scores) for part in sums])


def step_figures(sums: torch.Tensor) -> dict[str, float]:
    """Accuracy, mean margin and mean score from what `step_sums` gives; without those that nothing was counted for."""
    decided, right, judged, margins, count, total = sums.tolist()
    parts = {"accuracy": (right, decided), "margin": (margins, judged), "score_mean": (total, count)}
    return {name: part / whole for name, (part, whole) in parts.items() if whole}
