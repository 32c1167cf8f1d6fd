"""Metrics of pairwise preference: pure functions of arrays over P judged pairs.

Shapes are (P,) unless said otherwise. `margin` is score_i - score_j, `preference` the share of votes for i
(a tie counting half), `cluster` the prompt that a pair belongs to.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, xlogy
from scipy.stats import spearmanr

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


FEW_CLUSTERS = 20
"""Below about so many, a percentile interval over clusters is too narrow."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval, and how many clusters that was drawn over, where it was."""

    value: float
    low: float
    high: float
    clusters: int | None = None

    @property
    def too_narrow(self) -> bool:
        """Whether it looks surer than it is."""
        return self.clusters is not None and self.clusters < FEW_CLUSTERS


def correct(margin: FloatArray, preference: FloatArray) -> FloatArray:
    """1 where the sign of the margin agrees with the majority, 0 where not, 1/2 where the scores are equal.

    Undefined on ties of the votes (preference 1/2): leave those out first.
    """
    agreement = np.sign(margin) * np.sign(preference - 0.5)
    return (agreement + 1) / 2


def accuracy(margin: FloatArray, preference: FloatArray) -> float:
    """Share of pairs with a majority that the scores order as it does; equal scores count half. NaN without any."""
    decided = preference != 0.5
    return float(correct(margin[decided], preference[decided]).mean()) if decided.any() else float("nan")


