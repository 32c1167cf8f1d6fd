"""How well one annotator foresees the others: what a model can be held against where votes were kept."""

import numpy as np

from training.evaluation.metrics import FloatArray

LEAST_VOTES = 3


def annotator_accuracy(i_wins: FloatArray, j_wins: FloatArray, ties: FloatArray) -> FloatArray:
    """For each pair (P,) the share of its annotators who agree with the majority of the other annotators.

    Half where the others are split, or where an annotator calls a tie. NaN for pairs of fewer than `LEAST_VOTES` votes,
    of which nothing is left to agree with.
    """
    votes = i_wins + j_wins + ties
    lead = i_wins - j_wins
    agreed = i_wins * _credit(1, lead - 1) + j_wins * _credit(-1, lead + 1) + ties / 2
    return _share(agreed, votes)


def model_as_annotator(margin: FloatArray, i_wins: FloatArray, j_wins: FloatArray, ties: FloatArray) -> FloatArray:
    """The same for a model that stands in for each annotator in turn, (P,): comparable with `annotator_accuracy`.

    Against the majority of all votes a model would look better than an annotator who is as good: there is one vote more
    to make the majority, and pairs on which all of them are split are left out.

    Args:
        margin: the model's score_i - score_j.
        i_wins, j_wins, ties: votes.
    """
    votes = i_wins + j_wins + ties
    lead, side = i_wins - j_wins, np.sign(margin)
    agreed = i_wins * _credit(side, lead - 1) + j_wins * _credit(side, lead + 1) + ties * _credit(side, lead)
    return _share(agreed, votes)


def _credit(side: FloatArray | int, lead: FloatArray) -> FloatArray:
    """1 where the others lead to that side, 0 where to the other, 1/2 where they are split or there is no side."""
    credit: FloatArray = (np.sign(lead) * side + 1) / 2
    return credit


def _share(agreed: FloatArray, votes: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(votes >= LEAST_VOTES, agreed / votes, np.nan)
