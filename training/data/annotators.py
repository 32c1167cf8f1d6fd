"""Annotators' reliability from how each agrees with the others, and what the votes on a pair then say of it.

The model of Dawid & Skene (1979) with the symmetry that a comparison has: neither response is first. So an annotator
has two habits: where one response is better, how often they say so, or say the opposite, or call it a tie; and where
neither is, how often they call it a tie. Each habit is drawn towards that of all annotators, since most cast few votes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from training.data.record import Judgement, PreferenceRecord

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_CHOICES = {"i": 0, "j": 1, "tie": 2}
_SMALLEST = 1e-6
"""Least probability of a choice: nobody is infallible."""


@dataclass(frozen=True)
class Habits:
    """What A annotators do; all (A,), each in [0, 1].

    Attributes:
        right: share of votes for the better response, where one is better.
        wrong: share of votes for the worse one; the rest are ties.
        tie: share of ties, where neither is better.
    """

    right: FloatArray
    wrong: FloatArray
    tie: FloatArray


@dataclass(frozen=True)
class PairPosteriors:
    """What the votes on P pairs say of them once annotators are known.

    Attributes:
        probabilities: (P, 3) that i is better, that j is, that neither is.
        habits: of the annotators.
        rounds: how often both were worked out in turn.
    """

    probabilities: FloatArray
    habits: Habits
    rounds: int


def estimate(
    pair: IntArray, annotator: IntArray, choice: IntArray, *, prior_votes: float = 4.0, most_rounds: int = 100
) -> PairPosteriors:
    """Expectation maximisation from the shares of votes on.

    Args:
        pair, annotator: (V,) numbers from 0 of what each vote is on and whose it is.
        choice: (V,) 0 for i, 1 for j, 2 for a tie.
        prior_votes: how many votes of all annotators' habit each one begins with.
        most_rounds: after which it ends; before, once no probability moves by 1e-4.
    """
    votes = np.zeros((int(pair.max()) + 1, 3))
    np.add.at(votes, (pair, choice), 1.0)
    truths: FloatArray = votes / votes.sum(1, keepdims=True)
    moved, rounds = 1.0, 0
    while moved > 1e-4 and rounds < most_rounds:
        rounds += 1
        habits = _habits(truths[pair], annotator, choice, prior_votes)
        before, truths = truths, _truths(habits, truths.mean(0), pair, annotator, choice, len(votes))
        moved = float(np.abs(truths - before).max())
    return PairPosteriors(truths, habits, rounds)


def _habits(truth: FloatArray, annotator: IntArray, choice: IntArray, prior_votes: float) -> Habits:
    """Habits from the probable truth (V, 3) of the pair of each vote."""
    decided, undecided = truth[:, 0] + truth[:, 1], truth[:, 2]
    tied = choice == 2
    agrees = np.where(tied, 0.0, np.take_along_axis(truth, np.minimum(choice, 1)[:, None], 1)[:, 0])

    def share(part: FloatArray, whole: FloatArray) -> FloatArray:
        pooled = part.sum() / max(whole.sum(), _SMALLEST)
        shares: FloatArray = np.bincount(annotator, part) + prior_votes * pooled
        return np.clip(shares / (np.bincount(annotator, whole) + prior_votes), _SMALLEST, 1 - _SMALLEST)

    return Habits(
        right=share(agrees, decided),
        wrong=share(np.where(tied, 0.0, decided - agrees), decided),
        tie=share(np.where(tied, undecided, 0.0), undecided),
    )


def _truths(
    habits: Habits, shares: FloatArray, pair: IntArray, annotator: IntArray, choice: IntArray, pairs: int
) -> FloatArray:
    """(P, 3) probabilities of the truth from what each vote says of it, and how often each truth is found."""
    decided = (shares[0] + shares[1]) / 2  # i and j by symmetry
    log_truth = np.tile(np.log(np.maximum([decided, decided, shares[2]], _SMALLEST)), (pairs, 1))
    called_tie = np.log(np.maximum(1 - habits.right - habits.wrong, _SMALLEST))
    right, wrong = np.log(habits.right), np.log(habits.wrong)
    # What an annotator's choice (row) says of each truth (column): (A, 3, 3).
    says = np.stack([
        np.stack([right, wrong, np.log((1 - habits.tie) / 2)], 1),
        np.stack([wrong, right, np.log((1 - habits.tie) / 2)], 1),
        np.stack([called_tie, called_tie, np.log(habits.tie)], 1),
    ], 1)  # fmt: skip
    np.add.at(log_truth, pair, says[annotator, choice])
    probabilities: FloatArray = softmax(log_truth, axis=1)
    return probabilities


def with_posteriors(records: Sequence[PreferenceRecord]) -> tuple[list[PreferenceRecord], dict[str, Any]]:
    """The records with the votes on each pair spread as its probable truth, and an account of the annotators.

    The number of votes on a pair stays. Judgements that do not say who voted are left as they are, and counted. An
    annotator is known by source and name: two sources may number theirs alike.

    Raises:
        ValueError: no judgement says who voted.
    """
    named = [
        (record.source, judgement) for record in records for judgement in record.judgements if judgement.annotations
    ]
    if not named:
        raise ValueError("data.annotators is dawid-skene, but no training judgement says who cast its votes")
    numbers: dict[tuple[str, str], int] = {}
    cast = np.array([
        (place, numbers.setdefault((vote.source or source, vote.annotator), len(numbers)), _CHOICES[vote.choice])
        for place, (source, judgement) in enumerate(named)
        for vote in judgement.annotations or ()
    ], dtype=np.int64)  # fmt: skip
    truths = estimate(*cast.T)
    probable = iter(truths.probabilities.tolist())
    believed = [
        record.model_copy(
            update={
                "judgements": [
                    _with_truth(judgement, next(probable)) if judgement.annotations else judgement
                    for judgement in record.judgements
                ]
            }
        )
        for record in records
    ]
    unnamed = sum(len(record.judgements) for record in records) - len(named)
    return believed, _account(truths, np.bincount(cast[:, 1]), len(named), unnamed)


def _with_truth(judgement: Judgement, probable: Sequence[float]) -> Judgement:
    i_wins, j_wins, ties = (judgement.votes * share for share in probable)
    return judgement.model_copy(update={"i_wins": i_wins, "j_wins": j_wins, "ties": ties, "annotations": None})


def _account(truths: PairPosteriors, votes: IntArray, judgements: int, unnamed: int) -> dict[str, Any]:
    habits = truths.habits
    return {
        "annotators": len(votes),
        "judgements": judgements,
        "judgements_without_names": unnamed,
        "votes": int(votes.sum()),
        "rounds": truths.rounds,
        "opposed_more_often_than_right": int((habits.wrong > habits.right).sum()),
        **{
            name: dict(zip(("low", "median", "high"), np.quantile(shares, (0.1, 0.5, 0.9)).tolist(), strict=True))
            for name, shares in vars(habits).items()
        },
    }
