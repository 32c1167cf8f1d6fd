"""What the tested pairs of all folds and seeds come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.train import HeldOut
from training.evaluation import metrics
from training.evaluation.length_bias import length_trend
from training.evaluation.metrics import FloatArray, IntArray, Interval
from training.length import length_difference

Mask = npt.NDArray[np.bool_]
Strings = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Pooled:
    """The pairs of all folds, each tested once by every seed.

    Attributes:
        record, source, cluster, fold: (P,) of each pair.
        preference: (P,) share of votes for the first.
        lengths: (P, 2) characters.
        margins: (seeds, P, members).
        temperature: (seeds, P) of the fold that tested the pair.
    """

    record: Strings
    source: Strings
    cluster: IntArray
    fold: IntArray
    preference: FloatArray
    lengths: IntArray
    margins: FloatArray
    temperature: FloatArray

    @classmethod
    def of(cls, runs: Sequence[Sequence[HeldOut]]) -> Self:
        """Put the folds of each seed behind one another.

        Raises:
            ValueError: the seeds have not tested the same pairs.
        """
        first = runs[0]
        for run in runs[1:]:
            if [fold.record for fold in run] != [fold.record for fold in first]:
                raise ValueError("the seeds have not tested the same pairs")
        sizes = [len(fold.record) for fold in first]
        return cls(
            record=np.array([name for fold in first for name in fold.record]),
            source=np.array([name for fold in first for name in fold.source]),
            cluster=np.unique([name for fold in first for name in fold.cluster], return_inverse=True)[1],
            fold=np.repeat(np.arange(len(sizes)), sizes),
            preference=np.concatenate([fold.preference for fold in first]),
            lengths=np.concatenate([fold.lengths for fold in first]),
            margins=np.stack([np.concatenate([fold.margins for fold in run]) for run in runs]),
            temperature=np.stack([np.repeat([fold.temperature for fold in run], sizes) for run in runs]),
        )

    def select(self, mask: Mask) -> "Pooled":
        """The pairs where `mask` (P,) is true."""
        return Pooled(
            **{
                name: array[:, mask] if name in ("margins", "temperature") else array[mask]
                for name, array in vars(self).items()
            }
        )

    @property
    def margin(self) -> FloatArray:
        """(seeds, P) of the reward: the mean of the members."""
        means: FloatArray = self.margins.mean(axis=2)
        return means

    @property
    def right(self) -> FloatArray:
        """(P,) how often the seeds order a pair as people did."""
        each = [metrics.correct(margin, self.preference) for margin in self.margin]
        shares: FloatArray = np.mean(each, axis=0)
        return shares

    @property
    def longer_is_right(self) -> FloatArray:
        """(P,) the same of the rule that the longer response wins."""
        return metrics.correct(metrics.length_margin(*self.lengths.T), self.preference)

    @property
    def right_without_length(self) -> FloatArray | None:
        """(P,) as `right`, of margins without what a local regression on length explains; none of too few pairs."""
        trends = [length_trend(margin, *self.lengths.T) for margin in self.margin]
        if any(trend is None for trend in trends):
            return None
        each = [metrics.correct(m - t, self.preference) for m, t in zip(self.margin, trends, strict=True)]
        shares: FloatArray = np.mean(each, axis=0)
        return shares

    @property
    def length_correlation(self) -> float:
        """Rank correlation of margin and difference of lengths, mean over seeds; no matter which response is first."""
        difference = length_difference(*self.lengths.T)
        both = np.concatenate([difference, -difference])
        each = [metrics.spearman(np.concatenate([margin, -margin]), both) for margin in self.margin]
        return float(np.mean([value or 0.0 for value in each]))  # none where all lengths are equal

    @property
    def matched(self) -> Mask:
        """(P,) whether the two are of similar length."""
        return metrics.length_matched(*self.lengths.T)

    def interval(self, values: FloatArray) -> Interval:
        """The mean of `values` (P,) with an interval over clusters."""
        return metrics.clustered_interval(values, self.cluster)


@dataclass(frozen=True)
class Figures:
    """Of one set of pairs.

    Attributes:
        accuracy: mean over seeds, with an interval over clusters.
        accuracy_by_seed: of each.
        accuracy_by_fold: mean of the folds' accuracies, as protocols of held-out topics publish it.
        length_rule, above_rule: the longer one wins; the model less that, pair by pair.
        matched_pairs, matched, matched_rule: those of similar length; none without such pairs.
        length_correlation: rank correlation of margin and difference of lengths; 0 for a score that knows no length.
        without_length: accuracy of margins without what a local regression on length explains (Huang et al. 2024).
        log_loss, ece, ece_by_seed: at the temperatures of the folds; means over seeds.
    """

    pairs: int
    accuracy: Interval
    accuracy_by_seed: list[float]
    accuracy_by_fold: float
    length_rule: Interval
    above_rule: Interval
    matched_pairs: int
    matched: Interval | None
    matched_rule: Interval | None
    length_correlation: float
    without_length: Interval | None
    log_loss: float
    ece: float
    ece_by_seed: list[float]


def figures(pooled: Pooled) -> Figures:
    """All there is to say of some pairs.

    Raises:
        ValueError: there are none.
    """
    right, rule, matched = pooled.right, pooled.longer_is_right, pooled.matched
    seeds = list(zip(pooled.margin, pooled.temperature, strict=True))
    ece = [metrics.calibration_error(margin / t, pooled.preference) for margin, t in seeds]
    alike = pooled.select(matched)
    without_length = pooled.right_without_length
    return Figures(
        pairs=len(right),
        accuracy=pooled.interval(right),
        accuracy_by_seed=[metrics.accuracy(margin, pooled.preference) for margin, _ in seeds],
        accuracy_by_fold=float(np.mean([right[pooled.fold == fold].mean() for fold in np.unique(pooled.fold)])),
        length_rule=pooled.interval(rule),
        above_rule=pooled.interval(right - rule),
        matched_pairs=int(matched.sum()),
        matched=alike.interval(alike.right) if matched.any() else None,
        matched_rule=alike.interval(alike.longer_is_right) if matched.any() else None,
        length_correlation=pooled.length_correlation,
        without_length=None if without_length is None else pooled.interval(without_length),
        log_loss=float(np.mean([metrics.log_loss(margin / t, pooled.preference) for margin, t in seeds])),
        ece=float(np.mean(ece)),
        ece_by_seed=ece,
    )
