"""What the lengths of two responses alone say of which is preferred."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from training.data.record import PreferenceRecord
from training.evaluation.metrics import log_loss

_STEEPEST = 20.0


def log_length(text: str) -> float:
    """Natural logarithm of the characters of a text, counting an empty one as one character."""
    return float(np.log(max(1, len(text))))


def length_difference(length_i: npt.NDArray[np.int64], length_j: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Difference of `log_length` from characters, (P,)."""
    difference: npt.NDArray[np.float64] = np.log(np.maximum(1, length_i)) - np.log(np.maximum(1, length_j))
    return difference


def fit_length_slope(records: Sequence[PreferenceRecord]) -> float:
    """The slope b of least log loss of P(i preferred) = sigma(b (log length_i - log length_j)), within [-20, 20].

    0 where all pairs are of equal length.
    """
    rows = (
        (log_length(record.responses[judgement.i]) - log_length(record.responses[judgement.j]), judgement.soft_label)
        for record in records
        for judgement in record.judgements
    )
    difference, preference = np.fromiter(rows, np.dtype((np.float64, 2))).T
    if not difference.any():
        return 0.0  # nothing is explained by lengths that are alike
    loss: Callable[[float], float] = lambda slope: log_loss(slope * difference, preference)  # noqa: E731
    return float(minimize_scalar(loss, bounds=(-_STEEPEST, _STEEPEST), method="bounded").x)
