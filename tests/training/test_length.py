"""The slope of length alone."""

import numpy as np
import pytest

from training.data import Judgement, PreferenceRecord
from training.length import fit_length_slope, length_difference, log_length


def records(slope: float, count: int = 4000) -> list[PreferenceRecord]:
    """Preferences drawn by length alone."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(count):
        lengths = generator.integers(1, 200, 2)
        won = generator.random() < 1 / (1 + (lengths[1] / lengths[0]) ** slope)
        made.append(
            PreferenceRecord(
                id=str(number), prompt="p", responses=["x" * int(length) for length in lengths], source="s",
                judgements=[Judgement(i=0, j=1, i_wins=float(won), j_wins=float(not won))],
            )
        )  # fmt: skip
    return made


@pytest.mark.parametrize("slope", [-1.0, 0.0, 2.0])
def test_the_slope_that_made_the_preferences_is_found(slope: float) -> None:
    assert fit_length_slope(records(slope)) == pytest.approx(slope, abs=0.15)


def test_preferences_that_length_tells_wholly_have_a_bounded_slope() -> None:
    always = Judgement(i=0, j=1, i_wins=1, j_wins=0)
    record = PreferenceRecord(id="r", prompt="p", responses=["xx", ""], judgements=[always], source="s")
    assert 10 < fit_length_slope([record]) <= 20


def test_lengths_that_are_alike_explain_nothing() -> None:
    one = Judgement(i=0, j=1, i_wins=1, j_wins=0)
    assert (
        fit_length_slope([PreferenceRecord(id="r", prompt="p", responses=["ab", "cd"], judgements=[one], source="s")])
        == 0
    )


def test_an_empty_text_has_a_length() -> None:
    assert log_length("") == log_length("x") == 0
    assert length_difference(np.array([0, 8]), np.array([1, 4])).tolist() == pytest.approx([0, np.log(2)])
