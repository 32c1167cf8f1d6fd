"""One annotator against the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.agreement import annotator_accuracy, model_as_annotator

counts = st.integers(0, 6)


def by_hand(i_wins: int, j_wins: int, ties: int) -> float:
    """Take each vote out and ask what the majority of the others says."""
    votes = ["i"] * i_wins + ["j"] * j_wins + ["tie"] * ties
    credit = 0.0
    for place, vote in enumerate(votes):
        rest = votes[:place] + votes[place + 1 :]
        lead = rest.count("i") - rest.count("j")
        if vote == "tie" or lead == 0:
            credit += 0.5
        else:
            credit += float((vote == "i") == (lead > 0))
    return credit / len(votes)


@given(counts, counts, counts)
def test_it_is_leave_one_out(i_wins: int, j_wins: int, ties: int) -> None:
    (found,) = annotator_accuracy(*(np.array([float(count)]) for count in (i_wins, j_wins, ties)))
    if i_wins + j_wins + ties < 3:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(by_hand(i_wins, j_wins, ties))


def test_those_who_all_agree_foresee_each_other() -> None:
    votes = np.array([5.0, 3.0]), np.zeros(2), np.zeros(2)
    assert annotator_accuracy(*votes).tolist() == [1.0, 1.0]
    assert annotator_accuracy(np.array([2.0]), np.array([1.0]), np.zeros(1)).tolist() == pytest.approx([1 / 3])


@pytest.mark.parametrize(("skill", "votes"), [(0.75, 5), (0.75, 3), (0.9, 4)])
def test_an_extra_annotator_scores_like_an_annotator(skill: float, votes: int) -> None:
    generator = np.random.default_rng(0)
    right = generator.binomial(votes, skill, 40_000).astype(float)
    extra = np.where(generator.random(40_000) < skill, 1.0, -1.0)  # the truth is always i
    annotators = annotator_accuracy(right, votes - right, np.zeros(40_000)).mean()
    assert model_as_annotator(extra, right, votes - right, np.zeros(40_000)).mean() == pytest.approx(
        annotators, abs=0.01
    )


@given(counts, counts, counts, st.sampled_from([-1.0, 0.0, 2.5]))
def test_a_model_stands_in_for_each_annotator_in_turn(i_wins: int, j_wins: int, ties: int, margin: float) -> None:
    arrays = [np.array([float(count)]) for count in (i_wins, j_wins, ties)]
    (found,) = model_as_annotator(np.array([margin]), *arrays)
    if i_wins + j_wins + ties < 3:
        assert np.isnan(found)
        return
    credit = 0.0
    for vote in ["i"] * i_wins + ["j"] * j_wins + ["tie"] * ties:
        lead = i_wins - j_wins - (vote == "i") + (vote == "j")
        credit += 0.5 if margin == 0 or lead == 0 else float((margin > 0) == (lead > 0))
    assert found == pytest.approx(credit / (i_wins + j_wins + ties))
