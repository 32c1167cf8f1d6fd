"""What is gained by letting the model choose among n responses, by people's own votes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from training.evaluation.metrics import FloatArray, IntArray
from training.examples import Example

LEAST_RESPONSES = 3


@dataclass(frozen=True)
class Choice:
    """Mean share of votes that the chosen response wins in its comparisons, n responses being drawn at random.

    Attributes:
        n: how many are drawn.
        kl: of the chosen from a random response, log n - (n - 1) / n nats (Stiennon et al. 2020).
        model, length, best: when the model chooses, the longest wins, or the votes themselves choose.
    """

    n: int
    kl: float
    model: float
    length: float
    best: float


@dataclass(frozen=True)
class BestOfN:
    """The curve, over as many prompts."""

    prompts: int
    choices: list[Choice]


def best_of_n(examples: Sequence[Example], scores: Sequence[FloatArray]) -> BestOfN | None:
    """The curve for prompts of at least `LEAST_RESPONSES` judged responses; None without any.

    It ends where half of those prompts have no more responses, and is over the prompts that have as many.
    """
    rows = [row for example, values in zip(examples, scores, strict=True) if (row := _row(example, values)) is not None]
    if not rows:
        return None
    counts = sorted((len(gold) for gold, _, _ in rows), reverse=True)
    most = counts[len(counts) // 2]
    rows = [row for row in rows if len(row[0]) >= most]
    choices = []
    for n in sorted({1, *(2**power for power in range(1, 12) if 2**power < most), most}):
        means = np.mean(
            [[expected(gold, by, n) for by in (score, length, gold)] for gold, score, length in rows], axis=0
        )
        choices.append(Choice(n, float(np.log(n) - (n - 1) / n), *means.tolist()))
    return BestOfN(len(rows), choices)


def expected(gold: FloatArray, score: FloatArray, n: int) -> float:
    """Mean gold of the one with the highest score of n out of R drawn without replacement; ties at random.

    The k-th lowest of R is the highest of n draws in C(k - 1, n - 1) of C(R, n) cases.
    """
    count = len(gold)
    rank = np.arange(1, count + 1)
    with np.errstate(invalid="ignore"):
        log_share = _log_choose(rank - 1, n - 1) - _log_choose(np.array([count]), n)
    share = np.where(rank >= n, np.exp(log_share), 0.0)
    _, place, ties = np.unique(score, return_inverse=True, return_counts=True)
    # Equal scores share the cases of all their ranks.
    by_value = np.add.reduceat(share, np.concatenate([[0], np.cumsum(ties)[:-1]])) / ties
    return float((by_value[place] * gold).sum())


def _log_choose(whole: IntArray, part: int) -> FloatArray:
    result: FloatArray = gammaln(whole + 1) - gammaln(part + 1) - gammaln(np.maximum(whole - part, 0) + 1)
    return result


def _row(example: Example, scores: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Gold, score and length of the judged responses of a prompt that has enough of them."""
    won: dict[int, list[float]] = {}
    for judgement in example.record.judgements:
        won.setdefault(judgement.i, []).append(judgement.soft_label)
        won.setdefault(judgement.j, []).append(1 - judgement.soft_label)
    if len(won) < LEAST_RESPONSES:
        return None
    judged = sorted(won)
    gold = np.array([np.mean(won[response]) for response in judged])
    length = np.array([len(example.record.responses[response]) for response in judged], dtype=np.float64)
    return gold, scores[judged], length
