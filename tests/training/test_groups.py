"""Groups of compared responses: each teaches something, and together they cover many judgements."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import Judgement
from training.groups import compared_groups, covered


def judged(*pairs: tuple[int, int]) -> list[Judgement]:
    return [Judgement(i=i, j=j, i_wins=1, j_wins=0) for i, j in pairs]


index = st.integers(0, 14)
comparisons = st.lists(st.tuples(index, index).filter(lambda pair: pair[0] != pair[1]), min_size=1, max_size=40).map(
    lambda pairs: judged(*pairs)
)


@given(comparisons, st.integers(2, 6), st.sampled_from([None, 1, 3]), st.integers())
def test_every_group_has_a_judgement(judgements: list[Judgement], size: int, count: int | None, seed: int) -> None:
    groups = compared_groups(judgements, size, random.Random(seed), count)
    responses = {side for judgement in judgements for side in (judgement.i, judgement.j)}
    assert groups == compared_groups(judgements, size, random.Random(seed), count)
    for group in groups:
        assert 2 <= len(set(group)) == len(group) <= size
        assert covered(judgements, [group]) > 0
        assert responses.issuperset(group)
    if count is None:
        assert len(groups) <= -(-len(responses) // size)
    else:
        assert len(groups) == count
    if len(responses) <= size:
        assert covered(judgements, groups) == len(judgements)


def test_sparse_comparisons_are_all_covered() -> None:
    """Pairs that are compared with nothing else would mostly be torn apart by chance."""
    judgements = judged(*((2 * n, 2 * n + 1) for n in range(8)))
    for seed in range(20):
        groups = compared_groups(judgements, 4, random.Random(seed))
        assert len(groups) == 4
        assert covered(judgements, groups) == 8


@pytest.mark.parametrize(("responses", "least"), [(9, 35), (12, 34), (16, 56), (17, 64)])
def test_full_groups_cover_more_than_even_ones(responses: int, least: int) -> None:
    """All against all, at most eight together: groups of even size would cover 16, 30, 56 and 40 judgements."""
    judgements = judged(*combinations(range(responses), 2))
    for seed in range(10):
        groups = compared_groups(judgements, 8, random.Random(seed))
        assert len(groups) == -(-responses // 8)
        assert covered(judgements, groups) >= least


def test_one_against_all_is_covered_as_far_as_the_groups_reach() -> None:
    judgements = judged(*((0, other) for other in range(1, 16)))
    groups = compared_groups(judgements, 8, random.Random(0))
    assert covered(judgements, groups) == 14  # seven in each of two groups


def test_every_judgement_has_its_turn() -> None:
    judgements = judged(*combinations(range(11), 2))
    seen: set[tuple[int, int]] = set()
    for seed in range(30):
        for group in compared_groups(judgements, 4, random.Random(seed)):
            seen.update(combinations(group, 2))
    assert len(seen) == 55