def clustered_interval(
    values: FloatArray, cluster: IntArray, *, seed: int = 0, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Mean of `values` with a percentile bootstrap over clusters.

    The pairs cluster bootstrap of Cameron, Gelbach & Miller (2008): pairs of one prompt share its responses and
    are not independent, so whole prompts are drawn. See `FEW_CLUSTERS`.

    Raises:
        ValueError: no value.
    """
    if len(values) == 0:
        raise ValueError("no pair to take a mean over")
    _, place = np.unique(cluster, return_inverse=True)
    sums, counts = np.bincount(place, weights=values), np.bincount(place).astype(np.float64)
    generator = np.random.default_rng(seed)
    # Multinomial counts are the same draw as picking clusters one by one, without the (draws, clusters) index array.
    picks = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    means = (picks @ sums) / (picks @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(sums))


def resampled_interval(
    statistic: Callable[[IntArray], float | None],
    cluster: IntArray,
    bounds: tuple[float, float],
    *,
    seed: int = 0,
    draws: int = 400,
) -> Interval | None:
    """A figure that is no mean over pairs, with the spread that it has over draws of clusters.

    The spread is put around the figure: a calibration error, say, grows by being drawn again, and its draws alone would
    lie above it. So it says how much the figure would change with other prompts, and is no test against 0.

    Args:
        statistic: the figure of the rows with these numbers (one may come more than once), None where there is none.
        cluster: of each row.
        bounds: the least and the largest that the figure can be.
        seed, draws: of the bootstrap; draws without a figure are left out.

    Returns:
        The figure with its 95 % interval; None where there is no figure.
    """
    value = statistic(np.arange(len(cluster)))
    if value is None:
        return None
    order = np.argsort(cluster, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1)
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        picks = generator.integers(0, len(members), len(members))
        figure = statistic(np.concatenate([members[pick] for pick in picks]))
        if figure is not None:
            drawn.append(figure)
    if not drawn:
        return Interval(value, *bounds, len(members))
    low, high = np.clip(np.quantile(drawn, [0.025, 0.975]) - np.mean(drawn) + value, *bounds)
    return Interval(value, float(low), float(high), len(members))


def pair_losses(margin: FloatArray, preference: FloatArray) -> FloatArray:
    """Cross-entropy of each vote share under sigma(margin), in nats; `log_loss` is its mean."""
    losses: FloatArray = preference * np.logaddexp(0, -margin) + (1 - preference) * np.logaddexp(0, margin)
    return losses


def log_loss(margin: FloatArray, preference: FloatArray, temperature: float = 1.0) -> float:
    """Mean cross-entropy of the vote shares under sigma(margin / temperature), in nats."""
    return float(pair_losses(margin / temperature, preference).mean())


def entropy(preference: FloatArray) -> float:
    """Mean entropy of the vote shares, in nats: the log loss of one who foresees every share."""
    negative = float((xlogy(preference, preference) + xlogy(1 - preference, 1 - preference)).mean())
    return 0.0 - negative  # and not -0


def brier(margin: FloatArray, preference: FloatArray, temperature: float = 1.0) -> float:
    """Mean squared difference of predicted and observed share (Brier 1950)."""
    return float(np.square(expit(margin / temperature) - preference).mean())


@dataclass(frozen=True)
class Bin:
    """Pairs of similar confidence: their number, mean confidence, and share of votes for the side it is in."""

    pairs: int
    confidence: float
    observed: float


def reliability(margin: FloatArray, preference: FloatArray, temperature: float = 1.0, bins: int = 10) -> list[Bin]:
    """Confidence in the preferred side against the votes for it, over `bins` of equal width on [1/2, 1]; none is empty.

    The confidence in a pair is the larger of the two probabilities, so that it does not matter which response is
    called i.
    """
    probability = expit(margin / temperature)
    first = probability >= 0.5
    confidence = np.where(first, probability, 1 - probability)
    observed = np.where(first, preference, 1 - preference)
    # At equal scores neither side is preferred.
    observed = np.where(margin == 0, 0.5, observed)
    place = np.clip(((confidence - 0.5) * 2 * bins).astype(int), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = np.bincount(place, confidence, bins), np.bincount(place, observed, bins)
    return [
        Bin(int(pairs), float(sure / pairs), float(seen / pairs))
        for pairs, sure, seen in zip(count, *sums, strict=True)
        if pairs
    ]


def calibration_error(margin: FloatArray, preference: FloatArray, temperature: float = 1.0, bins: int = 10) -> float:
    """Expected calibration error of the preferred side (Naeini et al. 2015; Guo et al. 2017, eq. 3)."""
    parts = reliability(margin, preference, temperature, bins)
    return sum(part.pairs * abs(part.confidence - part.observed) for part in parts) / len(margin)


TEMPERATURES = (0.01, 100.0)
"""The least and the greatest that is fitted."""


def fit_temperature(margin: FloatArray, preference: FloatArray) -> float:
    """The temperature of least log loss, within `TEMPERATURES` (temperature scaling, Guo et al. 2017)."""
    loss: Callable[[float], float] = lambda exponent: log_loss(margin, preference, float(np.exp(exponent)))  # noqa: E731
    best = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(best.x))


def bound_reason(temperature: float) -> str | None:
    """What it means that a fitted temperature is at an end of `TEMPERATURES`; none of one between them."""
    least, greatest = TEMPERATURES
    if temperature <= 1.1 * least:
        return "all validation pairs are ordered rightly, so that they do not tell how sure scores are: hold out more"
    if temperature >= greatest / 1.01:
        return "the scores do not tell who wins on the validation pairs"
    return None


def length_margin(length_i: IntArray, length_j: IntArray) -> FloatArray:
    """The margins of the rule that the longer response wins."""
    return (length_i - length_j).astype(np.float64)


def length_matched(length_i: IntArray, length_j: IntArray, tolerance: float = 0.25) -> npt.NDArray[np.bool_]:
    """Pairs whose shorter response is at least 1 - tolerance of the longer in length."""
    longer = np.maximum(length_i, length_j)
    return np.minimum(length_i, length_j) >= (1 - tolerance) * longer


def spearman(a: FloatArray, b: FloatArray) -> float | None:
    """Rank correlation of two (R,) arrays; None where one of them is constant."""
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return None
    return float(spearmanr(a, b).statistic)
