"""How much of the scores is length: what is left of the margins once a local regression on length is taken off."""

import numpy as np
from statsmodels.nonparametric.smoothers_lowess import lowess

from training.evaluation.metrics import FloatArray, IntArray
from training.length import length_difference

LEAST_PAIRS = 30
_SHARE = 2 / 3


def length_trend(margin: FloatArray, length_i: IntArray, length_j: IntArray) -> FloatArray | None:
    """The part of each margin (P,) that the difference of log lengths explains, or None where there is no telling.

    Locally weighted regression (Cleveland 1979), as Huang et al. (2024, arXiv 2409.17407) calibrate rewards after the
    fact. Here of margins and not of scores, so that what prompts differ in cancels out; with every pair also the
    other way round, so that the order of a pair does not matter.
    """
    difference = length_difference(length_i, length_j)
    if len(margin) < LEAST_PAIRS or np.ptp(np.abs(difference)) == 0:
        return None
    both, margins = np.concatenate([difference, -difference]), np.concatenate([margin, -margin])
    # Without re-weighting of outliers, so that an odd function comes out; neighbours closer than `delta` share a fit.
    trend = lowess(margins, both, frac=_SHARE, it=0, delta=0.01 * float(np.ptp(both)), return_sorted=False)
    half: FloatArray = (trend[: len(margin)] - trend[len(margin) :]) / 2
    return half
