"""Reliability is found from votes alone: annotators are told apart, and truth is found better than by counting."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.annotators import estimate, with_posteriors
from training.data.merge import add_up_votes
from training.data.record import Annotation, Judgement, PreferenceRecord

PAIRS, VOTES = 600, 5
RIGHT = np.array([0.95] * 10 + [0.55] * 10 + [0.15] * 4)
"""Of 24 annotators: careful ones, ones that guess, and some who confuse the sides."""


def votes(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth (P,) and votes (V,) of annotators who never call a tie."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, PAIRS)
    pair = np.repeat(np.arange(PAIRS), VOTES)
    annotator = np.concatenate([generator.permutation(len(RIGHT))[:VOTES] for _ in range(PAIRS)])
    right = generator.random(len(pair)) < RIGHT[annotator]
    return truth, pair, annotator, np.where(right, truth[pair], 1 - truth[pair])


@pytest.mark.parametrize("seed", range(3))
def test_known_annotators_are_found_out(seed: int) -> None:
    truth, pair, annotator, choice = votes(seed)
    found = estimate(pair, annotator, choice)
    assert np.abs(found.habits.right - RIGHT).max() < 0.17
    counted = np.bincount(pair, choice) > VOTES / 2
    believed = found.probabilities[:, 1] > 0.5
    assert (believed == truth).mean() > (counted == truth).mean() + 0.1
    assert (believed == truth).mean() > 0.9


def test_ties_are_a_truth_of_their_own() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, PAIRS)
    pair = np.repeat(np.arange(PAIRS), VOTES)
    annotator = generator.integers(0, 12, len(pair))
    choice = np.where(generator.random(len(pair)) < 0.8, truth[pair], generator.integers(0, 3, len(pair)))
    found = estimate(pair, annotator, choice)
    assert (found.probabilities.argmax(1) == truth).mean() > 0.93
    assert found.habits.tie == pytest.approx(np.full(12, 0.87), abs=0.08)


def test_one_who_voted_once_is_taken_for_an_average_annotator() -> None:
    truth, pair, annotator, choice = votes(0)
    found = estimate(np.append(pair, 0), np.append(annotator, len(RIGHT)), np.append(choice, truth[0]))
    assert abs(found.habits.right[-1] - RIGHT.mean()) < 0.15


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=40).map(
        lambda rows: [(pair, annotator, choice) for pair, annotator, choice in rows]
    )
)
def test_turning_every_pair_round_turns_every_truth_round(rows: Sequence[tuple[int, int, int]]) -> None:
    used = sorted({pair for pair, _, _ in rows})
    pair, annotator, choice = np.array([(used.index(p), a, c) for p, a, c in rows], dtype=np.int64).T
    one = estimate(pair, annotator, choice)
    other = estimate(pair, annotator, np.array([1, 0, 2])[choice])
    assert one.probabilities.sum(1) == pytest.approx(np.ones(len(used)))
    assert one.probabilities[:, [1, 0, 2]] == pytest.approx(other.probabilities, abs=1e-6)


def record(name: str, *choices: tuple[str, str]) -> PreferenceRecord:
    cast = [Annotation.model_validate({"annotator": who, "choice": choice}) for who, choice in choices]
    count = [sum(vote.choice == choice for vote in cast) for choice in ("i", "j", "tie")]
    judgement = Judgement(i=0, j=1, i_wins=count[0], j_wins=count[1], ties=count[2], annotations=cast or None)
    return PreferenceRecord(id=name, prompt=name, responses=["a", "b"], judgements=[judgement], source="s")


def test_records_keep_their_number_of_votes_and_lose_the_names() -> None:
    agreed = [record(f"r{number}", ("one", "i"), ("two", "i"), ("bad", "j")) for number in range(20)]
    split = record("split", ("one", "j"), ("bad", "i"))
    believed, account = with_posteriors([*agreed, split])
    (judgement,) = believed[-1].judgements
    assert judgement.votes == pytest.approx(2)
    assert judgement.soft_label < 0.2
    assert judgement.annotations is None
    assert (account["annotators"], account["judgements"], account["votes"]) == (3, 21, 62)
    assert account["opposed_more_often_than_right"] == 1
    Judgement.model_validate(judgement.model_dump())


def test_judgements_without_names_are_left_alone() -> None:
    unnamed = PreferenceRecord(
        id="u", prompt="u", responses=["a", "b"], judgements=[Judgement(i=0, j=1, i_wins=2, j_wins=1)], source="s"
    )
    with pytest.raises(ValueError, match="dawid-skene, but no training judgement says who cast its votes"):
        with_posteriors([unnamed])
    believed, account = with_posteriors([record("r", ("one", "i")), unnamed])
    assert believed[1] == unnamed
    assert account["judgements_without_names"] == 1


def test_annotators_of_two_sources_are_not_one_because_they_share_a_number() -> None:
    careful = [record(f"b{number}", ("1", "i"), ("2", "i"), ("3", "i")) for number in range(20)]
    torn = record("torn", ("1", "i"), ("9", "j"))
    spam = [
        record(f"a{number}", ("1", "j"), ("2", "i"), ("3", "i")).model_copy(update={"source": "other"})
        for number in range(200)
    ]
    alone, _ = with_posteriors([*careful, torn])
    together, account = with_posteriors([*careful, torn, *spam])
    assert account["annotators"] == 4 + 3
    assert alone[20].judgements[0].soft_label > 0.5
    assert together[20].judgements[0].soft_label > 0.5


def test_annotators_of_two_sources_are_told_apart_where_their_votes_on_a_pair_add_up() -> None:
    """The second source's "1" always opposes; the first one's agrees."""

    def of(source: str, first: str) -> list[PreferenceRecord]:
        return [
            record(f"p{number}", ("1", first), ("2", "i"), ("3", "i")).model_copy(
                update={"source": source, "id": f"{source}{number}"}
            )
            for number in range(30)
        ]

    apart = [*of("one", "i"), *of("other", "j")]
    merged = add_up_votes(apart)
    assert len(merged) == 30
    assert merged[0].judgements[0].votes == 6
    _, account = with_posteriors(merged)
    assert (account["annotators"], account["opposed_more_often_than_right"]) == (6, 1)
    assert with_posteriors(apart)[1]["annotators"] == 6
