"""A model's accuracy beside the rule that the longer response wins, on the same pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.result import Row, Target
from training.encoding import Example
from training.evaluation import metrics
from training.evaluation.evaluate import Evaluation, judged_pairs
from training.evaluation.metrics import FloatArray, Interval


@dataclass(frozen=True)
class Differences:
    """Accuracy of the model minus that of the rule: on every decided pair, and on those of similar length (if any)."""

    every: Interval
    matched: Interval | None


def differences_to_length_rule(examples: Sequence[Example], scores: Sequence[FloatArray]) -> Differences:
    """Mean over pairs of (model is right) - (rule is right), with an interval bootstrapped over prompts.

    Model and rule answer the same pairs, so what makes a drawn prompt hard for both cancels out.
    """
    pairs = judged_pairs(examples, scores)
    decided = pairs.select(pairs.preference != 0.5)
    rule = metrics.correct(metrics.length_margin(decided.length_i, decided.length_j), decided.preference)
    gain = metrics.correct(decided.margin, decided.preference) - rule
    matched = metrics.length_matched(decided.length_i, decided.length_j)
    return Differences(
        metrics.clustered_interval(gain, decided.cluster),
        metrics.clustered_interval(gain[matched], decided.cluster[matched]) if matched.any() else None,
    )


def above_length_rule(name: str, accuracy: Interval, rule: Interval, difference: Interval) -> Target:
    """The claim that a model is better than the rule: its interval and that of the paired difference must say so."""
    return Target(
        name,
        f"accuracy's interval above the length rule, {percent(rule.value)}; that of the paired difference above 0",
        f"{with_interval(accuracy)}; {points(difference)}",
        accuracy.low > rule.value and difference.low > 0,
    )


def breakdown(name: str, evaluation: Evaluation, differences: Differences) -> list[Row]:
    """What there is to say of one part of the data: on all its pairs, and on those of similar length."""
    e = evaluation
    rows = [
        Row(
            f"{name}, {e.pairs - e.ties} pairs of {e.prompts} prompts",
            f"{with_interval(e.accuracy)}, length rule {percent(e.length_rule.value)}; {points(differences.every)}",
        )
    ]
    if e.length_matched and e.length_rule_matched and differences.matched:
        figure = f"{with_interval(e.length_matched)}, length rule {percent(e.length_rule_matched.value)}"
        rows.append(
            Row(f"{name}, {e.matched_pairs} pairs of similar length", f"{figure}; {points(differences.matched)}")
        )
    return rows


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f} %"


def with_interval(accuracy: Interval) -> str:
    """A share with its interval."""
    return f"{percent(accuracy.value)} ({percent(accuracy.low)} to {percent(accuracy.high)})"


def points(difference: Interval) -> str:
    """A difference of shares in percentage points, with its interval."""
    value, low, high = (100 * part for part in (difference.value, difference.low, difference.high))
    return f"paired difference {value:+.1f} points ({low:+.1f} to {high:+.1f})"
