"""How well one annotator foresees the others: what a model's accuracy can be held against where votes were kept."""

import numpy as np

from training.evaluation.metrics import FloatArray

LEAST_VOTES = 3


def annotator_accuracy(i_wins: FloatArray, j_wins: FloatArray, ties: FloatArray) -> FloatArray:
    """For each pair (P,) the share of its annotators who agree with the majority of the other annotators.

    Counts as a model's accuracy does: where the others are split, or an annotator calls a tie, half. NaN for pairs of
    fewer than `LEAST_VOTES` votes, of which nothing is left to agree with.
    """
    votes = i_wins + j_wins + ties

    def against(lead: FloatArray) -> FloatArray:
        """Credit of one whose side leads by so much without their own vote."""
        return (np.sign(lead) + 1) / 2

    agreed = i_wins * against(i_wins - 1 - j_wins) + j_wins * against(j_wins - 1 - i_wins) + ties / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(votes >= LEAST_VOTES, agreed / votes, np.nan)
