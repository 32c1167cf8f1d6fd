"""Medians, spreads and ratios of interleaved rounds."""

import statistics
from collections.abc import Sequence

import numpy as np

Spread = dict[str, float]
"""median, least and most."""


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most of at least one value."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of ours to theirs, round by round: what both met in the same minute cancels out."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds at the median, 95 and 99 %, and the most; interpolated as numpy does."""
    at = np.percentile(np.asarray(seconds) * 1000, [50, 95, 99, 100])
    return dict(zip(("p50", "p95", "p99", "most"), map(float, at), strict=True))


def written(values: Spread, unit: str = "") -> str:
    """Such as `2.10x (1.95 to 2.30)`."""
    return f"{values['median']:.2f}{unit} ({values['least']:.2f} to {values['most']:.2f})"


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope of values over times."""
    return float(np.polyfit(np.asarray(times), np.asarray(values), 1)[0])
