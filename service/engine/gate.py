"""Whether a precision may serve: it must order held-out pairs as the trained module does."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from service.bundle.layout import Family, IntArray, plan_layout
from service.bundle.reference import Reference
from service.engine.session import EngineError, Session

MOST_ACCURACY_CHANGE: Final = 0.003
LEAST_SPEARMAN: Final = 0.99
MOST_ERROR: Final = {"fp32": 1e-3}
"""Largest root mean square of the differences, in standard deviations of the module's scores. Rounding in float32 gives
1e-5, TF32 more than this."""
MOST_ERROR_BELOW: Final = 0.2
"""The same of every lower precision. Noise of that size turns pairs over; this finds what keeps their order and not the
scores: another scale, an offset, a squashing."""
BATCH_TOKENS: Final = 2048

_LEAST_SPREAD = 0.01
"""Standard deviation below which scores are as good as equal, and rounding would be large in parts of it."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gate:
    """How a session's scores compare with the trained module's in float32.

    Attributes:
        precision: of the session.
        pairs: how many were compared.
        flips: pairs ordered otherwise, of those whose margin is above the bottom decile of margins.
        small_flips: the others that are ordered otherwise: too close to mean anything.
        voted: pairs of which more people preferred one response.
        accuracy_change: accuracy on those against the votes, minus the module's.
        spearman: rank correlation of all scores.
        max_error: largest |score - module's score|.
        error: root mean square of the same, in standard deviations of the module's scores; 0 where all are right.
    """

    precision: str
    pairs: int
    flips: int
    small_flips: int
    voted: int
    accuracy_change: float
    spearman: float
    max_error: float
    error: float

    @property
    def failure(self) -> str | None:
        """Why the precision must not serve, or None."""
        if not np.isfinite(self.max_error):
            return "a score is not finite"
        if self.flips:
            return f"{self.flips} of {self.pairs} held-out pairs are ordered otherwise than by the trained module"
        # One pair of few is more than the tolerance, and says nothing.
        if round(abs(self.accuracy_change) * self.voted, 6) > max(1.0, MOST_ACCURACY_CHANGE * self.voted):
            return f"the accuracy on held-out pairs changes by {100 * self.accuracy_change:+.2f} points"
        if self.spearman < LEAST_SPEARMAN:
            return f"the rank correlation with fp32 is {self.spearman:.4f}"
        most = MOST_ERROR.get(self.precision, MOST_ERROR_BELOW)
        if self.error > most:
            return f"scores are off by {self.error:.2g} of their standard deviation, and {most:g} is the most"
        return None


def measure_gate(
    session: Session, reference: Reference, family: Family, block_queries: int, batch_tokens: int = BATCH_TOKENS
) -> Gate:
    """Score the reference pairs in batches of about `batch_tokens` and compare.

    Raises:
        EngineError: a batch failed, or a score of another head than the reward is not finite.
    """
    sequences = [np.array(ids, dtype=np.int64) for pair in reference.pairs for ids in (pair.first, pair.second)]
    scores: list[float] = []
    for batch in _batches(sequences, batch_tokens):
        rewards = session.run(plan_layout(batch, family, block_queries=block_queries))
        if not np.isfinite(rewards[:, 1:]).all():
            raise EngineError("a score beside the reward is not finite")
        scores += rewards[:, 0].tolist()
    return compare(
        session.precision,
        np.array(scores).reshape(-1, 2),
        np.array([pair.scores for pair in reference.pairs]),
        np.array([pair.preference for pair in reference.pairs]),
    )


def compare(precision: str, scores: FloatArray, module: FloatArray, preference: FloatArray) -> Gate:
    """The figures of the gate.

    Args:
        precision: of `scores`.
        scores, module: (P, 2) rewards of both responses.
        preference: (P,) share of the votes for the first.
    """
    margins, ours = module[:, 0] - module[:, 1], scores[:, 0] - scores[:, 1]
    flipped = np.sign(margins) != np.sign(ours)
    large = np.abs(margins) > np.quantile(np.abs(margins), 0.1)
    voted = preference != 0.5
    right = [np.sign(side[voted]) == np.sign(preference[voted] - 0.5) for side in (ours, margins)]
    change = float(right[0].mean() - right[1].mean()) if voted.any() else 0.0
    return Gate(
        precision=precision,
        pairs=len(margins),
        flips=int((flipped & large).sum()),
        small_flips=int((flipped & ~large).sum()),
        voted=int(voted.sum()),
        accuracy_change=change,
        spearman=_spearman(scores.ravel(), module.ravel()),
        max_error=float(np.abs(scores - module).max()),  # keeps NaN
        error=_relative_error(scores, module),
    )


def _relative_error(scores: FloatArray, module: FloatArray) -> float:
    """Root mean square of the differences over the standard deviation of the module's scores."""
    return float(np.sqrt(np.square(scores - module).mean()) / max(float(module.std()), _LEAST_SPREAD))


def _batches(sequences: list[IntArray], batch_tokens: int) -> list[list[IntArray]]:
    """Neighbours together."""
    batches: list[list[IntArray]] = [[]]
    tokens = 0
    for sequence in sequences:
        if batches[-1] and tokens + len(sequence) > batch_tokens:
            batches.append([])
            tokens = 0
        batches[-1].append(sequence)
        tokens += len(sequence)
    return batches


def _spearman(a: FloatArray, b: FloatArray) -> float:
    """Rank correlation; equal values share their mean rank. 1 where all values of both are equal."""
    ranks = []
    for values in (a, b):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    if all(rank.std() == 0 for rank in ranks):
        return 1.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1]) if all(rank.std() > 0 for rank in ranks) else 0.0
