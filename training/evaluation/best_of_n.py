"""What is gained by letting the model choose among n responses, by people's own votes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from training.encoding import Example
from training.evaluation.evaluate import prompt_numbers
from training.evaluation.metrics import FloatArray, IntArray, Interval, clustered_interval

LEAST_RESPONSES = 3


@dataclass(frozen=True)
class Choice:
    """Mean share of votes that the chosen response wins against all others, n responses being drawn at random.

    Attributes:
        n: how many are drawn.
        kl: from the policy to its best of n, log n - (n - 1) / n nats (Stiennon et al. 2020), if responses are drawn
            from a policy one by one; those of a prompt here are few and drawn without replacement.
        model: when the model chooses, with an interval over prompts.
        length, best: when the longest wins, or the votes themselves choose.
    """

    n: int
    kl: float
    model: Interval
    length: float
    best: float


@dataclass(frozen=True)
class BestOfN:
    """The curve, over as many prompts."""

    prompts: int
    choices: list[Choice]


def best_of_n(examples: Sequence[Example], scores: Sequence[FloatArray]) -> BestOfN | None:
    """The curve for prompts of at least `LEAST_RESPONSES` responses that were all compared; None without any.

    It ends where half of those prompts have no more responses, and is over the prompts that have as many.
    """
    found = [
        (_row(example, values), number)
        for example, values, number in zip(examples, scores, prompt_numbers(examples), strict=True)
    ]
    judged = [(row, number) for row, number in found if row is not None]
    if not judged:
        return None
    counts = sorted((len(gold) for (gold, _, _), _ in judged), reverse=True)
    most = counts[len(counts) // 2]
    rows = [row for row, _ in judged if len(row[0]) >= most]
    cluster = np.array([number for row, number in judged if len(row[0]) >= most])
    choices = []
    for n in sorted({1, *(2**power for power in range(1, 12) if 2**power <= 0.75 * most), most}):
        chosen = np.array([[expected(gold, by, n) for by in (score, length, gold)] for gold, score, length in rows])
        model = clustered_interval(chosen[:, 0], cluster)
        choices.append(Choice(n, float(np.log(n) - (n - 1) / n), model, *chosen[:, 1:].mean(0).tolist()))
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
    """Gold, score and length of the judged responses of a prompt, if there are enough and each was compared with each.

    Where only some were compared, the share that a response wins would depend on whom it met.
    """
    votes: dict[tuple[int, int], list[tuple[float, float]]] = {}  # a pair may be judged by several margins or weights
    for judgement in example.record.judgements:
        if judgement.aspect is None:
            i, j = judgement.i_wins + judgement.ties / 2, judgement.j_wins + judgement.ties / 2
            votes.setdefault((judgement.i, judgement.j), []).append((i, j))
            votes.setdefault((judgement.j, judgement.i), []).append((j, i))
    won: dict[int, dict[int, float]] = {}
    for (one, other), cast in votes.items():
        won.setdefault(one, {})[other] = sum(mine for mine, _ in cast) / sum(map(sum, cast))
    if len(won) < LEAST_RESPONSES or any(len(others) < len(won) - 1 for others in won.values()):
        return None
    judged = sorted(won)
    gold = np.array([np.mean(list(won[response].values())) for response in judged])
    length = np.array([len(example.record.responses[response]) for response in judged], dtype=np.float64)
    return gold, scores[judged], length
