"""Whether the members of an ensemble disagree where it errs, and whether that says more than its margin does."""

from dataclasses import dataclass

import numpy as np

from training.evaluation import metrics
from training.evaluation.metrics import FloatArray, IntArray, Interval

GROUPS = 5
SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)


@dataclass(frozen=True)
class Group:
    """Pairs of similar deviation: its mean, and how often the ensemble errs on them."""

    pairs: int
    deviation: float
    error: Interval


@dataclass(frozen=True)
class Disagreement:
    """Errors against d, the standard deviation of the members' margins on a pair, and against m, their mean.

    Heads on one trunk grow together: where |m| is large, so is d, and the ensemble errs less for it. What the members
    add to the margin is seen at equal |m|.

    Attributes:
        groups: fifths of the pairs, in order of d.
        spearman: rank correlation with error, of `d`, of `-|m|` and of `d / |m|`; none where one does not vary.
        at_equal_margin: share of errors where d is above its median less that where it is below, within fifths of |m|.
        kept: accuracy on the share of pairs kept, the surest first, by |m| and by |m| / d.
    """

    groups: list[Group]
    spearman: dict[str, float | None]
    at_equal_margin: Interval
    kept: dict[str, dict[str, Interval]]


def disagreement(margins: FloatArray, right: FloatArray, cluster: IntArray) -> Disagreement:
    """From the members' margins (P, members) and whether the ensemble is right on each pair (P,)."""
    deviation, margin = margins.std(axis=1, ddof=1), np.abs(margins.mean(axis=1))
    ratio = deviation / np.maximum(margin, np.finfo(np.float64).tiny)
    wrong = 1 - right
    parts = [part for part in np.array_split(np.argsort(deviation, kind="stable"), GROUPS) if len(part)]
    orders = {"|m|": np.argsort(-margin, kind="stable"), "|m| / d": np.argsort(ratio, kind="stable")}
    return Disagreement(
        groups=[
            Group(len(part), float(deviation[part].mean()), metrics.clustered_interval(wrong[part], cluster[part]))
            for part in parts
        ],
        spearman={
            "d": metrics.spearman(deviation, wrong),
            "-|m|": metrics.spearman(-margin, wrong),
            "d / |m|": metrics.spearman(ratio, wrong),
        },
        at_equal_margin=_at_equal_margin(deviation, margin, wrong, cluster),
        kept={
            f"{share:g}": {name: _kept(order, share, right, cluster) for name, order in orders.items()}
            for share in SHARES
        },
    )


def _kept(order: IntArray, share: float, right: FloatArray, cluster: IntArray) -> Interval:
    first = order[: max(1, round(share * len(order)))]
    return metrics.clustered_interval(right[first], cluster[first])


def _at_equal_margin(deviation: FloatArray, margin: FloatArray, wrong: FloatArray, cluster: IntArray) -> Interval:
    """Difference of two shares of errors: above the median of the deviation, less below it."""
    sign = np.zeros(len(margin))
    for part in np.array_split(np.argsort(margin, kind="stable"), GROUPS):
        half = len(part) // 2
        by_deviation = part[np.argsort(deviation[part], kind="stable")]
        sign[by_deviation[:half]], sign[by_deviation[len(part) - half :]] = -1.0, 1.0
    used = np.flatnonzero(sign)

    def difference(rows: IntArray) -> float | None:
        errors, above = wrong[used[rows]], sign[used[rows]] > 0
        return None if above.all() or not above.any() else float(errors[above].mean() - errors[~above].mean())

    found = metrics.resampled_interval(difference, cluster[used], (-1.0, 1.0)) if len(used) else None
    return found or Interval(0.0, 0.0, 0.0, 0)
