"""Whether the members of an ensemble disagree where it errs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation import metrics
from training.evaluation.metrics import FloatArray, IntArray, Interval

GROUPS = 5


@dataclass(frozen=True)
class Group:
    """Pairs of similar disagreement: its mean, and how often the ensemble errs on them."""

    pairs: int
    disagreement: float
    error: Interval


@dataclass(frozen=True)
class Disagreement:
    """Error against disagreement: d / (|m| + d), with m the mean and d the standard deviation of the members' margins.

    Relative to the margin, since heads on one trunk grow together: where the margin is large, so is d itself, and an
    ensemble that is nearly sure would look torn.

    Attributes:
        groups: fifths of the pairs, in order of disagreement.
        spearman: rank correlation of disagreement and error; none where one does not vary.
        spearman_deviation: that of d alone and error.
        kept: accuracy on the pairs of least disagreement, by the share of pairs kept.
    """

    groups: list[Group]
    spearman: float | None
    spearman_deviation: float | None
    kept: dict[str, float]


def disagreement(margins: FloatArray, right: FloatArray, cluster: IntArray) -> Disagreement:
    """From the members' margins (P, members) and whether the ensemble is right on each pair (P,)."""
    deviation = margins.std(axis=1, ddof=1)
    spread = deviation / np.maximum(np.abs(margins.mean(axis=1)) + deviation, np.finfo(np.float64).tiny)
    order = np.argsort(spread, kind="stable")
    parts: Sequence[IntArray] = [part for part in np.array_split(order, GROUPS) if len(part)]
    return Disagreement(
        groups=[
            Group(len(part), float(spread[part].mean()), metrics.clustered_interval(1 - right[part], cluster[part]))
            for part in parts
        ],
        spearman=metrics.spearman(spread, 1 - right),
        spearman_deviation=metrics.spearman(deviation, 1 - right),
        kept={
            f"{share:g}": float(right[order[: max(1, round(share * len(order)))]].mean())
            for share in (1.0, 0.8, 0.6, 0.4, 0.2)
        },
    )
