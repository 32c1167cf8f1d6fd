"""Shuffled sides change places and nothing else."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from training.data.record import Judgement, PreferenceRecord
from training.data.sides import shuffle_sides


def labels(record: PreferenceRecord) -> Counter[tuple[str, str, float, float]]:
    """The texts of each judgement with their votes and margin, from both sides."""
    sides = [side for judgement in record.judgements for side in (judgement, judgement.flipped())]
    return Counter(
        (record.responses[side.i], record.responses[side.j], side.soft_label, side.margin or 0.0) for side in sides
    )


@given(st.from_type(PreferenceRecord))
def test_votes_and_qualities_follow_their_texts(record: PreferenceRecord) -> None:
    shuffled = shuffle_sides(record)
    assert labels(shuffled) == labels(record)
    assert all(judgement.i < judgement.j for judgement in shuffled.judgements)
    assert shuffled == shuffle_sides(record)
    named = zip(shuffled.responses, shuffled.qualities or [""] * 9, strict=False)
    assert sorted(named) == sorted(zip(record.responses, record.qualities or [""] * 9, strict=False))


def test_the_first_place_wins_half_the_time() -> None:
    judgement = Judgement(i=0, j=1, i_wins=1, j_wins=0)
    rows = [
        PreferenceRecord(id=str(n), prompt="p", responses=["a", "b"], judgements=[judgement], source="s")
        for n in range(1000)
    ]
    first_wins = sum(shuffle_sides(row).judgements[0].i_wins for row in rows)
    assert 430 < first_wins < 570
