"""Shares and their intervals in words."""

from training.evaluation.metrics import Interval


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f} %"


def with_interval(accuracy: Interval) -> str:
    """A share with its interval."""
    few = f", of {accuracy.clusters} clusters, too narrow" if accuracy.too_narrow else ""
    return f"{percent(accuracy.value)} ({percent(accuracy.low)} to {percent(accuracy.high)}{few})"


def points(difference: Interval) -> str:
    """A difference of shares in percentage points, with its interval."""
    value, low, high = (100 * part for part in (difference.value, difference.low, difference.high))
    return f"paired difference {value:+.1f} points ({low:+.1f} to {high:+.1f})"
